"""Every module of a fixed sample of timm architectures: the tap equals what the module returned, to the last bit.

The oracle uses no hooks: each module's ``forward`` is replaced by one that clones what it returns.
"""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
from torch import Tensor, nn

from benchmarks.taps_at_scale import recompute
from kdcore.model_layers import embedding_tap, layers, pair_layers
from kdcore.taps import tap

ZOO: dict[str, dict] = {
    # CNN
    "resnet18": {},
    "res2net50_14w_8s": {},
    "regnetx_002": {},
    "mobilenetv2_050": {},
    "mobilenetv3_small_050": {},
    "densenet121": {},
    "efficientnet_b0": {},
    "ghostnet_050": {},
    "dla46_c": {},
    "repvgg_a0": {},
    "convnext_atto": {},
    "inception_next_atto": {},
    # transformers
    "vit_tiny_patch16_224": {"img_size": 32},
    "deit_tiny_distilled_patch16_224": {"img_size": 32},
    "eva02_tiny_patch14_224": {"img_size": 28},
    "xcit_nano_12_p16_224": {},
    "pvt_v2_b0": {},
    "swin_tiny_patch4_window7_224": {"img_size": 32},
    # MLP
    "resmlp_12_224": {"img_size": 32},
    "gmlp_ti16_224": {"img_size": 32},
    "mixer_s32_224": {"img_size": 64},
    # hybrids
    "mobilevit_xxs": {},
    "coat_lite_tiny": {"img_size": 32},
    "edgenext_xx_small": {},
    "visformer_tiny": {"img_size": 32},
    "efficientvit_b0": {},
    "coatnet_pico_rw_224": {"img_size": 64},
    "levit_128s": {},
}
SIZES = {"levit_128s": 224, "mobilevit_xxs": 64, "edgenext_xx_small": 64, "efficientvit_b0": 64}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=7, **ZOO[name]).eval()
    for module in model.modules():  # timm starts the last norm of a block at zero: give every norm something to say
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    size = ZOO[name].get("img_size") or SIZES.get(name, 32)
    return model, torch.randn(2, 3, size, size)


@pytest.mark.parametrize("name", ZOO)
def test_every_module_of(name):
    model, x = build(name)
    for context in (torch.enable_grad, torch.inference_mode):  # attention may use another kernel in each
        with context():
            truth = recompute(model, x)
            assert len(truth) > 20
            expected = {f"{n}#{i}" if len(v) > 1 else n: out for n, v in truth.items() for i, out in enumerate(v)}
            with tap(model, list(truth)) as features:
                model(x)
                assert set(features) == set(expected)
                # Two forwards: the operators are the same, their kernels may round differently under a watch.
                wrong = [n for n, value in expected.items() if not torch.allclose(features[n], value, 1e-5, 1e-5)]
        assert not wrong, f"{len(wrong)} of {len(expected)} differ under {context.__name__}: {wrong[:5]}"

    found = layers(model, x)
    assert len(found) >= 3
    for info in found:
        assert info.shape == tuple(truth[info.name][0].shape[1:])
        assert 0 <= info.depth <= 1 and 0 < info.parameters <= sum(p.numel() for p in model.parameters())
    assert [i.depth for i in found] == sorted(i.depth for i in found)
    names = [info.name for info in found]
    with torch.no_grad(), tap(model, names) as features:
        for images in (x, x.flip(0), 2 * x):  # what was quiet in the first forward is trusted in the others
            truth = recompute(model, images)
            model(images)
            wrong = [n for n in names if not torch.allclose(features[n], truth[n][0], 1e-5, 1e-5)]
            assert not wrong, wrong
    truth = recompute(model, x)
    embedding = embedding_tap(model, x)
    with torch.no_grad(), tap(model, embedding) as features:
        model(x)
        classifier = model.get_submodule(embedding.removesuffix(":in"))
        torch.testing.assert_close(classifier(features[embedding]), truth[embedding.removesuffix(":in")][0])


def test_what_storing_the_output_gets_wrong():
    """The fact behind it all: in resnet18 the ReLU overwrites what bn1 returned, and ``+=`` what bn2 returned."""
    model, x = build("resnet18")
    naive: dict[str, Tensor] = dict.fromkeys(("layer1.0.bn1", "layer1.0.bn2"), x)
    for name in naive:
        model.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: naive.__setitem__(name, out))
    with torch.no_grad():
        truth = recompute(model, x)
        with tap(model, list(naive)) as features:
            model(x)
        for name in naive:
            assert naive[name].min() >= 0 > truth[name][0].min()
            assert torch.equal(features[name], truth[name][0])
        assert torch.equal(naive["layer1.0.bn2"], truth["layer1.0"][0]), "the naive tap holds the block's output"


def test_gradients_of_taps_in_resnet18_equal_those_without_in_place_operators():
    model, x = build("resnet18")
    model = model.double().train()
    x = x.double()
    names = ["layer1.0.bn1", "layer1.0.bn2", "layer2.0.bn2", "layer4.1.bn2"]

    def gradients() -> list[Tensor]:
        model.zero_grad()
        with tap(model, names) as features:
            loss = model(x).sum() + sum(features[n].pow(3).mean() for n in names)
        loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    ours = gradients()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    for block in (b for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for b in stage):
        block.forward = plain_block(block)
    for mine, theirs in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(mine, theirs)


def plain_block(block):
    """timm's BasicBlock written without a single in-place operator."""

    def forward(x: Tensor) -> Tensor:
        y = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x)))))
        return torch.relu(y + (x if block.downsample is None else block.downsample(x)))

    return forward


def test_pairs_follow_resolution_and_depth():
    student, x = build("resnet18")
    teacher, _ = build("res2net50_14w_8s")
    pairs = pair_layers(student, teacher, x)
    assert [(p.student.name, p.teacher.name) for p in pairs] == [
        (n, n) for n in ("act1", "layer1", "layer2", "layer3", "layer4")
    ]
    assert all(p.reason.startswith("Same resolution") for p in pairs)
    vit, _ = build("vit_tiny_patch16_224")
    pairs = pair_layers(student, vit, x)
    assert len(pairs) == 5 and len({p.teacher.name for p in pairs}) == 5
    assert [p.teacher.depth for p in pairs] == sorted(p.teacher.depth for p in pairs)
    assert "Same resolution (stride 16)" in pairs[3].reason and "2x coarser (stride 32 against 16)" in pairs[4].reason
    assert Counter(p.teacher.kind for p in pairs) == {"tokens": 5}
    assert [p.student.name for p in pair_layers(student, vit, x, max_pairs=2)] == ["layer1", "layer4"]


def test_names_that_timm_gives_twice_or_only_for_features():
    """CrossViT names its blocks once per branch; HRNet's first two exist only in the features-only variant."""
    for name, size, expected in (
        ("crossvit_tiny_240", 240, ["blocks.0", "blocks.1", "blocks.2"]),
        ("hrnet_w18_small", 32, ["stage2", "stage3", "stage4"]),
    ):
        model = timm.create_model(name, pretrained=False).eval()
        assert [info.name for info in layers(model, torch.randn(1, 3, size, size))] == expected
