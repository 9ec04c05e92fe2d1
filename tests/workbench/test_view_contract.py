"""What every builder of views promises, whatever it is given: words, table, data and still picture exist and agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.views import HOSTILE, LONG, MAKE, Data, builders, check_view, views_of

from workbench.views.theme import DARK

EVERY = pytest.mark.parametrize("builder", sorted(MAKE))
#: Their tables sum up what is shown (means, counts, lengths in the whole space), hold words, or belong to a drawing.
SUMMED_UP = {
    "attribution_pair_view",
    "diagnosis_views",
    "flow_view",
    "gram_view",
    "guide_view",
    "image_grid_view",
    "layer_identification_view",
    "masked_images_view",
    "missed_view",
    "nd_landscape_view",
    "norm_direction_view",
    "occlusion_view",
    "ranking_view",
    "status_view",
    "step_gallery_view",
    "structure_view",
    "tracking_view",
    "triangle_view",
}


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers that a picture holds."""
    if isinstance(value, np.ndarray):
        yield from value.astype(float).ravel()
    elif hasattr(value, "__dataclass_fields__"):
        yield from (v for name in value.__dataclass_fields__ for v in numbers_in(getattr(value, name)))
    elif isinstance(value, dict | list | tuple):
        yield from (v for part in (value.values() if isinstance(value, dict) else value) for v in numbers_in(part))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


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


@pytest.mark.parametrize("builder", sorted(set(MAKE) - SUMMED_UP))
def test_the_picture_shows_the_numbers_of_the_table(builder: str) -> None:
    """Some column of it as it is, every entry."""
    for view in views_of(builder, Data(LONG[:10])):
        shown = np.unique([v for v in numbers_in(view.picture) if np.isfinite(v)])
        columns = [c.to_numpy(float) for _, c in view.table.select_dtypes("floating").items()]
        known = [c[np.isfinite(c)] for c in columns if np.isfinite(c).any()]
        assert known and any(np.isclose(shown, x[:, None], rtol=1e-6, atol=1e-9).any(1).all() for x in known)


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
