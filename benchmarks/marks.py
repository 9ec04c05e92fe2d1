"""One example of every kind of panel and mark: size of its data, time to draw it in the page, how it looks.

``python -m benchmarks.marks`` prints the table of ``docs/pictures.md`` (with plotly beside where it has the same kind);
``--images`` writes a picture of every example in both themes to ``docs/images/marks``. Both need Chromium. Page time is
``performance.now()`` around drawing and layout in a page that has the script already; the smallest of nine turns.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.marks import script, style
from workbench.views import View
from workbench.views.picture import (
    Area,
    Arrows,
    Axis,
    Bars,
    Colours,
    Field,
    Graph,
    Heat,
    Histogram,
    Images,
    Line,
    Mark,
    Panel,
    Picture,
    Plane,
    Points,
    Ribbons,
    Rule,
    Simplex,
    Span,
    Table,
    Texts,
    Tokens,
)

_ROOT = Path(__file__).resolve().parent.parent
_IMAGES = _ROOT / "docs" / "images" / "marks"
_TURNS = 9
_NAMES = ("sweet pepper", "willow tree", "lawn mower", "pickup truck", "boy", "cat", "dog", "owl")
_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog")
_WIDTH = 460


def _line() -> Mark:
    x = np.arange(10)
    mean = 1 - 0.8**x
    return Line("KD", x, mean, mean - 0.06, mean + 0.04)


def _plane(*marks: Mark, **axes: Any) -> Plane:
    return Plane(*marks, height=190, **axes)


def _points() -> Plane:
    rng = np.random.default_rng(0)
    xy = rng.normal(size=(40, 2))
    fitted = xy + rng.normal(scale=0.2, size=(40, 2))
    return _plane(
        Points("teacher", xy[:, 0], xy[:, 1], style="teacher", to=fitted),
        Points("student", fitted[:, 0], fitted[:, 1], style="student", notes=[f"sample {i}" for i in range(40)]),
        x=Axis("direction 1"),
        y=Axis("direction 2"),
    )


def _images() -> Images:
    y, x = np.mgrid[-1:1:12j, -1:1:12j]
    pictures = np.stack([np.exp(-((x - a) ** 2 + y**2) * 4) for a in (-0.5, 0.0, 0.5)])
    maps = np.where(pictures > 0.3, pictures, np.nan)
    boxes = {"true box": [[0.1, 0.2, 0.6, 0.8]] * 3, "found": [[0.2, 0.2, 0.7, 0.9]] * 2 + [[np.nan] * 4]}
    return Images(
        images=pictures, captions=_NAMES[:3], maps=maps, colours=Colours(0, 1, "occlusion"), boxes=boxes, size=110
    )


def _panels() -> dict[str, Panel]:
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(5), 2)
    at = range(5)
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    u = np.linspace(-2, 2, 25)
    places = rng.permutation(6)
    return {
        "line": _plane(
            _line(), Line("CE", range(10), 0.9 - 0.7 ** np.arange(10), style=1), x=Axis("epoch"), y=Axis("accuracy")
        ),
        "points": _points(),
        "bars": _plane(
            Bars("student", at, q, style="student", low=q * 0.8, high=q * 1.2),
            Bars("teacher", at, p, style="teacher"),
            x=Axis("class", names=_NAMES[:5], strong=[1]),
            y=Axis("probability", low=0),
        ),
        "histogram": _plane(
            Histogram("student", np.linspace(0, 1, 9), [1, 4, 9, 12, 8, 4, 2, 1], mean=0.45),
            x=Axis("margin"),
            y=Axis("samples"),
        ),
        "rule": _plane(_line(), Rule(0.5, "half right"), x=Axis("epoch"), y=Axis("accuracy")),
        "span": _plane(_line(), Span(2.0, 6.0, "warm-up"), x=Axis("epoch"), y=Axis("accuracy")),
        "arrows": _plane(
            Arrows("pull", np.cos(angles), np.sin(angles), -0.5 * np.sin(angles), 0.5 * np.cos(angles)),
            Points("student", np.cos(angles), np.sin(angles), style="student"),
            x=Axis("logit 1", low=-2, high=2),
            y=Axis("logit 2", low=-2, high=2),
        ),
        "area": _plane(
            Area("reach", [0, 2, 1], [0, 0, 2], style=2),
            Points("corners", [0, 2, 1], [0, 0, 2], style=2),
            x=Axis("a"),
            y=Axis("b"),
        ),
        "field": _plane(
            Field(np.add.outer(u**2, u**2), (-2, 2), (-2, 2), Colours(0, 8, "loss"), levels=[1, 2, 4]),
            x=Axis("a"),
            y=Axis("b"),
        ),
        "texts": _plane(
            Texts([1, 2, 3], [1, 2, 3], _NAMES[:3]),
            Points("classes", [1, 2, 3], [0.8, 1.8, 2.8]),
            x=Axis("a"),
            y=Axis("b"),
        ),
        "heat": Heat(
            values=np.where(np.eye(5), 0.9, rng.uniform(0, 0.4, (5, 5))),
            colours=Colours(0, 1, "CKA"),
            rows=_NAMES[:5],
            columns=_NAMES[3:],
            numbers=".2f",
            framed=[(0, 0)],
            meanings={"framed": "best in row"},
            row_label="student",
            column_label="teacher",
        ),
        "images": _images(),
        "ribbons": Ribbons(names=_NAMES[:6], left=range(6), right=places, left_title="teacher", right_title="student"),
        "simplex": Simplex(
            corners=_NAMES[5:], points={"student": [[0.6, 0.3, 0.1], [0.3, 0.3, 0.4]], "teacher": [[0.1, 0.2, 0.7]]}
        ),
        "tokens": Tokens(
            tokens=[list(_WORDS), ["a", "line\n", "and", "its", "end"]],
            values=[rng.uniform(0, 3, 9), [0.4, 2.2, 1.0, np.nan, 0.2]],
            rows=["teacher", "student"],
            colours=Colours(0, 3, "loss in nats"),
        ),
        "graph": Graph(
            positions=np.c_[np.cos(angles), np.sin(angles)],
            edges=[[*range(8), 0, 2], [*range(1, 8), 0, 4, 6]],
            names=_NAMES,
            values=rng.uniform(size=8),
            colours=Colours(0, 1, "weight"),
            directed=True,
        ),
        "table": Table(columns={"method": ["CE", "KD", "PLD"], "accuracy": [0.912, 0.934, 0.941]}, bars=["accuracy"]),
    }


def examples() -> dict[str, View]:
    """A view for every kind of mark and panel, by kind."""
    table = pd.DataFrame({"what": ["an example"]})
    return {
        kind: View(
            title=f"Example of {kind}", alt=f"An example of the kind {kind}.", table=table, picture=Picture(panel)
        )
        for kind, panel in _panels().items()
    }


def large() -> dict[str, View]:
    """The two sizes with a goal: a heat map of 100 x 100 cells, and 5,000 points."""
    rng = np.random.default_rng(0)
    names = [f"class with a long name {i}" for i in range(100)]
    heat = Heat(values=rng.uniform(size=(100, 100)), colours=Colours(0, 1, "share"), rows=names, columns=names)
    points = Plane(
        *(Points(f"model {k}", rng.normal(size=2500), rng.normal(size=2500), style=k) for k in range(2)),
        x=Axis("a"),
        y=Axis("b"),
    )
    table = pd.DataFrame({"what": ["an example"]})
    made: dict[str, Panel] = {"heat, 100 x 100 cells": heat, "points, 5,000": points}
    return {what: View(title=what, alt=f"{what}.", table=table, picture=Picture(panel)) for what, panel in made.items()}


def spec_bytes(view: View) -> int:
    """Size of the picture's data on a page or in a saved notebook."""
    assert view.picture is not None
    return len(json.dumps(view.picture.json(), separators=(",", ":")))


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that reaches nothing."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("KDW_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def open_page(browser: Any, *, dark: bool = False, width: int = 900) -> Any:
    """An empty page that has the marks' script, with ``mount`` within reach."""
    page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme="dark" if dark else "light")
    body = f"<script type='module'>{script('page.js')}\nwindow.kdMount = mount;</script>"
    page.set_content(f"<!DOCTYPE html><title>marks</title><style>{style()}body{{margin:8px}}</style><body>{body}")
    page.wait_for_function("() => window.kdMount")
    return page


_TIMED = """([draw, given, turns]) => {
    const times = [], made = eval(draw);
    for (let i = 0; i < turns; i++) {
        const place = document.body.appendChild(document.createElement("div"));
        place.style.width = "880px";
        const given_ = JSON.parse(given), start = performance.now();
        made(place, given_);
        place.getBoundingClientRect();
        times.push(performance.now() - start);
        place.remove();
    }
    return times;
}"""


def page_times(page: Any, view: View, *, turns: int = _TURNS) -> list[float]:
    """Milliseconds of drawing a view in the page, each time from its data."""
    assert view.picture is not None
    given = json.dumps({"spec": view.picture.json(), "title": view.title, "alt": view.alt})
    return list(page.evaluate(_TIMED, ["(el, given) => window.kdMount(el, given)", given, turns]))


def _plotly(view: View) -> dict[str, Any] | None:
    """The same picture for plotly.js, where it has that kind."""
    assert view.picture is not None
    (panel,) = view.picture.panels
    if isinstance(panel, Heat):
        return {"data": [{"type": "heatmap", "z": panel.values.tolist(), "x": panel.columns, "y": panel.rows}]}
    if not isinstance(panel, Plane):
        return None
    traces: list[dict[str, Any]] = []
    for m in panel.marks:
        if isinstance(m, Points):
            traces.append({"type": "scatter", "mode": "markers", "name": m.name, "x": m.x.tolist(), "y": m.y.tolist()})
        elif isinstance(m, Line):
            traces.append({"type": "scatter", "mode": "lines", "name": m.name, "x": m.x.tolist(), "y": m.y.tolist()})
        elif isinstance(m, Bars):
            traces.append({"type": "bar", "name": m.name, "x": m.at.tolist(), "y": m.values.tolist()})
        elif isinstance(m, Field):
            traces.append({"type": "contour", "z": m.values.tolist()})
        else:
            return None
    return {"data": traces}


def _plotly_times(page: Any, figure: dict[str, Any]) -> list[float]:
    return list(page.evaluate(_TIMED, ["(el, f) => Plotly.newPlot(el, f.data)", json.dumps(figure), _TURNS]))


def measure_all() -> list[dict[str, Any]]:
    """Every example: bytes of its data and page time, plotly's where it has the kind."""
    import plotly

    library = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    rows = []
    with chromium() as browser:
        page = open_page(browser)
        page.add_script_tag(path=str(library))
        for kind, view in (examples() | large()).items():
            theirs = _plotly(view)
            times = page_times(page, view)
            rows.append(
                {
                    "kind": kind,
                    "bytes": spec_bytes(view),
                    "first": times[0],
                    "least": min(times),
                    "plotly bytes": theirs and len(json.dumps(theirs, separators=(",", ":"))),
                    "plotly least": theirs and min(_plotly_times(page, theirs)),
                }
            )
    return rows


def write_images(folder: Path = _IMAGES, *, only: Callable[[str], bool] = lambda kind: True) -> list[Path]:
    """A picture of every example, ``<kind>-light.png`` and ``<kind>-dark.png``, in few colours."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with chromium() as browser:
        for theme in ("light", "dark"):
            page = open_page(browser, dark=theme == "dark", width=_WIDTH + 16)
            for kind, view in examples().items():
                if not only(kind):
                    continue
                assert view.picture is not None
                given = {"spec": view.picture.json(), "title": view.title, "alt": view.alt}
                page.evaluate(
                    "g => { document.querySelectorAll('.kd-picture').forEach(n => n.remove()); "
                    "window.kdMount(document.body, g); }",
                    given,
                )
                shot = Image.open(io.BytesIO(page.locator(".kd-picture").screenshot())).convert("RGB")
                path = folder / f"{kind}-{theme}.png"
                shot.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
                written.append(path)
    return written


def main() -> None:
    """The table, or the pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.marks", description=__doc__)
    parser.add_argument("--images", action="store_true", help="write the pictures instead")
    if parser.parse_args().images:
        for path in write_images():
            print(f"{path.relative_to(_ROOT)}: {path.stat().st_size / 1000:.1f} KB")
        return
    print(f"script {len(script('page.js')) / 1000:.0f} KB, style {len(style()) / 1000:.1f} KB")
    print("| mark | data, KB | first draw, ms | least, ms | plotly: data, KB | least, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for r in measure_all():
        theirs = f"{r['plotly bytes'] / 1000:.1f} | {r['plotly least']:.0f}" if r["plotly bytes"] else "– | –"
        print(f"| {r['kind']} | {r['bytes'] / 1000:.1f} | {r['first']:.1f} | {r['least']:.1f} | {theirs} |")


if __name__ == "__main__":
    main()
