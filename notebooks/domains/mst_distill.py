# %% [markdown]
# # MST-Distill: which teacher for which sample
#
# A device has one cheap sensor. In the laboratory there is a second, better one, so teachers can be trained that the
# device could never run: one sees the good sensor, one sees both. But which of them should the student listen to? And
# what if a teacher knows things that *cannot be seen* with the cheap sensor? MST-Distill trains everybody together,
# lays a learnt mask on several layers of every teacher, so that it says what the student can say too, and lets a gate
# choose one of these specialized teachers for every sample.
#
# At the end you can
#
# - say what each of the three stages trains, and towards what,
# - work out a routed loss and a load balance by hand,
# - judge whether masks and routing add anything on real digits, and what else brings the gain.
#
# Half an hour of reading and playing. The notebook computes for about 20 seconds on one quiet CPU core.

# %% tags=["parameters"]
quick: bool = True  # 4 arms, 25 epochs; False: all arms, 100 epochs, 900 images, two noises, 5 seeds or more
seeds: int = 3  # students per arm; each has its own split, noise, teachers and initial weights
temperature: float = 4.0  # softens all distributions of the distillation terms
top_k: int = 1  # specialized teachers per sample
routing: str = "topk"  # topk (released code), weighted or soft

# %% tags=["folded"]
import inspect
import re

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from kdcore import get_card
from kdcore.checkpoints import preserved_rng
from kdcore.engine import Epoch, fit
from kdcore.experiment import check_claims, effects, paired_difference, tally
from kdcore.functional.divergences import kl_with_temperature
from kdcore.methods import mst_distill
from kdcore.methods.mst_distill import MaskNet, cotraining_loss, load_balancing_loss, routed_distillation_loss
from kdcore.studies import mst_distill as study
from kdcore.taps import evaluating
from kdcore.tasks.digits_two_sensors import PROFILE
from workbench import views
from workbench.exercises import judged
from workbench.panels import Explorer, dropdown, progress_line, slider
from workbench.runs import kept_verdicts, record
from workbench.runs.study import kept_result

n_seeds = seeds if quick else max(seeds, 5)
task = study.task_of(0)
x, labels = task.train.x, task.labels("train")
digits = [torch.stack([row for row, y in zip(x, labels, strict=True) if y == d]) for d in range(10)]

# %% [markdown]
# ## The idea
#
# The good sensor gives an image of a handwritten digit, 8x8 pixels. The cheap one gives a *pen profile*: how much ink
# there is in each of the 8 columns and 8 rows, with noise. The student gets these 16 numbers and never an image.
#
# **A question first.** A 2 and a 5 are nearly mirror images of each other. What is left of the difference in sixteen
# sums of ink? The lines are the mean profiles of both, the bands their spread with the sensor's noise. Then look for
# the two digits that the student will confuse most.


# %%
def profiles(one, other, spread):
    seen = {f"a {d}": digits[d][:, :PROFILE] for d in (one, other)}
    centre = {name: rows.mean(0) for name, rows in seen.items()}
    width = {name: spread * rows.std(0) for name, rows in seen.items()}
    return views.lines_view(
        range(1, PROFILE + 1),
        centre,
        bands={name: (centre[name] - w, centre[name] + w) for name, w in width.items()},
        x_label="number of the profile: columns 1 to 8, rows 9 to 16",
        y_label="ink",
        title=f"What the student sees of a {one} and a {other}",
    )


controls = {
    "one": slider(2, 0, 9, label="one digit"),
    "other": slider(5, 0, 9, label="another"),
    "spread": slider(1.0, 0.0, 3.0, label="width of the band, standard deviations"),
}
profile_picture = profiles(2, 5, 1.0)
Explorer("What the student sees", controls, profiles, static_at=[{}])

# %% [markdown]
# A teacher that sees the image separates the two with ease and says so with great certainty. A student that is drawn to
# this certainty is asked for something its sensor does not show: the paper calls it *knowledge drift*. Below, the three
# stages on these digits. In **stage 1** student and both teachers learn from the labels and from each other; in **stage
# 2** every mask learns to bring its teacher's answer nearer to the student's; in **stage 3** the student learns from
# the teachers that the gate gives it.

# %% tags=["folded"]
pixels, fusion = (task.spec("teacher", name).make(0) for name in ("image", "both"))
made = mst_distill.MSTTraining(
    task.student(seed=0),
    pixels,
    fusion,
    task.paired(batch_size=study.BATCH),
    num_classes=10,
    epochs=(20, 8, 2),
    lr=(study.LEARNING_RATE,) * 3,
    temperature=temperature,
    **study.LAYERS,
)
profile, image, truth = next(iter(task.paired("test", batch_size=200)))

# %% [markdown]
# After every epoch of stage 2 a picture is taken of what the teachers say to 200 test samples.

# %% tags=["folded"]
film = []


def snapshot():
    """Of 200 test samples: masks, the teachers' answers with and without them, the student's answer."""
    with torch.no_grad(), evaluating(made):
        inputs, teachers = made.inputs(profile, image), made.specialists.teachers
        masked = made.answers(profile, image)
        masks = [teacher.last_mask for teacher in teachers]
        plain = torch.stack([t.model(*inputs[name]) for t, (name, _) in zip(teachers, made.layers, strict=True)])
        return {"masks": masks, "masked": masked, "unmasked": plain, "student": made.student(profile)}


def look(event):
    if isinstance(event, Epoch) and event.stage == "masks":
        film.append(snapshot())


with preserved_rng():
    fit(made, seed=0, callbacks=[look])

# %% [markdown]
# **Another question.** The eight samples in the menu are those where the teachers are farthest from the student. A mask
# can only make features smaller. Will it change the teacher's mind, or only make it less sure? And which features does
# it take away? Switch between "masked" and "unmasked", and move through the epochs of stage 2.

# %% tags=["folded"]
last = film[-1]
away = kl_with_temperature(last["unmasked"], last["student"].expand_as(last["unmasked"]))  # (teachers, samples), nats
far = away.mean(0).topk(8).indices.tolist()


# %%
def masks_of(sample, kind, epoch):
    frame, names = film[epoch - 1], made.labels
    return views.mask_view(
        {n: m[sample] for n, m in zip(names, frame["masks"], strict=True)},
        {n: z[sample].softmax(0) for n, z in zip(names, frame[kind], strict=True)},
        frame["student"][sample].softmax(0),
        task.class_names,
        kind=kind,
        label=int(truth[sample]),
    )


controls = {
    "sample": dropdown({f"sample {i}, a {truth[i]}": i for i in far}),
    "kind": dropdown(["unmasked", "masked"]),
    "epoch": slider(len(film), 1, len(film), label="epoch of stage 2"),
}
Explorer("What the masks take away", controls, masks_of, static_at=[{}, {"kind": "masked"}])

# %% [markdown]
# ## The maths
#
# Student $S$, auxiliary teacher $A$ (the image), multimodal teacher $T$ (both), labels $y$, and
# $kd(s, t) = \tau^2 \, \mathrm{mean}_n \, KL(\mathrm{softmax}(t / \tau) \,\|\, \mathrm{softmax}(s / \tau))$ with the
# learner first and its target second:
#
# $$L_1 = \sum_{X \in \{S, A, T\}} \Big[ CE(X, y) + \sum_{Y \ne X} kd(X, Y) \Big]$$
#
# $$L_2 = kd(z_e, s), \qquad z_e = \text{teacher, whose layer } l \text{ gives } m_e(h) \cdot h \text{ in place of } h$$
#
# $$L_3 = CE(s, y) + w_{kl} \, \frac1k \sum_{i \le k} kd(s, z_{e_i}) + w_{lb} \, L_{lb}(g), \qquad
# g = \mathrm{softmax}(G(s)), \; e_1 \dots e_k = \mathrm{top}_k(g)$$
#
# In $L_2$ the *student* is the target and only the mask learns. In $L_3$ both weights start at 1 and shrink: $w_{kl}$
# is 0.5 from the second epoch on and a quarter after epoch 31. This is the code of stages 2 and 3 that runs below:

# %%
shown = (mst_distill.MSTTraining.train_masks, mst_distill.MSTTraining.route)
code = "\n".join("".join(inspect.getsource(f).split('"""')[::2]) for f in shown)
Markdown(f"```python\n{code}\n```")

# %% [markdown]
# ### By hand
#
# Two classes, one sample, temperature 1. The student is undecided; teacher 1 says 3 to 1, teacher 2 is undecided too.
# The gate gives teacher 1 the probability 0.75, so with $k = 1$ it is chosen, and the loss is
# $0.75 \ln 1.5 + 0.25 \ln 0.5$. With $k = 2$ both count the same, whatever the gate says: half of that. The balance of
# this gate is $KL(u \,\|\, g) = \frac12 \ln\frac{0.5}{0.75} + \frac12 \ln\frac{0.5}{0.25}$, divided by 2 once more.

# %%
s, gate = torch.zeros(1, 2), torch.tensor([[0.75, 0.25]])
z = torch.stack([torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)])
one, chosen = routed_distillation_loss(s, z, gate, temperature=1.0)
two, _ = routed_distillation_loss(s, z, gate, temperature=1.0, top_k=2)
balance = load_balancing_loss(gate)
[round(v.item(), 4) for v in (one, two, balance)], chosen.tolist()

# %% tags=["check"]
ln = np.log
torch.testing.assert_close(one, torch.tensor(0.75 * ln(1.5) + 0.25 * ln(0.5)).float())
torch.testing.assert_close(two, one / 2)
torch.testing.assert_close(balance, torch.tensor((0.5 * ln(0.5 / 0.75) + 0.5 * ln(0.5 / 0.25)) / 2).float())
assert chosen.tolist() == [[0]]

# %% [markdown]
# ## One training step
#
# Stage 3, one batch of fifty, written out with the parts that the training above uses: the frozen teachers answer with
# their masks, the gate chooses one of them for every sample, and student and gate take a step.
#
# **A question first.** The choice of a teacher is not differentiable. Which of the three terms will give the gate a
# gradient?

# %%
a_profile, a_image, y = next(iter(task.paired(batch_size=study.BATCH)))
fresh, gate = task.student(seed=1).train(), mst_distill.GateNet(10, len(made.labels))
with torch.no_grad(), evaluating(made):
    said_by_teachers = made.answers(a_profile, a_image)  # (teachers, samples, classes)


def terms_of_the_batch():
    s = fresh(a_profile)
    g = gate(s).softmax(1)
    routed, chosen = routed_distillation_loss(s, said_by_teachers, g, temperature=temperature)
    parts = {"labels": torch.nn.functional.cross_entropy(s, y), "routed": routed, "balance": load_balancing_loss(g)}
    return parts, chosen


players = {"student": fresh, "gate": gate}
terms, chosen = terms_of_the_batch()
reach = {
    name: {
        who: sum(
            0.0 if g is None else g.norm().item()
            for g in torch.autograd.grad(term, [*model.parameters()], retain_graph=True, allow_unused=True)
        )
        for who, model in players.items()
    }
    for name, term in terms.items()
}
sum(terms.values()).backward()
torch.optim.Adam([*fresh.parameters(), *gate.parameters()], lr=study.LEARNING_RATE).step()
after, _ = terms_of_the_batch()
table = pd.DataFrame(reach).T
table["before the step"], table["after it"] = ([v[n].item() for n in table.index] for v in (terms, after))
counts = torch.bincount(chosen.flatten(), minlength=len(made.labels)).tolist()
display(
    Markdown("Chosen: " + ", ".join(f"{name} {n} times" for name, n in zip(made.labels, counts, strict=True)) + "."),
    table.rename_axis("length of the gradient in", axis=1).style.format("{:.4f}"),
)

# %% tags=["check"]
assert reach["routed"]["gate"] == reach["labels"]["gate"] == 0.0 < reach["balance"]["gate"]
assert sum(after.values()) < sum(terms.values())

# %% [markdown]
# The balance alone: the gate is taught to be even, and whom it chooses is left to chance. That is how the released code
# is; `routing="soft"` lets the distillation loss teach the gate.
#
# ### Play with the gate
#
# All three stages again in about a second, with a sensor as noisy as you like, with more teachers per sample, and with
# more or less weight on the load balance. **A question first.** What does the gate do when nothing asks it to be even?


# %%
def counted(event):  # a move is three trainings: the panel says how far it is
    if isinstance(event, Epoch):
        gate_panel.progress(f"{event.stage}: epoch {event.epoch}")


def played(noise, teachers, weight):
    class Weighted(mst_distill.MSTTraining):
        def route(self, batch, run):
            terms = super().route(batch, run)
            return terms | {"balance": weight * terms["balance"]}

    arena = study.task_of(0, noise=noise)
    run = study.training(arena, None, arena.student(seed=0), 0, kind=Weighted, epochs=15, top_k=teachers)
    with preserved_rng():
        history = [e for e in fit(run, seed=0, callbacks=[counted]).history if e.stage == "route"]
    shares = {name: [e.logged[f"share {name}"] for e in history] for name in run.labels}
    right = 100 * arena.accuracy(run.student)
    return views.routing_view(shares, title=f"Whom the gate chooses; the student gets {right:.1f} % right")


knobs = {
    "noise": slider(0.15, 0.0, 0.5, label="noise of the profile"),
    "teachers": slider(1, 1, 3, label="teachers per sample"),
    "weight": slider(1.0, 0.0, 10.0, label="weight of the balance"),
}
gate_panel = Explorer("Play with the gate", knobs, played, static_at=[{}])
gate_panel

# %% [markdown]
# ## Experiment
#
# The study has six arms with the same student, initial weights, size of batches and number of the student's epochs:
# labels alone; plain KD from a teacher trained beforehand, one arm for each path; MST-Distill; the same without masks;
# and the same where, whatever the gate says, the first specialized teacher is chosen. (The masks' epochs draw from the
# same stream of orders, so in stage 3 an arm with masks sees the samples in another order than one without.) Labels and
# KD weigh 1 and 1 at $T = 4$, as in $L_1$ and $L_3$; the lesson on KD has 0.1 and 0.9. All students are those of the
# last epoch; nothing is chosen on test samples. MST's arms also train both teachers with the student, a cost that the
# others do not have. The quick run trains the first four; all six are in the kept result below.
#
# **A question first.** Plain KD from a teacher that sees the image: will it help a student that does not, or harm it?

# %%
options = {"temperature": temperature, "top_k": top_k, "routing": routing, "seeds": n_seeds, "quick": quick}
options |= {"epochs": 25} if quick else {}
few = study.STUDY.only(study.CE, study.KD_BOTH, study.KD_IMAGE, study.MST) if quick else study.STUDY
comparison = few.run(**options, progress=progress_line("Training the students"))
accuracy = views.comparison_view(comparison, baseline=study.CE, title="Accuracy on test samples")
display(accuracy, comparison)

# %% [markdown]
# One path for all? The paper's first problem is that no single teacher is the best on all samples. **Before you look:**
# on which digits will the arms differ most?

# %%
recalls = {
    arm: np.mean([comparison.tasks[k].recall(comparison.students[arm, k]).numpy() for k in comparison.seeds], 0)
    for arm in comparison.arms
}
paths = views.paths_view(recalls, task.class_names)
paths

# %% [markdown]
# ## Verdict
#
# What the paper claims, at this size: MST beats labels alone and both paths chosen by hand; and after stage 2 the mask
# has brought every specialized teacher nearer to the student, on samples that no mask has seen. A claim is settled
# where the whole interval of the differences, paired by seed, lies on one side, corrected for the number of claims.

# %%
claims = study.STUDY.claimed(comparison, quick=quick)
if not quick:
    calmer = study.STUDY.also[0]
    claims += calmer.claimed(calmer.run(**options, progress=progress_line("A third of the noise")), quick=quick)
verdicts = check_claims(claims)
display(*verdicts)

# %% [markdown]
# Few seeds leave much open, and after 25 epochs the students are far from done. The same study with ten seeds and 100
# epochs, at this noise and at a third of it. **Before you look:** with a better sensor, will the gain grow or shrink?

# %%
kept_verdicts("mst_distill")

# %% [markdown]
# What do the parts add? Differences to the whole method, paired by seed; where an interval holds zero, the part has not
# been shown to do anything. **A question first.** Which of the two will be missed more, the masks or the routing?


# %%
def parts_of(values, where):
    """In words, what is lost without masks and without routing; values per seed by arm."""
    for arm in (a for a in (study.UNMASKED, study.FIRST) if a in values):
        d = paired_difference(values[arm], values[study.MST])
        low, high = 100 * d["diff_low"], 100 * d["diff_high"]
        shown = "" if low > 0 or high < 0 else ", so the part is not shown to add anything"
        words = f"{100 * d['difference']:+.1f} points ({low:+.1f} to {high:+.1f})"
        yield f"- {where}: *{arm}* against *{study.MST}* {words}{shown}."


settled = effects(comparison, study.CE)
lines = [f"- {tally(verdicts)}", *(f"- {sentence}" for sentence in settled)]
lines += [f"- No difference to *{study.CE}* is settled with {n_seeds} seeds."] * (not settled)
lines += parts_of({arm: comparison.values(arm) for arm in comparison.arms}, f"Here, {n_seeds} seeds")
for part in (kept_result("mst_distill") or {"experiments": ()})["experiments"]:
    lines += parts_of({arm: v["last"] for arm, v in part["values"].items()}, f"Kept result, {part['words']}")
Markdown("\n".join(lines))

# %% [markdown]
# ### What changed inside
#
# Before and after stage 2: how far the teachers are from the student on test samples, in nats times $\tau^2$. **A
# question first.** By which share will a mask shorten that distance?

# %%
drift = study.drift(comparison)
before_after = pd.DataFrame(
    {
        n: {"without mask": o.mean(), "with mask": m.mean(), "with / without": (m / o).mean()}
        for n, (m, o) in drift.items()
    }
).T
before_after.round(3)

# %% [markdown]
# And how? The mask of a sample has a number for every feature. Where they are all the same, the mask chooses nothing:
# it only makes the teacher less sure, as a temperature would. In the network the features attend to each other without
# a residual, so that at first all of them read nearly the same mixture. Do they come apart?

# %%
apart = {
    name: {
        "mean": after.mean().item(),
        "spread over features, epoch 1": before.std(1).mean().item(),
        f"spread over features, epoch {len(film)}": after.std(1).mean().item(),
        f"spread over samples, epoch {len(film)}": after.mean(1).std().item(),
    }
    for name, before, after in zip(made.labels, film[0]["masks"], film[-1]["masks"], strict=True)
}
pd.DataFrame(apart).T.round(3)

# %% [markdown]
# And stage 3: whom the gate chose over the epochs, and in the end for which digit. The gate reads the student's logits,
# so it can tell the digits apart; what it is *paid* for, with the released routing, is evenness alone. **A question
# first.** Will every digit get its own teacher?

# %%
seed = comparison.seeds[0]
trained, arena = comparison.methods[study.MST, seed], comparison.tasks[seed]
history = [e for e in comparison.histories[study.MST, seed] if e.stage == "route"]
shares = {name: [e.logged[f"share {name}"] for e in history] for name in trained.labels}
with torch.no_grad():
    pairs = [(trained.gate(trained.student(a)).argmax(1), y) for a, _, y in arena.paired("test", batch_size=512)]
gated, truths = (torch.cat(p) for p in zip(*pairs, strict=True))
by_digit = torch.zeros(10, len(trained.labels)).index_put_((truths, gated), torch.tensor(1.0), accumulate=True)
routed = views.routing_view(shares)
choice = views.heatmap_view(
    by_digit / by_digit.sum(1, keepdim=True),
    task.class_names,
    trained.labels,
    title="Who teaches which digit",
    label="share of the digit's samples",
    row_label="digit",
    limits_at=(0, 1),
)
display(routed, choice)

# %% [markdown]
# ## The card, and what the released code does otherwise
#
# Four things that the box names, each in numbers. In stage 3 the hooks of the released code pile up: a network's second
# teacher runs with the first one's mask as well. The choice of teachers has no gradient, so the distillation loss
# teaches the gate nothing. The balance is divided by the number of teachers once more, because of `batchmean` on a
# vector. And in stage 1 no target is detached: a teacher is also pulled towards the student that learns from it.

# %%
with torch.no_grad(), evaluating(made):
    alone, piled = (made.specialists(made.inputs(profile, image), stacked=stack) for stack in (False, True))
    said = made.student(profile)
piles = dict(zip(made.labels, (piled - alone).abs().amax((1, 2)).tolist(), strict=True))

# %%
pulls = {}
for way in ("topk", "weighted", "soft"):
    logits = said.clone().requires_grad_()
    loss, _ = routed_distillation_loss(logits, alone, made.gate(said).softmax(1), routing=way)
    (grad,) = torch.autograd.grad(loss, made.gate.fc2.weight, allow_unused=True)
    pulls[way] = 0.0 if grad is None else grad.norm().item()

# %%
g = made.gate(said).softmax(1).detach()
uniform = torch.full((3,), 1 / 3)
true_kl = (uniform * (uniform.log() - g.mean(0).log())).sum()
ratio = (true_kl / load_balancing_loss(g)).item()

targets = {}
for detach in (False, True):
    leaves = [v.clone().requires_grad_() for v in (said, alone[2], alone[0])]
    out = cotraining_loss(*leaves, truth, detach_targets=detach)
    grad = torch.autograd.grad(out["student"], leaves[2], allow_unused=True)[0]
    targets["detached" if detach else "as released"] = 0.0 if grad is None else grad.norm().item()

# %%
display(
    get_card("mst_distill"),
    Markdown(
        "\n".join(
            [
                "- Piled masks change the logits by at most "
                + ", ".join(f"{v:.2f} ({name})" for name, v in piles.items())
                + ".",
                "- Gradient of the distillation loss in the gate: "
                + ", ".join(f"{way} {v:.2g}" for way, v in pulls.items())
                + ".",
                f"- The KL of the gate is {ratio:.2f} times the balance that is minimised.",
                "- Gradient of the *student's* loss in the multimodal teacher's logits: "
                + ", ".join(f"{way} {v:.2g}" for way, v in targets.items())
                + ".",
            ]
        )
    ),
)

# %% tags=["check"]
assert [v > 1e-3 for v in piles.values()] == [False, True, False]
assert pulls["topk"] == pulls["weighted"] == 0.0 < pulls["soft"]
assert abs(ratio - 3) < 1e-3
assert targets["detached"] == 0.0 < targets["as released"]

# %% [markdown]
# ## Record
#
# Four points of accuracy, and a fifth of a distance, are noise between machines; what is computed without training must
# agree closely.

# %%
names = {arm: re.sub(r"\W+", "_", arm.lower()) for arm in comparison.arms}
accuracies = {f"{name}_accuracy": comparison.mean(arm) for arm, name in names.items()}
nearer = {f"drift_{n.replace(' ', '_')}": float((m / o).mean()) for n, (m, o) in drift.items()}
record(
    **accuracies,
    **nearer,
    hand_routed=one.item(),
    hand_balance=balance.item(),
    balance_factor=ratio,
    students_trained=len(comparison.records),
    tol=dict.fromkeys(accuracies, 0.04)
    | dict.fromkeys(nearer, 0.2)
    | {"hand_routed": 1e-6, "hand_balance": 1e-6, "balance_factor": 1e-3},
    verdicts=verdicts,
    first_steps=study.STUDY.first_steps(),
    figures={"profile": profile_picture, "masks": masks_of(far[0], "masked", len(film)), "accuracy": accuracy,
             "paths": paths, "routed": routed, "choice": choice},
)  # fmt: skip

# %% [markdown]
# ## Exercises
#
# Replace `None` by your answer and run the cell: it says *right* or *not yet*. The folded cell below each is a
# solution.
#
# **1. (easy)** A gate says (0.5, 0.3, 0.2), with $k = 2$. Teacher 1 costs 0.4, teacher 2 costs 0.2, teacher 3 costs 1.
# What is the routed loss of this sample?

# %%
costs, gate_says = torch.tensor([0.4, 0.2, 1.0]), torch.tensor([[0.5, 0.3, 0.2]])
my_loss = None
judged(my_loss, lambda: costs[gate_says.topk(2).indices[0]].mean(), within=1e-6, hint="both chosen ones count the same")

# %% tags=["folded", "check"]
# The two most probable are teachers 1 and 2, and their mean is 0.3; the gate's numbers do not weigh them.
assert judged(0.3, costs[gate_says.topk(2).indices[0]].mean(), within=1e-6)

# %% [markdown]
# **2. (medium)** A mask that is 0.5 for *all* features, before a linear last layer without bias. Which temperature of
# the unmasked softmax gives the same answer?


# %%
def same_answer(temperature_of_it):
    g = torch.Generator().manual_seed(0)
    h, w = torch.randn(5, 4, generator=g), torch.randn(3, 4, generator=g)
    return torch.allclose(((0.5 * h) @ w.T).softmax(1), (h @ w.T / temperature_of_it).softmax(1), atol=1e-6)


my_temperature = None
judged(None if my_temperature is None else same_answer(my_temperature), True, hint="halved features, halved logits")

# %% tags=["folded", "check"]
# 2: the logits are halved. So a mask without differences between the features chooses nothing, it only softens.
assert judged(same_answer(2.0), True) and not judged(same_answer(0.5), True)

# %% [markdown]
# **3. (hard)** A mask reads all D features of a layer at once: its first layer makes D tokens of width
# $H = \lfloor D / 6 \rfloor \cdot 3$ out of them. How many weights (without biases) does that layer have for
# $D = 512$? And how many with `hidden_dim_factor = 32`?


# %%
def weights_of(**options):
    with torch.device("meta"):  # counts without making them
        return MaskNet(512, **options).embed.weight.numel()


my_default, my_at_32 = None, None
display(
    judged(my_default, weights_of, hint="D inputs, D times H outputs"),
    judged(my_at_32, lambda: weights_of(hidden_dim_factor=32), hint="H = floor(512 / (32 * 3)) * 3"),
)

# %% tags=["folded", "check"]
# H = 85 * 3 = 255, so 512 * 512 * 255 = 66,846,720. With a factor of 32: H = floor(512 / 96) * 3 = 15.
assert judged(512 * 512 * 255, weights_of) and judged(512 * 512 * 15, lambda: weights_of(hidden_dim_factor=32))

# %% [markdown]
# **To go on.** Where does the gain over plain KD come from? MST's teachers have learnt *with* the student, and its
# $w_{kl}$ is one half or less nearly all the time. Give plain KD that weight: `compare(study.task_of, [Arm("KD, half",
# "kd", {"ce_weight": 1.0, "kd_weight": 0.5, "temperature": 4.0})], epochs=25)`, with `compare` and `Arm` from
# `kdcore.experiment`. And set `routing = "soft"`: whose share grows in "Whom the gate chooses"?
#
# ## References
#
# MST-Distill: Mixture of Specialized Teachers for Cross-Modal Knowledge Distillation, ACM Multimedia 2025,
# arXiv:2507.07015; code Gray-OREO/MST-Distill. The coefficient of variation as a balance: Shazeer et al., Outrageously
# Large Neural Networks (2017), arXiv:1701.06538.
