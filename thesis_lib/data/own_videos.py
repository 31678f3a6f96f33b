"""Videos of one's own, labelled in tables, become a data set in the layout of `salads`: `thesis import-videos`.

Labels are a CSV file, or a folder of `<video>.csv` without the first column, whose head is one of

    video,start,end,label    segments in seconds, rounded to frames
    video,frame,label        single frames, counted from 0

and splits, if given, one with the head `video,split`: in which split a video is tested. A video is named by its file,
with the suffix or without. Files may have any frame rate and size; the rate must be one for all, as labels are counted
in frames.
"""

import csv
import difflib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thesis_lib import paths
from thesis_lib.data import salads, video

SEGMENTS, FRAMES, SPLITS = ["video", "start", "end", "label"], ["video", "frame", "label"], ["video", "split"]
SLACK = 1  # frames that a label may end after its video: tables are rounded
FOLDS = 5  # at most, if drawn


@dataclass(frozen=True)
class Span:
    """Frames first to last, the latter not included, have this label; where: file and row of the table."""

    first: int
    last: int
    label: str
    where: str


def import_videos(
    videos: Path,
    labels: Path,
    out: Path,
    classes: Path | None = None,
    splits: Path | None = None,
    background: str = "",
    seed: int = 0,
) -> str:
    """Write the data set to `out`, a new folder; gives a line about it.

    classes: a file with a class name a line, in the order of their ids; without it they are those of the labels, by
    name. background: the class of frames without a label; "" refuses gaps. splits: without it every video is tested
    once, in one of as many splits as there are videos, five at most, drawn from `seed`.

    Writes videos/ (links), groundTruth/, mapping.txt, splits/ and corpus.json with the frame rate. Raises ValueError,
    one line with file and row, for what does not fit together; then nothing is written.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already: remove it, or name another folder")
    files = video.files(videos)
    if len(files) < 2:
        raise ValueError(f"{videos}: {len(files)} videos there, at least two are needed: one to train on, one to test")
    counts, fps = {name: video.frame_count(path) for name, path in files.items()}, _one_rate(files)
    spans = _spans(labels, counts, fps)
    known = _class_names(classes, spans, background)
    frames = {name: _frames(spans[name], counts[name], fps, known, background, name) for name in files}
    tested = _tested(splits, list(files)) if splits else _drawn(list(files), seed)

    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for folder in ("videos", "groundTruth", "splits"):
        (partial / folder).mkdir(parents=True)
    for name, path in files.items():
        (partial / "videos" / path.name).symlink_to(path.resolve())
        _write(partial / f"groundTruth/{name}.txt", frames[name])
    _write(partial / "mapping.txt", [f"{number} {name}" for number, name in enumerate(known)])
    numbers = sorted(set(tested.values()))
    for number in numbers:
        for part in ("train", "test"):
            names = [f"{name}.txt" for name in files if (tested[name] == number) == (part == "test")]
            _write(partial / f"splits/{part}.split{number}.bundle", names)
    (partial / "corpus.json").write_text(json.dumps({"fps": fps}))
    partial.rename(out)
    return (
        f"{out}: {len(files)} videos, {sum(counts.values())} frames at {fps:g} a second, {len(known)} classes, "
        f"{len(numbers)} splits"
    )


def make_profile(root: Path, source: str) -> Path:
    """Copy the parameters of a profile for the data set at root; the new profile has the name of its folder.

    Changed are `profile`, `data_root`, the splits, and numbers of training videos that there are not. Raises ValueError
    where the profile exists.
    """
    folder, numbers = paths.PARAMS / root.name, salads.splits(root)
    if folder.exists():
        raise ValueError(f"{folder}: exists already: remove it, or leave --profile-from out")
    if not (paths.PARAMS / source / "common.yaml").is_file():
        raise ValueError(f"--profile-from {source}: no such profile in {paths.PARAMS}")
    fewest = min(len(salads.read_bundle(root / f"splits/train.split{number}.bundle")) for number in numbers)
    place = root.resolve()
    place = place.relative_to(paths.ROOT) if place.is_relative_to(paths.ROOT) else place
    values = {"profile": root.name, "data_root": json.dumps(str(place)), "real_labels": "''", "split": numbers[0]}
    values |= {"splits": numbers}
    folder.mkdir()
    for file in sorted((paths.PARAMS / source).glob("*.yaml")):
        lines = file.read_text("utf-8").splitlines()
        for at, line in enumerate(lines):
            name, colon, value = line.partition(":")
            if name == "few_videos":
                few = [int(count) for count in value.partition("#")[0].strip(" []").split(",")]
                lines[at] = f"few_videos: {[count for count in few if count < fewest]}"
            elif colon and name in values:
                lines[at] = f"{name}: {values[name]}"
        if file.name == "common.yaml" and not any(line.startswith("data_root:") for line in lines):
            lines.append(f"data_root: {values['data_root']}")
        _write(folder / file.name, lines)
    return folder


# -- tables ----------------------------------------------------------------------------------------------------------


def _rows(file: Path, *heads: list[str], given: dict[str, str] | None = None) -> list[tuple[str, dict[str, str]]]:
    """("file, row n", values by column) of a CSV file with one of these heads, less the columns that are given."""
    with open(file, newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines)
        head = [name.strip().lower() for name in next(reader, [])]
        wanted = [[name for name in one if name not in (given or {})] for one in heads]
        if not any(set(one) <= set(head) for one in wanted):
            expected = " or ".join(",".join(one) for one in wanted)
            raise ValueError(f"{file}: its first row is {','.join(head)!r}: expected the columns {expected}")
        found = []
        for row in reader:
            where = f"{file}, row {reader.line_num}"
            if any(cell.strip() for cell in row):
                if len(row) != len(head):
                    raise ValueError(f"{where}: {len(row)} values for {len(head)} columns")
                found.append((where, (given or {}) | dict(zip(head, map(str.strip, row), strict=True))))
    return found


def _spans(labels: Path, counts: dict[str, int], fps: float) -> dict[str, list[Span]]:
    """Labelled frames of every video, by their start."""
    if labels.is_dir():
        tables = {file: {"video": file.stem} for file in sorted(labels.glob("*.csv"))}
        for file in tables:
            _known_video(file.stem, counts, str(file))
    else:
        tables = {labels: {}}
    if not all(file.is_file() for file in tables) or not tables:
        raise ValueError(f"{labels}: no such file" if not labels.is_dir() else f"{labels}: no .csv file there")
    spans = {name: [] for name in counts}
    for file, given in tables.items():
        for where, row in _rows(file, SEGMENTS, FRAMES, given=given):
            name = _known_video(row["video"], counts, where)
            first, last = _place(row, fps, where)
            if not row["label"] or row["label"].startswith("#"):
                raise ValueError(f"{where}: label {row['label']!r}: expected a name that does not begin with '#'")
            if last > counts[name] + SLACK or first >= counts[name]:
                length = f"{counts[name]} frames, {counts[name] / fps:.2f} s"
                raise ValueError(f"{where}: goes on beyond the end of {name}, which has {length}")
            spans[name].append(Span(first, min(last, counts[name]), row["label"], where))
    empty = [name for name, found in spans.items() if not found]
    if empty:
        raise ValueError(f"{labels}: no label for {', '.join(empty)}: add some, or take the video away")
    for found in spans.values():
        found.sort(key=lambda span: span.first)
        for before, after in zip(found, found[1:], strict=False):
            if after.first < before.last:
                raise ValueError(
                    f"{after.where}: {after.label!r} begins before {before.label!r} of {before.where} ends"
                )
    return spans


def _place(row: dict[str, str], fps: float, where: str) -> tuple[int, int]:
    """Frames of a row, first and one past the last."""
    try:
        if "frame" in row and "start" not in row:
            first = int(row["frame"])
            last = first + 1
        else:
            start, end = float(row["start"]), float(row["end"])
            first, last = (math.floor(seconds * fps + 0.5) for seconds in (start, end))
    except (ValueError, OverflowError):
        expected = "a whole number of frames" if "frame" in row and "start" not in row else "seconds, such as 12.5"
        told = ",".join(row.get(name, "") for name in ("frame", "start", "end") if name in row)
        raise ValueError(f"{where}: {told!r}: expected {expected}") from None
    if first < 0 or last <= first:
        told = f"from {row['start']} to {row['end']} s" if "start" in row else f"frame {row['frame']}"
        raise ValueError(f"{where}: {told} holds no frame at {fps:g} a second")
    return first, last


def _known_video(name: str, known: Sequence[str], where: str) -> str:
    stem = Path(name).stem if Path(name).suffix.lower() in video.SUFFIXES else name
    if stem not in known:
        near = difflib.get_close_matches(stem, list(known), n=1)
        raise ValueError(f"{where}: no video {name!r}{f', did you mean {near[0]!r}?' if near else ''}")
    return stem


def _class_names(classes: Path | None, spans: dict[str, list[Span]], background: str) -> list[str]:
    """Class names in the order of their ids, the background first where the list does not have it."""
    every = [span for found in spans.values() for span in found]
    names = _lines(classes) if classes else sorted({span.label for span in every} - {background})
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{classes}: {twice[0]!r} stands there twice")
    names = names if background in ("", *names) else [background, *names]
    for span in every:
        if span.label not in names:
            near = difflib.get_close_matches(span.label, names, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{span.where}: class {span.label!r} is not in {classes}{hint}")
    return names


def _frames(spans: list[Span], count: int, fps: float, known: list[str], background: str, name: str) -> list[str]:
    """A class name a frame."""
    labels = [background] * count
    for span in spans:
        labels[span.first : span.last] = [span.label] * (span.last - span.first)
    if "" in labels:
        first = labels.index("")
        last = next((frame for frame in range(first, count) if labels[frame]), count)
        hint = "label them, or name a class for all gaps with --background"
        raise ValueError(f"{name}: no label from {first / fps:.2f} to {last / fps:.2f} s: {hint}")
    return labels


# -- videos and splits -----------------------------------------------------------------------------------------------


def _one_rate(files: dict[str, Path]) -> float:
    """The frame rate of all videos. Raises ValueError where one is 1 % off: labels are counted in frames."""
    rates = {name: video.frame_rate(path) for name, path in files.items()}
    usual = float(np.median(list(rates.values())))
    for name, rate in rates.items():
        if abs(rate / usual - 1) > 0.01:
            hint = f"convert it, such as by ffmpeg -i {files[name].name} -r {usual:g} ..."
            raise ValueError(f"{files[name]}: {rate:g} frames a second, most others have {usual:g}: {hint}")
    return usual


def _tested(splits: Path, names: list[str]) -> dict[str, int]:
    """video -> the split that tests it."""
    tested = {}
    for where, row in _rows(splits, SPLITS):
        name = _known_video(row["video"], names, where)
        if name in tested or not row["split"].isdecimal():
            wrong = f"{name} stands there twice" if name in tested else f"split {row['split']!r}: expected a number"
            raise ValueError(f"{where}: {wrong}")
        tested[name] = int(row["split"])
    missing = [name for name in names if name not in tested]
    if missing:
        raise ValueError(f"{splits}: no split for {', '.join(missing)}")
    numbers = sorted(set(tested.values()))
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) < 2:
        raise ValueError(f"{splits}: splits {', '.join(map(str, numbers))}: expected 1, 2 and so on, at least two")
    return tested


def _drawn(names: list[str], seed: int) -> dict[str, int]:
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[number]: 1 + place % min(FOLDS, len(names)) for place, number in enumerate(order)}


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]


def _write(file: Path, lines: Sequence[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
