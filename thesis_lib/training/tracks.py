"""Narrated videos as pretraining reads them: features and tokenised captions, pairs drawn from them, batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from thesis_lib.data.caption_store import CaptionStore
from thesis_lib.data.captions import Captions, read_captions
from thesis_lib.data.howto100m import read_metadata, train_val_split
from thesis_lib.data.mmpt_shards import CaptionShards, FeatureShards, caption_prefix, sharded
from thesis_lib.data.narrated import NarratedVideos, left_out, load_videos
from thesis_lib.data.text import Vocabulary
from thesis_lib.models.videoclip import VideoCLIP
from thesis_lib.retrieval import video_vectors
from thesis_lib.training import distributed, loop
from thesis_lib.training.pairs import Pair, SpanLimits, aligned_pair, overlapped_pair, permute_texts

MAX_WORD_PIECES = 61  # of a text: 96 positions less 32 of video less [CLS] and two [SEP]
KEEP_BELOW = 2**31  # bytes of features, as float32; a larger corpus stays on disk


@dataclass(frozen=True)
class Track:
    """A narrated video: features [seconds, D], captions, and the word piece ids of each caption."""

    name: str
    features: np.ndarray
    captions: Captions
    tokens: list[list[int]]
    lengths: list[int]


class Tracks(Sequence[Track]):
    """Narrated videos, tokenised when they are asked for; with `keep` they stay in memory from then on."""

    def __init__(self, videos: NarratedVideos, vocabulary: Vocabulary, keep: bool, kept: dict | None = None):
        self.videos, self.vocabulary = videos, vocabulary
        self.keep, self._kept = keep, {} if kept is None else kept

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Track:
        name = self.name(index)
        return self._kept[name] if name in self._kept else self._read(index, name)

    def name(self, index: int) -> str:
        return str(self.videos.names[index])

    def only(self, names: Sequence[str]) -> "Tracks":
        """These videos, in the order they have here."""
        return Tracks(self.videos.only(names), self.vocabulary, self.keep, self._kept)

    def _read(self, index: int, name: str) -> Track:
        video = self.videos[index]
        given = video.captions.tokens
        tokens = (
            self.vocabulary.pieces_of(video.captions.texts, MAX_WORD_PIECES)
            if given is None
            else [np.asarray(ids).tolist() for ids in given]
        )
        features = np.array(video.features, np.float32) if self.keep else video.features
        track = Track(name, features, video.captions, tokens, [len(ids) for ids in tokens])
        if self.keep:
            self._kept[name] = track
        return track


def read_tracks(
    features: Path, howto: Path, vocabulary: Vocabulary, permute_seed: int | None = None, part: str = "train"
) -> Tracks:
    """The usable narrated videos; with permute_seed all texts are permuted over all slots first.

    features: <video>.npy, with captions from howto/captions (a `caption_store`) or howto/raw_caption.json; or a folder
    of MMPT's shards (`mmpt_shards`), features and captions, of which those of `part` are taken. Prints how many videos
    were left out, and why.
    """
    features, howto = Path(features), Path(howto)
    if sharded(features):
        source = FeatureShards(features, part)
        captions = CaptionShards(source, caption_prefix(features, part))
    else:
        source, store = features, howto / "captions"
        stored = store.is_dir() and permute_seed is None
        captions = CaptionStore(store) if stored else read_captions(howto / "raw_caption.json")
    if permute_seed is not None:
        captions = permute_texts(captions, permute_seed)
    videos, skipped = load_videos(source, captions)
    if any(skipped.values()) and distributed.rank() == 0:
        print(f"videos left out: {left_out(skipped)}")
    dim = videos.features.shape(str(videos.names[0]))[1]
    return Tracks(videos, vocabulary, keep=4 * dim * int(videos.seconds.sum()) < KEEP_BELOW)


def read_parts(
    features: Path, howto: Path, vocabulary: Vocabulary, val_videos: int, seed: int, permute_seed: int | None = None
) -> tuple[Tracks, Tracks]:
    """(training, held-out) videos, val_videos of the latter.

    The same share of every category is held out; MMPT's shards come with a held-out part of their own.
    """
    tracks = read_tracks(features, howto, vocabulary, permute_seed)
    if val_videos and sharded(features):
        held_out = read_tracks(features, howto, vocabulary, permute_seed, "val")
        return tracks, held_out.only(held_out.videos.names[:val_videos])
    if not val_videos:
        return tracks, tracks.only([])
    table = read_metadata(Path(howto) / "HowTo100M_v1.csv")
    return tuple(map(tracks.only, train_val_split(table, tracks.videos.names.tolist(), val_videos, seed)))


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
        if not np.isfinite(features).all():  # of a large corpus only a sample is looked at before
            bad = next(track.name for clip, (track, _) in zip(clips, picks, strict=True) if not np.isfinite(clip).all())
            raise ValueError(f"features of {bad}: not finite; remove or extract them again")
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
    workers: int = 0,
    videos_per_batch: int = 64,
) -> np.ndarray:
    """z_V [V, H] of each video: the mean over aligned clips of (video vector + text vector) / 2, in eval mode.

    stream: seeds; each video has random numbers of its own. part: the vectors of these videos alone. workers: processes
    that read the videos.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    numbers = range(len(tracks))[part]

    def load(start: int) -> tuple[torch.Tensor, ...]:
        picks = []
        for number in numbers[start : start + videos_per_batch]:
            rng = np.random.default_rng([*stream, number])
            picks += draw([tracks[number]], clips_per_video, rng, limits, aligned_pair)
        return collate(picks)

    starts = range(0, len(numbers), videos_per_batch)
    vectors = [np.empty((0, model.config.hidden_size), np.float32)]
    for batch in DataLoader(loop.Loading(load), sampler=starts, batch_size=None, num_workers=workers):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            video, text = model(*(tensor.to(device) for tensor in batch))
        vectors.append(video_vectors(video.float().cpu(), text.float().cpu(), clips_per_video))
    model.train(was_training)
    return np.concatenate(vectors)
