"""The common protocol applied to a system that reads frames: from its stages to the rows of the summary."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from thesis_lib import adapters, clip_stages, methods, probes, protocol, seconds, shuffling, stages, systems
from thesis_lib.training.predictions import load_predictions


def add_rows(report, p: SimpleNamespace, method: str) -> None:
    """Add to the report all that the summary says of a system: scores on both grids, costs, order sensitivity."""
    about, root, fps = methods.find(method), stages.salads(p), stages.fps(p)
    rows = dict(root=root, fps=fps, weights="own")
    zero, tuned, base = (stages.of(name, p) for name in ("control", "fine_tuning", "baseline"))
    weights, vocab = clip_stages.weights(p, method), stages.vocabulary(p)
    encoder = methods.load(method, weights, vocab)
    if methods.has_text(method):
        system = _zero_shot(zero, p, method)
        for split in zero.splits:
            videos, predictions, targets, _ = system.predict("reference", split)
            row = dict(method=systems.row_name(about.title, systems.ZERO), split=split, epoch=None)
            protocol.add_both_grids(report, videos, predictions, targets, **row, **rows)
    stated = list(enumerate(systems.stated(tuned.epochs)))
    for split, folder in zip(tuned.splits, clip_stages.fine_tuning_splits(p, method), strict=True):
        for which, (kind, epoch) in stated:
            videos, predictions, targets = load_predictions(folder, which)
            row = dict(method=systems.row_name(about.title, kind), split=split, epoch=epoch)
            protocol.add_both_grids(report, videos, predictions, targets, **row, **rows)
    for split, folder in zip(base.splits, clip_stages.frozen_splits(p, method), strict=True):
        _, predictions, targets = load_predictions(folder)
        row = dict(method=systems.row_name(about.title, systems.FROZEN), split=split, epoch=base.num_epochs)
        protocol.add_scores(report, predictions, targets, protocol=protocol.FRAMES, weights="own", **row)
    costs = dict(parameters=sum(parameter.numel() for parameter in encoder.parameters()))
    if weights.is_dir():  # official files do not tell what they cost
        costs |= dict(clips=clip_stages.clips_seen(weights), seconds=probes.seconds_taken(weights))
    systems.keep_costs(report, about.title, **costs)
    split = tuned.splits[0]
    systems.keep_order(report, about.title, *shuffling.of_frames(p, method, split), split=split)


def text_accuracy(p: SimpleNamespace, method: str, **changed) -> tuple[float, float]:
    """Zero-shot accuracy 0..1 of a system, and of a constant class: test seconds of all splits.

    changed: arguments of its recipe that are other than the system's own.
    """
    zero, right = stages.of("control", p), []
    system = _zero_shot(zero, p, method)
    for split in zero.splits:
        constant = probes.constant_class(system.root, split)
        _, predictions, targets, _ = system.predict_by(changed, split)
        named, true = np.concatenate(predictions), np.concatenate(targets)
        right.append(np.stack([named == true, np.full_like(true, constant) == true]))
    accuracy, of_constant = np.concatenate(right, axis=1).mean(axis=1)
    return float(accuracy), float(of_constant)


def _zero_shot(zero: SimpleNamespace, p: SimpleNamespace, method: str):
    """A system under the parameters of notebook 06, as the recipe of its appendix makes it."""
    return adapters.of(SimpleNamespace(**vars(zero) | {"method": method}), p)


def salad_clips(p: SimpleNamespace, method: str, count: int = 2) -> list[np.ndarray]:
    """The clips [S, T, 3, H, W] uint8 of the first videos of the salads, memory-mapped."""
    files = sorted(clip_stages.clips(p, method).glob("*.npy"))[:count]
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
