"""What notebooks 06 and 07 ask of the method they show, whichever it is: VideoCLIP, or a system that reads frames.

`of(p)` chooses by the parameter `method`. Two sets of weights go by the names "reference" and "own": of VideoCLIP those
of notebook 05; of other systems the official file where one is given and the recipe otherwise, and the recipe from
another random start.
"""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from thesis_lib import clip_stages, methods, probes, stages, zero_shot
from thesis_lib.data import salads
from thesis_lib.training import clip_tuning, videoclip

Predictions = tuple[list[str], list[np.ndarray], list[np.ndarray], list[np.ndarray]]


def of(p: SimpleNamespace, recipe: SimpleNamespace | None = None) -> "VideoCLIP | FrameSystem":
    """The method that the parameters of notebook 06 or 07 name; recipe: those of its appendix, where they are at hand.

    Raises ValueError for one that knows no texts.
    """
    if not methods.has_text(p.method):
        raise ValueError(f"method: '{p.method}' has no text tower, so zero-shot cannot be asked of it: choose another")
    return VideoCLIP(p) if p.method == methods.VIDEOCLIP else FrameSystem(p, recipe)


class VideoCLIP:
    """Windows of S3D vectors, merged a second at a time."""

    title = "VideoCLIP"

    def __init__(self, p: SimpleNamespace):
        self.p, self.root, self.vocab, self.fps = p, stages.salads(p), stages.vocabulary(p), stages.fps(p)

    def weights(self, name: str) -> Path:
        """The file or folder of "reference" or "own"."""
        return stages.pretraining(stages.of("pretraining", self.p), name)

    def features(self) -> Path:
        """What the salads look like to it before any text: <video>.npy, a vector a second."""
        return stages.s3d_features(stages.of("s3d_features", self.p), "salads")

    def predict(self, name: str, split: int, **changed) -> Predictions:
        """(names, predictions [S], targets [S], scores [S, C]); changed: prompts, seconds_rule, window or stride."""
        return self._predict(self.weights(name), self.features(), split, **changed)

    def class_vectors(self, name: str) -> np.ndarray:
        """[C, H]: where the texts of the classes lie."""
        model = videoclip.load(self.weights(name))
        return zero_shot.class_vectors(model, self.root, self.vocab, self.p.prompts).numpy()

    def tokens(self, name: str, split: int) -> tuple[np.ndarray, np.ndarray]:
        """(vectors [S, H], labels [S]) of all seconds of the test videos of a split, in the space of the texts."""
        window = (self.p.window, self.p.stride)
        return probes.second_tokens(self.weights(name), self.features(), self.root, split, self.fps, *window)

    def control(self, captions: str, seed: int, split: int) -> Predictions:
        """Predictions of what was trained on a small scale, on "true" or "permuted" captions."""
        return self._predict(*stages.control(self.p, captions, seed), split)

    def _predict(self, weights: Path, features: Path, split: int, **changed) -> Predictions:
        settings = {name: getattr(self.p, name) for name in ("window", "stride", "prompts", "seconds_rule")}
        about = dict(features=features, root=self.root, vocab=self.vocab, fps=self.fps, split=split)
        return zero_shot.predict(weights, **about, **settings | changed)


class FrameSystem:
    """A clip a second, decided by itself; windows and strides mean nothing to it."""

    def __init__(self, p: SimpleNamespace, recipe: SimpleNamespace | None = None):
        self.p, self.method, self.title = p, p.method, methods.find(p.method).title
        self.recipe = recipe or p  # whose parameters its stages take
        self.root, self.vocab, self.fps = stages.salads(p), stages.vocabulary(p), stages.fps(p)

    def weights(self, name: str) -> Path:
        """The file or folder of "reference" or "own"."""
        return clip_stages.weights(self.recipe, self.method, **clip_stages.start_of(self.p, name))

    def features(self) -> Path:
        """What the salads look like to it before any text: <video>.npy, a vector a second."""
        return clip_stages.vectors(self.recipe, self.method, "features")

    def predict(self, name: str, split: int, **changed) -> Predictions:
        """(names, predictions [S], targets [S], scores [S, C]); changed: prompts or seconds_rule."""
        return self.predict_by(clip_stages.start_of(self.p, name), split, **changed)

    def class_vectors(self, name: str) -> np.ndarray:
        """[C, H]: where the texts of the classes lie."""
        return self._texts(self.weights(name), self.p.prompts)

    def tokens(self, name: str, split: int) -> tuple[np.ndarray, np.ndarray]:
        """(vectors [S, H], labels [S]) of all seconds of the test videos of a split, in the space of the texts."""
        vectors, videos = self._videos(clip_stages.start_of(self.p, name), split, self.p.seconds_rule)
        return np.concatenate(vectors), np.concatenate([video.labels for video in videos])

    def control(self, captions: str, seed: int, split: int) -> Predictions:
        """Predictions of what was trained on a small scale, on "true" or "permuted" captions."""
        small = dict(num_videos=self.p.control_videos, captions=captions, seed=seed)
        return self.predict_by(small, split)

    def predict_by(self, changed: dict, split: int, *, prompts: str = "", seconds_rule: str = "", **_) -> Predictions:
        """`predict` by weights whose recipe had some arguments changed."""
        vectors, videos = self._videos(changed, split, seconds_rule or self.p.seconds_rule)
        weights = clip_stages.weights(self.recipe, self.method, **changed)
        scores = [one @ self._texts(weights, prompts or self.p.prompts).T for one in vectors]
        return [v.name for v in videos], [s.argmax(1) for s in scores], [v.labels for v in videos], scores

    def _videos(self, changed: dict, split: int, rule: str) -> tuple[list[np.ndarray], list[clip_tuning.Video]]:
        """The vectors [S, H] of each test video, and the videos."""
        folder = clip_stages.vectors(self.recipe, self.method, "embed", **changed)
        clips = clip_stages.clips(self.recipe, self.method)
        videos = clip_tuning.read_videos(clips, self.root, split, "test", self.fps, rule)
        return [np.load(folder / f"{video.name}.npy")[: len(video.labels)] for video in videos], videos

    def _texts(self, weights: Path, prompts: str) -> np.ndarray:
        return _class_texts(self.method, weights, self.vocab, tuple(salads.class_names(self.root)), prompts)


@cache
def _class_texts(method: str, weights: Path, vocab: Path, names: tuple[str, ...], prompts: str) -> np.ndarray:
    with torch.inference_mode():
        return methods.class_vectors(methods.load(method, weights, vocab), names, prompts).numpy()
