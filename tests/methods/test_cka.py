"""CKA: every value of the released code, the objective in a training step, and what the page promises."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.golden import Case, close, parity
from torch import Tensor, nn

from kdcore.functional import cca, gram, similarity
from kdcore.functional import cka as measure
from kdcore.functional.cca import leading_directions
from kdcore.method import Signals
from kdcore.methods import cka as page
from kdcore.methods.cka import (
    CARD,
    CKAAlignment,
    CKAMap,
    cca_coefficients,
    cca_r2,
    center_gram,
    cka,
    cka_loss,
    cknna,
    gram_linear,
    gram_rbf,
    hsic,
    mean_cca,
    mutual_knn,
    procrustes_disparity,
    procrustes_distance,
    rsa,
    svcca,
)
from kdcore.registry import create_method
from kdcore.taps import Taps

TOLERANCE = 1e-9
Check = Callable[[Tensor, Tensor], Tensor]

#: Key -> call. CCA exists where N > max(d1, d2) only, see :func:`check_pair`.
CALLS: dict[str, Check] = {
    "cka_rbf_1": lambda x, y: cka(x, y, kernel="rbf", bandwidth=1.0, unbiased=False),
    "cka_rbf_05": lambda x, y: cka(x, y, kernel="rbf", bandwidth=0.5, unbiased=False),
    "cka_rbf_05_unbiased": lambda x, y: cka(x, y, kernel="rbf", bandwidth=0.5, unbiased=True),
    "gram_rbf_05_x": lambda x, y: gram_rbf(x, bandwidth=0.5),
    "centered_gram_x": lambda x, y: center_gram(gram_linear(x)),
    "ucentered_gram_x": lambda x, y: center_gram(gram_linear(x), unbiased=True),
    "hsic_linear_unbiased": lambda x, y: hsic(gram_linear(x), gram_linear(y), unbiased=True),
    "hsic_linear_biased_times_nm1sq": lambda x, y: (
        (len(x) - 1) ** 2 * hsic(gram_linear(x), gram_linear(y), unbiased=False)
    ),
    "cknna_5": lambda x, y: cknna(x, y, k=5),
    "cknna_full": lambda x, y: cknna(x, y, k=len(x) - 1),
    "procrustes_disparity_scipy": procrustes_disparity,
    "procrustes_distance": procrustes_distance,
    "rsa_spearman_correlation": lambda x, y: rsa(x, y, comparison="spearman", dissimilarity="correlation"),
    "rsa_pearson_correlation": lambda x, y: rsa(x, y, comparison="pearson", dissimilarity="correlation"),
    "rsa_spearman_euclidean": lambda x, y: rsa(x, y, comparison="spearman", dissimilarity="euclidean"),
    "rsa_kendall_euclidean": lambda x, y: rsa(x, y, comparison="kendall", dissimilarity="euclidean"),
    **{f"mutual_knn_{k}": lambda x, y, k=k: mutual_knn(x, y, k=k, normalize=False) for k in (1, 3, 5)},
    **{f"mutual_knn_cos_{k}": lambda x, y, k=k: mutual_knn(x, y, k=k, normalize=True) for k in (1, 3, 5)},
    **{
        f"cka_linear{suffix}@{method}": lambda x, y, u=suffix != "", m=method: cka(x, y, unbiased=u, method=m)
        for suffix in ("", "_unbiased")
        for method in ("gram", "feature", "auto")
    },
}
CCA_CALLS: dict[str, Check] = {
    "cca_coefs": cca_coefficients,
    "cca_r2": cca_r2,
    "mean_cca": mean_cca,
    "svcca_09": lambda x, y: svcca(x, y, threshold=0.9),
    "svcca_09_dims": lambda x, y: torch.tensor([leading_directions(z, threshold=0.9).shape[1] for z in (x, y)]),
}
#: In the file for orientation: quantities that the package does not offer.
INFORMATION = ("platonic_cka_unbiased_eps", "cycle_knn_3", "cknna_5_biased")


def check_pair(case: Case) -> None:
    x, y = case.inputs["x"], case.inputs["y"]
    calls = dict(CALLS)
    if len(x) > max(x.shape[1], y.shape[1]):
        calls |= CCA_CALLS
    else:
        with pytest.raises(ValueError, match="svcca"):  # the file's R^2 of 1 says nothing when N <= d
            cca_r2(x, y)
        assert case.out["cca_r2"] == pytest.approx(1.0)
    for key, call in calls.items():
        close(call(x, y), case.out[key.split("@")[0]], TOLERANCE, what=key)
    for key in INFORMATION:
        assert math.isfinite(case.out[key])


def filled_map(case: Case, source: Case, last: int | None = None, **settings: str) -> CKAMap:
    names = [f"l{i}" for i in range(case.hp["layers_x"])], [f"l{j}" for j in range(case.hp["layers_y"])]
    filled = CKAMap(*names, **settings)
    batches = case.hp["num_batches"]
    for b in range(batches):
        rows = last if b == batches - 1 else None
        sides = [
            {n: source.inputs[f"{side}_b{b}_{n}"][:rows] for n in layers}
            for side, layers in zip("xy", names, strict=True)
        ]
        assert rows is not None or {len(t) for side in sides for t in side.values()} == {case.hp["batch_size"]}
        filled.update(*sides)
    return filled


def check_map_a(case: Case) -> None:
    filled = filled_map(case, case)
    for key, value in (
        ("cka", filled.compute()),
        ("hsic", filled.hsic),
        ("hsic_x", filled.hsic_x),
        ("hsic_y", filled.hsic_y),
    ):
        close(value, case.out[key], TOLERANCE, what=key)
    exact = filled_map(case, case, mode="exact")
    close(exact.compute(), case.out["cka_full_unbiased"], TOLERANCE, what="exact, unbiased")
    close(exact.compute(unbiased=False), case.out["cka_full_biased"], TOLERANCE, what="exact, biased")


def check_map_b(case: Case) -> None:
    from support.golden import load_cases

    assert case.hp["note_inputs"] == "same arrays as map_a, last batch cut to last_batch rows"
    source = load_cases(case.slug)["map_a"]
    for weighting, tolerance in (("pairs", TOLERANCE), ("uniform", 1e-5)):  # torch_cka accumulates in float32
        filled = filled_map(case, source, case.hp["last_batch"], batch_weighting=weighting)
        close(filled.compute(), case.out[f"cka_{weighting}"], tolerance, what=weighting)


@parity("cka", {"pair_*": check_pair, "map_a": check_map_a, "map_b": check_map_b})
def test_parity(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
    case.assert_all_read()


def test_all_families_of_cases_are_there() -> None:
    from support.golden import load_cases

    assert {"pair_a", "pair_b", "pair_c", "map_a", "map_b"} <= load_cases("cka").keys()


# ------------------------------------------------------------------------------------------------------------ loss


def hand() -> tuple[Tensor, Tensor]:
    """Four samples whose unbiased linear CKA was worked out on paper."""
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    return x, torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=torch.float64)


def test_loss_by_hand() -> None:
    # x centred is -1.5 -.5 .5 1.5, so the pairs 12, 13, 14, 23, 24, 34 have products .75 -.75 -2.25 -.25 -.75 .75.
    # With N = 4 the U-centred matrix depends on K12 + K34, K13 + K24, K14 + K23 less their mean alone:
    # x: 1.5 -1.5 -2.5 -> (14, -4, -10) / 6; y, centred -.5 .5 .5 -.5: -.5 -.5 .5 -> (-1, -1, 2) / 3.
    x, y = hand()
    cosine = (14 * -1 + -4 * -1 + -10 * 2) / math.sqrt((14**2 + 4**2 + 10**2) * (1 + 1 + 4))
    assert cka_loss(x, y).item() == pytest.approx(1 - cosine, abs=1e-12)
    assert cka_loss(x, y, unbiased=False).item() == pytest.approx(1.0, abs=1e-12)  # the columns are uncorrelated


@pytest.mark.parametrize("bandwidth", [0.3, 0.5, 2.0])
@pytest.mark.parametrize("unbiased", [True, False])
def test_rbf_loss_from_its_parts(bandwidth: float, unbiased: bool) -> None:
    g = torch.Generator().manual_seed(2)
    s, t = (torch.randn(7, d, generator=g, dtype=torch.float64) for d in (3, 5))
    k = []
    for z in (s, t):
        squared = torch.tensor([[(a - b).square().sum().item() for b in z] for a in z], dtype=torch.float64)
        k.append(torch.exp(-squared / (2 * bandwidth**2 * float(np.median(squared.numpy())))))
    xy, xx, yy = (hsic(a, b, unbiased=unbiased) for a, b in ((k[0], k[1]), (k[0], k[0]), (k[1], k[1])))
    expected = 1 - xy / (xx * yy).sqrt()
    assert cka_loss(s, t, kernel="rbf", bandwidth=bandwidth, unbiased=unbiased).item() == pytest.approx(
        expected.item(), abs=1e-12
    )


def test_gradient_by_finite_differences_reaches_the_student_only() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randn(6, d, generator=g, dtype=torch.float64).requires_grad_() for d in (3, 5))
    (grad,) = torch.autograd.grad(cka_loss(s, t), s)
    step = 1e-6
    with torch.no_grad():
        for i, j in ((0, 0), (3, 2), (5, 1)):
            shift = torch.zeros_like(s)
            shift[i, j] = step
            slope = (cka_loss(s + shift, t) - cka_loss(s - shift, t)) / (2 * step)
            assert grad[i, j].item() == pytest.approx(slope.item(), abs=1e-8)
    cka_loss(s, t).backward()
    assert t.grad is None


# -------------------------------------------------------------------------------------------------------- objective


def nets() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)),
    )


def test_objective_taps_the_embeddings_and_teaches() -> None:
    student, teacher = nets()
    teacher.eval()
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    method = create_method("cka", weight=2.0)
    assert isinstance(method, CKAAlignment) and not list(method.parameters())
    method.setup(student, teacher, x)
    assert method.student_taps == ("2:in",) and method.teacher_taps == ("4:in",)
    optimizer = torch.optim.Adam(student.parameters(), 0.02)
    losses = []
    with Taps(student, method.student_taps) as s, Taps(teacher, method.teacher_taps) as t:
        for _ in range(25):
            with torch.no_grad():
                teacher(x)
            signals = Signals(student_logits=student(x), student_features=s.features, teacher_features=t.features)
            terms = method.terms(signals)
            expected = 2 * (1 - cka(s.features["2:in"], t.features["4:in"]))
            torch.testing.assert_close(terms["cka"], expected, rtol=0, atol=1e-5)
            optimizer.zero_grad()
            terms["cka"].backward()
            optimizer.step()
            losses.append(terms["cka"].item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("knobs", [{"kernel": "rbf", "bandwidth": 0.8}, {"unbiased": False}, {"weight": 0.25}])
def test_knobs_reach_the_loss(knobs: dict) -> None:
    s = CKAAlignment.example()
    weight = knobs.get("weight", 1.0)
    settings = {k: v for k, v in knobs.items() if k != "weight"}
    expected = weight * cka_loss(s.student_features["embedding"], s.teacher_features["embedding"], **settings)
    value = create_method("cka", **knobs).terms(s)["cka"]
    assert torch.equal(value, expected)
    assert value.item() != create_method("cka").terms(s)["cka"].item()


def test_chosen_taps_stay_and_a_teacher_is_needed() -> None:
    student, teacher = nets()
    method = create_method("cka")
    method.student_taps, method.teacher_taps = ("0",), ("0",)
    method.setup(student, teacher, torch.zeros(2, 8))
    assert method.student_taps == ("0",) and method.teacher_taps == ("0",)
    with pytest.raises(ValueError, match="needs a teacher"):
        create_method("cka").setup(student, None, torch.zeros(2, 8))


def test_small_batches_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="student_features and teacher_features need at least 4 samples, got 3"):
        create_method("cka").terms(CKAAlignment.example(batch=3))
    assert create_method("cka", unbiased=False).terms(CKAAlignment.example(batch=3))["cka"] > 0


# ------------------------------------------------------------------------------------------------------------- page


def test_the_page_offers_the_shared_functions_themselves() -> None:
    shared = {name: module for module in (gram, measure, cca, similarity) for name in module.__all__}
    offered = set(page.__all__) & set(shared)
    assert len(offered) == 17
    for name in offered:
        assert getattr(page, name) is getattr(shared[name], name)
    assert page.cka_map.__module__ == "kdcore.cka_maps"


def test_card() -> None:
    assert CARD.objectives == (CKAAlignment,) and CARD.losses == ("cka_loss",)
    assert "Kornblith" in CARD._repr_html_() and "PWCCA" in CARD._repr_html_()
