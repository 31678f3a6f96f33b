"""50Salads as the University of Dundee publishes it, turned into the layout that the field trains on (see `salads`).

    python -m thesis_lib.data.raw_salads data/50salads-raw data/50salads

Raw files may lie anywhere below a folder: `rgb-XX-Y.avi`, `XX-Y-activityAnnotation.txt`, `timestamps-XX-Y.txt`. Labels
made from them are as long as the video. The published label files are 8 frames shorter, cut at the end (ms-tcn issue
44): --drop-last 8 makes such ones. Sessions of users who are in no public split (08 and 12 are annotated) are left out.
"""

import argparse
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import salads, video

# The order of the public mapping.txt, which is that of the outputs of all published weights.
CLASSES = (
    "cut_tomato", "place_tomato_into_bowl", "cut_cheese", "place_cheese_into_bowl", "cut_lettuce",
    "place_lettuce_into_bowl", "add_salt", "add_vinegar", "add_oil", "add_pepper", "mix_dressing", "peel_cucumber",
    "cut_cucumber", "place_cucumber_into_bowl", "add_dressing", "mix_ingredients", "serve_salad_onto_plate",
    "action_start", "action_end",
)  # fmt: skip
TEST_USERS = {  # split -> who is tested in it; each made two salads
    1: (1, 2, 3, 4, 5),
    2: (6, 7, 9, 10, 11),
    3: (13, 14, 15, 16, 17),
    4: (18, 19, 20, 21, 22),
    5: (23, 24, 25, 26, 27),
}
SESSION = {  # what -> how its file is called; the group is the session XX-Y
    "videos": re.compile(rf"rgb-(\d\d-\d)({'|'.join(map(re.escape, video.SUFFIXES))})", re.I),
    "annotations": re.compile(r"(\d\d-\d)-activityAnnotation\.txt"),
    "timestamps": re.compile(r"timestamps-(\d\d-\d)\.txt"),
}


@dataclass(frozen=True)
class RawFiles:
    """Session ("01-2") -> file, of each kind."""

    videos: Mapping[str, Path]
    annotations: Mapping[str, Path]
    timestamps: Mapping[str, Path]


def files_below(root: str | Path) -> list[Path]:
    """All files below a folder, sorted. Linked folders count, each place once, which Path.rglob leaves out."""
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        found += [Path(folder) / name for name in names]
    return sorted(found)


def find(root: str | Path) -> RawFiles:
    """The raw files below a folder; of two for one session the first by path."""
    found = {what: {} for what in SESSION}
    for path in files_below(root):
        for what, pattern in SESSION.items():
            match = pattern.fullmatch(path.name)
            if match:
                found[what].setdefault(match[1], path)
    return RawFiles(**found)


def is_raw(root: str | Path) -> bool:
    """Whether labels have to be made: raw annotations, but no groundTruth."""
    return not any((Path(root) / "groundTruth").glob("*.txt")) and bool(find(root).annotations)


def public_split(session: str) -> int | None:
    """The split that tests a session, None for the users 08 and 12, who are in none."""
    user = salads.actor(f"rgb-{session.removeprefix('rgb-')}")
    return next((split for split, users in TEST_USERS.items() if user in users), None)


def bundles(names: Iterable[str]) -> dict[str, list[str]]:
    """The ten public bundles: file name -> those of the names that it lists."""
    split_of = {name: public_split(name) for name in sorted(names)}
    made = {}
    for split in TEST_USERS:
        made[f"train.split{split}.bundle"] = [name for name, tested in split_of.items() if tested not in (split, None)]
        made[f"test.split{split}.bundle"] = [name for name, tested in split_of.items() if tested == split]
    return made


def labels_of(raw: RawFiles, session: str) -> list[str]:
    """One class name a time stamp, see `salads.frame_labels`.

    Raises ValueError for a missing or broken file, for an action that is none of the 17, and where none is in time.
    """
    if session not in raw.timestamps:
        raise ValueError(f"{session}: no timestamps-{session}.txt, without which its annotation has no frames")
    path = raw.annotations[session]
    strange = sorted({name for name, *_ in salads.read_annotation(path)} - {*CLASSES})
    if strange:
        raise ValueError(f"{path}: {strange[0]!r} is none of the 17 actions of 50Salads")
    labels = salads.frame_labels(path, raw.timestamps[session])
    if {*labels} <= {salads.START, salads.END}:
        raise ValueError(f"{path}: no action within the time stamps: those of another session?")
    return labels


def convert(folder: Path, *, root: Path, drop_last: int = 0) -> None:
    """Write groundTruth/, mapping.txt and splits/ of the raw files below root, and link the videos as videos/.

    More time stamps than frames of the video: labels are cut to it, at the end. Raises ValueError where nothing can be
    made of root, or a session of a public split lacks its time stamps.
    """
    folder, raw = Path(folder), find(root)
    sessions = [session for session in raw.annotations if public_split(session)]
    if not sessions:
        raise ValueError(f"{root}: no XX-Y-activityAnnotation.txt of a user of 50Salads")
    for name in ("groundTruth", "splits", "videos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for session in sessions:
        labels = labels_of(raw, session)
        if session in raw.videos:
            labels = labels[: _frames(raw.videos[session], len(labels))]
            link = folder / f"videos/rgb-{session}{raw.videos[session].suffix.lower()}"
            link.unlink(missing_ok=True)
            link.symlink_to(raw.videos[session].resolve())
        salads.write_lines(folder / f"groundTruth/rgb-{session}.txt", labels[: len(labels) - drop_last])
    salads.write_lines(folder / "mapping.txt", (f"{number} {name}" for number, name in enumerate(CLASSES)))
    for name, listed in bundles(f"rgb-{session}" for session in sessions).items():
        salads.write_lines(folder / "splits" / name, (f"{video_name}.txt" for video_name in listed))
    left_out = sorted({*raw.annotations, *raw.videos} - {*sessions})
    print(f"{len(sessions)} sessions of {root}" + (f"; left out: {', '.join(left_out)}" if left_out else ""))


def _frames(path: Path, otherwise: int) -> int:
    try:
        return video.frame_count(path)
    except ValueError:  # not a readable video: features of this one have to come from elsewhere
        return otherwise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--drop-last", type=int, default=0, help="frames without a label at the end (public files: 8)")
    arguments = parser.parse_args()
    convert(arguments.folder, root=arguments.root, drop_last=arguments.drop_last)


if __name__ == "__main__":
    main()
