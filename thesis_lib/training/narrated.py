"""Narrated videos as pretraining reads them: features and tokenised captions, pairs drawn from them, batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from thesis_lib.data.howto100m import Captions, load_videos, read_captions, read_metadata, train_val_split
from thesis_lib.data.text import Vocabulary
from thesis_lib.models.videoclip import VideoCLIP
from thesis_lib.retrieval import video_vectors
from thesis_lib.training import distributed
from thesis_lib.training.pairs import Pair, SpanLimits, aligned_pair, overlapped_pair, permute_texts

MAX_WORD_PIECES = 61  # of a text: 96 positions less 32 of video less [CLS] and two [SEP]
PRELOAD_BELOW = 2**31  # bytes of features; larger ones stay memory-mapped


@dataclass(frozen=True)
class Track:
    """A narrated video: features [seconds, D], captions, and the word piece ids of each caption."""

    name: str
    features: np.ndarray
    captions: Captions
    tokens: list[list[int]]
    lengths: list[int]


def read_tracks(features: Path, howto: Path, vocabulary: Vocabulary, permute_seed: int | None = None) -> list[Track]:
    """The usable narrated videos, tokenised; with permute_seed all texts are permuted over all slots first.

    Prints how many videos were left out, and why.
    """
    captions = read_captions(howto / "raw_caption.json")
    if permute_seed is not None:
        captions = permute_texts(captions, permute_seed)
    videos, skipped = load_videos(features, captions)
    if any(skipped.values()) and distributed.rank() == 0:
        print("videos left out: " + ", ".join(f"{len(names)} {why}" for why, names in skipped.items() if names))
    small = sum(video.features.nbytes for video in videos) < PRELOAD_BELOW
    tracks = []
    for video in videos:
        ids, mask = vocabulary.encode(video.captions.texts)
        tokens = [row[: count - 1].tolist() for row, count in zip(ids[:, 1:], mask.sum(1) - 1, strict=True)]
        vectors = np.array(video.features, dtype=np.float32) if small else video.features
        tracks.append(Track(video.name, vectors, video.captions, tokens, [len(ids) for ids in tokens]))
    return tracks


def split(tracks: list[Track], howto: Path, val_videos: int, seed: int) -> tuple[list[Track], list[Track]]:
    """(training, held-out) videos, the same share of every category in both."""
    if not val_videos:
        return tracks, []
    names = [track.name for track in tracks]
    _, held_out = train_val_split(read_metadata(howto / "HowTo100M_v1.csv"), names, val_videos, seed)
    held_out = set(held_out)
    return [t for t in tracks if t.name not in held_out], [t for t in tracks if t.name in held_out]


def draw(
    tracks: Sequence[Track], clips_per_video: int, rng: np.random.Generator, limits: SpanLimits, make=overlapped_pair
) -> list[tuple[Track, Pair]]:
    """`clips_per_video` positive pairs of each video, those of a video in a row."""
    return [
        (track, make(track.captions, track.lengths, len(track.features), rng, limits))
        for track in tracks
        for _ in range(clips_per_video)
    ]


class Collate:
    """Pairs -> features [B, N, D], mask [B, N], ids [B, L], mask [B, L] on the CPU, padded to the longest."""

    def __init__(self, vocabulary: Vocabulary, max_video_len: int):
        self.vocabulary, self.max_video_len = vocabulary, max_video_len

    def __call__(self, picks: Sequence[tuple[Track, Pair]]) -> tuple[torch.Tensor, ...]:
        clips = [track.features[pair.start : min(pair.end, pair.start + self.max_video_len)] for track, pair in picks]
        texts = [sum(track.tokens[pair.first : pair.last], [])[:MAX_WORD_PIECES] for track, pair in picks]
        texts = [[self.vocabulary.cls, *text, self.vocabulary.sep] for text in texts]
        features, video_mask = _pad(clips, 0.0, np.float32)
        ids, text_mask = _pad(texts, self.vocabulary.pad, np.int64)
        return tuple(torch.from_numpy(array) for array in (features, video_mask, ids, text_mask))


def _pad(rows: Sequence, value: float, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, ...] of different n -> array [B, max n, ...] and the mask [B, max n] of what is theirs."""
    counts = [len(row) for row in rows]
    padded = np.full((len(rows), max(counts), *np.shape(rows[0])[1:]), value, dtype)
    for row, into, count in zip(rows, padded, counts, strict=True):
        into[:count] = row
    return padded, np.arange(max(counts)) < np.array(counts)[:, None]


@torch.no_grad()
def encode_videos(
    model: VideoCLIP,
    tracks: Sequence[Track],
    clips_per_video: int,
    collate: Collate,
    limits: SpanLimits,
    stream: Sequence[int],
    part: slice = slice(None),
    precision: str = "fp32",
    videos_per_batch: int = 64,
) -> np.ndarray:
    """z_V [V, H] of each video: the mean over aligned clips of (video vector + text vector) / 2, in eval mode.

    stream: seeds; each video has random numbers of its own. part: the vectors of these videos alone.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    vectors, numbers = [np.empty((0, model.config.hidden_size), np.float32)], range(len(tracks))[part]
    for start in range(0, len(numbers), videos_per_batch):
        picks = []
        for number in numbers[start : start + videos_per_batch]:
            rng = np.random.default_rng([*stream, number])
            picks += draw([tracks[number]], clips_per_video, rng, limits, aligned_pair)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            video, text = model(*(tensor.to(device) for tensor in collate(picks)))
        vectors.append(video_vectors(video.float().cpu(), text.float().cpu(), clips_per_video))
    model.train(was_training)
    return np.concatenate(vectors)
