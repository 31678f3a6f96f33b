"""What a look at the data shows before anything is trained: lengths, damage, labels, splits, and where surplus vectors
stand.

Data come in the layout of `data.salads`; of videos and raw annotations as much is used as is there.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from thesis_lib.data import howto100m, salads, video

FPS = 30  # of 50Salads


# -- lengths and damage ----------------------------------------------------------------------------------------------


def sequences(root: Path) -> dict[str, list[str]]:
    """Class names a frame of every labelled video below root; nothing where there are no labels."""
    return {path.stem: salads.read_labels(path) for path in sorted((Path(root) / "groundTruth").glob("*.txt"))}


def video_files(root: Path) -> dict[str, Path]:
    """The video files of root/videos by name; nothing where there are none."""
    return video.files(Path(root) / "videos")


def lengths(root: Path) -> pd.DataFrame:
    """Frames of every video that has labels: a row a video, every video read to its end.

    header: what the file's header claims · frames: what its index lists · decoded: what can be read · missing: the
    others, a tuple · labels · surplus: frames without a label. Empty where there are no videos.
    """
    labels, files = sequences(root), video_files(root)
    both = [name for name in labels if name in files]
    with ThreadPoolExecutor() as pool:
        probed = list(pool.map(video.probe, (files[name] for name in both)))
    rows = [
        (name, one.header_count, one.count, one.decoded_count, one.missing, len(labels[name]))
        for name, one in zip(both, probed, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["video", "header", "frames", "decoded", "missing", "labels"])
    return frame.assign(surplus=frame["frames"] - frame["labels"])


def stretches(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers as (first, last)."""
    indices = np.asarray(indices, dtype=int)
    borders = np.flatnonzero(np.diff(indices) > 1)
    firsts, lasts = np.r_[0, borders + 1], np.r_[borders, len(indices) - 1]
    return [(int(indices[a]), int(indices[b])) for a, b in zip(firsts, lasts, strict=True)] if len(indices) else []


def around(stretch: tuple[int, int], length: int, margin: int = 2) -> list[int]:
    """Frames to look at: `margin` before a stretch, as many at its start and at its end, as many after it."""
    first, last = stretch
    inside = [i for i in range(first, last + 1) if i < first + margin or i > last - margin]
    outside = [*range(first - margin, first), *range(last + 1, last + 1 + margin)]
    return sorted(inside + [i for i in outside if 0 <= i < length])


def pictures(path: Path, indices: Sequence[int]) -> list[np.ndarray | None]:
    """Frames [H, W, 3] of a video at some places; None where there is none to decode."""
    wanted = set(indices)
    found = {i: frame for i, frame in islice(video.read_frames(path), max(wanted) + 1) if i in wanted}
    return [found.get(i) for i in indices]


def gallery(root: Path, skip: Sequence[str] = ()) -> dict[str, tuple[str, np.ndarray]]:
    """For each class the middle frame of its first segment in the first video that has it: class -> (video, frame)."""
    labels, found = sequences(root), {}
    for name, path in video_files(root).items():
        middles = {c: (a + b) // 2 for c, a, b in reversed(salads.segments(labels.get(name, []))) if c not in found}
        if name in skip or not middles:
            continue
        frames = zip(middles, pictures(path, list(middles.values())), strict=True)
        found |= {c: (name, frame) for c, frame in frames if frame is not None}
    return {name: found[name] for name in salads.class_names(root) if name in found}


# -- labels and splits -----------------------------------------------------------------------------------------------


def seconds_of_segments(labels: Mapping[str, Sequence], fps: float) -> np.ndarray:
    """Lengths of all segments of some videos, in seconds."""
    return np.array([(end - start) / fps for run in labels.values() for _, start, end in salads.segments(run)])


def overview(statistics: Mapping[str, Mapping[str, pd.DataFrame]]) -> pd.DataFrame:
    """One row a data set: numbers to compare its labels by. statistics: title -> `salads.statistics`."""
    rows = {}
    for title, one in statistics.items():
        videos, balance = one["videos"], one["balance"]["share"]
        rows[title] = {
            "videos": len(videos),
            "frames": int(videos["frames"].sum()),
            "s a video": videos["seconds"].mean(),
            "segments a video": videos["segments"].mean(),
            "classes a video": videos["classes"].mean(),
            "classes": len(balance),
            "largest over smallest class": balance.max() / balance.min(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("labels")


def by_class(statistics: Mapping[str, pd.DataFrame], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(frames [C], transitions [C, C]) of `salads.statistics` in the order of names, zeros for what does not occur."""
    frames = statistics["balance"].set_index("class")["frames"].reindex(names, fill_value=0)
    transitions = statistics["transitions"].reindex(index=names, columns=names, fill_value=0)
    return frames.to_numpy(), transitions.to_numpy()


def shown_actions(howto: Path) -> dict[str, list[tuple[float, float, str]]]:
    """What narrated videos really show, (start s, end s, "verb object") by video; nothing where nobody knows."""
    file = Path(howto) / "actions.json"
    return {v: [tuple(a) for a in shown] for v, shown in json.loads(file.read_text()).items()} if file.is_file() else {}


def narration(captions: howto100m.Captions, actions: Sequence[tuple], lags: pd.DataFrame) -> tuple[list, list]:
    """(actions, captions) of one video, each (start s, end s, text, object): the object of a caption is that of the
    action it names, "" where it names none. lags: the video's rows of `howto100m.audit`."""
    named = {text: howto100m.object_name(action) for text, action in zip(lags["caption"], lags["action"], strict=True)}
    said = zip(captions.starts, captions.ends, captions.texts, strict=True)
    shown = [(start, end, what, howto100m.object_name(what)) for start, end, what in actions]
    return shown, [(start, end, text, named.get(text, "")) for start, end, text in said]


def splits(root: Path) -> pd.DataFrame:
    """A row a split: numbers of training and test videos, actors of the test videos, actors who are in both parts."""
    rows = []
    for bundle in sorted((Path(root) / "splits").glob("train.split*.bundle")):
        number = bundle.name.removeprefix("train.split").removesuffix(".bundle")
        train, test = (salads.read_bundle(bundle.with_name(f"{part}.split{number}.bundle")) for part in salads.PARTS)
        shared = salads.actors(train) & salads.actors(test)
        tested = ", ".join(map(str, sorted(salads.actors(test), key=lambda who: (isinstance(who, str), who))))
        rows.append((int(number), len(train), len(test), tested, len(shared), train, test))
    columns = ["split", "training videos", "test videos", "test actors", "actors in both", "train", "test"]
    return pd.DataFrame(rows, columns=columns)


# -- where the surplus stands ----------------------------------------------------------------------------------------


def surplus_vectors(root: Path, features: Path, names: Sequence[str]) -> pd.DataFrame:
    """Vectors, labels and their difference: a row a video."""
    root, features = Path(root), Path(features)
    counts = [
        (
            name,
            salads.read_features(features / f"{name}.npy").shape[1],
            len(salads.read_labels(root / f"groundTruth/{name}.txt")),
        )
        for name in names
    ]
    frame = pd.DataFrame(counts, columns=["video", "vectors", "labels"])
    return frame.assign(surplus=frame["vectors"] - frame["labels"])


def start_of(cut: str, surplus: int) -> int:
    """The vector that the first label gets when a surplus is cut in one of the ways of `salads.crop`."""
    return int(salads.crop(np.arange(surplus + 1)[None], 1, cut)[0, 0])


def nearest_cut(offset: int, starts: Mapping[str, int]) -> str:
    """The cut whose first vector lies nearest to an offset. starts: {cut: `start_of` it}."""
    return min(starts, key=lambda cut: abs(starts[cut] - offset))


def alignment(
    root: Path, features: Path, names: Sequence[str], offsets: Sequence[int], reach: int, limit: int = 1000
) -> pd.DataFrame:
    """How well labels fit the vectors `offset` places later: a row a video and offset, nothing is trained.

    accuracy: of the nearest class mean, the means taken from all other videos at the same offset; channels scaled by
    their deviation. change: distance between the means of `reach` vectors before a border of labels and after it, over
    the same distance anywhere in the video. All offsets see the same labels: those with a vector at each.
    limit: the accuracy uses so many labels a video at most, evenly spaced, which saves time on long ones.
    """
    mapping = salads.read_mapping(Path(root) / "mapping.txt")
    labels = {n: salads.encode(salads.read_labels(Path(root) / f"groundTruth/{n}.txt"), mapping, n) for n in names}
    low, high = min(offsets), max(offsets)
    count, sums, changes, squares, total = {}, {}, {}, 0.0, 0.0

    def read(name):
        """Vectors [D, T] and the labelled places that have one at every offset."""
        vectors = np.asarray(salads.read_features(Path(features) / f"{name}.npy"), dtype=np.float32)
        first, last = max(0, -low), min(len(labels[name]), vectors.shape[1] - high)
        return vectors, np.arange(first, last, max(1, -(-(last - first) // limit)))

    for name in names:
        vectors, places = read(name)
        one_hot = np.eye(len(mapping), dtype=np.float32)[labels[name][places]]
        count[name] = one_hot.sum(0)
        sums[name] = np.stack([one_hot.T @ vectors[:, places + offset].T for offset in offsets])  # [O, C, D]
        squares, total = squares + np.square(vectors).mean(1), total + vectors.mean(1)
        changes[name] = _changes(vectors, labels[name], offsets, reach)
    deviation = np.sqrt(np.maximum(squares / len(names) - np.square(total / len(names)), 1e-12))
    all_counts, all_sums = sum(count.values()), sum(sums.values())

    rows = []
    for name in names:
        vectors, places = read(name)
        others = np.maximum(all_counts - count[name], 1)[:, None]
        for i, offset in enumerate(offsets):
            means = (all_sums[i] - sums[name][i]) / others / deviation  # [C, D]
            scores = means @ (vectors[:, places + offset] / deviation[:, None]) - 0.5 * np.square(means).sum(1)[:, None]
            scores[all_counts == count[name]] = -np.inf  # a class that no other video has
            accuracy = float((scores.argmax(0) == labels[name][places]).mean())
            rows.append((name, offset, accuracy, changes[name][i]))
    return pd.DataFrame(rows, columns=["video", "offset", "accuracy", "change"])


def _changes(vectors: np.ndarray, labels: np.ndarray, offsets: Sequence[int], reach: int) -> list[float]:
    """Change of the vectors at the borders of labels moved by each offset, over the change anywhere."""
    cumulated = np.cumsum(np.pad(vectors, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    means = (cumulated[:, reach:] - cumulated[:, :-reach]) / reach  # [D, T - reach + 1], of vectors t .. t + reach
    change = np.linalg.norm(means[:, reach:] - means[:, :-reach], axis=0)  # at t: before and from t + reach on
    borders = np.flatnonzero(np.diff(labels)) + 1 - reach
    borders = borders[(borders + min(offsets) >= 0) & (borders + max(offsets) < len(change))]
    if not len(borders):
        return [np.nan] * len(offsets)
    return [float(change[borders + offset].mean() / change.mean()) for offset in offsets]


def best_offset(aligned: pd.DataFrame, column: str, draws: int = 2000, seed: int = 0) -> tuple[int, int, int]:
    """(offset with the largest mean over videos, and the 2.5 and 97.5 % quantiles of it over bootstrapped videos)."""
    table = aligned.pivot(index="video", columns="offset", values=column).dropna()
    rng = np.random.default_rng(seed)
    means = table.to_numpy()[rng.integers(len(table), size=(draws, len(table)))].mean(1)
    found = table.columns.to_numpy()[means.argmax(1)]
    low, high = np.quantile(found, [0.025, 0.975], method="nearest")
    return int(table.mean().idxmax()), int(low), int(high)
