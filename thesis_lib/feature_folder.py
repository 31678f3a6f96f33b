"""A folder of features: one .npy a video, and features.json, which says what was done.

Several processes, on one machine or many that share the folder, can fill it at once: a video belongs to the one that
holds its lock, and a lock goes with its process. Files appear whole or not at all.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from thesis_lib.data.video import frame_count
from thesis_lib.extraction import Checkpoint
from thesis_lib.runs import atomic_save

ABOUT = "features.json"
BY_THE_WAY = ("fps", "version")  # said of features, not asked of them


def extract_folder(
    folder: str | Path,
    *,
    extractor: Callable[[Path, Checkpoint], np.ndarray],
    videos: Sequence[str | Path],
    about: dict | None = None,
    skip_unreadable: bool = False,
    save_every: float = 60.0,
    log: Callable[[str], None] = print,
) -> list[Path]:
    """Write extractor(video, checkpoint) to folder/<video>.npy for each video that has none yet.

    A killed run goes on in the middle of a video, from what was kept every `save_every` seconds. Videos that another
    process works on are left to it; at the end it is waited for. about: for features.json, see `describe`. log gets a
    line a video, and one with every save: how fast it goes, and the time left if all goes on as so far.

    Returns the videos that cannot be read; unless skip_unreadable, and if none can, ends with a ValueError that names
    them, after all others are done.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if about is not None:
        describe(folder, about)
    todo = [Path(video) for video in videos if not _features(folder, video).exists()]
    lines = _Lines(log, len(videos), todo)
    unreadable, taken = [], []

    def extract(video: Path) -> None:
        features, state = _features(folder, video), folder / f"{video.stem}.state"
        lines.reached(video)
        if features.exists():
            return
        checkpoint = Checkpoint(state, save_every, lambda *pace: lines.within(video, *pace))
        start, whole = time.perf_counter(), not state.exists()
        try:
            vectors = extractor(video, checkpoint)
        except ValueError as error:
            unreadable.append((video, error))
            checkpoint.remove()
            lines.left_out(video, error)
            return
        atomic_save(features, lambda file: np.save(file, vectors))
        checkpoint.remove()
        lines.done(video, vectors.shape, time.perf_counter() - start, whole)

    for video in todo:
        with claim(folder / f"{video.stem}.lock", wait=False) as mine:
            extract(video) if mine else taken.append(video)
    for video in taken:
        with claim(folder / f"{video.stem}.lock"):  # had by another process until it is done or dead
            extract(video)
    if unreadable and (not skip_unreadable or len(unreadable) == len(videos)):
        names = ", ".join(video.name for video, _ in unreadable)
        raise ValueError(f"{len(unreadable)} of {len(videos)} videos cannot be read: {names} ({unreadable[0][1]})")
    return [video for video, _ in unreadable]


def describe(folder: str | Path, about: dict) -> None:
    """Write folder/features.json: `about` and the version of this library. Raises as `check` where there is one."""
    folder = Path(folder)
    with claim(folder / "features.lock"):
        if not (folder / ABOUT).exists():
            text = json.dumps(about | {"version": f"thesis_lib {version('thesis-lib')}"}, indent=1)
            atomic_save(folder / ABOUT, lambda file: file.write(text.encode()))
    check(folder, about)


def check(folder: str | Path, asked: dict) -> None:
    """Raises ValueError, one line, where features.json of a folder says something else than is asked.

    What is None in `asked`, or not said in the file, is not compared; nor is a folder without features.json.
    """
    file = Path(folder) / ABOUT
    if not file.exists():
        return
    try:
        held = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    wrong = [
        f"{name} is {held[name]!r}, {value!r} is asked"
        for name, value in asked.items()
        if value is not None and name in held and name not in BY_THE_WAY and held[name] != value
    ]
    if wrong:
        raise ValueError(f"{file}: {'; '.join(wrong)}: change the parameters, or take or extract other features")


@contextmanager
def claim(path: Path, wait: bool = True) -> Iterator[bool]:
    """Whether the lock file at `path` is this process's for the block; with wait, once whoever has it is done.

    The file is removed after a block without an error. Look for what the block makes inside it: another process may
    have made it while this one waited.
    """
    while True:
        with open(path, "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield True
                path.unlink()
                return
            # whoever had it is done and has removed the file: what is locked here has no name any more


def _features(folder: Path, video: str | Path) -> Path:
    return folder / f"{Path(video).stem}.npy"


class _Lines:
    """What is told of a folder's progress. Time left counts bytes of video, and what other processes do as well."""

    def __init__(self, log: Callable[[str], None], count: int, todo: Sequence[Path]):
        self.log, self.count, self.begin = log, count, time.perf_counter()
        self.numbers = {video: number for number, video in enumerate(todo, count - len(todo) + 1)}
        self.waiting = {video: video.stat().st_size if video.is_file() else 0 for video in todo}
        self.bytes = self.left = sum(self.waiting.values())
        if len(todo) < count:
            log(f"features: {count - len(todo)} of {count} videos done before")

    def reached(self, video: Path) -> None:
        self.size = self.waiting.pop(video)
        self.left -= self.size

    def within(self, video: Path, frames: int, rate: float) -> None:
        total = max(frame_count(video), frames)
        left = self._left((1 - frames / total) * self.size)
        self.log(f"{self._where(video)} {frames} of {total} frames: {rate:.0f} frames/s, {left}")

    def done(self, video: Path, shape: tuple[int, ...], seconds: float, whole: bool) -> None:
        rate = f"{frame_count(video) / seconds:.0f} frames/s" if whole else "the rest"
        self.log(f"{self._where(video)} {list(shape)}: {seconds:.1f} s, {rate}, {self._left(0)}")

    def left_out(self, video: Path, error: Exception) -> None:
        self.log(f"{self._where(video)}: left out, {error}")

    def _where(self, video: Path) -> str:
        return f"features {self.numbers[video]}/{self.count} {video.stem}"

    def _left(self, unfinished: float) -> str:
        left = self.left + unfinished
        seconds = (time.perf_counter() - self.begin) / max(self.bytes - left, 1) * left
        return f"{seconds / 60:.1f} min left"
