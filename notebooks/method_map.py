# %% [markdown]
# # The method map
#
# Forty-one papers and two surveys on knowledge distillation, placed on ten axes. At the end you can say in one
# sentence what kind of method a paper is, find its relatives, and get a reasoned short list for a situation of your
# own.
#
# Nothing is trained here: the notebook takes a few seconds. Papers marked *planned* have a place in the map but no
# code yet.

# %% tags=["parameters"]
paper: str = "pld"  # the paper whose neighbours are shown
neighbours: int = 5  # how many of its neighbours
top: int = 5  # how many papers the decision guide names

# %%
from IPython.display import HTML

from kdcore import taxonomy
from kdcore.card import AXES
from workbench.panels import Explorer, dropdown, slider, static_mode
from workbench.runs import record
from workbench.views import method_map as pictures

papers = taxonomy.entries()
book = taxonomy.entries(companions=True)  # with the baselines and instruments, which are not papers of the collection

# %% [markdown]
# ## Ten questions to ask of any paper
#
# Distillation papers describe themselves in many words. Ten questions with a fixed set of answers make them
# comparable. A paper may have several answers to a question; the first one is its main one.

# %%
questions = [{"axis": axis, "question": taxonomy.QUESTIONS[axis], "answers": ", ".join(AXES[axis])} for axis in AXES]
HTML(pictures.text_table(questions))

# %% [markdown]
# Three of the axes deserve a closer look, because they decide most about a method:
#
# - **knowledge**, what is passed on. Classic distillation passes the *response*: softened logits. A *feature* method
#   compares hidden layers, a *relation* method compares how samples lie to each other, a *ranking* method looks only
#   at the order of the classes.
# - **scheme**, who teaches whom. *Offline* is the usual one: a frozen teacher. *Reverse* turns the aim round: the
#   student shall **fail** to follow the teacher on anything unusual, so that failing detects an anomaly.
# - **teacher access**, the practical one. With an API you get *text*; with scores you can match *outputs*; only with
#   the weights in hand (*whitebox*) can you look inside.

# %%
knowledge = [
    {
        "knowledge": v,
        "what is passed on": taxonomy.MEANING["knowledge"][v],
        "papers": ", ".join(p.slug for p in papers if p.knowledge[0] == v),
    }
    for v in AXES["knowledge"]
]
HTML(pictures.text_table(knowledge))

# %% [markdown]
# ## All papers at once
#
# Each ribbon is one paper. Follow it from left to right: what it passes on, who teaches whom, what the student is
# trained to do, and how deep one has to look into the teacher. Its colour is its knowledge.

# %%
pictures.flow_view(papers)

# %% [markdown]
# Look at three things. Most ribbons run through *offline*: a frozen teacher is still the normal case. The orange
# feature ribbons nearly all end in *whitebox*, as they must: who compares hidden layers needs to see them. And the
# three ribbons of *text* end where an API suffices.
#
# In a live session the next cell gives the same picture to play with: drag columns and categories, hover to count.

# %%
None if static_mode() else pictures.flow_view(papers).interactive()

# %% [markdown]
# ## What is done and what is planned
#
# Whether a paper is implemented is not written anywhere by hand: a module in `kdcore/methods` is found, and its card
# takes the place of the planned row. The baselines (`vanilla_kd`) and the instruments (`cka`) of the book are counted
# with their families. Names in the table below lead to the lessons that exist.

# %%
pictures.status_view(book)

# %%
HTML(pictures.papers_html(book, base=".."))

# %% [markdown]
# Sort the table by any axis, or look at one family alone.

# %%
FAMILIES = {"all families": ""} | {f: f for f in dict.fromkeys(p.family for p in book)}


def status(family, sort):
    chosen = [p for p in book if family in ("", p.family)]
    return pictures.status_view(chosen, sort=sort)


controls = {"family": dropdown(FAMILIES), "sort": dropdown(["family", "slug", "year", "status", *AXES])}
Explorer("Papers by family", controls, status)


# %% [markdown]
# ## Who is near whom
#
# Two papers are alike when they share answers. Count the values they have in common (a main value counts 2, a
# further one 1) and divide by all values that either has:
#
# $$J(a, b) = \frac{\sum_v \min(a_v, b_v)}{\sum_v \max(a_v, b_v)}$$
#
# Classical multidimensional scaling draws the distances $1 - J$ in the plane. Read it as a sketch of a city, not as
# a survey: the description under the picture says how much of the spread two dimensions keep. The exact neighbours
# are in its table.


# %%
def near(slug, k):
    ring = [slug, *(e.slug for e, _ in taxonomy.similar(slug, k))]
    return pictures.neighbours_view(papers, highlight=ring)


controls = {
    "slug": dropdown([p.slug for p in papers], paper, label="paper"),
    "k": slider(neighbours, 1, 10, label="how many"),
}
Explorer("Neighbours of a paper", controls, near)

# %%
nearest = taxonomy.similar(paper, neighbours)
rows = [{"paper": e.slug, "similarity": s, "title": e.title, "status": e.status} for e, s in nearest]
HTML(pictures.text_table(rows))


# %% [markdown]
# ## Which method for my situation
#
# Seven questions, any of which may stay open. **Hard rules** remove what cannot work: a method that reads hidden
# layers is of no use when all you have is an API. **Points** order the rest: 3 for your goal, 3 for your data, 2 for
# the task, 2 for the modality, 1 for the number of teachers, one more for each where your answer is the paper's main
# value; up to 4 for different architectures.
#
# The list always begins with the baselines, `vanilla_kd`: a method that does not beat plain KD in your hands is not
# worth its complexity.


# %%
def choices(question):
    meaning = taxonomy.MEANING[question]
    return {"open": ""} | {f"{v}: {meaning[v]}": v for v in taxonomy.GUIDE[question]}


def guide(**answers):
    return pictures.guide_view(answers, top=top)


api, vision = taxonomy.CASES[0].answers, taxonomy.CASES[1].answers
nothing = dict.fromkeys(taxonomy.GUIDE, "")
controls = {q: dropdown(choices(q), vision[q], label=text) for q, text in taxonomy.GUIDE_TEXT.items()}
Explorer("Decision guide", controls, guide, static_at=[vision, nothing | api])

# %% [markdown]
# The guide knows what the papers are *about*, not how well they will do on your data. Take its list as candidates
# for a comparison over several seeds, not as an answer.
#
# ## Fifteen situations with known answers
#
# A guide that cannot be wrong says nothing. These situations have answers that any reader of the papers would give;
# each is also a test.

# %%
cases = pictures.cases_table()
HTML(pictures.text_table(cases))

# %% tags=["check"]
assert cases["holds"].all(), cases.loc[~cases["holds"], "situation"].tolist()

# %% [markdown]
# ## The same from Python
#
# What the pictures show is one import away: `find` filters, `similar` compares, `recommend` advises and says why.

# %%
[e.slug for e in taxonomy.find(knowledge="relation", teacher_access="whitebox")]

# %%
for entry, score, reasons in taxonomy.recommend({"goal": "unlearn", "modality": "graph"}):
    print(entry.slug, score, *reasons, sep="\n  ")

# %% [markdown]
# ## Record
#
# How many papers are implemented is shown above and left out here: it grows with every module, and a new method
# shall not break a regression test.

# %%
figures = {"flow": pictures.flow_view(papers), "map": pictures.neighbours_view(papers)}
record(
    papers=len(papers),
    surveys=len(taxonomy.find(status="survey")),
    axis_values=sum(map(len, AXES.values())),
    cases_that_hold=int(cases["holds"].sum()),
    map_keeps=taxonomy.map_coordinates(papers).kept,
    tol={"map_keeps": 1e-6},
    figures=figures,
)

# %% [markdown]
# ## Exercises
#
# 1. `onpro` is the loneliest paper of the map. Which of its axis values does no other paper have?
# 2. Answer the guide for a project of your own. Then change one answer at a time: which one moves the list most?
# 3. Which pairs of *knowledge* and *scheme* has no paper tried? Is there a reason, or is it an idea?
# 4. `pcoreset` and `dho` both ask a large teacher when labels are few. Compare their values: where does the
#    similarity come from?
#
# ## References
#
# - X. Xu et al., *A Survey on Knowledge Distillation of Large Language Models*, 2024,
#   [arXiv:2402.13116](https://arxiv.org/abs/2402.13116)
# - L. Fang et al., *Knowledge Distillation and Dataset Distillation of Large Language Models*, 2025,
#   [arXiv:2504.14772](https://arxiv.org/abs/2504.14772)
# - W. S. Torgerson, *Multidimensional scaling: I. Theory and method*, Psychometrika 17, 1952
