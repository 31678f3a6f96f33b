"""Positive pairs of text and video from narrated videos: what is said and what is shown hardly ever start together.

VideoCLIP (Xu et al., EMNLP 2021, section 3.2) draws a text span, then a video span of a random length around a random
moment of it, so that the two overlap without being equal. Rules and numbers are those of fairseq examples/MMPT,
mmpt/processors/how2processor.py (OverlappedAligner, VariedLenAligner, TextClipSamplingProcessor,
VideoClipSamplingProcessor) and projects/retri/videoclip/how2.yaml. The paper and the thesis say that the video lasts
from 0 s, the code from 3 s; it is a parameter here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thesis_lib.data.howto100m import Captions


@dataclass(frozen=True)
class SpanLimits:
    """How long the two sides of a pair get; both ends of a range are drawn too."""

    min_tokens: int = 8
    max_tokens: int = 64
    max_text_seconds: float = 256.0  # a text span stops growing here
    min_seconds: int = 3
    max_seconds: int = 32

    def __post_init__(self):
        if not (1 <= self.min_tokens <= self.max_tokens and 0 <= self.min_seconds <= self.max_seconds):
            raise ValueError(f"{self}: need 1 <= min_tokens <= max_tokens and 0 <= min_seconds <= max_seconds")


@dataclass(frozen=True)
class Pair:
    """Captions first..last (last excluded) and the video from second start to second end (excluded)."""

    first: int
    last: int
    start: int
    end: int


def overlapped_pair(
    captions: Captions, lengths: Sequence[int], num_seconds: int, rng: np.random.Generator, limits: SpanLimits
) -> Pair:
    """A text span and a video span around a random moment of it, the pair VideoCLIP trains on.

    lengths: word pieces of each caption; num_seconds: length of the video. The moment is a random whole second from
    the start of the first caption to the end of the last one, moved into the video where it lies outside. The video
    span lasts a random number of seconds, or as long as the video where that is shorter. Raises ValueError for a video
    without captions or without seconds.
    """
    first, last = text_span(captions, lengths, rng, limits)
    _check_seconds(num_seconds)
    low, high = math.floor(captions.starts[first]), math.ceil(captions.ends[last - 1])
    centre = min(max(int(rng.integers(low, max(low, high), endpoint=True)), 0), num_seconds - 1)
    # At least one second: a clip without any has nothing to say.
    length = max(1, int(rng.integers(limits.min_seconds, limits.max_seconds, endpoint=True)))
    return Pair(first, last, *video_span(centre, length, num_seconds, rng))


def aligned_pair(
    captions: Captions, lengths: Sequence[int], num_seconds: int, rng: np.random.Generator, limits: SpanLimits
) -> Pair:
    """A text span and the very seconds in which it is said, at most `max_seconds` of them: the pair before lengthening.

    MMPT makes the vectors for retrieval from these. Raises ValueError as `overlapped_pair` does.
    """
    first, last = text_span(captions, lengths, rng, limits)
    _check_seconds(num_seconds)
    start = min(max(math.floor(captions.starts[first]), 0), num_seconds - 1)
    end = min(math.ceil(captions.ends[last - 1]), num_seconds, start + max(1, limits.max_seconds))
    return Pair(first, last, start, max(end, start + 1))


def text_span(
    captions: Captions, lengths: Sequence[int], rng: np.random.Generator, limits: SpanLimits
) -> tuple[int, int]:
    """A random caption, grown to the left or right at random until it has a random number of word pieces.

    It stops as well at `max_text_seconds` and when no caption is left. Returns (first, last), last excluded.
    """
    count = len(captions)
    if count == 0:
        raise ValueError("a video without captions has no pairs: leave it out")
    wanted = int(rng.integers(limits.min_tokens, limits.max_tokens, endpoint=True))
    first = int(rng.integers(count))
    last, tokens = first + 1, lengths[first]
    while (
        tokens < wanted
        and captions.ends[last - 1] - captions.starts[first] < limits.max_text_seconds
        and (first > 0 or last < count)
    ):
        to_the_right = rng.random() < 0.5 if 0 < first and last < count else last < count
        if to_the_right:
            tokens += lengths[last]
            last += 1
        else:
            first -= 1
            tokens += lengths[first]
    return first, last


def video_span(centre: int, length: int, num_seconds: int, rng: np.random.Generator) -> tuple[int, int]:
    """`length` seconds grown from the second `centre` one by one, before or after it at random, within the video.

    Where the video ends on one side all further seconds come from the other. Returns (start, end), end excluded.
    """
    length = min(length, num_seconds)
    before = min(int(rng.binomial(length, 0.5)), centre)  # of `length` tosses, those that went before
    end = min(centre - before + length, num_seconds)
    return end - length, end


def permute_texts(captions: Mapping[str, Captions], seed: int) -> dict[str, Captions]:
    """The same slots in time with all texts of all videos permuted over them: nothing left that text says of video.

    To exchange whole videos' captions is not enough: what is said first stays first, and time leaks. Videos whose
    captions cannot be read are left out.
    """
    said_in = {video: said for video in captions if (said := _readable(captions, video)) is not None}
    said = [item for one in said_in.values() for item in (one.texts if one.tokens is None else one.tokens)]
    order = iter(np.random.default_rng(seed).permutation(len(said)))
    permuted = {}
    for video, one in said_in.items():
        items = [said[next(order)] for _ in range(len(one))]
        permuted[video] = replace(one, texts=items) if one.tokens is None else replace(one, tokens=items)
    return permuted


def _readable(captions: Mapping[str, Captions], video: str) -> Captions | None:
    try:
        return captions[video]
    except (ValueError, OSError):
        return None


def _check_seconds(num_seconds: int) -> None:
    if num_seconds < 1:
        raise ValueError("a video without seconds has no pairs: leave it out")
