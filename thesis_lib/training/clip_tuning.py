"""Fine-tuning of a system that reads frames for action segmentation on one split: a class for every second.

The counterpart of `finetune`, which does the same for VideoCLIP: the same videos, epochs, heads and grid. Every second
is a clip (`seconds`) and decided by itself. head="classifier" is a fresh linear layer on the encoder's features;
head="text" compares the clip with the class names in the encoder's own space, which needs a text tower.

The recipe by which VideoMAE was fine-tuned as published (Tong et al., NeurIPS 2022, table 12; MCG-NJU/VideoMAE
run_class_finetuning.py) can be switched on part by part, for any system: layer_decay 0.75, stochastic_depth 0.1,
label_smoothing 0.1, mixup 0.8, cutmix 1.0, augment, fc_norm, cosine. Of it are not here: random resized crops and
mirror images, several augmentations of one clip in a batch, and AdamW's second beta of 0.999 without weight decay for
biases and norms; and the LayerNorm after the last block stays.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from thesis_lib import methods, seconds
from thesis_lib.data import salads
from thesis_lib.models.stochastic_depth import set_chances
from thesis_lib.training import loop, second_labels
from thesis_lib.training.augmentation import Augmentation
from thesis_lib.training.layer_decay import parameter_groups
from thesis_lib.training.mixing import mix
from thesis_lib.training.predictions import save_predictions

TEMPERATURE = 0.05  # of the products of unit vectors under head="text"
HEAD_START = 0.02 * 0.001  # deviation of the weights under fc_norm: the usual one, times the published init_scale


@dataclass(frozen=True)
class Video:
    """A video a second at a time: clips [S, T, 3, H, W] uint8 (memory-mapped), labels [S]."""

    name: str
    clips: np.ndarray
    labels: np.ndarray


class Tuned(nn.Module):
    """An encoder with a head: clips [B, 3, T, H, W] in 0..1 -> class scores [B, C]."""

    def __init__(
        self, encoder: nn.Module, classes: Sequence[str], head: str, prompts: str = "readable", fc_norm: bool = False
    ):
        super().__init__()
        if head not in ("classifier", "text"):
            raise ValueError(f"head={head!r}: choose one of classifier, text")
        if head == "text" and not encoder.has_text:
            raise ValueError('head="text": this system has no text tower, choose "classifier"')
        self.encoder, self.classes, self.prompts = encoder, list(classes), prompts
        # Features of one system are a thousand times those of another: standardised, as VideoMAE's linear probes are.
        norm = nn.LayerNorm(encoder.dim, eps=1e-6) if fc_norm else nn.BatchNorm1d(encoder.dim, affine=False)
        self.head = nn.Sequential(norm, nn.Linear(encoder.dim, len(self.classes)))
        if fc_norm:
            nn.init.normal_(self.head[1].weight, std=HEAD_START)
            nn.init.zeros_(self.head[1].bias)
        if head == "text":
            self.head = None

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        if self.head is not None:
            return self.head(self.encoder.features(clips))
        texts = methods.class_vectors(self.encoder, self.classes, self.prompts)
        return self.encoder.embed(clips) @ texts.T / TEMPERATURE


def train(
    folder: Path,
    *,
    method: str,
    pretrained: Path,
    vocab: Path,
    clips: Path,
    root: Path,
    split: int,
    fps: float,
    head: str = "classifier",
    num_epochs: int = 15,
    epochs: Sequence[int] = (8, 15),
    clips_per_video: int = 0,
    num_videos: int = 0,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    layer_decay: float = 1.0,
    stochastic_depth: float | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    augment: bool = False,
    fc_norm: bool = False,
    cosine: bool = False,
    warmup: int = 20,
    clip_norm: float = 1.0,
    batch_size: int = 32,
    prompts: str = "readable",
    seconds_rule: str = "middle",
    seed: int = 0,
    precision: str = "fp32",
    device: str = "auto",
    name: str = "",
) -> None:
    """Writes weights.pt, head.json, history.csv and predictions.npz (a row for each of `epochs`) into `folder`.

    method, pretrained: a system and its weights (`methods.load`) · clips: folder of <video>.npy (`seconds`) · root:
    labels at `fps` and splits in MS-TCN layout · clips_per_video: seconds of a training video that an epoch passes,
    drawn anew each time; 0 is all of them · num_videos: 0 = all training videos, else the first so many of a
    permutation that depends on the seed alone · seconds_rule: see `metrics.to_seconds`.
    layer_decay: see `layer_decay` · stochastic_depth: of the encoder's last layer, see `stochastic_depth`; None leaves
    what it was pretrained with · mixup, cutmix: see `mixing` · augment: see `augmentation`; training clips alone ·
    fc_norm: LayerNorm and a classifier that begins near 0, as published, in place of standardised features · cosine:
    the learning rate ends at 0 after num_epochs.
    Batches of batch_size clips of all videos, AdamW, linear warm-up; without cosine the rate is constant after it, so
    that the first 8 of 15 epochs are a run of 8 epochs.
    history.csv: epoch, loss and lr of training, the loss that of mixed and smoothed labels, the lr that of the head; at
    `epochs` test_loss and accuracy of the test videos, all a second.
    """
    folder = Path(folder)
    train_videos, test_videos = (read_videos(clips, root, split, part, fps, seconds_rule) for part in salads.PARTS)
    train_videos = second_labels.some(train_videos, num_videos, seed)
    classes = salads.class_names(root)
    device = loop.choose_device(device)
    loop.seed_everything(seed)
    model = Tuned(methods.load(method, pretrained, vocab), classes, head, prompts, fc_norm).to(device)
    if stochastic_depth is not None:
        set_chances(model.encoder, stochastic_depth)
    about = {"method": method, "head": head, "classes": classes, "prompts": prompts, "fc_norm": fc_norm}
    (folder / "head.json").write_text(json.dumps(about, indent=1))

    memory = {"predictions": {video.name: [] for video in test_videos}}
    augmentation = Augmentation() if augment else None

    def batches(epoch: int) -> list[list[tuple[int, int]]]:
        """(video, second) of each clip of each batch."""
        rng, chosen = np.random.default_rng([seed, epoch]), []
        for number, video in enumerate(train_videos):
            drawn = rng.permutation(len(video.labels))[: clips_per_video or None]
            chosen += [(number, second) for second in drawn.tolist()]
        order = rng.permutation(len(chosen)).tolist()
        starts = range(0, max(1, len(order) - 1), batch_size)  # a last clip alone has no variance: it is left out
        return [[chosen[place] for place in order[start : start + batch_size]] for start in starts]

    def load(items: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        shown = np.stack([train_videos[number].clips[second] for number, second in items])
        labels = [train_videos[number].labels[second] for number, second in items]
        return torch.from_numpy(shown), torch.tensor(labels)

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        shown, labels = seconds.as_input(batch[0]), batch[1]
        if augmentation:
            shown = augmentation(shown)
        shown, targets = mix(shown, labels, len(classes), mixup, cutmix)
        return cross_entropy(model(shown).float(), targets, label_smoothing=label_smoothing)

    def evaluate(epoch: int) -> dict:
        if epoch not in epochs:
            return {}
        scores = [torch.from_numpy(score_video(model, video.clips, device)) for video in test_videos]
        targets = torch.from_numpy(np.concatenate([video.labels for video in test_videos]))
        for video, values in zip(test_videos, scores, strict=True):
            memory["predictions"][video.name].append(values.argmax(1).to(torch.uint8))
        pooled = torch.cat(scores)
        correct = (pooled.argmax(1) == targets).float().mean().item()
        return {"test_loss": cross_entropy(pooled, targets).item(), "accuracy": correct}

    groups = parameter_groups(model, lr, layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98), fused=True)
    scheduler = loop.polynomial_decay(optimizer, 1_000_000, warmup)
    if cosine:
        scheduler = loop.cosine_decay(optimizer, num_epochs * len(batches(1)), warmup)
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
        clip_norm=clip_norm,
        precision=precision,
        seed=seed,
        memory=memory,
        name=name or f"{method} split {split}",
    )
    predictions = {video: torch.stack(rows).numpy() for video, rows in memory["predictions"].items()}
    save_predictions(folder, predictions, {video.name: video.labels for video in test_videos})


def score_video(model: nn.Module, clips: np.ndarray, device="cpu") -> np.ndarray:
    """Class scores [S, C] of the clips of a video."""
    return seconds.encode(model, clips, device=device)


def load(folder: Path, pretrained: Path, vocab: Path) -> Tuned:
    """What `train` left in `folder`, in eval mode; pretrained: the weights it started from, which tell the sizes."""
    about = json.loads((Path(folder) / "head.json").read_text())
    encoder = methods.load(about["method"], pretrained, vocab)
    model = Tuned(encoder, about["classes"], about["head"], about["prompts"], about["fc_norm"])
    model.load_state_dict(torch.load(Path(folder) / "weights.pt", weights_only=True))
    return model.eval()


def read_videos(
    clips: str | Path, root: str | Path, split: int, part: str, fps: float, rule: str = "middle"
) -> list[Video]:
    """The videos of one part of a split a second at a time, see `second_labels.read`; clips stay in their files."""

    def shown(name: str) -> np.ndarray:
        path = Path(clips) / f"{name}.npy"
        if not path.is_file():
            raise ValueError(f"{path}: clips missing (no video of this name, or one that cannot be read)")
        return np.load(path, mmap_mode="r")

    return [Video(*one) for one in second_labels.read(shown, root, split, part, fps, rule)]
