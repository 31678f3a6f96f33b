"""Videos to features: frames are decoded once, moved to the device once, and windows are views of them there.

Three things happen at once: a thread decodes and prepares the next frames, threads measure their optical flow where it
is wanted, and the network works on the frames before. What an extractor has done so far can be kept in a Checkpoint.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .data.flow import optical_flow
from .data.video import frame_count, frame_rate, read_frames
from .models.i3d import DENSE_REACH
from .runs import atomic_save

COLORS = ("rgb", "bgr")
MODES = ("exact", "dense")
PADDINGS = ("grey", "black", "edge")
LAST_FRAMES = ("seen", "unseen")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
S3D_OUTPUTS = {"video_embedding": "encode_video", "mixed_5c": "mixed_5c"}


class Checkpoint:
    """What an extractor has done of one video, in a file, so that a killed run goes on in the middle of the video.

    Saved at most every `every` seconds, whole or not at all. told(frames done, frames a second): called with each
    save. Without a path nothing is kept.
    """

    def __init__(
        self, path: str | Path | None = None, every: float = 60.0, told: Callable[[int, float], None] | None = None
    ):
        self.path, self.every, self.told = path and Path(path), every, told
        self.saved, self.before = time.perf_counter(), None  # before: of the pace, (frames, time)

    def read(self, device: str | torch.device = "cpu") -> dict:
        """What was kept, or nothing."""
        if self.path is None or not self.path.is_file():
            return {}
        return torch.load(self.path, map_location=device, weights_only=True)

    def offer(self, frames: int, state: Callable[[], dict]) -> None:
        """Keep state(), in which so many frames of the file are done, if it is time."""
        now = time.perf_counter()
        self.before = self.before or (frames, now)
        if self.path is None or now - self.saved < self.every:
            return
        found = state()
        atomic_save(self.path, lambda file: torch.save(found, file))
        if self.told:
            self.told(frames, (frames - self.before[0]) / max(now - self.before[1], 1e-9))
        self.saved, self.before = time.perf_counter(), (frames, now)

    def remove(self) -> None:
        """Forget it: the video is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


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
    padding: str = "grey",
    last_frame: str = "seen",
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    checkpoint: Checkpoint | None = None,
) -> np.ndarray:
    """A vector for each frame of a video -> [D, T] float32 (MS-TCN layout); T is the frame count of the file's index.

    The window of a frame is centred on it. Damaged frames are skipped: windows hold decoded frames only, as if the
    video had been cut there. So that labels stay aligned, a damaged frame gets the vector of the last good one before
    it (the first good one where there is none).

    model: clip [B, 3, window, H, W] -> [B, D] · size: see `prepare` · color: "bgr" repeats the thesis, which fed frames
    as OpenCV reads them (masters_degree I3D/features_util.py, VideoWrapper.get) · mean, std: of pixels in 0..1
    (pytorchvideo's 0.45 and 0.225; Inception I3D wants 0.5, 0.5) · mode: "dense" runs I3DR50 once over the video in
    place of once a window, see `I3DR50.dense`; stretches of batch * window frames and what reaches into them then go
    through the network, as many as in "exact", and their length does not change the result.

    padding: what a window holds where it reaches over an end of the video. "grey": zeros after normalisation, as the
    thesis's extraction had them (features_util.py, count_one_video); "black": zeros before it, as its first notebook
    (I3D/trying_i3d.ipynb); "edge": the first or last frame again, as the extractor of the public features
    (ahsaniqbal/Kinetics-FeatureExtractor LazyLoader.cpp, initFramesLazy).
    last_frame: "unseen" repeats an off-by-one of the thesis (count_one_video: to_frame ends before num_frames - 1): the
    last frame still has a vector, and no window sees it; padding stands in its place.
    precision: fp32, or autocast to bf16 or fp16; vectors are float32 in any case.

    Raises ValueError for a video that cannot be read, FloatingPointError where values leave the range of fp16.
    """
    check_choices(
        color=(color, COLORS), mode=(mode, MODES), padding=(padding, PADDINGS), last_frame=(last_frame, LAST_FRAMES)
    )
    if mode == "dense" and not hasattr(model, "dense"):
        raise ValueError(f'mode="dense": {type(model).__name__} has no dense mode, choose "exact"')
    _put(model, device)
    fill = {"grey": 0.0, "black": -mean / std, "edge": None}[padding]
    network, reach = (model.dense, DENSE_REACH) if mode == "dense" else (_windows_of(model), 0)
    checkpoint = checkpoint or Checkpoint()
    state = checkpoint.read(device)
    vectors = Windows(window, network, reach, fill, state.get("vectors"))
    indices = state.get("indices", [])

    def kept():
        return {"indices": indices, "vectors": vectors.state()}

    chunks = _chunks(
        _seen(video_path, last_frame), batch * window if mode == "dense" else batch, size, device, len(indices)
    )
    with _autocast(precision, device):
        for numbers, frames in ahead(chunks):
            indices += numbers
            if frames is not None:
                frames = (frames - mean) / std
                vectors.add(frames.flip(1) if color == "bgr" else frames)
            checkpoint.offer(len(indices), kept)
        found = vectors.finish(len(indices))
    return _to_every_frame(_finite(found, video_path, precision), indices, video_path)


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
    color: str = "rgb",
    padding: str = "grey",
    last_frame: str = "seen",
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    checkpoint: Checkpoint | None = None,
) -> np.ndarray:
    """The vectors of two networks for each frame, colours first, then flow -> [D + D, T] float32 (MS-TCN layout).

    With the released Inception I3D for both, these are features of the kind that the public 50Salads files hold (1024
    and 1024). Everything is as in `i3d_features`, with colours in -1..1. The flow of a frame leads to the next good
    one; that of the last frame is zero, and so is the flow around the video with any padding, as in the public
    extractor: nothing moves there. Both windows of a frame show the same moments.

    rgb_model, flow_model: clip [B, 3 or 2, window, H, W] -> [B, D] · flow: see `optical_flow`; measured on frames as
    `prepare` gives them, in as many threads as torch has · size: see `prepare`.
    """
    check_choices(color=(color, COLORS), padding=(padding, PADDINGS), last_frame=(last_frame, LAST_FRAMES))
    for model in (rgb_model, flow_model):
        _put(model, device)
    checkpoint = checkpoint or Checkpoint()
    state = checkpoint.read(device)
    fill = {"grey": 0.0, "black": -1.0, "edge": None}[padding]
    colors = Windows(window, _windows_of(rgb_model), 0, fill, state.get("colors"))
    motion = Windows(window, _windows_of(flow_model), 0, 0.0, state.get("motion"))
    indices, last = state.get("indices", []), state.get("last")

    def kept():
        return {"indices": indices, "last": last.cpu().clone(), "colors": colors.state(), "motion": motion.state()}

    chunks = ahead(_chunks(_seen(video_path, last_frame), batch, size, device, len(indices)))
    with _autocast(precision, device):
        for numbers, frames, moved in ahead(_with_flow(chunks, flow, last)):
            indices += numbers
            if frames is not None:
                last = frames[-1:]
                colors.add((frames.flip(1) if color == "bgr" else frames) * 2 - 1)
            if moved is not None:
                motion.add(moved)
            checkpoint.offer(len(indices), kept)
        if last is not None:
            motion.add(last.new_zeros(1, 2, *last.shape[2:]))
        found = torch.cat([colors.finish(len(indices)), motion.finish(len(indices))], dim=1)
    return _to_every_frame(_finite(found, video_path, precision), indices, video_path)


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
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    checkpoint: Checkpoint | None = None,
) -> np.ndarray:
    """A vector for each second of a video -> [seconds, D] float32, the last second filled up with black.

    Each second is seen as frames_per_clip frames, taken at even times as the fps filter of FFmpeg does; RGB in 0..1.
    Damaged frames are replaced by the last good one, so that seconds stay seconds.

    model: S3D · output: "video_embedding" (encode_video, 512 values: what the public VideoCLIP takes) or "mixed_5c"
    (1024 values: what the public HowTo100M features are) · fps: of the video, by default what the file says ·
    normalise: to unit length, as VideoCLIP's features are (fairseq examples/MMPT,
    scripts/video_feature_extractor/extract.py) · precision, errors: as in `i3d_features`.
    """
    check_choices(output=(output, S3D_OUTPUTS))
    _put(model, device)
    encode = getattr(model, S3D_OUTPUTS[output])
    checkpoint = checkpoint or Checkpoint()
    state = checkpoint.read(device)
    vectors, done = state.get("vectors", []), state.get("done", 0)

    def kept():
        return {"done": done, "vectors": [torch.cat(vectors).cpu()]}

    fps = fps or frame_rate(video_path)
    frames = enumerate(resample(read_frames(video_path, damaged="repeat"), fps, frames_per_clip))
    with _autocast(precision, device):
        for numbers, clips in ahead(_chunks(frames, batch * frames_per_clip, size, device, done)):
            clips = torch.cat([clips, clips.new_zeros(-len(clips) % frames_per_clip, *clips.shape[1:])])
            vectors.append(encode(clips.unflatten(0, (-1, frames_per_clip)).transpose(1, 2)).float())
            done += len(numbers)
            checkpoint.offer(round(done / frames_per_clip * fps), kept)
    found = _finite(torch.cat(vectors), video_path, precision)
    return (F.normalize(found, dim=1) if normalise else found).cpu().numpy()


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


def ahead(items: Iterable) -> Iterator:
    """The same items; a thread makes the next one while the last one is used. Its errors are raised here."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item


class Windows:
    """Frames of a video, given bit by bit -> the vectors of the windows centred on each.

    vectors: stretch [N, C, H, W], window -> [N - window + 1, D]. reach: how many frames on each side of a window change
    its vector; so many are kept around the windows that are computed. fill: the value around the video, None for its
    first and last frame. state: of an earlier one, to go on where it was. Holds no more than a stretch and its borders.
    """

    def __init__(
        self,
        window: int,
        vectors: Callable[[torch.Tensor, int], torch.Tensor],
        reach: int,
        fill: float | None = 0.0,
        state: dict | None = None,
    ):
        self.window, self.vectors, self.reach, self.fill = window, vectors, reach, fill
        self.held, self.first, self.done = None, 0, []  # first: the window of `held` that comes next
        if state:
            self.held, self.first, self.done = state["held"], state["first"], state["done"]

    def add(self, frames: torch.Tensor) -> None:
        if self.held is None:
            self.held = self._around(frames[:1], self.window // 2)
        self.held = torch.cat([self.held, frames])
        self._advance(self.reach)

    def finish(self, count: int) -> torch.Tensor:
        """All vectors [count, D]; where count is more than the frames that were given, more of the surroundings."""
        if self.held is None:
            raise ValueError("no window sees a frame: the video has one, and last_frame is unseen")
        missing = count + self.window - 1 - (sum(map(len, self.done)) - self.first + len(self.held))
        self.held = torch.cat([self.held, self._around(self.held[-1:], missing)])
        self._advance(0)
        return torch.cat(self.done)

    def state(self) -> dict:
        """What another one needs to go on, on the CPU."""
        held = None if self.held is None else self.held.cpu().clone()  # a view would be saved with all that it views
        done = [torch.cat(self.done).cpu()] if self.done else []
        return {"held": held, "first": self.first, "done": done}

    def _around(self, frame: torch.Tensor, count: int) -> torch.Tensor:
        repeated = frame.expand(count, *frame.shape[1:])
        return repeated if self.fill is None else torch.full_like(repeated, self.fill)

    def _advance(self, unknown: int) -> None:
        """The windows that the `unknown` frames to come cannot change."""
        end = len(self.held) - self.window + 1 - unknown
        if end > self.first:
            self.done.append(self.vectors(self.held, self.window)[self.first : end].float())
            start = max(end - self.reach, 0)
            self.held, self.first = self.held[start:], end - start


def check_choices(**choices: tuple[str, Iterable[str]]) -> None:
    """Raises ValueError for a value that is not one of those known. choices: {name: (value, known)}."""
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(known)}")


def _put(model: nn.Module, device: str | torch.device) -> None:
    """The model in eval mode on the device, in the layout that is faster on a CPU. Moved once: videos can be short."""
    device, layout = torch.empty(0, device=device).device, torch.channels_last_3d  # "cuda" is one of "cuda:0", "cuda:1"
    if model.training or not all(
        weight.device == device and (weight.ndim < 5 or weight.is_contiguous(memory_format=layout))
        for weight in model.parameters()
    ):
        model.to(device, memory_format=layout).eval()


@contextmanager
def _autocast(precision: str, device: str | torch.device):
    check_choices(precision=(precision, PRECISIONS))
    kind = PRECISIONS[precision]
    with torch.autocast(torch.device(device).type, kind or torch.bfloat16, enabled=kind is not None):
        yield


def _seen(path: str | Path, last_frame: str) -> Iterator[tuple[int, np.ndarray | None]]:
    """The decoded frames of a video with their numbers; None for the last one where it is not to be seen."""
    frames = read_frames(path)
    if last_frame == "seen":
        yield from frames
        return
    held = next(frames)
    for frame in frames:
        yield held
        held = frame
    yield held[0], None


def _chunks(
    frames: Iterable[tuple[int, np.ndarray | None]], count: int, size: int | None, device, done: int
) -> Iterator[tuple[list[int], torch.Tensor | None]]:
    """Numbers of so many frames, and the frames as `prepare` gives them, on the device; the first `done` are left out.

    On a GPU nothing here waits for the GPU: frames go there from pinned memory.
    """
    frames, on_gpu = islice(frames, done, None), torch.device(device).type == "cuda"
    while chunk := list(islice(frames, count)):
        images = [image for _, image in chunk if image is not None]
        numbers, prepared = [number for number, _ in chunk], None
        if images:
            raw = torch.from_numpy(np.stack(images))
            prepared = prepare((raw.pin_memory() if on_gpu else raw).to(device, non_blocking=True), size)
        yield numbers, prepared


def _with_flow(chunks: Iterable, method: str, last: torch.Tensor | None) -> Iterator[tuple]:
    """Chunks, each with the flow [n, 2, H, W] in -1..1 that ends in its frames. last: the frame before the first."""
    for numbers, frames in chunks:
        seen = frames if last is None or frames is None else torch.cat([last, frames])
        moved = None
        if seen is not None and len(seen) > 1:
            images = (seen * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            flow = torch.from_numpy(optical_flow(images, method, torch.get_num_threads()))
            moved = flow.permute(0, 3, 1, 2).to(seen)
        last = last if frames is None else frames[-1:]
        yield numbers, frames, moved


def _windows_of(model: nn.Module) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Frames [N, C, H, W], window -> [N - window + 1, D], shared between windows where the model knows how."""
    if hasattr(model, "windows"):
        return model.windows
    return lambda frames, window: model(frames.unfold(0, window, 1).movedim(-1, 2))


def _finite(vectors: torch.Tensor, path: str | Path, precision: str) -> torch.Tensor:
    if not vectors.isfinite().all():
        hint = ": its numbers end at 65504, choose bf16 or fp32" if precision == "fp16" else ""
        raise FloatingPointError(f"{path}: features are not finite in {precision}{hint}")
    return vectors


def _to_every_frame(vectors: torch.Tensor, indices: list[int], path: str | Path) -> np.ndarray:
    """Vectors [N, D] of the good frames -> [D, T]; a damaged frame has that of the last good one before it."""
    nearest = np.searchsorted(indices, np.arange(max(frame_count(path), indices[-1] + 1)), side="right") - 1
    return np.ascontiguousarray(vectors.cpu().numpy()[nearest.clip(min=0)].T)
