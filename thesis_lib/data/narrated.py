"""Features and captions of a million videos as one list that holds neither.

A video costs its name (4 bytes a letter: 44 for YouTube's) and its length (4): 58 MB for the 1.2 million of HowTo100M.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from .captions import Captions
from .feature_files import FeatureFiles

SAMPLE = 1000  # videos whose vectors are read to check them; all where there are fewer
REASONS = ("no features", "broken features", "short", "no captions", "broken captions")


class Features(Protocol):
    """Where vectors come from: `FeatureFiles` or `mmpt_shards.FeatureShards`."""

    def shape(self, name: str) -> tuple[int, int]: ...

    def open(self, name: str) -> np.ndarray: ...


@dataclass(frozen=True)
class NarratedVideo:
    """A video with features [seconds, D] (memory-mapped) and its captions."""

    name: str
    features: np.ndarray
    captions: Captions


class NarratedVideos(Sequence[NarratedVideo]):
    """names [V] and seconds [V] of the usable videos; videos[i] opens features and captions of one.

    `captions` fetches one side alone. Safe to hand to worker processes: no file stays open.
    """

    def __init__(
        self, features: Features, captions: Mapping[str, Captions], names: Sequence[str], seconds: Sequence[int]
    ):
        self.features, self._captions = features, captions
        self.names, self.seconds = np.asarray(names, np.str_), np.asarray(seconds, np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> NarratedVideo:
        name = str(self.names[index])
        return NarratedVideo(name, self.features.open(name), self.captions(index))

    def captions(self, index: int) -> Captions:
        """Those that start within the features, the last one cut where these end."""
        return self._captions[str(self.names[index])].within(int(self.seconds[index]))

    def only(self, names: Sequence[str]) -> "NarratedVideos":
        """These videos, in the order they have here."""
        kept = np.isin(self.names, np.asarray(names, np.str_))
        return NarratedVideos(self.features, self._captions, self.names[kept], self.seconds[kept])


def load_videos(
    features: str | Path | Features,
    captions: Mapping[str, Captions],
    names: Sequence[str] | None = None,
    min_seconds: int = 1,
    sample: int = SAMPLE,
) -> tuple[NarratedVideos, dict[str, list[str]]]:
    """(usable videos in the order of names, reason -> names of those left out; `left_out` says it in a line).

    features: a folder of <video>.npy, or `mmpt_shards.FeatureShards`. names defaults to all with captions.
    Reasons: "no features", "broken features" (no [seconds, D] array, or numbers that are not finite in one of `sample`
    videos evenly spaced over all), "short" (fewer than min_seconds vectors) and "no captions" (none that starts within
    the features). Raises ValueError if nothing is left, and where features of different kinds are mixed: several D, or
    vectors of length one in some of the sampled videos and of any length in others.
    """
    features = FeatureFiles(features) if isinstance(features, str | Path) else features
    names = list(captions) if names is None else list(names)
    skipped = {reason: [] for reason in REASONS}
    kept, seconds, dims = [], [], []
    with ThreadPoolExecutor() as pool:  # network disks answer many at once
        for start in range(0, len(names), 2**14):
            some = names[start : start + 2**14]
            for name, shape in zip(some, pool.map(lambda name: _shape(features, name), some), strict=True):
                reason = shape if isinstance(shape, str) else _flaw(captions, name, shape[0], min_seconds)
                if reason:
                    skipped[reason].append(name)
                else:
                    kept.append(name)
                    seconds.append(shape[0])
                    dims.append(shape[1])
    _refuse_mixture(features, dict(zip(kept, dims, strict=True)), "D = {}")
    broken = _check_vectors(features, [kept[i] for i in _evenly(len(kept), sample)])
    if broken:
        skipped["broken features"] = [name for name in names if name in broken or name in skipped["broken features"]]
    usable = [(name, count) for name, count in zip(kept, seconds, strict=True) if name not in broken]
    if not usable:
        raise ValueError(
            f"{features}: not one usable narrated video of {len(names)} ({left_out(skipped) or 'no names'})"
        )
    return NarratedVideos(features, captions, *zip(*usable, strict=True)), skipped


def left_out(skipped: Mapping[str, Sequence[str]], shown: int = 3) -> str:
    """Of the videos left out how many and why, with the first names: "2 short (a, b), 1 no captions (c)"."""
    lists = {
        reason: ", ".join(names[:shown]) + (", ..." if len(names) > shown else "") for reason, names in skipped.items()
    }
    return ", ".join(f"{len(names):,} {reason} ({lists[reason]})" for reason, names in skipped.items() if names)


def _shape(features: Features, name: str) -> tuple[int, int] | str:
    try:
        return features.shape(name)
    except (FileNotFoundError, KeyError):
        return "no features"
    except (ValueError, OSError):
        return "broken features"


def _flaw(captions: Mapping[str, Captions], name: str, seconds: int, min_seconds: int) -> str:
    if seconds < min_seconds:
        return "short"
    try:
        said = captions.get(name)
    except (ValueError, OSError):
        return "broken captions"
    return "" if said is not None and len(said) and said.starts[0] < seconds else "no captions"


def _check_vectors(features: Features, names: Sequence[str]) -> set[str]:
    """Names of videos with numbers that are not finite. Raises ValueError if only some have vectors of length one."""
    broken, unit = set(), {}
    for name in names:
        norms = np.linalg.norm(np.asarray(features.open(name), np.float32), axis=1)
        if not np.isfinite(norms).all():
            broken.add(name)
        elif np.count_nonzero(norms) > 1:  # a single vector may have length one by chance, an empty second has none
            unit[name] = bool((np.abs(norms[norms > 0] - 1) < 0.01).all())  # half precision keeps three digits
    _refuse_mixture(
        features, {name: "length one" if one else "any length" for name, one in unit.items()}, "vectors of {}"
    )
    return broken


def _refuse_mixture(features: Features, kinds: Mapping[str, object], what: str) -> None:
    counts = Counter(kinds.values()).most_common()
    if len(counts) > 1:
        (usual, many), (rare, few) = counts[:2]
        strange = [name for name, kind in kinds.items() if kind == rare]
        raise ValueError(
            f"{features}: mixed features, {what.format(usual)} in {many:,} videos but {what.format(rare)} in {few:,} "
            f"({', '.join(strange[:3])}{', ...' if few > 3 else ''}): extract all in one way"
        )


def _evenly(count: int, sample: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, sample)).astype(int)) if count else np.empty(0, int)
