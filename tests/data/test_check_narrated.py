"""The check of a HowTo100M folder: whole ones in every form, and ones broken in one way each."""

import csv
import json
import pickle
import re

import numpy as np
import pytest

from thesis_lib.data import caption_store
from thesis_lib.data.check import check, main
from thesis_lib.data.video import write_video

NAMES = [f"video{number:02d}" for number in range(8)]
SECONDS, DIM = 12, 512


@pytest.fixture
def root(tmp_path):
    """Eight narrated videos: metadata, captions, S3D features of unit length."""
    write_metadata(tmp_path, NAMES)
    write_captions(tmp_path, said(NAMES))
    (tmp_path / "s3d").mkdir()
    for number, name in enumerate(NAMES):
        save(tmp_path, name, unit(number))
    return tmp_path


def unit(seed, dim=DIM):
    vectors = np.random.default_rng(seed).standard_normal((SECONDS, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def save(root, name, vectors):
    np.save(root / "s3d" / f"{name}.npy", vectors)


def said(names):
    return {name: {"start": [1.0, 4.0], "end": [3.0, 6.0], "text": ["cut it", "mix"]} for name in names}


def write_captions(root, captions):
    (root / "raw_caption.json").write_text(json.dumps(captions))


def write_metadata(root, names, category="Food and Entertaining"):
    with open(root / "HowTo100M_v1.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video_id", "category_1", "category_2", "rank", "task_id"])
        rows.writerows([name, category, "Salads", 1, number] for number, name in enumerate(names))


def write_shards(folder, part, names):
    """As MMPT writes them: one shard of features, of word pieces and of times."""
    folder.mkdir(exist_ok=True)
    (folder / f"{part}_meta.pkl").write_bytes(pickle.dumps({0: list(names)}))
    rows = {
        f"{part}_0": [unit(number) for number in range(len(names))],
        f"caps.{part}_0.caps_ids": [np.full((2, 32), 7, np.int32)] * len(names),
        f"caps.{part}_0.startends": [np.array([[1, 3], [4, 6]], np.float32)] * len(names),
    }
    for name, arrays in rows.items():
        np.save(folder / f"{name}_data.npy", np.concatenate(arrays))
        np.save(folder / f"{name}_starts.npy", np.cumsum([0, *map(len, arrays)]))


def told(findings, *levels):
    return [str(finding) for level in levels for finding in findings.of(level)]


def test_a_whole_folder_is_usable_and_nothing_is_odd(root, capsys):
    assert told(check(root), "unusable", "odd", "missing") == []
    assert main(root) == 0
    printed = capsys.readouterr().out
    for text in (
        "HowTo100M, or narrated videos",
        "8 videos in 1 categories, 8 tasks",
        "8 videos, 16 captions",
        "s3d/ 8 usable videos, 0.0 h, D = 512, vectors of length one; numbers of 8 looked at",
        "Usable (0 odd, 0 missing, 0 unusable)",
    ):
        assert text in printed


def test_captions_on_disk_are_what_training_reads(root):
    caption_store.write_store(root / "raw_caption.json", root / "captions")
    assert told(check(root), "unusable", "odd", "missing") == []
    (root / "raw_caption.json").unlink()
    findings = check(root)
    assert told(findings, "unusable", "odd", "missing") == [] and "8 videos; training reads these" in str(findings)
    write_captions(root, said(NAMES[:5]))
    assert told(check(root), "odd") == ["odd      raw_caption.json has 5 videos: made of another file?"]
    (root / "captions/names.npy").unlink()
    assert any("no names.npy" in line for line in told(check(root), "unusable"))


def test_shards_bring_captions_and_held_out_videos_of_their_own(tmp_path):
    write_shards(tmp_path / "shards", "train", NAMES[:6])
    assert told(check(tmp_path), "unusable", "odd") == []
    assert any("no val_meta.pkl" in line for line in told(check(tmp_path), "missing"))
    write_shards(tmp_path / "shards", "val", NAMES[6:])
    findings = check(tmp_path)
    assert "shards/ (train) 6 usable videos" in str(findings) and "shards/ (val) 2 usable videos" in str(findings)
    (tmp_path / "shards/train_0_data.npy").unlink()
    findings = check(tmp_path)
    assert not findings.usable and any("train_0_data.npy" in line for line in told(findings, "unusable"))


def test_videos_alone_will_do(root):
    for path in (root / "s3d").iterdir():
        path.unlink()
    (root / "s3d").rmdir()
    assert told(check(root), "unusable") == ["unusable none, and no videos"]
    assert "willow" in str(check(root))
    (root / "videos").mkdir()
    for name in (NAMES[0], "stranger"):
        write_video(root / f"videos/{name}.avi", [np.zeros((16, 16, 3), np.uint8)] * 4, fps=4)
    findings = check(root)
    assert findings.usable and told(findings, "odd") == ["odd      1 videos without captions: stranger"]
    assert "2 files, not opened" in str(findings)


UNUSABLE = {
    "no metadata": (lambda r: (r / "HowTo100M_v1.csv").unlink(), "missing: by its categories"),
    "metadata of another kind": (lambda r: (r / "HowTo100M_v1.csv").write_text("a,b\n1,2\n"), "column 'video_id'"),
    "a video twice in the metadata": (lambda r: write_metadata(r, [*NAMES, NAMES[0]]), "video00' appears twice"),
    "no captions": (lambda r: (r / "raw_caption.json").unlink(), "nothing is said"),
    "captions cut off": (lambda r: (r / "raw_caption.json").write_text('{"video00": {"start": ['), "expected {video"),
    "captions without text": (lambda r: write_captions(r, {"video00": {"start": []}}), "expected {video"),
    "features of no video": (lambda r: write_captions(r, said(["other"])), "not one usable"),
    "two widths": (lambda r: save(r, NAMES[3], unit(0, 1024)), "mixed features.*video03"),
    "one of another length": (lambda r: save(r, NAMES[3], 5 * unit(0)), "mixed features.*length one.*video03"),
}
ODD = {
    "NaN": (
        lambda r: save(r, NAMES[3], np.full((SECONDS, DIM), np.nan)),
        "1 videos left out, broken features: video03",
    ),
    "no array": (lambda r: (r / "s3d/video03.npy").write_text("<html>"), "1 videos left out, broken features: video03"),
    "empty": (lambda r: save(r, NAMES[3], np.ones((0, DIM), np.float32)), "1 videos left out, short: video03"),
    "silence": (
        lambda r: write_captions(r, said(NAMES[:7]) | {NAMES[7]: {"start": [1], "end": [2], "text": [float("nan")]}}),
        "nothing is said: video07",
    ),
    "features without captions": (
        lambda r: write_captions(r, said(NAMES[:7])),
        "1 files of videos without captions: video07",
    ),
    "captions without metadata": (lambda r: write_metadata(r, NAMES[:6]), "no row for 2 videos.*: video06, video07"),
    "no category": (lambda r: write_metadata(r, NAMES, ""), "8 videos without a category: video00"),
    "features of the layer before": (
        lambda r: [save(r, name, unit(number, 1024)) for number, name in enumerate(NAMES)],
        "not what the public VideoCLIP was trained on",
    ),
    "features of any length": (
        lambda r: [save(r, name, 3 * unit(number)) for number, name in enumerate(NAMES)],
        "not what the public VideoCLIP was trained on",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable(root, case):
    breakage, says = UNUSABLE[case]
    breakage(root)
    findings = check(root)
    assert any(re.search(says, line) for line in told(findings, "unusable")), str(findings)
    assert main(root) == 1


@pytest.mark.parametrize("case", ODD)
def test_odd_but_usable(root, case):
    breakage, says = ODD[case]
    breakage(root)
    findings = check(root)
    assert findings.usable and any(re.search(says, line) for line in told(findings, "odd")), str(findings)


def test_a_video_whose_features_are_missing_is_missing(root):
    (root / "s3d/video03.npy").unlink()
    findings = check(root)
    assert findings.usable and told(findings, "missing") == ["missing  s3d/ 1 videos left out, no features: video03"]
