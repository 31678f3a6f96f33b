"""Videos to features: frames are decoded once, moved to the device once, and windows are views of them there."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .data.flow import optical_flow
from .data.video import frame_count, frame_rate, read_frames
from .models.i3d import DENSE_REACH

COLORS = ("rgb", "bgr")
MODES = ("exact", "dense")


@torch.inference_mode()
def i3d_features(
    model: nn.Module,
    video_path: str | Path,
    *,
    window: int = 21,
    size: int | None = None,
    batch: int = 32,
    color: str = "rgb",
    mean: float = 0.45,
    std: float = 0.225,
    mode: str = "exact",
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """A vector for each frame of a video -> [D, T] float32 (MS-TCN layout); T is the frame count of the file's index.

    The window of a frame is centred on it. Damaged frames are skipped: windows hold decoded frames only, as if the
    video had been cut there. So that labels stay aligned, a damaged frame gets the vector of the last good one before
    it (the first good one where there is none). Where the window reaches over an end of the video it is filled with
    zeros after normalisation, that is with grey, as the thesis did (masters_degree, I3D/features_util.py).

    model: clip [B, 3, window, H, W] -> [B, D] · size: see `prepare` · color: "bgr" repeats the thesis, which fed frames
    as OpenCV reads them · mean, std: of pixels in 0..1 (pytorchvideo's 0.45 and 0.225; Inception I3D wants 0.5, 0.5) ·
    mode: "dense" runs I3DR50 once over the video in place of once a window, see `I3DR50.dense`; stretches of
    batch * window frames and what reaches into them then go through the network, as many as in "exact", and their
    length does not change the result.
    """
    if color not in COLORS:
        raise ValueError(f'color={color!r}: choose "rgb" or "bgr"')
    if mode not in MODES:
        raise ValueError(f'mode={mode!r}: choose "exact" or "dense"')
    if mode == "dense" and not hasattr(model, "dense"):
        raise ValueError(f'mode="dense": {type(model).__name__} has no dense mode, choose "exact"')
    model.to(device, memory_format=torch.channels_last_3d).eval()  # faster on a CPU
    vectors = Windows(window, *((model.dense, DENSE_REACH) if mode == "dense" else (_windows_of(model), 0)))
    indices = []
    for chunk in _chunks(video_path, batch * window if mode == "dense" else batch, indices, device):
        frames = (prepare(chunk, size) - mean) / std
        vectors.add(frames.flip(1) if color == "bgr" else frames)
    return _to_every_frame(vectors.finish(), indices, video_path)


@torch.inference_mode()
def two_stream_features(
    rgb_model: nn.Module,
    flow_model: nn.Module,
    video_path: str | Path,
    *,
    flow: str = "tvl1",
    window: int = 21,
    size: int | None = 224,
    batch: int = 32,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The vectors of two networks for each frame, colours first, then flow -> [D + D, T] float32 (MS-TCN layout).

    With the released Inception I3D for both, these are features of the kind that the public 50Salads files hold (1024
    and 1024). Windows, ends and damaged frames as in `i3d_features`, with colours in -1..1: the zeros around a video
    are grey, and no motion. The public extractor repeats the first and the last frame there
    (ahsaniqbal/Kinetics-FeatureExtractor LazyLoader.cpp). The flow of a frame leads to the next good one, that of the
    last frame is zero: both windows of a frame show the same moments.

    rgb_model, flow_model: clip [B, 3 or 2, window, H, W] -> [B, D] · flow: see `optical_flow`; measured on frames as
    `prepare` gives them · size: see `prepare`.
    """
    streams = []
    for model in (rgb_model, flow_model):
        model.to(device, memory_format=torch.channels_last_3d).eval()
        streams.append(Windows(window, _windows_of(model), 0))
    colors, motion = streams
    indices, last = [], None
    for chunk in _chunks(video_path, batch, indices, device):
        frames = prepare(chunk, size)
        colors.add(frames * 2 - 1)
        seen = frames if last is None else torch.cat([last, frames])
        if len(seen) > 1:
            motion.add(_flow(seen, flow))
        last = frames[-1:]
    motion.add(last.new_zeros(1, 2, *last.shape[2:]))
    vectors = torch.cat([colors.finish(), motion.finish()], dim=1)
    return _to_every_frame(vectors, indices, video_path)


@torch.inference_mode()
def s3d_features(
    model: nn.Module,
    video_path: str | Path,
    *,
    fps: float | None = None,
    size: int | None = None,
    frames_per_clip: int = 30,
    output: str = "video_embedding",
    normalise: bool = False,
    batch: int = 8,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """A vector for each second of a video -> [seconds, D] float32, the last second filled up with black.

    Each second is seen as frames_per_clip frames, taken at even times as the fps filter of FFmpeg does; RGB in 0..1.
    Damaged frames are replaced by the last good one, so that seconds stay seconds.

    model: S3D with encode_video (output="video_embedding") and mixed_5c (output="mixed_5c") · fps: of the video, by
    default what the file says · normalise: to unit length, as VideoCLIP's features are (fairseq examples/MMPT,
    scripts/video_feature_extractor/extract.py).
    """
    heads = {"video_embedding": "encode_video", "mixed_5c": "mixed_5c"}
    if output not in heads:
        raise ValueError(f"output={output!r}: choose one of {', '.join(heads)}")
    model.to(device, memory_format=torch.channels_last_3d).eval()  # twice as fast on a CPU
    encode = getattr(model, heads[output])
    frames = resample(read_frames(video_path, damaged="repeat"), fps or frame_rate(video_path), frames_per_clip)
    vectors = []
    for chunk in _groups(frames, batch * frames_per_clip):
        clips = prepare(torch.from_numpy(np.stack(chunk)).to(device), size)
        clips = torch.cat([clips, clips.new_zeros(-len(clips) % frames_per_clip, *clips.shape[1:])])
        vectors.append(encode(clips.unflatten(0, (-1, frames_per_clip)).transpose(1, 2)).float())
    vectors = torch.cat(vectors)
    return (F.normalize(vectors, dim=1) if normalise else vectors).cpu().numpy()


def extract_folder(
    folder: str | Path,
    *,
    extractor: Callable[[Path], np.ndarray],
    videos: Sequence[str | Path],
    skip_unreadable: bool = False,
    log: Callable[[str], None] = print,
) -> list[Path]:
    """Write extractor(video) to folder/<video>.npy for each video that has none yet, and a line about each.

    Files appear whole or not at all, so a killed run goes on with the next video. Returns the videos that cannot be
    read; unless skip_unreadable, ends with a ValueError that names them, after all others are done.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    todo = [Path(video) for video in videos if not (folder / f"{Path(video).stem}.npy").exists()]
    sizes = [video.stat().st_size if video.is_file() else 0 for video in todo]
    unreadable, begin, done = [], time.perf_counter(), len(videos) - len(todo)
    if done:
        log(f"features: {done} of {len(videos)} videos done before")
    for number, video in enumerate(todo, 1):
        start = time.perf_counter()
        try:
            features = extractor(video)
        except ValueError as error:
            unreadable.append((video, error))
            log(f"features {done + number}/{len(videos)} {video.stem}: left out, {error}")
            continue
        save_array(folder / f"{video.stem}.npy", features)
        seconds, elapsed = time.perf_counter() - start, time.perf_counter() - begin
        left = elapsed / max(sum(sizes[:number]), 1) * sum(sizes[number:])
        log(
            f"features {done + number}/{len(videos)} {video.stem} {list(features.shape)}: {seconds:.1f} s, "
            f"{max(features.shape) / seconds:.0f} vectors/s, {left / 60:.1f} min left"
        )
    if unreadable and not skip_unreadable:
        names = ", ".join(video.name for video, _ in unreadable)
        raise ValueError(f"{len(unreadable)} of {len(videos)} videos cannot be read: {names} ({unreadable[0][1]})")
    return [video for video, _ in unreadable]


def save_array(path: str | Path, array: np.ndarray) -> None:
    """np.save that leaves a whole file or none, also when killed."""
    partial = Path(path).with_suffix(f".{os.getpid()}.tmp")
    with open(partial, "wb") as file:
        np.save(file, array)
    os.replace(partial, path)


def prepare(frames: torch.Tensor, size: int | None = None) -> torch.Tensor:
    """Frames [N, H, W, 3] uint8 -> [N, 3, H', W'] float in 0..1.

    With size, frames whose short side is larger are scaled down to it (bilinear), and what then is larger than
    size x size is cut at the centre: 640 x 480 at 256 is 341 x 256, then 256 x 256. Smaller frames stay as they are.
    """
    frames = frames.permute(0, 3, 1, 2).float() / 255
    if size is None:
        return frames
    height, width = frames.shape[2:]
    short = min(height, width)
    if short > size:
        height, width = math.floor(height * size / short), math.floor(width * size / short)
        frames = F.interpolate(frames, (height, width), mode="bilinear", align_corners=False)
    rows, columns = min(size, height), min(size, width)
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return frames[:, :, top : top + rows, left : left + columns]


def resample(frames: Iterable[tuple[int, np.ndarray]], fps: float, rate: float) -> Iterator[np.ndarray]:
    """Frames at fps -> frames at rate: for each time the last frame that has begun by then, times rounded to 1 / rate.

    Equal rates pass frames through. frames: (index, frame) without gaps.
    """
    step, position = fps / rate, 0
    for index, frame in frames:
        while math.ceil((position + 0.5) * step) - 1 <= index:
            yield frame
            position += 1


def _groups(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while group := list(islice(items, size)):
        yield group


def _chunks(path: str | Path, size: int, indices: list[int], device: str | torch.device) -> Iterator[torch.Tensor]:
    """Decoded frames [size, H, W, 3] uint8 on the device; their numbers are added to indices."""
    for chunk in _groups(read_frames(path), size):
        numbers, images = zip(*chunk, strict=True)
        indices.extend(numbers)
        yield torch.from_numpy(np.stack(images)).to(device)


class Windows:
    """Frames of a video, given bit by bit -> the vectors of the windows centred on each, zeros around the video.

    vectors: stretch [N, C, H, W], window -> [N - window + 1, D]. reach: how many frames on each side of a window change
    its vector; so many are kept around the windows that are computed. Holds no more than a stretch and its borders.
    """

    def __init__(self, window: int, vectors: Callable[[torch.Tensor, int], torch.Tensor], reach: int):
        self.window, self.vectors, self.reach = window, vectors, reach
        self.held, self.first, self.done = None, 0, []  # first: the window of `held` that comes next

    def add(self, frames: torch.Tensor) -> None:
        if self.held is None:
            self.held = frames.new_zeros(self.window // 2, *frames.shape[1:])
        self.held = torch.cat([self.held, frames])
        self._advance(self.reach)

    def finish(self) -> torch.Tensor:
        """All vectors [T, D]."""
        after = self.window - 1 - self.window // 2
        self.held = torch.cat([self.held, self.held.new_zeros(after, *self.held.shape[1:])])
        self._advance(0)
        return torch.cat(self.done)

    def _advance(self, unknown: int) -> None:
        """The windows that the `unknown` frames to come cannot change."""
        end = len(self.held) - self.window + 1 - unknown
        if end > self.first:
            self.done.append(self.vectors(self.held, self.window)[self.first : end].float())
            start = max(end - self.reach, 0)
            self.held, self.first = self.held[start:], end - start


def _windows_of(model: nn.Module) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Frames [N, C, H, W], window -> [N - window + 1, D], shared between windows where the model knows how."""
    if hasattr(model, "windows"):
        return model.windows
    return lambda frames, window: model(frames.unfold(0, window, 1).movedim(-1, 2))


def _to_every_frame(vectors: torch.Tensor, indices: list[int], path: str | Path) -> np.ndarray:
    """Vectors [N, D] of the good frames -> [D, T]; a damaged frame has that of the last good one before it."""
    nearest = np.searchsorted(indices, np.arange(max(frame_count(path), indices[-1] + 1)), side="right") - 1
    return np.ascontiguousarray(vectors.cpu().numpy()[nearest.clip(min=0)].T)


def _flow(frames: torch.Tensor, method: str) -> torch.Tensor:
    """Frames [N, 3, H, W] in 0..1 -> their flow [N - 1, 2, H, W] in -1..1, on the same device."""
    images = (frames * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return torch.from_numpy(optical_flow(images, method)).permute(0, 3, 1, 2).to(frames)
