# %% [markdown]
# # Workbench
#
# Your teacher, your student, your data, any of the methods: train with live curves, stop, go on, change the method;
# then see what changed inside the student. The example is digits; a folder of images and two timm names are enough to
# make it yours.
#
# At the end you can
#
# - distil a pair of networks without writing a training loop,
# - compare methods on the same student, one after the other, in one chart,
# - say which layers and which decisions of the student came nearer to the teacher.
#
# With the digits it takes half a minute. Nothing is uploaded, nothing is downloaded.

# %% tags=["parameters"]
task: str = "digits"  # a task by name (kdw tasks lists them), unless folder is given
folder: str = ""  # images of your own: a folder with one sub-folder per class
size: int = 0  # side in pixels of images of your own; 0: as they are if squares of one size, else 64
options: list[str] = []  # further options of the task, such as train_size=200
teacher: str = "cnn"  # a network the task names; for a folder also any timm name; empty: the first
teacher_weights: str = ""  # for a folder: checkpoint of the teacher (safetensors or .pt)
student: str = "cnn-small"  # as for the teacher
method: str = "kd"  # an objective: ce, kd, dkd, dist, pld, ...
knobs: list[str] = []  # its hyper-parameters that differ from the card, such as temperature=8
epochs: int = 0  # how long; 0: as the student's recipe says
seed: int = 0  # of the split, the student's first weights and the order of the images

# %%
from IPython.display import Markdown

from kdcore import get_card
from kdcore.tasks import load_task
from workbench import views
from workbench.panels import BeforeAfter, DiagnosisPanel, TrainPanel, parse_settings
from workbench.runs import record

# %% [markdown]
# ## The data

# %%
own = {"root": folder, "teacher": teacher, "teacher_weights": teacher_weights, "student": student}
given = {"size": size or None, **{name: value for name, value in own.items() if value}} if folder else {}
data = load_task("images" if folder else task, seed=seed, **given, **parse_settings(options))
data

# %%
x, y = data.sample("train", n=16, seed=seed)
names = [data.class_names[i] for i in y]
views.image_grid_view(x, names, title="Some of what the student sees") if x.ndim == 4 else Markdown(
    f"{x.shape[1]} numbers per sample, {len(set(names))} classes among the first {len(x)}."
)

# %% [markdown]
# ## The method
#
# What the chosen method says about itself. Its knobs are the sliders of the next panel, with the paper's values to
# begin with.

# %%
get_card(method)

# %% [markdown]
# ## Train
#
# **Start** trains in the background: the notebook stays free. **Stop** ends after the current batch and leaves a
# checkpoint; **Resume** goes on from it as if nothing had happened. Choose another method and press Start again: the
# earlier curve stays in the chart. *Images of your own* opens a form for a folder.

# %%
training = TrainPanel(
    data,
    teacher=teacher or None,
    student=student or None,
    method=method,
    knobs=parse_settings(knobs),
    epochs=epochs or None,
    seed=seed,
)
training

# %% [markdown]
# Look at the loss terms first: one that does not fall is not learned. Then at the distance to the teacher's line, and
# whether it was still shrinking at the end.
#
# ## Before and after
#
# The pictures follow the training above. Compare the student with itself before the first step, or with an earlier
# training of yours.

# %%
comparison = BeforeAfter(training)
comparison

# %% [markdown]
# How to read them:
#
# - **CKA map.** Each cell says how alike a layer of the student (row) and one of the teacher (column) arrange the same
#   samples, from 0 to 1. A row that stays dark is a layer that went its own way.
# - **Agreement of the rankings.** Where the student puts the class that the teacher puts first, second, third. All
#   on the diagonal: the same order.
# - **Confusion.** The pairs of classes that the student mixes up and the teacher does not.
# - **One sample.** Both answers, class by class, and the pull that is left.
#
# ## Diagnosis
#
# Is anything wrong with this pair, and what has the student not learnt? The pair is asked again with one thing changed
# at a time (another scaling of the input, another order of classes, statistics of the batch, ...): what brings accuracy
# back was wrong. A severity from 0.5 on is an alarm, below it a note about a difference.

# %%
diagnosis = DiagnosisPanel(training)
diagnosis

# %% [markdown]
# Read the verdict and the first finding; each says what to try. *What the student has not learnt* shows the images that
# only the teacher gets right, *layers* how far the student's features, rotated, lie from the teacher's, *regions* where
# each model looks and what it loses when blocks are hidden. `diagnosis.diagnosis()` holds the numbers.
#
# ## Record
#
# What came out, for a later comparison. Run the cell again after every training; the runner (`kdw run workbench`)
# does it by itself.

# %%
if comparison.outcome is None:
    said = Markdown("Nothing has been trained yet: press Start above, then run this cell again.")
else:
    numbers = {**comparison.numbers(), "alarms": len(diagnosis.diagnosis().alarms)}
    figures = {"training": training.static(), "before_after": comparison.static(), "diagnosis": diagnosis.static()}
    tolerances = {
        name: 0.05 if name.startswith(("tau", "cka")) else 0.02
        for name, value in numbers.items()
        if isinstance(value, float)
    }
    said = record(**numbers, tol=tolerances, figures=figures)
said

# %% [markdown]
# The tolerances leave room for another processor: it rounds differently, and after some hundred steps a few test images
# fall on the other side.
#
# ## From the command line
#
# ```
# kdw run workbench -p method pld -p epochs 40
# kdw run workbench -p method dist -p knobs temperature=4 -p options train_size=200 -p student mlp-16
# kdw run workbench -p folder ~/pictures -p teacher resnet18 -p student mobilenetv3_small_050
# ```
#
# ## Try
#
# 1. Train with `ce`, then with `kd`, then with `pld`. Compare the last with the first in the panel: which layers
#    differ? Do the accuracies?
# 2. Set `options` to `["train_size=200"]` and repeat. Which method suffers least?
# 3. Press Stop in the middle, wait, press Resume. The result table says how many steps were done; is one missing?
# 4. Take a folder of photographs. Which two classes does your student confuse and its teacher not?
#
# ## References
#
# The paper of the chosen method is on its card above. The map of the layers is the minibatch form of CKA: T. Nguyen, M.
# Raghu, S. Kornblith, *Do Wide and Deep Networks Learn the Same Things?*, ICLR 2021,
# [arXiv:2010.15327](https://arxiv.org/abs/2010.15327).
