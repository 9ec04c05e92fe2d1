"""Colours, fonts and number formats of every picture: Okabe-Ito for categories, cividis for magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Okabe-Ito, ordered for contrast on light and dark; black is replaced by the theme's ink.
CATEGORICAL = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--", "++")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
SEQUENTIAL = "cividis"
DIVERGING = "PuOr"
TEACHER, STUDENT = "#0072B2", "#E69F00"


@dataclass(frozen=True)
class Theme:
    """Ink and paper of a picture."""

    name: str
    ink: str
    paper: str
    grid: str
    muted: str

    def rc(self) -> dict[Any, Any]:
        """matplotlib settings for this theme."""
        return {
            "figure.facecolor": self.paper,
            "savefig.facecolor": self.paper,
            "axes.facecolor": self.paper,
            "text.color": self.ink,
            "axes.labelcolor": self.ink,
            "axes.edgecolor": self.muted,
            "axes.titlecolor": self.ink,
            "xtick.color": self.ink,
            "ytick.color": self.ink,
            "grid.color": self.grid,
            "legend.facecolor": self.paper,
            "legend.edgecolor": self.grid,
            "legend.framealpha": 0.9,
            "font.size": 11,
            "axes.titlesize": 11.5,
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "image.cmap": SEQUENTIAL,
            "figure.dpi": 100,
            "font.family": ["DejaVu Sans"],
            "axes.titlelocation": "left",
            "lines.linewidth": 1.8,
        }


LIGHT = Theme("light", ink="#1b1b1b", paper="#ffffff", grid="#dddddd", muted="#707070")
DARK = Theme("dark", ink="#e8e8e8", paper="#16181c", grid="#3a3d44", muted="#9a9a9a")


def percent(value: float) -> str:
    """``0.9231`` -> ``"92.3 %"``."""
    return f"{100 * value:.1f} %"


def number(value: float) -> str:
    """Four significant digits; thousands are written out (``38416``, not ``3.842e+04``)."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def text_colour(background: Sequence[float]) -> str:
    """Black or white, whichever has the higher contrast (WCAG 2) on an RGB background in [0, 1]; at least 4.58."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3])
    luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


__all__ = ["DARK", "LIGHT", "Theme"]
