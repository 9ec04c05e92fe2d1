"""Similarity measures against hand-computed values, slow independent oracles, scipy, and their invariances."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcore.functional.cca import cca_coefficients, cca_r2, leading_directions, mean_cca, pwcca, svcca
from kdcore.functional.cka import CKAMap, cka, cka_loss
from kdcore.functional.gram import center_gram, gram_linear, gram_rbf, hsic, ucentered_gram
from kdcore.functional.similarity import cknna, mutual_knn, procrustes_disparity, procrustes_distance, rsa

F64 = torch.float64
property_test = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def related(n: int, d1: int, d2: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two representations that share something."""
    x = randn(n, d1, seed=seed)
    return x, x @ randn(d1, d2, seed=seed + 1) / math.sqrt(d1) + randn(n, d2, seed=seed + 2)


def rotation(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(randn(d, d, seed=seed)).Q


# ------------------------------------------------------------------------------------------------------- slow oracles


def slow_gram(x: np.ndarray, kernel: str, bandwidth: float = 0.5) -> np.ndarray:
    n = len(x)
    if kernel == "linear":
        return np.array([[float(np.dot(x[i], x[j])) for j in range(n)] for i in range(n)])
    d2 = np.array([[float(((x[i] - x[j]) ** 2).sum()) for j in range(n)] for i in range(n)])
    return np.exp(-d2 / (2 * bandwidth**2 * np.median(d2)))


def slow_hsic(k: np.ndarray, l_: np.ndarray, unbiased: bool) -> float:
    """Song et al. eq. 5 term by term, or the trace form; U-centring is not used."""
    n = len(k)
    if not unbiased:
        h = np.eye(n) - np.ones((n, n)) / n
        return float(np.trace(k @ h @ l_ @ h)) / (n - 1) ** 2
    k, l_ = k - np.diag(np.diag(k)), l_ - np.diag(np.diag(l_))
    one = np.ones(n)
    return float(
        np.trace(k @ l_) + (one @ k @ one) * (one @ l_ @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l_ @ one)
    ) / (n * (n - 3))


def slow_cka(x: Tensor, y: Tensor, kernel: str = "linear", unbiased: bool = True, bandwidth: float = 0.5) -> float:
    k, l_ = (slow_gram(z.numpy(), kernel, bandwidth) for z in (x, y))
    return slow_hsic(k, l_, unbiased) / math.sqrt(slow_hsic(k, k, unbiased) * slow_hsic(l_, l_, unbiased))


# ---------------------------------------------------------------------------------------------------------- CKA, HSIC


@pytest.mark.parametrize(("n", "d1", "d2"), [(12, 3, 5), (9, 30, 4), (4, 2, 2), (25, 6, 40)])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_cka_equals_the_definition(n: int, d1: int, d2: int, unbiased: bool, kernel: str) -> None:
    x, y = related(n, d1, d2)
    expected = slow_cka(x, y, kernel, unbiased, 0.7)
    methods = ("auto", "gram", "feature") if kernel == "linear" else ("auto", "gram")
    for method in methods:
        assert cka(x, y, kernel=kernel, unbiased=unbiased, bandwidth=0.7, method=method).item() == pytest.approx(
            expected, abs=1e-11
        )


def test_hand_computed_biased_cka() -> None:
    # x centred: (-1, 0, 1), y centred: (-1, 2, -1); biased linear CKA of single columns is their squared correlation.
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.0], [3.0], [3.0]])
    assert cka(x, y, unbiased=False).item() == pytest.approx(0.75, abs=1e-7)  # r = 3 / sqrt(2 * 6)
    assert cka(x, torch.tensor([[0.0], [3.0], [0.0]]), unbiased=False).item() == pytest.approx(0.0, abs=1e-12)


def test_hand_computed_grams_and_hsic() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=F64)
    assert gram_linear(x).tolist() == [[0, 0, 0], [0, 1, 3], [0, 3, 9]]
    # Squared distances 1, 9, 4, each twice, and three zeros: median of (0,0,0,1,1,4,4,9,9) is 1.
    rbf = gram_rbf(x, bandwidth=1.0)
    assert rbf[0, 1].item() == pytest.approx(math.exp(-0.5)) and rbf[0, 2].item() == pytest.approx(math.exp(-4.5))
    # H K H of x = (0, 1, 3) is the outer product of (-4/3, -1/3, 5/3); its squared norm is (42/9)^2.
    assert hsic(gram_linear(x), gram_linear(x), unbiased=False).item() == pytest.approx((42 / 9) ** 2 / 4)


def test_even_median_is_the_mean_of_the_middle_values() -> None:
    x = torch.tensor([[0.0], [1.0], [4.0], [9.0]], dtype=F64)  # 16 squared distances: 0 x4, 1, 9, 16, 25, 64, 81, twice
    d2 = (x - x.T).square()
    median = float(np.median(d2.numpy()))
    assert median == 12.5
    torch.testing.assert_close(gram_rbf(x, bandwidth=1.0), torch.exp(-d2 / (2 * median)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("unbiased", [True, False])
def test_hsic_equals_the_definition(unbiased: bool) -> None:
    k, l_ = gram_rbf(randn(11, 3)), gram_linear(randn(11, 5, seed=4))
    assert hsic(k, l_, unbiased=unbiased).item() == pytest.approx(slow_hsic(k.numpy(), l_.numpy(), unbiased), rel=1e-10)
    assert hsic(k, k, unbiased=unbiased).item() > 0


def test_centred_grams() -> None:
    gram = gram_linear(randn(7, 3) + 5)
    h = torch.eye(7, dtype=F64) - 1 / 7
    torch.testing.assert_close(center_gram(gram), h @ gram @ h, rtol=0, atol=1e-10)
    u = center_gram(gram, unbiased=True)
    assert u.diagonal().abs().max() == 0 and u.sum(1).abs().max() < 1e-10
    torch.testing.assert_close(ucentered_gram(randn(7, 3) + 5, dtype=F64), u, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["plain", "offset", "outlier in the shift", "drift", "constant"])
def test_streamed_gram_keeps_its_digits_whatever_the_shift_is(case: str) -> None:
    """Float32, more samples than the shift reads, more columns than a slab, against float64."""
    n, d = 64, 5000
    x = randn(n, d)
    if case == "offset":
        x += 1000 * randn(1, d, seed=1)
    elif case == "outlier in the shift":
        x[::4] += 1000  # the rows that the shift reads are of another kind than the rest
    elif case == "drift":
        x += torch.linspace(-100, 100, n, dtype=F64)[:, None]
    elif case == "constant":
        x = 1000 + 1e-7 * x
    truth = center_gram(gram_linear(x.float().double() - x.float().double().mean(0)), unbiased=True)
    found = ucentered_gram(x.float())
    if case == "constant":
        assert not found.any()
        return
    centred = x.float() - x.float().mean(0)
    naive = center_gram((centred @ centred.T).double(), unbiased=True)  # what float32 can do with the batch mean
    assert (found - truth).norm() < 2 * (naive - truth).norm() + 1e-7 * truth.norm()


def test_unbiased_hsic_is_unbiased_and_biased_is_not() -> None:
    # Wide independent features: the mean of HSIC_1 over draws is zero within its standard error, HSIC_0 is far from it.
    draws = [[gram_linear(randn(10, 50, seed=2 * i + side)) for side in (0, 1)] for i in range(300)]
    values = {u: torch.stack([hsic(a, b, unbiased=u) for a, b in draws]) for u in (True, False)}
    error = values[True].std() / math.sqrt(len(draws))
    assert values[True].mean().abs() < 4 * error
    assert values[False].mean() > 100 * error


def test_bias_of_wide_features() -> None:
    x, y = randn(100, 2000), randn(100, 2000, seed=1)
    assert cka(x, y, unbiased=False) > 0.9 and cka(x, y).abs() < 0.05


@given(seed=seeds, scale=st.floats(1e-3, 1e3), unbiased=st.booleans(), kernel=st.sampled_from(["linear", "rbf"]))
@property_test
def test_invariances(seed: int, scale: float, unbiased: bool, kernel: str) -> None:
    x, y = related(9, 4, 6, seed)

    def f(a: Tensor, b: Tensor) -> float:
        return cka(a, b, kernel=kernel, unbiased=unbiased).item()

    value = f(x, y)
    assert f(y, x) == pytest.approx(value, abs=1e-10)
    assert f(x @ rotation(4, seed), y @ rotation(6, seed + 9) * scale) == pytest.approx(value, abs=1e-9)
    assert f(x + randn(1, 4, seed=seed) * scale, y) == pytest.approx(value, abs=1e-8)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    assert f(x[order], y[order]) == pytest.approx(value, abs=1e-10)
    assert f(x, x) == pytest.approx(1, abs=1e-10)
    assert (-1e-12 if not unbiased else -1) <= value <= 1 + 1e-12


def test_cka_is_not_invariant_to_linear_maps_nor_to_other_rows() -> None:
    x, y = related(30, 4, 4)
    stretched = x * torch.tensor([10.0, 1, 1, 1], dtype=F64)
    assert abs(cka(stretched, y) - cka(x, y)) > 0.02
    assert abs(cka(x.roll(1, 0), y) - cka(x, y)) > 0.1


@pytest.mark.parametrize("ratio", [0, 3, 10, 100, 1000])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_float32_features_far_from_zero(ratio: float, kernel: str) -> None:
    shared = randn(64, 500, seed=3) * 0.5
    x, y = ((shared + randn(64, 500, seed=s) + ratio).float() for s in (4, 5))
    expected = slow_reference(x, y, kernel)
    assert cka(x, y, kernel=kernel).dtype == torch.float32
    assert cka(x, y, kernel=kernel).item() == pytest.approx(expected, abs=1e-6)
    m = CKAMap(["a"], ["b"], kernel=kernel, dtype=torch.float32)
    m.update({"a": x}, {"b": y})
    assert m.compute().item() == pytest.approx(expected, abs=1e-5)


def slow_reference(x: Tensor, y: Tensor, kernel: str) -> float:
    """float64 throughout, from centred features, without the code under test."""

    def gram(z: Tensor) -> np.ndarray:
        a = z.double().numpy()
        a = a - a.mean(0)
        if kernel == "linear":
            return a @ a.T
        d2 = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(a, "sqeuclidean"))
        return np.exp(-d2 / (2 * 0.25 * np.median(d2)))

    k, l_ = gram(x), gram(y)
    return slow_hsic(k, l_, True) / math.sqrt(slow_hsic(k, k, True) * slow_hsic(l_, l_, True))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e25])
def test_extreme_scales(scale: float) -> None:
    x, y = related(10, 5, 3)
    assert cka((x * scale).float(), y).item() == pytest.approx(cka(x, y).item(), abs=1e-5)


def test_shapes_and_dtypes() -> None:
    maps = randn(6, 3, 4, 4)
    assert cka(maps, maps.flatten(1)).item() == pytest.approx(1)
    assert cka(maps.bfloat16(), maps.float()).dtype == torch.bfloat16
    assert cka_loss(maps.half(), maps).dtype == torch.float32
    assert cka(torch.arange(12).reshape(6, 2), torch.arange(6)).dtype == torch.float32
    assert gram_linear(maps.float()).dtype == F64


# ---------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("n", [5, 8])
def test_gradcheck(kernel: str, unbiased: bool, n: int) -> None:
    x, y = related(n, 4, 3)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cka_loss(s, y, kernel=kernel, unbiased=unbiased), x)


def test_gradient_in_feature_space_equals_that_in_example_space() -> None:
    x, y = related(20, 4, 5)
    grads = []
    for method in ("gram", "feature"):
        leaf = x.clone().requires_grad_()
        grads.append(torch.autograd.grad(cka(leaf, y, method=method), leaf)[0])
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)
    assert grads[0].norm() > 1e-3


def test_loss_detaches_the_teacher_and_is_one_minus_cka() -> None:
    x, y = related(10, 4, 3)
    x.requires_grad_(), y.requires_grad_()
    loss = cka_loss(x, y)
    loss.backward()
    assert y.grad is None and x.grad is not None and x.grad.norm() > 0
    assert loss.item() == pytest.approx(1 - slow_cka(x.detach(), y.detach()), abs=1e-12)


def test_descending_the_loss_aligns() -> None:
    y, x = related(12, 6, 3)
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], 0.05)
    before = cka_loss(x, y).item()
    for _ in range(60):
        optimizer.zero_grad()
        cka_loss(x, y).backward()
        optimizer.step()
    assert cka_loss(x, y).item() < 0.2 * before


def test_gradient_vanishes_at_a_match_and_along_invariances() -> None:
    y = randn(9, 4)
    x = (3 * y @ rotation(4, 1) + 2).requires_grad_()
    loss = cka_loss(x, y)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, x)[0].norm() < 1e-10
    x, y = related(9, 4, 3)
    grad = torch.autograd.grad(cka_loss(x.requires_grad_(), y), x)[0]
    assert (grad * x).sum().abs() < 1e-10 and grad.sum(0).abs().max() < 1e-10  # scaling and shifting change nothing


def test_autocast_and_compile() -> None:
    x, y = (t.float() for t in related(10, 6, 4))
    eager = cka_loss(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(cka_loss(x, y), eager, rtol=0, atol=1e-6)
    compiled = torch.compile(cka_loss, backend="eager")
    torch.testing.assert_close(compiled(x, y), eager, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- refusals


def bad_pairs() -> list[tuple[str, Tensor, Tensor, str]]:
    x = randn(6, 3)
    nan = x.clone()
    nan[2, 1] = math.nan
    return [
        ("other N", x, randn(5, 3), r"same samples.*\(6, 3\).*\(5, 3\)"),
        ("nan", nan, x, "x must be finite.*1 NaN"),
        ("inf", x, x / 0, "y must be finite"),
        ("no features", x[:, :0], x, "x must be"),
        ("constant", torch.full((6, 3), 0.1, dtype=F64), x, "x is constant"),
    ]


@pytest.mark.parametrize(("x", "y", "message"), [pytest.param(*c[1:], id=c[0]) for c in bad_pairs()])
@pytest.mark.parametrize("measure", [cka, mean_cca, svcca, procrustes_distance])
def test_bad_features_are_refused(measure, x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(x, y)


@pytest.mark.parametrize(("x", "y", "message"), [pytest.param(*c[1:], id=c[0]) for c in bad_pairs()[:4]])
@pytest.mark.parametrize("measure", [rsa, lambda x, y: mutual_knn(x, y, k=2), lambda x, y: cknna(x, y, k=2)])
def test_bad_features_are_refused_by_companions(measure, x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(x, y)


def test_too_few_samples_are_refused() -> None:
    x = randn(3, 2)
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        cka(x, x)
    assert cka(x, x, unbiased=False).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        cka(x[:1], x[:1], unbiased=False)
    with pytest.raises(ValueError, match=r"gram_x needs at least 4.*got 3"):
        hsic(gram_linear(x), gram_linear(x))
    with pytest.raises(ValueError, match="student_features and teacher_features need at least 4"):
        cka_loss(x, x)


def test_equidistant_samples_have_no_unbiased_cka() -> None:
    with pytest.raises(ValueError, match="y has HSIC 0 with itself"):
        cka(randn(5, 2), torch.eye(5, dtype=F64))
    assert 0 < cka(randn(5, 2), torch.eye(5, dtype=F64), unbiased=False) <= 1


@pytest.mark.parametrize("method", ["gram", "feature"])
def test_constant_float32_features_with_round_off(method: str) -> None:
    x = randn(50, 3).float()
    with pytest.raises(ValueError, match="y is constant"):
        cka(x, torch.full((50, 4), 0.3), method=method)


def test_bad_choices_are_refused() -> None:
    x = randn(6, 3)
    for kwargs, message in (
        ({"kernel": "cosine"}, "kernel must be one of"),
        ({"method": "fast"}, "method must be one"),
        ({"bandwidth": 0.0}, "bandwidth must be"),
        ({"bandwidth": -1.0}, "bandwidth must be"),
        ({"kernel": "rbf", "method": "feature"}, "method='feature'"),
    ):
        with pytest.raises(ValueError, match=message):
            cka(x, x, **kwargs)
    with pytest.raises(ValueError, match="bandwidth"):
        gram_rbf(x, bandwidth=0)
    with pytest.raises(ValueError, match="x: the median squared distance is 0"):
        cka(torch.cat([x[:1]] * 5 + [x[1:2]]), x, kernel="rbf")


def test_bad_grams_are_refused() -> None:
    gram = gram_linear(randn(6, 3))
    skewed = gram.clone()
    skewed[0, 1] += 1
    for bad, message in ((gram[:, :5], "square"), (skewed, "symmetric"), (gram / 0, "finite")):
        with pytest.raises(ValueError, match=f"gram must be .*{message}"):
            center_gram(bad)
        with pytest.raises(ValueError, match=message):
            hsic(gram, bad)
    with pytest.raises(ValueError, match=r"gram_x and gram_y must hold the same samples"):
        hsic(gram, gram[:5, :5])


# --------------------------------------------------------------------------------------------------------- CKA map

NAMES_X, NAMES_Y, WIDTHS_X, WIDTHS_Y = ["a", "b", "c"], ["p", "q"], (5, 30, 2), (4, 9)


def features(n: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    base = randn(n, 6, seed=seed)
    make = [
        base @ randn(6, w, seed=77 + i) + randn(n, w, seed=seed + 100 + i) + 3 * i
        for i, w in enumerate((*WIDTHS_X, *WIDTHS_Y))
    ]
    return dict(zip(NAMES_X, make[:3], strict=True)), dict(zip(NAMES_Y, make[3:], strict=True))


def run(sizes: list[int], **kwargs) -> tuple[CKAMap, list[tuple[dict[str, Tensor], dict[str, Tensor]]]]:
    batches = [features(n, seed=1000 * i) for i, n in enumerate(sizes)]
    m = CKAMap(NAMES_X, NAMES_Y, **kwargs)
    for batch in batches:
        m.update(*batch)
    return m, batches


@pytest.mark.parametrize("weighting", ["pairs", "uniform"])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_minibatch_map_equals_its_definition(weighting: str, kernel: str) -> None:
    m, batches = run([8, 5, 12], batch_weighting=weighting, kernel=kernel)
    expected = torch.empty(3, 2, dtype=F64)
    for (i, a), (j, b) in itertools.product(enumerate(NAMES_X), enumerate(NAMES_Y)):
        sums = [0.0, 0.0, 0.0]
        for fx, fy in batches:
            k, l_ = slow_gram(fx[a].numpy(), kernel), slow_gram(fy[b].numpy(), kernel)
            n = len(k)
            weight = n * (n - 3) if weighting == "pairs" else 1
            for s, (u, v) in enumerate(((k, l_), (k, k), (l_, l_))):
                sums[s] += weight * slow_hsic(u, v, True)
        expected[i, j] = sums[0] / math.sqrt(sums[1] * sums[2])
    torch.testing.assert_close(m.compute(), expected, rtol=0, atol=1e-10)
    assert (m.n_samples, m.n_batches, m.n_skipped) == (25, 3, 0)


def test_weightings_agree_for_equal_batches_and_differ_for_unequal() -> None:
    equal, unequal = (
        [run(sizes, batch_weighting=w)[0].compute() for w in ("pairs", "uniform")] for sizes in ([6, 6], [5, 20])
    )
    torch.testing.assert_close(*equal, rtol=0, atol=1e-12)
    assert (unequal[0] - unequal[1]).abs().max() > 1e-3


def test_one_batch_is_the_scalar_function() -> None:
    m, [(fx, fy)] = run([10])
    for (i, a), (j, b) in itertools.product(enumerate(NAMES_X), enumerate(NAMES_Y)):
        assert m.compute()[i, j].item() == pytest.approx(cka(fx[a], fy[b]).item(), abs=1e-12)


@pytest.mark.parametrize("sizes", [[20], [7, 7, 6], [1, 2, 3, 14], [1] * 20])
@pytest.mark.parametrize("unbiased", [True, False])
def test_exact_mode_is_the_value_of_the_whole_set_for_any_batches(sizes: list[int], unbiased: bool) -> None:
    fx, fy = features(20)
    m = CKAMap(NAMES_X, NAMES_Y, mode="exact")
    for part in torch.arange(20).split(sizes):
        m.update({k: v[part] for k, v in fx.items()}, {k: v[part] for k, v in fy.items()})
    expected = torch.tensor(
        [[cka(fx[a], fy[b], unbiased=unbiased, method="gram").item() for b in NAMES_Y] for a in NAMES_X], dtype=F64
    )
    torch.testing.assert_close(m.compute(unbiased=unbiased), expected, rtol=0, atol=1e-10)
    assert m.n_samples == 20 and m.n_skipped == 0


def test_exact_mode_far_from_zero() -> None:
    fx, fy = features(24)
    far = {k: (v + 1000).float() for k, v in fx.items()}
    m = CKAMap(NAMES_X, NAMES_Y, mode="exact")
    for part in torch.arange(24).split(7):
        m.update({k: v[part] for k, v in far.items()}, {k: v[part] for k, v in fy.items()})
    expected = torch.tensor([[cka(far[a], fy[b]).item() for b in NAMES_Y] for a in NAMES_X], dtype=F64)
    torch.testing.assert_close(m.compute(), expected, rtol=0, atol=1e-6)  # cka returns float32 here


def tensors_of(value: object, seen: set[int]) -> int:
    """Bytes of all tensors that an object holds."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    children = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, list | tuple)
        else (vars(value).values() if type(value).__module__.startswith("kdcore.functional.") else ())
    )
    return sum(tensors_of(child, seen) for child in children)


@pytest.mark.parametrize("mode", ["minibatch", "exact"])
def test_memory_of_the_state_does_not_grow(mode: str) -> None:
    few, many = (tensors_of(run([8] * count, mode=mode)[0], set()) for count in (4, 40))
    assert few == many > 0
    assert few <= (4096 if mode == "minibatch" else 65536)


def test_small_batches_are_skipped_counted_and_warned_about_once() -> None:
    m = CKAMap(NAMES_X, NAMES_Y)
    with pytest.raises(RuntimeError, match="no usable batch"):
        m.compute()
    with pytest.warns(UserWarning, match=r"3 samples was left out.*at least 4") as caught:
        for n in (3, 8, 2, 1):
            m.update(*features(n))
    assert len(caught) == 1
    assert (m.n_samples, m.n_batches, m.n_skipped) == (8, 1, 3)
    torch.testing.assert_close(m.compute(), run([8])[0].compute())


@pytest.mark.parametrize("mode", ["minibatch", "exact"])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_constant_layers_give_nan_and_a_warning_with_their_names(mode: str, dtype: torch.dtype) -> None:
    m, clean = CKAMap(NAMES_X, NAMES_Y, mode=mode, dtype=dtype), CKAMap(NAMES_X, NAMES_Y, mode=mode, dtype=dtype)
    for seed in (0, 1):
        fx, fy = features(9, seed)
        fx, fy = ({k: v.to(dtype) for k, v in f.items()} for f in (fx, fy))
        clean.update(fx, fy)
        m.update(fx | {"b": torch.full((9, 30), 0.1, dtype=dtype)}, fy)
    with pytest.warns(UserWarning, match=r"undefined \(NaN\) for x:b:"):
        matrix = m.compute()
    assert matrix[1].isnan().all() and not matrix[[0, 2]].isnan().any()
    torch.testing.assert_close(matrix[[0, 2]], clean.compute()[[0, 2]])


def test_a_layer_constant_in_one_batch_only_is_not_lost() -> None:
    _, [first, second] = run([8, 8])
    fx, fy = second
    quiet = CKAMap(NAMES_X, NAMES_Y)
    quiet.update(*first)
    quiet.update(fx | {"a": torch.ones(8, 5, dtype=F64)}, fy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not quiet.compute().isnan().any()


def test_update_refuses_what_does_not_fit() -> None:
    m = CKAMap(NAMES_X, NAMES_Y)
    fx, fy = features(8)
    with pytest.raises(ValueError, match=r"feats_x must hold exactly.*missing: b"):
        m.update({k: v for k, v in fx.items() if k != "b"}, fy)
    with pytest.raises(ValueError, match=r"feats_y must hold exactly.*extra: z"):
        m.update(fx, fy | {"z": fy["p"]})
    with pytest.raises(ValueError, match=r"same samples.*x:a: 8.*y:q: 7"):
        m.update(fx, fy | {"q": fy["q"][:7]})
    for mode, message in (("minibatch", "x:c is not finite"), ("exact", "'x:c'.*must be finite")):
        with pytest.raises(ValueError, match=message):
            CKAMap(NAMES_X, NAMES_Y, mode=mode).update(fx | {"c": fx["c"] * math.nan}, fy)
    with pytest.raises(ValueError, match=r"x:c is not finite.*rbf"):
        CKAMap(NAMES_X, NAMES_Y, kernel="rbf").update(fx | {"c": torch.eye(8, 1, dtype=F64)}, fy)
    with pytest.raises(ValueError, match=r"grams_x must have shape \(3, 5, 5\)"):
        m.update_grams(torch.zeros(2, 5, 5), torch.zeros(2, 5, 5))
    with pytest.raises(ValueError, match="mode='exact'"):
        m.compute(unbiased=False)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "fast"}, "mode must be"),
        ({"kernel": "poly"}, "kernel must be"),
        ({"pooling": "max"}, "pooling"),
        ({"batch_weighting": "n"}, "batch_weighting"),
        ({"bandwidth": 0}, "bandwidth"),
        ({"mode": "exact", "kernel": "rbf"}, "mode='exact'"),
        ({"dtype": torch.int64}, "floating"),
        ({"layers_x": []}, "layers_x"),
        ({"layers_y": ["a", "a"]}, "layers_y"),
        ({"layers_x": "abc"}, "layers_x"),
    ],
)
def test_map_refuses_bad_settings(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CKAMap(**({"layers_x": NAMES_X, "layers_y": NAMES_Y} | kwargs))


def test_map_pools() -> None:
    maps, tokens = randn(8, 3, 4, 4), randn(8, 5, 6, seed=1)
    m = CKAMap(["m"], ["t"], pooling="gap")
    m.update({"m": maps}, {"t": tokens})
    assert m.compute().item() == pytest.approx(cka(maps.mean((2, 3)), tokens.mean(1)).item(), abs=1e-12)


def test_bootstrap_interval() -> None:
    m, batches = run([8] * 12, keep_batches=True)
    interval = m.bootstrap(400, confidence=0.9, seed=3)
    assert interval.shape == (3, 2, 2)
    assert (interval[..., 0] < m.compute()).all() and (m.compute() < interval[..., 1]).all()
    assert torch.equal(interval, m.bootstrap(400, confidence=0.9, seed=3))
    wider = m.bootstrap(400, confidence=0.99, seed=3)
    assert (wider[..., 0] <= interval[..., 0]).all() and (wider[..., 1] >= interval[..., 1]).all()
    # One resample by hand: the drawn batches, counted as often as they were drawn.
    drawn = torch.randint(12, (1, 12), generator=torch.Generator().manual_seed(5))[0].tolist()
    again = CKAMap(NAMES_X, NAMES_Y)
    for index in drawn:
        again.update(*batches[index])
    torch.testing.assert_close(m.bootstrap(1, seed=5)[..., 0], again.compute())
    with pytest.raises(RuntimeError, match="keep_batches"):
        run([8, 8])[0].bootstrap(10)
    with pytest.raises(ValueError, match="at least 2"):
        run([8], keep_batches=True)[0].bootstrap(10)


# ------------------------------------------------------------------------------------------------------ CCA family


def slow_cca(x: Tensor, y: Tensor) -> np.ndarray:
    """Square roots of the eigenvalues of Sxx^-1 Sxy Syy^-1 Syx."""
    a, b = (z.numpy() - z.numpy().mean(0) for z in (x, y))
    m = np.linalg.solve(a.T @ a, a.T @ b) @ np.linalg.solve(b.T @ b, b.T @ a)
    return np.sqrt(np.sort(np.linalg.eigvals(m).real.clip(0, 1))[::-1][: min(a.shape[1], b.shape[1])])


def test_cca_equals_the_eigenvalue_definition() -> None:
    x, y = related(40, 5, 3)
    expected = slow_cca(x, y)
    np.testing.assert_allclose(cca_coefficients(x, y).numpy(), expected, atol=1e-10)
    assert mean_cca(x, y).item() == pytest.approx(expected.mean(), abs=1e-10)
    assert cca_r2(x, y).item() == pytest.approx((expected**2).mean(), abs=1e-10)
    one, other = randn(30, 1), randn(30, 1, seed=8)
    assert mean_cca(one, other).item() == pytest.approx(abs(np.corrcoef(one.T, other.T)[0, 1]), abs=1e-12)


@given(seed=seeds)
@property_test
def test_cca_is_invariant_to_linear_maps(seed: int) -> None:
    x, y = related(30, 4, 3, seed)
    a = randn(4, 4, seed=seed + 5) + 4 * torch.eye(4, dtype=F64)
    assert mean_cca(x @ a + 2, y).item() == pytest.approx(mean_cca(x, y).item(), abs=1e-9)
    assert mean_cca(x, x @ a).item() == pytest.approx(1, abs=1e-9)
    assert pwcca(x, x @ a).item() == pytest.approx(1, abs=1e-9)


def test_cca_drops_dependent_directions_and_refuses_too_few_samples() -> None:
    x, y = related(30, 4, 3)
    doubled = torch.cat([x, x[:, :2] - x[:, 2:]], 1)
    torch.testing.assert_close(cca_coefficients(doubled, y), cca_coefficients(x, y), rtol=0, atol=1e-10)
    assert cca_r2(doubled.float(), x.float()).item() == pytest.approx(1, abs=1e-5)
    assert len(cca_coefficients(doubled.float(), doubled.float())) == 4
    with pytest.raises(ValueError, match=r"N = 6.*svcca"):
        cca_coefficients(randn(6, 6), randn(6, 2))


def test_svcca_by_hand() -> None:
    x, y = related(25, 6, 8)
    reduced = []
    for z in (x, y):
        u, s, _ = np.linalg.svd(z.numpy() - z.numpy().mean(0), full_matrices=False)
        share = np.cumsum(s**2) / np.sum(s**2)
        k = next(i for i, v in enumerate(share) if v >= 0.8) + 1
        reduced.append(torch.from_numpy(u[:, :k] * s[:k]))
    assert svcca(x, y, threshold=0.8).item() == pytest.approx(slow_cca(*reduced).mean(), abs=1e-10)
    assert leading_directions(x, threshold=1.0).shape[1] == 6
    assert svcca(x, x @ rotation(6, 3)).item() == pytest.approx(1, abs=1e-10)
    assert svcca(randn(10, 50), randn(10, 40, seed=1)) <= 1 + 1e-12  # wider than the number of samples
    for bad in (0.0, 1.1, -0.5):
        with pytest.raises(ValueError, match="threshold"):
            svcca(x, y, threshold=bad)


def test_pwcca_by_definition() -> None:
    x, y = related(30, 5, 3)
    a, b = (z.numpy() - z.numpy().mean(0) for z in (x, y))
    qx, qy = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    u, rho, _ = np.linalg.svd(qx.T @ qy)
    alpha = np.array([sum(abs(float(qx @ u[:, i] @ a[:, j])) for j in range(5)) for i in range(3)])
    assert pwcca(x, y).item() == pytest.approx(float(alpha @ rho / alpha.sum()), abs=1e-12)
    assert abs(pwcca(x, y) - pwcca(y, x)) > 1e-4
    assert 0 <= pwcca(y, x) <= 1  # narrower second or first argument, both work


# -------------------------------------------------------------------------------------------------------- Procrustes


def test_procrustes_equals_scipy() -> None:
    x, y = related(15, 4, 4)
    *_, disparity = scipy.spatial.procrustes(x.numpy(), y.numpy())
    assert procrustes_disparity(x, y).item() == pytest.approx(disparity, abs=1e-12)


@given(seed=seeds, wide=st.booleans())
@property_test
def test_procrustes_properties(seed: int, wide: bool) -> None:
    x, y = related(8, 20, 30, seed) if wide else related(12, 3, 5, seed)
    distance = procrustes_distance(x, y).item()
    a, b = (z - z.mean(0) for z in (x, y))
    nuclear = torch.linalg.matrix_norm((a / a.norm()).T @ (b / b.norm()), "nuc").item()
    assert distance == pytest.approx(2 - 2 * nuclear, abs=1e-10) and 0 <= distance <= 2
    assert procrustes_distance(y, 5 * x @ rotation(x.shape[1], seed) + 1).item() == pytest.approx(distance, abs=1e-9)
    assert procrustes_distance(x, x).item() == pytest.approx(0, abs=1e-10)


# --------------------------------------------------------------------------------------------------------------- RSA

SCIPY = {"spearman": scipy.stats.spearmanr, "pearson": scipy.stats.pearsonr, "kendall": scipy.stats.kendalltau}


@pytest.mark.parametrize("comparison", SCIPY)
@pytest.mark.parametrize("dissimilarity", ["correlation", "cosine", "euclidean"])
def test_rsa_equals_scipy(comparison: str, dissimilarity: str) -> None:
    x, y = related(14, 6, 9)
    a, b = (scipy.spatial.distance.pdist(z.numpy(), dissimilarity) for z in (x, y))
    expected = SCIPY[comparison](a, b).statistic
    assert rsa(x, y, dissimilarity=dissimilarity, comparison=comparison).item() == pytest.approx(expected, abs=1e-10)


@given(seed=seeds, levels=st.integers(2, 5), n=st.integers(4, 13))
@property_test
def test_rsa_with_many_ties_equals_scipy(seed: int, levels: int, n: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(levels, (n, 1), generator=g).to(F64) for _ in range(2))
    x[0], y[0], x[1], y[1] = 0, 0, 0, 7  # never all equally far
    x[2] = 9
    a, b = (scipy.spatial.distance.pdist(z.numpy()) for z in (x, y))
    for comparison in ("kendall", "spearman"):
        value = rsa(x, y, dissimilarity="euclidean", comparison=comparison).item()
        assert value == pytest.approx(SCIPY[comparison](a, b).statistic, abs=1e-10)


def test_rsa_extremes_and_refusals() -> None:
    x, y = related(10, 4, 4)
    for comparison in SCIPY:
        assert rsa(x, x, comparison=comparison).item() == pytest.approx(1, abs=1e-12)
    assert rsa(x, 2 * x @ rotation(4, 2) + 1, dissimilarity="euclidean").item() == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="at least 3"):
        rsa(x[:2], y[:2])
    with pytest.raises(ValueError, match="sample 3 has constant features"):
        rsa(x.index_fill(0, torch.tensor(3), 0.1), y)
    with pytest.raises(ValueError, match="sample 3 has zero features"):
        rsa(x, y.index_fill(0, torch.tensor(3), 0.0), dissimilarity="cosine")
    with pytest.raises(ValueError, match="x: all pairs of samples are equally"):
        rsa(torch.eye(5), y[:5], dissimilarity="euclidean")
    with pytest.raises(ValueError, match="comparison must be one of"):
        rsa(x, y, comparison="tau")
    with pytest.raises(ValueError, match="dissimilarity must be one of"):
        rsa(x, y, dissimilarity="l1")


# ---------------------------------------------------------------------------------------------------- neighbourhoods


def slow_knn(x: np.ndarray, k: int) -> list[set[int]]:
    scores = x @ x.T
    return [set(sorted((j for j in range(len(x)) if j != i), key=lambda j: -scores[i, j])[:k]) for i in range(len(x))]


@pytest.mark.parametrize("k", [1, 4, 14])
@pytest.mark.parametrize("normalize", [True, False])
def test_mutual_knn_counts_shared_neighbours(k: int, normalize: bool) -> None:
    x, y = related(15, 4, 6)
    a, b = (z.numpy() / (np.linalg.norm(z.numpy(), axis=1, keepdims=True) if normalize else 1) for z in (x, y))
    expected = np.mean([len(p & q) / k for p, q in zip(slow_knn(a, k), slow_knn(b, k), strict=True)])
    assert mutual_knn(x, y, k=k, normalize=normalize).item() == pytest.approx(expected, abs=1e-12)
    assert mutual_knn(x, x, k=k).item() == 1


def test_mutual_knn_of_unrelated_features_is_near_its_expectation() -> None:
    scores = [mutual_knn(randn(60, 5, seed=i), randn(60, 5, seed=i + 500), k=6).item() for i in range(30)]
    assert np.mean(scores) == pytest.approx(6 / 59, abs=4 * np.std(scores) / math.sqrt(30))


def test_cknna_definition_and_limits() -> None:
    x, y = related(12, 4, 5)
    k, l_ = (z.numpy() @ z.numpy().T for z in (x, y))
    near = [slow_knn(z.numpy(), 4) for z in (x, y)]

    def score(p: np.ndarray, q: np.ndarray, np_: list[set[int]], nq: list[set[int]]) -> float:
        mask = np.array([[float(j in np_[i] and j in nq[i]) for j in range(12)] for i in range(12)])
        p, q, one = mask * p, mask * q, np.ones(12)
        return (np.sum(p * q.T) + one @ p @ one * (one @ q @ one) / (11 * 10) - 2 / 10 * (one @ p @ q @ one)) / (12 * 9)

    own = math.sqrt(score(k, k, near[0], near[0]) * score(l_, l_, near[1], near[1]))
    assert cknna(x, y, k=4).item() == pytest.approx(score(k, l_, *near) / (own + 1e-6), abs=1e-12)
    assert cknna(x, y, k=11).item() == pytest.approx(cka(x, y).item(), abs=1e-6)
    own_x = score(k, k, near[0], near[0])
    assert cknna(x, x, k=4).item() == pytest.approx(own_x / (own_x + 1e-6), abs=1e-12)


def test_neighbour_counts_are_checked() -> None:
    x = randn(8, 3)
    for k in (0, 8, -1, 2.5, True):
        with pytest.raises(ValueError, match=r"k must be an integer in \[1, N-1\] = \[1, 7\]"):
            mutual_knn(x, x, k=k)
    for k in (1, 8):
        with pytest.raises(ValueError, match=r"k must be an integer in \[2, N-1\]"):
            cknna(x, x, k=k)
    with pytest.raises(ValueError, match="x is constant"):
        cknna(torch.ones(8, 3), x, k=3)
