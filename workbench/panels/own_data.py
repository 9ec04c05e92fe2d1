"""How a reader brings data, networks and settings into a panel: form fields, and settings written as text."""

from __future__ import annotations

import ast
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as w

from kdcore.html import join, tag
from kdcore.tasks import Classification, load_task

from .explorer import slider
from .widgets import ViewBox, error_html

_FIELDS = {
    "root": ("folder", "a folder that holds one sub-folder of images per class"),
    "teacher": ("teacher", "a timm name such as resnet18, or cnn, vit, ... (default: mlp)"),
    "teacher_weights": ("its checkpoint", "safetensors or weights-only .pt; without one it is trained on the folder"),
    "student": ("student", "a timm name, or cnn-small, vit-tiny, ... (default: mlp-32)"),
}


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """``["temperature=8", "weights=first"]`` -> ``{"temperature": 8, "weights": "first"}``.

    What reads as a Python literal (number, ``True``, list) is one, anything else is text. Whether a setting exists and
    fits is for whoever receives it to say.

    Raises:
        ValueError: not ``name=value``, or a name given twice.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"a setting must be written name=value, got {text!r}.")
        if name.strip() in settings:
            raise ValueError(f"the setting {name.strip()!r} is given twice.")
        settings[name.strip()] = _literal(value.strip())
    return settings


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class FolderForm:
    """Text fields, and a button that reads the folder in the background.

    Args:
        use: called with the task, in a background thread.

    Attributes:
        widget: the fields, folded away; fields: by option of ``load_task("images", ...)``; size: the side in pixels;
            until somebody moves the slider the task decides, and the slider shows what it took.
    """

    def __init__(self, use: Callable[[Classification], None]) -> None:
        self._use = use
        self._thread: threading.Thread | None = None
        self.fields: dict[str, Any] = {
            option: w.Text(
                description=label,
                placeholder=hint,
                continuous_update=False,
                style={"description_width": "8em"},
                layout=w.Layout(width="44em", max_width="100%"),
            )
            for option, (label, hint) in _FIELDS.items()
        }
        self.size = slider(
            64, 8, 256, label="side in pixels", help="left alone: the images' own, if squares of one size"
        ).widget("size")
        self._size_chosen = False
        self.size.observe(self._choose_size, names="value")
        self.button = w.Button(
            description="Load",
            tooltip="read the folder and offer it as a task",
            layout=w.Layout(width="auto", align_self="flex-start"),
        )
        self.button.add_class("kd-load")
        self.button.on_click(lambda _: self.load())
        self._box = ViewBox()
        body = w.VBox([*self.fields.values(), self.size, self.button, self._box])
        self.widget = w.Accordion(
            children=(body,), titles=("Images of your own",), selected_index=None, layout=w.Layout(max_width="100%")
        )
        self.widget.add_class("kd-folder")

    def options(self) -> dict[str, Any]:
        """What was filled in, as options of the task ``images``."""
        given = {option: text for option, field in self.fields.items() if (text := field.value.strip())}
        return given | {"size": int(self.size.value)} if self._size_chosen else given

    def load(self) -> None:
        """Read the folder; the task, or what is wrong, appears when it is known."""
        self.enable(False)
        self._box.html = tag("p", "reading the folder ...", role="status")
        self._thread = threading.Thread(target=self._work, args=(self.options(),), name="kdw-folder", daemon=True)
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for :meth:`load`; ``False`` when ``timeout`` seconds were not enough."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def enable(self, on: bool) -> None:
        """Allow or forbid loading."""
        self.button.disabled = not on

    def _choose_size(self, _: Any) -> None:
        self._size_chosen = True

    def _show_size(self, task: Classification) -> None:
        chosen = self._size_chosen
        self.size.value = task.input_shape[-1]
        self._size_chosen = chosen  # what the task took is no choice: the next folder may have another size

    def _work(self, options: dict[str, Any]) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is skipped is in the task's notes, shown below
                task = load_task("images", **options)
            self._show_size(task)
            self._use(task)
            self._box.html = _summary(task)
        except Exception as error:  # a wrong path or name belongs in front of whoever typed it
            self._box.html = error_html(error, traceback.format_exc())
        finally:
            self.enable(True)


def _summary(task: Classification) -> str:
    sizes = f": {len(task.train)} images to learn from, {len(task.test)} to test on, {task.num_classes} classes."
    loaded = tag("p", "Loaded ", tag("b", task.name), sizes, role="status")
    return join((loaded, *(tag("p", note) for note in task.notes)))


__all__ = ["FolderForm", "parse_settings"]
