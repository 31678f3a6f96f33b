"""What the switches of extraction change in the features of a video."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from thesis_lib import extraction, features


def alternatives(settings: Mapping, smaller: float = 224 / 256) -> list[tuple[str, object, object]]:
    """(switch, as set, changed to) for each other value of a switch of the protocol, crops `smaller` times as large.

    settings: as `features.i3d_extractor` takes them. The thesis cropped 256 pixels, the public features have 224.
    """
    known = {
        "color": extraction.COLORS,
        "padding": extraction.PADDINGS,
        "last_frame": extraction.LAST_FRAMES,
        "size": (settings["size"], round(settings["size"] * smaller)),
        "head": features.HEADS if settings["backbone"] == "r50" else (),
    }
    return [(name, settings[name], value) for name in known for value in known[name] if value != settings[name]]


def difference(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How far features [D, T] of the same frames are apart.

    changed: share of vectors that are not the same · cosine: the median of these, to what they were · relative: norm
    of all differences over the norm of all vectors.
    """
    changed = (before != after).any(axis=0)
    norms = np.linalg.norm(before, axis=0) * np.linalg.norm(after, axis=0)
    cosines = (before * after).sum(0) / np.maximum(norms, 1e-12)
    return {
        "changed": changed.mean(),
        "cosine": np.median(cosines[changed]) if changed.any() else 1.0,
        "relative": np.linalg.norm(after - before) / np.linalg.norm(before),
    }


def measure(extractor: Callable[..., Callable], videos: list[Path], settings: Mapping) -> pd.DataFrame:
    """One row a switch and other value, over all frames of the videos: what it is, and `difference`; nan where not run.

    extractor: settings -> (video -> [D, T]). A value that the network cannot work with, as head="window" on small
    frames, is not run.
    """
    rows = []
    before = _over(extractor(**settings), videos)
    for name, value, other in alternatives(settings):
        row = {"switch": name, "as set": value, "changed to": other}
        try:
            rows.append(row | difference(before, _over(extractor(**settings | {name: other}), videos)))
        except ValueError:
            rows.append(row | dict.fromkeys(("changed", "cosine", "relative"), np.nan))
    return pd.DataFrame(rows)


def _over(extract: Callable[[Path], np.ndarray], videos: list[Path]) -> np.ndarray:
    return np.concatenate([extract(video) for video in videos], axis=1)
