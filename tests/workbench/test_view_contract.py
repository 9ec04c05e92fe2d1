"""What every builder of views promises, whatever it is given: words, table, data and still picture exist and agree."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.views import HOSTILE, LONG, MAKE, Data, builders, views_of

from workbench.views.base import View
from workbench.views.picture import VERSION
from workbench.views.theme import DARK, LIGHT, Theme

EVERY = pytest.mark.parametrize("builder", sorted(MAKE))


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


def test_every_builder_has_its_inputs() -> None:
    """A new builder needs an entry in ``support.views.MAKE``."""
    assert builders() == set(MAKE)


@EVERY
def test_words_table_data_and_picture_agree_for_ten(builder: str) -> None:
    views = views_of(builder, Data(LONG[:10]))
    assert views, "nothing was made of ordinary data"
    for view in views:
        check_view(view)
        assert re.search(r"\d", view.alt) or builder == "guide_view", view.alt


@EVERY
@pytest.mark.parametrize("count", [1, 100])
def test_one_and_a_hundred(builder: str, count: int) -> None:
    """All of them are drawn, or one of them is refused in words (no ranking of one class)."""
    try:
        views = views_of(builder, Data(LONG[:count]))
    except ValueError as error:
        assert count == 1 and len(str(error)) > 20
        return
    for view in views:
        check_view(view, DARK if count == 1 else None)


@EVERY
def test_names_are_text_whatever_they_say(builder: str) -> None:
    for view in views_of(builder, Data(HOSTILE)):
        check_view(view, DARK)
        page = view.html(style=False, still="data:image/png;base64,")
        assert page.count("</script>") == (view.picture is not None), "data do not end their element"
        body = re.sub(r"<script.*?</script>", "", page, flags=re.S)
        made = {*re.findall(r"<(\w+)", body)}
        assert made <= {
            "figure",
            "img",
            "figcaption",
            "b",
            "details",
            "summary",
            "div",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        }
        assert body.count("<b>") == 1, "the title's own"


@EVERY
def test_numbers_that_are_not_known_are_left_open_or_refused(builder: str) -> None:
    try:
        views = views_of(builder, Data(LONG[:5], holes=True))
    except ValueError as error:
        assert len(str(error)) > 20
        return
    for view in views:
        check_view(view)


@EVERY
def test_nothing_is_drawn_or_refused(builder: str) -> None:
    try:
        views = views_of(builder, Data([]))
    except ValueError as error:
        assert len(str(error)) > 20
        return
    for view in views:
        check_view(view)
