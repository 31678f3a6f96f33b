"""Narrated videos as clips of frames: small ones decoded whole, large ones opened for each of their clips."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from thesis_lib.data import video
from thesis_lib.data.video import frame_rate, read_clip, read_frames
from thesis_lib.extraction import prepare
from thesis_lib.feature_folder import extract_folder

MOST_UNREADABLE = 100  # videos one after the other: by then it is the folder that is wrong, not the videos


@dataclass(frozen=True)
class Film:
    """A video as `length` frames, `rate` a second; clip(start, count) -> [count, 3, H, W] uint8, None if unreadable."""

    length: int
    rate: float
    clip: Callable[[int, int], torch.Tensor | None]


def decode(folder: Path, *, howto: Path, size: int) -> None:
    """<video>.npy [N, 3, H, W] uint8: all frames of every video of howto/videos, for every training that wants them.

    Processes may share the work. size: pixels of the short side, see `extraction.prepare`.
    """
    videos = video.files(Path(howto) / "videos").values()
    extract_folder(
        folder, extractor=lambda path, _: _whole(path, size).numpy(), videos=list(videos), skip_unreadable=True
    )


def read_films(
    howto: str | Path,
    names: Sequence[str],
    size: int,
    fps: float,
    seconds: Mapping[str, float],
    frames: int,
    filled: bool = True,
    decoded: str | Path = "",
) -> dict[str, Film]:
    """The films of those `names` that howto/videos holds and that have `frames` frames at least, in their order.

    size: pixels of the short side · fps: 0 = small videos, decoded whole at their own rate, or once for all by `decode`
    into the folder `decoded` · else clips are decoded where they are needed, at so many frames a second, and `seconds`
    says how much of each video counts · filled: see `on_demand`. Videos that cannot be read are named and passed over.
    Raises ValueError where not one is left.
    """
    folder = Path(howto) / "videos"
    paths = {path.stem: path for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    films = {}
    for name in filter(paths.__contains__, names):
        try:
            if fps:
                film = on_demand(paths[name], size, fps, seconds[name], filled)
            else:
                film = at_once(paths[name], size, Path(decoded, f"{name}.npy") if decoded else None)
        except ValueError as error:
            print(f"passed over, {error}", flush=True)
            continue
        if film.length >= frames:
            films[name] = film
    if not films:
        raise ValueError(f"{folder}: not one video with captions that is {frames} frames long")
    return films


def at_once(path: Path, size: int, decoded: Path | None = None) -> Film:
    """All frames of a small video: from the file that `decode` made of it, if it is newer, else held in memory."""
    if decoded is None or not decoded.is_file() or decoded.stat().st_mtime < path.stat().st_mtime:
        frames = _whole(path, size)
        return Film(len(frames), frame_rate(path), lambda start, count: frames[start : start + count])
    mapped = np.load(decoded, mmap_mode="r")
    (length, *frame), begin = mapped.shape, mapped.offset

    def clip(start: int, count: int) -> torch.Tensor:  # read anew: a map for each film would be an open file for each
        count, pixels = min(count, length - start), math.prod(frame)
        read = np.fromfile(decoded, np.uint8, count * pixels, offset=begin + start * pixels)
        return torch.from_numpy(read.reshape(count, *frame))

    return Film(length, frame_rate(path), clip)


def on_demand(path: Path, size: int, fps: float, seconds: float, filled: bool = True) -> Film:
    """A video that is opened for each of its clips; `seconds`: how much of it counts, so that it need not be opened.

    filled: frames smaller than `size` are filled up with black, so that clips of all videos fit in one batch.
    """

    def clip(start: int, count: int) -> torch.Tensor | None:
        try:
            frames = _prepared(read_clip(path, start / fps, count, fps), size)
        except ValueError as error:
            print(f"passed over, {error}", flush=True)
            return None
        if not filled:
            return frames
        rows, columns = (size - side for side in frames.shape[2:])
        return F.pad(frames, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))

    return Film(int(seconds * fps), fps, clip)


def _whole(path: Path, size: int) -> torch.Tensor:
    return _prepared([frame for _, frame in read_frames(path, damaged="repeat")], size)


def _prepared(frames: Sequence[np.ndarray], size: int) -> torch.Tensor:
    return (prepare(torch.from_numpy(np.stack(frames)), size) * 255).round().byte()


def around(film: Film, centre: float, frames: int, seconds: float) -> torch.Tensor | None:
    """`frames` frames at even times within `seconds` around the second `centre` -> [frames, 3, H, W] uint8.

    Moved into the film where it lies outside; None if unreadable.
    """
    span = min(max(frames, round(seconds * film.rate)), film.length)
    start = min(max(round(centre * film.rate - span / 2), 0), film.length - span)
    clip = film.clip(start, span)
    return None if clip is None else clip[even(span, frames)]


def even(span: int, count: int) -> np.ndarray:
    """`count` places among `span`, in the middle of as many equal parts: for 8 and 4 they are 1, 3, 5, 7."""
    return ((np.arange(count) + 0.5) * span / count).astype(int)
