# %% [markdown]
# # CKA: do two networks see the same?
#
# Two networks look at the same images. Their layers have different widths and their neurons no common order, so nothing
# can be compared neuron by neuron. Kornblith, Norouzi, Lee and Hinton (2019) compare something else: which images each
# layer finds alike. Their index, centred kernel alignment (CKA), is one number for any two layers, 1 when they agree,
# and what a student shares with its teacher becomes a picture.
#
# At the end you can
#
# - compute CKA by hand, in its biased and its unbiased form, and say when the difference matters,
# - read a map of all layers of two networks, and make one from small batches in one pass,
# - name changes that CKA does not notice, others that mislead it, and the measure that tells them apart,
# - train a student whose features are arranged like the teacher's, and check what that does to its accuracy.
#
# About ten minutes of reading; the notebook computes for about half a minute on two CPU cores.

# %%
from kdcore import get_card

get_card("cka")

# %% tags=["parameters"]
quick: bool = True  # digits in seconds; False: at least 5 seeds, and CIFAR-100 (GPU hours, KDCORE_DATA)
seeds: int = 3  # pairs of networks; each has its own split, teacher, twin and students
weight: float = 1.0  # of 1 - CKA in the loss of the aligned student
kernel: str = "linear"  # of that loss: linear, or rbf (near neighbours count more)
unbiased: bool = True  # unbiased HSIC in that loss; batches of at least 4
bandwidth: float = 0.5  # of the rbf kernel, a fraction of the median distance
ce_weight: float = 1.0  # weight of the labels beside it

# %%
import inspect
from functools import cache

import pandas as pd
import torch
from IPython.display import Markdown, display

from kdcore.cka_maps import batch_estimates
from kdcore.experiment import check_claims, effects, tally
from kdcore.functional import cka as sim
from kdcore.functional import gram
from kdcore.functional import similarity as measures
from kdcore.functional.distortions import DISTORTIONS, distort
from kdcore.studies import cka as study
from kdcore.tasks import load_task

# %%
from workbench import views
from workbench.panels import Explorer, dropdown, progress_line, slider
from workbench.runs import kept_verdicts, record

if not quick:
    load_task("cifar100")  # the full run needs it: better to hear now than in an hour
n_seeds = seeds if quick else max(seeds, 5)

# %% [markdown]
# ## The networks of this lesson
#
# Per seed, on real handwritten digits: a **teacher** of four convolutions; its **twin**, the same network from other
# initial weights, on batches in another order; and a narrow **student**, a third as wide, taught in three ways: by
# labels alone (CE), by the teacher's soft answers (KD), and by labels while its embedding is aligned with the
# teacher's (CKA). All students of a seed start from the same weights.

# %%
knobs = {"weight": weight, "kernel": kernel, "unbiased": unbiased, "bandwidth": bandwidth, "ce_weight": ce_weight}
result = study.representations(arms=study.alignment_arms(**knobs), seeds=n_seeds, progress=progress_line("Training"))
task, teacher = result.comparison.tasks[0], result.comparison.teachers[0]
networks = {"teacher": teacher, **result.networks(0)}
kept = {
    (name, pooling): result.features(model, 0, pooling=pooling)
    for name, model in networks.items()
    for pooling in ("gap", "flatten")
}


def features(name, pooling="gap"):
    return kept[name, pooling]


# %% [markdown]
# ## The idea
#
# Take one layer. Compare every image with every other by the inner product of their features: that gives a square
# table, the *Gram matrix*. It has as many rows as there are images, however wide the layer is. Two layers can now be
# compared, because their tables have the same shape. Below, the images are sorted by digit.

# %%
digits = torch.cat([y for _, y in task.loader("test", batch_size=256, shuffle=True, seed=0)])[:60]


def gram_pair(other, layer):
    grams = {
        f"{name}, {layer}": gram.center_gram(gram.gram_linear(features(name)[layer][:60]))
        for name in ("teacher", other)
    }
    value = sim.cka(features("teacher")[layer], features(other)[layer]).item()
    return views.gram_view(grams, digits, title=f"Which images are alike? CKA {value:.2f} at {layer}")


others = {"the twin": "twin", "the student, CE": "CE", "the student, KD": "KD", "an untrained student": "untrained"}
controls = {
    "other": dropdown(others, "twin", label="beside the teacher"),
    "layer": dropdown(study.COMPARED_LAYERS, "stage4.act", label="layer"),
}
Explorer("Two tables of the same images", controls, gram_pair, static_at=[{"other": "twin"}, {"other": "untrained"}])

# %% [markdown]
# Look at the squares on the diagonal: each is a digit, and a layer that has sorted the digits shows them. CKA is the
# cosine between two such tables.
#
# ## The maths
#
# $X$ ($N \times d_1$) and $Y$ ($N \times d_2$) are features of the same $N$ images, $K = XX^\top$ and $L = YY^\top$
# their Gram matrices, $H = I - \tfrac1N 11^\top$ subtracts means. Instead of inner products a kernel may be used,
# $K_{ij} = \exp\big(-\|x_i - x_j\|^2 / (2 t^2 \mathrm{med})\big)$ with $\mathrm{med}$ the median squared distance and
# $t$ the *bandwidth*: near neighbours then count more. How much two tables have in common is measured by HSIC:
#
# $$\mathrm{HSIC}_0(K, L) = \frac{\langle HKH, HLH\rangle}{(N-1)^2}, \qquad
# \mathrm{HSIC}_1(K, L) = \frac{\langle \hat K, \hat L\rangle}{N(N-3)}, \qquad
# \mathrm{CKA} = \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}}$$
#
# $\mathrm{HSIC}_0$ is what the paper uses. It is **biased**: the diagonal of a Gram matrix says only that an image is
# like itself, and counts as agreement. $\mathrm{HSIC}_1$ (Song et al., 2012) is unbiased: $\hat K$ has a zero diagonal
# and rows that sum to zero.
#
# CKA does not change when either side is rotated, moved, or scaled as a whole. It does change under a general linear
# map; measures that do not (CCA) call any two layers equal as soon as there are more neurons than images.
#
# **From batches.** Since $\mathrm{HSIC}_1$ is unbiased it may be averaged over batches $b$ (Nguyen, Raghu and
# Kornblith, 2021). For all pairs of layers $i, j$ at once that is one matrix product per batch:
#
# $$\mathrm{CKA}_{ij} = \frac{\sum_b \langle \hat K_i^b, \hat L_j^b\rangle}
# {\sqrt{\sum_b \langle \hat K_i^b, \hat K_i^b\rangle}\sqrt{\sum_b \langle \hat L_j^b, \hat L_j^b\rangle}}$$
#
# **As a loss**: $L = w_{ce}\, CE + w\,(1 - \mathrm{CKA}(X_{student}, X_{teacher}))$, the teacher a constant. No
# projector is needed, whatever the widths. The measure is the papers'; this use of it is ours, and so are the default
# weights.
#
# The code, from the module itself, without docstrings:

# %%
shown = (gram.double_center, gram.u_center, gram.hsic, sim._centred_gram, sim._cka_gram, sim.cka_loss)
code = "\n".join("".join(inspect.getsource(f).split('"""')[::2]) for f in shown)
Markdown(f"```python\n{code}\n```")

# %% [markdown]
# ## Two tensors
#
# Four images, one neuron each: $x = (0, 1, 2, 3)$, $y = (0, 1, 3, 2)$. With one neuron, biased linear CKA is the
# squared correlation: $0.8^2 = 0.64$. For the unbiased form, centre both and put $r$ for the squares:
# $h(x, y) = (x^\top y)^2 - \tfrac{N}{N-2}\, r_x^\top r_y + \tfrac{\sum r_x \sum r_y}{(N-1)(N-2)}$, which is
# $16 - 12.5 + \tfrac{25}{6} = \tfrac{23}{3}$ for the pair and $\tfrac{26}{3}$ for each with itself.

# %% tags=["check"]
x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([[0.0], [1.0], [3.0], [2.0]])
assert torch.isclose(sim.cka(x, y, unbiased=False), torch.tensor(0.64))
assert torch.isclose(sim.cka(x, y), torch.tensor(23 / 26))
s = y.clone().requires_grad_()
sim.cka_loss(s, x).backward()
pull = [round(-g, 3) for g in s.grad[:, 0].tolist()]
print(f"biased 0.64, unbiased {23 / 26:.4f}; the loss wants to move y by {pull}")

# %% [markdown]
# The last two numbers have opposite signs: the loss moves the third and the fourth image towards changing places, which
# is the order of $x$. It also agrees that shifting and scaling $y$ changes nothing:

# %% tags=["check"]
assert torch.isclose(sim.cka(x, y), sim.cka(x, -5 * y + 100))
assert abs(s.grad.sum()) < 1e-6 and abs((s.grad * y).sum()) < 1e-6  # no pull along a shift or a scaling

# %% [markdown]
# ## Play
#
# ### The map of all layers
#
# Every layer of one network against every layer of the teacher. Point at a cell for the shapes and the exact value; the
# best cell of a row is framed.

# %%
shapes = {
    name: [" × ".join(map(str, f.shape[1:])) for f in result.features(model, 0, pooling=None, images=2).values()]
    for name, model in networks.items()
}


def layer_map(other, kernel, unbiased, pooling, power):
    pair = features(other, pooling), features("teacher", pooling)
    rows, columns = ({layer: x[: 2**power] for layer, x in network.items()} for network in pair)
    matrix = sim.cka_matrix(rows, columns, kernel=kernel, unbiased=unbiased)
    return views.cka_grid_view(
        matrix,
        [*rows],
        [*columns],
        shapes_x=shapes[other],
        shapes_y=shapes["teacher"],
        names=(other, "teacher"),
        title=f"{other} and teacher, {kernel}, {'un' if unbiased else ''}biased, {pooling}, {2**power} images",
    )


# %%
controls = {
    "other": dropdown({**others, "the student, CKA": "CKA"}, "twin", label="rows"),
    "kernel": dropdown(sim.KERNELS, label="kernel"),
    "unbiased": dropdown({"unbiased": True, "biased": False}, label="estimator"),
    "pooling": dropdown({"mean over the map": "gap", "every pixel": "flatten"}, label="pooling"),
    "power": slider(9, 4, 9, label="images, as a power of 2"),
}
Explorer("Layer by layer", controls, layer_map, static_at=[{"other": "twin"}, {"other": "untrained"}])

# %% [markdown]
# Look for the bright band along the diagonal: layers at the same depth. Then choose *biased* and take images away: with
# 512 the two estimators hardly differ, with 16 the dark cells brighten, because a layer then has more values than there
# are images. *Unbiased*, they only become noisy.
#
# ### How large must a batch be?
#
# A whole data set rarely fits into memory. Two ways to use batches: average the biased value of each batch (what is
# easily written, and wrong), or the minibatch CKA above.

# %%
sizes = [2**k for k in range(2, 9)]


@cache
def from_batches(pooling):
    pair = features("teacher", pooling), features("twin", pooling)
    return sim.cka_matrix(*pair), batch_estimates(*pair, sizes)


def batch_size_picture(power, pooling):
    return views.batch_estimates_view(*from_batches(pooling), batch_size=2**power)


controls = {
    "power": slider(4, 2, 8, label="batch size, as a power of 2"),
    "pooling": dropdown({"mean over the map": "gap", "every pixel": "flatten"}, label="pooling"),
}
Explorer("Batches", controls, batch_size_picture, static_at=[{"power": 3}, {"power": 6}])

# %% [markdown]
# Look at the right-hand picture while you make the batches smaller: the orange circles leave the line upwards, all
# together (a bias); the blue squares scatter about it (noise).
#
# ### What is CKA blind to?
#
# Take the teacher's last stage, change a copy of it on purpose, and let six measures say how alike the two still are.

# %%
original = features("teacher")["stage4.act"]
starts = {"a copy of it": original, "the twin's last stage": features("twin")["stage4.act"]}


def blind_spots(kind, amount, start):
    before = measures.similarity_profile(original, starts[start])
    after = measures.similarity_profile(original, distort(starts[start], kind, amount))
    return views.similarity_profile_view(
        before,
        after,
        labels=("as it is", f"{kind}, {amount:.0%}"),
        title=f"The last stage and {start}: {kind}",
        reference={"mutual k-NN": 10 / (len(original) - 1)},
    )


# %%
controls = {
    "kind": dropdown([*DISTORTIONS], "one outlier", label="change"),
    "amount": slider(1.0, 0.0, 1.0, step=0.05, label="amount"),
    "start": dropdown([*starts], label="compared with"),
}
Explorer("Blind spots", controls, blind_spots, static_at=[{"start": "the twin's last stage"}])

# %% [markdown]
# All changes at full strength, at once:

# %%
spots = {kind: measures.similarity_profile(original, distort(original, kind)) for kind in DISTORTIONS}
overview = views.heatmap_view(
    [[*profile.values()] for profile in spots.values()],
    [*spots],
    [*spots["shift"]],
    limits_at=(0, 1),
    title="A copy of the last stage after each change, at full strength",
    label="similarity",
    row_label="change",
    column_label="measure",
)
overview

# %% [markdown]
# Look for rows in which one cell differs from the rest. CKA is made not to see rotation, scaling and shift. One
# displaced image among 512 is another matter: 511 images are where they were, but a measure that squares distances
# listens to the one that is not. No measure is right by itself: report two that fail differently.
#
# ### Training, seen as a film
#
# The maps of a student against its teacher, before training and after every epoch. The teacher runs once; its Gram
# matrices are kept.

# %%
films = {
    arm.label: study.cka_film(
        task, arm, teacher, layers=study.COMPARED_LAYERS, progress=progress_line(f"Film of {arm.label}")
    )
    for arm in study.alignment_arms(**knobs)
}
last = len(films["CE"]) - 1
embedding = {arm: [m.matrix[-2, -2].item() for m in maps] for arm, maps in films.items()}


def frame(arm, epoch):
    now = films[arm][epoch]
    over_time = views.lines_view(
        range(last + 1),
        embedding,
        x_label="epoch",
        y_label="CKA of the last stages",
        title="The last stage of the student against the teacher's",
        mark={"now": epoch},
    )
    return [views.cka_grid_view(now.matrix, now.layers_x, now.layers_y, title=f"{arm}, after epoch {epoch}"), over_time]


controls = {"arm": dropdown([*films], "KD", label="student"), "epoch": slider(last, 0, last, label="epoch")}
Explorer("Film", controls, frame)

# %%
stills = sorted({0, 1, last // 4, last})
film = views.cka_film_view(
    [films["KD"][e].matrix for e in stills],
    films["KD"][0].layers_x,
    films["KD"][0].layers_y,
    [f"epoch {e}" for e in stills],
    title="KD student against the teacher",
)
film

# %% [markdown]
# Look at the order in which the map settles, and at the distance between the three curves: KD and CE never ask for
# similar features, the third student does.
#
# ## Experiment
#
# **Can the measure be trusted?** The paper's sanity test: for every layer of the teacher, is its own counterpart in the
# twin the most similar layer? Mean CCA gets the same features (means over the map: CCA needs more images than neurons).

# %%
numbers = study.similarity_numbers(result)
found = pd.DataFrame(
    [
        {"arm": measure, "seed": seed, "layers found": numbers[key][i]}
        for measure, key in (("CKA", "identified_cka"), ("mean CCA", "identified_cca"))
        for i, seed in enumerate(result.comparison.seeds)
    ]
)
alike, cca, layers = study.identification_maps(result, 0)
identified = views.layer_identification_view(
    {"CKA": alike, "mean CCA": cca},
    layers,
    names=("teacher", "twin"),
    title="Which layer finds its counterpart? Seed 0",
)
total = len(layers)
title = f"Layers of {total} that find their counterpart"
display(identified, views.comparison_view(found, metric="layers found", percent=False, title=title))

# %% [markdown]
# A miss is often the neighbour: a convolution and what its own stage makes of it are close relatives.
#
# **What do batches and width do to the value?** All numbers, one row per seed; errors are means over all pairs of
# layers, `noise` is two clouds of 100 independent Gaussian samples with 2,000 features.

# %%
columns = {
    "error": "error, batches of 64",
    "error_small": "error, batches of 16",
    "excess_small": "biased batches of 16, too high by",
    "noise_biased": "noise, biased",
    "noise_unbiased": "noise, unbiased",
    "bytes_4": "bytes after 4 batches",
    "bytes_40": "after 40",
}
rows = pd.DataFrame(
    {words: numbers[key] for key, words in columns.items()}, index=pd.Index(result.comparison.seeds, name="seed")
)
rows.style.format(precision=4)

# %% [markdown]
# **Does distillation make a student see like its teacher?** CKA of the embeddings, the input of the classifier, on 512
# test images; and the accuracy. No claim is attached to these numbers, they are a report.

# %%
similarity = views.comparison_view(
    result.comparison, metric="cka", baseline="CE", percent=False, title="CKA of student and teacher at the embedding"
)
accuracy = views.comparison_view(result.comparison, baseline="CE", title="Accuracy of the students")
display(similarity, accuracy, result.comparison)

# %%
settled = [
    *effects(result.comparison, "CE", metric="cka", words="CKA with the teacher", unit=""),
    *effects(result.comparison, "CE"),
]
nothing = f"With {n_seeds} seeds no difference to CE is settled, neither in CKA with the teacher nor in accuracy."
Markdown("\n".join(f"- {sentence}" for sentence in settled) or nothing)

# %% [markdown]
# ## Verdict
#
# The claims as inequalities, judged by code on the numbers above. A claim is settled where the whole interval over
# seeds lies on one side of the limit, corrected for the number of claims; otherwise it is open. "Every seed" means that
# one seed suffices to fail it; counts of bytes have no spread and are compared as they are.

# %%
verdicts = check_claims(study.similarity_claims(numbers))
display(*verdicts)

# %% [markdown]
# Few seeds leave much open. The same study with ten, kept with the command that made it; it is refused as soon as the
# study changes, and runs that it took the place of are named:

# %%
kept_verdicts("cka")

# %%
why = (
    "A claim that is contradicted is reported, not repaired: no seed or threshold is changed for it. An open one needs "
    "more seeds."
)
far = (
    f"On the first claim, mind the size of the effect: CKA finds {sum(numbers['identified_cka']):.0f} and mean CCA "
    f"{sum(numbers['identified_cca']):.0f} of {total * n_seeds} layers."
)
Markdown(f"{tally(verdicts)} {why if not all(verdicts) else ''} {far}")

# %% [markdown]
# ## Full tier: CIFAR-100
#
# With `quick = False` the same numbers for ResNet56 and its twin (27 blocks and the logits), with ResNet20 and a vision
# transformer as students. The paper makes its sanity test with other networks, on CIFAR-10, and reports that CKA finds
# far more layers than measures of the CCA kind; its numbers are no target for these networks, so none is quoted.

# %%
if quick:
    display(Markdown("Skipped in the quick tier; nothing below depends on it."))
for student in () if quick else ("resnet20", "vit-tiny"):
    large = study.representations(
        study.cifar100_representation_task,
        arms=study.alignment_arms(**knobs),
        student=student,
        seeds=n_seeds,
        progress=progress_line(f"CIFAR-100, {student}"),
    )
    display(views.comparison_view(large.comparison, metric="cka", percent=False, title=f"CKA with ResNet56, {student}"))
    if student == "resnet20":
        large_numbers = study.similarity_numbers(large, layers=study.RESNET_LAYERS)
        verdicts += (more := check_claims(study.similarity_claims(large_numbers, on="CIFAR-100")))
        pair = (
            large.features(large.comparison.teachers[0], 0, layers=study.RESNET_LAYERS),
            large.features(large.twins[0], 0, layers=study.RESNET_LAYERS),
        )
        display(
            *more,
            views.batch_estimates_view(
                sim.cka_matrix(*pair), batch_estimates(*pair, [16, 32, 64, 128, 256, 512]), batch_size=64
            ),
        )

# %% [markdown]
# ## Diagnose: what changed inside
#
# The narrow student against its teacher, all layers: before training, then taught by labels, by soft answers, and with
# its embedding aligned.


# %%
def against_teacher(name):
    return sim.cka_matrix(features(name), features("teacher"))


inside = views.cka_film_view(
    [against_teacher(name) for name in ("untrained", "CE", "KD", "CKA")],
    layers,
    layers,
    ["untrained", "labels alone (CE)", "soft answers (KD)", "aligned (CKA)"],
    title="The student's layers against the teacher's, seed 0",
)
inside

# %% [markdown]
# Compare the lower right corners, where the embedding is: the losses act there. Then the upper left ones: early layers
# still show the image, and need no training to resemble each other.
#
# ## Record
#
# Tolerances: another processor rounds differently, and a few hundred steps later that is another network. Accuracies
# may move by two points, similarities by 0.05, counts of layers by two per seed. Noise and memory do not depend on any
# training.

# %%
mean = result.comparison.mean
trained = {f"cka_{arm.lower()}": mean(arm, "cka") for arm in result.comparison.arms}
accuracies = {f"accuracy_{arm.lower()}": mean(arm) for arm in result.comparison.arms}
averages = {key: float(pd.Series(values).mean()) for key, values in numbers.items()}
tolerances = (
    dict.fromkeys(trained, 0.05)
    | dict.fromkeys(accuracies, 0.02)
    | dict.fromkeys(averages, 1e-6)
    | dict.fromkeys(("identified_cka", "identified_cca"), 2.0)
    | {"error": 0.01, "error_small": 0.02, "excess_small": 0.05}
)

# %%
figures = {
    "grams": gram_pair("twin", "stage4.act"),
    "map": layer_map("twin", "linear", True, "gap", 9),
    "batches": batch_size_picture(4, "gap"),
    "blind_spots": overview,
    "film": film,
    "identified": identified,
    "similarity": similarity,
    "inside": inside,
}
record(
    **trained,
    **accuracies,
    **averages,
    trainings=len(result.comparison.records),
    first_steps=study.STUDY.first_steps(),
    tol=tolerances,
    verdicts=verdicts,
    figures=figures,
)

# %% [markdown]
# ## Exercises
#
# 1. Mutual k-NN compares angles about the origin, and RSA correlations across neurons. Predict from that which rows of
#    the overview change them although CKA stays at 1; then look. What would you do to the features first?
# 2. Show with two tensors that linear CKA with one neuron on each side is the squared correlation (biased form).
# 3. Sort the 512 images by class before cutting them into batches of 16. What happens to minibatch CKA, and why does
#    the exact mode of `kdcore.cka_maps.cka_map` not care?
# 4. Train the aligned student with `kernel = "rbf"`, and with `unbiased = False`. Which matters more, at a batch size
#    of 64? And with `weight = 5`?
# 5. Compare two models of your own: `kdcore.cka_maps.cka_map(model_a, model_b, loader).plot()`.
#
# <details><summary>Solutions of 1 to 3</summary>
#
# 1. A constant added to all samples (an outlier direction, a bias) turns the angles about the origin, so mutual
#    k-NN moves; scaling single neurons moves RSA. Centre the features first, and give neurons one scale.
# 2. With one neuron the Gram matrix is $x x^\top$; after centring, $HSIC(K, L) \propto (x^\top y)^2$, and the
#    normalised quotient is the squared correlation.
# 3. Every batch then holds one class: what tells classes apart is constant within a batch and is centred away. The
#    exact mode centres over all samples at once.
# </details>
#
# This cell tells right from wrong. Put your own tensors in:

# %% tags=["check"]
torch.manual_seed(0)
x, y = torch.randn(64, 1, dtype=torch.float64), torch.randn(64, 1, dtype=torch.float64)
squared = torch.corrcoef(torch.cat([x, y], 1).T)[0, 1] ** 2
torch.testing.assert_close(sim.cka(x, y, unbiased=False), squared)

# %% [markdown]
# ## References
#
# - S. Kornblith, M. Norouzi, H. Lee, G. Hinton, *Similarity of Neural Network Representations Revisited*, ICML 2019,
#   [arXiv:1905.00414](https://arxiv.org/abs/1905.00414), code
#   [google-research](https://github.com/google-research/google-research/tree/master/representation_similarity)
# - T. Nguyen, M. Raghu, S. Kornblith, *Do Wide and Deep Networks Learn the Same Things?*, ICLR 2021,
#   [arXiv:2010.15327](https://arxiv.org/abs/2010.15327) (minibatch CKA)
# - L. Song, A. Smola, A. Gretton, J. Bedo, K. Borgwardt, *Feature Selection via Dependence Maximization*, JMLR 13, 2012
#   (unbiased HSIC)
# - M. Raghu et al., *SVCCA*, NeurIPS 2017, [arXiv:1706.05806](https://arxiv.org/abs/1706.05806); M. Huh et al., *The
#   Platonic Representation Hypothesis*, ICML 2024, [arXiv:2405.07987](https://arxiv.org/abs/2405.07987) (mutual k-NN)
