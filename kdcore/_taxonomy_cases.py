"""Worked cases of the decision guide; read through :mod:`kdcore.taxonomy`."""

from __future__ import annotations

from typing import NamedTuple

from .collection import split_values


class Case(NamedTuple):
    """A worked case of the decision guide: a situation in words, its answers, what the guide must and must not say."""

    situation: str
    answers: dict[str, str]
    first: str = ""
    appear: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def _case(situation: str, answers: str, *, first: str = "", appear: str = "", absent: str = "") -> Case:
    pairs = dict(part.strip().split("=") for part in answers.split(","))
    return Case(situation, pairs, first, split_values(appear or first), split_values(absent))


#: Situations with known answers: ``first`` must lead, ``appear`` be in the top five, a hard rule remove ``absent``.
CASES: tuple[Case, ...] = (
    _case(
        "API-only LLM, few labels, text classification",
        "teacher_access=text, goal=compress, data_regime=semi, modality=text, task=textclass",
        first="pgkd",
        absent="leaf+taid",
    ),
    _case(
        "CNN teacher, ViT student, labelled images",
        "teacher_access=whitebox, goal=accuracy, data_regime=labelled, modality=image, task=classification, "
        "arch=cross, teachers=one",
        first="ofa_kd",
        absent="ortrack",
    ),
    _case(
        "original images unavailable, web images only",
        "teacher_access=whitebox, goal=compress, data_regime=web, modality=image, task=classification",
        first="kd3",
    ),
    _case(
        "CLIP-like teacher, few labels or small annotation budget",
        "teacher_access=outputs, goal=labelcost, data_regime=semi, modality=image, task=classification",
        appear="dho+pcoreset",
    ),
    _case(
        "GNN too slow at serving",
        "teacher_access=outputs, goal=compress, modality=graph, task=graphnode",
        appear="ff_g2m",
        absent="pld+d2dgn",
    ),
    _case(
        "erase a user's edges from a graph model",
        "teacher_access=whitebox, goal=unlearn, data_regime=deletion, modality=graph, task=graphlink",
        appear="d2dgn",
        absent="ff_g2m",
    ),
    _case(
        "new classes keep arriving, single pass, no teacher",
        "teacher_access=none, goal=continual, data_regime=stream, modality=image, task=classification",
        appear="onpro",
        absent="nrr_dd",
    ),
    _case(
        "new object classes in a mask detector",
        "teacher_access=whitebox, goal=continual, data_regime=stream, modality=image, task=instseg",
        first="dynamic_ykd",
    ),
    _case(
        "unlabelled pool of unknown classes next to known ones",
        "teacher_access=outputs, goal=labelcost, data_regime=semi, modality=image, task=discovery",
        first="crkd_ncd",
    ),
    _case(
        "NER in a language without labels",
        "teacher_access=whitebox, goal=transfer, data_regime=crossdomain, modality=text, task=ner",
        first="prokd",
    ),
    _case(
        "only normal images, find defects",
        "teacher_access=whitebox, goal=detect, data_regime=unlabelled, modality=image, task=anomaly",
        first="fabric_rd",
    ),
    _case(
        "shrink the training set itself",
        "teacher_access=whitebox, goal=datasize, data_regime=synthetic, modality=image, task=dd",
        appear="nrr_dd+infer_dd",
    ),
    _case(
        "small LM from a large LM, logits available",
        "teacher_access=outputs, goal=compress, data_regime=labelled, modality=text, task=langmodel",
        first="taid",
        absent="fabric_rd",
    ),
    _case(
        "small query encoder against the large model's index",
        "teacher_access=outputs, goal=compress, data_regime=unlabelled, modality=text, task=embedding",
        first="leaf",
    ),
    _case(
        "extra sensor at training, one at test",
        "teacher_access=whitebox, goal=transfer, data_regime=paired, modality=multimodal, task=classification",
        first="mst_distill",
    ),
)
