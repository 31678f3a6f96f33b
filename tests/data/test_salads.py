"""50Salads files: odd text files, crops, raw annotations, and the real labels where they are at hand."""

from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thesis_lib.data import salads

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "50salads"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/50salads")
CLASSES = ["cut_tomato", "add_oil", "action_start", "action_end"]


@pytest.fixture
def root(tmp_path):
    """Two videos in the MS-TCN layout; features count up, 8 vectors more than labels."""
    for folder in ("features", "groundTruth", "splits"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mapping.txt").write_text("".join(f"{k} {name}\n" for k, name in enumerate(CLASSES)))
    for name, length in [("rgb-01-1", 30), ("rgb-14-2", 20)]:
        labels = ["action_start"] * 5 + ["add_oil"] * (length - 8) + ["action_end"] * 3
        (tmp_path / "groundTruth" / f"{name}.txt").write_text("\n".join(labels) + "\n")
        vectors = np.arange((length + 8) * 4, dtype=np.float32).reshape(length + 8, 4).T
        np.save(tmp_path / "features" / f"{name}.npy", vectors)
    (tmp_path / "splits" / "train.split1.bundle").write_text("rgb-01-1.txt\nrgb-14-2.txt\n")
    (tmp_path / "splits" / "test.split1.bundle").write_text("rgb-14-2.txt\n")
    return tmp_path


def test_load_split(root):
    first, second = salads.load_split(root, 1, "train")
    assert (first.name, second.name) == ("rgb-01-1", "rgb-14-2")
    assert first.features.shape == (4, 30) and first.labels.shape == (30,)
    assert first.labels.tolist() == [2] * 5 + [1] * 22 + [3] * 3 and first.labels.dtype == np.int64
    assert isinstance(first.features, np.memmap)
    np.testing.assert_array_equal(first.features[0], np.arange(30) * 4)
    assert [video.name for video in salads.load_split(root, 1, "test")] == ["rgb-14-2"]


def test_features_may_lie_elsewhere(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "mine"
    (root / "features").rename(other)
    assert salads.load_split(root, 1, "test", features=str(other))[0].features.shape == (4, 20)
    other.rename(root / "i3d")
    assert salads.load_split(root, 1, "test", features="i3d", cut="front")[0].features[0, 0] == 8 * 4


@pytest.mark.parametrize("bundle", ["rgb-01-1.txt\nrgb-14-2.txt", "#bundle.txt\nrgb-01-1.txt\r\n\r\nrgb-14-2.txt\r\n",
                                    "\ufeffrgb-01-1.txt\nrgb-14-2.txt\n\n", "rgb-01-1\n  rgb-14-2.txt  "])  # fmt: skip
def test_text_files_as_people_have_them(root, bundle):
    """The official readers split at the newline and drop the last piece: without a newline there, a video is lost."""
    (root / "splits" / "train.split1.bundle").write_bytes(bundle.encode())
    labels = (root / "groundTruth" / "rgb-01-1.txt").read_text()
    (root / "groundTruth" / "rgb-01-1.txt").write_bytes(labels.rstrip("\n").replace("\n", "\r\n").encode())
    mapping = "#id name\n" + (root / "mapping.txt").read_text().rstrip("\n")
    (root / "mapping.txt").write_bytes(mapping.replace("\n", "\r\n").encode())
    assert salads.class_names(root) == CLASSES
    assert [len(video.labels) for video in salads.load_split(root, 1, "train")] == [30, 20]


def change(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    "breakage, says",
    [
        (lambda r: (r / "features" / "rgb-14-2.npy").unlink(), r"rgb-14-2\.npy: features missing"),
        (lambda r: (r / "groundTruth" / "rgb-14-2.txt").unlink(), r"rgb-14-2\.txt: no such file"),
        (lambda r: (r / "splits" / "test.split1.bundle").unlink(), r"test\.split1\.bundle"),
        (lambda r: (r / "mapping.txt").write_text(""), r"mapping\.txt: empty"),
        (lambda r: change(r / "mapping.txt", "3 ", "7 "), "ids must be 0 to 3"),
        (lambda r: change(r / "mapping.txt", "add_oil", "cut_tomato"), "each class name once"),
        (lambda r: change(r / "mapping.txt", "0 cut", "cut"), "expected lines"),
        (lambda r: change(r / "groundTruth" / "rgb-14-2.txt", "add_oil", "add_oli"), "frame 5.*did you mean 'add_oil'"),
        (lambda r: np.save(r / "features" / "rgb-14-2.npy", np.ones((4, 19))), "19 feature vectors for 20 labels"),
        (lambda r: np.save(r / "features" / "rgb-14-2.npy", np.ones((28, 4))), "transpose"),
        (lambda r: np.save(r / "features" / "rgb-14-2.npy", np.ones((1, 4, 28))), r"shape \(1, 4, 28\)"),
        (lambda r: (r / "features" / "rgb-14-2.npy").write_bytes(b"\x93NUM"), r"not a \.npy array"),
        (lambda r: (r / "features" / "rgb-14-2.npy").write_bytes(b""), r"not a \.npy array"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(root, breakage, says):
    breakage(root)
    with pytest.raises(ValueError, match=says) as error:
        salads.load_split(root, 1, "test")
    assert "\n" not in str(error.value)


def test_part_is_train_or_test(root):
    with pytest.raises(ValueError, match="train"):
        salads.load_split(root, 1, "val")


def test_crops():
    features = np.arange(20).reshape(1, 20)
    assert salads.crop(features, 11, "back")[0].tolist() == list(range(11))
    assert salads.crop(features, 11, "front")[0].tolist() == list(range(9, 20))
    assert salads.crop(features, 11, "symmetric")[0].tolist() == list(range(4, 15))
    for how in ("back", "front", "symmetric"):
        assert salads.crop(features, 20, how).shape == (1, 20)
    with pytest.raises(ValueError, match="symmetric"):
        salads.crop(features, 11, "middle")


def test_actors():
    assert salads.actors(["rgb-01-1", "rgb-01-2", "rgb-14-1"]) == {1, 14}
    assert salads.actors(["holiday", "2024-05-12", "take-01-2"]) == {"holiday", "2024-05-12", "take-01-2"}


@given(st.lists(st.sampled_from("abc")))
def test_segments_partition_the_frames(labels):
    runs = salads.segments(labels)
    assert [name for name, start, end in runs for _ in range(end - start)] == labels
    assert all(a[2] == b[1] and a[0] != b[0] for a, b in pairwise(runs))


def write_raw(folder, annotation, ticks):
    (folder / "a.txt").write_text("\n".join(annotation))
    (folder / "t.txt").write_text("".join(f"{tick} rgb/{k}.png\n" for k, tick in enumerate(ticks)))
    return folder / "a.txt", folder / "t.txt"


def test_frame_labels_fill_gaps_and_ends(tmp_path):
    annotation = ["140 159 add_oil_core", "100 400 prepare_dressing", "120 139 add_oil_prep", "200 220 cut_tomato_post"]
    labels = salads.frame_labels(*write_raw(tmp_path, annotation, range(100, 240, 10)))
    expected = [("action_start", 2), ("add_oil", 8), ("cut_tomato", 3), ("action_end", 1)]
    assert [(name, len(list(run))) for name, run in groupby(labels)] == expected


def test_of_actions_at_once_the_later_counts_then_the_lower_in_the_file(tmp_path):
    annotation = ["0 99 place_z_prep", "0 99 place_b_prep", "30 49 place_c_core"]
    labels = salads.frame_labels(*write_raw(tmp_path, annotation, range(0, 100, 10)))
    assert labels == ["place_b"] * 3 + ["place_c"] * 7


@pytest.mark.parametrize("line", ["12 add_oil_core", "a 3 add_oil_core", "9 3 add_oil_core", "1 2 add oil core"])
def test_a_broken_annotation_line_is_quoted(tmp_path, line):
    with pytest.raises(ValueError, match=f"entry 2.*{line}"):
        salads.frame_labels(*write_raw(tmp_path, ["0 5 add_oil_core", line], range(5)))


def test_broken_timestamps(tmp_path):
    with pytest.raises(ValueError, match="backwards at frame 2"):
        salads.frame_labels(*write_raw(tmp_path, ["0 5 add_oil_core"], [0, 5, 3]))
    (tmp_path / "t.txt").write_text("one two\n")
    with pytest.raises(ValueError, match="integer tick"):
        salads.read_timestamps(tmp_path / "t.txt")


def test_statistics_of_a_known_set():
    tables = salads.statistics({"x": list("aabbbb"), "y": list("bba")}, fps=2)
    assert tables["videos"].to_dict("list") == {
        "video": ["x", "y"], "frames": [6, 3], "seconds": [3.0, 1.5], "segments": [2, 2], "classes": [2, 2]
    }  # fmt: skip
    durations = tables["durations"].set_index("class")
    assert durations.loc["b", ["segments", "mean_s", "min_s", "max_s"]].tolist() == [2, 1.5, 1.0, 2.0]
    assert tables["balance"].set_index("class")["share"].to_dict() == {"a": 3 / 9, "b": 6 / 9}
    assert tables["transitions"].to_numpy().tolist() == [[0, 1], [1, 0]]
    assert salads.statistics([list("aab")], fps=1)["videos"]["video"].tolist() == ["0"]
    assert salads.statistics([list("aa")], fps=1)["transitions"].to_numpy().tolist() == [[0]]


@real
def test_real_labels():
    sequences = {path.stem: salads.read_labels(path) for path in sorted((SHARED / "groundTruth").glob("*.txt"))}
    tables = salads.statistics(sequences, fps=30)
    assert tables["videos"]["frames"].sum() == 577_595 and tables["videos"]["segments"].sum() == 999
    assert tables["balance"].set_index("class")["frames"]["peel_cucumber"] == 61_567
    assert set(tables["balance"]["class"]) == set(salads.class_names(SHARED))
    assert tables["transitions"].to_numpy().sum() == 999 - 50


@real
def test_real_splits_are_disjoint_by_actor():
    tested = []
    for split in range(1, 6):
        train, test = (salads.read_bundle(SHARED / "splits" / f"{p}.split{split}.bundle") for p in ("train", "test"))
        assert (len(train), len(test)) == (40, 10)
        assert not salads.actors(train) & salads.actors(test)
        tested += test
    assert len(set(tested)) == 50 and salads.actors(tested) == set(range(1, 28)) - {8, 12}


@real
def test_phases_are_those_of_the_published_table():
    table = dict(line.split() for line in salads.read_lines(SHARED / "low_to_mid.txt"))
    assert {low: salads.PHASE.sub("", low) for low in table} == table
