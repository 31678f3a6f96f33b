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

    changed: share of vectors that are not the same; of these, medians: cosine to what they were · relative: length of
    the difference over the length that they had.
    """
    changed = (before != after).any(axis=0)
    if not changed.any():
        return {"changed": 0.0, "cosine": 1.0, "relative": 0.0}
    one, other = before[:, changed], after[:, changed]
    lengths = np.maximum(np.linalg.norm(one, axis=0), 1e-12)
    cosines = (one * other).sum(0) / (lengths * np.maximum(np.linalg.norm(other, axis=0), 1e-12))
    relative = np.linalg.norm(other - one, axis=0) / lengths
    return {"changed": changed.mean(), "cosine": np.median(cosines), "relative": np.median(relative)}


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
