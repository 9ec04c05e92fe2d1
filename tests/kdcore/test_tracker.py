"""The tracker: sizes, layer by layer by hand, losses of a training step, packed pairs behind the loop's interface."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.golden import close
from torch import Tensor, nn

from kdcore.functional.boxes import center_tracking_losses
from kdcore.functional.masks import apply_block_mask, occlusion_robust_loss
from kdcore.inputs import input_normalization
from kdcore.models.tracker import (
    CenterHead,
    OcclusionRobustTracker,
    PairTracker,
    pack_pair,
    split_maps,
    unpack_pair,
)
from kdcore.taps import tap

BOXES = torch.tensor([[0.2, 0.3, 0.4, 0.4], [0.5, 0.1, 0.3, 0.6]])


def tracker(**options: Any) -> OcclusionRobustTracker:
    torch.manual_seed(0)
    return OcclusionRobustTracker(16, 24, 8, 16, 2, 2, 8, **options)


def images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 16, 16, generator=g), torch.randn(2, 3, 24, 24, generator=g)


def test_shapes_order_and_zero_positions() -> None:
    model = tracker().eval()
    assert not model.pos_embed_z.any() and not model.pos_embed_x.any()
    assert (model.num_template_tokens, model.norm.eps) == (4, 1e-6)
    out = model(*images())
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "tokens": (2, 13, 16),
        "score": (2, 1, 3, 3),
        "size": (2, 2, 3, 3),
        "offset": (2, 2, 3, 3),
        "boxes": (2, 4),
    }
    official = OcclusionRobustTracker()
    assert (official.template_grid, official.search_grid, len(official.blocks)) == (8, 16, 12)
    assert official.patch_embed.weight.shape == (192, 3, 16, 16) and official.box_head.score[0][0].out_channels == 256


def test_the_forward_pass_by_hand() -> None:
    model = tracker().eval()
    nn.init.normal_(model.pos_embed_z)
    nn.init.normal_(model.pos_embed_x)
    template, search = images()
    w, b = model.patch_embed.weight.flatten(1), model.patch_embed.bias
    sequence = []
    for image, positions in ((template, model.pos_embed_z), (search, model.pos_embed_x)):
        grid = image.shape[-1] // 8
        patches = [
            image[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].flatten(1) for i in range(grid) for j in range(grid)
        ]
        sequence.append(torch.stack(patches, 1) @ w.T + b + positions)
    tokens = model.norm(model.blocks[1](model.blocks[0](torch.cat(sequence, 1))))
    out = model(template, search)
    torch.testing.assert_close(out["tokens"], tokens)
    grid = tokens[:, 4:].reshape(2, 3, 3, 16).permute(0, 3, 1, 2)
    raw = model.box_head.score(grid)
    torch.testing.assert_close(out["score"], raw.sigmoid())
    torch.testing.assert_close(out["offset"], model.box_head.offset(grid))


def test_head_layers_initialisation_and_clamp() -> None:
    torch.manual_seed(0)
    head = CenterHead(12, 32, 4)
    for branch, out in ((head.score, 1), (head.offset, 2), (head.size, 2)):
        widths = [stage[0].weight.shape[:2] for stage in list(branch)[:4]]
        assert widths == [(32, 12), (16, 32), (8, 16), (4, 8)] and branch[4].weight.shape == (out, 4, 1, 1)
        assert [type(layer) for layer in branch[0]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    bound = (6 / (9 * (12 + 32))) ** 0.5  # Glorot and Bengio: uniform in +- sqrt(6 / (fan in + fan out))
    weight = head.score[0][0].weight
    assert weight.abs().max() <= bound and weight.abs().max() > 0.9 * bound
    nn.init.constant_(head.score[4].bias, 50.0)
    nn.init.constant_(head.size[4].bias, -50.0)
    out = head(torch.randn(2, 12, 4, 4))
    close(out["score"].max(), 1 - 1e-4, 1e-6)
    close(out["size"].min(), 1e-4, 1e-3)
    assert out["offset"].min() < 0 < out["offset"].max()


def test_a_prior_makes_empty_cells_the_rule() -> None:
    head = CenterHead(12, 32, 4, score_prior=0.1)
    close(head.score[4].bias.sigmoid(), [0.1], 1e-6)
    with pytest.raises(ValueError, match=r"score_prior must be in \(0, 1\)"):
        CenterHead(12, 32, 4, score_prior=1.0)


def test_losses_of_a_training_step() -> None:
    model = tracker().eval()
    template, search = images()
    mask = torch.ones(2, 1, 2, 2)
    mask[0, 0, 0, 1] = 0
    losses = model.training_step_losses(template, search, BOXES, mask)
    out = model(template, search)
    terms = center_tracking_losses(out["score"], out["size"], out["offset"], BOXES)
    close(losses["pred"], terms["focal"] + 2 * terms["giou"] + 5 * terms["l1"], 1e-6)
    hidden = model(apply_block_mask(template, mask), search)["tokens"]
    close(losses["orr"], (out["tokens"] - hidden)[:, :4].square().mean(), 1e-6)
    assert losses["orr"] > 0 and model.training_step_losses(template, search, BOXES)["orr"] == 0
    assert model.training_step_losses(template, search, BOXES, torch.ones_like(mask))["orr"] == 0
    other = model.training_step_losses(template, search, BOXES, readout="target")["pred"]
    assert other != losses["pred"]


def test_the_masked_pass_is_a_target_without_gradient() -> None:
    model = tracker()
    template, search = images()
    template.requires_grad_()
    mask = torch.zeros(2, 1, 2, 2)
    model.training_step_losses(template, search, BOXES, mask)["orr"].backward()
    assert template.grad is not None and template.grad.any()  # of the clean pass
    moved, still = model.box_head.score[0][0].weight.grad, model.patch_embed.weight.grad
    assert moved is None and still is not None and still.any()


def test_dropout_acts_while_training_only() -> None:
    model = tracker(dropout=0.5)
    assert not torch.equal(model.encode(*images()), model.encode(*images()))
    model.eval()
    assert torch.equal(model.encode(*images()), model.encode(*images()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template_size": 20}, "template_size must be a multiple of patch_size 8, got 20"),
        ({"search_size": 4}, "search_size must be a multiple of patch_size"),
        ({"num_heads": 3}, "num_heads must divide embed_dim"),
        ({"head_channels": 12}, "channels must be a multiple of 8, got 12"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_networks_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OcclusionRobustTracker(
            **{
                "template_size": 16,
                "search_size": 24,
                "patch_size": 8,
                "embed_dim": 16,
                "depth": 1,
                "num_heads": 2,
                "head_channels": 8,
            }
            | options
        )


def test_inputs_are_checked() -> None:
    model, (template, search) = tracker(), images()
    with pytest.raises(ValueError, match=r"template must be \(B, 3, 16, 16\)"):
        model(search, search)
    with pytest.raises(ValueError, match="the same batch size, got 1 and 2"):
        model(template[:1], search)
    with pytest.raises(ValueError, match=r"features must be \(B, 16, 3, 3\)"):
        model.box_head(torch.zeros(1, 16, 4, 4))
    bad = BOXES.clone()
    bad[1, 2] = 0
    with pytest.raises(ValueError, match="target_xywh must have width and height > 0"):
        model.training_step_losses(template, search, bad)


# Packed pairs ---------------------------------------------------------------------------------------------------------


def test_packing_is_undone_by_unpacking() -> None:
    template, search = images()
    packed = pack_pair(template, search)
    assert packed.shape == (2, 6, 24, 24)
    for found, given in zip(unpack_pair(packed, 16), (template, search), strict=True):
        assert torch.equal(found, given)
    with pytest.raises(ValueError, match="template must be"):
        pack_pair(search, template)
    with pytest.raises(ValueError, match="a packed pair must be"):
        unpack_pair(search, 16)
    with pytest.raises(ValueError, match="maps must be"):
        split_maps(torch.zeros(1, 4, 3, 3))


def test_normalisation_is_stated_and_applies_to_both_images() -> None:
    model = PairTracker(tracker(), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))
    template, search = images()
    z, x = unpack_pair(input_normalization(model)(pack_pair(template, search)), 16)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.1, 0.2, 0.4]).view(3, 1, 1)
    torch.testing.assert_close(z, (template - mean) / std)
    torch.testing.assert_close(x, (search - mean) / std)


def test_the_pair_tracker_is_the_tracker() -> None:
    model, x = PairTracker(tracker()).eval(), pack_pair(*images())
    out = model.tracker(*images())
    for found, name in zip(split_maps(model(x)), ("score", "size", "offset"), strict=True):
        torch.testing.assert_close(found, out[name])
    torch.testing.assert_close(model.tokens(x), out["tokens"])


def test_masked_tokens_can_be_tapped_while_training_and_only_then() -> None:
    model, x = PairTracker(tracker()), pack_pair(*images())
    mask = torch.ones(2, 1, 2, 2)
    mask[:, :, 0, 0] = 0
    model.mask_with(lambda n: mask[:n])
    with tap(model, ["tracker.norm#0", "tracker.norm#1"]) as features:
        model(x)
        clean, masked = features["tracker.norm#0"], features["tracker.norm#1"]
    template, search = images()
    torch.testing.assert_close(clean, model.tracker.encode(template, search))
    torch.testing.assert_close(masked, model.tracker.encode(apply_block_mask(template, mask), search))
    assert clean.requires_grad and not masked.requires_grad
    calls = []
    model.tracker.norm.register_forward_hook(lambda *_: calls.append(1))
    model.eval()(x)
    assert len(calls) == 1
    model.train().mask_with(None)
    model(x)
    assert len(calls) == 2


@pytest.mark.parametrize("stop", ["masked", "clean", "none"])
def test_the_masked_pass_without_a_graph_gives_the_gradients_of_one_that_is_detached(stop: str) -> None:
    """Against the loss written out on two passes with graphs: the official one detaches the masked tokens."""
    model, (template, search) = tracker(), images()
    mask = torch.ones(2, 1, 2, 2)
    mask[:, :, 1, 0] = 0

    def gradients(loss: Tensor) -> list[Tensor]:
        model.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    clean, masked = (model.encode(z, search)[:, :4] for z in (template, apply_block_mask(template, mask)))
    sides = {"masked": (clean, masked.detach()), "clean": (clean.detach(), masked), "none": (clean, masked)}
    ours, theirs = sides[stop]
    wanted = gradients((ours - theirs).square().mean())
    losses = model.training_step_losses(template, search, BOXES, mask, stop_gradient=stop)
    for found, right in zip(gradients(losses["orr"]), wanted, strict=True):
        torch.testing.assert_close(found, right)
    pair = PairTracker(model)
    pair.mask_with(lambda n: mask[:n], gradient=stop != "masked")
    with tap(pair, ["tracker.norm#0", "tracker.norm#1"]) as features:
        pair(pack_pair(template, search))
        two = [features[f"tracker.norm#{i}"] for i in (0, 1)]
    assert two[1].requires_grad == (stop != "masked")
    loss = occlusion_robust_loss(*two, num_template_tokens=4, stop_gradient=stop)
    for found, right in zip(gradients(loss), wanted, strict=True):
        torch.testing.assert_close(found, right)
    with pytest.raises(ValueError, match="stop_gradient must be one of"):
        model.training_step_losses(template, search, BOXES, mask, stop_gradient="both")


def test_copies_and_states_are_those_of_the_tracker() -> None:
    model = PairTracker(tracker())
    model.mask_with(lambda n: torch.ones(n, 1, 2, 2))
    assert {k.removeprefix("tracker.") for k in model.state_dict()} == set(model.tracker.state_dict())
    other = copy.deepcopy(model).eval()
    torch.testing.assert_close(other(pack_pair(*images())), model.eval()(pack_pair(*images())))
