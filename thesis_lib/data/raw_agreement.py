"""Do the raw annotations give the label files? Video by video, with the time stamps or without.

    python -m thesis_lib.data.raw_agreement data/50salads

The time stamps are not published with the labels. Without them the clock is taken to run straight, which leaves one
unknown a video, the tick of its first frame: the one with which most frames agree is taken. Where a recording has lost
frames the clock has run on, and from there on labels made in this way come late.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from . import raw_salads, salads

TICKS = 33_337  # a frame, 29.997 frames a second if ticks are microseconds: what fits public files without losses best
TELLING = 2  # frames: a border may be one off by rounding
COLUMNS = ["video", "clock", "labels", "surplus", "segments", "segments_file", "same_order"]
COLUMNS += ["agree", "agree_front", "lost", "where", "agree_without_losses"]


def agreement(root: str | Path) -> pd.DataFrame:
    """A row a video with raw annotation and label file below root, see `compare`; empty where there is none."""
    raw, rows = raw_salads.find(root), []
    for session, path in sorted(raw.annotations.items()):
        file = Path(root) / f"groundTruth/rgb-{session}.txt"
        if file.is_file():
            ticks = salads.read_timestamps(raw.timestamps[session]) if session in raw.timestamps else None
            found = compare(salads.read_annotation(path), salads.read_labels(file), ticks, where=session)
            rows.append({"video": file.stem} | found)
    return pd.DataFrame(rows, columns=COLUMNS)


def compare(annotation: Sequence, labels: Sequence[str], ticks: np.ndarray | None, where: str = "annotation") -> dict:
    """Labels made of one annotation (`salads.read_annotation`) beside those of a file.

    clock: "time stamps" or "straight" · labels: frames of the label file · segments: of the labels made,
    segments_file: of the file · same_order: whether the same classes follow each other · agree: share of frames that
    are equal, a surplus cut at the back.

    By time stamps: surplus: frames that they list beyond the labels · agree_front: agree with the surplus cut at the
    front. By a straight clock: lost: frames by which the labels made come later at the last border than at the first ·
    where: borders between which that grows by 2 and more, "frame to frame: lost" · agree_without_losses: agree, the
    clock set back there. Raises ValueError where there is nothing to compare.
    """
    if not annotation or not labels:
        raise ValueError(f"{where}: no {'label' if annotation else 'phase of an action'} in it")
    found = _by_straight_clock(annotation, labels) if ticks is None else _by_time_stamps(annotation, labels, ticks)
    return {"labels": len(labels)} | found


def _by_time_stamps(annotation: Sequence, labels: Sequence[str], ticks: np.ndarray) -> dict:
    made = salads.labels_at(annotation, ticks)
    surplus = len(made) - len(labels)
    front = _share(made[surplus:], labels) if surplus >= 0 else np.nan
    about = {"clock": "time stamps", "surplus": surplus, "agree": _share(made, labels), "agree_front": front}
    return about | _segments(made[: len(labels)], labels)


def _by_straight_clock(annotation: Sequence, labels: Sequence[str]) -> dict:
    """Labels on a clock that starts long before the video, and the place in them where the video fits best."""
    first, last = annotation[0][1], max(end for *_, end in annotation)
    frames = np.arange(-len(labels), len(labels) + (last - first) // TICKS)
    made = salads.labels_at(annotation, first + TICKS * frames)
    about = {"clock": "straight"} | _segments(made, labels)
    if not about["same_order"]:
        begin = len(labels) - (_borders(labels) or [0])[0]  # the first action begins where it does in the file
        return about | {"agree": _share(made[begin:], labels)}
    late = np.subtract(_borders(made), _borders(labels))
    begin = max(set(late.tolist()), key=lambda begin: _share(made[begin:], labels))
    return about | {"agree": _share(made[begin:], labels)} | _losses(late, _borders(labels), len(labels))


def _losses(late: np.ndarray, borders: Sequence[int], length: int) -> dict:
    """What explains that borders come late, by frames [borders]."""
    steps = np.diff(late)
    steps[np.abs(steps) < TELLING] = 0
    places = [f"{borders[i]} to {borders[i + 1]}: {steps[i]}" for i in np.flatnonzero(steps)]
    rest = late - np.cumsum([0, *steps])
    unequal = np.abs(rest - int(np.median(rest))).sum()
    return {
        "lost": int(late[-1] - late[0]),
        "where": ", ".join(places),
        "agree_without_losses": 1 - unequal / length,
    }


def _borders(labels: Sequence[str]) -> list[int]:
    return [start for _, start, _ in salads.segments(labels)[1:]]


def _segments(made: Sequence[str], labels: Sequence[str]) -> dict:
    ours, theirs = ([name for name, *_ in salads.segments(one)] for one in (made, labels))
    return {"segments": len(ours), "segments_file": len(theirs), "same_order": ours == theirs}


def _share(made: Sequence[str], labels: Sequence[str]) -> float:
    shared = min(len(made), len(labels))
    return float(np.mean(np.array(made[:shared]) == np.array(labels[:shared])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, help="a folder with groundTruth/ and raw annotations")
    table = agreement(parser.parse_args().root)
    print(table.dropna(axis="columns", how="all").to_string(index=False, float_format="{:.4f}".format))
    print(f"{len(table)} videos, {100 * np.average(table['agree'], weights=table['labels']):.2f} % of all frames agree")


if __name__ == "__main__":
    main()
