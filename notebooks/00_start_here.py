# %% [markdown]
# # Start here
#
# A large neural network has learned something. A small one shall know it too. That is **knowledge distillation**, and
# in five minutes you will have done it: on real handwritten digits, with a student that never sees a single label.
#
# At the end you can
#
# - say what a teacher has to give that labels do not have,
# - distil a network with ten lines of Python,
# - look at what the student has *not* learned,
# - find the notebook, the panel or the function you came for.
#
# Run everything from the menu: *Run, Run All Cells*. It takes about twenty seconds on two CPU cores.

# %% tags=["parameters"]
quick: bool = True  # three seeds; False: ten
seeds: int = 3  # repetitions, each with other images, another teacher, other weights
labelled: int = 100  # labelled images of the student that has no teacher
temperature: float = 4.0  # how far the teacher's answers are softened
student: str = "mlp-16"  # the small network: a perceptron with 16 hidden units

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown

from kdcore import taxonomy
from kdcore.experiment import Arm, Claim, compare, first_steps
from kdcore.tasks import load_task

# %%
from workbench import views
from workbench.panels import Explorer, LiveCurves, dropdown, progress_line, slider, static_mode
from workbench.runs import record
from workbench.views import gallery

n_seeds = seeds if quick else max(seeds, 10)

# %% [markdown]
# ## A teacher
#
# The digits are 8 by 8 pixels. The teacher is a perceptron with two layers of 256 units. The first time it takes a
# few seconds to train; then it is kept.

# %%
task = load_task("digits")
teacher = task.teacher(progress=progress_line("Teacher"))
logits, truth = task.predict(teacher)
size = {
    name: sum(p.numel() for p in m.parameters())
    for name, m in (("teacher", teacher), ("student", task.student(student)))
}
Markdown(
    f"The teacher has {size['teacher']:,} weights and reads **{100 * task.score(logits, truth):.1f} %** "
    f"of {len(truth)} test images rightly. The student has {size['student']:,} weights, "
    f"{size['teacher'] / size['student']:.0f} times fewer."
)

# %% [markdown]
# ## What it has to give
#
# A label is one word: *this is an 8*. The teacher's answer is a whole sentence: *an 8, though it could
# be a 2, hardly a 3, surely no 5.* The numbers for the wrong classes are small; dividing the teacher's scores by a
# **temperature** $T$ makes them visible. Hinton called it *dark knowledge*: nobody wrote it into the labels.

# %%
share = logits.softmax(1)[range(len(truth)), truth]
read = logits.argmax(1) == truth  # of those it reads rightly, the one it is least sure of, for every digit
doubtful = {f"a doubtful {d}": int(np.where(read & (truth == d), share, np.inf).argmin()) for d in range(10)}


def lesson(image, T):
    return views.soft_target_view(
        logits[image], int(truth[image]), task.class_names, temperature=T, image=task.test[image][0]
    )


controls = {
    "image": dropdown(doubtful, doubtful["a doubtful 8"]),
    "T": slider(temperature, 1.0, 20.0, step=0.5, label="temperature T"),
}
Explorer("One image, two lessons", controls, lesson, static_at=[{}])

# %% [markdown]
# Move the temperature from 1 to 10 and watch which classes rise first. Then look at the image: does it resemble them?
#
# ## Your first distillation
#
# Three students start from the same weights and take equally many steps (within six in a hundred).
#
# | student | images it sees | labels it sees |
# |---|---|---|
# | few labels | 100 (parameter `labelled`) | the same 100 |
# | **taught** | all 1,078 | **none**: it learns the teacher's softened answers |
# | all labels | all 1,078 | all 1,078 |


# %%
def few(seed):
    task = load_task("digits", seed=seed, train_size=labelled)
    often = len(task.teacher_train) // labelled  # times per epoch, so that all students take as many steps
    return replace(task, train=task.train.subset(np.tile(np.arange(labelled), often)))


curves = LiveCurves("Accuracy on test images while they learn")
taught = Arm(
    "taught", "kd", {"temperature": temperature, "ce_weight": 0.0, "kd_weight": 1.0}, train=curves.follow("taught")
)

# %%
first = Arm("few labels", "ce", train=curves.follow("few labels"))
last = Arm("all labels", "ce", train=curves.follow("all labels"))
alone = compare(few, [first], student=student, seeds=n_seeds, progress=progress_line("Few labels"))
full = compare("digits", [taught, last], student=student, seeds=n_seeds, progress=progress_line("The others"))

# %%
training = curves.view()
training if static_mode() else Markdown("*The chart above grew while you watched; it shows the last seed.*")

# %%
rows = pd.concat([alone.rows, full.rows]).rename(columns={"last": "accuracy"})
standing = views.comparison_view(rows, metric="accuracy", title="Test accuracy of the three students")
standing

# %% [markdown]
# Compare the taught student with the one above it: how much are the teacher's answers worth? And with the one below:
# how much would real labels add?

# %%
best = Claim(
    "a student without any label beats one with few",
    left=full.values("taught"),
    right=alone.values("few labels"),
    every_seed=True,
).check()
gap = 100 * (full.mean("all labels") - full.mean("taught"))
best

# %%
more = f"Labels for all images would add {gap:.1f} points: so much is lost by never seeing one. "
less = f"Labels for all images would add nothing here ({gap:.1f} points): the answers replace them. "
Markdown(
    (more if gap > 0 else less) + "Where labels are plenty, a teacher does not always help; the "
    "[lesson on KD](foundations/vanilla_kd.ipynb) shows cases of both kinds, with numbers."
)

# %% [markdown]
# ## What has it not learned?
#
# One number hides a lot. Digit by digit:

# %%
networks = {
    "teacher": full.teachers[0],
    "taught": full.students["taught", 0],
    "few labels": alone.students["few labels", 0],
}
recall = np.stack([task.recall(m).numpy() for m in networks.values()])
per_class = views.heatmap_view(
    100 * recall,
    list(networks),
    task.class_names,
    title="Images of each digit read rightly, seed 0",
    label="percent",
    column_label="digit",
    limits_at=(50, 100),
    number_format=".0f",
)
per_class

# %% [markdown]
# And image by image: the ones that the teacher reads and its student does not.

# %%
said = task.predict(networks["taught"])[0].argmax(1)
missed = (read & (said != truth)).nonzero()[:, 0].tolist()
order = sorted(missed, key=lambda i: -float(share[i]))[:16]  # where the teacher is surest come first
captions = [f"{truth[i]}, said {said[i]}" for i in order]
pictures = np.stack([task.test[i][0] for i in order]) if order else None
title = f"{len(missed)} images that the teacher reads and the taught student does not"
gaps = None if pictures is None else views.image_grid_view(pictures, captions, title=title)
gaps or Markdown("There is none on this seed.")

# %% [markdown]
# Would you have read them? Many of them are doubtful for people too. The others say what to do next: more such
# images, another loss, a larger student. The [Workbench](workbench.ipynb) looks deeper, layer by layer.
#
# ## Three doors
#
# **I want to learn.** Take the lessons below, one per paper: idea, maths, things to move, an experiment with error
# bars, and a verdict on the paper's claim. Begin with KD. The [method map](method_map.ipynb) places all papers and
# suggests a short list for your situation.
#
# **I have a teacher, a student, and data.** Open the [Workbench](workbench.ipynb): choose a folder of images, the
# networks and a method, train with live curves, and see what changed inside.
#
# **I have a training loop of my own.** Take the loss, and nothing else:
#
# ```python
# from kdcore.functional.divergences import kd_loss
#
# loss = cross_entropy(student(x), y) + kd_loss(student(x), teacher(x), temperature=4.0)
# ```
#
# ## The lessons

# %%
papers = taxonomy.entries(companions=True)
HTML(gallery.lessons_html(papers, base=".."))

# %% [markdown]
# ### Planned

# %%
HTML(gallery.planned_html(papers) or "<p>Nothing: all papers of the map have their lesson.</p>")

# %% [markdown]
# ## From the command line
#
# A notebook is also a program: its first code cell names its parameters.
#
# ```
# kdw list                                  what is implemented
# kdw run pld --help-parameters             what a notebook can be asked
# kdw run 00_start_here -p labelled 300     run one with another value, in its own folder
# kdw notebooks                             run all and compare with the last known numbers
# kdw demo                                  five methods, three seeds, one report
# kdw doctor                                is everything installed? a GPU? where is the data?
# ```
#
# ## Record
#
# What this notebook found, with the tolerance within which another machine has to find the same.

# %%
means = {"few_labels": alone.mean("few labels"), "taught": full.mean("taught"), "all_labels": full.mean("all labels")}
tolerances = {"teacher": 0.01, "few_labels": 0.03, "taught": 0.015, "all_labels": 0.015}
figures = {
    "lesson": lesson(doubtful["a doubtful 8"], temperature),
    "training": training,
    "standing": standing,
    "per_class": per_class,
} | ({"gaps": gaps} if gaps else {})
record(
    teacher=task.score(logits, truth),
    **means,
    trainings=len(rows),
    first_steps=first_steps(task, [taught, last], student=student),
    tol=tolerances,
    verdicts=[best],
    figures=figures,
)

# %% [markdown]
# ## Try
#
# 1. Set `labelled` to 30, then to 500. Where do labels overtake the teacher?
# 2. Set `temperature` to 1. What does the taught student lose, and why?
# 3. Set `student` to `"cnn-small"`. Does another architecture learn from this teacher?
#
# ## References
#
# - G. Hinton, O. Vinyals, J. Dean, *Distilling the Knowledge in a Neural Network*, 2015,
#   [arXiv:1503.02531](https://arxiv.org/abs/1503.02531)
# - E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998 (the
#   images, as shipped by scikit-learn)
