"""Videos and labels of one's own: what the tables say becomes frames, and every mistake is one line with its place."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thesis_lib import paths, stages
from thesis_lib.data import own_videos, salads, video
from thesis_lib.data.check import check

FPS, COUNTS = 12.5, {"a": 50, "b c": 40, "d": 30}
ROWS = [
    "a,0,2,fold",
    "a,2,4,wind up",
    "b c.mp4,0,1.28,wind up",
    "b c.mp4,1.28,3.2,fold",
    "d,0,1,fold",
    "d,1,2.4,wind up",
]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three videos of 96 x 64 pixels in two containers, 12.5 frames a second."""
    folder = tmp_path_factory.mktemp("films")
    kinds = [(".avi", "MJPG"), (".mp4", "mp4v"), (".AVI", "MJPG")]
    for (name, count), (suffix, codec) in zip(COUNTS.items(), kinds, strict=True):
        frames = (np.full((64, 96, 3), 5 * number, np.uint8) for number in range(count))
        video.write_video(folder / f"{name}{suffix.lower()}", frames, FPS, codec)
        (folder / f"{name}{suffix.lower()}").rename(folder / f"{name}{suffix}")
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture
def table(tmp_path):
    def write(lines, head="video,start,end,label", name="labels.csv"):
        (tmp_path / name).write_text("\n".join([head, *lines]))
        return tmp_path / name

    return write


def labels_of(root, name):
    return salads.read_labels(root / f"groundTruth/{name}.txt")


def test_segments_become_frames_of_a_data_set_that_check_data_accepts(films, table, tmp_path):
    root = tmp_path / "own"
    told = own_videos.import_videos(films, table(ROWS), root)
    assert told == f"{root}: 3 videos, 120 frames at 12.5 a second, 2 classes, 3 splits"
    assert labels_of(root, "a") == ["fold"] * 25 + ["wind up"] * 25
    assert labels_of(root, "b c") == ["wind up"] * 16 + ["fold"] * 24
    assert labels_of(root, "d") == ["fold"] * 13 + ["wind up"] * 17, "1 s lies between frames 12 and 13"
    assert salads.class_names(root) == ["fold", "wind up"]
    assert video.probe(root / "videos/b c.mp4").decoded_count == 40
    assert salads.splits(root) == [1, 2, 3]
    parts = [[salads.read_bundle(root / f"splits/{part}.split{n}.bundle") for part in salads.PARTS] for n in (1, 2, 3)]
    assert sorted(name for _, test in parts for name in test) == sorted(COUNTS)
    assert all(sorted(train + test) == sorted(COUNTS) for train, test in parts)
    assert stages.fps(type("P", (), {"data_root": str(root)})) == FPS
    found = check(root)
    assert found.usable and not found.of("odd"), str(found)


def test_frames_a_folder_of_tables_classes_splits_and_a_background(films, table, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    for name, count in COUNTS.items():
        rows = [f"{'fold' if frame < 10 else 'wind up'},{frame}" for frame in range(5, count)]
        (folder / f"{name}.csv").write_text("\ufefflabel,frame\r\n" + "\r\n".join(reversed(rows)))
    classes = tmp_path / "classes.txt"
    classes.write_text("wind up\npack\nfold\n")
    splits = table(["d,2", "a.avi,1", "b c,2"], "video,split", "splits.csv")
    own_videos.import_videos(films, folder, tmp_path / "own", classes, splits, background="idle")
    assert salads.class_names(tmp_path / "own") == ["idle", "wind up", "pack", "fold"]
    assert labels_of(tmp_path / "own", "d") == ["idle"] * 5 + ["fold"] * 5 + ["wind up"] * 20
    assert salads.splits(tmp_path / "own") == [1, 2]
    assert salads.read_bundle(tmp_path / "own/splits/train.split1.bundle") == ["b c", "d"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 49), unique=True, max_size=6), st.sampled_from([2, 3, 6]))
def test_any_segments_without_gaps_give_back_the_frames_they_were_cut_at(films, table, tmp_path, cuts, digits):
    """Whatever the rounding of the seconds."""
    borders = [0, *sorted(cuts), 50]
    times = [round(border / 29.97, digits) for border in borders]
    rows = [f"a,{a},{b},{'xy'[n % 2]}" for n, (a, b) in enumerate(pairwise(times))]
    spans = own_videos._spans(table(rows + ["b c,0,1,x", "d,0,1,x"]), COUNTS, 29.97)["a"]
    assert [(span.first, span.last) for span in spans] == list(pairwise(borders))


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({1: "a,1.9,4,wind up"}, "labels.csv, row 3: 'wind up' begins before 'fold' of {0}labels.csv, row 2 ends"),
        ({1: "a,2.4,4,wind up"}, "a: no label from 2.00 to 2.40 s: label them, or name a class for all gaps"),
        ({1: "a,2,3,wind up"}, "a: no label from 3.04 to 4.00 s"),
        ({1: "a,2,4.3,wind up"}, "row 3: goes on beyond the end of a, which has 50 frames, 4.00 s"),
        ({4: "e,0,1,fold"}, "labels.csv, row 6: no video 'e'"),
        ({2: "b_c.mp4,0,1.28,fold"}, "row 4: no video 'b_c.mp4', did you mean 'b c'?"),
        ({4: None, 5: None}, "labels.csv: no label for d: add some, or take the video away"),
        ({0: "a,0,two,fold"}, "row 2: '0,two': expected seconds, such as 12.5"),
        ({0: "a,0,nan,fold"}, "row 2: '0,nan': expected seconds"),
        ({0: "a,2,1,fold"}, "row 2: from 2 to 1 s holds no frame at 12.5 a second"),
        ({0: "a,-1,2,fold"}, "row 2: from -1 to 2 s holds no frame"),
        ({0: "a,0,2"}, "labels.csv, row 2: 3 values for 4 columns"),
        ({0: "a,0,2,"}, "row 2: label '': expected a name"),
        ({0: "a,0,2,fald"}, "row 2: class 'fald' is not in {0}classes.txt, did you mean 'fold'?"),
    ],
)
def test_a_mistake_names_file_and_row_and_nothing_is_written(films, table, tmp_path, changed, expected):
    classes = tmp_path / "classes.txt"
    classes.write_text("fold\nwind up\n")
    rows = [changed.get(number, row) for number, row in enumerate(ROWS)]
    with pytest.raises(ValueError) as error:
        own_videos.import_videos(films, table([row for row in rows if row]), tmp_path / "own", classes)
    assert expected.format(f"{tmp_path}/") in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("own*"))


def test_mistakes_about_columns_splits_and_videos(films, table, tmp_path):
    def refused(message, **changed):
        arguments = {"videos": films, "labels": table(ROWS), "out": tmp_path / "own"} | changed
        with pytest.raises(ValueError, match=message):
            own_videos.import_videos(**arguments)

    refused("first row is 'name,from,to': expected the columns video,start,end,label or video,frame,label",
            labels=table([], "name,from,to", "other.csv"))  # fmt: skip
    refused("no such file", labels=tmp_path / "nowhere.csv")
    refused("no .csv file there", labels=films)
    refused("no split for b c", splits=table(["a,1", "d,2"], "video,split", "s.csv"))
    refused("row 3: a stands there twice", splits=table(["a,1", "a,2"], "video,split", "s.csv"))
    refused("row 2: split 'x': expected a number", splits=table(["a,x"], "video,split", "s.csv"))
    refused("splits 1: expected 1, 2", splits=table(["a,1", "b c,1", "d,1"], "video,split", "s.csv"))
    refused("splits 1, 3: expected", splits=table(["a,1", "b c,1", "d,3"], "video,split", "s.csv"))
    refused("at least two are needed", videos=tmp_path)
    refused("exists already", out=tmp_path)
    (tmp_path / "twice").mkdir()
    for name in ("a.avi", "a.mp4"):
        (tmp_path / "twice" / name).touch()
    refused("a.mp4 and a.avi differ in their suffix alone|a.avi and a.mp4", videos=tmp_path / "twice")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name in COUNTS:
        video.write_video(mixed / f"{name}.avi", [np.zeros((8, 8, 3), np.uint8)] * 50, 25 if name == "d" else FPS)
    refused("d.avi: 25 frames a second, most others have 12.5: convert it", videos=mixed)


def test_a_profile_for_the_data_set(films, table, tmp_path, monkeypatch):
    params = tmp_path / "params" / "old"
    params.mkdir(parents=True)
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    own_videos.import_videos(films, table(ROWS), tmp_path / "own")
    (params / "common.yaml").write_text("# words\nprofile: old\nseed: 0\n")
    (params / "04_baseline.yaml").write_text("splits: [1, 2, 3, 4, 5]\nlr: 0.1  # rate\nfew_videos: [1, 2, 4, 0]\n")
    folder = own_videos.make_profile(tmp_path / "own", "old")
    assert folder == tmp_path / "params" / "own"
    common = f'# words\nprofile: own\nseed: 0\ndata_root: "{tmp_path}/own"\n'
    assert (folder / "common.yaml").read_text() == common
    assert (folder / "04_baseline.yaml").read_text() == "splits: [1, 2, 3]\nlr: 0.1  # rate\nfew_videos: [1, 0]\n"
    with pytest.raises(ValueError, match="exists already"):
        own_videos.make_profile(tmp_path / "own", "old")
    with pytest.raises(ValueError, match="--profile-from new: no such profile"):
        own_videos.make_profile((tmp_path / "own").rename(tmp_path / "renamed"), "new")
