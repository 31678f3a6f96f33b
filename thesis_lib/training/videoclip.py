"""Pretraining of VideoCLIP on narrated videos: clusters of hard negatives, overlapped pairs, contrastive loss.

Before every epoch FAISS groups videos whose vectors lie close together; a step draws overlapped pairs from
`clusters_per_step` clusters, each a batch of its own, and takes the mean of their gradients: what as many GPUs do with
a cluster each (fairseq examples/MMPT, projects/retri/videoclip/how2.yaml, tasks/retritask.py). Adam and a polynomial
schedule as published; temperature 1, no projection. Processes that torchrun starts share the clusters of a step.
"""

import importlib
import json
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from thesis_lib.data.howto100m import Captions, load_videos, read_captions, read_metadata, train_val_split
from thesis_lib.data.text import Vocabulary
from thesis_lib.losses import contrastive_loss
from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig
from thesis_lib.retrieval import build_clusters, video_vectors
from thesis_lib.runs import atomic_save
from thesis_lib.training import distributed, loop
from thesis_lib.training.pairs import Pair, SpanLimits, aligned_pair, overlapped_pair, permute_texts

MAX_WORD_PIECES = 61  # of a text: 96 positions less 32 of video less [CLS] and two [SEP]
PRELOAD_BELOW = 2**31  # bytes of features; larger ones stay memory-mapped
TRAIN, VECTORS, VALIDATION = range(3)  # streams of random numbers, so that one does not shift another


@dataclass(frozen=True)
class Track:
    """A narrated video: features [seconds, D], captions, and the word piece ids of each caption."""

    name: str
    features: np.ndarray
    captions: Captions
    tokens: list[list[int]]
    lengths: list[int]


def train(
    folder: Path,
    *,
    features: Path,
    howto: Path,
    vocab: Path,
    width: int = 64,
    video_layers: int = 2,
    text_layers: int = 2,
    heads: int = 4,
    dropout: float = 0.1,
    videos_per_cluster: int = 16,
    clips_per_video: int = 6,
    clusters_per_step: int = 1,
    pairs_at_once: int = 0,
    num_steps: int = 0,
    num_epochs: int = 0,
    lr: float = 2e-3,
    warmup: int = 20,
    schedule_steps: int = 0,
    clip_norm: float = 2.0,
    retrieval: str = "hard",
    retrieval_shards: int = 1,
    vector_clips: int = 0,
    caption_order: str = "true",
    interruptions: int = 0,
    exact_resume: bool = True,
    val_videos: int = 32,
    min_tokens: int = 8,
    max_tokens: int = 64,
    min_seconds: int = 3,
    max_seconds: int = 32,
    seed: int = 0,
    precision: str = "fp32",
    device: str = "auto",
    loading_workers: int = 0,
    save_every: float = 600.0,
    name: str = "videoclip",
) -> None:
    """Trains from random weights; writes weights.pt, config.json, history.csv and clusters.json into `folder`.

    features: <video>.npy [seconds, D]; howto: folder with raw_caption.json and HowTo100M_v1.csv; vocab: vocab.txt.
    Length: `num_steps` optimizer steps or `num_epochs` of (training videos / videos_per_cluster) clusters, not both.
    pairs_at_once: a cluster that does not fit in memory is encoded so many pairs at a time, with the gradient of the
        whole (see `encode`); 0 = all at once.
    schedule_steps: where the linear decay ends; 0 = with the last step, published: a million.
    retrieval: "hard" clusters anew before every epoch · "frozen" those of the first epoch until an interruption, as the
        persistent workers of current fairseq keep them · "none" random videos.
    retrieval_shards: how many GPUs the search is split over, each seeing its own share of the videos.
    vector_clips: how many clips of a video make its vector for retrieval; 0 = clips_per_video, as published.
    caption_order: "permuted" moves every caption's text to a random slot of a random video, in validation too.
    interruptions, exact_resume: with exact_resume=False optimizer and schedule start anew after each of so many evenly
        spaced stops; with True a stop changes nothing, so there is nothing to do.
    loading_workers: processes that draw and load clusters ahead of the training · save_every: see loop.fit.
    history.csv: epoch, loss (training), lr, gradient_norm, steps, pairs (both so far), val_loss (held-out videos in
        consecutive chunks, as published) and val_loss_clusters (the same videos in retrieved clusters, comparable with
        loss).
    Raises ValueError for an unknown choice or too few videos.
    """
    folder, features, howto = Path(folder), Path(features), Path(howto)
    _check(retrieval, caption_order, num_steps, num_epochs)
    vocabulary = Vocabulary(vocab)
    tracks = read_tracks(features, howto, vocabulary, seed if caption_order == "permuted" else None)
    tracks, held_out = _split(tracks, howto, val_videos, seed)
    if len(tracks) < videos_per_cluster:
        raise ValueError(
            f"{features}: {len(tracks)} training videos, fewer than videos_per_cluster={videos_per_cluster}"
        )

    clusters_per_epoch = len(tracks) // videos_per_cluster
    steps_per_epoch = -(-clusters_per_epoch // clusters_per_step)
    num_steps = num_steps or num_epochs * steps_per_epoch
    num_epochs = -(-num_steps // steps_per_epoch)
    restarts = set() if exact_resume else _evenly_spaced(interruptions, num_epochs)

    config = VideoCLIPConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        video_layers=video_layers,
        text_layers=text_layers,
        video_dim=tracks[0].features.shape[1],
        dropout=dropout,
        cls_id=vocabulary.cls,
        sep_id=vocabulary.sep,
    )
    if distributed.rank() == 0:
        (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))
    device = loop.choose_device(device)
    loop.seed_everything(seed)
    model = VideoCLIP(config).to(device)
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=lr, betas=(0.9, 0.98), fused=True
    )
    scheduler = loop.polynomial_decay(optimizer, schedule_steps or num_steps, warmup)
    as_new = deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    limits = SpanLimits(min_tokens, max_tokens, min_seconds=min_seconds, max_seconds=max_seconds)
    collate = Collate(vocabulary, config.max_video_len)
    memory = {"epoch": 0, "pairs": 0, "clusters": [], "examples": []}

    def vectors_of(videos: Sequence[Track], stream: Sequence[int], part: slice = slice(None)) -> np.ndarray:
        return encode_videos(model, videos, vector_clips or clips_per_video, collate, limits, stream, part, precision)

    def group(vectors: np.ndarray, count: int, stream: Sequence[int]) -> list[list[int]]:
        picked = int(np.random.default_rng(stream).integers(2**31))
        return build_clusters(
            vectors, count, videos_per_cluster, 2 * videos_per_cluster, picked, shards=retrieval_shards
        )

    def clusters_of(epoch: int) -> list[list[int]]:
        if retrieval == "none":
            order = np.random.default_rng([seed, epoch, VECTORS]).permutation(len(tracks))
            return order[: clusters_per_epoch * videos_per_cluster].reshape(clusters_per_epoch, -1).tolist()
        if retrieval == "frozen" and memory["clusters"] and epoch not in restarts:
            order = np.random.default_rng([seed, epoch, VECTORS]).permutation(clusters_per_epoch)
            return [memory["clusters"][index] for index in order]
        stream = [seed, epoch, VECTORS]
        vectors = distributed.interleave(vectors_of(tracks, stream, distributed.own_share()), len(tracks))
        return distributed.on_first(lambda: group(vectors, clusters_per_epoch, stream))

    def batches(epoch: int) -> list[tuple[int, int, list[int]]]:
        steps_left = num_steps - (epoch - 1) * steps_per_epoch
        if memory["epoch"] != epoch:  # else the run goes on in the middle of this epoch
            if epoch in restarts:
                optimizer.load_state_dict(deepcopy(as_new[0]))
                scheduler.load_state_dict(deepcopy(as_new[1]))
            memory["clusters"] = clusters = clusters_of(epoch)
            memory["epoch"] = epoch
            memory["examples"].append({"epoch": epoch, "videos": [tracks[index].name for index in clusters[0]]})
            memory["pairs"] += sum(map(len, clusters[: steps_left * clusters_per_step])) * clips_per_video
        clusters = memory["clusters"][: steps_left * clusters_per_step]
        return [(epoch, number, cluster) for number, cluster in enumerate(clusters)]

    def load(item: tuple[int, int, list[int]]) -> tuple[torch.Tensor, ...]:
        epoch, number, cluster = item
        rng = np.random.default_rng([seed, epoch, TRAIN, number])
        return collate(draw([tracks[index] for index in cluster], clips_per_video, rng, limits))

    def loss(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return contrastive_loss(*encode(model, batch, pairs_at_once))

    def mean_loss(clusters: Sequence[Sequence[int]]) -> float:
        rng = np.random.default_rng([seed, 0, VALIDATION])
        picked = (draw([held_out[index] for index in cluster], clips_per_video, rng, limits) for cluster in clusters)
        loaded = ([tensor.to(device) for tensor in collate(picks)] for picks in picked)
        return float(np.mean([loss(batch).item() for batch in loaded]))

    def evaluate(epoch: int) -> dict:
        row = {"steps": min(num_steps, epoch * steps_per_epoch), "pairs": memory["pairs"]}
        if held_out:
            size, stream = min(videos_per_cluster, len(held_out)), [seed, 0, VALIDATION]
            chunks = [range(start, start + size) for start in range(0, len(held_out) - size + 1, size)]
            row["val_loss"] = mean_loss(chunks)
            row["val_loss_clusters"] = mean_loss(group(vectors_of(held_out, stream), len(chunks), stream))
        return row

    loop.fit(
        folder,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        batches=batches,
        load=load,
        loss=loss,
        evaluate=evaluate,
        num_epochs=num_epochs,
        accumulate=clusters_per_step,
        clip_norm=clip_norm,
        precision=precision,
        seed=seed,
        workers=loading_workers,
        save_every=save_every,
        memory=memory,
        name=name,
        shown=("loss", "val_loss", "val_loss_clusters"),
    )
    if distributed.rank() == 0:
        text = json.dumps(memory["examples"], indent=1)
        atomic_save(folder / "clusters.json", lambda file: file.write(text.encode()))


def load(path: str | Path) -> VideoCLIP:
    """The model in eval mode that `train` left in a folder, or that of a checkpoint file in the official layout."""
    path = Path(path)
    if path.is_file():
        from thesis_lib.models.official import load_official

        return load_official("videoclip", path)[0]
    model = VideoCLIP(VideoCLIPConfig(**json.loads((path / "config.json").read_text())))
    model.load_state_dict(torch.load(path / "weights.pt", map_location="cpu", weights_only=True))
    return model.eval()


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


def draw(
    tracks: Sequence[Track], clips_per_video: int, rng: np.random.Generator, limits: SpanLimits, make=overlapped_pair
) -> list[tuple[Track, Pair]]:
    """`clips_per_video` positive pairs of each video, those of a video in a row."""
    return [
        (track, make(track.captions, track.lengths, len(track.features), rng, limits))
        for track in tracks
        for _ in range(clips_per_video)
    ]


def encode(
    model: VideoCLIP, batch: Sequence[torch.Tensor], pairs_at_once: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both vectors of B pairs ([B, H], [B, H]), with memory for the activations of `pairs_at_once` pairs alone.

    The loss needs all vectors of a cluster, the towers one pair at a time: chunks are encoded without keeping their
    activations, and once more, with the same dropout, when the gradient at their vectors is known (Gao et al., Scaling
    Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021).
    """
    if not 0 < pairs_at_once < len(batch[0]):
        return model(*batch)
    chunks = zip(*(tensor.split(pairs_at_once) for tensor in batch), strict=True)
    video, text = zip(*(checkpoint(model, *chunk, use_reentrant=False) for chunk in chunks), strict=True)
    return torch.cat(video), torch.cat(text)


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


def _split(tracks: list[Track], howto: Path, val_videos: int, seed: int) -> tuple[list[Track], list[Track]]:
    """(training, held-out) videos, the same share of every category in both."""
    if not val_videos:
        return tracks, []
    names = [track.name for track in tracks]
    _, held_out = train_val_split(read_metadata(howto / "HowTo100M_v1.csv"), names, val_videos, seed)
    held_out = set(held_out)
    return [t for t in tracks if t.name not in held_out], [t for t in tracks if t.name in held_out]


def _evenly_spaced(interruptions: int, num_epochs: int) -> set[int]:
    """Epochs that begin after a stop: never the first one."""
    stops = {1 + round(num_epochs * number / (interruptions + 1)) for number in range(1, interruptions + 1)}
    return stops - {1}


def _check(retrieval: str, caption_order: str, num_steps: int, num_epochs: int) -> None:
    choices = {
        "retrieval": (retrieval, ("hard", "frozen", "none")),
        "caption_order": (caption_order, ("true", "permuted")),
    }
    for key, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{key}={value!r}: choose one of {', '.join(known)}")
    if (num_steps > 0) == (num_epochs > 0):
        raise ValueError(f"num_steps={num_steps}, num_epochs={num_epochs}: give one of them")


if __name__ == "__main__":  # by name, not by an import statement: or results would depend on the code of the commands
    main = importlib.import_module("thesis_lib.cli").main
    sys.exit(main(["stage", "pretraining", "recipe=reference", *sys.argv[1:]]))
