"""CKA maps of real networks against features collected one by one, and all that must not go wrong on the way."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdcore.cka_maps import CKAResult, KeptGrams, LayerMatch, cka_map
from kdcore.functional.cka import CKAMap, cka
from kdcore.functional.pooling import pool_features
from kdcore.model_layers import collect_features, layers

CONV = ["conv1", "bn1", "conv2", "fc"]
MLP = ["0", "2"]


class ConvNet(nn.Module):
    """In-place activations, dropout and batch norm: the places where taps and flags go wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.conv2 = nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, stride=2)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(6 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        return self.fc(self.drop(self.act(self.conv2(x)).flatten(1)))


class Tokens(nn.Module):
    """Tokens, a block that is called twice, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.idle = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.squeeze(1))  # (N, 8, 6): rows of the picture are tokens
        return self.block(torch.tanh(self.block(x))).mean(1)


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(64, 12), nn.ReLU(inplace=True), nn.Linear(12, 5))
    return ConvNet(), nn.Sequential(*mlp, nn.Identity()).requires_grad_(True)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(36, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def batches(x: Tensor, size: int = 12) -> list[Tensor]:
    return list(x.split(size))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def compute(pair: tuple[nn.Module, nn.Module], loader: object, **kwargs) -> CKAResult:
    return cka_map(*pair, loader, **({"layers_x": CONV, "layers_y": MLP, "transform_y": flat} | kwargs))


def reference(pair: tuple[nn.Module, nn.Module], x: Tensor, size: int, pooling: str = "flatten", **kwargs) -> Tensor:
    """From features collected separately, in float64, with the accumulator that the vectors check."""
    one, other = (
        collect_features(m, batches(z, size), taps, pooling=pooling)
        for m, z, taps in ((pair[0], x, CONV), (pair[1], flat(x), MLP))
    )
    total = CKAMap(CONV, MLP, **kwargs)
    for part in torch.arange(len(x)).split(size):
        total.update({k: v[part].double() for k, v in one.items()}, {k: v[part].double() for k, v in other.items()})
    return total.compute()


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("pooling", ["flatten", "gap"])
def test_map_equals_the_map_of_collected_features(pair, images: Tensor, kernel: str, pooling: str) -> None:
    result = compute(pair, batches(images), kernel=kernel, pooling=pooling)
    torch.testing.assert_close(result.matrix, reference(pair, images, 12, pooling, kernel=kernel), rtol=0, atol=1e-5)
    assert result.layers_x == tuple(CONV) and result.layers_y == tuple(MLP)
    assert result.shapes_x == ((4, 8, 8), (4, 8, 8), (6, 3, 3), (5,)) and result.shapes_y == ((12,), (5,))
    assert (result.n_samples, result.n_batches, result.n_skipped) == (36, 3, 0)


@pytest.mark.parametrize("size", [5, 36])
def test_exact_mode_is_the_whole_set_value(pair, images: Tensor, size: int) -> None:
    result = compute(pair, batches(images, size), mode="exact")
    a, b = collect_features(pair[0], [images], CONV), collect_features(pair[1], [flat(images)], MLP)
    expected = torch.tensor([[cka(a[i].double(), b[j].double()).item() for j in MLP] for i in CONV])
    torch.testing.assert_close(result.matrix, expected.double(), rtol=0, atol=1e-6)
    assert result.n_samples == 36


@pytest.mark.parametrize("ratio", [10, 100, 1000])
def test_features_far_from_zero_in_float32(ratio: int) -> None:
    x = torch.randn(64, 200, generator=torch.Generator().manual_seed(0))
    a, b = nn.Sequential(nn.Linear(200, 300)), nn.Sequential(nn.Linear(200, 250))
    with torch.no_grad():
        for model in (a, b):
            std = model(x).std()
            model[0].bias += ratio * std
    features = collect_features(a, [x], "0")["0"], collect_features(b, [x], "0")["0"]
    expected = cka(*(f.double() for f in features)).item()
    assert cka_map(a, b, [x], layers_x="0", layers_y="0").matrix.item() == pytest.approx(expected, abs=1e-5)


def test_layers_are_proposed_and_patterns_resolved(pair, images: Tensor) -> None:
    result = cka_map(pair[0], pair[0], batches(images))
    names = tuple(info.name for info in layers(pair[0], images[:1]))
    assert result.layers_x == result.layers_y == names
    torch.testing.assert_close(result.matrix.diagonal(), torch.ones(len(names), dtype=torch.float64))
    assert compute(pair, batches(images), layers_x="conv*").layers_x == ("conv1", "conv2")


def test_a_model_against_itself_runs_once_per_batch(pair, images: Tensor) -> None:
    calls: list[int] = []
    pair[0].register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    result = cka_map(pair[0], pair[0], batches(images), layers_x=["conv1"], layers_y=["conv1", "fc"])
    assert calls == [12, 12, 12]
    assert result.matrix[0, 0].item() == pytest.approx(1)


def test_repeated_calls_tokens_and_silent_layers(images: Tensor) -> None:
    torch.manual_seed(0)
    model = Tokens()
    result = cka_map(model, model, batches(images), layers_x=["embed", "block"], layers_y=["block#1"], pooling="gap")
    assert result.layers_x == ("embed", "block#0", "block#1") and result.layers_y == ("block#1",)
    assert result.matrix[2, 0].item() == pytest.approx(1)
    cls = cka_map(model, model, [images], layers_x=["embed"], layers_y=["block#0"], pooling="cls")
    f = collect_features(model, [images], ["embed", "block#0"], pooling=None)
    assert cls.matrix.item() == pytest.approx(cka(f["embed"][:, 0], f["block#0"][:, 0]).item(), abs=1e-5)
    with pytest.raises(KeyError, match="idle"):
        cka_map(model, model, batches(images), layers_x=["embed"], layers_y=["idle"])
    with pytest.raises(KeyError, match="embed"):
        cka_map(model, model, batches(images), layers_x=["embd"])


def state(model: nn.Module) -> dict:
    return {
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "training": [m.training for m in model.modules()],
        "weights": copy.deepcopy(model.state_dict()),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_models_are_left_as_they_were(pair, images: Tensor, fails: bool) -> None:
    pair[0].train()
    pair[0].bn1.eval()
    before = [state(m) for m in pair]
    if fails:
        bad = images.clone()
        bad[20] = math.nan
        with pytest.raises(ValueError, match=r"x:conv1, x:bn1, .*not finite"):
            compute(pair, batches(bad))
    else:
        compute(pair, batches(images))
    for model, old in zip(pair, before, strict=True):
        new = state(model)
        assert new["hooks"] == old["hooks"] and new["training"] == old["training"]
        assert all(torch.equal(new["weights"][k], old["weights"][k]) for k in old["weights"])


def test_no_gradient_and_eval_mode(pair, images: Tensor) -> None:
    seen: list[tuple[bool, bool]] = []
    pair[0].fc.register_forward_hook(lambda m, args, out: seen.append((m.training, out.requires_grad)))
    pair[0].train()
    one, two = compute(pair, batches(images)), compute(pair, batches(images))
    assert set(seen) == {(False, False)} and torch.equal(one.matrix, two.matrix)


@pytest.mark.parametrize("form", ["tensor", "pair", "index", "dict", "loader"])
def test_loaders_of_all_forms(pair, images: Tensor, form: str) -> None:
    labels = torch.zeros(36, dtype=torch.int64)
    forms = {
        "tensor": batches(images),
        "pair": [(x, labels[:12]) for x in batches(images)],
        "index": [(x, labels[:12], torch.arange(12)) for x in batches(images)],
        "dict": [{"image": x, "label": labels[:12]} for x in batches(images)],
        "loader": DataLoader(TensorDataset(images, labels), batch_size=12),
    }
    assert torch.equal(compute(pair, forms[form]).matrix, compute(pair, batches(images)).matrix)


def test_limit_uneven_batches_and_progress(pair, images: Tensor) -> None:
    steps: list[tuple[int, int | None]] = []
    result = compute(pair, batches(images), limit=20, progress=lambda done, total: steps.append((done, total)))
    assert (result.n_samples, result.n_batches) == (20, 2) and steps == [(1, 3), (2, 3)]
    torch.testing.assert_close(result.matrix, reference(pair, images[:20], 12), rtol=0, atol=1e-5)
    uniform = compute(pair, batches(images), limit=20, batch_weighting="uniform").matrix
    torch.testing.assert_close(uniform, reference(pair, images[:20], 12, batch_weighting="uniform"), rtol=0, atol=1e-5)
    assert (uniform - result.matrix).abs().max() > 1e-5

    def stream() -> Iterator[Tensor]:
        yield from batches(images)

    assert torch.equal(compute(pair, stream()).matrix, compute(pair, batches(images)).matrix)


def test_small_batches(pair, images: Tensor) -> None:
    with pytest.warns(UserWarning, match="2 samples was left out"):
        result = compute(pair, [images[:2], images[2:20], images[20:23]])
    assert (result.n_samples, result.n_batches, result.n_skipped) == (18, 1, 2)
    with pytest.raises(RuntimeError, match="no usable batch: all 2 had fewer than the 4"):
        compute(pair, [images[:3], images[:2]])
    with pytest.raises(ValueError, match="no samples"):
        compute(pair, [])


def test_a_constant_layer_is_nan_and_named(pair, images: Tensor) -> None:
    nn.init.zeros_(pair[0].conv2.weight)
    with pytest.warns(UserWarning, match=r"undefined \(NaN\) for x:conv2, x:fc"):
        result = compute(pair, batches(images))
    assert result.matrix[2:].isnan().all() and not result.matrix[:2].isnan().any()
    assert [m.layer_x for m in result.best_pairs()] == ["conv1", "bn1"]
    assert len(result.best_pairs(by="y")) == 2
    result.plot()


# ------------------------------------------------------------------------------------------------------- kept Grams


def test_kept_grams_replace_a_model(pair, images: Tensor) -> None:
    full = compute(pair, batches(images), keep_grams=True)
    assert full.grams_x is not None and full.grams_y is not None
    assert full.grams_y.nbytes == 3 * 2 * 12 * 12 * 4
    assert compute(pair, batches(images)).grams_x is None
    teacher_calls: list[int] = []
    pair[1].register_forward_pre_hook(lambda m, a: teacher_calls.append(1))
    mixed = [
        compute((pair[0], full.grams_y), batches(images), layers_y=None),
        compute((full.grams_x, full.grams_y), None, layers_x=None, layers_y=None),
    ]
    assert not teacher_calls
    for result in mixed:
        torch.testing.assert_close(result.matrix, full.matrix, rtol=0, atol=1e-7)
        assert result.layers_y == tuple(MLP) and result.shapes_y == full.shapes_y and result.n_samples == 36
    some = compute((full.grams_x, full.grams_y), None, layers_x=["fc", "conv1"], layers_y="2")
    torch.testing.assert_close(some.matrix, full.matrix[[3, 0]][:, [1]], rtol=0, atol=1e-7)
    flipped = cka_map(full.grams_y, pair[0], batches(images), layers_y=CONV)
    torch.testing.assert_close(flipped.matrix, full.matrix.T, rtol=0, atol=1e-7)
    rekept = compute((pair[0], full.grams_y), batches(images), layers_y=None, keep_grams=True).grams_y
    assert all(torch.equal(a, b) for a, b in zip(rekept.batches, full.grams_y.batches, strict=True))


def test_kept_grams_of_other_samples_or_settings_are_refused(pair, images: Tensor) -> None:
    kept = compute(pair, batches(images), keep_grams=True).grams_y
    assert isinstance(kept, KeptGrams)

    def again(loader: object, **kwargs) -> None:
        compute((pair[0], kept), loader, layers_y=None, **kwargs)

    swapped = images.clone()
    swapped[[13, 14]] = images[[14, 13]]
    for loader in (batches(swapped), batches(images, 9), batches(images.flip(0)), [*batches(images), images[:12]]):
        with pytest.raises(ValueError, match="other samples than batch"):
            again(loader)
    with pytest.raises(ValueError, match="hold 3 batches, loader gave 2"):
        again(batches(images), limit=24)
    with pytest.raises(ValueError, match=r"were made with.*flatten.*gap"):
        again(batches(images), pooling="gap")
    with pytest.raises(KeyError, match=r"no Grams are kept of layer '3'.*Kept: 0, 2"):
        compute((pair[0], kept), batches(images), layers_y="3")
    with pytest.raises(ValueError, match="loader is needed unless"):
        again(None)
    other = compute(pair, batches(images.flip(0)), keep_grams=True).grams_x
    with pytest.raises(ValueError, match="other samples"):
        cka_map(other, kept)


# ---------------------------------------------------------------------------------------------------------- result


def test_bootstrap_interval(pair, images: Tensor) -> None:
    result = compute(pair, batches(images, 6), bootstrap=200, confidence=0.9, seed=4)
    assert result.interval is not None and result.interval.shape == (4, 2, 2)
    inside = (result.interval[..., 0] <= result.matrix) & (result.matrix <= result.interval[..., 1])
    assert inside.all() and (result.interval[..., 1] > result.interval[..., 0]).all()
    assert list(result.to_dataframe(long=True).columns) == ["layer_x", "layer_y", "cka", "low", "high"]
    assert "90% interval" in result.plot().data[0].customdata[0][0]
    with pytest.raises(ValueError, match="at least 2"):
        compute(pair, [images], bootstrap=10)
    assert compute(pair, batches(images)).interval is None


def make(matrix: list[list[float]]) -> CKAResult:
    return CKAResult(
        matrix=torch.tensor(matrix, dtype=torch.float64),
        layers_x=("a", "b"),
        layers_y=("p", "q", "r"),
        shapes_x=((3, 4, 4), (5,)),
        shapes_y=((2,), (6, 7), (1,)),
        n_samples=10,
        n_batches=1,
        n_skipped=0,
        mode="minibatch",
        kernel="linear",
        batch_weighting="pairs",
        pooling="flatten",
    )


def test_result_tables_pairs_and_picture() -> None:
    result = make([[0.1, 0.9, 0.3], [0.8, 0.2, 0.7]])
    table = result.to_dataframe()
    assert table.loc["b", "r"] == 0.7 and table.index.name == "x" and list(table.columns) == ["p", "q", "r"]
    tidy = result.to_dataframe(long=True)
    assert len(tidy) == 6 and tidy.query("layer_x == 'a' and layer_y == 'q'").cka.item() == 0.9
    assert result.best_pairs() == [LayerMatch("a", "q", 0.9), LayerMatch("b", "p", 0.8)]
    assert result.best_pairs(by="y") == [("b", "p", 0.8), ("a", "q", 0.9), ("b", "r", 0.7)]
    heat, best = result.plot().data
    assert heat.customdata[0][1] == "3x4x4 and 6x7" and heat.z[1][2] == 0.7 and (heat.zmin, heat.zmax) == (0, 1)
    assert list(best.x) == ["q", "p"] and list(best.y) == ["a", "b"]
    assert repr(result) == "CKAResult(2 x 3 layers, 10 samples in 1 batches, minibatch, linear)"
    with pytest.raises(ValueError, match="by must be one of"):
        result.best_pairs(by="rows")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"mode": "fast"}, ValueError, "mode must be"),
        ({"kernel": "poly"}, ValueError, "kernel must be"),
        ({"pooling": "max"}, ValueError, "pooling must be"),
        ({"limit": 0}, ValueError, "limit must be"),
        ({"bootstrap": -1}, ValueError, "bootstrap must be"),
        ({"batch_weighting": "n"}, ValueError, "batch_weighting"),
        ({"mode": "exact", "kernel": "rbf"}, ValueError, "mode='exact'"),
        ({"mode": "exact", "bootstrap": 5}, ValueError, "mode='exact'"),
        ({"mode": "exact", "keep_grams": True}, ValueError, "mode='exact'"),
        ({"layers_x": ["conv9"]}, KeyError, "conv9.*conv1"),
        ({"layers_x": []}, ValueError, "at least one tap"),
    ],
)
def test_bad_settings_are_refused(pair, images: Tensor, kwargs: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compute(pair, batches(images), **kwargs)


def test_a_layer_without_batch_dimension_is_refused(images: Tensor) -> None:
    class Swap(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).T

    model = nn.Sequential(Swap(), nn.Flatten())
    with pytest.raises(ValueError, match="layer '0' gave 64 rows for a batch of 12"):
        cka_map(model, model, batches(images), layers_x="0", layers_y="0")


def test_half_precision_and_autocast(pair, images: Tensor) -> None:
    plain = compute(pair, batches(images)).matrix
    with torch.autocast("cpu", torch.bfloat16):
        automatic = compute(pair, batches(images)).matrix
    torch.testing.assert_close(automatic, plain, rtol=0, atol=0.02)
    double = compute(tuple(m.double() for m in pair), batches(images.double()), dtype=torch.float64)
    torch.testing.assert_close(double.matrix, plain, rtol=0, atol=1e-5)


def test_peak_memory_holds_no_activations(images: Tensor) -> None:
    """What is alive between batches: Grams, not the maps of the 12 layers."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(1 if i == 0 else 16, 16, 3, padding=1) for i in range(12)))
    alive: list[int] = []

    def loader() -> Iterator[Tensor]:
        import gc

        for batch in batches(images):
            yield batch
            alive.append(
                sum(
                    t.untyped_storage().nbytes()
                    for t in gc.get_objects()
                    if type(t) is Tensor and t.ndim == 4 and t.shape[:2] == (12, 16)
                )
            )

    cka_map(model, copy.deepcopy(model), loader())
    assert alive == [0, 0, 0] and pool_features(images, "flatten").shape == (36, 64)


def test_light_import() -> None:
    code = (
        "import sys, kdcore.cka_maps; heavy = {'pandas', 'plotly', 'timm', 'sklearn', 'torchvision', 'lightning', "
        "'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
