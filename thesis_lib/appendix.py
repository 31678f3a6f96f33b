"""The common protocol applied to a system that reads frames: from its stages to the rows of the summary."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch import nn

from thesis_lib import clip_stages, methods, order, params, probes, protocol, seconds, segmentation, stages, systems
from thesis_lib.data import salads
from thesis_lib.training import clip_tuning
from thesis_lib.training.loop import choose_device
from thesis_lib.training.predictions import load_predictions


def add_rows(report, p: SimpleNamespace, method: str) -> None:
    """Add to the report all that the summary says of a system: scores on both grids, costs, order sensitivity."""
    about, root, fps = methods.find(method), stages.salads(p), stages.fps(p)
    rows = dict(root=root, fps=fps, weights="own")
    zero, tuned, base = (
        params.load(stages.NOTEBOOK[name], p.profile) for name in ("control", "fine_tuning", "baseline")
    )
    weights, vocab = clip_stages.weights(p.profile, method), stages.vocabulary(p)
    encoder = methods.load(method, weights, vocab)
    if encoder.has_text:
        for split in zero.splits:
            videos, predictions, targets, _ = zero_shot(p, method, split, zero.prompts)
            row = dict(method=systems.row_name(about.title, systems.ZERO), split=split, epoch=None)
            protocol.add_both_grids(report, videos, predictions, targets, **row, **rows)
    stated = list(enumerate(zip((systems.FEW, systems.MANY), sorted(set(tuned.epochs)), strict=False)))
    for split, folder in zip(tuned.splits, clip_stages.fine_tuning_splits(p.profile, method), strict=True):
        for which, (kind, epoch) in stated:
            videos, predictions, targets = load_predictions(folder, which)
            row = dict(method=systems.row_name(about.title, kind), split=split, epoch=epoch)
            protocol.add_both_grids(report, videos, predictions, targets, **row, **rows)
    for split, folder in zip(base.splits, clip_stages.frozen_splits(p.profile, method), strict=True):
        _, predictions, targets = load_predictions(folder)
        row = dict(method=systems.row_name(about.title, systems.FROZEN), split=split, epoch=base.num_epochs)
        protocol.add_scores(report, predictions, targets, protocol=protocol.FRAMES, weights="own", **row)
    if weights.is_dir():
        parameters = sum(parameter.numel() for parameter in encoder.parameters())
        clips, took = clip_stages.clips_seen(weights), probes.seconds_taken(weights)
        systems.keep_costs(report, about.title, parameters=parameters, clips=clips, seconds=took)
    split = tuned.splits[0]
    systems.keep_order(report, about.title, *order_accuracies(p, method, split), split=split)


@torch.inference_mode()
def zero_shot(p: SimpleNamespace, method: str, split: int, prompts: str = "readable"):
    """(names, predictions [S], targets [S], scores [S, C]) of the test videos of a split, a second at a time.

    Each second gets the class whose text is nearest to its clip; nothing but the clip is seen.
    """
    root, vocab = stages.salads(p), stages.vocabulary(p)
    encoder = methods.load(method, clip_stages.weights(p.profile, method), vocab)
    classes = encoder.embed_texts(segmentation.prompts(salads.class_names(root), prompts)).numpy()
    folder = clip_stages.vectors(p.profile, method, "embed")
    videos = clip_tuning.read_videos(clip_stages.clips(p.profile, method), root, split, "test", stages.fps(p))
    scores = [np.load(folder / f"{v.name}.npy").T[: len(v.labels)] @ classes.T for v in videos]
    return [v.name for v in videos], [s.argmax(1) for s in scores], [v.labels for v in videos], scores


def salad_clips(p: SimpleNamespace, method: str, count: int = 2) -> list[np.ndarray]:
    """The clips [S, T, 3, H, W] uint8 of the first videos of the salads, memory-mapped."""
    files = sorted(clip_stages.clips(p.profile, method).glob("*.npy"))[:count]
    return [np.load(file, mmap_mode="r") for file in files]


def as_clip(clip: np.ndarray) -> torch.Tensor:
    """[T, 3, H, W] uint8 -> [3, T, H, W] float in 0..1."""
    return seconds.as_input(torch.from_numpy(np.array(clip))[None])[0]


def in_words(table: pd.DataFrame) -> str:
    """A sentence for each row of `systems.table`: accuracies of each use that was run."""
    said = []
    for title, row in table.iterrows():
        uses = [f"{kind} {row[kind]:.3f}" if isinstance(row[kind], float) else f"{kind}: {row[kind]}"
                for kind in systems.KINDS if row[kind] is not None]  # fmt: skip
        said.append(f"{title}: {', '.join(uses) or 'not run'}.")
    return " ".join(said)


class Shuffled(nn.Module):
    """A model of clips [B, C, T, H, W] that gets the frames of each clip in a random order of its own."""

    def __init__(self, model: nn.Module, seed: int = 0):
        super().__init__()
        self.model, self.rng = model, np.random.default_rng(seed)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        places = np.argsort(self.rng.random((len(clips), clips.shape[2])), axis=1)
        index = torch.from_numpy(places).to(clips.device)[:, None, :, None, None].expand_as(clips)
        return self.model(clips.gather(2, index))


def order_accuracies(p: SimpleNamespace, method: str, split: int) -> tuple[float, float]:
    """Accuracy of the fine-tuned system on the test seconds of a split, clips as they are and with shuffled frames."""
    model, accuracy = tuned(p, method, split)
    return accuracy(model), accuracy(Shuffled(model))


def tuned(p: SimpleNamespace, method: str, split: int) -> tuple[clip_tuning.Tuned, Callable[[nn.Module], float]]:
    """The fine-tuned system of a split, and the accuracy on its test seconds of any model of the same clips."""
    vocab, device = stages.vocabulary(p), choose_device(p.device)
    folder, weights = clip_stages.fine_tuning(p.profile, method, split), clip_stages.weights(p.profile, method)
    videos = clip_tuning.read_videos(
        clip_stages.clips(p.profile, method), stages.salads(p), split, "test", stages.fps(p)
    )
    targets = np.concatenate([video.labels for video in videos])

    def accuracy(scorer: nn.Module) -> float:
        scorer.to(device)
        predicted = [seconds.encode(scorer, video.clips, device=device).argmax(1) for video in videos]
        return float((np.concatenate(predicted) == targets).mean())

    return clip_tuning.load(folder, weights, vocab), accuracy


def there() -> list[str]:
    """The systems that read frames and whose notebook this report has."""
    return [name for name, method in methods.METHODS.items() if method.notebook in params.notebooks()]


def shuffled_accuracies(p: SimpleNamespace, split: int) -> pd.DataFrame:
    """`order_accuracies` of all systems that are `there`: columns method, frames ("in order", "shuffled"), accuracy."""
    found = {methods.find(name).title: order_accuracies(p, name, split) for name in there()}
    kinds = ("in order", "shuffled")
    rows = [(title, *row) for title, values in found.items() for row in zip(kinds, values, strict=True)]
    return pd.DataFrame(rows, columns=["method", "frames", "accuracy"])


def order_probes(p: SimpleNamespace, others: dict[str, Callable], count: int = 200) -> pd.DataFrame:
    """The two tasks of `order` asked of the frozen features of all systems that are `there`, and of `others`.

    others: {title: clips -> vectors}, asked about clips as those of the last system. Columns method, task, ordered,
    shuffled, sensitivity.
    """
    vocab, rows = stages.vocabulary(p), []
    systems_there = {
        methods.find(name).title: methods.load(name, clip_stages.weights(p.profile, name), vocab) for name in there()
    }
    for title, encoder in (systems_there | others).items():
        about = encoder if title in systems_there else list(systems_there.values())[-1]
        clips, labels = order.order_tasks(np.random.default_rng(p.seed), count, about.frames, about.size)
        for task in order.TASKS:
            values = order.order_sensitivity(encoder, clips, labels[task], np.random.default_rng(p.seed))
            rows.append({"method": title, "task": task} | values)
    return pd.DataFrame(rows)
