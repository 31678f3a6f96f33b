"""The data check on a whole folder, on folders broken in one way each, and on the real labels."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from thesis_lib import cli
from thesis_lib.data import raw_salads, salads
from thesis_lib.data.check import check, main
from thesis_lib.data.video import frame_count, write_video

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "50salads"
USERS = [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, *range(13, 28)]
SESSIONS = [f"{user:02d}-{salad}" for user in USERS for salad in (1, 2)]
NAMES = [f"rgb-{session}" for session in SESSIONS]
FRAMES, SURPLUS = 20, 3


def lines(items):
    return "".join(f"{item}\n" for item in items)


@pytest.fixture
def root(tmp_path):
    """50 tiny salads with features and labels, nothing odd; two with videos, annotations and timestamps."""
    for folder in ("features", "groundTruth", "splits", "videos", "annotations", "timestamps"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mapping.txt").write_text("0 cut_tomato\n1 action_start\n2 action_end\n")
    labels = ["action_start"] * 4 + ["cut_tomato"] * 10 + ["action_end"] * 6
    for name in NAMES:
        (tmp_path / "groundTruth" / f"{name}.txt").write_text(lines(labels))
        np.save(tmp_path / "features" / f"{name}.npy", np.ones((6, FRAMES + SURPLUS), np.float32))
    for split in range(1, 6):
        test = NAMES[10 * (split - 1) : 10 * split]
        write_bundle(tmp_path, "test", split, test)
        write_bundle(tmp_path, "train", split, [name for name in NAMES if name not in test])
    for name in NAMES[:2]:
        frames = np.random.default_rng(0).integers(0, 255, (FRAMES + SURPLUS, 32, 32, 3), dtype=np.uint8)
        write_video(tmp_path / "videos" / f"{name}.avi", frames, fps=8)
        (tmp_path / "annotations" / f"{name[4:]}-activityAnnotation.txt").write_text("104 113 cut_tomato_core\n")
        (tmp_path / "timestamps" / f"timestamps-{name[4:]}.txt").write_text(lines(range(100, 100 + FRAMES + SURPLUS)))
    return tmp_path


def write_bundle(root, part, split, names):
    (root / "splits" / f"{part}.split{split}.bundle").write_text(lines(f"{name}.txt" for name in names))


def said(findings, *levels):
    return [str(finding) for level in levels for finding in findings.of(level)]


def test_a_whole_folder_is_usable_and_nothing_is_odd(root, capsys):
    findings = check(root)
    assert said(findings, "unusable", "odd") == []
    assert said(findings, "missing") == ["missing  no video for: rgb-02-1, rgb-02-2, rgb-03-1 and 45 more"]
    assert main(root) == 0
    printed = capsys.readouterr().out
    for part in (
        "50 videos, 1,000 frames",
        "3 classes",
        "5 splits",
        "3 vectors more than labels in 50 of 50",
        "Usable",
    ):
        assert part in printed


def test_videos_alone_or_features_alone_will_do(root):
    for path in (root / "videos").iterdir():
        path.unlink()
    assert check(root).usable
    for path in (root / "features").iterdir():
        path.unlink()
    findings = check(root)
    assert not findings.usable and any("labels alone" in line for line in said(findings, "unusable"))
    assert "zenodo" in str(findings) and "dundee" in str(findings)


def save(root, name, array):
    np.save(root / "features" / f"{name}.npy", array)


def append(path, text):
    path.write_text(path.read_text() + text)


def exchange_splits(root, one, other):
    for part in ("train", "test"):
        first, second = (root / "splits" / f"{part}.split{number}.bundle" for number in (one, other))
        text = first.read_text()
        first.write_text(second.read_text())
        second.write_text(text)


NAME = "rgb-07-1"
UNUSABLE = {
    "no mapping": (lambda r: (r / "mapping.txt").unlink(), "missing"),
    "broken mapping": (lambda r: (r / "mapping.txt").write_text("cut\n"), "expected lines"),
    "unknown class": (
        lambda r: append(r / "groundTruth" / f"{NAME}.txt", "cut_tomatoe\n"),
        "did you mean 'cut_tomato'",
    ),
    "no labels": (
        lambda r: [p.unlink() for folder in ("groundTruth", "annotations") for p in (r / folder).iterdir()],
        "missing or empty",
    ),
    "empty labels": (lambda r: (r / "groundTruth" / f"{NAME}.txt").write_text(""), f"no labels: {NAME}"),
    "one without labels": (lambda r: (r / "groundTruth" / f"{NAME}.txt").unlink(), f"without groundTruth: {NAME}"),
    "no splits": (lambda r: [p.unlink() for p in (r / "splits").iterdir()], "missing or empty"),
    "half a split": (lambda r: (r / "splits" / "test.split3.bundle").unlink(), "test.split3.bundle is missing"),
    "a whole split": (
        lambda r: [p.unlink() for p in (r / "splits").glob("*3.bundle")],
        "train.split3.bundle is missing",
    ),
    "trained on test": (lambda r: append(r / "splits" / "train.split1.bundle", "rgb-01-1.txt\n"), "split 1.*rgb-01-1"),
    "short features": (lambda r: save(r, NAME, np.ones((6, 19))), f"19 feature vectors for 20 labels: {NAME}"),
    "turned features": (lambda r: save(r, NAME, np.ones((23, 6))), "transpose"),
    "NaN": (lambda r: save(r, NAME, np.full((6, 23), np.nan)), f"not finite: {NAME}"),
    "other width": (lambda r: save(r, NAME, np.ones((7, 23))), f"several widths: {NAME}"),
    "no array": (lambda r: (r / "features" / f"{NAME}.npy").write_text("<html>"), r"not a \.npy"),
    "no features, no video": (lambda r: (r / "features" / f"{NAME}.npy").unlink(), f"neither.*1 videos: {NAME}"),
    "a video shorter than its labels": (
        lambda r: (
            (r / "features" / "rgb-01-1.npy").unlink(),
            write_video(r / "videos" / "rgb-01-1.avi", [np.zeros((32, 32, 3), np.uint8)] * (FRAMES - 1), fps=8),
        ),
        "fewer frames than labels, and no features: rgb-01-1",
    ),
    "no video": (lambda r: (r / "videos" / "rgb-01-1.avi").write_text("<html>"), "not a readable video"),
}
ODD = {
    "no newline": (
        lambda r: (r / "splits" / "test.split1.bundle").write_text(lines(NAMES[:10]).rstrip()),
        "no newline at the end.*test.split1",
    ),
    "CRLF": (
        lambda r: (r / "mapping.txt").write_bytes((r / "mapping.txt").read_bytes().replace(b"\n", b"\r\n")),
        "CRLF line ends: mapping.txt",
    ),
    "header": (
        lambda r: (r / "splits" / "test.split1.bundle").write_text("#bundle\n" + lines(NAMES[:10])),
        "'#' lines: test.split1",
    ),
    "unused class": (lambda r: append(r / "mapping.txt", "3 add_oil\n"), "no frame has: add_oil"),
    "negative": (lambda r: save(r, NAME, -np.ones((6, 23))), f"negative.*{NAME}"),
    "other surplus": (lambda r: save(r, NAME, np.ones((6, 27))), f"7 vectors more than labels: {NAME}"),
    "twice": (lambda r: append(r / "splits" / "test.split1.bundle", "rgb-01-1.txt\n"), "names a video twice: rgb-01-1"),
    "39 videos": (lambda r: write_bundle(r, "train", 1, NAMES[10:49]), "39 / 10 videos.*split 1"),
    "user on both sides": (
        lambda r: (write_bundle(r, "train", 1, NAMES[9:49]), write_bundle(r, "test", 1, NAMES[:9])),
        "users in train and test: 05",
    ),
    "tested twice": (
        lambda r: (write_bundle(r, "test", 1, NAMES[1:11]), write_bundle(r, "train", 1, NAMES[:1] + NAMES[11:])),
        "more than one split: rgb-06-1",
    ),
    "annotation": (
        lambda r: (r / "annotations" / "01-1-activityAnnotation.txt").write_text("110 113 cut_tomato_core\n"),
        "agrees with 70%.*rgb-01-1",
    ),
    "double precision": (lambda r: save(r, NAME, np.ones((6, 23))), f"float64, the public.*{NAME}"),
    "another split": (lambda r: exchange_splits(r, 1, 2), "split 1: not the public one, which .* not test: rgb-06-1"),
    "public classes in another order": (
        lambda r: (r / "mapping.txt").write_text(
            lines(f"{k} {name}" for k, name in enumerate(reversed(raw_salads.CLASSES)))
        ),
        "not in the public order",
    ),
    "time stamps of another video": (
        lambda r: append(r / "timestamps" / "timestamps-01-1.txt", "200\n"),
        "24 time stamps, 23 frames in the video: 01-1",
    ),
    "two files of a video": (
        lambda r: (r / "videos" / "rgb-01-1.mkv").write_bytes((r / "videos" / "rgb-01-1.avi").read_bytes()),
        "more than one file; .*: rgb-01-1",
    ),
    "broken annotation": (
        lambda r: (r / "annotations" / "01-1-activityAnnotation.txt").write_text("no\n"),
        "expected.*got 'no': 01-1",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable(root, case, capsys):
    breakage, says = UNUSABLE[case]
    breakage(root)
    findings = check(root)
    assert any(re.search(says, line) for line in said(findings, "unusable")), str(findings)
    assert main(root) == 1 and "NOT USABLE" in capsys.readouterr().out


@pytest.mark.parametrize("case", ODD)
def test_odd_but_usable(root, case):
    breakage, says = ODD[case]
    breakage(root)
    findings = check(root)
    assert any(re.search(says, line) for line in said(findings, "odd")), str(findings)
    assert findings.usable


def test_users_that_do_not_exist(root):
    (root / "groundTruth" / "rgb-08-1.txt").write_text("cut_tomato\n")
    odd = said(check(root, decode=False), "odd")
    assert any("08 and 12 do not exist" in line and "rgb-08-1" in line for line in odd)
    assert any("51 videos" in line for line in odd) and any("in no split: rgb-08-1" in line for line in odd)


def test_damaged_frames_are_counted_only_when_decoded(root):
    path = root / "videos" / "rgb-01-1.avi"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = b"\xaa" * 4000
    path.write_bytes(bytes(data))
    assert any("frames damaged" in line and "rgb-01-1" in line for line in said(check(root), "odd"))
    assert not any("damaged" in line for line in said(check(root, decode=False), "odd"))


def test_files_may_lie_anywhere_but_the_report_looks_for_videos_in_one_place(root):
    for folder in ("videos", "annotations", "timestamps"):
        for path in (root / folder).iterdir():
            path.rename(root / path.name)
    findings = check(root)
    assert said(findings, "odd", "unusable") == [
        "odd      not in videos/, where the report looks: link them: rgb-01-1, rgb-01-2"
    ]
    assert "2 videos in ./, 46 frames" in str(findings)


def test_linked_folders_are_looked_into(root, tmp_path_factory):
    """Data lie on other disks."""
    elsewhere = tmp_path_factory.mktemp("disk")
    for folder in ("videos", "annotations"):
        (root / folder).rename(elsewhere / folder)
        (root / folder).symlink_to(elsewhere / folder)
    findings = check(root)
    assert said(findings, "odd", "unusable") == []
    assert "2 videos, 46 frames" in str(findings) and "agree with 100.00 %" in str(findings)


def test_ones_own_videos_need_no_users(root):
    for folder in ("features", "groundTruth"):
        for path in (root / folder).iterdir():
            if path.stem not in NAMES[:4]:
                path.unlink()
            else:
                path.rename(path.with_stem(f"kitchen{NAMES.index(path.stem)}"))
    for path in (root / "splits").iterdir():
        path.unlink()
    write_bundle(root, "train", 1, ["kitchen0", "kitchen1", "kitchen2"])
    write_bundle(root, "test", 1, ["kitchen3"])
    assert said(check(root), "odd", "unusable") == []


def test_no_folder(tmp_path, capsys):
    assert main(tmp_path / "nowhere") == 1 and "no such folder" in capsys.readouterr().out


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/50salads")
def test_real_labels_are_in_order_but_not_enough(capsys):
    findings = check(SHARED)
    assert [finding.part for finding in findings.of("unusable")] == ["features/"]
    odd = said(findings, "odd")
    assert len(odd) == 3 and "CRLF" in odd[0] and odd[1].endswith("left out: 08-1, 08-2, 12-1 and 1 more")
    assert odd[2].endswith("lost in recording: rgb-02-2 (87), rgb-09-1 (57), rgb-22-1 (50) and 19 more")
    assert "577,595 frames" in str(findings) and "in their order, in 50 of 50 videos" in str(findings)


# -- raw files alone -------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(root):
    """Two salads of each split as Dundee publishes them."""
    for folder in ("features", "groundTruth", "splits", "videos", "annotations", "timestamps"):
        for path in (root / folder).iterdir():
            path.unlink()
    (root / "mapping.txt").unlink()
    for name in (f"{user:02d}-{take}" for user in (1, 6, 13, 18, 23) for take in (1, 2)):
        frames = np.random.default_rng(0).integers(0, 255, (FRAMES, 32, 32, 3), dtype=np.uint8)
        write_video(root / f"rgb-{name}.avi", frames, fps=8)
        (root / "annotations" / f"{name}-activityAnnotation.txt").write_text("104 113 cut_tomato_core\n")
        (root / "timestamps" / f"timestamps-{name}.txt").write_text(lines(range(100, 100 + FRAMES)))
    return root


def test_raw_files_alone_are_usable(raw, capsys):
    assert main(raw) == 0
    printed = capsys.readouterr().out
    for text in (
        "labels, splits and mapping are made when the report runs",
        "none, made from annotations and timestamps",
        "10 videos, 200 frames to be",
        "5 splits of 10 videos",
        "10 videos in ./, 200 frames by their index",
        "0 frames more than labels in 10 of 10 videos",
        "Usable",
    ):
        assert text in printed


RAW = {
    "no time stamps": (lambda r: (r / "timestamps/timestamps-06-1.txt").unlink(), "unusable", "no timestamps.*06-1"),
    "no video": (lambda r: (r / "rgb-06-1.avi").unlink(), "unusable", "neither features nor video.*rgb-06-1"),
    "broken annotation": (
        lambda r: (r / "annotations/06-1-activityAnnotation.txt").write_text("no\n"),
        "unusable",
        "expected.*got 'no': 06-1",
    ),
    "a split without test videos": (
        lambda r: [path.unlink() for path in (r / "annotations").glob("06*")],
        "unusable",
        "test.split2.bundle is empty",
    ),
    "no annotation": (
        lambda r: (r / "annotations/06-1-activityAnnotation.txt").unlink(),
        "odd",
        "no annotation, left out: 06-1",
    ),
    "longer than the video": (
        lambda r: append(r / "timestamps/timestamps-06-1.txt", "200\n201\n"),
        "odd",
        "2 frames fewer than labels: rgb-06-1",
    ),
    "user 08": (
        lambda r: (r / "annotations/08-1-activityAnnotation.txt").write_text("104 113 cut_tomato_core\n"),
        "odd",
        "left out: 08-1",
    ),
}


@pytest.mark.parametrize("case", RAW)
def test_raw_files_with_a_flaw(raw, case):
    breakage, level, says = RAW[case]
    breakage(raw)
    findings = check(raw)
    assert any(re.search(says, line) for line in said(findings, level)), str(findings)
    assert findings.usable == (level == "odd")
    if level == "unusable":
        with pytest.raises(ValueError):
            convert_and_load(raw)
    else:
        convert_and_load(raw)


def convert_and_load(raw):
    """What the report does with a raw folder: what is called usable must work, and the other not."""
    made = raw / "made"
    raw_salads.convert(made, root=raw)
    for split in range(1, 6):
        for part in ("train", "test"):
            names = salads.read_bundle(made / "splits" / f"{part}.split{split}.bundle")
            if not names:
                raise ValueError("nothing in it")
            for name in names:
                labels = salads.read_labels(made / "groundTruth" / f"{name}.txt")
                assert frame_count(made / "videos" / f"{name}.avi") >= len(labels) > 0


# -- counts and memory -----------------------------------------------------------------------------------------------


def lie(path, count):
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, count)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, count)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("decode", [True, False])
def test_a_header_that_lies_is_odd(root, decode):
    lie(root / "videos/rgb-01-1.avi", 99)
    assert said(check(root, decode), "odd") == ["odd      header says 99 frames, the index 23: rgb-01-1"]


def test_a_video_without_a_frame_is_unusable(root):
    with av.open(str(root / "videos/rgb-01-1.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    for decode in (True, False):
        assert any("not one frame" in line for line in said(check(root, decode), "unusable"))


def test_no_decode_opens_no_decoder(root, monkeypatch):
    monkeypatch.setattr("thesis_lib.data.video._decode", lambda path: pytest.fail("decoded"))
    findings = check(root, decode=False)
    assert "46 frames by their index" in str(findings) and "decoded" not in str(findings)
    assert cli.main(["check-data", "--root", str(root), "--no-decode"]) == 0


@pytest.mark.parametrize(
    "bad, says", [(np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not finite"), (-1e-3, "negative")]
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("place", [0, 77, -1])
def test_a_single_bad_number_is_found_in_whatever_block(root, monkeypatch, bad, says, order, place):
    monkeypatch.setattr("thesis_lib.data.check.BLOCK", 50)
    vectors = np.ones(6 * 23, np.float32)
    vectors[place] = bad
    save(root, NAME, vectors.reshape((6, 23), order=order))
    assert any(says in line and NAME in line for line in said(check(root, decode=False), "odd", "unusable"))


MEASURE = """
import re, sys
from pathlib import Path
from thesis_lib.data import check

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
found = check._check_features(check.Findings(Path(sys.argv[1])), {}, set())
print(len(found), peak() - before)
"""


def test_memory_does_not_grow_with_features_of_real_size(tmp_path):
    """Ten files as in the public data, 96 MB each; sparse, so that they take no place on the disk."""
    (tmp_path / "features").mkdir()
    for number in range(10):
        path = tmp_path / f"features/rgb-{number:02d}-1.npy"
        np.lib.format.open_memmap(path, "w+", np.float32, (2048, 11_700)).flush()
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
    count, grown = map(int, done.stdout.split())
    assert count == 10 and grown < 40 * 1024, f"{grown / 1024:.0f} MiB more"
