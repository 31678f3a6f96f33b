"""Features and labels of two frame rates side by side: a label for every vector, a vector for every frame.

Vector v of `rate` a second shows the time from v / rate to (v + 1) / rate, and frame t of `fps` labels a second that
from t / fps on. A vector has the label in the middle of its time, a frame the vector that shows its middle; beyond the
last of either, the last one goes on. With one vector a frame both are the same thing.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thesis_lib import metrics
from thesis_lib.data import salads

SLACK = 2.0  # seconds that vectors may go beyond the labels, or end before them, where the rate is to be found


@dataclass(frozen=True)
class Video:
    """One video: labels [T] of its frames, targets [V] of its vectors, places [T]: the vector that shows each frame."""

    name: str
    path: Path
    start: int
    turned: bool
    labels: np.ndarray
    targets: np.ndarray
    places: np.ndarray

    @property
    def features(self) -> np.ndarray:
        """[D, V], mapped anew at each use: what is read stays no longer in memory than it is held."""
        vectors = salads.read_features(self.path)
        return (vectors.T if self.turned else vectors)[:, self.start : self.start + len(self.targets)]


def load_split(
    root: Path, split: int, features: Path, *, cut: str = "back", fps: float = 30.0, rate: float = 0.0
) -> dict[str, list[Video]]:
    """{"train": videos, "test": videos} of a split, in the order of the bundles.

    features: folder of <video>.npy [D, V], or [V, D] as S3D's: the side that is as long in every file is D; where both
    are, V is the one that lasts as long as the labels at `rate`, if it is given.
    fps: labels a second. rate: vectors a second, 0: found by `find_rate`. Surplus vectors are cut as `salads.crop`
    does. ValueError where vectors and labels of a video do not last as long; with one vector a frame none may miss.
    """
    root, mapping = Path(root), salads.read_mapping(Path(root) / "mapping.txt")
    names = {part: salads.read_bundle(root / "splits" / f"{part}.split{split}.bundle") for part in salads.PARTS}
    every = [name for part in salads.PARTS for name in names[part]]
    shapes = {name: salads.read_features(Path(features) / f"{name}.npy").shape for name in every}
    labels = {
        name: salads.encode(salads.read_labels(root / "groundTruth" / f"{name}.txt"), mapping, where=name)
        for name in every
    }
    turned = _turned(shapes, rate and sum(map(len, labels.values())) / fps * rate)
    lengths = {name: (shape[0 if turned else 1], len(labels[name])) for name, shape in shapes.items()}
    rate = rate or find_rate(lengths, fps)

    def video(name: str) -> Video:
        start, count = _window(*lengths[name], fps, rate, cut, name)
        targets = metrics.resample(labels[name], fps, rate, count)
        places = metrics.places(count, rate, fps, len(labels[name]))
        return Video(name, Path(features) / f"{name}.npy", start, turned, labels[name], targets, places)

    return {part: [video(name) for name in names[part]] for part in salads.PARTS}


def find_rate(lengths: Mapping[str, tuple[int, int]], fps: float) -> float:
    """Vectors a second from (vectors, labels) of each video, with `fps` labels a second.

    One a label where both last as long up to two seconds, or where there is a surplus of up to half as many (I3D's
    features). Else the whole number, or half of fps, by which they last as long in all videos, up to two seconds.
    """

    def misfit(rate: float) -> float:
        return max(abs(vectors / rate - count / fps) for vectors, count in lengths.values())

    if misfit(fps) <= SLACK or all(count <= vectors < 1.5 * count for vectors, count in lengths.values()):
        return fps
    best = min([fps / 2, *range(1, int(2 * fps) + 1)], key=misfit)
    if misfit(best) > SLACK:
        name, (vectors, count) = next(iter(lengths.items()))
        raise ValueError(
            f"no frame rate fits all features to their labels ({name}: {vectors} vectors, {count} labels at {fps:g} a "
            "second): give feature_rate, in vectors a second, or check the features"
        )
    return float(best)


def _window(vectors: int, count: int, fps: float, rate: float, cut: str, name: str) -> tuple[int, int]:
    """(first vector, how many) of those that belong to `count` labels."""
    needed = math.ceil(round(count * rate / fps, 6))  # those that begin before the labels end
    if rate != fps and not (needed - max(1.0, rate) <= vectors <= 1.5 * needed + max(1.0, 10 * rate)):
        raise ValueError(
            f"{name}: {vectors} vectors at {rate:g} a second last {vectors / rate:.1f} s, {count} labels at {fps:g} a "
            f"second {count / fps:.1f} s: give feature_rate, in vectors a second, or 0 to find it from the lengths"
        )
    held = needed if rate == fps else min(needed, vectors)
    index = salads.crop(np.arange(vectors)[None], held, cut, where=name)[0]
    return int(index[0]), held


def _turned(shapes: Mapping[str, tuple[int, int]], expected: float) -> bool:
    """Whether features are [V, D]: the side that all files share is D.

    Where they share both, V is the side whose sum is nearer to the `expected` vectors; 0 if they are not known: [D, V].
    """
    sides = [Counter(shape[side] for shape in shapes.values()) for side in (0, 1)]
    if min(map(len, sides)) > 1:
        side = int(len(sides[1]) < len(sides[0]))
        (width, _), *_, (odd, _) = sides[side].most_common()
        name = next(name for name, shape in shapes.items() if shape[side] == odd)
        raise ValueError(f"{name}: features {list(shapes[name])}, of width {odd}; those of other videos have {width}")
    if max(map(len, sides)) == 1 and expected:
        first, second = (abs(sum(side) - expected) for side in zip(*shapes.values(), strict=True))
        return first < second
    return len(sides[0]) > 1
