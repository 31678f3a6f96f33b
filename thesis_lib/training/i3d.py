"""The small I3D learns labelled clips of actions outside the 19 classes, as Kinetics taught the one of the thesis."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from thesis_lib.data.video import read_frames
from thesis_lib.extraction import prepare
from thesis_lib.models.i3d import I3DR50
from thesis_lib.training.loop import choose_device, cosine_decay, fit, num_epochs_of, numbered, seed_everything

WINDOW = 21  # frames that a feature sees
MEAN, STD = 0.45, 0.225  # of pixels in 0..1, as pytorchvideo normalises


def train(
    folder: Path,
    *,
    kinetics: Path,
    num_steps: int,
    batch_size: int,
    lr: float,
    warmup: int,
    stem_dim: int,
    frames: int = 21,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Trains I3DR50 on kinetics/videos/*.avi and kinetics/labels.csv; `load(folder)` gives it back.

    size: of a clip in pixels, see `extraction.prepare`. A batch holds random windows of `frames` frames. Every tenth
    clip is held out: history.csv has the accuracy on 21 frames of those.
    """
    seed_everything(seed)
    device = choose_device(device)
    with open(Path(kinetics) / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["label"] for row in rows})
    clips = torch.stack([read_clip(Path(kinetics) / f"videos/{row['video_id']}.avi", size) for row in rows])
    labels = torch.tensor([classes.index(row["label"]) for row in rows])
    held_out = torch.arange(len(rows)) % 10 == 9
    train_clips, train_labels = clips[~held_out], labels[~held_out]

    config = {"stem_dim": stem_dim, "num_classes": len(classes)}
    (Path(folder) / "config.json").write_text(json.dumps({"model": config, "classes": classes}))
    model = I3DR50(**config).to(device, memory_format=torch.channels_last_3d)  # a seventh faster on a CPU

    def load(item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([seed, *item])
        chosen = torch.from_numpy(rng.integers(len(train_clips), size=batch_size))
        start = int(rng.integers(clips.shape[1] - frames + 1))
        return normalise(train_clips[chosen, start : start + frames]), train_labels[chosen]

    def evaluate(epoch: int) -> dict:
        parts = normalise(clips[held_out, :WINDOW]).split(32)
        found = torch.cat([model.logits(part.to(device)).argmax(1).cpu() for part in parts])
        return {"accuracy": (found == labels[held_out]).float().mean().item()}

    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    fit(
        folder,
        model=model,
        optimizer=optimizer,
        scheduler=cosine_decay(optimizer, num_steps, warmup),
        batches=lambda epoch: numbered(epoch, num_steps),
        load=load,
        loss=lambda batch: F.cross_entropy(model.logits(batch[0]), batch[1]),
        num_epochs=num_epochs_of(num_steps),
        evaluate=evaluate,
        seed=seed,
        name="i3d",
    )


def read_clip(path: Path, size: int | None = None) -> torch.Tensor:
    """A whole clip [T, 3, H, W] uint8; size: see `extraction.prepare`."""
    frames = torch.from_numpy(np.stack([frame for _, frame in read_frames(path)]))
    return (prepare(frames, size) * 255).round().byte()


def normalise(clips: torch.Tensor) -> torch.Tensor:
    """[B, T, 3, H, W] uint8 -> [B, 3, T, H, W] float, mean 0.45 and std 0.225 removed."""
    return (clips.movedim(2, 1).float() / 255 - MEAN) / STD


def load(folder: Path) -> I3DR50:
    """The model in eval mode."""
    model = I3DR50(**json.loads((Path(folder) / "config.json").read_text())["model"])
    model.load_state_dict(torch.load(Path(folder) / "weights.pt", weights_only=True))
    return model.eval()
