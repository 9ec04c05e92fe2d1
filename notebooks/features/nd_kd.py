# %% [markdown]
# # ND and KD++: turn the features, and make them long
#
# Feature distillation usually asks a student to repeat the teacher's features image by image. Wang et al. (2023) ask
# for less and for more: each embedding should *point* to the teacher's mean of its class, whatever this one image
# looked like to the teacher, and it should be *long*, because small networks tend to give short, timid embeddings. One
# extra term, ND, asks for both, and is added to any distillation loss: KD becomes KD++.
#
# At the end you can
#
# - say what the ND term asks of an embedding, inside and outside the teacher's length,
# - add it to a distillation of your own with one word,
# - see in a trained student which half of the term did what,
# - judge whether longer, better directed embeddings also mean more right answers here.
#
# About ten minutes of reading; the notebook computes for about half a minute on two CPU cores.

# %%
from kdcore import get_card

get_card("nd_kd")

# %% tags=["parameters"]
quick: bool = True  # digits in seconds; False: at least 5 seeds, and CIFAR-100 (GPU hours, KDCORE_DATA)
seeds: int = 3  # students per method; each has its own split, teacher and initial weights
nd_weight: float = 4.0  # weight of ND, and of its direction half; the authors use 0.5 to 4, depending on the pair
norm_weight: float = 0.5  # weight of the norm half alone, whose pull does not weaken as embeddings grow
kd_weight: float = 1.0  # weight of KD
ce_weight: float = 1.0  # weight of the labels
temperature: float = 4.0  # T of KD
warmup_epochs: int = 1  # epochs until KD has its full weight; the authors take 20 of 240, we 1 of 12

# %%
import inspect
import math
import re

import torch
from captum.attr import IntegratedGradients
from IPython.display import Markdown, display

from kdcore.cka_maps import cka_map
from kdcore.distiller import Epoch, distill
from kdcore.experiment import Claim, check_claims, effects, tally
from kdcore.functional.prototypes import class_means
from kdcore.methods import nd_kd
from kdcore.model_layers import collect_features
from kdcore.studies import nd_kd as study
from kdcore.taps import tap
from kdcore.tasks import load_task

# %%
from workbench import views
from workbench.panels import Explorer, dropdown, progress_line, slider
from workbench.runs import kept_verdicts, record
from workbench.views.nd_kd import (
    attribution_view,
    nd_landscape_view,
    norm_direction_curves_view,
    norm_direction_view,
)

if not quick:
    load_task("cifar100")  # the full run needs it: better to hear now than in an hour
n_seeds = seeds if quick else max(seeds, 5)

# %% [markdown]
# ## The idea
#
# The **embedding** of an image is what the classifier reads: the numbers before the last linear layer, here 64 of them.
# The task is real handwritten digits. The teacher, a convolutional network with 32-64-64 channels, has learned from
# 1,078 images; the student, with 4-8-64 channels, sees 400 of them.

# %%
task = study.norm_direction_task()
teacher = task.teacher(progress=progress_line("Teacher"))
labels, loader = task.labels("test"), task.loader("test", batch_size=512, shuffle=False)
known = collect_features(teacher, task.loader("train", batch_size=512, shuffle=False), "head:in")["head:in"]
means = class_means(known, task.labels("train"), task.num_classes)

# %% [markdown]
# Average the teacher's embeddings over the images of one class, and ten vectors remain. How much does a teacher lose if
# its classifier is thrown away and every test image is given to the class mean it points to most?

# %%
directions = means / means.norm(dim=1, keepdim=True)
seen = collect_features(teacher, loader, "head:in")["head:in"]
nearest = task.score(seen @ directions.T, labels)
Markdown(
    f"The teacher's own classifier gets **{100 * task.accuracy(teacher):.1f} %** of the {len(labels)} test images "
    f"right, the ten means alone **{100 * nearest:.1f} %**."
)

# %% [markdown]
# Where the two numbers are close, ten directions tell as much as a trained classifier: that is the paper's starting
# point. Now the student, trained with labels alone. The next picture shows each test image as a point. Straight up is
# the direction of the *teacher's* mean of the image's class; the further from the corner, the longer the embedding.

# %%
plain = study.norm_direction(arms=["ce"], seeds=1, progress=progress_line("Student")).students["ce", 0]
geometry = {"teacher": study.class_geometry(teacher, task), "labels only": study.class_geometry(plain, task)}
idea = norm_direction_view(geometry, title="Where the embeddings point, and how long they are")
idea

# %% [markdown]
# How far from the vertical are the student's points? Nothing told a student trained with labels which direction the
# teacher uses for a digit; ND tells it. Compare also the distance from the corner: are the student's embeddings
# shorter, as the paper says of small networks?
#
# ## The maths
#
# Student embedding $s_i$ and teacher embedding $t_i$ of image $i$, label $y_i$; $c_k$ is the teacher's mean embedding
# of class $k$ over the training images, computed once before the training, and $e_k = c_k / \lVert c_k \rVert$ its
# direction. Teacher and means are constants.
#
# $$L_{ND} = \frac1N \sum_i \left[\, 1 - \frac{\langle s_i, e_{y_i} \rangle}{m_i} \right], \qquad
# m_i = \max(\lVert s_i \rVert, \lVert t_i \rVert)$$
#
# Everything is in the maximum. There are two regimes:
#
# - **The student is shorter**, $\lVert s \rVert < \lVert t \rVert$. Then $m$ is a constant and the gradient is
#   $-e_y / (N \lVert t \rVert)$, the same everywhere: the embedding is pushed along the class direction. That turns it
#   *and* lengthens it.
# - **The student is longer.** Then the term is $1 - \cos(s, e_y)$. Length makes no difference any more, so the gradient
#   is perpendicular to $s$: the embedding is turned only.
#
# Of the teacher's embedding only the *length* is read. The direction comes from the class, not from the image.
#
# The whole objective, **KD++**, with temperature $T$ and $E_w$ epochs of warm-up:
#
# $$L = w_{ce}\, CE(z_s, y) + w_{kd} \, \min(1, \tfrac{epoch}{E_w}) \; T^2 \, KL\big(\mathrm{softmax}(z_t / T) \,\|\,
# \mathrm{softmax}(z_s / T)\big) + w_{nd} \, L_{ND}$$
#
# The term, the projection for different widths, the weights and the warm-up are those of the released code, whose
# values ours repeats to ten digits. Two **baselines** of the paper are named in its abstract and nowhere spelled out;
# our reconstruction is one half of ND each: *direction*, $1 - \cos(s, c_y)$, and *norm*, which pulls every embedding
# outwards with a constant force. This is the code that trains the students below, without the docstrings:

# %%
shown = (nd_kd.nd_loss, nd_kd.share_along, nd_kd.direction_loss, nd_kd.norm_loss)
code = "\n".join("".join(inspect.getsource(f).split('"""')[::2]) for f in shown)
Markdown(f"```python\n{code}\n```")

# %% [markdown]
# ## Two tensors
#
# The class points up, $e = (0, 1)$. The student's embedding is $s = (3, 4)$, of length 5, and the teacher's has length
# 10: the student is the shorter one. By hand: $1 - 4 / 10 = 0.6$, and the pull is $e / 10$. Beside a teacher of length
# 2 the student is the longer one: $1 - 4/5 = 0.2$, and the gradient must be perpendicular to $s$.

# %% tags=["check"]
s, up, y = torch.tensor([[3.0, 4.0]], requires_grad=True), torch.tensor([[0.0, 7.0]]), torch.tensor([0])
short = nd_kd.nd_loss(s, torch.tensor([[10.0, 0.0]]), y, class_means=up)
long = nd_kd.nd_loss(s, torch.tensor([[2.0, 0.0]]), y, class_means=up)
(pushed,), (turned,) = torch.autograd.grad(short, s), torch.autograd.grad(long, s)
assert math.isclose(short.item(), 0.6, rel_tol=1e-6) and math.isclose(long.item(), 0.2, rel_tol=1e-6)
assert torch.allclose(pushed, torch.tensor([[0.0, -0.1]])) and abs((turned @ s.T).item()) < 1e-6
pulls = [", ".join(f"{v:.3f}" for v in (0.0 - g[0]).tolist()) for g in (pushed, turned)]
print(f"shorter: {short.item():.1f}, pull ({pulls[0]}); longer: {long.item():.1f}, pull ({pulls[1]})")

# %% [markdown]
# ## Play: the term in the plane
#
# Embeddings of two numbers. The class direction points up. Move the student and the teacher; the arrow shows where a
# gradient step takes the student.


# %%
def plane(student_angle, student_length, teacher_angle, teacher_length):
    s, t = (
        [r * math.sin(math.radians(a)), r * math.cos(math.radians(a))]
        for a, r in ((student_angle, student_length), (teacher_angle, teacher_length))
    )
    return nd_landscape_view(s, t, [0.0, 1.0])


angle, help_ = "angle to the class direction", "in degrees, clockwise"
controls = {
    "student_angle": slider(-70, -180, 180, label=f"student: {angle}", help=help_),
    "student_length": slider(1.2, 0.0, 3.0, label="student: length"),
    "teacher_angle": slider(25, -180, 180, label=f"teacher: {angle}", help=help_),
    "teacher_length": slider(2.0, 0.2, 3.0, label="teacher: length"),
}
Explorer("Turn or lengthen", controls, plane, static_at=[{}, {"student_length": 2.6}])

# %% [markdown]
# Look at the lines of equal loss: parallel inside the dashed circle, rays outside. Drag the student's length across the
# circle and watch the arrow swing from *along the class* to *around the origin*. Then change the teacher's angle:
# nothing else moves. Only its length matters.

# %% tags=["check"]
numbers = plane(-70, 2.6, 25, 2.0).table.set_index("quantity")["value"]
assert abs(numbers["pull outwards"]) < 1e-9 < numbers["pull around"]
assert abs(plane(-70, 1.2, 25, 2.0).table["value"] - plane(-70, 1.2, -90, 2.0).table["value"]).max() < 1e-9

# %% [markdown]
# ## Experiment
#
# Six ways to train the student: labels alone (**CE**); **KD**; KD with the direction half (**KD + cos**), with the norm
# half (**KD + norm**), and with both (**KD++**); and ND without any logits of the teacher (**CE + ND**). A seventh is a
# control that must fail: KD++ where each class is asked to point to the mean of the next (**wrong means**); its
# accuracy and its cosine with the right means must fall behind, and where one does not, the lines under the table say
# so. KD has the weights of this paper's code, 1 for the labels and 1 for KD, with a warm-up; most other lessons take
# 0.1 and 0.9 (mdistiller) at the same $T = 4$, so that accuracies of KD are not to be compared between lessons. All
# arms of a seed start from the same weights and see the same batches. Beside the accuracy, two numbers are measured on
# the test images: the mean length of the embeddings, and their mean cosine with the teacher's mean of their class.
#
# In a training of your own, ND is one word more: `distill(teacher, student, ["dist", "nd"], train)`.

# %%
arms = study.norm_direction_arms(
    ce_weight=ce_weight,
    kd_weight=kd_weight,
    nd_weight=nd_weight,
    norm_weight=norm_weight,
    temperature=temperature,
    warmup_epochs=warmup_epochs,
)
comparison = study.norm_direction(arms=arms, seeds=n_seeds, progress=progress_line("Training the students"))
comparison

# %%
length = views.comparison_view(
    comparison, metric="norm", baseline="KD", percent=False, title="Mean length of the embeddings"
)
cosine = views.comparison_view(
    comparison, metric="cosine", baseline="KD", percent=False, title="Mean cosine with the class mean"
)
display(length, cosine)

# %%
accuracy = views.comparison_view(comparison, baseline="CE", title="Accuracy on test images, 400 labelled images")
accuracy

# %% [markdown]
# Those intervals ask: what if the students were trained again? There is a second question: what if the *test images*
# were others? A bootstrap answers it, by drawing the test images again, with replacement, 2,000 times; an image that
# several seeds were tested on is drawn with all its answers. Differences to CE are paired image by image, in points.

# %%
images = 100 * study.accuracy_over_images(comparison, "CE")
images.rename_axis(None).style.format("{:.2f}", na_rep="")

# %% [markdown]
# ### On the way
#
# The same trainings of seed 0 once more, watched: after every epoch the test embeddings are measured. The dotted line
# is the teacher.


# %%
def follow(arm):
    student, track = task.student(seed=0), []

    def look(event):
        if isinstance(event, Epoch):
            track.append([values.mean().item() for values in study.class_geometry(student, task)])

    recipe = task.recipe()
    train = task.loader("train", batch_size=recipe.batch_size, seed=0)
    distill(teacher, student, arm.objective(), train, seed=0, callbacks=[look], **recipe.training())
    return list(zip(*track, strict=True))


# %%
tracks = {arm.label: follow(arm) for arm in arms if arm.control_of is None}
theirs = [values.mean().item() for values in geometry["teacher"]]
curves = norm_direction_curves_view(tracks, reference=tuple(theirs), title="Length and direction, seed 0")
curves

# %% [markdown]
# Look at which lines part from KD on the left, and which on the right. The direction half moves the cosine, the norm
# half the length; ND should show on both sides. Does the length of KD++ stop near the teacher's? Outside that circle ND
# no longer pushes outwards.

# %% tags=["check"]
for arm, (norms, cosines) in tracks.items():  # watching has changed nothing
    assert math.isclose(norms[-1], comparison.values(arm, "norm")[0], rel_tol=1e-3)
    assert math.isclose(cosines[-1], comparison.values(arm, "cosine")[0], abs_tol=1e-3)

# %% [markdown]
# ## Verdict
#
# Four claims as inequalities. A claim is settled where the whole interval of the differences, paired by seed, lies on
# one side of the limit, corrected for the number of claims; otherwise it is open. The first two say that ND does what
# it is made for, the third that it pays, the last that its norm half is needed for the length.

# %%
verdicts = check_claims(study.norm_direction_claims(comparison))
display(*verdicts)

# %% [markdown]
# Few seeds leave much open. The same study with ten, kept with the command that made it; it is refused as soon as the
# study changes, and runs that it took the place of are named:

# %%
kept_verdicts("nd_kd")

# %%
settled = {
    "accuracy": effects(comparison, "CE"),
    "length": effects(comparison, "CE", metric="norm", words="mean length"),
    "cosine": effects(comparison, "CE", metric="cosine", words="mean cosine with the class mean"),
}
lines = [f"- {tally(verdicts)}", *(f"- {sentence}" for found in settled.values() for sentence in found)]
lines += [
    f"- No difference to CE in accuracy is settled with {n_seeds} seeds. A point of accuracy is 7 images here."
] * (not settled["accuracy"])
lines += [
    f"- Contradicted here: *{v.claim.text}*. Nothing is changed to make it hold."
    for v in verdicts
    if v.value == "contradicted"
]
Markdown("\n".join(lines))

# %% [markdown]
# ## Full tier: CIFAR-100
#
# With `quick = False` ResNet56 teaches ResNet20 with the authors' recipe (SGD 0.1, 240 epochs) and weights (1, 1, 2);
# the claim is that KD++ beats KD. The numbers of the official README (top-1, %) to compare with:
#
# | CIFAR-100 | KD | KD++ | DKD | DKD++ | DIST | DIST++ | ReviewKD | ReviewKD++ |
# |---|---|---|---|---|---|---|---|---|
# | ResNet56 to ResNet20 | 70.66 | 72.53 | 71.97 | 72.16 | 71.78 | 72.52 | 71.89 | 72.05 |
# | ResNet32x4 to ResNet8x4 | 73.33 | 75.54 | 75.44 | 76.28 | 75.79 | 76.13 | 75.63 | 76.07 |
# | ResNet50 to MobileNetV2 | 67.65 | 70.10 | 70.35 | 70.82 | 69.17 | 69.80 | 69.89 | 70.45 |
#
# On ImageNet: ResNet34 to ResNet18, KD 70.66, KD++ 71.98, DKD++ 72.07; ResNet50 to MobileNetV1, KD 70.50, KD++ 72.77;
# RegNetY-16GF to DeiT-B, 83.4 without and 83.6 with ND.

# %%
if quick:
    display(Markdown("Skipped in the quick tier; nothing below depends on it."))
else:
    large = study.cifar100_nd(seeds=n_seeds, progress=progress_line("CIFAR-100"))
    verdicts.append(Claim("CIFAR-100: KD++ beats KD", large.values("KD++"), right=large.values("KD")).check())
    display(views.comparison_view(large, baseline="KD", title="CIFAR-100, ResNet20"), verdicts[-1])

# %% [markdown]
# ## Diagnose: what changed inside
#
# First the embeddings, test image by test image, of seed 0. Grey crosses are the teacher. Choose a digit and two
# students.

# %%
students = {"untrained": task.student(seed=0).eval()}
students |= {arm: comparison.students[arm, 0] for arm in comparison.arms}
geometry |= {name: study.class_geometry(model, task) for name, model in students.items()}


# %%
def clouds(digit, first, second):
    rows = labels == digit if digit >= 0 else labels >= 0
    chosen = {
        name: tuple(values[rows] for values in geometry[name]) for name in dict.fromkeys(("teacher", first, second))
    }
    what = f"images of a {digit}" if digit >= 0 else "all digits"
    return norm_direction_view(chosen, reference="teacher", title=f"Length and direction, {what}")


digits = {"all": -1, **{str(d): d for d in range(10)}}
controls = {
    "digit": dropdown(digits),
    "first": dropdown(list(students), "KD", label="left"),
    "second": dropdown(list(students), "KD++", label="right"),
}
Explorer("Embeddings of one digit", controls, clouds, static_at=[{}, {"digit": 8}])

# %% [markdown]
# Look at the two movements separately: towards the vertical (direction), and away from the corner (norm). Then put
# KD + cos and KD + norm side by side: which of the two does each make?
#
# A student that points to the teacher's class means can do without its classifier, too. How many test images are
# nearest in direction to the right one of the teacher's means?

# %%
by_means = {
    name: task.score(collect_features(model, loader, "head:in")["head:in"] @ directions.T, labels)
    for name, model in students.items()
}
Markdown(
    "Right by the teacher's class means alone: "
    + "; ".join(f"{name} **{100 * share:.1f} %**" for name, share in by_means.items())
    + "."
)

# %% [markdown]
# Next, one image. How much does each pixel contribute to the projection $\langle s, e_y \rangle$ that ND raises?
# *Integrated gradients* (Sundararajan et al., 2017; computed by Captum) answer by following the gradient from a black
# image to this one. Their sum is the difference of the projection between the two images, up to the number of steps.


# %%
def attribution(model, image, digit):
    def projection(x):
        with tap(model, "head:in") as features:
            model(x)
        return features["head:in"] @ directions[digit]

    maps = IntegratedGradients(projection).attribute(image[None], n_steps=100)
    with torch.no_grad():
        return maps[0, 0].detach(), (projection(image[None]) - projection(0 * image[None])).item()


# %%
firsts = {str(d): int((labels == d).nonzero()[0]) for d in range(10)}


def pixels(image):
    x, digit = task.test[image][0], int(labels[image])
    found = {name: attribution(students[name], x, digit) for name in ("untrained", "KD", "KD++")}
    maps = {f"{name}: {round(total, 2) + 0.0:+.2f}": m for name, (m, total) in found.items()}
    return attribution_view(x, maps, label="share of ⟨s, e⟩", title=f"What the pixels of this {digit} contribute")


Explorer("One image", {"image": dropdown(firsts, firsts["3"], label="digit")}, pixels)

# %% [markdown]
# Look at the number above each map first: the projection that the strokes raise over a black image. Then at where it
# comes from: the strokes themselves (purple) or places that must stay empty?

# %% tags=["check"]
m, total = attribution(students["KD++"], task.test[firsts["3"]][0], 3)
assert abs(m.sum().item() - total) < 0.02 * max(1.0, abs(total))

# %% [markdown]
# Last, the layers. CKA says how alike two layers arrange the images, whatever their axes. ND fixes the axes of the
# embedding, the mean over the map of `stage3`. Is the arrangement of the images more like the teacher's as well, and
# does that reach further down?

# %%
batches = list(task.loader("test", batch_size=128, shuffle=True, seed=0))
maps = {name: cka_map(students[name], teacher, batches) for name in ("KD", "KD++")}
layers = views.cka_compare_view(
    maps["KD"].matrix, maps["KD++"].matrix, maps["KD"].layers_x, maps["KD"].layers_y, labels=("KD", "KD++")
)
layers

# %% [markdown]
# ## Record
#
# Tolerances: another processor rounds differently, and a few hundred steps later other test images flip. Between one
# and two threads of one processor the means moved by at most 0.0005 (accuracy), 0.006 (length) and 0.0001 (cosine); for
# other processors 0.01, 2 % and 0.01 are allowed. What is computed without training must agree closely.

# %%
names = {arm: re.sub(r"\W+", "_", arm.lower().replace("++", "pp")) for arm in comparison.arms}
accuracies = {f"{name}_accuracy": comparison.mean(arm) for arm, name in names.items()}
lengths = {f"{name}_norm": comparison.mean(arm, "norm") for arm, name in names.items()}
cosines = {f"{name}_cosine": comparison.mean(arm, "cosine") for arm, name in names.items()}
by_hand = {"hand_short": short.item(), "hand_long": long.item()}
tolerances = {
    **dict.fromkeys(accuracies, 0.01),
    **{name: 0.02 * value for name, value in lengths.items()},
    **dict.fromkeys(cosines, 0.01),
    **dict.fromkeys(by_hand, 1e-6),
    "teacher_by_means": 0.01,
}

# %%
figures = {
    "idea": idea,
    "plane": plane(-70, 1.2, 25, 2.0),
    "length": length,
    "cosine": cosine,
    "accuracy": accuracy,
    "curves": curves,
    "clouds": clouds(-1, "KD", "KD++"),
    "pixels": pixels(firsts["3"]),
    "layers": layers,
}
record(
    **accuracies,
    **lengths,
    **cosines,
    **by_hand,
    teacher_by_means=nearest,
    students=len(comparison.records),
    first_steps=study.STUDY.first_steps(),
    tol=tolerances,
    verdicts=[*verdicts, *comparison.check_controls()],
    figures=figures,
)

# %% [markdown]
# ## Exercises
#
# 1. Set `nd_weight = 0.5` and `2`. Which moves first, the length or the cosine, and what happens to the accuracy?
# 2. Make the norm half stronger, `norm_weight = 2`. How long do the embeddings of KD + norm get, and why is there no
#    such runaway in KD++? Use the plane.
# 3. Show that ND does not change when student and teacher embeddings are both multiplied by 3, and that it may
#    when only the student's is. In which regime does it not?
# 4. Mixup: give `nd_loss` floating labels of shape $(N, C)$. Where does an image that is 60 % a 3 and 40 % an 8 have to
#    point? Compute it from `means`, and check with one embedding.
# 5. Give the student another width: `ConvNet((4, 8, 32))` in place of `cnn-small`. Which module does
#    `create_method("kdpp")` then own after `setup`, and why may `class_geometry` not be used on that student?
#
# <details><summary>Solutions of 3 to 5</summary>
#
# 3. The term is $1 - \langle s, e_y \rangle / \max(\|s\|, \|t\|)$: a common factor cancels. A factor of the student's
#    alone cancels only where the student is the longer one; there the term is one minus a cosine.
# 4. To the mixture of the two class means, $0.6\,c_3 + 0.4\,c_8$, of which the direction counts.
# 5. An `EmbeddingProjector`: 32 numbers cannot be compared with 64. For the same reason the cosine with the teacher's
#    class means does not exist for that student.
# </details>
#
# This cell tells right from wrong. Put your own tensors in:

# %% tags=["check"]
torch.manual_seed(0)
s, t = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
c, y = torch.randn(3, 5, dtype=torch.float64), torch.arange(6) % 3
each = {"class_means": c, "reduction": "none"}
torch.testing.assert_close(nd_kd.nd_loss(3 * s, 3 * t, y, **each), nd_kd.nd_loss(s, t, y, **each))
changed = ~torch.isclose(nd_kd.nd_loss(3 * s, t, y, **each), nd_kd.nd_loss(s, t, y, **each))
assert torch.equal(changed, s.norm(dim=1) < t.norm(dim=1))
mixed = torch.tensor([[0.6, 0.0, 0.4]], dtype=torch.float64)
along = (0.6 * c[0] + 0.4 * c[2])[None]
torch.testing.assert_close(nd_kd.nd_loss(along, along, mixed, class_means=c), along.new_tensor(0.0))

# %% [markdown]
# ## References
#
# - Y. Wang et al., *Improving Knowledge Distillation via Regularizing Feature Norm and Direction*, 2023,
#   [arXiv:2305.17007](https://arxiv.org/abs/2305.17007), code
#   [WangYZ1608/Knowledge-Distillation-via-ND](https://github.com/WangYZ1608/Knowledge-Distillation-via-ND)
# - G. Hinton, O. Vinyals, J. Dean, *Distilling the Knowledge in a Neural Network*, 2015,
#   [arXiv:1503.02531](https://arxiv.org/abs/1503.02531)
# - R. Xu et al., *Larger Norm More Transferable*, ICCV 2019, [arXiv:1811.07456](https://arxiv.org/abs/1811.07456), the
#   stepwise norm loss
# - M. Sundararajan, A. Taly, Q. Yan, *Axiomatic Attribution for Deep Networks*, ICML 2017,
#   [arXiv:1703.01365](https://arxiv.org/abs/1703.01365)
