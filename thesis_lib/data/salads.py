"""50Salads and any data set in the same layout (MS-TCN: yabufarha/ms-tcn, README "Data").

    root/features/<video>.npy      [D, T] float32, one vector a frame
    root/groundTruth/<video>.txt   one class name a line, one line a frame
    root/mapping.txt               "<id> <class name>" a line, ids 0..C-1
    root/splits/{train,test}.split<n>.bundle   one "<video>.txt" a line

and the raw annotations of the University of Dundee (Stein and McKenna, UbiComp 2013):

    annotations/XX-Y-activityAnnotation.txt    "<start> <end> <activity>" a line, in ticks of the camera's clock
    timestamps/timestamps-XX-Y.txt             one line a video frame, its tick in the first column

Text files may have '#' lines, CRLF ends, a byte order mark, and no newline at the end (the official readers drop the
last line of such a file: ms-tcn main.py:53, batch_gen.py:30).
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

PARTS = ("train", "test")
START, END = "action_start", "action_end"
PHASE = re.compile(r"_(prep|core|post)$")


@dataclass(frozen=True)
class Video:
    """One video of a split: features [D, T] (memory-mapped: read from disk when used) and labels [T] ints."""

    name: str
    features: np.ndarray
    labels: np.ndarray


def load_split(
    root: str | Path, split: int, part: str, features: str | Path = "features", cut: str = "back"
) -> list[Video]:
    """The videos of one part ("train" or "test") of a split, in the order of the bundle.

    features is a folder below root, or the absolute path of one. Where a video has more vectors than labels, the
    surplus is cut by `crop(..., cut)`. Raises ValueError for missing files, unknown class names, and features that are
    not [D, T] with at least as many vectors as labels.
    """
    root = Path(root)
    if part not in PARTS:
        raise ValueError(f'part={part!r}: choose "train" or "test"')
    mapping = read_mapping(root / "mapping.txt")
    videos = []
    for name in read_bundle(root / "splits" / f"{part}.split{split}.bundle"):
        labels = encode(read_labels(root / "groundTruth" / f"{name}.txt"), mapping, where=name)
        vectors = read_features(root / features / f"{name}.npy")
        videos.append(Video(name, crop(vectors, len(labels), cut, where=name), labels))
    return videos


def read_features(path: str | Path) -> np.ndarray:
    """Features [D, T] of one video, memory-mapped."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: features missing (extract them, or check the features folder)")
    try:
        features = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a .npy array ({error})") from None
    if features.ndim != 2:
        raise ValueError(f"{path}: expected features [D, T], got shape {features.shape}")
    return features


def read_lines(path: str | Path) -> list[str]:
    """Lines of a text file without '#' lines, empty lines, CRLF or byte order mark."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def write_lines(path: str | Path, lines: Iterable) -> None:
    """A text file with a newline after every line, which the official readers need after the last one too."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(f"{line}\n" for line in lines))


def read_bundle(path: str | Path) -> list[str]:
    """Video names of a bundle: "rgb-01-1.txt" is "rgb-01-1"."""
    return [Path(line).name.removesuffix(".txt") for line in read_lines(path)]


def splits(root: str | Path) -> list[int]:
    """Numbers of the splits at root."""
    return sorted(int(path.suffixes[-2][6:]) for path in (Path(root) / "splits").glob("train.split*.bundle"))


def read_mapping(path: str | Path) -> dict[str, int]:
    """Class name -> id, in the order of ids. Raises ValueError unless ids are 0..C-1 and names differ."""
    pairs = [line.split(maxsplit=1) for line in read_lines(path)]
    wrong = [" ".join(pair) for pair in pairs if len(pair) != 2 or not pair[0].isdecimal()]
    if wrong or not pairs:
        raise ValueError(f'{path}: expected lines "<id> <class name>", got {wrong[0]!r}' if wrong else f"{path}: empty")
    mapping = {name: int(number) for number, name in sorted(pairs, key=lambda pair: int(pair[0]))}
    if len(mapping) < len(pairs) or list(mapping.values()) != list(range(len(pairs))):
        raise ValueError(f"{path}: ids must be 0 to {len(pairs) - 1}, each class name once")
    return mapping


def class_names(root: str | Path) -> list[str]:
    """Class names of the data set at root, in the order of ids."""
    return list(read_mapping(Path(root) / "mapping.txt"))


def read_labels(path: str | Path) -> list[str]:
    """Class names of one video, one a frame."""
    return read_lines(path)


def encode(labels: Sequence[str], mapping: Mapping[str, int], where: str = "labels") -> np.ndarray:
    """Class names -> ids [T] int64. Raises ValueError that names a class outside the mapping and the nearest one."""
    for name, frame in {name: frame for frame, name in reversed(list(enumerate(labels)))}.items():
        if name not in mapping:
            near = difflib.get_close_matches(name, mapping, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{where}: class {name!r} of frame {frame} is not in the mapping{hint}")
    return np.array([mapping[name] for name in labels], dtype=np.int64)


def crop(features: np.ndarray, length: int, how: str = "back", where: str = "features") -> np.ndarray:
    """Cut features [D, T] to [D, length] at the "back", at the "front", or "symmetric" (an odd vector from the back).

    The surplus is found, not assumed. The thesis compares the three (Table 2); public labels are 8 frames shorter than
    the videos, and lost them at the end as far as is known (ms-tcn issue 44).
    """
    surplus = features.shape[1] - length
    if surplus < 0:
        turned = f"; shape {features.shape} looks like [T, D], transpose it" if features.shape[0] >= length else ""
        raise ValueError(f"{where}: {features.shape[1]} feature vectors for {length} labels{turned}")
    starts = {"back": 0, "front": surplus, "symmetric": surplus // 2}
    if how not in starts:
        raise ValueError(f"crop {how!r}: choose one of {', '.join(starts)}")
    return features[:, starts[how] : starts[how] + length]


def actor(name: str) -> int | str:
    """Who acts in a video: user 1 in "rgb-01-2", each user of 50Salads made two salads; elsewhere the video's name."""
    match = re.fullmatch(r"rgb-(\d+)-\d+", name)
    return int(match[1]) if match else name


def actors(names: Iterable[str]) -> set[int | str]:
    """Who acts in some videos, such as those of a bundle."""
    return {actor(name) for name in names}


def segments(labels: Sequence) -> list[tuple]:
    """Runs of equal labels: (class, start, end) with end exclusive, in frames."""
    runs, start = [], 0
    for label, run in groupby(labels):
        end = start + sum(1 for _ in run)
        runs.append((label, start, end))
        start = end
    return runs


def read_annotation(path: str | Path) -> list[tuple[str, int, int]]:
    """Raw annotation -> (class, first tick, last tick) by start: phases of the 17 actions, without the phase.

    A name ending in _prep, _core or _post is a phase; the others are the three high-level activities, left out here.
    Phases that start together (one hand full of cheese, lettuce and tomato) keep the order of the file.
    """
    found = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 3 or not (fields[0].isdecimal() and fields[1].isdecimal()) or int(fields[0]) > int(fields[1]):
            raise ValueError(f'{path}: entry {number}: expected "<start> <end> <activity>", got {line!r}')
        if PHASE.search(fields[2]):
            found.append((PHASE.sub("", fields[2]), int(fields[0]), int(fields[1])))
    return sorted(found, key=lambda phase: phase[1])


def read_timestamps(path: str | Path) -> np.ndarray:
    """Ticks of the camera's clock [T] int64, one a video frame. Raises ValueError where time goes backwards."""
    try:
        ticks = np.array([int(line.split()[0]) for line in read_lines(path)], dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"{path}: expected an integer tick at the start of each line ({error})") from None
    if (np.diff(ticks) < 0).any():
        raise ValueError(f"{path}: time goes backwards at frame {int(np.argmax(np.diff(ticks) < 0)) + 1}")
    return ticks


def frame_labels(annotation_path: str | Path, timestamps_path: str | Path) -> list[str]:
    """Raw annotation -> one class name a video frame, as in the public labels (ms-tcn issue 44); see `labels_at`."""
    annotation = read_annotation(annotation_path)
    if not annotation:
        raise ValueError(f"{annotation_path}: no phase of an action in it")
    return labels_at(annotation, read_timestamps(timestamps_path))


def labels_at(annotation: Sequence[tuple[str, int, int]], ticks: np.ndarray) -> list[str]:
    """The class name at each tick [T], rising; annotation as `read_annotation` gives it.

    Gaps belong to the action before them; before the first action is action_start, after the last action_end. Of two
    actions at the same time the later one counts, and of two that start together the one lower in the file.
    """
    labels = np.full(len(ticks), START, dtype=object)
    for name, start, _ in annotation:
        labels[np.searchsorted(ticks, start) :] = name
    labels[np.searchsorted(ticks, max(end for _, _, end in annotation), side="right") :] = END
    return labels.tolist()


def statistics(label_sequences: Mapping[str, Sequence] | Sequence[Sequence], fps: float) -> dict[str, pd.DataFrame]:
    """What a set of label sequences looks like: four frames to print, plot or compare.

    videos:      video, frames, seconds, segments, classes
    durations:   class, segments, mean_s, median_s, std_s, min_s, max_s
    balance:     class, frames, share (of all frames)
    transitions: how often the class of the row is followed by that of the column
    """
    if not isinstance(label_sequences, Mapping):
        label_sequences = {str(number): labels for number, labels in enumerate(label_sequences)}
    runs = {video: segments(labels) for video, labels in label_sequences.items()}
    videos = pd.DataFrame(
        [(v, r[-1][2], r[-1][2] / fps, len(r), len({name for name, _, _ in r})) for v, r in runs.items()],
        columns=["video", "frames", "seconds", "segments", "classes"],
    )
    pieces = pd.DataFrame(
        [(name, (end - start) / fps, end - start) for r in runs.values() for name, start, end in r],
        columns=["class", "s", "frames"],
    )
    durations = pieces.groupby("class")["s"].agg(["count", "mean", "median", "std", "min", "max"]).reset_index()
    durations.columns = ["class", "segments", "mean_s", "median_s", "std_s", "min_s", "max_s"]
    balance = pieces.groupby("class")["frames"].sum().reset_index()
    balance["share"] = balance["frames"] / balance["frames"].sum()
    pairs = [(a[0], b[0]) for r in runs.values() for a, b in zip(r, r[1:], strict=False)]
    before, after = (pd.Series([pair[side] for pair in pairs], dtype=object) for side in (0, 1))
    transitions = pd.crosstab(before, after).rename_axis(index="from", columns="to")
    classes = balance["class"].tolist()
    transitions = transitions.reindex(index=classes, columns=classes, fill_value=0)
    return {"videos": videos, "durations": durations, "balance": balance, "transitions": transitions}
