"""Small pieces of HTML: what goes into them is escaped, what comes out is known to be HTML and not escaped again.

::

    table([("accuracy", 0.91)], ("metric", "value"), caption="Results <last epoch>")
    details("settings", facts({"epochs": 3}))

:class:`Html` follows the ``__html__`` protocol of markupsafe, so that pieces stay as they are in a template with
autoescape. Tables carry their alignment with them: JupyterLab aligns cells to the right, which suits numbers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_VOID = ("br", "hr", "img", "input", "link", "meta")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def escaped(value: object) -> Html:
    """Any value as HTML: what says of itself that it is HTML as it is, floats with four digits, the rest escaped."""
    own = getattr(value, "__html__", None)
    if own is not None:
        return Html(own())
    if isinstance(value, float):
        return Html("–" if value != value else f"{value:.4g}")
    return Html(escape(str(value)))


def join(parts: Iterable[object], between: object = "") -> Html:
    """Pieces after one another, each as :func:`escaped` gives it."""
    return Html(escaped(between).join(escaped(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """One element.

    Args:
        name: of the element.
        content: its pieces, each as :func:`escaped` gives it.
        attributes: ``class_`` and ``aria_hidden`` stand for ``class`` and ``aria-hidden``; ``None``, ``False`` and
            ``""`` are left out, ``True`` is an attribute without a value.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False and value != ""
    )
    end = "" if name in _VOID else f"{join(content)}</{name}>"
    return Html(f"<{name}{given}>{end}")


def table(
    rows: Iterable[Sequence[object]],
    head: Sequence[object] = (),
    *,
    caption: object = "",
    left: bool | Sequence[bool] = True,
    row_heads: bool = True,
    class_: str = "",
) -> Html:
    """A table.

    Args:
        rows: cells, each as :func:`escaped` gives it.
        head: headings of the columns; an empty one heads nothing.
        caption: says what the table shows.
        left: which columns are aligned left (all, none, or one answer per column); row headings always are.
        row_heads: whether the first cell of a row is its heading.
        class_: of the table, for a style sheet.
    """

    def style(column: int) -> str:
        aligned = left if isinstance(left, bool) else left[column]
        return "text-align:left" if aligned or (row_heads and column == 0) else ""

    top = [tag("th", h, scope="col", style=style(k)) if escaped(h) else tag("td") for k, h in enumerate(head)]
    body = [
        tag(
            "tr",
            *(
                tag("th", cell, scope="row", style=style(k))
                if row_heads and k == 0
                else tag("td", cell, style=style(k))
                for k, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    return tag(
        "table",
        tag("caption", caption, style="text-align:left") if escaped(caption) else "",
        tag("thead", tag("tr", *top)) if top else "",
        tag("tbody", *body),
        class_=class_,
    )


def facts(
    values: Mapping[str, object] | Iterable[tuple[str, object]],
    *,
    caption: object = "",
    left: bool = True,
    class_: str = "",
) -> Html:
    """Names and values as a table of two columns; arguments as in :func:`table`."""
    pairs = values.items() if isinstance(values, Mapping) else values
    return table(pairs, caption=caption, left=left, class_=class_)


def items(values: Iterable[object], *, ordered: bool = False) -> Html:
    """A list; nothing where there is nothing to list."""
    lines = [tag("li", value) for value in values]
    return tag("ol" if ordered else "ul", *lines) if lines else Html()


def details(summary: object, *content: object, open: bool = False) -> Html:
    """Content that is folded away under a line."""
    return tag("details", tag("summary", summary), *content, open=open)


__all__ = ["Html", "details", "escaped", "facts", "items", "join", "table", "tag"]
