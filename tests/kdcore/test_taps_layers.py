"""Which layers are proposed, which are paired, where the embedding is, and whole data sets of features."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdcore.model_layers import (
    LayerInfo,
    _align,
    _pair_cost,
    batch_inputs,
    classifier_name,
    collect_features,
    embedding_tap,
    feature_kind,
    layers,
    pair_layers,
    token_grid,
)
from kdcore.taps import TapError, evaluating, tap


def cnn(width: int = 4, stages: int = 3) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for i in range(stages):
        c = width * 2**i
        blocks += [
            nn.Conv2d(1 if i == 0 else c // 2, c, 3, padding=1),
            nn.BatchNorm2d(c),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width * 2 ** (stages - 1), 10))


class Block(nn.Module):
    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, stride, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.skip = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        y += self.skip(x)
        return F.relu(y, inplace=True)


class Stages(nn.Module):
    """ResNet written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.layer1 = nn.Sequential(Block(4), Block(4))
        self.layer2 = nn.Sequential(Block(4, 2), Block(4))
        self.layer3 = nn.Sequential(Block(4, 2), Block(4))
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3)))


class ViT(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, 2)
        self.cls = nn.Parameter(torch.zeros(1, 1, 8))
        self.encoder = nn.ModuleDict(
            {
                "layer": nn.ModuleList(
                    nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0) for _ in range(depth)
                )
            }
        )
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        for layer in self.encoder["layer"]:
            x = layer(x)
        return self.fc(self.norm(x)[:, 0])


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flat, self.fc1, self.act1 = nn.Flatten(), nn.Linear(64, 32), nn.ReLU(inplace=True)
        self.drop, self.fc2, self.act2, self.fc3 = nn.Dropout(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.act2(self.fc2(self.drop(self.act1(self.fc1(self.flat(x)))))))


X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sample", [X, None], ids=["sample", "structure"])
@pytest.mark.parametrize(
    ("make", "names"),
    [
        (cnn, ["2", "6", "10"]),
        (Stages, ["layer1", "layer2", "layer3"]),
        (ViT, [f"encoder.layer.{i}" for i in range(4)]),
        (MLP, ["act1", "act2"]),
    ],
)
def test_proposals_for_plain_models(make, names, sample):
    found = layers(make(), sample)
    assert [i.name for i in found if i.name not in ("stem", "embed")] == names
    assert [i.depth for i in found] == sorted(i.depth for i in found)
    kind = {cnn: "map", Stages: "map", ViT: "tokens", MLP: "vector"}[make]
    assert {i.kind for i in found if i.name in names} == {kind}
    assert all((i.shape is None) == (sample is None) for i in found)


def test_with_a_sample_the_order_is_that_of_the_forward():
    model = Stages()
    for name in ("layer1", "stem"):  # defined last, run first
        module = model._modules.pop(name)
        model.add_module(name, module)
    assert [i.name for i in layers(model, X)] == ["layer1", "layer2", "layer3"]


def test_depth_parameters_and_shapes_by_hand():
    first, second, third = layers(cnn(), X)
    assert (first.shape, second.shape, third.shape) == ((4, 8, 8), (8, 4, 4), (16, 2, 2))
    assert (first.stride, second.stride, third.stride) == (1, 2, 4)
    assert (first.depth, second.depth, third.depth) == (0.25, 0.5, 0.75)  # 3 convolutions and the classifier
    conv = [1 * 4 * 9 + 4, 4 * 8 * 9 + 8, 8 * 16 * 9 + 16]
    norm = [8, 16, 32]
    assert [i.parameters for i in (first, second, third)] == [sum(conv[: k + 1]) + sum(norm[: k + 1]) for k in range(3)]
    assert str(second) == "6 8x4x4"


def test_vgg_style_and_torchvision_models():
    x = torch.randn(1, 3, 32, 32)
    assert [i.name for i in layers(torchvision.models.resnet18(), x)][-4:] == ["layer1", "layer2", "layer3", "layer4"]
    assert embedding_tap(torchvision.models.mobilenet_v3_small(), x) == "classifier.3:in"
    squeeze = torchvision.models.squeezenet1_1(num_classes=5).eval()
    assert classifier_name(squeeze, x) == "classifier.1"
    assert [i.shape[1] for i in layers(squeeze, torch.randn(1, 3, 64, 64)) if i.shape] == [31, 15, 7, 3]


def test_nothing_to_tap():
    with pytest.raises(ValueError, match="finds nothing to tap in Linear"):
        layers(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(TypeError, match="sample must be a batch"):
        layers(cnn(), 3)
    with pytest.raises(ValueError, match="at least one element"):
        layers(cnn(), X[:0])


def test_looking_leaves_the_model_as_it_was():
    model = Stages()
    model.layer1.eval()
    flags = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    teacher, rng = cnn(), torch.get_rng_state()
    layers(model, X)
    embedding_tap(model, X)
    pair_layers(model, teacher, X)
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    with pytest.raises(RuntimeError, match="stop"), evaluating(model):
        assert not model.training
        raise RuntimeError("stop")
    assert [m.training for m in model.modules()] == flags


@pytest.mark.parametrize(("make", "name"), [(cnn, "14"), (Stages, "head"), (ViT, "fc"), (MLP, "fc3")])
def test_embedding_is_what_the_classifier_reads(make, name):
    model = make().eval()
    assert embedding_tap(model, X) == f"{name}:in"
    with tap(model, embedding_tap(model, X)) as features:
        logits = model(X)
    torch.testing.assert_close(model.get_submodule(name)(features[f"{name}:in"]), logits)


def test_classifier_is_found_by_value_not_by_name():
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.aux = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.aux(x)
            return self.head(x)

    assert classifier_name(TwoHeads(), torch.ones(1, 4)) == "head"
    with pytest.raises(ValueError, match="ReLU has no final linear layer that gives its output"):
        classifier_name(nn.ReLU(), torch.ones(1, 4))


# pairs


def test_pairs_of_cnns_by_resolution():
    pairs = pair_layers(cnn(), Stages(), X)
    assert [(p.student.name, p.teacher.name) for p in pairs] == [("2", "layer1"), ("6", "layer2"), ("10", "layer3")]
    assert all(p.reason.startswith("Same resolution") for p in pairs)
    assert str(pairs[0]).startswith("2 4x8x8 <- layer1 4x8x8: Same resolution (stride 1)")
    assert [p.student.name for p in pair_layers(cnn(), Stages(), X, max_pairs=1)] == ["10"]
    assert "Nearest in depth" in pair_layers(MLP(), ViT(), X)[0].reason
    with pytest.raises(ValueError, match="max_pairs must be at least 1, got 0"):
        pair_layers(cnn(), cnn(), X, max_pairs=0)


def test_pairs_with_another_sample_for_the_teacher():
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = cnn(stages=4)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    pairs = pair_layers(cnn(), Doubled(), X, teacher_sample=torch.randn(1, 1, 16, 16))
    assert [(p.student.stride, p.teacher.stride) for p in pairs] == [(1, 1), (2, 2), (4, 4)]


def infos(depths: list[float], strides: list[float]) -> list[LayerInfo]:
    return [LayerInfo(f"l{i}", "X", "map", d, i + 1, (1, 1, 1), strides[i]) for i, d in enumerate(depths)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_alignment_is_the_best_of_all_increasing_ones(data):
    depth, stride = st.floats(0, 1), st.sampled_from([1.0, 2.0, 4.0, 8.0])
    s, t = (
        infos(
            sorted(data.draw(st.lists(depth, min_size=1, max_size=5))),
            data.draw(st.lists(stride, min_size=5, max_size=5)),
        )
        for _ in range(2)
    )
    got = _align(s, t)
    short, long = sorted((len(s), len(t)))
    assert len(got) == short and all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(got))

    def cost(pairs):
        return sum(_pair_cost(s[i], t[j]) for i, j in pairs)

    every = [
        list(enumerate(c)) if len(s) <= len(t) else [(i, j) for j, i in enumerate(c)]
        for c in itertools.combinations(range(long), short)
    ]
    assert cost(got) == pytest.approx(min(map(cost, every)))


def test_kinds_and_grids():
    assert [feature_kind(s) for s in [(5,), (4, 8), (8, 4, 4), (4, 4, 8), (4, 4, 4), (1, 2, 3, 4)]] == [
        "vector",
        "tokens",
        "map",
        "map_last",
        "map",
        "other",
    ]
    assert feature_kind((4, 4, 8), channels_last=False) == "map"
    assert feature_kind((4, 4, 4), channels_last=True) == "map_last"
    assert token_grid(197) == (14, 14, 1) and token_grid(196) == (14, 14, 0) and token_grid(7) is None
    assert token_grid(13, (3, 4)) == (3, 4, 1) and token_grid(12, (2, 4)) is None


# data sets


def loader(n: int = 10, batch: int = 4):
    data = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return data, [(data[i : i + batch], torch.zeros(len(data[i : i + batch]))) for i in range(0, n, batch)]


@pytest.mark.parametrize("pooling", ["flatten", "gap", None])
def test_collected_features_equal_a_plain_forward(pooling):
    torch.manual_seed(0)
    model = cnn().train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    data, batches = loader()
    got = collect_features(model, batches, ["1", "5", "14:in"], pooling=pooling)
    assert model.training and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    model.eval()
    with torch.no_grad():
        first = model[1](model[0](data))
        pooled = {"flatten": first.flatten(1), "gap": first.mean((2, 3)), None: first}[pooling]
    torch.testing.assert_close(got["1"], pooled)
    assert list(got) == ["1", "5", "14:in"] and got["14:in"].shape == (10, 16)
    assert not got["1"].is_inference(), "usable in autograd afterwards"


def test_collect_limit_calls_dicts_and_class_tokens():
    _, batches = loader()
    model = ViT().eval()
    whole = collect_features(model, batches, "encoder.layer.*", pooling="cls")
    some = collect_features(model, ({"image": x} for x, _ in batches), "encoder.layer.*", pooling="cls", limit=6)
    assert all(torch.allclose(some[k], whole[k][:6], atol=1e-6) and len(some[k]) == 6 for k in whole)

    shared = nn.Sequential(*[nn.Linear(4, 4)] * 2)
    assert list(collect_features(shared, [torch.ones(2, 4)] * 2, "0")) == ["0#0", "0#1"]


def test_collect_errors_leave_the_model_as_it_was():
    _, batches = loader()
    model = Stages().train()
    for error, call in {
        ValueError: lambda: collect_features(model, [], "stem"),
        TapError: lambda: collect_features(model, batches, "stm"),
        TypeError: lambda: collect_features(model, [{"text": 1}], "stem"),
    }.items():
        with pytest.raises(error):
            call()
    with pytest.raises(ValueError, match="limit must be at least 1"):
        collect_features(model, batches, "stem", limit=0)
    with pytest.raises(ValueError, match="takes token 0"):
        collect_features(model, batches, "stem", pooling="cls")
    model.unused = nn.Linear(2, 2)
    with pytest.raises(TapError, match="'unused' did not run"):
        collect_features(model, batches, ["stem", "unused"])
    assert all(m.training for m in model.modules()) and not any(m._forward_hooks for m in model.modules())


def test_batch_inputs():
    x = torch.ones(1)
    for batch in (x, (x, 1), [x], {"x": x}, {"label": 1, "pixel_values": x}):
        assert batch_inputs(batch) is x
    with pytest.raises(TypeError, match=r"a dict with \['label'\]"):
        batch_inputs({"label": x})
    with pytest.raises(TypeError, match="got a str"):
        batch_inputs("x")
