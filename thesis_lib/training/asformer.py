"""Training of ASFormer on one split, by the published recipe (ChinaYi/ASFormer, main.py and model.py:330-373).

Adam, a plateau schedule on the summed training loss of an epoch (here its mean: the rule is relative, the same), one
video a step, every `sample_rate`-th vector, feature channels masked at random. Features may have any width and another
frame rate than the labels (`aligned`). Which epoch counts is told by `epochs`; the history shows all of them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from thesis_lib import metrics
from thesis_lib.data import salads
from thesis_lib.losses import segmentation_loss
from thesis_lib.models.asformer import ASFormer
from thesis_lib.runs import atomic_save
from thesis_lib.segmentation import IGNORE
from thesis_lib.training import aligned, epochs, loop
from thesis_lib.training.predictions import save_predictions

BINS = 15  # of confidence, in reliability.csv


def train(
    folder: Path,
    *,
    features: Path,
    root: Path,
    split: int,
    cut: str = "back",
    fps: float = 30.0,
    feature_rate: float = 0.0,
    num_epochs: int = 15,
    lr: float = 5e-4,
    weight_decay: float = 1e-5,
    sample_rate: int = 2,
    num_layers: int = 10,
    num_decoders: int = 3,
    num_f_maps: int = 64,
    channel_masking_rate: float = 0.3,
    window: str = "centred",
    smoothing: float = 0.15,
    standardise: bool = True,
    batch_size: int = 1,
    evaluate_every: int = 1,
    epoch_choice: str = "last",
    seed: int = 0,
    precision: str = "fp32",
    device: str = "auto",
    name: str = "",
) -> None:
    """Writes weights.pt, scale.npz, history.csv, predictions.npz and reliability.csv into `folder`.

    features: folder of <video>.npy [D, T]; root: labels at `fps` and splits in MS-TCN layout; cut: where surplus
    vectors go. feature_rate: vectors a second, 0: found from the lengths; [T, D] and other rates: see `aligned`.
    standardise: by mean and standard deviation of each channel over the vectors of the training videos alone.
    epoch_choice: last, held_out or test_loss, see `epochs`: of that epoch are weights, predictions (of all stages, for
    every frame) and reliability (a row a stage and bin of confidence: frames, their mean confidence, accuracy).
    history.csv: epoch, loss (training), lr, test_loss, accuracy_1..S of every stage on all frames of the test videos,
    and of the last stage accuracy, edit_score, f1@10, f1@25, f1@50; held_out_loss with epoch_choice="held_out".
    """
    folder, features, decides = Path(folder), Path(features).resolve(), epochs.column(epoch_choice)
    videos = aligned.load_split(root, split, features, cut=cut, fps=fps, rate=feature_rate)
    train_videos, held_videos, test_videos = videos["train"], [], videos["test"]
    if epoch_choice == "held_out":
        held = epochs.hold_out([video.name for video in train_videos], seed)
        held_videos = [train_videos[place] for place in held]
        train_videos = [video for place, video in enumerate(train_videos) if place not in held]
    num_classes, input_dim = len(salads.class_names(root)), len(train_videos[0].features)
    scale = dict(zip(("mean", "std"), _channel_statistics(train_videos), strict=True)) if standardise else {}
    atomic_save(folder / "scale.npz", lambda file: np.savez(file, **scale))

    device = loop.choose_device(device)
    loop.seed_everything(seed)
    model = ASFormer(
        num_classes,
        input_dim,
        num_layers,
        num_decoders,
        num_f_maps,
        channel_masking_rate=channel_masking_rate,
        window=window,
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor=0.5, patience=3)
    memory = {"lowest": float("inf"), "predictions": {}, "reliability": None}

    def collate(videos: Sequence[aligned.Video]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features [B, D, T], mask [B, T], targets [B, T] of every sample_rate-th vector, padded to the longest."""
        length = max(-(-len(video.targets) // sample_rate) for video in videos)
        x = np.zeros((len(videos), input_dim, length), np.float32)
        targets = np.full((len(videos), length), IGNORE)
        for row, video in enumerate(videos):
            labels = video.targets[::sample_rate]
            seen = x[row, :, : len(labels)]
            seen[:] = video.features[:, ::sample_rate]
            if scale:
                seen -= scale["mean"]
                seen /= scale["std"]
            targets[row, : len(labels)] = labels
        x, targets = torch.from_numpy(x), torch.from_numpy(targets)
        return x, targets != IGNORE, targets

    def batches(epoch: int) -> list[list[int]]:
        order = np.random.default_rng([seed, epoch]).permutation(len(train_videos)).tolist()
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def loss(batch: tuple) -> torch.Tensor:
        x, mask, targets = batch
        return segmentation_loss(model(x, mask), targets, smoothing)

    def tested(videos: Sequence[aligned.Video]) -> tuple[float, list[torch.Tensor]]:
        """Mean loss, and of each video the probabilities [S, C, T] of its seen vectors."""
        losses, probabilities = [], []
        for video in videos:
            x, mask, targets = (tensor.to(device) for tensor in collate([video]))
            logits = model(x, mask)
            losses.append(segmentation_loss(logits, targets, smoothing).item())
            probabilities.append(logits[:, 0].softmax(1).cpu())
        return float(np.mean(losses)), probabilities

    def evaluate(epoch: int) -> dict:
        test_loss, probabilities = tested(test_videos)
        row = {"test_loss": test_loss} | ({"held_out_loss": tested(held_videos)[0]} if held_videos else {})
        targets, labels, counts = [video.labels for video in test_videos], {}, 0
        for video, values in zip(test_videos, probabilities, strict=True):
            sure, best = (found[:, video.places // sample_rate].numpy() for found in values.max(1))
            labels[video.name] = torch.from_numpy(best.astype(np.uint8))
            counts += np.stack(
                [metrics.reliability(*one, BINS) for one in zip(sure, best == video.labels, strict=True)]
            )
        for number, predictions in enumerate(zip(*(one.numpy() for one in labels.values()), strict=True), 1):
            correct = sum(int((p == y).sum()) for p, y in zip(predictions, targets, strict=True))
            row[f"accuracy_{number}"] = correct / sum(map(len, targets))
        values = metrics.evaluate(predictions, targets)
        if not decides or row[decides] < memory["lowest"]:
            memory.update(lowest=row.get(decides, 0.0), predictions=labels, reliability=torch.from_numpy(counts))
        return row | {key: values[key] for key in ("accuracy", "edit_score", "f1@10", "f1@25", "f1@50")}

    loop.fit(
        folder,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        batches=batches,
        load=lambda indices: collate([train_videos[index] for index in indices]),
        loss=loss,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        num_epochs=num_epochs,
        precision=precision,
        seed=seed,
        memory=memory,
        choose=decides,
        name=name or f"asformer split {split}",
    )
    save_predictions(folder, memory["predictions"], {video.name: video.labels for video in test_videos})
    _save_reliability(folder, memory["reliability"].numpy())


def _save_reliability(folder: Path, counts: np.ndarray) -> None:
    """counts [S, bins, 3] of `metrics.reliability` -> a row a stage and bin that has frames."""
    stages, bins, _ = counts.shape
    stage, place = np.indices((stages, bins)).reshape(2, -1)
    frames, confidence, correct = counts.reshape(-1, 3).T
    table = pd.DataFrame({"stage": stage + 1, "bin": place, "frames": frames.astype(int)})
    table = table.assign(confidence=confidence, accuracy=correct)[frames > 0]
    table[["confidence", "accuracy"]] = table[["confidence", "accuracy"]].div(table["frames"], axis=0)
    atomic_save(folder / "reliability.csv", lambda file: table.to_csv(file, index=False))


def _channel_statistics(videos: Sequence[aligned.Video], channels: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [D, 1] over all vectors; every file is read once, so many channels in memory.

    In float64; videos are merged by their means and squared deviations (Chan, Golub, LeVeque 1979).
    """
    count, mean, squares = 0, 0.0, 0.0
    for video in videos:
        features = video.features
        blocks = [features[start : start + channels] for start in range(0, len(features), channels)]
        own = [(x.mean(1), np.square(x - x.mean(1, keepdims=True)).sum(1)) for x in map(np.float64, blocks)]
        own_mean, own_squares = (np.concatenate(parts) for parts in zip(*own, strict=True))
        new = features.shape[1]
        away, count = own_mean - mean, count + new
        mean = mean + away * new / count
        squares = squares + own_squares + np.square(away) * new * (count - new) / count
    return mean[:, None].astype(np.float32), np.maximum(np.sqrt(squares / count), 1e-6)[:, None].astype(np.float32)
