"""Random crops and flips: every view is a real crop of the padded image, seeded, and covers what it should."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.tasks import ArrayDataset
from kdcore.tasks._augment import CropFlip


def images(n: int = 6, h: int = 5, w: int = 7) -> ArrayDataset:
    g = torch.Generator().manual_seed(1)
    return ArrayDataset(torch.rand(n, 3, h, w, generator=g), torch.arange(n) % 3)


def crops(image: Tensor, padding: int, *, flip: bool) -> list[Tensor]:
    """Every crop (and its mirror image) one by one."""
    _, h, w = image.shape
    padded = F.pad(image, [padding] * 4)
    found = [padded[:, i : i + h, j : j + w] for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    return found + [c.flip(2) for c in found] if flip else found


@pytest.mark.parametrize("flip", [True, False])
def test_every_view_is_a_crop_of_its_own_image(flip: bool) -> None:
    data = images()
    x, y = CropFlip(data, padding=2, flip=flip).__getitems__([4, 0, 4])
    assert y.tolist() == [1, 0, 1] and x.shape == (3, 3, 5, 7)
    for view, index in zip(x, [4, 0, 4], strict=True):
        assert any(torch.equal(view, c) for c in crops(data.x[index], 2, flip=flip))


def test_all_crops_and_flips_occur_equally_often() -> None:
    data = images(1, 4, 4)
    views, _ = CropFlip(data, padding=1).__getitems__([0] * 3600)
    counts = torch.tensor([(views == c).flatten(1).all(1).sum() for c in crops(data.x[0], 1, flip=True)])
    assert counts.sum() == 3600 and counts.min() > 120 and counts.max() < 290  # 18 views, 200 expected, sd 13.7


def test_seeded_and_different_each_time() -> None:
    view = CropFlip(images())
    torch.manual_seed(5)
    first, second = view.__getitems__([0, 1, 2])[0], view.__getitems__([0, 1, 2])[0]
    torch.manual_seed(5)
    assert torch.equal(view.__getitems__([0, 1, 2])[0], first) and not torch.equal(first, second)


def test_bytes_are_scaled_and_single_samples_have_plain_labels() -> None:
    data = ArrayDataset(torch.full((2, 1, 3, 3), 255, dtype=torch.uint8), torch.tensor([1, 0]))
    x, y = CropFlip(data, padding=0)[0]
    assert x.dtype == torch.float32 and x.eq(1).all() and y == 1 and isinstance(y, int)


def test_known_to_the_teacher_cache() -> None:
    data = images()
    marks = {
        CropFlip(data).fingerprint(),
        CropFlip(data, padding=2).fingerprint(),
        CropFlip(data, flip=False).fingerprint(),
        data.fingerprint(),
    }
    assert len(marks) == 4 and CropFlip(data).y is data.y and len(CropFlip(data)) == 6


def test_refuses() -> None:
    with pytest.raises(ValueError, match=r"images \(N, C, H, W\), got float32 \(2, 3\)"):
        CropFlip(ArrayDataset(torch.zeros(2, 3), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="padding must be >= 0, got -1"):
        CropFlip(images(), padding=-1)
