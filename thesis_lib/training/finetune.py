"""Fine-tuning of VideoCLIP for action segmentation on one split: a class for every second of windows of 32.

head="classifier" is what the thesis's code does (fairseq examples/MMPT, MMFusionSeparateActionSegmentation with cross
entropy over a fresh linear layer, text tower unused); head="text" is what its text says (dot product with the vectors
of the class names). One video a step, its windows as a batch, Adam, warm-up and linear decay, clipped at 2.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from thesis_lib import segmentation
from thesis_lib.data import salads
from thesis_lib.data.text import Vocabulary
from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig
from thesis_lib.training import epochs, loop, second_labels, videoclip
from thesis_lib.training.predictions import save_predictions


@dataclass(frozen=True)
class Video:
    """A video a second at a time: features [S, D], labels [S]."""

    name: str
    features: torch.Tensor
    labels: torch.Tensor


def train(
    folder: Path,
    *,
    pretrained: Path | str,
    features: Path,
    root: Path,
    vocab: Path,
    split: int,
    fps: float,
    num_videos: int = 0,
    head: str = "classifier",
    freeze_text: bool = False,
    num_epochs: int = 8,
    lr: float = 1e-3,
    warmup: int = 20,
    schedule_steps: int = 1_000_000,
    clip_norm: float = 2.0,
    window: int = 32,
    stride_train: int = 8,
    stride_test: int = 16,
    prompts: str = "readable",
    attend_cls: bool = False,
    seconds_rule: str = "middle",
    evaluate_every: int = 1,
    epoch_choice: str = "last",
    width: int = 64,
    video_layers: int = 2,
    text_layers: int = 2,
    heads: int = 4,
    dropout: float = 0.1,
    seed: int = 0,
    precision: str = "fp32",
    device: str = "auto",
    name: str = "",
) -> None:
    """Writes weights.pt, config.json, history.csv and predictions.npz (a row for every evaluated epoch) into `folder`.

    pretrained: a folder of training.videoclip, an official checkpoint file, or "" for random weights of the size that
        width, video_layers, text_layers, heads and dropout give; with weights the size is theirs.
    features: folder of <video>.npy [seconds, D]; root: labels at `fps` and splits in MS-TCN layout.
    num_videos: 0 = all training videos, else the first so many of a permutation that depends on the seed alone, so
        that fewer videos are a part of more.
    freeze_text: with head="text", class vectors stay those of the pretrained text tower.
    schedule_steps: where the linear decay would end; a million as published leaves the rate constant after the warm-up,
        so that the first 8 of 15 epochs are a run of 8 epochs.
    attend_cls, seconds_rule: see VideoCLIP and metrics.to_seconds; the defaults are the official code's and ours.
    epoch_choice: last, held_out or test_loss, see `epochs`: the epoch that weights.pt is of. Predictions are those of
        every epoch, for `epochs.load_chosen`.
    history.csv: epoch, loss and lr of training; test_loss and accuracy of the test videos, all a second, windows merged
        as in testing; held_out_loss with epoch_choice="held_out".
    """
    folder, decides = Path(folder), epochs.column(epoch_choice)
    train_videos, test_videos = (read_videos(features, root, split, part, fps, seconds_rule) for part in salads.PARTS)
    train_videos = second_labels.some(train_videos, num_videos, seed)
    held_videos = []
    if epoch_choice == "held_out":
        held = epochs.hold_out([video.name for video in train_videos], seed)
        held_videos = [train_videos[place] for place in held]
        train_videos = [video for place, video in enumerate(train_videos) if place not in held]
    class_names, vocabulary = salads.class_names(root), Vocabulary(vocab)

    device = loop.choose_device(device)
    loop.seed_everything(seed)
    if pretrained:
        start = videoclip.load(pretrained)
        config, weights = start.config, start.state_dict()
    else:
        weights = {}
        config = VideoCLIPConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            video_layers=video_layers,
            text_layers=text_layers,
            video_dim=train_videos[0].features.shape[1],
            dropout=dropout,
            cls_id=vocabulary.cls,
            sep_id=vocabulary.sep,
        )
    model = build(config, weights, len(class_names) if head == "classifier" else 0).to(device)
    (folder / "config.json").write_text(json.dumps(asdict(model.config), indent=1))
    ids, mask = (torch.from_numpy(a).to(device) for a in vocabulary.encode(segmentation.prompts(class_names, prompts)))
    class_scores = _head(head, model, ids, mask, len(class_names), freeze_text)

    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=lr, betas=(0.9, 0.98), fused=True
    )
    scheduler = loop.polynomial_decay(optimizer, schedule_steps, warmup)
    memory = {"epochs": [], "predictions": {video.name: [] for video in test_videos}}

    def encode(clips: torch.Tensor, clip_mask: torch.Tensor) -> torch.Tensor:
        return model.encode_video_tokens(clips, clip_mask, attend_cls)

    def batches(epoch: int) -> list[int]:
        return np.random.default_rng([seed, epoch]).permutation(len(train_videos)).tolist()

    def load(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return train_videos[index].features, train_videos[index].labels

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        features, labels = batch
        clips, clip_mask = segmentation.windows(features, window, stride_train)
        targets = segmentation.window_targets(labels, window, stride_train)
        return cross_entropy(class_scores()(encode(clips, clip_mask)).flatten(0, 1), targets.flatten())

    def score(videos: Sequence[Video]) -> tuple[float, float, list[torch.Tensor]]:
        """(cross entropy, accuracy, labels [S] of each video) over all seconds."""
        scores = class_scores()
        logits = [
            segmentation.segment(encode, v.features.to(device), scores, window, stride_test).cpu() for v in videos
        ]
        targets = torch.cat([video.labels for video in videos])
        predicted = [values.argmax(1) for values in logits]
        accuracy = (torch.cat(predicted) == targets).float().mean().item()
        return cross_entropy(torch.cat(logits), targets).item(), accuracy, predicted

    def evaluate(epoch: int) -> dict:
        test_loss, accuracy, predicted = score(test_videos)
        memory["epochs"].append(epoch)
        for video, labels in zip(test_videos, predicted, strict=True):
            memory["predictions"][video.name].append(labels.to(torch.uint8))
        held_out = {"held_out_loss": score(held_videos)[0]} if held_videos else {}
        return {"test_loss": test_loss, "accuracy": accuracy} | held_out

    loop.fit(
        folder,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        batches=batches,
        load=load,
        loss=loss,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        num_epochs=num_epochs,
        clip_norm=clip_norm,
        precision=precision,
        seed=seed,
        memory=memory,
        choose=decides,
        name=name or f"fine-tuning split {split}",
    )
    predictions = {video: torch.stack(rows).numpy() for video, rows in memory["predictions"].items()}
    save_predictions(folder, predictions, {video.name: video.labels.numpy() for video in test_videos})


def read_videos(
    features: str | Path, root: str | Path, split: int, part: str, fps: float, rule: str = "middle"
) -> list[Video]:
    """The videos of one part of a split a second at a time, see `second_labels.read`."""
    read = second_labels.read(
        lambda name: salads.read_features(Path(features) / f"{name}.npy"), root, split, part, fps, rule
    )
    return [
        Video(name, torch.tensor(vectors, dtype=torch.float32), torch.from_numpy(labels))
        for name, vectors, labels in read
    ]


def build(config: VideoCLIPConfig, weights: dict[str, torch.Tensor], num_classes: int = 0) -> VideoCLIP:
    """A VideoCLIP with `weights` (none: random ones) and a fresh token classifier where num_classes is not 0."""
    model = VideoCLIP(replace(config, num_classes=num_classes))
    weights = {key: value for key, value in weights.items() if not key.startswith("video_encoder.classifier.")}
    left = model.load_state_dict(weights, strict=False) if weights else None
    unknown = [key for key in left.missing_keys if "classifier" not in key] + left.unexpected_keys if left else []
    if unknown:
        raise ValueError(f"these weights do not fit their configuration: {unknown[0]} and {len(unknown) - 1} more")
    return model


def _head(
    head: str, model: VideoCLIP, ids: torch.Tensor, mask: torch.Tensor, num_classes: int, freeze_text: bool
) -> Callable:
    """A function without arguments that gives, at this moment of training, tokens [..., H] -> class scores [..., C].

    Also switches off the gradients of what the head does not train.
    """
    if head == "classifier":
        model.text_encoder.requires_grad_(False)
        return lambda: model.video_encoder.classifier
    if head != "text":
        raise ValueError(f"head={head!r}: choose one of classifier, text")
    if freeze_text:
        model.text_encoder.requires_grad_(False)
        with torch.no_grad():
            frozen = segmentation.text_vectors(model.eval().encode_text, ids, mask, num_classes)
        return lambda: lambda tokens: tokens @ frozen.T

    def from_text() -> Callable:
        vectors = segmentation.text_vectors(model.encode_text, ids, mask, num_classes)
        return lambda tokens: tokens @ vectors.T

    return from_text
