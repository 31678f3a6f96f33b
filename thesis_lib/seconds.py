"""Videos as one clip a second, and as one vector a second: what every system that reads frames is asked for.

A clip has `frames` frames at even times within `seconds`, its middle in the middle of the second. All systems see the
same clips, so that their vectors differ by the systems alone.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from thesis_lib.data.video import frame_count, frame_rate, read_frames
from thesis_lib.extraction import prepare
from thesis_lib.feature_folder import extract_folder
from thesis_lib.features import videos_of
from thesis_lib.runs import atomic_save
from thesis_lib.training.films import even
from thesis_lib.training.loop import choose_device


def clip_indices(length: int, fps: float, frames: int, seconds: float) -> np.ndarray:
    """[S, frames]: which frames of a video of `length` frames the clip of each second holds; at the ends moved inside.

    S counts whole and begun seconds.
    """
    span = min(max(frames, round(seconds * fps)), length)
    middles = (np.arange(max(1, round(np.ceil(length / fps)))) + 0.5) * fps
    starts = np.clip(np.round(middles - span / 2).astype(int), 0, length - span)
    return starts[:, None] + even(span, frames)


def second_clips(path: str | Path, *, frames: int, seconds: float, size: int) -> np.ndarray:
    """The clips of a video [S, frames, 3, H, W] uint8, decoded once; damaged frames repeat the last good one.

    size: pixels of the short side, see `extraction.prepare`. Raises ValueError for smaller frames: networks want those.
    """
    wanted = clip_indices(frame_count(path), frame_rate(path), frames, seconds)
    places = {}
    for second, row in enumerate(wanted):
        for place, index in enumerate(row):
            places.setdefault(int(index), []).append((second, place))
    clips, last = None, None
    for index, frame in read_frames(path, damaged="repeat"):
        if index not in places:
            continue
        last = (prepare(torch.from_numpy(frame)[None], size)[0] * 255).round().byte().numpy()
        rows, columns = last.shape[1:]
        if min(rows, columns) < size:
            raise ValueError(f"{path}: frames of {columns} x {rows} pixels, fewer than the {size} of `size`")
        if clips is None:
            clips = np.zeros((*wanted.shape, *last.shape), np.uint8)
        for second, place in places.pop(index):
            clips[second, place] = last
    if clips is None:
        raise ValueError(f"{path}: not one of its frames can be read")
    for missing in places.values():  # after the last frame that can be read
        for second, place in missing:
            clips[second, place] = last
    return clips


def extract_clips(folder: Path, *, root: Path, frames: int, seconds: float, size: int) -> None:
    """<video>.npy [S, frames, 3, H, W] uint8 of every video of root/videos; processes may share the work."""
    extract_folder(
        folder,
        extractor=lambda video, _: second_clips(video, frames=frames, seconds=seconds, size=size),
        videos=videos_of(root),
        skip_unreadable=True,
    )


def in_batches(clips: np.ndarray, batch_size: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Clips [S, T, 3, H, W] uint8 -> batches [B, 3, T, H, W] float in 0..1 on the device."""
    for start in range(0, len(clips), batch_size):
        yield as_input(torch.from_numpy(np.array(clips[start : start + batch_size])).to(device))


def as_input(clips: torch.Tensor) -> torch.Tensor:
    """Clips [B, T, 3, H, W] uint8 -> [B, 3, T, H, W] float in 0..1, what encoders take."""
    return clips.movedim(2, 1).float() / 255


@torch.inference_mode()
def encode(
    encode_batch: Callable[[torch.Tensor], torch.Tensor],
    clips: np.ndarray,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """The vectors [S, D] float32 of the clips of a video; encode_batch: [B, 3, T, H, W] in 0..1 -> [B, D]."""
    vectors = [encode_batch(batch).float().cpu() for batch in in_batches(clips, batch_size, torch.device(device))]
    return torch.cat(vectors).numpy()


def extract_vectors(
    folder: Path, *, method: str, weights: Path, vocab: Path, clips: Path, kind: str, batch_size: int = 64, device: str
) -> None:
    """<video>.npy [S, D] of every file of `clips`, laid out as S3D's: frozen vectors of a system, one a second.

    kind: "features", before any projection, or "embed", unit vectors in the space of texts.
    """
    from thesis_lib import methods

    encoder, device = methods.load(method, weights, vocab), choose_device(device)
    encoder.to(device).eval()
    for path in sorted(Path(clips).glob("*.npy")):
        if (target := Path(folder) / path.name).exists():
            continue
        vectors = encode(getattr(encoder, kind), np.load(path, mmap_mode="r"), batch_size=batch_size, device=device)
        atomic_save(target, partial(np.save, arr=vectors))
