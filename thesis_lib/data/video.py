"""Videos, read so that damage costs the damaged frames only.

FFmpeg (through PyAV) decodes packet by packet, and every packet carries the place of its frame in the file:

- AVI knows no time stamps; FFmpeg counts chunks, so one lost chunk shifts all frames after it. The index at the end of
  the file says where each chunk begins: the byte position of a chunk gives its true number, and what begins elsewhere
  is debris.
- Other containers carry time stamps: the number is the time on the grid of the frame rate, or the rank in time where
  the rate varies.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import av.video.reformatter
import cv2
import numpy as np

SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm")
AVI_CHUNK_HEADER = 8  # bytes between the position in the index and that of the packet
REORDER_DEPTH = 16  # frames: no codec shows a frame later than this many after its packet


@dataclass(frozen=True)
class VideoInfo:
    """What a video file claims and what it holds. Counts are in frames.

    header_count is None where the header gives none; count is the length of the file's own index, that is how many
    frames it should hold; decoded_count of them can be read, and missing lists the others.
    """

    header_count: int | None
    count: int
    decoded_count: int
    missing: tuple[int, ...]
    fps: float
    width: int
    height: int


def files(folder: str | Path) -> dict[str, Path]:
    """The videos of a folder by name, without the suffix; none where there is no such folder.

    Raises ValueError where two have one name.
    """
    paths = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in SUFFIXES)
    found = {path.stem: path for path in paths}
    if len(found) < len(paths):
        twice = next(path for path in paths if found[path.stem] != path)
        raise ValueError(f"{folder}: {twice.name} and {found[twice.stem].name} differ in their suffix alone")
    return found


def read_frames(path: str | Path, damaged: str = "skip") -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, frame [H, W, 3] uint8 RGB) for every frame of a video, holding a few frames at a time.

    Frames that cannot be decoded, or that the decoder marks as patched up, are left out; reading goes on after them and
    indices stay those of the file. Frames predicted from a lost one come as the decoder draws them, smears included.
    With damaged="repeat" the places left out are filled with the last good frame (the first
    good one where there is none before). Raises ValueError if path is not a readable video.
    """
    if damaged not in ("skip", "repeat"):
        raise ValueError(f'damaged={damaged!r}: choose "skip" or "repeat"')
    return _decode(path, damaged == "repeat")


def read_clip(path: str | Path, start: float, count: int, fps: float) -> np.ndarray:
    """`count` frames at the times start, start + 1 / fps, ... seconds -> [count, H, W, 3] uint8 RGB.

    At each time the last frame that has begun by then; past the end the last one. Decodes from the key frame before
    `start`, not the whole file, and trusts the file's time stamps: for training on random clips, not for features.
    Raises ValueError if path is not a readable video or holds no frame there.
    """
    with _open(path) as (container, stream):
        zero = stream.start_time or 0
        container.seek(zero + int(max(start, 0) / stream.time_base), stream=stream)
        times, shown, position = [start + step / fps for step in range(count)], None, 0
        found, converter = [], av.video.reformatter.VideoReformatter()

        def show(frame):
            image = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            return np.ascontiguousarray(np.rot90(image, frame.rotation // 90)) if frame.rotation else image

        for frame in _frames_after_seek(container, stream):
            begin = float((frame.pts - zero) * stream.time_base)
            while position < count and begin > times[position] + 1e-6:
                found.append(frame if shown is None else shown)
                position += 1
            if position == count:
                break
            shown = frame
        if shown is None and not found:
            raise ValueError(f"{path}: no frame can be decoded from {start:.1f} s on")
        found += [shown] * (count - len(found))
        images = {id(frame): show(frame) for frame in found}
        return np.stack([images[id(frame)] for frame in found])


def frame_count(path: str | Path) -> int:
    """Number of frames the file should hold, damaged ones included, by its own index. Decodes nothing."""
    with _open(path) as (container, stream):
        return _number_packets(path, container, stream)[1]


def header_count(path: str | Path) -> int | None:
    """Number of frames that the header claims, None where it gives none."""
    with _open(path) as (_, stream):
        return stream.frames or None


def frame_rate(path: str | Path) -> float:
    """Frames per second by the file's header."""
    with _open(path) as (_, stream):
        return float(_rate(stream))


def probe(path: str | Path) -> VideoInfo:
    """Read a whole video and say what its header claims, what its index lists and what can be decoded."""
    found = set()
    height = width = 0
    for index, frame in read_frames(path):
        found.add(index)
        height, width = frame.shape[:2]
    with _open(path) as (container, stream):
        count = max(_number_packets(path, container, stream)[1], max(found, default=-1) + 1)
        return VideoInfo(
            header_count=stream.frames or None,
            count=count,
            decoded_count=len(found),
            missing=tuple(i for i in range(count) if i not in found),
            fps=float(_rate(stream)),
            width=width or stream.width,
            height=height or stream.height,
        )


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float, codec: str = "MJPG") -> None:
    """Write frames [H, W, 3] uint8 RGB as a video; the suffix of path chooses the container, codec the FourCC.

    Height and width must be even: OpenCV drops an odd row or column without a word.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path}: a video needs at least one frame")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: height and width must be even, got {height} x {width}")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    if not writer.isOpened():
        raise ValueError(f"{path}: OpenCV cannot write {codec} here (try MJPG or XVID in an .avi file)")
    try:
        for frame in chain([first], frames):
            if frame.shape != first.shape or frame.dtype != np.uint8:
                raise ValueError(f"{path}: expected frames {first.shape} uint8, got {frame.shape} {frame.dtype}")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()


@contextmanager
def _open(path: str | Path):
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such video file")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: not a readable video ({error.strerror or error})") from None
    with container:
        if not container.streams.video:
            raise ValueError(f"{path}: holds no video stream")
        stream = container.streams.video[0]
        # A JPEG with broken bytes comes out half grey and unmarked; asked to, its decoder refuses it instead, if it
        # notices. Codecs that predict from earlier frames mark patched frames themselves.
        if stream.codec_context.name == "mjpeg":
            stream.codec_context.options = {"err_detect": "explode"}
        yield container, stream


def _frames_after_seek(container, stream) -> Iterator[av.VideoFrame]:
    for packet in chain(_packets(container, stream), [None]):
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            continue
        yield from (frame for frame in frames if frame.pts is not None)


def _rate(stream):
    return stream.average_rate or stream.guessed_rate or stream.base_rate or 25


def _packets(container, stream) -> Iterator:
    """Packets with something in them: an empty one would tell the decoder that the video ends."""
    while True:
        try:
            yield from (packet for packet in container.demux(stream) if packet.size)
            return
        except IndexError:  # PyAV on debris that claims to be of a stream the header does not have: it lies behind now
            continue
        except (av.error.FFmpegError, OSError):
            return  # the file breaks off here: what came before is good


def _number_packets(path: str | Path, container, stream) -> tuple[Callable, int]:
    """(packet -> number of its frame or None for debris, how many frames there should be)."""
    with _open(path) as (again, same_stream):
        packets = [(packet.pos, packet.pts) for packet in _packets(again, same_stream)]
    if container.format.name == "avi":
        rows = _rows_of_index(stream, np.array([position for position, _ in packets]))
        if rows:
            return lambda packet: rows.get(packet.pos), len(rows)
    times = sorted({time for _, time in packets if time is not None})
    if container.format.name == "avi" or not times or len(times) < len(packets):  # nothing but the order is known
        counter = iter(range(len(packets)))
        return lambda packet: next(counter), len(packets)
    start = times[0] if stream.start_time is None else stream.start_time
    grid = {time: round((time - start) * stream.time_base * _rate(stream)) for time in times}
    steps = np.diff(list(grid.values()))
    if grid[times[0]] < 0 or (len(steps) and (steps.min() < 1 or np.median(steps) > 1)):
        grid = {time: rank for rank, time in enumerate(times)}  # the frame rate varies, or is a guess
    return lambda packet: grid.get(packet.pts), max(grid.values()) + 1


def _rows_of_index(stream, positions: np.ndarray) -> dict[int, int]:
    """Byte position of a packet -> its row in the index of an AVI; nothing if the index is lost.

    FFmpeg moves the whole index where the first chunk it meets is not the first one listed (avidec.c, avi_read_idx1),
    as after damage at the start: then the first packet must be that of a later row.
    """
    listed = np.array([entry.pos for entry in stream.index_entries])
    for shift in (AVI_CHUNK_HEADER, *(positions[:1] - listed)):
        if np.isin(positions, listed + shift).sum() > len(positions) / 2:
            return {int(position): row for row, position in enumerate(listed + shift)}
    return {}


def _decode(path: str | Path, repeat: bool) -> Iterator[tuple[int, np.ndarray]]:
    with _open(path) as (container, stream):
        number, count = _number_packets(path, container, stream)
        frames = _good_frames(container, stream, number)
        if stream.codec_context.has_b_frames:
            frames = _in_display_order(frames)
        last, converter, shown = -1, av.video.reformatter.VideoReformatter(), None
        for index, frame in frames:
            if index <= last:
                continue  # debris that claims a place already taken
            # One converter, one thread: frame.to_ndarray(format="rgb24") sets up a pool of threads for every frame.
            image = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            image = np.ascontiguousarray(np.rot90(image, frame.rotation // 90)) if frame.rotation else image
            if repeat:
                yield from ((missing, image if shown is None else shown) for missing in range(last + 1, index))
            yield index, image
            last, shown = index, image
        if shown is None:
            raise ValueError(f"{path}: not one frame can be decoded")
        if repeat:
            yield from ((missing, shown) for missing in range(last + 1, count))


def _good_frames(container, stream, number: Callable) -> Iterator[tuple[int, av.VideoFrame]]:
    for packet in chain(_packets(container, stream), [None]):  # None: give out what is still held back
        if packet is not None:
            packet.pts = packet.dts = number(packet)
            if packet.pts is None:
                continue
        try:
            for frame in stream.codec_context.decode(packet):
                if not frame.is_corrupt and frame.pts is not None:
                    yield frame.pts, frame
        except av.error.FFmpegError:
            continue


def _in_display_order(frames: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Give each frame the smallest number of those near it: frames come as they are shown, numbers as they are stored.

    Changes nothing where numbers come from time stamps.
    """
    waiting, numbers = deque(), []
    for index, frame in frames:
        waiting.append(frame)
        heapq.heappush(numbers, index)
        if len(waiting) > REORDER_DEPTH:
            yield heapq.heappop(numbers), waiting.popleft()
    while waiting:
        yield heapq.heappop(numbers), waiting.popleft()
