"""kdcore: the methods of the knowledge-distillation papers, exact, on plain torch.

Shape letters used in all docstrings: ``N`` samples, ``C`` classes, ``D`` features, ``T`` tokens, ``H, W`` size.
Public names are loaded on first use, so that ``import kdcore`` costs no more than torch.
"""

from __future__ import annotations

from ._lazy import lazy

__version__ = "0.1.0"

_HOME = {
    "MethodCard": "card",
    "Knob": "card",
    "list_methods": "registry",
    "list_objectives": "registry",
    "get_card": "registry",
    "create_method": "registry",
    "Method": "method",
    "Signals": "method",
    "Needs": "method",
    "tap": "taps",
    "Taps": "taps",
    "layers": "model_layers",
    "pair_layers": "model_layers",
    "collect_features": "model_layers",
    "make_projector": "projectors",
    "TeacherCache": "cache",
    "Training": "engine",
    "Stage": "engine",
    "Learn": "engine",
    "fit": "engine",
    "Distiller": "distiller",
    "distill": "distiller",
    "Step": "engine",
    "Epoch": "engine",
    "cka_map": "cka_maps",
    "CKAResult": "cka_maps",
    "Diagnosis": "diagnose",
    "Finding": "diagnose",
    "load_task": "tasks",
    "list_tasks": "tasks",
    "compare": "experiment",
    "Arm": "experiment",
    "Claim": "experiment",
}
__all__ = ["__version__", *_HOME]

__getattr__, __dir__ = lazy(__name__, _HOME)
