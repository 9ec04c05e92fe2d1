# %% [markdown]
# # PLD: distillation as a sequence of choices
#
# A classifier's logits can be read as the scores of a *choice model*: the best class is chosen first, then the best of
# the rest, and so on. PLD builds one target ranking per image, the true label first and then the other classes as the
# teacher orders them, and the student learns to make these choices. Every choice counts as much as the teacher
# believes in the class that is chosen there, so cross-entropy is the first choice and needs no weight of its own.
#
# At the end you can
#
# - compute the loss of one image by hand, choice by choice,
# - say what the temperature does to it, and what it does not,
# - find cross-entropy and ListMLE inside the same formula,
# - judge whether the paper's claims hold on real digits.
#
# About ten minutes of reading; the notebook computes for about half a minute on two CPU cores.

# %%
from kdcore import get_card

get_card("pld")

# %% tags=["parameters"]
quick: bool = True  # digits in seconds; False: at least 5 seeds, and CIFAR-100 (GPU hours, KDCORE_DATA)
seeds: int = 3  # students per method; each has its own split, teacher and initial weights
temperature: float = 1.0  # divides the teacher's logits, in the weights only
weights: str = "teacher"  # how much each choice counts: teacher, first, uniform or position
ce_weight: float = 0.0  # weight of an additional cross-entropy term

# %%
import inspect
import re

import torch
from IPython.display import Markdown, display

from kdcore.cka_maps import cka_map
from kdcore.experiment import check_claims, effects, tally
from kdcore.functional.correlation import pearson_correlation
from kdcore.functional.divergences import kd_loss
from kdcore.functional.landscape import orthonormal_directions
from kdcore.functional.ranking import choice_losses
from kdcore.methods import pld
from kdcore.studies import pld as study
from kdcore.tasks import load_task

# %%
from workbench import views
from workbench.panels import Explorer, dropdown, progress_line, slider
from workbench.runs import kept_verdicts, record

if not quick:
    load_task("cifar100")  # the full run needs it: better to hear now than in an hour
n_seeds = seeds if quick else max(seeds, 5)

# %% [markdown]
# ## The idea
#
# Everything below is shown on real handwritten digits. The teacher has learned from all 1,078 training images. Our
# student sees 200 of them; for now it has been trained with the labels alone.

# %%
task = load_task("digits", seed=0, train_size=200)
teacher = task.teacher()
plain = study.few_labels(arms=["ce"], seeds=1, keep_students=True).students["ce", 0]

(student_logits, labels), (teacher_logits, _) = task.predict(plain), task.predict(teacher)
rivals = teacher_logits.scatter(1, labels[:, None], -torch.inf)
margin = teacher_logits.gather(1, labels[:, None])[:, 0] - rivals.amax(1)

# %% [markdown]
# Three test images serve as examples: the one on which the teacher is surest, the one it only just gets right, and
# the one it gets most wrong.

# %%
sure, doubtful = margin.argmax().item(), margin.where(margin > 0, torch.inf).argmin().item()
images = {"sure": sure, "doubtful": doubtful, "wrong": margin.argmin().item()}
captions = [f"{name}: a {labels[i]},\nteacher says {teacher_logits[i].argmax()}" for name, i in images.items()]
views.image_grid_view(torch.stack([task.test[i][0] for i in images.values()]), captions, title="Three test images")

# %% [markdown]
# The teacher does not only name the right digit, it orders all the others as well: which digit the image would be if
# it were not this one. That order is what PLD hands over. Here it is for the doubtful image, beside the order of the
# student that has seen labels only:

# %%
views.ranking_view(student_logits[doubtful], teacher_logits[doubtful], task.class_names, label=int(labels[doubtful]))

# %% [markdown]
# ## The maths
#
# Let $s$ be the student's and $t$ the teacher's logits over $C$ classes, and $y$ the label. The **target ranking**
# $\pi$ puts the label first, $\pi_1 = y$; the other classes follow from the teacher's highest logit down.
#
# In the Plackett-Luce model a class has the *worth* $e^{s_c}$. Choice $k$ is made among the classes not yet chosen,
# $\pi_k, \dots, \pi_C$, each in proportion to its worth:
#
# $$P_k = \frac{e^{s_{\pi_k}}}{\sum_{l \ge k} e^{s_{\pi_l}}}$$
#
# The first choice is the softmax you know, so $-\log P_1$ is the cross-entropy. The last choice is made among one
# class and costs nothing. PLD adds the costs of all choices, each with a **weight**:
#
# $$L = \sum_{k=1}^{C} \alpha_k \, (-\log P_k)
#     = \sum_{k=1}^{C} \alpha_k \Big[ \log \sum_{l \ge k} e^{s_{\pi_l}} - s_{\pi_k} \Big], \qquad
#   \alpha_k = \mathrm{softmax}(t / \tau_T)_{\pi_k}$$
#
# The temperature $\tau_T$ softens the teacher *in the weights only*. It never touches the student and never changes
# the ranking. The weights sum to 1. Note $\alpha_1$: it is the teacher's probability *of the label*. Where the teacher
# is wrong, the label counts little.
#
# Each term is a log-sum-exp minus a coordinate: **convex** in $s$, and unchanged when a constant is added to all
# logits. Its gradient can be written down:
#
# $$\frac{\partial L}{\partial s_i} = \sum_{k \le pos(i)} \alpha_k \frac{e^{s_i}}{\sum_{l \ge k} e^{s_{\pi_l}}}
#     - \alpha_{pos(i)}$$
#
# with $pos(i)$ the place of class $i$ in $\pi$. There is no published repository; the paper prints its code in
# appendix C, and ours gives the same values.

# %% [markdown]
# ### The code
#
# This is the code that trains the students below, without the docstrings. The costs of all choices at once are one
# cumulative log-sum-exp, run from the last class to the first; the loss makes the ranking, gathers logits and weights
# in its order, and adds the weighted costs (`weighted_choice_loss` knows the gradient in closed form).

# %%
shown = (choice_losses, pld.teacher_optimal_permutation, pld.pld_loss)
code = "\n".join("".join(inspect.getsource(f).split('"""')[::2]) for f in shown)
Markdown(f"```python\n{code}\n```")

# %% [markdown]
# ### By hand
#
# Three classes, the label is class 0, the teacher prefers 2 to 1: the target ranking is 0, 2, 1.

# %%
s, t, y = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[3.0, 0.0, 1.0]]), torch.tensor([0])
a0, _, a2 = t[0].softmax(0)

first_choice = a0 * (torch.log(s.exp().sum()) - s[0, 0])
second_choice = a2 * (torch.log(s[0, 1].exp() + s[0, 2].exp()) - s[0, 2])
pld.teacher_optimal_permutation(t, y).tolist(), (first_choice + second_choice).item()

# %% tags=["check"]
assert pld.teacher_optimal_permutation(t, y).tolist() == [[0, 2, 1]]
torch.testing.assert_close(pld.pld_loss(s, t, y), first_choice + second_choice)
torch.testing.assert_close(pld.pld_loss(s, t, y, weights="first"), torch.nn.functional.cross_entropy(s, y))

# %% [markdown]
# ## Play
#
# ### One choice at a time
#
# Step through the choices. Above: what each remaining class is worth to student and teacher, as a share of all that
# remains; classes already chosen are greyed out. Below: what every choice adds to the loss, and its weight.


# %%
def worth(image, step, temperature):
    return views.worth_view(
        student_logits[image],
        teacher_logits[image],
        int(labels[image]),
        step=step,
        temperature=temperature,
        class_names=task.class_names,
    )


controls = {
    "image": dropdown(images, doubtful),
    "step": slider(1, 1, task.num_classes, label="choice k"),
    "temperature": pld.CARD.knobs[0],
}
Explorer("One choice at a time", controls, worth, static_at=[{}, {"step": 2, "temperature": 4.0}])

# %% [markdown]
# Look at the lower bars while you raise the temperature: weight moves from the label to the later choices, and with it
# the attention of the loss.
#
# The terms in the picture are the loss, no more and no less:

# %% tags=["check"]
for image in images.values():
    for tau in (1.0, 4.0):
        terms = worth(image, 1, tau).table["term"].sum()
        loss = pld.pld_loss(
            student_logits[[image]].double(), teacher_logits[[image]].double(), labels[[image]], temperature=tau
        )
        assert abs(terms - loss.item()) < 1e-9, (image, tau, terms, loss)

# %% [markdown]
# ### The weights
#
# Replace the weights and the formula turns into losses that are older than PLD:
#
# | `weights=` | $\alpha_k$ | known as |
# |---|---|---|
# | `"teacher"` | $\mathrm{softmax}(t/\tau_T)_{\pi_k}$ | PLD |
# | `"first"` | 1 for $k = 1$, else 0 | cross-entropy |
# | `"uniform"` | $1/C$ | ListMLE |
# | `"position"` | $2^{C-k} - 1$, normalised | p-ListMLE |


# %%
def alphas(image, temperature):
    return views.pld_weights_view(
        teacher_logits[image],
        int(labels[image]),
        temperatures=[temperature],
        class_names=task.class_names,
        title=f"Weight of each choice, τ = {temperature:.3g}",
    )


tau = slider(1.0, 0.1, 8.0, log=True, label="temperature (τ_T)", help="softens the teacher in the weights")
Explorer(
    "The weights",
    {"image": dropdown(images, doubtful), "temperature": tau},
    alphas,
    static_at=[{"temperature": 4.0}, {"image": images["wrong"]}],
)

# %% [markdown]
# Choose the wrongly classified image and lower the temperature: the weight of the label vanishes, and what counts is
# the *second* choice, the class the teacher prefers. Then raise it: the teacher's line comes closer to the uniform one.
#
# ### The landscape
#
# The paper's appendix J looks at losses from above. Take random teacher logits $t$ of length 1 over ten classes, two
# random perpendicular directions $d_1, d_2$, and draw each loss over the students $s = t + a\,d_1 + b\,d_2$. For PLD
# the label is the teacher's first class. DIST needs a batch; of a single row only its relation between classes exists.


# %%
def landscape(temperature, draw):
    generator = torch.Generator().manual_seed(draw)
    t = torch.nn.functional.normalize(torch.randn(10, generator=generator, dtype=torch.float64), dim=0)
    rows, label = (lambda s: t.expand_as(s)), t.argmax()
    losses = {
        "KD, T = 4": lambda s: kd_loss(s, rows(s), temperature=4.0, reduction="none"),
        "DIST": lambda s: 1 - pearson_correlation(s.softmax(1), rows(s).softmax(1)),
        f"PLD, τ = {temperature:.3g}": lambda s: pld.pld_loss(
            s, rows(s), label.expand(len(s)), temperature=temperature, reduction="none"
        ),
    }
    return views.loss_landscape_view(t, losses, orthonormal_directions(10, generator=generator))


tau = slider(1.0, 0.05, 8.0, log=True, label="temperature (τ_T) of PLD")
Explorer(
    "The landscape",
    {"temperature": tau, "draw": slider(0, 0, 9, label="random plane")},
    landscape,
    static_at=[{}, {"temperature": 0.1}],
)

# %% [markdown]
# Look at the shapes. KD and PLD are bowls; a correlation lies between -1 and 1, so DIST has to level out, and a surface
# that levels out is not convex. Then look at the star, where the student equals the teacher. KD and DIST are lowest
# there. PLD need not be: it asks for the teacher's *order*, and a student that makes the same choices more decidedly
# than the teacher pays less. The sentence under the picture says how often each surface bends down.
#
# ## Experiment
#
# Does it help? A perceptron with 16 hidden units learns from 200 labelled digits; the teacher, with twice 256, had seen
# all. Every seed has its own split, teacher and initial weights, and within a seed all methods see the same batches.
# The yardsticks: cross-entropy (CE), Hinton's KD with weights 0.1 and 0.9, DIST, and PLD with uniform weights. PLD runs
# at the temperature chosen above and at 4, the paper's value for CIFAR-100. The last arm is a control that must fail:
# at 4 with the teacher's order of the wrong classes *reversed*. Its accuracy and its agreement with the teacher, below,
# must fall behind; where one does not, the lines under the table say so.

# %%
arms = study.ranking_arms(study.pld_arm(temperature, weights=weights, ce_weight=ce_weight))
options = {"arms": arms, "seeds": n_seeds, "metrics": {"agreement": study.teacher_agreement}}
comparison = study.few_labels(**options, progress=progress_line("Training the students"))

# %%
accuracy = views.comparison_view(comparison, baseline="CE", title="Accuracy on test images")
accuracy

# %%
comparison

# %% [markdown]
# The second number of every student is its **agreement** with the teacher: Kendall's rank correlation between the two
# orders of the *wrong* classes, 1 for the same order, 0 for orders that are unrelated, averaged over the test images.
# The label is left out; putting it first is what cross-entropy does already.

# %%
agreement = views.comparison_view(
    comparison,
    metric="agreement",
    baseline="CE",
    percent=False,
    title="Agreement with the teacher on the wrong classes",
)
agreement

# %% [markdown]
# ## Verdict
#
# Three claims, each an inequality. A claim is settled where the whole interval of the differences, paired by seed, lies
# on one side of the limit, corrected for the number of claims; otherwise it is open, and more seeds are named that
# would tell. The first is the paper's promise, the second its ablation
# of the weights (its gap on ImageNet: 3.2 points), the third is ours: what PLD passes on must show in the student.

# %%
verdicts = check_claims(study.ranking_claims(comparison))
display(*verdicts)

# %% [markdown]
# Few seeds leave much open. The same study with ten, kept with the command that made it; it is refused as soon as the
# study changes, and runs that it took the place of are named:

# %%
kept_verdicts("pld")

# %%
best = max(comparison.arms, key=comparison.mean)
reached = study.pld_arm(4.0).label
lines = [
    f"- {tally(verdicts)}",
    f"- The highest mean is that of **{best}**, {100 * comparison.mean(best):.2f} %; {reached} has "
    f"{100 * comparison.mean(reached):.2f} %, DIST {100 * comparison.mean('DIST'):.2f} %.",
]
settled = effects(comparison, "CE") + effects(comparison, "CE", metric="agreement", words="agreement with the teacher")
lines += [f"- {sentence}" for sentence in settled]
lines += [f"- No difference to CE in accuracy is settled with {n_seeds} seeds."] * (not effects(comparison, "CE"))
lines += [
    f"- Contradicted here: *{v.claim.text}*. A small student on small data need not repeat what a large one shows."
    for v in verdicts
    if v.value == "contradicted"
]
Markdown("\n".join(lines))

# %% [markdown]
# ### Which temperature?
#
# In the paper PLD is ahead of DIST by 0.4 points on ImageNet, and $\tau_T = 1$ is the best of five temperatures there
# (0.5: 76.06, **1: 77.30**, 1.5: 77.17, 2: 76.46, 4: 75.22). Compare with the two PLD rows above. A teacher that is
# nearly always sure gives the label almost all the weight at $\tau_T = 1$, and PLD is then cross-entropy by another
# name. How sure is ours?

# %%
sureness = {
    tau: pld.pld_weights(teacher_logits, pld.teacher_optimal_permutation(teacher_logits, labels), temperature=tau)[:, 0]
    .mean()
    .item()
    for tau in (0.5, 1.0, 2.0, 4.0, 8.0)
}
Markdown(
    "Mean weight of the first choice, the label: "
    + "; ".join(f"τ = {tau:g}: **{share:.2f}**" for tau, share in sureness.items())
    + "."
)

# %% [markdown]
# ## Full tier: CIFAR-100
#
# With `quick = False` the paper's comparison is run: ResNet32x4 teaches ResNet8x4 with the paper's recipe for the
# student (AdamW, learning rate 0.001 with cosine decay, weight decay 0.5, 250 epochs in batches of 128, random crops
# and flips); the teacher has the recipe of megvii-research/mdistiller. The paper's numbers (top-1, %) to compare with:
#
# | CIFAR-100 | CE | KD | DIST | DKD | PLD |
# |---|---|---|---|---|---|
# | ResNet32x4 to ResNet8x4 | 71.56 | 72.11 | 73.21 | 73.08 | 73.97 ± 0.05 |
# | ResNet56 to ResNet20 | 67.57 | 69.45 | 69.66 | 67.80 | 70.28 ± 0.21 |
# | WRN-40-2 to WRN-40-1 | 70.26 | 72.44 | 72.74 | 73.22 | 73.50 ± 0.30 |
# | ResNet50 to MobileNetV2 | 64.42 | 66.61 | 66.98 | 69.51 | 68.16 ± 0.38 |
#
# Note the last row: DKD is ahead there.

# %%
if quick:
    display(Markdown("Skipped in the quick tier; nothing below depends on it."))
else:
    large = study.cifar100_x4(**options, **study.CIFAR_TRAINING, progress=progress_line("CIFAR-100"))
    verdicts += (found := check_claims(study.ranking_claims(large, on="CIFAR-100")))
    display(views.comparison_view(large, baseline="CE", title="CIFAR-100, ResNet8x4"), *found)

# %% [markdown]
# ## Diagnose: what changed inside
#
# First the rankings. A row of the heat map is a place in the teacher's ranking, a column the
# place that the student gives the same class; on the diagonal the two agree. Choose the students to compare.

# %%
seed = comparison.seeds[0]
arena, its_teacher = comparison.tasks[seed], comparison.teachers[seed]
students = {"untrained": arena.student("mlp-16", seed=seed).eval()}
students |= {arm: comparison.students[arm, seed] for arm in comparison.arms}
answers = {name: arena.predict(model)[0] for name, model in students.items()}
taught, truth = arena.predict(its_teacher)


# %%
def places(before, after):
    return views.rank_agreement_view(answers[after], taught, answers[before], labels=(before, after))


controls = {"before": dropdown(list(answers), "untrained"), "after": dropdown(list(answers), reached)}
Explorer("Places in the ranking", controls, places, static_at=[{}, {"before": "CE"}])

# %% [markdown]
# Look below the first row: how widely does each student scatter the classes that the teacher puts second, third, last?
# Cross-entropy has no opinion on them; every choice of PLD with a weight has one.
#
# The same by class: on images of the row's digit, at which place does the column's digit stand on average? The bright
# cells off the diagonal are the teacher's ideas of likeness. Are they the student's?

# %%
by_class = views.class_positions_view(
    {"teacher": taught, "CE": answers["CE"], reached: answers[reached]}, truth, class_names=arena.class_names
)
by_class

# %% [markdown]
# Last, the layers. CKA compares what two layers make of the same images, 1 meaning alike up to rotation and scale.
# Only the logits were taught; does the hidden layer follow? And does it follow further than labels alone would take it?

# %%
batches = list(arena.loader("test", batch_size=128, shuffle=True, seed=0))
maps = {name: cka_map(students[name], its_teacher, batches) for name in ("untrained", "CE", reached)}
before, after = maps["untrained"], maps[reached]
layers = views.cka_compare_view(
    before.matrix, after.matrix, after.layers_x, after.layers_y, labels=("untrained", reached)
)
display(
    layers,
    Markdown(
        "Mean over the cells: "
        + "; ".join(f"{name} **{result.matrix.mean():.2f}**" for name, result in maps.items())
        + "."
    ),
)

# %% [markdown]
# ## Record
#
# Tolerances: another processor rounds differently, and a few hundred steps later other test images flip; two points of
# accuracy and 0.03 of agreement, about one spread over seeds, are noise between machines. What is computed without
# training must agree closely.

# %%
names = {arm: re.sub(r"\W+", "_", arm.lower()) for arm in comparison.arms}
accuracies = {f"{name}_accuracy": comparison.mean(arm) for arm, name in names.items()}
agreements = {f"{name}_agreement": comparison.mean(arm, "agreement") for arm, name in names.items()}
tolerances = dict.fromkeys(accuracies, 0.02) | dict.fromkeys(agreements, 0.03) | {"hand_loss": 1e-6}
figures = {
    "worth": worth(doubtful, 1, 1.0),
    "weights": alphas(doubtful, 4.0),
    "landscape": landscape(1.0, 0),
    "accuracy": accuracy,
    "agreement": agreement,
    "places": places("CE", reached),
    "classes": by_class,
    "layers": layers,
}

# %%
record(
    **accuracies,
    **agreements,
    hand_loss=pld.pld_loss(s, t, y).item(),
    students_trained=len(comparison.records),
    first_steps=study.STUDY.first_steps(),
    tol=tolerances,
    verdicts=[*verdicts, *comparison.check_controls()],
    figures=figures,
)

# %% [markdown]
# ## Exercises
#
# 1. Run the notebook with `temperature = 2` and `8`. Where is the best value for this teacher, and how does it relate
#    to the mean weight of the label printed above?
# 2. Compare PLD with uniform weights in the two pictures of the experiment, accuracy and agreement. Which choices does
#    it pay for that PLD hardly looks at? Use the picture of one choice at a time.
# 3. Set `ce_weight = 1`. The paper says that no extra cross-entropy is needed: is it harmful, useless or useful here?
# 4. Draw rankings from the student with `pld.plackett_luce_sample` and compare the frequency of the first place with
#    the softmax.
# 5. Show that the gradient sums to 0 over the classes (`pld.pld_gradient`), from the formula and in code. Which
#    property of the loss is this?
#
# <details><summary>Solutions of 4 and 5</summary>
#
# 4. The first place is drawn from the softmax, so the frequencies tend to it.
# 5. Every choice's gradient is a softmax minus a one-hot vector over the classes that remain, both of sum 1: the
#    differences sum to 0. It is the same as saying that a constant added to all logits changes nothing.
# </details>
#
# This cell tells right from wrong. Put your own logits in:

# %% tags=["check"]
torch.manual_seed(0)
s, t, y = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64), torch.arange(5)
gradient = pld.pld_gradient(s, t, y)
torch.testing.assert_close(gradient.sum(1), torch.zeros(5, dtype=torch.float64))
torch.testing.assert_close(pld.pld_loss(s + 3, t, y), pld.pld_loss(s, t, y))

# %% [markdown]
# ## References
#
# - *PLD: A Choice-Theoretic List-Wise Knowledge Distillation*, NeurIPS 2025,
#   [arXiv:2506.12542](https://arxiv.org/abs/2506.12542); code: appendix C
# - R. L. Plackett, *The Analysis of Permutations*, Applied Statistics 24, 1975; R. D. Luce, *Individual Choice
#   Behavior*, 1959
# - F. Xia et al., *Listwise Approach to Learning to Rank* (ListMLE), ICML 2008; Y. Lan et al., *Position-Aware
#   ListMLE*, UAI 2014
# - T. Huang et al., *Knowledge Distillation from A Stronger Teacher* (DIST), NeurIPS 2022,
#   [arXiv:2205.10536](https://arxiv.org/abs/2205.10536)
