"""Training of ASFormer on one split, by the published recipe (ChinaYi/ASFormer, main.py and model.py:330-373).

Adam, a plateau schedule on the summed training loss of an epoch (here its mean: the rule is relative, the same), one
video a step, every `sample_rate`-th frame, feature channels masked at random. What it does not take over: choosing the
epoch on the test split. The last epoch counts; the history shows all of them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from thesis_lib import metrics
from thesis_lib.data import salads
from thesis_lib.losses import segmentation_loss
from thesis_lib.models.asformer import ASFormer
from thesis_lib.runs import atomic_save
from thesis_lib.segmentation import IGNORE
from thesis_lib.training import loop
from thesis_lib.training.predictions import save_predictions


def train(
    folder: Path,
    *,
    features: Path,
    root: Path,
    split: int,
    cut: str = "back",
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
    seed: int = 0,
    precision: str = "fp32",
    device: str = "auto",
    name: str = "",
) -> None:
    """Writes weights.pt, scale.npz, history.csv and predictions.npz (all stages, last epoch) into `folder`.

    features: folder of <video>.npy [D, T]; root: labels and splits in MS-TCN layout; cut: where surplus vectors go.
    standardise: by mean and standard deviation of each channel over the frames of the training videos alone.
    history.csv: epoch, loss (training), lr, test_loss, accuracy_1..S of every stage on all frames of the test videos,
    and of the last stage accuracy, edit_score, f1@10, f1@25, f1@50.
    """
    folder, features = Path(folder), Path(features).resolve()
    train_videos, test_videos = (salads.load_split(root, split, part, features, cut) for part in salads.PARTS)
    num_classes, input_dim = len(salads.class_names(root)), len(train_videos[0].features)
    mean, std = _channel_statistics(train_videos) if standardise else (np.zeros(input_dim), np.ones(input_dim))
    scale = {"mean": mean.astype(np.float32)[:, None], "std": std.astype(np.float32)[:, None]}
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
    memory = {"predictions": {}}

    def collate(videos: Sequence[salads.Video]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features [B, D, T], mask [B, T], targets [B, T] of every sample_rate-th frame, padded to the longest."""
        length = max(-(-len(video.labels) // sample_rate) for video in videos)
        x = np.zeros((len(videos), input_dim, length), np.float32)
        targets = np.full((len(videos), length), IGNORE)
        for row, video in enumerate(videos):
            labels = video.labels[::sample_rate]
            x[row, :, : len(labels)] = (video.features[:, ::sample_rate] - scale["mean"]) / scale["std"]
            targets[row, : len(labels)] = labels
        x, targets = torch.from_numpy(x), torch.from_numpy(targets)
        return x, targets != IGNORE, targets

    def batches(epoch: int) -> list[list[int]]:
        order = np.random.default_rng([seed, epoch]).permutation(len(train_videos)).tolist()
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def loss(batch: tuple) -> torch.Tensor:
        x, mask, targets = batch
        return segmentation_loss(model(x, mask), targets, smoothing)

    def evaluate(epoch: int) -> dict:
        losses = []
        for video in test_videos:
            x, mask, targets = (tensor.to(device) for tensor in collate([video]))
            logits = model(x, mask)
            losses.append(segmentation_loss(logits, targets, smoothing).item())
            labels = logits.argmax(2)[:, 0].to("cpu", torch.uint8)
            memory["predictions"][video.name] = labels.repeat_interleave(sample_rate, 1)[:, : len(video.labels)]
        targets = [video.labels for video in test_videos]
        stages = zip(*(memory["predictions"][video.name].numpy() for video in test_videos), strict=True)
        row = {"test_loss": float(np.mean(losses))}
        for number, predictions in enumerate(stages, 1):
            correct = sum(int((p == y).sum()) for p, y in zip(predictions, targets, strict=True))
            row[f"accuracy_{number}"] = correct / sum(map(len, targets))
        values = metrics.evaluate(predictions, targets)
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
        name=name or f"asformer split {split}",
    )
    save_predictions(folder, memory["predictions"], {video.name: video.labels for video in test_videos})


def _channel_statistics(videos: Sequence[salads.Video]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [D] over all frames, in float64, each video read once.

    Squares are those about a video's own mean, and are joined as Chan, Golub and LeVeque do (1979).
    """
    count, mean, squares = 0, 0.0, 0.0
    for video in videos:
        features = np.asarray(video.features, np.float64)
        more, own = features.shape[1], features.mean(1)
        gap, total = own - mean, count + more
        squares = squares + np.square(features - own[:, None]).sum(1) + gap**2 * count * more / total
        mean, count = mean + gap * more / total, total
    return mean, np.maximum(np.sqrt(squares / count), 1e-6)
