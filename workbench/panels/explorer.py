"""Explorer: a few controls, a function from their values to a picture. The play part of every lesson."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ipywidgets as w
import traitlets as t

from kdcore.card import Knob
from kdcore.functional.checks import check_choice, closest
from kdcore.html import tag
from workbench.views.base import View

from .base import Panel, as_views, words_of
from .still import stills_html
from .widgets import PictureBox, Slider, error_html

Render = Callable[..., "View | Sequence[View]"]


@dataclass(frozen=True, kw_only=True)
class Control:
    """One thing the reader can move.

    Attributes:
        kind: ``"slider"``, ``"dropdown"`` or ``"checkbox"``.
        value: where it starts; what ``render`` receives has this type.
        label: visible text and accessible name (default: the control's name).
        low, high, step, log: slider bounds and spacing; ``log`` needs ``low > 0``.
        options: dropdown entries, label -> value (a sequence names its own entries).
        help: a sentence shown beside the control.
        when: name of another control -> values at which this one is shown; the picture ignores it at others.
    """

    kind: str
    value: Any
    label: str = ""
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    log: bool = False
    options: Mapping[str, Any] | Sequence[Any] = ()
    help: str = ""
    when: Mapping[str, Collection[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("slider", "dropdown", "checkbox"))
        if self.kind == "slider":
            if not self.low < self.high:
                raise ValueError(f"slider {self.label!r} needs low < high, got {self.low!r} and {self.high!r}.")
            if self.log and self.low <= 0:
                raise ValueError(f"slider {self.label!r} is logarithmic and needs low > 0, got {self.low!r}.")
            if not self.log and self.step <= 0:
                raise ValueError(f"slider {self.label!r} needs step > 0, got {self.step!r}.")
        if self.kind == "dropdown" and not len(self.options):
            raise ValueError(f"dropdown {self.label!r} needs options.")
        self.check(self.value)

    @property
    def integer(self) -> bool:
        return isinstance(self.value, int) and not isinstance(self.value, bool)

    @property
    def entries(self) -> dict[str, Any]:
        """Dropdown entries by label."""
        return dict(self.options) if isinstance(self.options, Mapping) else {str(o): o for o in self.options}

    def check(self, value: Any) -> Any:
        """``value`` in the control's type, or ``ValueError`` naming the control, what came and what is possible."""
        if self.kind == "slider":
            if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
                raise ValueError(
                    f"{self.label or 'slider'} must be a number in [{self.low:g}, {self.high:g}], got {value!r}."
                )
            return round(value) if self.integer else float(value)
        if self.kind == "checkbox":
            if not isinstance(value, bool):
                raise ValueError(f"{self.label or 'checkbox'} must be True or False, got {value!r}.")
            return value
        if not any(value is v or value == v for v in self.entries.values()):
            raise ValueError(
                f"{self.label or 'dropdown'} must be one of {list(self.entries.values())!r}, got {value!r}."
            )
        return value

    def shown(self, values: Mapping[str, Any]) -> bool:
        """Whether the picture depends on this control, the others being where they are."""
        return all(values[other] in wanted for other, wanted in self.when.items())

    def widget(self, name: str) -> Any:
        """The widget; its ``value`` is the control's value."""
        label = self.label or name
        if self.kind == "slider":
            return Slider(
                low=self.low,
                high=self.high,
                value=self.value,
                step=self.step,
                log=self.log,
                integer=self.integer,
                description=label,
                help=self.help,
            )
        style, layout = {"description_width": "initial"}, w.Layout(width="max-content", max_width="100%")
        if self.kind == "checkbox":
            return w.Checkbox(value=self.value, description=label, indent=False, tooltip=self.help, layout=layout)
        return w.Dropdown(
            options=list(self.entries.items()),
            value=self.value,
            description=label,
            style=style,
            layout=layout,
            tooltip=self.help,
        )


def slider(
    value: float,
    low: float,
    high: float,
    *,
    step: float | None = None,
    log: bool = False,
    label: str = "",
    help: str = "",
    when: Mapping[str, Collection[Any]] | None = None,
) -> Control:
    """A slider; whole numbers when ``value`` is an ``int``. ``step`` defaults to 1 or a hundredth of the range."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return Control(
        kind="slider",
        value=value,
        low=low,
        high=high,
        log=log,
        label=label,
        help=help,
        when=when or {},
        step=step if step is not None else 1 if whole else (high - low) / 100,
    )


def dropdown(
    options: Mapping[str, Any] | Sequence[Any],
    value: Any = None,
    *,
    label: str = "",
    help: str = "",
    when: Mapping[str, Collection[Any]] | None = None,
) -> Control:
    """A choice; ``options`` are values or label -> value; the first one is chosen unless ``value`` says otherwise."""
    first = next(iter(options.values() if isinstance(options, Mapping) else options), None)
    start = first if value is None else value
    return Control(kind="dropdown", options=options, value=start, label=label, help=help, when=when or {})


def checkbox(
    value: bool = False, *, label: str = "", help: str = "", when: Mapping[str, Collection[Any]] | None = None
) -> Control:
    """A yes or no."""
    return Control(kind="checkbox", value=value, label=label, help=help, when=when or {})


def control_for(knob: Knob) -> Control:
    """The control of a method's knob: bounds, spacing, symbol and help come from the card.

    Raises:
        ValueError: the knob is a number without ``low``/``high``, so the card does not say what to offer.
    """
    label = knob.name.replace("_", " ") + (f" ({knob.symbol})" if knob.symbol not in ("", knob.name) else "")
    if isinstance(knob.default, bool):
        return checkbox(knob.default, label=label, help=knob.help)
    if knob.choices:
        return dropdown(knob.choices, knob.default, label=label, help=knob.help)
    if not isinstance(knob.default, int | float) or knob.low is None or knob.high is None:
        raise ValueError(
            f"knob {knob.name!r} has no range (low={knob.low!r}, high={knob.high!r}, "
            f"default={knob.default!r}): "
            "give low and high in its card, or make the control yourself."
        )
    low, high = min(knob.low, knob.default), max(knob.high, knob.default)
    return slider(knob.default, low, high, log=knob.log and low > 0, label=label, help=knob.help)


class ExplorerState(t.HasTraits):
    """What an explorer shows: ``values`` of the controls, the ``views`` drawn from them, ``error`` or ``None``,
    ``busy``; ``hovered`` and ``selected`` marks (see :class:`~workbench.panels.widgets.PictureBox`)."""

    values = t.Dict()
    views: t.List[View] = t.List()
    error = t.Any(None, allow_none=True)
    busy = t.Bool(False)
    hovered = t.Dict()
    selected = t.Dict()


class Explorer(Panel):
    """Controls above a picture that follows them.

    Args:
        title: heading, and name among the open panels.
        controls: name -> :class:`Control` (:func:`slider`, :func:`dropdown`, :func:`checkbox`), a
            :class:`kdcore.card.Knob` (see :func:`control_for`), in the order shown.
        render: ``render(**values)`` -> a view or a list of views. Runs in a background thread while a control moves
            (the newest values win), so it must not print or display; what it raises is shown in the panel. What takes
            long says where it is by :meth:`progress`.
        static_at: values at which the static form is drawn, one set of views each; what an entry leaves out takes the
            control's start value. Default: the start values alone.
        name: set it where two explorers of one notebook share a title.

    Example:
        >>> explorer = Explorer("Temperature", {"temperature": slider(4.0, 1, 20)}, draw)  # doctest: +SKIP
        >>> explorer.set(temperature=8.0)  # doctest: +SKIP
    """

    state: ExplorerState

    def __init__(
        self,
        title: str,
        controls: Mapping[str, Control | Knob],
        render: Render,
        *,
        static_at: Sequence[Mapping[str, Any]] = (),
        name: str | None = None,
    ) -> None:
        if not controls:
            raise ValueError("controls must name at least one control, got none.")
        super().__init__(name or title)
        self.title, self.render = title, render
        made = {n: control_for(c) if isinstance(c, Knob) else c for n, c in controls.items()}
        self.controls = {n: c if c.label else replace(c, label=n.replace("_", " ")) for n, c in made.items()}
        for n, c in self.controls.items():
            for other in c.when:
                if other not in self.controls or other == n:
                    raise ValueError(f"when of {n!r} must name another control, got {other!r}.{closest(other, made)}")
        self.static_at = [self._complete(at) for at in (static_at or [{}])]
        self.state = ExplorerState(values={n: c.value for n, c in self.controls.items()})
        self._lock, self._idle = threading.Lock(), threading.Event()
        self._idle.set()
        self._wanted: dict[str, Any] | None = None
        self._working = False
        self.state.observe(self._redraw, "values")

    def _complete(self, values: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        for n in values:
            if n not in self.controls:
                raise ValueError(
                    f"{self.title!r} has no control {n!r}.{closest(n, self.controls)} It has: "
                    f"{', '.join(self.controls)}."
                )
        start = base if base is not None else {n: c.value for n, c in self.controls.items()}
        return {n: c.check(values.get(n, start[n])) for n, c in self.controls.items()}

    def set(self, **values: Any) -> None:
        """Move controls from code; the picture follows (see :meth:`settle`).

        Raises:
            ValueError: unknown control or a value it cannot take.
        """
        self.state.values = self._complete(values, self.state.values)

    def settle(self, timeout: float = 30.0) -> bool:
        """Wait until the picture belongs to the current values; ``False`` when ``timeout`` seconds were not enough."""
        return self._idle.wait(timeout)

    def views_at(self, **values: Any) -> list[View]:
        """The views at given values (others at their start), drawn now, in this thread."""
        return as_views(self.render(**self._complete(values)), what=f"render of {self.title!r}")

    def static(self) -> list[View]:
        """The views at every entry of ``static_at``."""
        return [view for at in self.static_at for view in as_views(self.render(**at), what=f"render of {self.title!r}")]

    # Live form ------------------------------------------------------------------------------------------------------
    def _build(self) -> Any:
        self._inputs = {n: c.widget(n) for n, c in self.controls.items()}
        for n, widget in self._inputs.items():
            widget.value = self.state.values[n]
            widget.observe(lambda change, n=n: self._moved(n, change["new"]), "value")
        self._box = PictureBox(keeps=True)
        for name in ("hovered", "selected"):
            t.link((self._box, name), (self.state, name))
        self._box.observe(self._keep, "stills")
        controls = w.VBox(list(self._inputs.values()), layout=w.Layout(overflow="visible"))
        controls.add_class("kd-controls")
        heading = w.HTML(tag("b", self.title, style="font-size:1.05em"))
        tree = w.VBox([heading, controls, self._box], layout=w.Layout(max_width="100%", overflow="visible"))
        tree.add_class("kd-explorer")
        self._show_controls(self.state.values)
        if self._first is None:
            self._request(self.state.values)
        else:
            self._box.show(self._first)
            self.state.views, self._first = self._first, None
        return tree

    _first: list[View] | None = None

    def _still(self) -> tuple[str, str]:
        """The pictures at the start, drawn once for the still form and shown by the live one."""
        if "widget" in self.__dict__:
            views = self.state.views
        else:
            try:
                views = as_views(self.render(**self.state.values), what=f"render of {self.title!r}")
            except Exception:  # the live form shows it, with its traceback
                return super()._still()
            self._first = views
        return stills_html(views), words_of(views)

    def _keep(self, change: Any) -> None:
        """The page's own pictures, at rest, become the still form."""
        if self.output is not None and self._box.shown:
            self.output.update(stills_html(self._box.shown, change["new"]), words_of(self._box.shown))

    def progress(self, message: str) -> None:
        """Say how far a long ``render`` is ("3 of 10 layers"); called by it, from any thread."""
        if hasattr(self, "_box"):
            self._box.message = message

    def _show_controls(self, values: Mapping[str, Any]) -> None:
        for n, control in self.controls.items():
            if control.when:
                self._inputs[n].layout.display = None if control.shown(values) else "none"

    def _moved(self, name: str, value: Any) -> None:
        if value != self.state.values[name]:
            self.state.values = {**self.state.values, name: self.controls[name].check(value)}

    def _redraw(self, change: Any) -> None:
        if "widget" in self.__dict__:
            for n, widget in self._inputs.items():
                if widget.value != change["new"][n]:
                    widget.value = change["new"][n]
            self._show_controls(change["new"])
        self._request(change["new"])

    def _request(self, values: Mapping[str, Any]) -> None:
        with self._lock:
            self._wanted = dict(values)
            self._idle.clear()
            if self._working:
                return
            self._working = True
        threading.Thread(target=self._work, name=f"kdw-draw-{self.name}", daemon=True).start()

    def _work(self) -> None:
        """Draw the newest wanted values until none is left."""
        while True:
            with self._lock:
                values, self._wanted = self._wanted, None
                if values is None or self.closed:
                    self._working = False
                    self._idle.set()
                    return
            self._draw(values)

    def _draw(self, values: dict[str, Any]) -> None:
        box = self._box if hasattr(self, "_box") else None
        self.state.busy = True
        if box is not None:
            box.busy = True
        try:
            views = as_views(self.render(**values), what=f"render of {self.title!r}")
            if box is not None and not self.closed:
                box.show(views)
            self.state.views, self.state.error = views, None
        except Exception as error:  # whatever a lesson's function raises belongs in front of its reader
            self.state.error = error
            if box is not None and not self.closed:
                box.error = str(error_html(error, traceback.format_exc()))
        if box is not None and not self.closed:
            box.busy, box.message = False, ""
        self.state.busy = False
