"""HowTo100M (Miech et al., ICCV 2019) and any narrated videos in the same files.

root/HowTo100M_v1.csv     video_id, category_1, category_2, rank, task_id
root/raw_caption.json     {video_id: {"start": [s], "end": [s], "text": [str]}}
features/<video_id>.npy   [seconds, D], one vector a second

Captions and features have modules of their own, which are imported from here; for the forms that 1.2 million videos
need see `caption_store` and `mmpt_shards`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .captions import Captions, read_captions
from .narrated import NarratedVideo, NarratedVideos, left_out, load_videos

__all__ = ["Captions", "NarratedVideo", "NarratedVideos", "left_out", "load_videos", "read_captions"]

METADATA_COLUMNS = ("video_id", "category_1", "category_2", "rank", "task_id")
SEED = 37  # of the thesis's split into training and validation


def read_metadata(path: str | Path) -> pd.DataFrame:
    """HowTo100M_v1.csv: one row a video. Raises ValueError if a column is missing or a video appears twice."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file (HowTo100M_v1.csv comes with the HowTo100M captions)")
    table = pd.read_csv(path, dtype={"video_id": str})
    absent = [column for column in METADATA_COLUMNS if column not in table]
    if absent:
        raise ValueError(f"{path}: column {absent[0]!r} missing, found {', '.join(table.columns)}")
    if table["video_id"].duplicated().any():
        raise ValueError(f"{path}: video {table['video_id'][table['video_id'].duplicated()].iloc[0]!r} appears twice")
    return table


def train_val_split(
    metadata: pd.DataFrame, names: Sequence[str], val_size: int, seed: int = SEED
) -> tuple[list[str], list[str]]:
    """Split names into (train, val) so that each pair of category_1 and category_2 has its share in val.

    Each category gets its share rounded down or up (largest remainders). The thesis took 4000 videos for validation,
    stratified in this way, seed 37; the sizes per category are the same here, the videos need not be. Videos without a
    row in metadata form a category of their own. Order of names is kept.
    """
    if not 0 < val_size < len(names):
        raise ValueError(f"val_size={val_size}: must leave videos on both sides, there are {len(names)}")
    table = metadata.set_index("video_id")[["category_1", "category_2"]].fillna("").astype(str)
    categories = table["category_1"] + " / " + table["category_2"]
    groups = pd.Series(list(names)).groupby(categories.reindex(list(names)).fillna("").to_numpy())
    shares = groups.size() * val_size / len(names)
    counts = np.floor(shares).astype(int)
    largest = (shares - counts).sort_values(ascending=False, kind="stable").index
    counts.loc[largest[: val_size - counts.sum()]] += 1
    rng = np.random.default_rng(seed)
    val = {name for key, group in groups for name in rng.permutation(group.to_numpy())[: counts[key]]}
    return [name for name in names if name not in val], [name for name in names if name in val]


def nearest_captions(starts: np.ndarray, ends: np.ndarray, time: float, k: int) -> np.ndarray:
    """Indices [k] of the captions whose middles are nearest to time (s), in order of time.

    The bag of MIL-NCE (Miech et al., CVPR 2020): what belongs to a clip is often said a little earlier or later. Where
    there are fewer than k captions, the nearest ones come more than once.
    """
    if k < 1 or len(starts) == 0:
        raise ValueError(f"{k} of {len(starts)} captions: at least one is needed of both")
    middles = (np.asarray(starts) + np.asarray(ends)) / 2
    nearest = np.argsort(np.abs(middles - time), kind="stable")
    return np.sort(np.resize(nearest, k))


def audit(
    captions: Mapping[str, Captions], actions: Mapping[str, Sequence[tuple[float, float, str]]]
) -> dict[str, pd.DataFrame]:
    """How far what is said lies from what is shown. actions: video -> [(start s, end s, "verb object"), ...].

    lags:    video, action, caption, lag_s: for each caption that names the object of an action, its start less that of
             the nearest such action (positive: said after it began)
    chatter: video, captions, chatter, share: captions that name no object of the video's actions
    silent:  video, actions, silent, share: actions whose object no caption names
    """
    lags, chatter, silent = [], [], []
    for video, shown in actions.items():
        said = captions.get(video, Captions(np.empty(0), np.empty(0), []))
        shown = [(start, what, object_name(what)) for start, _, what in shown]
        shown = [action for action in shown if action[2]]
        named, empty = set(), 0
        for start, text in zip(said.starts, said.texts, strict=True):
            hits = [action for action in shown if re.search(rf"\b{re.escape(action[2])}", text.lower())]
            named.update(action[2] for action in hits)
            empty += not hits
            if hits:
                begin, what, _ = min(hits, key=lambda action: abs(start - action[0]))
                lags.append((video, what, text, start - begin))
        chatter.append((video, len(said), empty, empty / max(len(said), 1)))
        quiet = sum(action[2] not in named for action in shown)
        silent.append((video, len(shown), quiet, quiet / max(len(shown), 1)))
    return {
        "lags": pd.DataFrame(lags, columns=["video", "action", "caption", "lag_s"]),
        "chatter": pd.DataFrame(chatter, columns=["video", "captions", "chatter", "share"]),
        "silent": pd.DataFrame(silent, columns=["video", "actions", "silent", "share"]),
    }


def object_name(action: str) -> str:
    """The object of "verb object": "cherry tomato" of "cut cherry tomato", nothing of "wait"."""
    return action.lower().replace("_", " ").partition(" ")[2].strip()
