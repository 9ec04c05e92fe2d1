"""LiveCurves: a chart under the running cell that grows with every epoch of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import Any

from kdcore.distiller import Epoch
from workbench.views.base import View
from workbench.views.comparison import lines_view

from .base import static_mode, views_bundle
from .widgets import LiveChart


class LiveCurves:
    """Curves of a metric while :func:`kdcore.experiment.compare` runs in a cell.

    ::

        curves = LiveCurves("Accuracy")
        compare("digits", [Arm("KD", "kd", train=curves.follow("KD"))], seeds=3)

    The chart appears with the first epoch and stays below the cell. Runs of one arm follow each other: each starts its
    line anew, so that the newest seed is what is seen. No chart grows under ``KDW_STATIC=1`` and outside of IPython;
    the numbers are collected all the same, and :meth:`view` draws them.

    Args:
        title: of the chart.
        metric: name of the metric; the first that was measured by default.

    Attributes:
        series: label -> (epochs, counted from 1; values) of the newest run.
    """

    def __init__(self, title: str, *, metric: str | None = None) -> None:
        self.title, self.metric = title, metric
        self.series: dict[str, tuple[list[float], list[float]]] = {}
        self.chart: LiveChart | None = None
        self._measured = metric or ""

    def follow(self, label: str) -> dict[str, Any]:
        """Training settings that draw this arm's line: ``Arm(..., train=curves.follow(...))``."""
        return {"callbacks": (self._listener(label),)}

    def view(self) -> View:
        """The newest runs as a picture, the chart's static form.

        Raises:
            ValueError: nothing was measured yet.
        """
        if not self.series:
            raise ValueError("no epoch was followed yet: give follow(label) to an arm or to distill, and train.")
        epochs = sorted({x for xs, _ in self.series.values() for x in xs})
        known = {label: dict(zip(xs, ys, strict=True)) for label, (xs, ys) in self.series.items()}
        return lines_view(
            epochs,
            {label: [at.get(x, nan) for x in epochs] for label, at in known.items()},
            x_label="epoch",
            y_label=self._measured,
            title=f"{self.title} (newest run)",
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        if not self.series:
            return {"text/plain": f"LiveCurves({self.title!r}): no epoch was followed yet"}
        return views_bundle([self.view()])

    def _listener(self, label: str) -> Callable[[object], None]:
        def listen(event: object) -> None:
            if isinstance(event, Epoch) and event.metrics:
                self._add(label, event)

        return listen

    def _add(self, label: str, epoch: Epoch) -> None:
        metric = self.metric or next(iter(epoch.metrics))
        if metric not in epoch.metrics:
            raise ValueError(f"metric must be one that is measured ({', '.join(epoch.metrics)}), got {metric!r}.")
        self._measured = metric
        if epoch.epoch == 0 or label not in self.series:
            self.series[label] = ([], [])
        x, y = self.series[label]
        x.append(epoch.epoch + 1)
        y.append(epoch.metrics[metric])
        if self._showing():
            assert self.chart is not None
            self.chart.show(self.series)

    def _showing(self) -> bool:
        """Whether there is a page to draw on; the chart is put there at the first call."""
        if self.chart is not None:
            return True
        from IPython.core.getipython import get_ipython

        if static_mode() or get_ipython() is None:
            return False
        from IPython.display import display

        self.chart = LiveChart(title=self.title, x_label="epoch")
        display(self.chart)
        return True
