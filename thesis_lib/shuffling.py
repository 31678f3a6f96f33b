"""Does a fine-tuned system look at the order of frames? Its accuracy on clips as they are, and with shuffled frames.

Frames are shuffled within what makes one vector: the clip of a second. What stands before and after it stays in order.
ASFormer, which reads a vector a frame, gets those of a second shuffled.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib import clip_stages, extraction, features, methods, order, seconds, segmentation, stages
from thesis_lib.data import salads, video
from thesis_lib.models.asformer import ASFormer
from thesis_lib.models.official import load_official
from thesis_lib.training import aligned, clip_tuning, finetune, s3d, videoclip
from thesis_lib.training.loop import choose_device


class Shuffled(nn.Module):
    """A model of clips [B, C, T, H, W], or one of its methods, that gets the frames of each clip in a random order."""

    def __init__(self, model: nn.Module, seed: int = 0):
        super().__init__()
        self.model, self.rng = model, np.random.default_rng(seed)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.model(self._shuffled(clips))

    def encode_video(self, clips: torch.Tensor) -> torch.Tensor:
        return self.model.encode_video(self._shuffled(clips))

    def mixed_5c(self, clips: torch.Tensor) -> torch.Tensor:
        return self.model.mixed_5c(self._shuffled(clips))

    def _shuffled(self, clips: torch.Tensor) -> torch.Tensor:
        return order.shuffle_frames(clips, self.rng)


def of_frames(p: SimpleNamespace, method: str, split: int) -> tuple[float, float]:
    """(in order, shuffled): accuracy of a system that reads frames on the test seconds of a split."""
    model, accuracy = tuned(p, method, split)
    return accuracy(model), accuracy(Shuffled(model))


def of_videoclip(p: SimpleNamespace, split: int) -> tuple[float, float]:
    """(in order, shuffled): accuracy of VideoCLIP by the parameters of notebook 07, frames shuffled before S3D."""
    about = stages.of("s3d_features", p)
    folder = stages.fine_tuning(p, split, "reference", "classifier")
    root, fps = stages.salads(p), stages.fps(p)
    videos = finetune.read_videos(stages.s3d_features(about, "salads"), root, split, "test", fps, p.seconds_rule)
    scores = _of_seconds(folder, p)
    network = _s3d(about)
    settings = dict(frames_per_clip=about.s3d_frames, size=about.s3d_size, output=about.s3d_output)
    settings |= dict(normalise=about.s3d_normalise, device=choose_device(p.device))
    files = video.files(root / "videos")

    def reshuffled(one: finetune.Video) -> finetune.Video:
        vectors = extraction.s3d_features(Shuffled(network), files[one.name], **settings)
        return replace(one, features=torch.from_numpy(vectors[: len(one.labels)]))

    labels = [one.labels.numpy() for one in videos]
    mixed = [reshuffled(one) for one in videos]
    return tuple(_accuracy([scores(one.features) for one in some], labels) for some in (videos, mixed))


def of_asformer(p: SimpleNamespace, split: int) -> tuple[float, float]:
    """(in order, shuffled): accuracy of ASFormer by the parameters of notebook 04, on the frames of the test videos.

    What it reads are vectors, and these are shuffled within each second; each of them saw its frames in order.
    """
    folder, root, fps = stages.baseline(p, split), stages.salads(p), stages.fps(p)
    about = dict(fps=fps, rate=p.feature_rate)
    videos = aligned.load_split(root, split, stages.asformer_features(p), **about)["test"]
    sizes = (len(salads.class_names(root)), len(videos[0].features), p.num_layers, p.num_decoders, p.num_f_maps)
    model = ASFormer(*sizes, window=p.attention_window).eval()
    model.load_state_dict(torch.load(folder / "weights.pt", map_location="cpu", weights_only=True))
    device, scale, rng = choose_device(p.device), np.load(folder / "scale.npz"), np.random.default_rng(0)
    model.to(device)

    @torch.inference_mode()
    def answer(video: aligned.Video, shuffled: bool) -> np.ndarray:
        vectors = np.array(video.features)
        if shuffled:
            rate = fps * len(video.targets) / len(video.labels)
            vectors = vectors[:, within_seconds(len(video.targets), rate, rng)]
        seen = vectors[:, :: p.sample_rate]
        seen = (seen - scale["mean"]) / scale["std"] if "mean" in scale else seen
        logits = model(torch.tensor(seen, dtype=torch.float32, device=device)[None])[-1, 0]
        return logits.argmax(0).cpu().numpy()[video.places // p.sample_rate]

    labels = [video.labels for video in videos]
    return tuple(_accuracy([answer(video, shuffled) for video in videos], labels) for shuffled in (False, True))


def within_seconds(count: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """The places 0 to count - 1, `rate` of which are a second, in a random order within each second."""
    return np.lexsort((rng.random(count), np.arange(count) // rate))


def tuned(p: SimpleNamespace, method: str, split: int) -> tuple[clip_tuning.Tuned, Callable[[nn.Module], float]]:
    """The fine-tuned system of a split, and the accuracy on its test seconds of any model of the same clips."""
    vocab, device = stages.vocabulary(p), choose_device(p.device)
    folder, weights = clip_stages.fine_tuning(p, method, split), clip_stages.weights(p, method)
    rule = stages.of("fine_tuning", p).seconds_rule
    clips = clip_stages.clips(p, method)
    videos = clip_tuning.read_videos(clips, stages.salads(p), split, "test", stages.fps(p), rule)
    targets = np.concatenate([video.labels for video in videos])

    def accuracy(scorer: nn.Module) -> float:
        scorer.to(device)
        predicted = [seconds.encode(scorer, video.clips, device=device).argmax(1) for video in videos]
        return float((np.concatenate(predicted) == targets).mean())

    return clip_tuning.load(folder, weights, vocab), accuracy


def shuffled_accuracies(p: SimpleNamespace, split: int) -> pd.DataFrame:
    """Of ASFormer, VideoCLIP and all of `methods.there`: columns method, frames ("in order", "shuffled"), accuracy."""
    found = {"ASFormer": of_asformer(stages.of("baseline", p), split)}
    found["VideoCLIP"] = of_videoclip(stages.of("fine_tuning", p), split)
    found |= {methods.find(name).title: of_frames(p, name, split) for name in methods.there()}
    kinds = ("in order", "shuffled")
    rows = [(title, *row) for title, values in found.items() for row in zip(kinds, values, strict=True)]
    return pd.DataFrame(rows, columns=["method", "frames", "accuracy"])


def order_probes(p: SimpleNamespace, others: dict[str, Callable], count: int = 200) -> pd.DataFrame:
    """The two tasks of `order` asked of the frozen features of all of `methods.there`, of what ASFormer and VideoCLIP
    read (`networks`), and of `others`.

    others: {title: clips -> vectors}, asked about clips as those of the last system. Columns method, task, ordered,
    shuffled, sensitivity.
    """
    vocab, device, rows = stages.vocabulary(p), choose_device(p.device), []
    weights = {name: clip_stages.weights(p, name) for name in methods.there()}
    encoders = {methods.find(name).title: methods.load(name, path, vocab).to(device) for name, path in weights.items()}
    last = list(encoders.values())[-1]
    others = {title: Network(last.frames, last.size, function) for title, function in others.items()}
    for title, encoder in (networks(p) | encoders | others).items():
        rng = np.random.default_rng(p.seed)
        clips, labels = order.order_tasks(rng, count, encoder.frames, encoder.size)
        vectors = order.in_order_and_shuffled(encoder, clips, rng, batch=16, device=device)
        for task in order.TASKS:
            rows.append({"method": title, "task": task} | order.sensitivity(*vectors, labels[task], rng))
        del clips  # gigabytes at published sizes, before the next ones are drawn
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Network:
    """What `order` asks of an Encoder: features(clips [B, 3, frames, size, size] of RGB in 0..1) -> [B, D]."""

    frames: int
    size: int
    features: Callable[[torch.Tensor], torch.Tensor]


def networks(p: SimpleNamespace) -> dict[str, Network]:
    """The networks whose vectors ASFormer and VideoCLIP read, on the device; none for features from elsewhere.

    Their clips are what such a vector sees: the window of a frame, and a second.
    """
    device, found, about = choose_device(p.device), {}, stages.of("i3d_features", p)
    if not (stages.of("baseline", p).features_root or about.i3d_features_root or about.i3d_backbone == "two_stream"):
        model = features.load_i3d(stages.i3d_weights(about), about.i3d_backbone, about.head).eval().to(device)
        pixels = features.PIXELS[about.i3d_backbone]

        def read(clips: torch.Tensor) -> torch.Tensor:
            seen = clips.flip(1) if about.color == "bgr" else clips
            return model((seen - pixels["mean"]) / pixels["std"])

        found["ASFormer's I3D"] = Network(about.window, about.i3d_size, read)
    if not about.s3d_features_root:
        encode = getattr(_s3d(about).eval().to(device), extraction.S3D_OUTPUTS[about.s3d_output])

        def embed(clips: torch.Tensor) -> torch.Tensor:
            return F.normalize(encode(clips), dim=1) if about.s3d_normalise else encode(clips)

        found["VideoCLIP's S3D"] = Network(about.s3d_frames, about.s3d_size, embed)
    return found


def _of_seconds(folder, p: SimpleNamespace) -> Callable[[torch.Tensor], np.ndarray]:
    """Features [S, D] -> classes [S], by a fine-tuned VideoCLIP with a classifier."""
    model = videoclip.load(folder)

    def encode(clips: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model.encode_video_tokens(clips, mask, attend_cls=False)

    def answer(vectors: torch.Tensor) -> np.ndarray:
        classifier = model.video_encoder.classifier
        return segmentation.segment(encode, vectors, classifier, p.window, p.stride_test).argmax(1).numpy()

    return answer


def _s3d(about: SimpleNamespace) -> nn.Module:
    weights = stages.s3d_weights(about)
    return s3d.load(weights)[0] if weights.is_dir() else load_official("s3d_howto100m", weights)[0]


def _accuracy(answers: list[np.ndarray], labels: list[np.ndarray]) -> float:
    return float((np.concatenate(answers) == np.concatenate(labels)).mean())
