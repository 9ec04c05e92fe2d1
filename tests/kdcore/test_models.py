"""Reference networks: shapes, layer names, parameter counts, and what their papers say of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.inputs import Normalize, input_normalization
from kdcore.models import MLP, CifarResNet, ConvNet, SmallViT, resnet20, resnet32, resnet44, resnet56


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_mlp_is_the_formula() -> None:
    model = MLP((1, 8, 8), (5, 4), 3).double()
    x = torch.randn(7, 1, 8, 8, dtype=torch.float64)
    h = x.reshape(7, 64)
    for stage in (model.stage1, model.stage2):
        h = (h @ stage.linear.weight.T + stage.linear.bias).clamp(min=0)
    torch.testing.assert_close(model(x), h @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(model(x), model(x.flatten(1)))
    assert parameters(model) == 64 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3


def test_mlp_drops_only_while_training() -> None:
    model = MLP(16, (64,), 4, dropout=0.5)
    x = torch.randn(3, 16)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    with pytest.raises(ValueError, match="dropout must be in"):
        MLP(16, (4,), 2, dropout=1.0)


def test_convnet_halves_the_map_between_stages_and_averages_it() -> None:
    model = ConvNet((4, 8, 64), 10).eval()
    shapes = {}
    for name in ("stage1", "stage2", "stage3", "head"):

        def note(module: nn.Module, args: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
            shapes[name] = (tuple(args[0].shape[1:]), tuple(out.shape[1:]))

        model.get_submodule(name).register_forward_hook(note)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert shapes["stage1"][1] == (4, 8, 8) and shapes["stage2"][1] == (8, 4, 4) and shapes["stage3"][1] == (64, 2, 2)
    assert shapes["head"] == ((64,), (10,))


def test_attention_is_the_textbook_formula() -> None:
    attention = SmallViT(8, 2, width=16, depth=1, heads=4).blocks[0].attn.double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    q, k, v = (x @ attention.qkv.weight.T + attention.qkv.bias).split(16, dim=-1)
    heads = []
    for h in range(4):
        part = slice(4 * h, 4 * h + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 4**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    expected = torch.cat(heads, -1) @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(attention(x), expected)


def test_vit_sees_position_and_counts_tokens() -> None:
    model = SmallViT(8, 2, width=32, depth=2).eval()
    tokens = {}
    model.blocks[0].register_forward_hook(lambda module, args, out: tokens.update(shape=tuple(out.shape)))
    x = torch.rand(3, 1, 8, 8)
    out = model(x)
    assert out.shape == (3, 10) and tokens["shape"] == (3, 17, 32)
    assert not torch.allclose(out, model(x.flip(-1)), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 9, "patch_size": 2}, "patch_size must divide image_size"),
        ({"width": 30, "heads": 4}, "heads must divide width"),
    ],
)
def test_vit_refuses_sizes_that_do_not_divide(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmallViT(**options)


@pytest.mark.parametrize(
    ("build", "millions"), [(resnet20, 0.27), (resnet32, 0.46), (resnet44, 0.66), (resnet56, 0.85)]
)
def test_cifar_resnets_have_the_paper_s_sizes(build: type, millions: float) -> None:
    assert round(parameters(build()) / 1e6, 2) == millions  # He et al. (2016), table 6


def test_cifar_resnet_keys_are_those_of_the_published_checkpoints() -> None:
    keys = set(resnet20().state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{k}" for k in norm)}
    for layer in (1, 2, 3):
        for block in range(3):
            for i in (1, 2):
                expected |= {f"layer{layer}.{block}.conv{i}.weight", *(f"layer{layer}.{block}.bn{i}.{k}" for k in norm)}
    assert keys == expected


def test_cifar_resnet_shortcut_is_option_a() -> None:
    block = CifarResNet(20).layer2[0].eval()
    nn.init.zeros_(block.conv1.weight)
    nn.init.zeros_(block.conv2.weight)  # what is left is the shortcut
    x = torch.randn(1, 16, 4, 4)
    out = block(x)
    assert out.shape == (1, 32, 2, 2)
    torch.testing.assert_close(out[:, 8:24], F.relu(x[:, :, ::2, ::2]))
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_cifar_resnet_states_its_normalisation_for_colour_only() -> None:
    normalize = input_normalization(resnet20())
    assert isinstance(normalize, Normalize)
    torch.testing.assert_close(normalize.mean, torch.tensor([0.485, 0.456, 0.406]))
    assert isinstance(input_normalization(resnet20(in_channels=1)), nn.Identity)
    with pytest.raises(ValueError, match="depth must be 6 n"):
        CifarResNet(21)


@pytest.mark.parametrize(
    "model",
    [
        MLP((3, 32, 32), (8,), 5),
        ConvNet((4, 8), 5, in_channels=3),
        resnet20(5),
        SmallViT(32, 8, 5, in_channels=3, width=16, depth=1),
    ],
    ids=lambda m: type(m).__name__,
)
def test_every_parameter_of_every_network_gets_a_gradient(model: nn.Module) -> None:
    F.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
