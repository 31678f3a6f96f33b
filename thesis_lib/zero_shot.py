"""Zero-shot segmentation: class names through the text tower, windows of video through the video tower, dot product."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from thesis_lib import segmentation
from thesis_lib.data import salads
from thesis_lib.data.text import Vocabulary
from thesis_lib.models.videoclip import VideoCLIP
from thesis_lib.runs import atomic_save
from thesis_lib.training.finetune import read_videos
from thesis_lib.training.videoclip import load


def class_vectors(model: VideoCLIP, root: Path, vocab: Path, prompts: str = "readable") -> torch.Tensor:
    """[C, H]: the pooled text vector of each class name of root/mapping.txt, in the style of `segmentation.prompts`."""
    names = salads.class_names(root)
    ids, mask = map(torch.from_numpy, Vocabulary(vocab).encode(segmentation.prompts(names, prompts)))
    with torch.no_grad():
        return segmentation.text_vectors(model.encode_text, ids, mask, len(names))


def predict(
    weights: Path,
    *,
    features: Path,
    root: Path,
    split: int,
    vocab: Path,
    fps: float,
    window: int = 32,
    stride: int = 16,
    prompts: str = "readable",
    seconds_rule: str = "middle",
) -> tuple[list[str], list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """(names, predictions [S], targets [S], scores [S, C]) of the test videos of a split, a second at a time.

    No class is background: each second gets the class of the largest dot product. [CLS] is masked out of the video
    tower, as the official predictor does (fairseq examples/MMPT, evaluators/predictor.py). seconds_rule: how labels of
    frames become those of seconds, see `metrics.to_seconds`.
    """
    model = load(weights)
    classes = class_vectors(model, root, vocab, prompts)
    videos = read_videos(features, root, split, "test", fps, seconds_rule)

    def encode(clips: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model.encode_video_tokens(clips, mask, attend_cls=False)

    scores = [segmentation.segment(encode, video.features, classes, window, stride).numpy() for video in videos]
    return [v.name for v in videos], [s.argmax(1) for s in scores], [v.labels.numpy() for v in videos], scores


@torch.inference_mode()
def extract_tokens(folder: Path, *, weights: Path, features: Path, window: int = 32, stride: int = 16) -> None:
    """<video>.npy [S, H] of every file of `features`: the video tower's vectors of single seconds, frozen.

    Windows overlap and are averaged as the scores of `predict` are, which are products with these vectors.
    """
    model = load(weights)

    def encode(clips: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model.encode_video_tokens(clips, mask, attend_cls=False)

    for path in sorted(Path(features).glob("*.npy")):
        seconds = torch.tensor(salads.read_features(path), dtype=torch.float32)
        tokens = segmentation.segment(encode, seconds, lambda tokens: tokens, window, stride)
        atomic_save(Path(folder) / path.name, partial(np.save, arr=tokens.numpy()))


def accuracies(weights: Path, *, splits: Sequence[int], **arguments) -> list[float]:
    """Accuracy 0..1 over all seconds of the test videos, of each split; arguments as those of `predict`."""
    found = (predict(weights, split=split, **arguments) for split in splits)
    return [float((np.concatenate(made) == np.concatenate(true)).mean()) for _, made, true, _ in found]
