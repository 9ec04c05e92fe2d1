"""Taps: names, calls, and above all that a tapped tensor is what the module returned."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint

from kdcore.taps import StaleTapError, TapError, Taps, resolve_names, tap

MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


def true_outputs(model: nn.Module, names: list[str], x: Tensor) -> dict[str, list[Tensor]]:
    """Independent of hooks: each module's ``forward`` is replaced by one that keeps a clone of what it returns."""
    kept: dict[str, list[Tensor]] = {n: [] for n in names}

    def spy(forward, sink):
        def call(*args, **kwargs):
            out = forward(*args, **kwargs)
            sink.append((out if isinstance(out, Tensor) else out[0]).clone())
            return out

        return call

    modules = {n: model.get_submodule(n) for n in names}
    for name, module in modules.items():
        module.forward = spy(module.forward, kept[name])
    try:
        model(x)
    finally:
        for module in modules.values():
            del module.forward
    return kept


class Residual(nn.Module):
    """conv-bn-relu(in place)-conv, then ``+=`` onto a tapped tensor."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        y += x
        return self.relu(y)


class ViewWriter(nn.Module):
    """Overwrites what its layers returned through views, slices, ``.data``, ``out=``, foreach and fill."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Linear(3, 4), nn.Linear(4, 2), how

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        match self.how:
            case "slice":
                h[:, 1:3] = 0
            case "view":
                h.view(-1).mul_(2)
            case "chunk":
                h.unflatten(1, (2, 2)).select(1, 0).add_(1)
            case "data":
                h.data.zero_()
            case "out":
                torch.neg(h.detach(), out=h.detach())
            case "foreach":
                torch._foreach_mul_([h.detach(), x.clone().detach()], 3.0)
            case "index_put":
                h = h.index_put_((torch.tensor([0]),), torch.zeros(4))
            case "fill":
                h = h.masked_fill_(h > 0, -1.0)
        return self.b(h)


WRITES = ("slice", "view", "chunk", "data", "out", "foreach", "index_put", "fill")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", WRITES)
def test_every_way_of_overwriting_is_seen(how, mode):
    torch.manual_seed(0)
    model, x = ViewWriter(how), torch.randn(5, 3)
    with MODES[mode](), tap(model, "a") as features:
        model(x)
        torch.testing.assert_close(features["a"], F.linear(x, model.a.weight, model.a.bias), rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("train", [False, True])
def test_residual_net_equals_recomputation(mode, train):
    torch.manual_seed(0)
    model = Residual().train(train)
    x = torch.randn(2, 3, 5, 5)
    with MODES[mode]():
        truth = true_outputs(copy.deepcopy(model), ["conv1", "bn1", "relu", "conv2"], x)
        with tap(model, ["conv1", "bn1", "relu", "conv2", "relu:in", "conv2:in", ""]) as features:
            out = model(x)
            assert list(features) == [
                "conv1",
                "bn1",
                "relu#0",
                "relu#1",
                "conv2",
                "relu:in#0",
                "relu:in#1",
                "conv2:in",
                "",
            ]
            for name in ("conv1", "bn1", "conv2"):
                assert torch.equal(features[name], truth[name][0])
            assert torch.equal(features["relu#0"], truth["relu"][0])
            assert torch.equal(features["relu#1"], truth["relu"][1])
            assert torch.equal(features["relu:in#0"], truth["bn1"][0])
            assert torch.equal(features["relu:in#1"], truth["conv2"][0] + truth["relu"][0])
            assert torch.equal(features["conv2:in"], truth["relu"][0])
            assert torch.equal(features[""], out)
            assert features["bn1"].min() < 0, "the batch norm's output, not what the ReLU made of it"


def test_gradient_goes_to_the_tensor_before_the_in_place_op():
    torch.manual_seed(0)
    model = Residual().double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    with tap(model, ["bn1", "conv2"]) as features:
        loss = model(x).square().sum() + features["bn1"].pow(3).sum() + 2 * features["conv2"].sin().sum()
    loss.backward()
    ours = [p.grad.clone() for p in model.parameters()]

    model.zero_grad()  # the same function written without a single in-place op
    bn = model.bn1(model.conv1(x))
    h = bn.relu()
    y = model.conv2(h)
    ((y + h).relu().square().sum() + bn.pow(3).sum() + 2 * y.sin().sum()).backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)


def test_second_derivatives_pass_through_a_preserved_feature():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def f(x):
        with tap(model, "0") as features:
            model(x)
        return features["0"].pow(3)

    assert torch.autograd.gradcheck(f, (x,))
    assert torch.autograd.gradgradcheck(f, (x,))


def test_copies_only_what_is_overwritten():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(inplace=True))
    returned: dict[str, Tensor] = {}
    for name in ("0", "1", "2"):
        model.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: returned.__setitem__(name, out))
    with tap(model, ["0", "1", "2"]) as features:
        model(torch.randn(2, 3))
    assert features["0"] is returned["0"] and features["1"] is returned["1"], "no copy, not even an alias"
    assert features["2"].data_ptr() != returned["2"].data_ptr()
    assert features["2"] is features["2"], "attached once"


def test_modified_after_the_forward_is_refused():
    model = nn.Sequential(nn.Linear(3, 2))
    with tap(model, ["0", "0:in"]) as features:
        out = model(x := torch.randn(1, 3))
        out.detach().mul_(2)
        with pytest.raises(StaleTapError, match="'0' was modified in place after the forward"):
            features["0"]
        assert torch.equal(features["0:in"], x)


def test_inference_tensors_modified_after_the_forward_are_still_right():
    model = nn.Sequential(nn.Linear(3, 2))
    with torch.inference_mode(), tap(model, ["0", "0:in"]) as features:
        x = torch.randn(2, 3)
        before, truth = x.clone(), model[0](x)
        model(x).zero_()
        x.zero_()
        assert torch.equal(features["0"], truth) and torch.equal(features["0:in"], before)


def test_detach_and_reduce():
    model = Residual()
    x = torch.randn(2, 3, 5, 5)
    with tap(model, ["bn1"], detach=True) as features:
        model(x)
    assert not features["bn1"].requires_grad and features["bn1"].min() < 0
    seen = []
    with tap(model, ["bn1", "conv2"], reduce=lambda t: (seen.append(t.shape), t.amin((0, 2, 3)))[1]) as features:
        model(x).sum()
        assert _get_current_dispatch_mode() is None
    assert features["bn1"].shape == (4,) and (features["bn1"] < 0).any() and features["bn1"].requires_grad
    assert seen == [(2, 4, 5, 5)] * 2
    with tap(model, "bn1", reduce=lambda t: t.flatten(1)) as features:  # an alias of the activation
        model(x)
    assert features["bn1"].min() < 0
    with (
        pytest.raises(TypeError, match="reduce must return a tensor, got float at tap 'bn1'"),
        tap(model, "bn1", reduce=lambda t: t.sum().item()),
    ):
        model(x)


# names


class Zoo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": nn.Linear(2, 2), "mlp": nn.Linear(2, 2)}) for _ in range(3))
        self.shared = self.blocks[0]["mlp"]
        self.head = nn.Linear(2, 2)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block["mlp"](block["attn"](x))
        return self.head(self.shared(x))


def test_globs():
    zoo = Zoo()
    assert resolve_names(zoo, "blocks.*.mlp") == ["blocks.0.mlp", "blocks.1.mlp", "blocks.2.mlp"]
    assert resolve_names(zoo, "blocks.*") == ["blocks.0", "blocks.1", "blocks.2"]
    assert resolve_names(zoo, "**.attn") == ["blocks.0.attn", "blocks.1.attn", "blocks.2.attn"]
    assert resolve_names(zoo, "**") == [n for n, _ in zoo.named_modules(remove_duplicate=False) if n]
    assert resolve_names(zoo, ["head", "*ea?:in", "head"]) == ["head", "head:in"]
    assert resolve_names(zoo, "**.head") == ["head"]
    assert resolve_names(zoo, "blocks.?.mlp[0]#1") == [f"blocks.{i}.mlp[0]#1" for i in range(3)]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["blocks", "0", "1", "mlp", "attn", "head", "*", "?", "**"]), min_size=1, max_size=4))
def test_globs_agree_with_a_segmentwise_matcher(parts):
    """Oracle: recursive over segments; ``**.`` stands for any number of segments, a final ``**`` for at least one."""
    from fnmatch import fnmatchcase

    def match(pattern: list[str], name: list[str]) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "**":
            least = 0 if len(pattern) > 1 else 1
            return any(match(pattern[1:], name[k:]) for k in range(least, len(name) + 1))
        return bool(name) and fnmatchcase(name[0], pattern[0]) and match(pattern[1:], name[1:])

    zoo = Zoo()
    wanted = [n for n, _ in zoo.named_modules(remove_duplicate=False) if n and match(parts, n.split("."))]
    if wanted:
        assert resolve_names(zoo, ".".join(parts)) == wanted
    else:
        with pytest.raises(TapError):
            resolve_names(zoo, ".".join(parts))


def test_unknown_names():
    with pytest.raises(KeyError, match=r"no module is called 'blocks\.1\.mpl'\. Did you mean 'blocks\.1\.mlp'"):
        Taps(Zoo(), ["blocks.1.mpl"])
    with pytest.raises(TapError, match=r"no module matches 'stage\*'"):
        resolve_names(Zoo(), "stage*")
    with pytest.raises(ValueError, match="a tap is written"):
        resolve_names(Zoo(), "head:out")
    with pytest.raises(ValueError, match="at least one tap"):
        resolve_names(Zoo(), [])
    with pytest.raises(TypeError, match=r"model must be an nn\.Module"):
        resolve_names(3, "x")  # type: ignore[arg-type]


def test_shared_repeated_and_unused_modules():
    torch.manual_seed(0)
    zoo, x = Zoo(), torch.randn(2, 2)
    truth = true_outputs(zoo, ["shared"], x)["shared"]
    with tap(zoo, ["shared", "blocks.0.mlp", "unused", "head", "shared#1"]) as features:
        zoo(x)
    assert list(features) == ["shared#0", "shared#1", "blocks.0.mlp#0", "blocks.0.mlp#1", "head"]
    for i in (0, 1):
        assert torch.equal(features[f"shared#{i}"], truth[i])
        assert torch.equal(features[f"blocks.0.mlp#{i}"], truth[i])
    with pytest.raises(KeyError, match="was called 2 times in the last forward: read shared#0 to shared#1"):
        features["shared"]
    with pytest.raises(KeyError, match="'unused' did not run in the last forward"):
        features["unused"]
    with pytest.raises(KeyError, match=r"no tap is called 'haed'\. Did you mean .*'head'"):
        features["haed"]
    assert "head" in features and "unused" not in features and len(features) == 5
    assert "'head': (2, 2)" in repr(features)


def test_reading_before_any_forward():
    taps = Taps(Zoo(), "head").attach()
    with pytest.raises(TapError, match="was not called since the taps were attached"):
        taps.features["head"]
    taps.close()
    model = nn.Sequential(nn.Linear(2, 2))
    with tap(model, "0") as features:
        model.forward(torch.ones(1, 2))
        with pytest.raises(TapError, match=r"not on model.forward\(x\)"):
            features["0"]


class Tuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.out = Outs()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h, _ = self.lstm(x)
        return self.out(scale=2.0, hidden=h)


class Outs(nn.Module):
    def forward(self, scale: float, *, hidden: Tensor) -> OrderedDict:
        return OrderedDict(note="text", pair=(None, hidden * scale), last=hidden[:, -1])


def test_tuples_dicts_and_keyword_inputs():
    torch.manual_seed(0)
    model, x = Tuples(), torch.randn(2, 5, 3)
    h, (hn, cn) = model.lstm(x)
    with tap(model, ["lstm", "lstm[1]", "lstm[1][1]", "out", "out[last]", "out[pair][1]", "out:in", "out:in[1]"]) as f:
        model(x)
    for name, truth in {
        "lstm": h,
        "lstm[1]": hn,
        "lstm[1][1]": cn,
        "out": 2 * h,
        "out[last]": h[:, -1],
        "out[pair][1]": 2 * h,
        "out:in": h,
        "out:in[1]": h,
    }.items():
        assert torch.equal(f[name], truth), name
    with (
        pytest.raises(TypeError, match=r"tap 'out\[first\]': cannot select \[first\], the module returned keys"),
        tap(model, "out[first]"),
    ):
        model(x)
    with (
        pytest.raises(TypeError, match=r"tap 'out\[note\]': the module returned no tensor but a str"),
        tap(model, "out[note]"),
    ):
        model(x)
    with pytest.raises(TypeError, match=r"cannot select \[7\], the module returned 2 items"), tap(model, "lstm[7]"):
        model(x)


# life cycle


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_each_forward_replaces_the_features():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
    taps = Taps(model, "0").attach()
    assert taps.attach() is taps and hooks_of(model) == 3
    for _ in range(3):
        x = torch.randn(1, 2)
        model(x)
        assert list(taps.features) == ["0"] and torch.equal(taps.features["0"], model[0](x))
    taps.close()
    assert hooks_of(model) == 0
    assert list(taps.features) == ["0"], "readable after closing"
    taps.clear()
    assert len(taps.features) == 0
    assert "closed" in repr(taps)


def test_model_is_as_before_after_errors_and_interrupts():
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.error = nn.Linear(2, 2), None

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            if self.error is not None:
                raise self.error
            return x.relu_()

    model, x = Fails(), torch.randn(3, 2)
    taps = Taps(model, ["a", ""]).attach()
    model.error = RuntimeError("inside")
    with pytest.raises(RuntimeError, match="inside"):
        model(x)
    assert _get_current_dispatch_mode() is None
    model.error = KeyboardInterrupt()  # PyTorch does not run hooks then
    with pytest.raises(KeyboardInterrupt):
        model(x)
    model.error = None
    model(x)
    assert _get_current_dispatch_mode() is None
    assert torch.equal(taps.features["a"], model.a(x)) and torch.equal(taps.features[""], model.a(x).relu())
    model.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        model(x)
    taps.close()
    assert _get_current_dispatch_mode() is None and hooks_of(model) == 0


def test_two_taps_on_one_model_and_on_its_parts():
    torch.manual_seed(0)
    model, x = nn.Sequential(Residual(), nn.Flatten(), nn.Linear(100, 2)), torch.randn(2, 3, 5, 5)
    truth = true_outputs(model.eval(), ["0.bn1", "0.conv2"], x)
    with Taps(model, "0.bn1") as one, Taps(model, "0.conv2") as two, Taps(model[0], "bn1") as inner:
        model(x)
        assert _get_current_dispatch_mode() is None
    assert torch.equal(one.features["0.bn1"], truth["0.bn1"][0])
    assert torch.equal(inner.features["bn1"], truth["0.bn1"][0])
    assert torch.equal(two.features["0.conv2"], truth["0.conv2"][0])


def test_recursive_model_records_all_calls():
    class Tree(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(2, 2)

        def forward(self, x: Tensor, depth: int = 2) -> Tensor:
            return self.f(x).relu_() if depth == 0 else self.f(self(x, depth - 1))

    model, x = Tree(), torch.randn(1, 2)
    with tap(model, "f") as features:
        model(x)
    assert list(features) == ["f#0", "f#1", "f#2"]
    assert torch.equal(features["f#0"], model.f(x))


def test_copies_of_a_tapped_model_do_not_write_into_its_features():
    model, x = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)), torch.randn(1, 2)
    with Taps(model, "0") as taps:
        model(x)
        copied = copy.deepcopy(model)
        copied(x + 1)
        assert _get_current_dispatch_mode() is None
        assert list(taps.features) == ["0"] and torch.equal(taps.features["0"], model[0](x))


def test_checkpointed_recomputation_is_not_a_second_call():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.block, x, use_reentrant=False))

    torch.manual_seed(0)
    model, x = Checkpointed(), torch.randn(4, 3)
    with tap(model, "block.0") as features:
        out = model(x)
        (out.sum() + features["block.0"].square().sum()).backward()
        assert list(features) == ["block.0"]
    assert torch.equal(features["block.0"], model.block[0](x))
    ours = model.block[0].weight.grad.clone()
    model.zero_grad()
    h = model.block[0](x)
    (model.head(h.relu()).sum() + h.square().sum()).backward()
    torch.testing.assert_close(ours, model.block[0].weight.grad)


def test_autocast_feature_has_the_dtype_the_module_returned():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    x = torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16), tap(model, "0") as features:
        model(x)
        truth = model[0](x)
    assert features["0"].dtype == torch.bfloat16 and torch.equal(features["0"], truth)
    features["0"].float().sum().backward()


def test_random_numbers_and_statistics_are_untouched_by_tapping():
    def run(tapped: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(Residual(), nn.Dropout(0.5))
        x = torch.randn(2, 3, 5, 5)
        taps = Taps(model, "**").attach() if tapped else None
        loss = model(x).square().sum()
        loss.backward()
        if taps:
            taps.close()
        return [loss.detach(), *(p.grad for p in model.parameters()), *model.buffers()]

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True), strict=True))


# wrappers


def test_data_parallel_and_scripted_are_refused():
    with pytest.raises(TypeError, match="DataParallel"):
        Taps(nn.DataParallel(nn.Linear(2, 2)), "")
    with pytest.warns((FutureWarning, DeprecationWarning), match="script"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match=r"torch\.jit\.script"):
        Taps(scripted, "0")


def test_fabric_wrapper_is_seen_through():
    from lightning.fabric import Fabric

    model, x = Residual().eval(), torch.randn(1, 3, 5, 5)
    wrapped = Fabric(accelerator="cpu", devices=1).setup_module(model)
    with tap(wrapped, "bn1") as features:
        wrapped(x)
    assert torch.equal(features["bn1"], model.bn1(model.conv1(x)))


# Dynamo itself looks at .grad of the intermediate tensors between two graphs.
dynamo_looks_at_grad = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not:UserWarning")


@dynamo_looks_at_grad
def test_compiled_model():
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2, 3, 5, 5)
    truth = true_outputs(model, ["bn1", "conv2"], x)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    with tap(compiled, ["bn1", "conv2", ""]) as features:
        for _ in range(2):
            out = compiled(x)
            torch.testing.assert_close(features["bn1"], truth["bn1"][0])
            torch.testing.assert_close(features["conv2"], truth["conv2"][0])
            torch.testing.assert_close(features[""], out)
    torch.compiler.reset()
    compiled = torch.compile(nn.Sequential(nn.Linear(2, 2)), backend="eager")
    compiled(torch.ones(1, 2))
    with tap(compiled, "0") as features:
        compiled(torch.ones(1, 2))
        with pytest.raises(TapError, match="attach the taps before its first call"):
            features["0"]
    torch.compiler.reset()


@dynamo_looks_at_grad
def test_model_compiled_after_the_taps_were_attached():
    torch.compiler.reset()
    model, x = Residual().eval(), torch.randn(2, 3, 5, 5)
    truth = true_outputs(model, ["bn1", "conv2"], x)
    with tap(model, ["bn1", "conv2"]) as features:
        compiled = torch.compile(model, backend="aot_eager")
        for _ in range(2):
            compiled(x)
            torch.testing.assert_close(features["bn1"], truth["bn1"][0])
            torch.testing.assert_close(features["conv2"], truth["conv2"][0])
    torch.compiler.reset()


def test_first_forward_does_not_import_the_compiler():
    import subprocess
    import sys

    code = (
        "import sys, torch; from kdcore.taps import tap\n"
        "model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(inplace=True))\n"
        "with tap(model, '0'): model(torch.ones(1, 2))\n"
        "heavy = {'torch._dynamo', 'timm', 'lightning', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr == ""


@dynamo_looks_at_grad
def test_module_compiled_in_place():
    torch.compiler.reset()
    model, x = Residual().eval(), torch.randn(2, 3, 5, 5)
    truth = model.bn1(model.conv1(x))
    model.compile(backend="aot_eager")
    with tap(model, "bn1") as features:
        model(x)
        torch.testing.assert_close(features["bn1"], truth)
    torch.compiler.reset()


def test_transformer_encoder_runs_its_submodules_when_tapped():
    """PyTorch's fused inference path skips submodules unless they carry hooks."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    with torch.inference_mode(), tap(model, ["self_attn", "linear1"]) as features:
        model(x)
        attended = model.self_attn(x, x, x, need_weights=False)[0]
        torch.testing.assert_close(features["self_attn"], attended)
        torch.testing.assert_close(features["linear1"], model.linear1(model.norm1(x + attended)))


def test_ddp_wrapper_is_seen_through(tmp_path):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        model, x = Residual().eval(), torch.randn(1, 3, 5, 5)
        wrapped = nn.parallel.DistributedDataParallel(model)
        with tap(wrapped, "bn1") as features:
            loss = wrapped(x).sum() + features["bn1"].square().sum()
        loss.backward()
        assert torch.equal(features["bn1"], model.bn1(model.conv1(x)))
        assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()


def test_recorded_accounts_for_every_tap():
    taps = Taps(Zoo(), ["head", "shared"]).attach()
    taps._root(torch.ones(1, 2))
    assert taps.recorded() == ["head", "shared#0", "shared#1"]
    with pytest.raises(TapError, match="'unused' did not run"), Taps(taps._root, ["head", "unused"]) as partial:
        taps._root(torch.ones(1, 2))
        partial.recorded()


# ------------------------------------------------------------------------------------------- forwards not watched again


class _Moody(nn.Module):
    """Overwrites the tapped tensor when ``angry``, with training dropout, or on large inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.dropout, self.angry = nn.Linear(4, 4), nn.Dropout(0.5, inplace=True), False
        self.modes = []

    def forward(self, x):
        x = self.first(x)
        self.modes.append(_get_current_dispatch_mode() is not None)
        x = self.dropout(x)
        return (x.mul_(0) if self.angry or len(x) > 3 else x).sum(1)


def test_a_quiet_forward_is_watched_once_per_circumstances():
    model, x = _Moody().eval(), torch.randn(2, 4)
    with Taps(model, "first") as taps:
        for watched in (True, False, False):
            with torch.no_grad():
                model(x)
            assert torch.equal(taps.features["first"], model.first(x)) and model.modes[-1] is watched
        model(x)
        assert model.modes[-1], "with autograd: other operators may run"
        model(x)
        assert not model.modes[-1] and taps.features["first"].requires_grad
        for _ in range(2):
            model(torch.cat([x, x]))
            assert model.modes[-1], "another shape, and one in which a copy is needed every time"
            assert torch.equal(taps.features["first"], model.first(torch.cat([x, x])))
        for _ in range(2):
            model.train()(x)
            assert model.modes[-1], "in training mode dropout overwrites"
            assert torch.equal(taps.features["first"], model.first(x))
        for _ in range(2):
            with torch.inference_mode():
                model.eval()(x)
            assert model.modes[-1], "inference tensors have no version counter"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(x)
        assert model.modes[-1]


def test_an_overwrite_in_a_trusted_forward_is_refused_once_then_watched():
    model, x = _Moody().eval(), torch.randn(2, 4)
    with Taps(model, "first") as taps:
        model(x)
        model(x)
        model.angry = True
        model(x)
        assert not model.modes[-1]
        with pytest.raises(StaleTapError, match="call the model again"):
            taps.features["first"]
        for _ in range(2):
            model(x)
            assert model.modes[-1]
            assert torch.equal(taps.features["first"], model.first(x))
        taps.features["first"].sum().backward()
        assert model.first.weight.grad.abs().sum() > 0
    assert _get_current_dispatch_mode() is None


def test_a_forward_that_failed_is_not_trusted():
    model, x = _Moody().eval(), torch.randn(2, 4)
    with Taps(model, "first"):
        handle = model.dropout.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))
        with pytest.raises(RuntimeError, match="stop"):
            model(x)
        handle.remove()
        model(x)
        assert model.modes[-1]
