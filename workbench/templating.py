"""Pages are jinja2 templates (``workbench/templates``) with autoescape: what is not known to be HTML is escaped."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from kdcore.html import Html

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader("workbench"), autoescape=True, undefined=StrictUndefined)


def render(template: str, **values: object) -> Html:
    """A template of ``workbench/templates``, filled in; a value that it uses and does not get is an error.

    Args:
        template: file name.
        values: text is escaped; :class:`~kdcore.html.Html` stays as it is.
    """
    return Html(_environment().get_template(template).render(values))


__all__ = ["render"]
