"""Every builder of views with random data: what the contract asks of all of them needs inputs for each."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from kdcore import taxonomy
from kdcore.cka_maps import BatchEstimate
from kdcore.diagnose import Diagnosis, diagnose
from kdcore.functional.landscape import orthonormal_directions
from kdcore.functional.masks import cox_intensity, sample_cox_mask
from kdcore.models import ConvNet
from workbench import views as V
from workbench.views import method_map
from workbench.views.base import View
from workbench.views.picture import VERSION
from workbench.views.theme import LIGHT, Theme

_KINDS = ("sweet pepper", "willow tree", "lawn mower", "pickup truck", "boy")
#: A hundred names of 25 characters.
LONG = [f"{_KINDS[i % 5]}, kind number {i:02d}"[-25:].rjust(25, "x") for i in range(100)]
#: Names that are mark-up, formulas, formats or not written from left to right in Latin letters.
HOSTILE = ["<b>", r"$\frac{$", "[/x]", "🐟🐠", "שלום עולם", "魚の水槽", "x" * 25, "%s {0} \\", "a\nb", "</script>"]


@dataclass
class Data:
    """Random numbers for one view.

    Attributes:
        names: of classes, rows, layers, series: as many as the view shows.
        holes: put a NaN into what :meth:`real` and :meth:`share` give.
    """

    names: list[str]
    holes: bool = False
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def n(self) -> int:
        return len(self.names)

    @property
    def few(self) -> list[str]:
        """Names where a view takes one panel or line for each."""
        return self.names[:3]

    def real(self, *shape: int) -> np.ndarray:
        return self._holed(self.rng.normal(size=shape))

    def share(self, *shape: int) -> np.ndarray:
        return self._holed(self.rng.uniform(0.05, 0.95, shape))

    def chances(self, *shape: int) -> np.ndarray:
        """Probabilities along the last axis."""
        made = self.rng.uniform(0.1, 1, shape)
        return self._holed(made / made.sum(-1, keepdims=True))

    def labels(self, count: int) -> np.ndarray:
        return self.rng.integers(0, max(1, self.n), count)

    def _holed(self, made: np.ndarray) -> np.ndarray:
        if self.holes and made.size:
            made.flat[0] = np.nan
        return made


def _gram(d: Data) -> np.ndarray:
    x = d.real(12, 4)
    return x @ x.T


def _histories(d: Data) -> Mapping[str, Any]:
    def epoch(e: int) -> SimpleNamespace:
        return SimpleNamespace(epoch=e, terms={"ce": float(d.real(1)[0] ** 2)}, metrics={"a": float(d.share(1)[0])})

    return {name: [[epoch(e) for e in range(3)] for _ in range(2)] for name in d.names[:6]}


def _square(s: torch.Tensor) -> torch.Tensor:
    return s.square().sum(1)


@cache
def diagnosis(names: tuple[str, ...]) -> Diagnosis:
    torch.manual_seed(0)
    n = len(names)
    x, y = torch.rand(40, 3, 12, 12), torch.arange(40) % n
    networks = [ConvNet(widths, n, in_channels=3) for widths in ((4, 6), (3, 3))]
    return diagnose(*networks, (x, y), bootstrap=5, class_names=list(names), mask_ratios=(0.5,), mask_samples=8)


def _diagnosed(d: Data) -> Mapping[str, Any]:
    """Pictures of a diagnosis; one class cannot be diagnosed."""
    return V.diagnosis_views(diagnosis(tuple(d.names))) if d.n > 1 else {}


def _found(view: str) -> Callable[[Data], Any]:
    return lambda d: _diagnosed(d).get(view)


def _boxes(d: Data, count: int) -> np.ndarray:
    low = d.share(count, 2) * 0.5
    return np.concatenate([low, low + 0.3], 1)


def _images(d: Data, count: int) -> np.ndarray:
    return d.rng.uniform(size=(count, 3, 16, 16))


_INTENSITY = cox_intensity(16, block_size=4, sigma=8)
_PAPERS = taxonomy.entries()
_WALK = np.linspace(0, 1, 5)

#: Builder -> a view of it, its names and numbers from :class:`Data`; ``None`` where it has nothing to show.
MAKE: dict[str, Callable[[Data], Any]] = {
    "afkd_weights_view": lambda d: V.afkd_weights_view(d.share(d.n), d.share(d.n), alpha=0.5, beta=1.0, groups=d.names),
    "alignment_view": _found("alignment 1"),
    "attribution_pair_view": lambda d: V.attribution_pair_view(
        d.share(3, 8, 8), d.real(8, 8), d.real(8, 8), label="".join(d.names[:1])
    ),
    "attribution_view": lambda d: V.attribution_view(d.share(1, 8, 8), {n: d.real(8, 8) for n in d.few}),
    "bars_view": lambda d: V.bars_view(d.real(d.n, 2), d.names, ["CE", "KD"]),
    "batch_estimates_view": lambda d: V.batch_estimates_view(
        d.share(3, 4), [BatchEstimate(8, 4, *(torch.from_numpy(d.share(3, 4)) for _ in range(2)))], batch_size=8
    ),
    "cka_compare_view": lambda d: V.cka_compare_view(d.share(d.n, 3), d.share(d.n, 3), d.names, ["a", "b", "c"]),
    "cka_film_view": lambda d: V.cka_film_view([d.share(d.n, 3) for _ in d.few], d.names, ["a", "b", "c"], d.few),
    "cka_grid_view": lambda d: V.cka_grid_view(d.share(d.n, d.n), d.names, d.names),
    "cka_map_view": lambda d: V.cka_map_view(d.share(d.n, d.n), d.names, d.names),
    "class_positions_view": lambda d: V.class_positions_view(
        {"teacher": d.real(20, d.n), "student": d.real(20, d.n)}, d.labels(20), class_names=d.names
    ),
    "comparison_view": lambda d: V.comparison_view(
        pd.DataFrame([{"arm": n, "seed": k, "last": float(v)} for n in d.names for k, v in enumerate(d.share(3))])
    ),
    "conflict_view": lambda d: V.conflict_view({n: 2 * d.share(9) - 1 for n in d.names[:10]}),
    "confusion_view": lambda d: V.confusion_view({n: d.rng.integers(0, 9, (d.n, d.n)) for n in d.few}, d.names),
    "contours_view": lambda d: V.contours_view(
        _WALK, _WALK, {n: d.real(5, 5) for n in d.few}, x_label="a", y_label="b", title="t"
    ),
    "correlation_heatmaps_view": lambda d: V.correlation_heatmaps_view(
        d.chances(20, d.n), d.chances(20, d.n), class_names=d.names
    ),
    "coverage_view": lambda d: V.coverage_view(
        d.chances(12, d.n), [0], [3, 5], step=1, groups=d.labels(12), class_names=d.names
    ),
    "diagnosis_views": lambda d: [*_diagnosed(d).values()],
    "findings_view": _found("findings"),
    "flow_view": lambda d: method_map.flow_view(_PAPERS),
    "gram_view": lambda d: V.gram_view({n: _gram(d) for n in d.few}, d.labels(12), class_names=d.names),
    "graph_view": lambda d: V.graph_view(d.names, d.rng.integers(0, max(1, d.n), (2, 2 * d.n)), values=d.real(d.n)),
    "guide_view": lambda d: method_map.guide_view({}),
    "head_bars_view": lambda d: V.head_bars_view({n: d.chances(d.n) for n in d.few}, d.names, label=0, title="t"),
    "heatmap_view": lambda d: V.heatmap_view(d.real(d.n, d.n), d.names, d.names, title="t", label="x", diverging=True),
    "histogram_view": lambda d: V.histogram_view({n: d.real(30) for n in d.names}),
    "image_grid_view": lambda d: V.image_grid_view(_images(d, d.n), d.names),
    "kd_split_view": lambda d: V.kd_split_view(
        d.real(20, d.n), d.real(20, d.n), d.labels(20), temperature=2.0, beta=2.0
    ),
    "layer_identification_view": lambda d: V.layer_identification_view({n: d.share(d.n, d.n) for n in d.few}, d.names),
    "lines_view": lambda d: V.lines_view(_WALK, {n: d.real(5) for n in d.names}, x_label="x", y_label="y", title="t"),
    "loss_landscape_view": lambda d: V.loss_landscape_view(
        d.real(d.n),
        dict.fromkeys(d.few, _square),
        orthonormal_directions(d.n, generator=torch.Generator().manual_seed(0)),
        points=5,
    ),
    "mask_view": lambda d: V.mask_view(
        {n: d.share(6) for n in d.few},
        {n: d.chances(d.n) for n in d.few},
        d.chances(d.n),
        d.names,
        kind="masked",
        label=0,
    ),
    "masked_images_view": lambda d: V.masked_images_view(
        _images(d, 4), sample_cox_mask(_INTENSITY, 4, mask_ratio=0.5), _INTENSITY, mask_ratio=0.5
    ),
    "masked_share_view": lambda d: V.masked_share_view(d.share(d.n), _INTENSITY, mask_ratio=0.5),
    "missed_view": _found("missed"),
    "mixture_view": lambda d: V.mixture_view(d.share(2, 3), (0.0, 0.5, 1.0), (1.0, 2.0), alpha=0.5, beta=1.0),
    "nd_landscape_view": lambda d: V.nd_landscape_view(d.real(2), d.real(2), d.real(2), points=9),
    "neighbours_view": lambda d: method_map.neighbours_view(_PAPERS),
    "norm_direction_curves_view": lambda d: V.norm_direction_curves_view(
        {n: (d.share(3), d.share(3)) for n in d.names[:6]}
    ),
    "norm_direction_view": lambda d: V.norm_direction_view({n: (d.share(9), d.share(9)) for n in d.few}),
    "occlusion_view": _found("occlusion"),
    "overlay_view": lambda d: V.overlay_view(d.real(d.n, 4, 4), _images(d, d.n), d.names),
    "paths_view": lambda d: V.paths_view({"CE": d.share(d.n), "KD": d.share(d.n)}, d.names),
    "pld_weights_view": lambda d: V.pld_weights_view(d.real(d.n), 0, class_names=d.names),
    "probability_bars_view": lambda d: V.probability_bars_view(
        d.real(d.n), d.real(d.n), d.names, temperature=2.0, label=0
    ),
    "rank_agreement_view": lambda d: V.rank_agreement_view(d.real(20, d.n), d.real(20, d.n), d.real(20, d.n)),
    "ranking_view": lambda d: V.ranking_view(d.real(d.n), d.real(d.n), d.names, label=0),
    "reliability_view": _found("reliability"),
    "robustness_view": _found("robustness"),
    "routing_view": lambda d: V.routing_view(dict(zip(d.names[:10], d.chances(4, min(d.n, 10)).T, strict=True))),
    "scatter_view": lambda d: V.scatter_view(
        d.real(d.n), d.real(d.n), x_label="x", y_label="y", title="t", groups=d.names
    ),
    "shift_profile_view": lambda d: V.shift_profile_view(
        {n: [{"a": v, "b": 2 * v} for v in d.share(2)] for n in d.names[:6]}
    ),
    "similarity_profile_view": lambda d: V.similarity_profile_view(
        dict(zip(d.names, d.share(d.n), strict=True)), dict(zip(d.names, d.share(d.n), strict=True))
    ),
    "soft_target_view": lambda d: V.soft_target_view(d.real(d.n), 0, d.names, temperature=2.0),
    "status_view": lambda d: method_map.status_view(_PAPERS),
    "step_gallery_view": lambda d: V.step_gallery_view(d.share(d.n, 3, 4, 4), d.names, values=d.real(d.n, 3)),
    "structure_view": lambda d: V.structure_view(
        {
            "teacher": {"histogram": d.rng.integers(0, 9, d.n), "ratio": 0.5},
            "even": {"histogram": np.ones(d.n), "ratio": 1.0},
        },
        d.names,
    ),
    "success_view": lambda d: V.success_view({n: d.share(9) for n in d.names[:6]}),
    "token_sequence_view": lambda d: V.token_sequence_view([d.names] * 2, d.real(2, d.n), ["teacher", "student"]),
    "token_shift_view": lambda d: V.token_shift_view(*_images(d, 2), {n: d.share(4, 4) for n in d.few}),
    "tracking_view": lambda d: V.tracking_view(_images(d, d.n), _boxes(d, d.n), _boxes(d, d.n), d.names),
    "training_curves_view": lambda d: V.training_curves_view(_histories(d)),
    "trajectory_view": lambda d: V.trajectory_view(
        {n: d.real(4, 2) for n in d.names}, background=(_WALK, _WALK, d.real(5, 5))
    ),
    "triangle_view": lambda d: V.triangle_view(
        d.chances(3, max(2, d.n)), *(d.chances(max(2, d.n)) for _ in range(3)), alpha=[0.5, 0.3, 0.2], epoch=1
    ),
    "trust_view": lambda d: V.trust_view({n: d.share(9) for n in d.names[:6]}),
    "worth_view": lambda d: V.worth_view(d.real(d.n), d.real(d.n), 0, step=1, class_names=d.names),
}


def builders() -> set[str]:
    """Names of all functions ``..._view`` and ``..._views`` in the modules of ``workbench.views``."""
    folder, found = Path(V.__file__).parent, set()
    for path in folder.rglob("[!_]*.py"):
        module = import_module(".".join(("workbench.views", *path.relative_to(folder).with_suffix("").parts)))
        found |= {
            n
            for n, v in vars(module).items()
            if n.endswith(("_view", "_views")) and n[0] != "_" and v.__module__ == module.__name__
        }
    return found


def views_of(builder: str, data: Data) -> list[View]:
    """What a builder makes of the data, as a list."""
    made = MAKE[builder](data)
    return made if isinstance(made, list) else [made] if made is not None else []


def unpack(packed: dict[str, Any]) -> np.ndarray:
    made = np.frombuffer(base64.b64decode(packed["data"]), packed["dtype"])
    return made.reshape(packed["shape"])


def arrays(value: Any, plain: Any, path: str = "") -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Arrays of a picture with what its plain form has in their place."""
    if isinstance(value, np.ndarray):
        assert plain is not None and set(plain) == {"shape", "dtype", "data"}, path
        yield path, value, unpack(plain)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from arrays(getattr(value, name), plain[name], f"{path}.{name}")
    elif isinstance(value, dict):
        assert {str(k) for k in value} == set(plain), path
        for k, v in value.items():
            yield from arrays(v, plain[str(k)], f"{path}[{k!r}]")
    elif isinstance(value, list | tuple):
        assert len(value) == len(plain), path
        for i, v in enumerate(value):
            yield from arrays(v, plain[i], f"{path}[{i}]")


def check_view(view: View, theme: Theme | None = LIGHT) -> None:
    """Words, table, data and (in ``theme``) the still picture exist and agree."""
    assert view.title.strip() and view.alt.endswith((".", "!", "?")), view.alt
    assert not re.search(r"\b(nan|inf|None)\b", view.alt), view.alt
    assert len(view.table) and view.table.columns.is_unique and len(view.table_html())
    page = view.html(still="data:image/png;base64,")
    assert page.count("<img") == 1 and "<b></b>" not in page
    if view.picture is None:
        assert view.spec is None and view.draw is not None
    else:
        text = json.dumps(view.picture.json(), allow_nan=False)
        plain = json.loads(text)
        assert plain["version"] == VERSION and len(plain["panels"]) == len(view.picture.panels)
        for path, held, sent in arrays(view.picture, plain):
            assert held.shape == sent.shape, path
            np.testing.assert_allclose(sent, held, rtol=1e-6 if sent.dtype == np.float32 else 0, err_msg=path)
        found = re.search(r'<script type="application/json" class="kd-data">(.*?)</script>', page, re.S)
        assert found and json.loads(found[1]) == {"title": view.title, "alt": view.alt, "spec": plain}
    if theme is not None:
        width, height = Image.open(io.BytesIO(view.png(theme))).size
        assert 150 <= width <= 900 and 60 <= height <= 1250, (width, height)


__all__ = ["HOSTILE", "LONG", "MAKE", "Data", "builders", "check_view", "views_of"]
