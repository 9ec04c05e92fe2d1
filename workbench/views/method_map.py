"""Pictures of the method map: papers flowing through the axes, the map of neighbours, what is done, the guide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kdcore import taxonomy
from kdcore.card import AXES, FAMILIES
from kdcore.functional.checks import check_choice
from kdcore.html import escaped, join, table, tag
from kdcore.taxonomy import MethodEntry

from .base import View
from .drawing import WIDTH
from .picture import Axis, Bars, Mark, Picture, Plane, Points, Texts
from .theme import CATEGORICAL, MARKERS, Theme, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOW_AXES = ("knowledge", "scheme", "task", "teacher_access")
_COLOUR = dict(zip(AXES["knowledge"], CATEGORICAL, strict=True))
_MARKER = dict(zip(AXES["knowledge"], MARKERS, strict=True))
_SORTS = ("family", "slug", "year", "status", *AXES)


def papers_table(papers: Sequence[MethodEntry], *, sort: str = "family") -> pd.DataFrame:
    """One row per paper: status, slug, title, year, family and the ten axes (``a+b``, the main value first).

    Args:
        papers: which.
        sort: ``family`` (order of the book), ``slug``, ``year``, ``status`` or an axis; ties by slug.
    """
    check_choice("sort", sort, _SORTS)
    rows = [
        {
            "slug": p.slug,
            "status": p.status,
            "title": p.title,
            "year": p.year,
            "family": p.family,
            **{axis: "+".join(p.values(axis)) for axis in AXES},
        }
        for p in papers
    ]
    table = pd.DataFrame(rows, columns=["slug", "status", "title", "year", "family", *AXES])
    order: dict[str, tuple[str, ...]] = {"family": (*FAMILIES, "survey"), "status": taxonomy.STATUSES}
    table["_key"] = table[sort].map(order[sort].index) if sort in order else table[sort]
    return table.sort_values(["_key", "slug"]).drop(columns="_key").reset_index(drop=True)


def papers_html(papers: Sequence[MethodEntry], *, sort: str = "family", base: str = "") -> str:
    """The table as HTML with links to lessons (implemented papers), papers and official code; planned ones say so.

    Args:
        papers: which.
        sort: see :func:`papers_table`.
        base: what leads from the page to the folder that holds ``notebooks``; ``".."`` for a page inside ``notebooks``.
    """
    by_slug = {p.slug: p for p in papers}
    rows = []
    for row in papers_table(papers, sort=sort).itertuples():
        paper = by_slug[str(row.slug)]
        lesson = "/".join(filter(None, (base, paper.notebook)))
        rows.append(
            (
                tag("a", paper.slug, href=lesson) if paper.status == "implemented" else paper.slug,
                paper.status,
                tag("div", paper.title, style="min-width:18em"),
                paper.year,
                paper.family,
                *("+".join(paper.values(axis)) for axis in ("knowledge", "scheme", "task", "goal")),
                join((tag("a", kind, href=url) for kind, url in paper.links.items()), " · "),
            )
        )
    head = ("lesson", "status", "paper", "year", "family", "knowledge", "scheme", "task", "goal", "links")
    shown = table(rows, head, caption=f"{_counts(papers)}, sorted by {sort}")
    return tag("div", shown, style="overflow:auto;max-height:32em")


def text_table(rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> str:
    """A table of words as HTML, columns aligned left (JupyterLab aligns to the right, which suits numbers)."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    lines = [
        [f"{v:.3f}" if isinstance(v, float) and v == v else v for v in row] for row in frame.itertuples(index=False)
    ]
    return table(lines, tuple(frame.columns), row_heads=False)


def _counts(papers: Sequence[MethodEntry]) -> str:
    count = Counter(p.status for p in papers)
    surveys = "1 survey" if count["survey"] == 1 else f"{count['survey']} surveys"
    return f"{len(papers)} papers: {count['implemented']} implemented, {count['planned']} planned" + (
        f", {surveys}" if count["survey"] else ""
    )


def _check_papers(papers: Sequence[MethodEntry]) -> None:
    if not papers:
        raise ValueError("papers must hold at least one entry, got none.")


# --- flow through the axes -------------------------------------------------------------------------------------------


def flow_view(
    papers: Sequence[MethodEntry], *, axes: Sequence[str] = FLOW_AXES, highlight: Collection[str] = ()
) -> View:
    """Parallel categories: each paper is a ribbon through its main values on several axes, coloured by knowledge.

    Args:
        papers: which.
        axes: two or more of the ten axes, left to right.
        highlight: slugs to draw in full colour; the others are faded. Empty: all in full colour.

    Raises:
        ValueError: no papers, fewer than two axes, an unknown axis, or a highlighted slug that is not among the papers.
    """
    _check_papers(papers)
    if len(axes) < 2 or len(set(axes)) < len(axes):
        raise ValueError(f"axes must name two or more different axes, got {tuple(axes)!r}.")
    for axis in axes:
        check_choice("axes", axis, tuple(AXES))
    for slug in highlight:
        check_choice("highlight", slug, [p.slug for p in papers])
    order = _category_order(papers, axes)
    leading = [(axis, Counter(p.values(axis)[0] for p in papers).most_common(1)[0]) for axis in axes]
    alt = (
        f"{_counts(papers)} as ribbons through {', '.join(axes)}. Most frequent: "
        + "; ".join(f"{axis} {value} ({n})" for axis, (value, n) in leading)
        + "."
        + (f" In full colour: {', '.join(sorted(highlight))}." if highlight else "")
    )
    return View(
        title="Papers through the axes (main values)",
        alt=alt,
        table=papers_table(papers)[["slug", "status", *axes]],
        draw=lambda theme: _draw_flow(papers, axes, order, highlight, theme),
        interactive=lambda: _flow_plotly(papers, axes, order, highlight),
    )


def _category_order(papers: Sequence[MethodEntry], axes: Sequence[str]) -> dict[str, list[str]]:
    """Values per axis: first in vocabulary order, then by the mean place of their papers on the axis before."""
    order: dict[str, list[str]] = {}
    place: dict[str, float] = {}
    for axis in axes:
        mains = {p.slug: p.values(axis)[0] for p in papers}
        present = [v for v in AXES[axis] if v in mains.values()]
        if place:
            mean = {v: float(np.mean([place[s] for s, m in mains.items() if m == v])) for v in present}
            present.sort(key=lambda v: mean[v])
        order[axis] = present
        place = _slots(papers, axis, present, place)
    return order


def _slots(
    papers: Sequence[MethodEntry], axis: str, values: Sequence[str], before: Mapping[str, float]
) -> dict[str, float]:
    """The running number of each paper on an axis: by value, then by its place on the axis before."""
    ranked = sorted(papers, key=lambda p: (values.index(p.values(axis)[0]), before.get(p.slug, 0.0), p.slug))
    return {p.slug: float(i) for i, p in enumerate(ranked)}


def _draw_flow(
    papers: Sequence[MethodEntry],
    axes: Sequence[str],
    order: Mapping[str, list[str]],
    highlight: Collection[str],
    theme: Theme,
) -> Figure:
    from matplotlib.figure import Figure

    most = max(len(v) for v in order.values())
    gap, height = 0.75, len(papers) + 0.75 * most
    figure = Figure(figsize=(WIDTH, max(3.0, 0.13 * height + 0.9)), layout="constrained")
    ax = figure.add_subplot()
    centres: dict[str, list[float]] = {p.slug: [] for p in papers}
    slots: dict[str, float] = {}
    last = len(axes) - 1
    for column, axis in enumerate(axes):
        slots = _slots(papers, axis, order[axis], slots)
        spread = gap * most / max(1, len(order[axis]))  # every column fills the height
        for number, value in enumerate(order[axis]):
            members = [p.slug for p in papers if p.values(axis)[0] == value]
            ys = [slots[s] + number * spread + spread / 2 for s in members]
            for slug, y in zip(members, ys, strict=True):
                centres[slug].append(y)
            _draw_category(ax, column, (min(ys) - 0.5, max(ys) + 0.5), f"{value} {len(members)}", column == last, theme)
        align = "left" if column == 0 else "right" if column == last else "center"
        ax.text(column, -1.4, axis.replace("_", " "), ha=align, va="bottom", fontweight="bold")
    for paper in papers:
        bright = not highlight or paper.slug in highlight
        _draw_ribbon(ax, centres[paper.slug], _COLOUR[paper.knowledge[0]], (0.62 if bright else 0.08), theme)
    ax.set(xlim=(-0.03, len(axes) - 0.97), ylim=(height + 0.5, -3.0))
    ax.axis("off")
    return figure


def _draw_category(ax: Axes, column: int, span: tuple[float, float], label: str, last: bool, theme: Theme) -> None:
    from matplotlib.patches import Rectangle

    width, (low, high) = 0.016, span
    ax.add_patch(Rectangle((column - width / 2, low), width, high - low, facecolor=theme.ink, linewidth=0, zorder=4))
    ax.text(
        column + (-0.02 if last else 0.02),
        (low + high) / 2,
        label,
        ha="right" if last else "left",
        va="center",
        fontsize=9.5,
        zorder=5,
        bbox={"facecolor": theme.paper, "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
    )


def _draw_ribbon(ax: Axes, ys: Sequence[float], colour: str, alpha: float, theme: Theme) -> None:
    t = np.linspace(0, 1, 40)
    smooth = t * t * (3 - 2 * t)
    x = np.concatenate([i + t for i in range(len(ys) - 1)])
    y = np.concatenate([a + (b - a) * smooth for a, b in pairwise(ys)])
    ax.fill_between(x, y - 0.44, y + 0.44, color=colour, alpha=alpha, linewidth=0, zorder=2)


def _flow_plotly(
    papers: Sequence[MethodEntry], axes: Sequence[str], order: Mapping[str, list[str]], highlight: Collection[str]
) -> Any:
    import plotly.graph_objects as go

    knowledge = AXES["knowledge"]
    faded = len(knowledge)
    colours = [*(_COLOUR[k] for k in knowledge), "#d0d0d0"]
    scale = [(edge, c) for i, c in enumerate(colours) for edge in (i / (faded + 1), (i + 1) / (faded + 1))]
    shown = [knowledge.index(p.knowledge[0]) if not highlight or p.slug in highlight else faded for p in papers]
    dimensions = [
        {
            "label": axis.replace("_", " "),
            "values": [p.values(axis)[0] for p in papers],
            "categoryorder": "array",
            "categoryarray": order[axis],
        }
        for axis in axes
    ]
    figure = go.Figure(
        go.Parcats(
            dimensions=dimensions,
            line={"color": shown, "colorscale": scale, "cmin": -0.5, "cmax": faded + 0.5, "shape": "hspline"},
            hoveron="color",
            hoverinfo="count",
            arrangement="freeform",
        )
    )
    return figure.update_layout(height=760, margin={"l": 60, "r": 80, "t": 40, "b": 20})


# --- map of neighbours -----------------------------------------------------------------------------------------------


def neighbours_view(papers: Sequence[MethodEntry], *, highlight: Collection[str] = ()) -> View:
    """Papers in the plane: near where they share axis values (classical MDS of weighted Jaccard distances).

    Filled marks are implemented papers, hollow ones planned; colour and shape are the main knowledge. Distances in the
    plane are a projection: the description says how much two dimensions keep; the table gives the true nearest paper.

    Args:
        papers: at least three.
        highlight: slugs to ring.
    """
    _check_papers(papers)
    for slug in highlight:
        check_choice("highlight", slug, [p.slug for p in papers])
    xy, kept = taxonomy.map_coordinates(papers)
    similarity = taxonomy.similarity_matrix(papers)
    np.fill_diagonal(similarity, -1)
    nearest = similarity.argmax(1)
    table = pd.DataFrame(
        {
            "slug": [p.slug for p in papers],
            "status": [p.status for p in papers],
            "x": xy[:, 0],
            "y": xy[:, 1],
            "nearest": [papers[j].slug for j in nearest],
            "similarity": similarity.max(1),
        }
    )
    closest, alone = (table.to_dict("records")[i] for i in (similarity.max(1).argmax(), similarity.max(1).argmin()))
    alt = (
        f"{_counts(papers)}. Nearest pair: {closest['slug']} and {closest['nearest']} (similarity "
        f"{closest['similarity']:.2f}); most alone: {alone['slug']} (nearest {alone['nearest']}, "
        f"{alone['similarity']:.2f}). The plane keeps {percent(kept)} of the spread, so trust the table for exact "
        "neighbours." + (f" Ringed: {', '.join(highlight)}." if highlight else "")
    )
    return View(
        title="Map of the papers: near means alike on the ten axes",
        alt=alt,
        table=table,
        picture=Picture(_map_plane(papers, table, highlight)),
        draw=lambda theme: _draw_map(papers, xy, highlight, theme),
        interactive=lambda: _map_plotly(papers, table),
    )


def _map_plane(papers: Sequence[MethodEntry], table: pd.DataFrame, highlight: Collection[str]) -> Plane:
    marks: list[Mark] = []
    for k, kind in enumerate(AXES["knowledge"]):
        for hollow in (False, True):
            rows = [i for i, p in enumerate(papers) if p.knowledge[0] == kind and (p.status != "implemented") == hollow]
            if rows:
                notes = [f"{papers[i].title}\n{papers[i].status}\nnearest: {table['nearest'][i]}" for i in rows]
                marks.append(
                    Points(
                        f"{kind}, planned or survey" if hollow else kind,
                        table["x"][rows],
                        table["y"][rows],
                        style=k,
                        size=10,
                        ring=hollow,
                        notes=notes,
                        texts=[papers[i].slug for i in rows],
                    )
                )
    ringed = [i for i, p in enumerate(papers) if p.slug in highlight]
    if ringed:
        marks.append(Points("", table["x"][ringed], table["y"][ringed], style="ink", size=20, ring=True))
    return Plane(*marks, x=Axis(hidden=True), y=Axis(hidden=True), equal=True, height=430)


def _draw_map(papers: Sequence[MethodEntry], xy: np.ndarray, highlight: Collection[str], theme: Theme) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(WIDTH, 8.8), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    for paper, (x, y) in zip(papers, xy, strict=True):
        kind = paper.knowledge[0]
        filled = paper.status == "implemented"
        ax.scatter(
            x,
            y,
            s=75,
            marker=_MARKER[kind],
            color=_COLOUR[kind] if filled else theme.paper,
            edgecolors=_COLOUR[kind],
            linewidths=1.8,
            zorder=3,
        )
        if paper.slug in highlight:
            ax.scatter(x, y, s=190, marker="o", facecolors="none", edgecolors=theme.ink, linewidths=1.6, zorder=2)
    shown = [k for k in AXES["knowledge"] if any(p.knowledge[0] == k for p in papers)]
    handles = [Line2D([], [], linestyle="", marker=_MARKER[k], color=_COLOUR[k], label=k, markersize=8) for k in shown]
    handles += [
        Line2D([], [], linestyle="", marker="o", color=theme.muted, label="implemented", markersize=8),
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markerfacecolor=theme.paper,
            markeredgecolor=theme.muted,
            label="planned or survey",
            markersize=8,
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=10, frameon=False)
    ax.set(xticks=[], yticks=[])
    ax.margins(0.06)
    ax.set_aspect("equal", adjustable="datalim")
    for spine in ax.spines.values():
        spine.set_visible(False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are placed in pixels: nothing may move any more
    _label_points(ax, xy, [p.slug for p in papers], theme)
    return figure


def _label_points(ax: Axes, xy: np.ndarray, labels: Sequence[str], theme: Theme) -> None:
    """Each label at the free place nearest to its point, crowded points first; a thin line where it had to move."""
    points, frame = ax.transData.transform(xy), ax.get_window_extent().extents
    unit = ax.figure.dpi / 100
    texts = [ax.text(0, 0, label, ha="center", va="center", fontsize=9.5, zorder=5) for label in labels]
    extents = np.array([text.get_window_extent().extents for text in texts])
    sizes = extents[:, 2:] - extents[:, :2] + unit * np.array([4, 1])
    crowd = (np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)) < 70 * unit).sum(1)
    marks, taken = _boxes(points, np.full(2, 15 * unit)), np.empty((0, 4))
    for i in np.argsort(-crowd, kind="stable"):
        offsets = _offsets(sizes[i], unit)
        places = _boxes(points[i] + offsets, sizes[i])
        leaders = _leaders(points[i], offsets, sizes[i], unit)
        obstacles = np.concatenate([np.delete(marks, i, 0), taken])
        hidden = _overlaps(places, obstacles).sum(1) + _overlaps(leaders, obstacles).sum((1, 2))
        outside = (places[:, :2] < frame[:2]).any(1) | (places[:, 2:] > frame[2:]).any(1)
        best = int((hidden + np.hypot(offsets[:, 0] / 2, offsets[:, 1]) + 1e5 * outside).argmin())
        taken = np.concatenate([taken, places[best : best + 1], leaders[best]])
        centre = points[i] + offsets[best]
        texts[i].set_position(tuple(ax.transData.inverted().transform(centre)))
        if np.isfinite(leaders[best]).all():
            ax.annotate(
                "",
                xy=tuple(points[i]),
                xytext=tuple(centre),
                xycoords="figure pixels",
                zorder=2,
                arrowprops={"arrowstyle": "-", "color": theme.muted, "linewidth": 0.8, "shrinkA": 5, "shrinkB": 5},
            )


def _boxes(centres: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Boxes ``(..., 4)`` as ``x0, y0, x1, y1`` round centres ``(..., 2)``."""
    return np.concatenate([centres - size / 2, centres + size / 2], -1)


def _offsets(size: np.ndarray, unit: float) -> np.ndarray:
    """Places for the centre of a label round its point, ``(n, 2)``: rings, on each the pleasant directions first."""
    angles = np.deg2rad([0, 180, 35, 145, -35, -145, 90, -90, 60, 120, -60, -120])
    directions = np.stack([np.cos(angles), np.sin(angles)], -1)
    rings = unit * np.array([9, 18, 30, 44, 60])[:, None, None]
    return (directions * (rings + size / 2)).reshape(-1, 2)


def _leaders(point: np.ndarray, offsets: np.ndarray, size: np.ndarray, unit: float) -> np.ndarray:
    """Small boxes along the line to each place, ``(n, 5, 4)``; not-a-number where the label is near enough without."""
    centres = point + np.linspace(0.2, 0.8, 5)[:, None] * offsets[:, None]
    far = np.hypot(*np.maximum(0, np.abs(offsets) - size / 2).T) > 13 * unit
    return np.where(far[:, None, None], _boxes(centres, np.full(2, 3 * unit)), np.nan)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Areas that boxes ``(..., 4)`` and ``(m, 4)`` share, ``(..., m)``; 0 where one is not a number."""
    low, high = np.maximum(a[..., None, :2], b[:, :2]), np.minimum(a[..., None, 2:], b[:, 2:])
    return np.nan_to_num(np.maximum(0, high - low)).prod(-1)


def _map_plotly(papers: Sequence[MethodEntry], table: pd.DataFrame) -> Any:
    import plotly.graph_objects as go

    symbols = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
    figure = go.Figure()
    for kind, symbol in zip(AXES["knowledge"], symbols, strict=True):
        rows = [i for i, p in enumerate(papers) if p.knowledge[0] == kind]
        if not rows:
            continue
        hover = [
            f"<b>{papers[i].slug}</b> ({papers[i].status})<br>{escaped(papers[i].title)}"
            f"<br>nearest: {table['nearest'][i]}"
            for i in rows
        ]
        figure.add_scatter(
            x=table["x"][rows],
            y=table["y"][rows],
            mode="markers+text",
            name=kind,
            text=[papers[i].slug for i in rows],
            textposition="top center",
            hovertext=hover,
            hoverinfo="text",
            marker={
                "size": 11,
                "color": _COLOUR[kind],
                "symbol": [symbol if papers[i].status == "implemented" else f"{symbol}-open" for i in rows],
            },
        )
    return figure.update_layout(
        height=720, xaxis={"visible": False}, yaxis={"visible": False}, margin={"l": 10, "r": 10, "t": 30, "b": 10}
    )


# --- state of the work -----------------------------------------------------------------------------------------------


def status_view(papers: Sequence[MethodEntry], *, sort: str = "family") -> View:
    """How many papers of each family are implemented, planned or surveys; the table lists every paper on its axes."""
    _check_papers(papers)
    table = papers_table(papers, sort=sort)
    families = [f for f in (*FAMILIES, "survey") if any(p.family == f for p in papers)]
    counts = {s: [sum(p.family == f and p.status == s for p in papers) for f in families] for s in taxonomy.STATUSES}
    done = sorted(p.slug for p in papers if p.status == "implemented")
    alt = f"{_counts(papers)} in {len(families)} families. Implemented: {', '.join(done) or 'none yet'}."
    bars = [
        Bars(status, range(len(families)), counts[status], style=style, lying=True, stacked=True)
        for status, style in (("implemented", 0), ("planned", 6), ("survey", 4))
        if any(counts[status])
    ]
    totals = [sum(counts[s][k] for s in counts) for k in range(len(families))]
    said = [
        f"{n}" if f == "survey" else f"{counts['implemented'][k]} of {n}"
        for k, (f, n) in enumerate(zip(families, totals, strict=True))
    ]
    ends = Texts(np.array(totals) + 0.15, range(len(families)), said, anchor="start")
    x = Axis("papers", low=0, high=1.15 * max(totals))
    picture = Picture(Plane(*bars, ends, x=x, y=Axis(names=families)))
    return View(title="What is implemented, what is planned", alt=alt, table=table, picture=picture)


# --- decision guide --------------------------------------------------------------------------------------------------


def guide_view(situation: Mapping[str, str | None], *, top: int = 5) -> View:
    """The decision guide's answer to a situation: the baseline to try before, then the papers that fit, with points.

    Args:
        situation: answers to some of :data:`kdcore.taxonomy.GUIDE`.
        top: how many papers after the baseline.
    """
    answers = taxonomy.check_situation(situation)
    first, *found = taxonomy.recommend(answers, top=top, baseline=True)
    removed = [p for p in taxonomy.entries() if p.status != "survey" and taxonomy.excluded_because(p, answers)]
    rows = [
        {
            "place": "before" if r is first else str(i),
            "slug": r.entry.slug,
            "status": r.entry.status,
            "points": r.score,
            "why": "; ".join(r.reasons),
            "title": r.entry.title,
        }
        for i, r in enumerate([first, *found])
    ]
    asked = ", ".join(f"{k} = {v}" for k, v in answers.items()) or "nothing answered yet"
    best = (
        f"Best fit: {found[0].entry.slug} with {found[0].score} points ({'; '.join(found[0].reasons)})."
        if found
        else "No paper of the collection fits."
        if answers
        else "Answer a question to see papers."
    )
    dropped = f" Hard rules removed {len(removed)} papers." if removed else ""
    alt = f"{best}{dropped} {first.entry.slug}: {first.reasons[0]}. Situation: {asked}."
    picture = Picture(_guide_plane([first, *found], answers))
    return View(title="Which method for my situation", alt=alt, table=pd.DataFrame(rows), picture=picture)


def _guide_plane(found: Sequence[taxonomy.Recommendation], situation: Mapping[str, str | None]) -> Plane:
    """Points by axis of the answers, stacked, for each paper; an asterisk where the answer is its main value."""
    given: dict[str, dict[int, Any]] = {}
    for row, r in enumerate(found):
        for point in taxonomy.points(r.entry, situation) if r.score else ():
            given.setdefault(point.axis, {})[row] = point
    marks: list[Mark] = [
        Bars(
            axis.replace("_", " "),
            list(by_row),
            [p.points for p in by_row.values()],
            style=k,
            lying=True,
            stacked=True,
            notes=["the paper's main value" if p.main else "one of its values" for p in by_row.values()],
        )
        for k, (axis, by_row) in enumerate(given.items())
    ]
    words = [f"{r.score or r.reasons[0]}" for r in found]
    marks.append(Texts([r.score + 0.1 for r in found], range(len(found)), words, anchor="start"))
    names = [r.entry.slug + ("" if r.entry.status == "implemented" else " (planned)") for r in found]
    most = max(max(r.score for r in found), 4)
    return Plane(*marks, x=Axis("points", low=0, high=1.1 * most), y=Axis(names=names))


def cases_table() -> pd.DataFrame:
    """The worked cases of the guide: what was asked, what must and must not come, what came, and whether it holds."""
    rows = []
    for result in map(taxonomy.check_case, taxonomy.CASES):
        case = result.case
        rows.append(
            {
                "situation": case.situation,
                "answers": ", ".join(f"{k}={v}" for k, v in case.answers.items()),
                "must come": f"{case.first} (first)" if case.first else ", ".join(case.appear),
                "must not come": ", ".join(case.absent) or "-",
                "comes": ", ".join(f"{r.entry.slug} {r.score}" for r in result.found),
                "holds": result.holds,
            }
        )
    return pd.DataFrame(rows)
