"""Planes of logits: shapes, hand-computed points, convexity counts of known functions."""

from __future__ import annotations

import pytest
import torch

from kdcore.functional.landscape import concave_share, orthonormal_directions, plane_points


def test_directions_are_orthonormal_and_seeded() -> None:
    q = orthonormal_directions(10, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(q @ q.T, torch.eye(4, dtype=torch.float64))
    assert torch.equal(q, orthonormal_directions(10, 4, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(q, orthonormal_directions(10, 4, generator=torch.Generator().manual_seed(1)))
    assert orthonormal_directions(3, dtype=torch.float32).dtype == torch.float32


def test_directions_have_no_preferred_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([orthonormal_directions(3, 1, generator=generator)[0] for _ in range(400)])
    assert draws.mean(0).abs().max() < 4 / 400**0.5  # four standard errors; a plain QR gives one sign only
    torch.testing.assert_close(draws.var(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.08, rtol=0)


def test_plane_by_hand() -> None:
    points = plane_points(
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]),
        torch.tensor([0.0, 10.0]),
        torch.tensor([-1.0, 0.0, 1.0]),
    )
    assert points.shape == (3, 2, 3)
    assert points[0, 1].tolist() == [11.0, 2.0, 2.0] and points[2, 0].tolist() == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("name", "function", "share"),
    [
        ("bowl", lambda x, y: x**2 + y**2, 0.0),
        ("plane", lambda x, y: 2 * x - y, 0.0),
        ("hill", lambda x, y: -(x**2) - y**2, 1.0),
        ("saddle of the axes", lambda x, y: x**2 - y**2, 0.25),
        ("saddle of the diagonals", lambda x, y: x * y, 0.25),
    ],
)
def test_concave_share(name: str, function: object, share: float) -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 9), indexing="ij")
    assert concave_share(function(x.double(), y.double())) == share, name  # type: ignore[operator]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="count must be at most dim"):
        orthonormal_directions(2, 3)
    with pytest.raises(ValueError, match="dim must be"):
        orthonormal_directions(0)
    with pytest.raises(ValueError, match=r"directions \(2, C\)"):
        plane_points(torch.zeros(3), torch.zeros(2, 4), torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="1-D"):
        plane_points(torch.zeros(3), torch.zeros(2, 3), torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="at least"):
        concave_share(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="tolerance"):
        concave_share(torch.zeros(3, 3), tolerance=-1.0)
