"""What the audit and the cropping experiment measure, on data whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from thesis_lib import inspection
from thesis_lib.data import howto100m
from thesis_lib.data.video import write_video

CLASSES = ["cut_tomato", "peel_cucumber", "add_salt"]
SURPLUS = 6


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def root(tmp_path):
    """Six videos of three actors; vectors show the class of their frame, labels miss the last SURPLUS frames."""
    rng = np.random.default_rng(0)
    names = [f"rgb-{user:02d}-{take}" for user in (1, 2, 3) for take in (1, 2)]
    write(tmp_path / "mapping.txt", (f"{i} {name}" for i, name in enumerate(CLASSES)))
    (tmp_path / "features").mkdir()
    for name in names:
        runs = [(rng.integers(3), rng.integers(15, 30)) for _ in range(12)]
        frames = np.repeat([label for label, _ in runs], [length for _, length in runs])
        vectors = np.eye(3, 5)[frames].T + rng.normal(0, 0.3, (5, len(frames)))
        np.save(tmp_path / f"features/{name}.npy", vectors.astype(np.float32))
        write(tmp_path / f"groundTruth/{name}.txt", [CLASSES[label] for label in frames[:-SURPLUS]])
    for split in (1, 2, 3):
        test = [name for name in names if name.startswith(f"rgb-{split:02d}")]
        write(tmp_path / f"splits/test.split{split}.bundle", (f"{name}.txt" for name in test))
        write(tmp_path / f"splits/train.split{split}.bundle", (f"{n}.txt" for n in names if n not in test))
    return tmp_path


def names_of(root):
    return list(inspection.sequences(root))


def test_labels_fit_where_the_surplus_stands_at_the_back(root):
    offsets = range(-5, SURPLUS + 6)
    aligned = inspection.alignment(root, root / "features", names_of(root), offsets, reach=5)
    assert len(aligned) == 6 * len(offsets)
    for column in ("accuracy", "change"):
        best, low, high = inspection.best_offset(aligned, column)
        assert best == 0 and low <= 0 <= high and high - low <= 2
    few = inspection.alignment(root, root / "features", names_of(root), offsets, reach=5, limit=40)
    assert inspection.best_offset(few, "accuracy")[0] in (-1, 0, 1)


def test_labels_fit_where_the_surplus_stands_at_the_front(root):
    for path in (root / "groundTruth").glob("*.txt"):  # the labels of what now are the last frames
        vectors = np.load(root / f"features/{path.stem}.npy")
        shift = np.concatenate([vectors[:, -SURPLUS:], vectors[:, :-SURPLUS]], axis=1)
        np.save(root / f"features/{path.stem}.npy", shift)
    aligned = inspection.alignment(root, root / "features", names_of(root), range(-5, SURPLUS + 6), reach=5)
    assert inspection.best_offset(aligned, "accuracy")[0] == SURPLUS
    assert inspection.best_offset(aligned, "change")[0] == SURPLUS


def test_accuracy_is_that_of_the_nearest_mean_of_the_other_videos(root):
    aligned = inspection.alignment(root, root / "features", names_of(root), [2], reach=2)
    vectors = {name: np.load(root / f"features/{name}.npy").astype(float) for name in names_of(root)}
    labels = {n: np.array([CLASSES.index(c) for c in run]) for n, run in inspection.sequences(root).items()}
    squares, means = (np.mean([f(x).mean(1) for x in vectors.values()], 0) for f in (np.square, np.asarray))
    deviation = np.sqrt(squares - means**2)[:, None]
    for name in vectors:
        others = [(vectors[n][:, 2 : len(labels[n]) + 2], labels[n]) for n in vectors if n != name]
        x, y = (np.concatenate(part, axis=-1) for part in zip(*others, strict=True))
        center = np.stack([(x[:, y == c] / deviation).mean(1) for c in range(3)])
        own = (vectors[name] / deviation)[:, 2 : len(labels[name]) + 2]
        guess = np.square(own.T[:, None] - center).sum(-1).argmin(1)
        expected = (guess == labels[name]).mean()
        assert aligned.set_index("video")["accuracy"][name] == pytest.approx(expected, abs=0.01)


def test_a_video_without_borders_says_nothing_about_them():
    assert np.isnan(inspection._changes(np.ones((2, 40), np.float32), np.zeros(30, int), [0, 1], 3)).all()


def test_starts_of_the_cuts():
    starts = {cut: inspection.start_of(cut, 8) for cut in ("front", "symmetric", "back")}
    assert starts == {"front": 8, "symmetric": 4, "back": 0}
    assert [inspection.nearest_cut(offset, starts) for offset in (-3, 3, 9)] == ["back", "symmetric", "front"]


def test_surplus_vectors_are_counted(root):
    counts = inspection.surplus_vectors(root, root / "features", names_of(root))
    assert (counts["surplus"] == SURPLUS).all() and (counts["vectors"] > counts["labels"]).all()


def test_stretches_and_what_is_around_them():
    assert inspection.stretches((3, 4, 5, 9)) == [(3, 5), (9, 9)] and inspection.stretches(()) == []
    assert inspection.around((10, 30), 100) == [8, 9, 10, 11, 29, 30, 31, 32]
    assert inspection.around((0, 2), 4) == [0, 1, 2, 3]


def test_frames_are_counted_and_pictures_found(root):
    name = names_of(root)[0]
    labels = inspection.sequences(root)[name]
    frames = (np.full((16, 16, 3), 10 * (i % 20), np.uint8) for i in range(len(labels) + SURPLUS))
    (root / "videos").mkdir()
    write_video(root / f"videos/{name}.avi", frames, 8)
    (row,) = inspection.lengths(root).itertuples()
    assert (row.video, row.header, row.decoded, row.missing, row.surplus) == (name, row.frames, row.frames, (), SURPLUS)
    pictures = inspection.pictures(root / f"videos/{name}.avi", [5, 3, 10_000])
    assert [None if picture is None else round(picture.mean(), -1) for picture in pictures] == [50, 30, None]
    gallery = inspection.gallery(root)
    assert set(gallery) == set(labels) and all(video == name for video, _ in gallery.values())
    assert inspection.gallery(root, skip=[name]) == {}


def test_without_videos_tables_are_empty(root):
    assert inspection.lengths(root).empty and not inspection.gallery(root)
    assert inspection.sequences(root / "nowhere") == {} and inspection.shown_actions(root) == {}


def test_splits(root):
    found = inspection.splits(root)
    assert found["test actors"].tolist() == ["1", "2", "3"] and found["actors in both"].sum() == 0
    bundle = root / "splits/train.split2.bundle"
    bundle.write_text(bundle.read_text() + "rgb-02-1.txt\n")
    assert inspection.splits(root)["actors in both"].tolist() == [0, 1, 0]


def test_labels_in_numbers(root):
    labels = {"a": ["x"] * 6 + ["y"] * 2, "b": ["y"] * 2 + ["x"] * 2}
    statistics = inspection.salads.statistics(labels, 2)
    row = inspection.overview({"toy": statistics}).loc["toy"]
    assert row["videos"] == 2 and row["frames"] == 12 and row["s a video"] == 3
    assert row["largest over smallest class"] == 2 and row["segments a video"] == 2
    frames, transitions = inspection.by_class(statistics, ["z", "y", "x"])
    assert frames.tolist() == [0, 4, 8] and transitions.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert inspection.seconds_of_segments(labels, 2).tolist() == [3, 1, 1, 1]


def test_captions_take_the_object_of_the_action_that_they_name():
    said = howto100m.Captions(np.array([0.0, 2.0]), np.array([1.0, 3.0]), ["hello", "cut the tomato"])
    actions = [(0.0, 1.0, "wait"), (1.5, 4.0, "cut tomato")]
    lags = howto100m.audit({"v": said}, {"v": actions})["lags"]
    shown, spoken = inspection.narration(said, actions, lags)
    assert [thing for *_, thing in shown] == ["", "tomato"] and [thing for *_, thing in spoken] == ["", "tomato"]


def test_bootstrap_of_the_best_offset():
    rng = np.random.default_rng(0)
    rows = [(v, o, -abs(o - 2) + rng.normal(0, 0.1)) for v in range(8) for o in range(6)]
    frame = pd.DataFrame(rows, columns=["video", "offset", "accuracy"])
    assert inspection.best_offset(frame, "accuracy") == (2, 2, 2)
