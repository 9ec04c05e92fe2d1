"""The teacher cache: exact, complete or absent, refused when stale, and zero teacher forwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from kdcore._cache_source import sample_marks
from kdcore.cache import CacheError, StaleCacheError, TeacherCache
from kdcore.checkpoints import CheckpointError
from kdcore.distiller import distill
from kdcore.inputs import Normalize
from kdcore.method import CrossEntropy, Method, Needs, Signals


class Counted(nn.Module):
    """A small net that counts the samples it has seen."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Flatten())
        self.head = nn.Linear(width * 36, 4)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.head(self.body(x))


class Match(Method):
    """Follows the teacher's logits and one of its features."""

    card, name, label, knobs = CrossEntropy.card, "match", "match", ()
    student_taps, teacher_taps = ("body.3",), ("body.3",)

    def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
        self.adapt = nn.Linear(student.head.in_features, teacher.head.in_features)  # type: ignore[union-attr,arg-type]

    def terms(self, s: Signals) -> dict[str, Tensor]:
        assert s.teacher_logits is not None
        features = self.adapt(s.student_features["body.3"])
        return {
            "logits": (s.student_logits - s.teacher_logits).square().mean(),
            "features": (features - s.teacher_features["body.3"]).square().mean(),
        }


class TwoViews(Dataset):
    """Reproducible views: ``dataset[i, v]`` is sample i in view v, ``dataset[i]`` gives both."""

    views = 2

    def __init__(self, n: int = 9) -> None:
        self.x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        self.y = torch.arange(n) % 4

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, item: Any) -> Any:
        index, view = item if isinstance(item, tuple) else (item, None)
        both = (self.x[index], self.x[index].flip(-1))
        return (both if view is None else both[view]), self.y[index]


@pytest.fixture
def data() -> TensorDataset:
    g = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(37, 1, 8, 8, generator=g), torch.randint(4, (37,), generator=g))


def teacher(seed: int = 0) -> Counted:
    torch.manual_seed(seed)
    net = Counted()
    net(torch.rand(16, 1, 8, 8))  # gives batch norm statistics to use
    net.seen = 0
    return net


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float64, 0.0), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]
)
def test_reads_what_the_teacher_says(data: TensorDataset, tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    net, norm = teacher(), Normalize([0.5], [0.3])
    cache = TeacherCache(tmp_path, dtype=dtype).build(net, data, ["body.*"], batch_size=8, transform=norm)
    assert net.seen == 37 and net.training  # one forward per sample; the training flag is back
    net.eval()
    index = torch.tensor([36, 0, 5, 5, 17])
    logits, features = TeacherCache(tmp_path, dtype=dtype).read(index)
    x = norm(data.tensors[0])
    with torch.no_grad():
        expected = torch.cat([net(part) for part in x.split(8)])[index]
        hidden = torch.cat([net.body[:2](part) for part in x.split(8)])[index]
    torch.testing.assert_close(logits.to(expected.dtype), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(features["body.1"].to(hidden.dtype), hidden, rtol=tolerance, atol=tolerance)
    assert cache.taps == ("body.0", "body.1", "body.2", "body.3") and len(cache) == 37
    assert logits.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)


def test_building_twice_runs_once_and_draws_no_random_numbers(data: TensorDataset, tmp_path: Path) -> None:
    net, state = teacher(), torch.get_rng_state()
    cache = TeacherCache(tmp_path)
    assert not cache.complete and "not built" in repr(cache)
    progress: list[tuple[int, int]] = []
    cache.build(net, data, ["head"], batch_size=16, on_batch=lambda *p: progress.append(p))
    TeacherCache(tmp_path).build(net, data, ["head"])
    TeacherCache(tmp_path).validate(net, data)  # fewer taps than cached will do
    assert net.seen == 37 and progress == [(16, 37), (32, 37), (37, 37)]
    assert torch.equal(torch.get_rng_state(), state)


def test_stale_is_refused_and_says_what_differs(data: TensorDataset, tmp_path: Path) -> None:
    net = teacher()
    TeacherCache(tmp_path).build(net, data, ["head"])
    x, y = data.tensors
    changed = x.clone()
    changed[0, 0, 0, 0] += 0.1
    cases: list[tuple[str, TeacherCache, tuple[Any, ...], dict[str, Any]]] = [
        ("weights", TeacherCache(tmp_path), (teacher(1), data), {}),
        ("taps", TeacherCache(tmp_path), (net, data, ["body"]), {}),
        ("data", TeacherCache(tmp_path), (net, TensorDataset(changed, y)), {}),
        ("samples", TeacherCache(tmp_path), (net, TensorDataset(x[:20], y[:20])), {}),
        ("transform", TeacherCache(tmp_path), (net, data), {"transform": Normalize([0.5], [0.5])}),
        ("transform", TeacherCache(tmp_path), (net, data), {"transform": lambda x: 2 * x}),
        ("dtype", TeacherCache(tmp_path, dtype=torch.float16), (net, data), {}),
    ]
    for what, cache, arguments, options in cases:
        with pytest.raises(StaleCacheError, match=rf"differs in .*{what} \(cached"):
            cache.build(*arguments, **options)
        with pytest.raises(StaleCacheError, match=what):
            cache.validate(*arguments, **options)
    with torch.no_grad():
        net.body[1].running_mean[0] += 1e-6
    with pytest.raises(StaleCacheError, match="weights"):
        TeacherCache(tmp_path).build(net, data, ["head"])
    seen = net.seen
    TeacherCache(tmp_path).build(net, data, ["head"], overwrite=True)
    assert net.seen == seen + 37


def test_an_interrupted_build_does_not_exist(data: TensorDataset, tmp_path: Path) -> None:
    net = teacher()

    def interrupt(done: int, total: int) -> None:
        if done > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TeacherCache(tmp_path).build(net, data, batch_size=16, on_batch=interrupt)
    assert list(tmp_path.iterdir()) and net.training
    with pytest.raises(CacheError, match="no complete teacher cache"):
        TeacherCache(tmp_path).read(torch.tensor([0]))
    assert torch.isfinite(TeacherCache(tmp_path).build(net, data, batch_size=16).read(range(37))[0]).all()


def test_a_full_disk_is_known_before_the_first_write(
    data: TensorDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(CacheError, match=r"cannot reserve .* MiB for .*logits.view0.npy: No space left on device"):
            TeacherCache(tmp_path).build(teacher(), data)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"] and not TeacherCache(tmp_path).complete
    assert TeacherCache(tmp_path).build(teacher(), data).complete


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve space")
def test_every_byte_of_a_file_is_reserved(data: TensorDataset, tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 4000))
    seen: list[int] = []
    TeacherCache(tmp_path).build(
        wide,
        data,
        batch_size=16,
        on_batch=lambda done, total: seen.append((tmp_path / "logits.view0.npy").stat().st_blocks * 512),
    )
    assert seen[0] >= 37 * 4000 * 4  # after the first of three batches


def test_a_folder_that_cannot_be_written_is_refused(data: TensorDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    net = teacher()
    with pytest.raises(CheckpointError, match=r"cannot write in folder .*file"):
        TeacherCache(tmp_path / "file").build(net, data)
    assert net.seen == 0


def test_damage_is_noticed(data: TensorDataset, tmp_path: Path) -> None:
    TeacherCache(tmp_path).build(teacher(), data)
    file = tmp_path / "logits.view0.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(CacheError, match=r"logits.view0.npy is missing or truncated"):
        TeacherCache(tmp_path).read([0])
    file.write_bytes(whole)
    TeacherCache(tmp_path).read([0])
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(CacheError, match="damaged"):
        TeacherCache(tmp_path).read([0])
    manifest.write_text(json.dumps({"key": {}}))
    with pytest.raises(CacheError, match="damaged"):
        TeacherCache(tmp_path).read([0])


class Noisy(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return (x.flip(-1) if np.random.random() < 0.5 else x), y  # noqa: NPY002


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(1, 8, 8), 0)])


def test_what_cannot_be_cached_is_refused(data: TensorDataset, tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path)
    with pytest.raises(CacheError, match="random augmentation"):
        cache.build(teacher(), Noisy(*data.tensors))
    with pytest.raises(ValueError, match="map-style"):
        cache.build(teacher(), Stream())
    with pytest.raises(ValueError, match="views must be"):
        cache.build(teacher(), TwoViews(), views=3)
    with pytest.raises(ValueError, match="empty"):
        cache.build(teacher(), TensorDataset(torch.zeros(0, 1, 8, 8)))
    with pytest.raises(ValueError, match="own index"):
        cache.build(teacher(), TensorDataset(*data.tensors, torch.arange(37) + 1))
    with pytest.raises(ValueError, match="dtype"):
        TeacherCache(tmp_path, dtype=torch.int32)
    broken = teacher()
    nn.init.constant_(broken.head.bias, float("nan"))
    with pytest.raises(CacheError, match="NaN"):
        cache.build(broken, data)
    assert not cache.complete


@pytest.mark.parametrize("index", [[37], [-1], [[0, 1]]])
def test_positions_that_are_not_there(data: TensorDataset, tmp_path: Path, index: Any) -> None:
    cache = TeacherCache(tmp_path).build(teacher(), data)
    with pytest.raises(IndexError, match="positions in"):
        cache.read(index)
    with pytest.raises(IndexError, match="view must be"):
        cache.read([0], view=1)


@pytest.mark.parametrize("declared", [True, False])
def test_views(tmp_path: Path, declared: bool) -> None:
    source = TwoViews()
    dataset = source if declared else [source[i] for i in range(len(source))]
    net = teacher()
    cache = TeacherCache(tmp_path).build(net, dataset, views=2, batch_size=4)  # type: ignore[arg-type]
    assert net.seen == 18 and cache.views == 2
    mixed, _ = cache.read([3, 4, 5], view=torch.tensor([0, 1, 0]))
    zero, one = cache.read([3, 4, 5])[0], cache.read([3, 4, 5], view=1)[0]
    assert torch.equal(mixed, torch.stack([zero[0], one[1], zero[2]])) and not torch.allclose(zero, one)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(one, net(source.x[3:6].flip(-1)))


def curve(data: Dataset, folder: Path | None, method: Method, *, epochs: int = 3) -> tuple[list[Any], Any, Counted]:
    net = teacher()
    torch.manual_seed(5)
    student, events = Counted(3), []
    result = distill(
        net,
        student,
        method,
        DataLoader(data, 8, shuffle=True),
        epochs=epochs,
        callbacks=[events.append],
        cache=folder,
        accelerator="cpu",
    )
    return [(type(e).__name__, e.step, e.terms) for e in events], result, net


def test_a_cached_teacher_never_runs_and_the_curve_is_the_same_to_the_bit(data: TensorDataset, tmp_path: Path) -> None:
    plain, result, net = curve(data, None, Match())
    assert net.seen == result.teacher_forwards + 8 == 3 * 37 + 8  # 8: the sample batch for the checks
    first, built, net = curve(data, tmp_path, Match())
    assert built.teacher_forwards == 37
    second, result, net = curve(data, tmp_path, Match())
    assert result.teacher_forwards == 0 and net.seen <= 8
    assert first == plain and second == plain


class Views(Match):
    name = "views"
    needs = Needs(views=2)
    seen: tuple[Tensor, Tensor] | None = None

    def terms(self, s: Signals) -> dict[str, Tensor]:
        assert s.view is not None and s.index is not None
        assert s.view.tolist() == [0] * (len(s.view) // 2) + [1] * (len(s.view) // 2)
        assert torch.equal(s.index[: len(s.index) // 2], s.index[len(s.index) // 2 :])
        return super().terms(s)


def test_two_cached_views_train_like_two_live_ones(tmp_path: Path) -> None:
    class Indexed(TwoViews):
        def __getitem__(self, item: Any) -> Any:
            x, y = super().__getitem__(item)
            return x, y, item[0] if isinstance(item, tuple) else item

    plain, result, _ = curve(Indexed(), None, Views())
    cached, cheap, _ = curve(Indexed(), tmp_path, Views())
    assert result.teacher_forwards == 3 * 18 and cheap.teacher_forwards == 18
    assert [c[:2] for c in cached] == [p[:2] for p in plain]
    for mine, theirs in zip(cached, plain, strict=True):
        assert mine[2] == pytest.approx(theirs[2], rel=1e-5)


def test_a_sampler_may_choose_the_view(tmp_path: Path) -> None:
    data, net = TwoViews(), teacher()
    items = [(i, (i + 1) % 2) for i in range(len(data))]
    loader = DataLoader(data, 3, sampler=items)  # type: ignore[arg-type]
    seen: list[tuple[Tensor, Tensor]] = []

    class Watch(Match):
        name = "watch"

        def terms(self, s: Signals) -> dict[str, Tensor]:
            seen.append((s.inputs, s.teacher_logits))  # type: ignore[arg-type]
            return super().terms(s)

    distill(net, Counted(3), Watch(), loader, epochs=1, cache=tmp_path, accelerator="cpu")
    net.eval()
    with torch.no_grad():
        for x, logits in seen:
            torch.testing.assert_close(net(x), logits)
    assert torch.equal(torch.cat([x for x, _ in seen])[1], data.x[1])  # view 0 of sample 1
    assert torch.equal(torch.cat([x for x, _ in seen])[0], data.x[0].flip(-1))


# Several processes, other data, damage --------------------------------------------------------------------------------

BUILD = """
import sys, torch
from torch import nn
from torch.utils.data import TensorDataset
from kdcore.cache import TeacherCache
torch.manual_seed(0)
teacher, data = nn.Linear(64, 32), TensorDataset(torch.rand(4000, 64), torch.zeros(4000).long())
sys.stdin.readline()
cache = TeacherCache(sys.argv[1]).build(teacher, data, batch_size=16)
rows = torch.arange(4000)
with torch.no_grad():
    found = cache.read(rows)[0]
    assert torch.allclose(found, teacher(data.tensors[0]), atol=1e-5), f"{int((found == 0).all(1).sum())} rows are zero"
print("right")
"""


def race(folder: Path, processes: int) -> list[str]:
    """What so many processes say that build one cache at the same moment and read it."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(processes)
    ]  # fmt: skip
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate()[0].strip() for process in started]


@pytest.mark.slow
def test_processes_that_build_one_cache_at_once_all_read_what_the_teacher_says(tmp_path: Path) -> None:
    # KDCORE_RACES=10 repeats it: the stress of docs/architecture.md
    for turn in range(int(os.environ.get("KDCORE_RACES", "1"))):
        assert race(tmp_path / str(turn), 4) == ["right"] * 4


def test_a_changed_data_set_is_refused_wherever_it_changed(data: TensorDataset, tmp_path: Path) -> None:
    net = teacher()
    student = Counted()
    cache = TeacherCache(tmp_path).build(net, data)
    for k, position in enumerate((1, len(data) // 2, len(data) - 2)):
        x = data.tensors[0].clone()
        x[position].view(-1)[k] += 1e-3
        other = DataLoader(TensorDataset(x, data.tensors[1]), batch_size=4)
        with pytest.raises(StaleCacheError, match=r"the data set has changed since|it differs in data") as caught:
            distill(net, student, "kd", other, epochs=1, cache=cache)
        assert "data" in str(caught.value)


def test_the_marks_of_samples_are_exact_and_notice_order(data: TensorDataset) -> None:
    x = torch.rand(6, 3, 5)
    marks = sample_marks(x)
    assert torch.equal(marks, torch.cat([sample_marks(part) for part in x.split(2)]))
    assert torch.equal(marks[[2, 0]], sample_marks(x[[2, 0]])) and len(marks.unique()) == 6
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64):
        assert sample_marks((100 * x).to(dtype)).shape == (6,)
    graph = {"x": x, "edge_index": torch.tensor([[0, 1, 2], [1, 2, 3]])}
    assert torch.equal(sample_marks(graph), sample_marks({"x": x}))
    pair = {"a": x, "b": x.flip(0)}
    assert not torch.equal(sample_marks(pair), sample_marks({"a": pair["b"], "b": pair["a"]}))


def test_one_flipped_bit_is_refused(data: TensorDataset, tmp_path: Path) -> None:
    TeacherCache(tmp_path).build(teacher(), data)
    for name in ("logits.view0.npy", "marks.npy"):
        path = tmp_path / name
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[-3] ^= 1
        path.write_bytes(bytes(changed))
        cache = TeacherCache(tmp_path)
        with pytest.raises(CacheError, match=rf"{name} is damaged or of another build: build"):
            cache.read([0])
            cache.check_samples(torch.tensor([0]), data.tensors[0][:1])
        path.write_bytes(whole)
    assert TeacherCache(tmp_path).read([0])[0].shape[0] == 1
