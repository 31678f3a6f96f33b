"""Pretraining of VideoCLIP on narrated videos: clusters of hard negatives, overlapped pairs, contrastive loss.

Before every epoch FAISS groups videos whose vectors lie close together; a step draws overlapped pairs from
`clusters_per_step` clusters, each a batch of its own, and takes the mean of their gradients: what as many GPUs do with
a cluster each (fairseq examples/MMPT, projects/retri/videoclip/how2.yaml, tasks/retritask.py). Adam and a polynomial
schedule as published; temperature 1, no projection. Processes that torchrun starts share the clusters of a step.
"""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from thesis_lib.data.text import Vocabulary
from thesis_lib.losses import contrastive_loss
from thesis_lib.models.bert_weights import load_bert
from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig
from thesis_lib.retrieval import build_clusters
from thesis_lib.runs import atomic_save
from thesis_lib.training import distributed, loop
from thesis_lib.training.pairs import SpanLimits
from thesis_lib.training.tracks import Collate, Tracks, draw, encode_videos, read_parts

TRAIN, VECTORS, VALIDATION = range(3)  # streams of random numbers, so that one does not shift another


def train(
    folder: Path,
    *,
    features: Path,
    howto: Path,
    vocab: Path,
    bert: Path | str = "",
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
    num_videos: int = 0,
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
    """Trains VideoCLIP; writes weights.pt, config.json, history.csv and clusters.json into `folder`.

    features, howto: see `tracks.read_tracks`, and HowTo100M_v1.csv; vocab: vocab.txt.
    bert: folder of a published BERT that both towers start from, as the official ones do; its sizes then take the place
        of width, text_layers and heads. "" = random weights.
    Length: `num_steps` optimizer steps or `num_epochs` of (training videos / videos_per_cluster) clusters, not both.
    pairs_at_once: a cluster that does not fit in memory is encoded so many pairs at a time, with the gradient of the
        whole (see `encode`); 0 = all at once.
    schedule_steps: where the linear decay ends; 0 = with the last step, published: a million.
    retrieval: "hard" clusters anew before every epoch · "frozen" those of the first epoch until an interruption, as the
        persistent workers of current fairseq keep them · "none" random videos.
    retrieval_shards: how many GPUs the search is split over, each seeing its own share of the videos.
    vector_clips: how many clips of a video make its vector for retrieval; 0 = clips_per_video, as published.
    caption_order: "permuted" moves every caption's text to a random slot of a random video, in validation too.
    num_videos: 0 = all training videos, else so many, spread evenly over the list.
    interruptions, exact_resume: the training stops so many times, evenly spaced, and goes on from what was kept: with
        exact_resume everything, so that it changes nothing; without it the weights alone, and optimizer and schedule
        start anew, as in the thesis.
    loading_workers: processes that draw and load clusters ahead of the training · save_every: see loop.fit.
    history.csv: epoch, loss (training), lr, gradient_norm, steps, pairs (both so far), val_loss (held-out videos in
        consecutive chunks, as published) and val_loss_clusters (the same videos in clusters that the first weights
        retrieve from all of them: hard negatives, the same for every training from these weights).
    Raises ValueError for an unknown choice or too few videos.
    """
    options = SimpleNamespace(**locals())
    _check(options)
    vocabulary = Vocabulary(vocab)
    permute_seed = seed if caption_order == "permuted" else None
    tracks, held_out = read_parts(Path(features), Path(howto), vocabulary, val_videos, seed, permute_seed)
    if num_videos:
        count = min(num_videos, len(tracks))
        tracks = tracks.only(tracks.videos.names[np.arange(count) * len(tracks) // count])
    if len(tracks) < videos_per_cluster:
        raise ValueError(
            f"{features}: {len(tracks)} training videos, fewer than videos_per_cluster={videos_per_cluster}"
        )
    clusters_per_epoch = len(tracks) // videos_per_cluster
    options.steps_per_epoch = -(-clusters_per_epoch // clusters_per_step)
    options.num_steps = num_steps or num_epochs * options.steps_per_epoch
    options.num_epochs = -(-options.num_steps // options.steps_per_epoch)

    loop.seed_everything(seed)
    given = dict(video_layers=video_layers, video_dim=tracks[0].features.shape[1], dropout=dropout)
    given |= dict(cls_id=vocabulary.cls, sep_id=vocabulary.sep)
    if bert:
        start = load_bert(bert, **given)[0]
    else:
        given |= dict(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)
        start = VideoCLIP(VideoCLIPConfig(vocab_size=len(vocabulary), text_layers=text_layers, **given))
    config = start.config
    if distributed.rank() == 0:
        (Path(folder) / "config.json").write_text(json.dumps(asdict(config), indent=1))
    limits = SpanLimits(min_tokens, max_tokens, min_seconds=min_seconds, max_seconds=max_seconds)
    collate = Collate(vocabulary, config.max_video_len)
    stops = _evenly_spaced(interruptions, options.num_epochs)
    for last_epoch in [*stops, options.num_epochs]:
        run = Pretraining(options, start, tracks, held_out, collate, limits, restarts=() if exact_resume else stops)
        run.fit(last_epoch)


@dataclass
class Pretraining:
    """A training from its first step, or from the checkpoint in its folder, to the end of some epoch."""

    options: SimpleNamespace  # the arguments of `train`, with num_steps, steps_per_epoch and num_epochs worked out
    start: VideoCLIP
    tracks: Tracks
    held_out: Tracks
    collate: Collate
    limits: SpanLimits
    restarts: Sequence[int]  # epochs after which all but the weights is lost
    memory: dict = field(default_factory=lambda: {"epoch": 0, "pairs": 0, "clusters": [], "examples": []})

    def __post_init__(self):
        options = self.options
        self.device = loop.choose_device(options.device)
        self.model = deepcopy(self.start).train().to(self.device)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=options.lr, betas=(0.9, 0.98), fused=True)
        steps = options.schedule_steps or options.num_steps
        self.scheduler = loop.polynomial_decay(self.optimizer, steps, options.warmup)
        self.as_new = deepcopy((self.optimizer.state_dict(), self.scheduler.state_dict()))

    def fit(self, last_epoch: int) -> None:
        options = self.options
        loop.fit(
            options.folder,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            batches=self.batches,
            load=self.load,
            loss=self.loss,
            evaluate=self.evaluate,
            num_epochs=last_epoch,
            accumulate=options.clusters_per_step,
            clip_norm=options.clip_norm,
            precision=options.precision,
            seed=options.seed,
            workers=options.loading_workers,
            save_every=options.save_every,
            memory=self.memory,
            name=options.name,
            shown=("loss", "val_loss", "val_loss_clusters"),
        )
        if distributed.rank() == 0:
            text = json.dumps(self.memory["examples"], indent=1)
            atomic_save(Path(options.folder) / "clusters.json", lambda file: file.write(text.encode()))

    def batches(self, epoch: int) -> list[tuple[int, int, list[int]]]:
        """(epoch, number, videos) of each cluster."""
        options, memory = self.options, self.memory
        left = (options.num_steps - (epoch - 1) * options.steps_per_epoch) * options.clusters_per_step
        if memory["epoch"] != epoch:  # else it goes on in the middle of this epoch
            if epoch - 1 in self.restarts:
                self.optimizer.load_state_dict(deepcopy(self.as_new[0]))
                self.scheduler.load_state_dict(deepcopy(self.as_new[1]))
            clusters = self.clusters_of(epoch)
            memory["examples"].append({"epoch": epoch, "videos": [self.tracks.name(index) for index in clusters[0]]})
            memory["pairs"] += sum(map(len, clusters[:left])) * options.clips_per_video
            memory |= {"epoch": epoch, "clusters": clusters}
        return [(epoch, number, cluster) for number, cluster in enumerate(memory["clusters"][:left])]

    def clusters_of(self, epoch: int) -> list[list[int]]:
        options, count = self.options, len(self.tracks) // self.options.videos_per_cluster
        stream = [options.seed, epoch, VECTORS]
        if options.retrieval == "none":
            order = np.random.default_rng(stream).permutation(len(self.tracks))
            return order[: count * options.videos_per_cluster].reshape(count, -1).tolist()
        if options.retrieval == "frozen" and self.memory["clusters"] and epoch - 1 not in self.restarts:
            return [self.memory["clusters"][index] for index in np.random.default_rng(stream).permutation(count)]
        own = self.vectors_of(self.model, self.tracks, stream, distributed.own_share())
        vectors = distributed.collect(own, len(self.tracks))
        return distributed.on_first(lambda: self.search(vectors, count, stream))

    def search(self, vectors: np.ndarray, count: int, stream: Sequence[int]) -> list[list[int]]:
        """On all cores: torchrun gives a process one, and the others wait."""
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
        try:
            return self.group(vectors, count, stream, self.options.retrieval_shards)
        finally:
            faiss.omp_set_num_threads(threads)

    @cached_property
    def held_out_clusters(self) -> list[list[int]]:
        stream, count = [self.options.seed, 0, VALIDATION], len(self.held_out) // self.options.videos_per_cluster
        vectors = self.vectors_of(deepcopy(self.start).to(self.device), self.held_out, stream)
        return self.group(vectors, max(1, count), stream)

    def vectors_of(
        self, model: VideoCLIP, videos: Tracks, stream: Sequence[int], part: slice = slice(None)
    ) -> np.ndarray:
        options = self.options
        clips, workers = options.vector_clips or options.clips_per_video, options.loading_workers
        return encode_videos(model, videos, clips, self.collate, self.limits, stream, part, options.precision, workers)

    def group(self, vectors: np.ndarray, count: int, stream: Sequence[int], shards: int = 1) -> list[list[int]]:
        size, picked = self.options.videos_per_cluster, int(np.random.default_rng(stream).integers(2**31))
        return build_clusters(vectors, count, size, 2 * size, picked, shards=shards)

    def load(self, item: tuple[int, int, list[int]]) -> tuple[torch.Tensor, ...]:
        epoch, number, cluster = item
        rng = np.random.default_rng([self.options.seed, epoch, TRAIN, number])
        return self.collate(self.draw(self.tracks, cluster, rng))

    def draw(self, videos: Tracks, cluster: Sequence[int], rng: np.random.Generator) -> list:
        return draw([videos[index] for index in cluster], self.options.clips_per_video, rng, self.limits)

    def loss(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        return contrastive_loss(*encode(self.model, batch, self.options.pairs_at_once))

    def evaluate(self, epoch: int) -> dict:
        steps = min(self.options.num_steps, epoch * self.options.steps_per_epoch)
        row = {"steps": steps, "pairs": self.memory["pairs"]}
        if self.held_out:
            count, size = len(self.held_out), min(self.options.videos_per_cluster, len(self.held_out))
            chunks = [range(start, start + size) for start in range(0, count - size + 1, size)]
            row["val_loss"] = self.mean_loss(chunks)
            row["val_loss_clusters"] = self.mean_loss(self.held_out_clusters)
        return row

    def mean_loss(self, clusters: Sequence[Sequence[int]]) -> float:
        """Over held-out videos."""
        rng = np.random.default_rng([self.options.seed, 0, VALIDATION])
        loaded = (self.collate(self.draw(self.held_out, cluster, rng)) for cluster in clusters)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
            return float(np.mean([self.loss([t.to(self.device) for t in batch]).item() for batch in loaded]))


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


def load(path: str | Path) -> VideoCLIP:
    """The model in eval mode that `train` left in a folder, or that of a checkpoint file in the official layout."""
    path = Path(path)
    if path.is_file():
        from thesis_lib.models.official import load_official

        return load_official("videoclip", path)[0]
    model = VideoCLIP(VideoCLIPConfig(**json.loads((path / "config.json").read_text())))
    model.load_state_dict(torch.load(path / "weights.pt", map_location="cpu", weights_only=True))
    return model.eval()


def _evenly_spaced(interruptions: int, num_epochs: int) -> list[int]:
    """Epochs after which it stops."""
    stops = {round(num_epochs * number / (interruptions + 1)) for number in range(1, interruptions + 1)}
    return sorted(stops - {0, num_epochs})


def _check(options: SimpleNamespace) -> None:
    for key, known in {"retrieval": ("hard", "frozen", "none"), "caption_order": ("true", "permuted")}.items():
        if getattr(options, key) not in known:
            raise ValueError(f"{key}={getattr(options, key)!r}: choose one of {', '.join(known)}")
    if (options.num_steps > 0) == (options.num_epochs > 0):
        raise ValueError(f"num_steps={options.num_steps}, num_epochs={options.num_epochs}: give one of them")


if __name__ == "__main__":  # by name, not by an import statement: or results would depend on the code of the commands
    main = importlib.import_module("thesis_lib.cli").main
    sys.exit(main(["stage", "pretraining", "recipe=reference", *sys.argv[1:]]))
