"""How panels of coloured cells are painted: heat maps, grids of images with maps over them, rows of tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from .drawing import Array
from .mosaic import FRAME, Box, resized
from .painting_sheet import LABELS, NAMES, Key, Part, Sheet, colour_map, room_of, shades, ticks_of
from .picture import Heat, Images, Style, Tokens
from .theme import text_colour
from .words import BOLD, counted, drawable, fitted, literal, name_positions, text_width, wrapped

_LABEL, _LINE = 0.24, 0.145
_CAPTION = 8.5
#: Inches: height of a line of tokens, of their boxes, air beside a token, between tokens and rows.
_TOKEN, _BOX, _PAD, _SPACE, _ROWS = 0.26, 0.22, 0.05, 0.03, 0.12
#: Points of a token; lines of tokens that are drawn at most.
_SIZE, _MOST_LINES = 9.5, 40
#: What cannot be seen otherwise.
_VISIBLE = {"\n": "⏎", "\t": "⇥", " ": "␣", "": "∅"}


class HeatPart(Part):
    """A heat map."""

    def __init__(self, heat: Heat) -> None:
        self.heat, self.title, self.colours = heat, heat.title, heat.colours
        self.rows, self.columns = list(heat.rows or ()), list(heat.columns or ())

    def _cell(self, inner: float) -> tuple[float, float]:
        """Width and height of a cell in inches."""
        rows, columns = max(len(self.rows), 1), max(len(self.columns), 1)
        if self.heat.square:
            side = min(inner / columns, 5.6 / rows, 0.85)
            return side, side
        return inner / columns, float(np.clip(3.4 / rows, 0.24, 0.42)) if rows <= 20 else min(0.2, 6.0 / rows)

    def prefers(self, width: float) -> float:
        around = sum(self.sides(width))
        columns, rows = max(len(self.columns), 1), max(len(self.rows), 1)
        most = min(5.6 / rows, 0.85) if self.heat.square else 1.1
        return min(width, around + max(1.0, columns * most))

    def sides(self, width: float) -> tuple[float, float]:
        names = [n for _, n in self.heat.groups] or self.rows
        room = 0.0 if self.heat.unnamed else room_of(names, self._room(width))
        return 0.1 + room + (_LABEL if self.heat.row_label else 0.0), 0.06

    def _room(self, width: float) -> float:
        return 2.4 if width > 5 else 0.36 * width

    def tall(self, inner: float) -> tuple[float, float, float]:
        across, down = self._cell(inner)
        names = [n for _, n in self.heat.groups] or self.columns
        slot = across if not self.heat.groups else across * len(self.columns) / max(len(names), 1)
        straight = max((text_width(drawable(n), NAMES) for n in names), default=0) * BOLD <= slot - 0.08
        below = 0.1 + (0.15 if straight and not self.heat.groups else room_of(names, 1.5))
        below = 0.06 if self.heat.unnamed else below
        return 0.04, down * max(len(self.rows), 1), below + (_LABEL if self.heat.column_label else 0.0)

    def draw(self, sheet: Sheet, box: Box) -> None:
        heat, (x, y, inner, tall), (across, down) = self.heat, box, self._cell(box[2])
        wide, tall = across * len(self.columns), down * len(self.rows)
        if not heat.values.size:
            sheet.text(x, y + 0.2, "nothing to show", color=sheet.theme.muted)
            return
        ax = sheet.axes((x, y, wide, tall))
        ax.imshow(
            np.ma.masked_invalid(heat.values),
            cmap=colour_map(heat.colours),
            vmin=heat.colours.low,
            vmax=heat.colours.high,
            aspect="auto",
            interpolation="nearest",
        )
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0, pad=4)
        self._open(ax, sheet)
        self._numbers(ax, across, down)
        self._marked(ax)
        if heat.groups:
            self._groups(ax, across, down)
        elif heat.unnamed:
            ax.set(xticks=[], yticks=[])
        else:
            name_positions(ax, "y", self.rows, length=tall, room=self._room(self.width), size=NAMES)
            name_positions(ax, "x", self.columns, length=wide, room=1.5, size=NAMES)
        below = self.tall(inner)[2]
        if heat.column_label:
            words = fitted(heat.column_label, max(wide, 2.0), LABELS)
            sheet.text(x + wide / 2, y + tall + below - 0.04, words, size=LABELS, ha="center", va="bottom")
        if heat.row_label:
            left = self.sides(self.width)[0]
            words = fitted(heat.row_label, max(tall + 0.3, 1.0), LABELS)
            sheet.text(x - left, y + tall / 2, words, size=LABELS, rotation=90)

    def _open(self, ax: Any, sheet: Sheet) -> None:
        """Cells without a value are hatched."""
        from matplotlib.collections import PolyCollection

        at = np.argwhere(~np.isfinite(self.heat.values))
        if len(at):
            corners = at[:, None, ::-1] + np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
            ax.add_collection(
                PolyCollection(
                    list(corners),
                    facecolors=sheet.theme.paper,
                    edgecolors=sheet.theme.muted,
                    linewidths=0,
                    hatch="////",
                ),
                autolim=False,
            )

    def _numbers(self, ax: Any, across: float, down: float) -> None:
        """Numbers in the cells, at the largest size at which all of them can be read; none where there is no room."""
        heat, known = self.heat, np.argwhere(np.isfinite(self.heat.values))
        if not (heat.numbers or heat.texts) or not len(known):
            return
        said = {
            (int(i), int(j)): heat.texts[i][j] if heat.texts else format(heat.values[i, j], heat.numbers)
            for i, j in known
        }
        widest = max(said.values(), key=len)
        size = next(
            (s for s in (9.5, 9.0, 8.0, 7.0, 6.5) if text_width(widest, s) <= across - 0.04 and s / 72 < down), 0
        )
        tints = shades(heat.values, heat.colours) if size else heat.values
        for (i, j), words in said.items() if size else ():
            ax.text(
                j,
                i,
                words.replace("-", "−"),
                ha="center",
                va="center_baseline",
                fontsize=size,
                color=text_colour(tints[i, j, :3].tolist()),
            )

    def entries(self) -> list[Key]:
        looks: dict[str, tuple[Style, str]] = {
            "framed": ("bad", "frame"),
            "dotted": ("good", "spot"),
            "crossed": ("bad", "cross"),
        }
        return [
            Key(self.heat.meanings[kind], style, shape)
            for kind, (style, shape) in looks.items()
            if self.heat.meanings.get(kind) and getattr(self.heat, kind)
        ]

    @property
    def crowded(self) -> bool:
        return bool(self.entries())

    def _marked(self, ax: Any) -> None:
        from matplotlib.patches import Rectangle

        for i, j in self.heat.framed:
            for colour, wide in (("#ffffff", 4.0), (FRAME, 2.4)):
                ax.add_patch(
                    Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec=colour, lw=wide, zorder=4, clip_on=False)
                )
        # beside the number, where there is one
        half, x, y = (0.1, 0.34, -0.32) if self.heat.numbers or self.heat.texts else (0.32, 0.0, 0.0)
        if self.heat.dotted:
            at = np.array(self.heat.dotted, dtype=float)
            ax.scatter(at[:, 1] + x, at[:, 0] + y, s=42, c="#009E73", edgecolors="#ffffff", linewidths=1.2, zorder=5)
        for i, j in self.heat.crossed:
            for colour, wide in (("#000000", 3.6), ("#ffffff", 1.8)):
                for sign in (1, -1):
                    ax.plot(
                        [j + x - half, j + x + half],
                        [i + y - sign * half, i + y + sign * half],
                        color=colour,
                        lw=wide,
                        zorder=3,
                    )

    def _groups(self, ax: Any, across: float, down: float) -> None:
        """Lines between groups, the names of the groups at their middles."""
        starts = [i for i, _ in self.heat.groups]
        for which, count, inch in (("x", len(self.columns), across), ("y", len(self.rows), down)):
            ends = [*(s for s in starts[1:]), count]
            middles = [(a + min(b, count) - 1) / 2 for a, b in zip(starts, ends, strict=True)]
            shown: list[int] = []
            for k, m in enumerate(middles):  # names that would touch the one before are left out
                if starts[k] < count and (not shown or (m - middles[shown[-1]]) * inch >= 0.155):
                    shown.append(k)
            room = 1.5 if which == "x" else self._room(self.width)
            words = [literal(fitted(self.heat.groups[k][1], room, NAMES)) for k in shown]
            side = getattr(ax, f"{which}axis")
            side.set_ticks(
                [middles[k] for k in shown], labels=words, fontsize=NAMES, rotation=90 if which == "x" else 0
            )
            for s in starts[1:]:
                if s < count:
                    for colour, wide in (("#000000", 2.2), ("#ffffff", 1.2)):
                        (ax.axvline if which == "x" else ax.axhline)(s - 0.5, color=colour, lw=wide)


class ImagesPart(Part):
    """Images in a grid."""

    def __init__(self, images: Images) -> None:
        self.images, self.title = images, images.title
        self.colours = images.colours if images.maps is not None else None
        self.captions = list(images.captions or ())

    def entries(self) -> list[Key]:
        return [Key(n, "bad" if k else "good", "frame", "--" if k else "-") for k, n in enumerate(self.images.boxes)]

    @property
    def crowded(self) -> bool:
        return bool(self.images.boxes)

    def sides(self, width: float) -> tuple[float, float]:
        return (room_of(self.images.rows, 1.5) + 0.1 if self.images.rows else 0.0), 0.0

    def _grid(self, inner: float) -> tuple[int, float, float]:
        """Images in a row, width and height of one."""
        count = max(len(self.images.images), 1)
        size = self.images.size / 100
        chosen = next(c for n, c in ((5, count), (15, 5), (40, 8), (math.inf, 10)) if count <= n)
        per = self.images.columns or min(chosen, max(1, int((inner + 0.1) / min(size + 0.1, 0.6))))
        per = min(per, count)
        wide = max(0.1, min(size, inner / per - 0.1))
        _, height, width, *_ = (*self.images.images.shape, 1) if self.images.images.size else (1, 1, 1)
        return per, wide, wide * height / width

    def _captions(self, inner: float) -> list[str]:
        return [wrapped(c, self._step(inner) - 0.08, _CAPTION) for c in self.captions]

    def _step(self, inner: float) -> float:
        """Inches from one image to the next: more than the image where captions need it and there is room."""
        per, wide, _ = self._grid(inner)
        need = max((text_width(drawable(c), _CAPTION) for c in self.captions), default=0.0) + 0.12
        return min(inner / per, max(wide + 0.1, min(need, 1.7 * wide)))

    def prefers(self, width: float) -> float:
        return min(width, max(self._grid(width)[0] * self._step(width), 0.8))

    def tall(self, inner: float) -> tuple[float, float, float]:
        per, _, down = self._grid(inner)
        lines = max((1 + c.count("\n") if c.strip() else 0 for c in self._captions(inner)), default=0)
        step = down + 0.1 + _LINE * lines
        return 0.02, math.ceil(max(len(self.images.images), 1) / per) * step, 0.02

    def draw(self, sheet: Sheet, box: Box) -> None:
        count = len(self.images.images)
        if not count or not self.images.images.size:
            sheet.text(box[0], box[1] + 0.1, "no images", color=sheet.theme.muted)
            return
        per, wide, down = self._grid(box[2])
        step, captions = self._step(box[2]), self._captions(box[2])
        high = self.tall(box[2])[1] / math.ceil(count / per)
        for k, image in enumerate(self._blended()):
            x = box[0] + k % per * step + (step - wide) / 2
            y = box[1] + k // per * high
            place = (x, y, wide, down)
            sheet.image(image, place)
            if self.images.rows and k % per == 0:
                words = wrapped(self.images.rows[k // per], 1.5, NAMES, lines=3)
                sheet.text(box[0] - 0.08, y + down / 2, words, ha="right")
            for n, boxes in enumerate(self.images.boxes.values()):
                a, b, c, d = boxes[k]
                if np.isfinite(boxes[k]).all():
                    corner = (x + a * wide, y + b * down, (c - a) * wide, (d - b) * down)
                    sheet.box(corner, fill=False, ec="#ffffff", lw=3)
                    sheet.box(corner, fill=False, ec="#D55E00" if n else "#009E73", lw=1.8, ls="--" if n else "-")
            if self.images.framed and self.images.framed[k]:
                sheet.box(place, fill=False, ec=FRAME, lw=3)
            sheet.text(x + wide / 2, y + down + 0.04, captions[k], size=_CAPTION, ha="center", va="top")

    def _blended(self) -> list[Array]:
        """Images as ``(H, W, 1 or 3)`` in [0, 1], with their maps over them."""
        grey = [i[..., None] / 255 if i.ndim == 2 else i / 255 for i in self.images.images]
        maps, colours = self.images.maps, self.colours
        if maps is None or colours is None:
            return grey
        if self.images.smooth:
            target = [max(a, b) for a, b in zip(maps.shape[1:], grey[0].shape[:2], strict=True)]
            made = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], target, mode="bilinear")
            maps = made[:, 0].numpy()
        blended = []
        for image, layer in zip(grey, maps, strict=True):
            height, width = (max(a, b) for a, b in zip(image.shape, layer.shape, strict=False))
            below = np.broadcast_to(resized(image, height, width), (height, width, 3))
            above = resized(layer, height, width)
            weight = np.where(np.isnan(above), 0.0, self.images.opacity)[..., None]
            blended.append((1 - weight) * below + weight * shades(above, colours)[..., :3])
        return blended


class TokensPart(Part):
    """Rows of tokens; their colour bar lies below them."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens, self.title = tokens, tokens.title
        self.rows = list(tokens.rows or ())

    def sides(self, width: float) -> tuple[float, float]:
        return 0.1 + room_of(self.rows, min(1.3, 0.3 * width)), 0.0

    def _lines(self, inner: float) -> tuple[list[tuple[int, int, str, float, float, float]], dict[int, float], float]:
        """Row, position, text, left, top and width of each token; tops of the rows; where the last line ends."""
        places, tops, lines, top = [], {}, 0, 0.0
        for r, texts in enumerate(self.tokens.tokens):
            if lines >= _MOST_LINES:
                break
            tops[r], x = top, 0.0
            lines += 1
            for i, text in enumerate(texts):
                seen = (
                    "".join(_VISIBLE[c] for c in text) if text and set(text) <= set(_VISIBLE) else text or _VISIBLE[""]
                )
                word = fitted("".join(_VISIBLE.get(c, c) if c in "\n\t" else c for c in seen), inner - 0.2, _SIZE)
                wide = text_width(word, _SIZE) + 2 * _PAD
                if x and x + wide > inner:
                    if lines >= _MOST_LINES:
                        break
                    x, top, lines = 0.0, top + _TOKEN, lines + 1
                places.append((r, i, word, x, top, wide))
                x += wide + _SPACE
            top += _TOKEN + _ROWS
        return places, tops, max(top - _ROWS, 0.1)

    def tall(self, inner: float) -> tuple[float, float, float]:
        return 0.02, self._lines(inner)[2], 0.5

    def draw(self, sheet: Sheet, box: Box) -> None:
        from matplotlib.collections import PolyCollection

        theme = sheet.theme
        places, tops, bottom = self._lines(box[2])
        values = np.array([self.tokens.values[r][i] for r, i, *_ in places])
        tints = shades(values, self.tokens.colours) if places else np.zeros((0, 4))
        x, y, w = np.array([p[3:] for p in places]).reshape(-1, 3).T + np.array([[box[0]], [box[1]], [0.0]])
        corners = np.stack([[x, x + w, x + w, x], [y, y, y + _BOX, y + _BOX]]).T
        empty = np.isnan(values)
        for part, edge in ((~empty, {"linewidths": 0.5}), (empty, {"linewidths": 1.4, "linestyles": ":"})):
            boxes = PolyCollection(list(corners[part]), facecolors=tints[part], edgecolors=theme.muted, **edge)
            sheet.base.add_collection(boxes, autolim=False)
        for k, (_, _, word, *_) in enumerate(places):
            ink = theme.ink if empty[k] else text_colour(tints[k, :3].tolist())
            sheet.text(x[k] + _PAD, y[k] + 0.52 * _BOX, word, size=_SIZE, va="center_baseline", color=ink)
        for r, top in tops.items():
            name = fitted(self.rows[r], self.sides(self.width)[0] - 0.1, NAMES)
            sheet.text(box[0] - 0.08, box[1] + top + 0.52 * _BOX, name, ha="right", va="center_baseline")
        missing = sum(map(len, self.tokens.tokens)) - len(places)
        self._scale(sheet, box[0], box[1] + bottom + 0.12, box[2], bool(empty.any()), missing)

    def _scale(self, sheet: Sheet, x: float, y: float, room: float, open_ones: bool, missing: int) -> None:
        colours, wide = self.tokens.colours, min(2.6, 0.4 * room)
        sheet.image(colour_map(colours)(np.linspace(0, 1, 256)[None])[..., :3], (x, y, wide, 0.12))
        sheet.box((x, y, wide, 0.12), fill=False, ec=sheet.theme.muted, lw=0.6)
        for value, words in ticks_of(colours.low, colours.high, max(2, int(wide / 0.55))).items():
            at = x + wide * (value - colours.low) / (colours.high - colours.low)
            sheet.line([at, at], [y + 0.12, y + 0.16], color=sheet.theme.muted, lw=0.8)
            sheet.text(at, y + 0.23, words, size=8.5, ha="center")
        told = [
            colours.label or "value",
            "a dotted box has none" if open_ones else "",
            f"{counted(missing, 'token')} more in the table" if missing else "",
        ]
        words = wrapped("; ".join(t for t in told if t), room - wide - 0.3, NAMES)
        sheet.text(x + wide + 0.2, y + 0.06, words)
