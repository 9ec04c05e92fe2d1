"""Videos as pairs: what is found in folders, where crops and boxes lie, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.functional.boxes import xywh_to_xyxy
from kdcore.tasks import load_task
from kdcore.tasks.tracking_videos import find_videos, video_pairs

BOX = (30, 14)  # width and height of the target


def write_video(
    folder: Path,
    *,
    frames: int = 6,
    separator: str = ",",
    inside: str = "",
    name: str = "groundtruth.txt",
    absent: tuple[int, ...] = (),
) -> None:
    """A grey video with a white rectangle that moves to the right."""
    home = folder / inside if inside else folder
    home.mkdir(parents=True)
    lines = []
    for i in range(frames):
        x, y = 40 + 5 * i, 50
        pixels = np.full((120, 160, 3), 60, dtype=np.uint8)
        pixels[y : y + BOX[1], x : x + BOX[0]] = 255
        Image.fromarray(pixels).save(home / f"{i:04d}.png")
        box = ("nan",) * 4 if i in absent else tuple(map(str, (x, y, *BOX)))
        lines.append(separator.join(box))
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_video(tmp_path / "a", absent=(2,))
    write_video(tmp_path / "deep" / "b", separator="\t", inside="img", name="groundtruth_rect.txt")
    write_video(tmp_path / "short", frames=2, absent=(0,))
    return tmp_path


def test_layouts_are_found_and_frames_without_a_box_left_out(folder: Path) -> None:
    videos = find_videos(folder)
    assert [(v.name, len(v.frames)) for v in videos] == [("a", 5), ("b", 6)]
    assert videos[0].boxes[2].tolist() == [55, 50, *BOX] and videos[0].frames[2].name == "0003.png"


def test_boxes_lie_on_the_target_and_templates_are_centred(folder: Path) -> None:
    data = video_pairs(find_videos(folder), 24, template_size=32, search_size=64, max_gap=3, seed=1)
    side = 4 * np.sqrt(BOX[0] * BOX[1])  # of the search crop in pixels of the frame, before the scale jitter
    whole = 0
    for search, box, target in zip(data.search, data.boxes, data.search_target, strict=True):  # type: ignore[arg-type]
        x0, y0, x1, y1 = (xywh_to_xyxy(box[None])[0] * 64).tolist()
        white = (search.float().mean(0) > 157).nonzero().float()
        assert white[:, 1].min() == pytest.approx(x0, abs=1.5) and white[:, 1].max() + 1 == pytest.approx(x1, abs=1.5)
        assert white[:, 0].min() == pytest.approx(y0, abs=1.5) and white[:, 0].max() + 1 == pytest.approx(y1, abs=1.5)
        assert bool(target[white[:, 0].long(), white[:, 1].long()].float().mean() > 0.8)
        whole += x0 > 0 and x1 < 64 and y0 > 0 and y1 < 64
    assert whole > 5
    center = (data.template.float().mean(1) > 157).float()
    at = torch.arange(32) + 0.5
    for axis in (1, 2):
        mass = center.sum(axis)
        assert torch.allclose((mass * at).sum(1) / mass.sum(1), torch.tensor(16.0), atol=1.0)
    widths = data.boxes[:, 2] * side  # jittered about the true width, never far off
    assert widths.median().item() == pytest.approx(BOX[0], rel=0.3) and len(set(widths.tolist())) > 10


def test_pairs_depend_on_the_seed_alone(folder: Path) -> None:
    one, two, other = (video_pairs(find_videos(folder), 3, template_size=16, search_size=32, seed=s) for s in (0, 0, 1))
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()


def test_the_task_keeps_whole_videos_for_the_test_and_trains(folder: Path) -> None:
    task = load_task(
        "tracking_videos",
        path=folder,
        count=8,
        test_count=4,
        template_size=16,
        search_size=32,
        width=16,
        teacher_depth=2,
        student_depth=1,
        head_channels=8,
    )
    assert len(task.train) == 8 and len(task.split("test/template")) == 4 and "2 videos" in task.describe()
    assert 0 <= task.evaluate(task.student("tracker-1"))["mean IoU"] <= 1
    assert not torch.equal(task.test.template, task.occluded["template"].template)  # type: ignore[attr-defined]


def test_a_single_video_is_cut_in_time(tmp_path: Path) -> None:
    write_video(tmp_path / "only", frames=10)
    small = {"count": 2, "test_count": 2, "template_size": 16, "search_size": 32, "width": 16, "head_channels": 8}
    assert len(load_task("tracking_videos", path=tmp_path, **small).test) == 2
    with pytest.raises(ValueError, match="leaves 10 for training and 0 for the test"):
        load_task("tracking_videos", path=tmp_path, test_share=0.0, **small)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="which is not one"):
        find_videos(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no video below .* wanted folders with groundtruth\.txt"):
        find_videos(tmp_path)
    write_video(tmp_path / "a", frames=3)
    note = tmp_path / "a" / "groundtruth.txt"
    for text, message in (
        ("1,2,3,4\n", "holds 1 boxes for 3 frames"),
        ("1,2,x,4\n" * 3, "one box x y w h per line"),
        ("1,2\n" * 3, r"got shape \(3, 2\)"),
    ):
        note.write_text(text)
        with pytest.raises(ValueError, match=message):
            find_videos(tmp_path)
    note.write_text("1,2,3,4\n" * 3)
    (tmp_path / "a" / "0001.png").write_bytes(b"not an image")
    with pytest.raises(OSError, match=r"cannot read the frame .*0001\.png"):
        video_pairs(find_videos(tmp_path), 40, template_size=16, search_size=32)
    with pytest.raises(ValueError, match="videos must hold at least one"):
        video_pairs([], 1)
    with pytest.raises(ValueError, match="count must be"):
        video_pairs(find_videos(tmp_path), 0)
