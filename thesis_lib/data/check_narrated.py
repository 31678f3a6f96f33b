"""A folder of HowTo100M, or of narrated videos of one's own in the same files: what is there, missing and odd.

Memory does not grow with what is said or shown: 60 bytes a video and the table of metadata. Vectors of at most 1000
videos are read, spread over all.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from . import video
from .caption_store import CaptionStore
from .captions import Captions, iterate_captions
from .feature_files import FeatureFiles
from .findings import Findings
from .howto100m import read_metadata
from .mmpt_shards import CaptionShards, FeatureShards, caption_prefix, sharded
from .name_index import NameIndex
from .narrated import SAMPLE, Features, load_videos

METADATA, CAPTIONS = "HowTo100M_v1.csv", "raw_caption.json"
WILLOW = "metadata, captions and S3D features: https://www.di.ens.fr/willow/research/howto100m/"
EXPECTED = {
    METADATA: "video_id, category_1, category_2, rank, task_id",
    CAPTIONS: '{video: {"start": [s], "end": [s], "text": []}}',
    "captions/": "the same on disk, made by `python -m thesis_lib.data.caption_store`; for a million videos",
    "features": "a folder of <video>.npy [seconds, D], or of MMPT's shards with their captions (or videos)",
    "videos/": "<video>.avi, .mp4, .mkv or .webm, to extract features from",
}
PUBLISHED_DIM, VIDEOCLIP_DIM = 1024, 512  # before and after the last layer of S3D


class FirstStarts(Mapping[str, Captions]):
    """Video -> its first caption alone, without text: what is asked of a million videos before any is read."""

    def __init__(self, names: list[str], starts: list[float]):
        self._index, self._starts = NameIndex(names), np.array(starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._index.names)

    def __getitem__(self, name: str) -> Captions:
        start = self._starts[[self._index[name]]]
        start = start[~np.isnan(start)]  # NaN: nothing is said
        return Captions(start, start, [""] * len(start))


def recognises(root: str | Path) -> bool:
    """Whether this is a folder of narrated videos."""
    root = Path(root)
    return any((root / name).is_file() for name in (METADATA, CAPTIONS, "captions/names.npy")) or any(
        sharded(folder) for folder in (root, *_folders(root))
    )


def check(findings: Findings) -> None:
    """Look through findings.root."""
    root = findings.root
    findings.layout = "HowTo100M, or narrated videos in its layout"
    findings.expected = EXPECTED
    folders = [folder for folder in (root, *_folders(root)) if sharded(folder) or _holds_features(folder)]
    files = [folder for folder in folders if not sharded(folder)]
    listed = _check_metadata(findings, needed=bool(files) or not folders)
    captions = _check_captions(findings, needed=bool(files) or not folders)
    for folder in folders:
        for part in ("train", "val") if sharded(folder) else ("",):
            _check_features(findings, folder, part, captions)
    videos = _check_videos(findings, captions)
    if not folders:
        findings.add("missing" if videos else "unusable", "features", "none" if videos else "none, and no videos")
        findings.downloads.append(WILLOW)
    if listed is not None and captions is not None:
        strangers = [name for name in captions if name not in listed]
        if strangers:
            findings.add("odd", METADATA, f"has no row for {len(strangers):,} videos with captions", strangers)


def _check_metadata(findings: Findings, needed: bool) -> set[str] | None:
    if not (findings.root / METADATA).is_file():
        findings.add("unusable" if needed else "missing", METADATA, "missing: by its categories videos are held out")
        findings.downloads.append(WILLOW)
        return None
    try:
        table = read_metadata(findings.root / METADATA)
    except ValueError as error:
        findings.add("unusable", METADATA, str(error))
        return None
    pairs = len(table[["category_1", "category_2"]].drop_duplicates())
    findings.add("ok", METADATA, f"{len(table):,} videos in {pairs} categories, {table['task_id'].nunique():,} tasks")
    if table[["category_1", "category_2"]].isna().any(axis=None):
        unnamed = table.loc[table[["category_1", "category_2"]].isna().any(axis=1), "video_id"]
        findings.add("odd", METADATA, f"{len(unnamed):,} videos without a category", unnamed)
    return set(table["video_id"])


def _check_captions(findings: Findings, needed: bool) -> Mapping[str, Captions] | None:
    """Captions by video, of the store where there is one, as training reads them."""
    root, found = findings.root, None
    try:
        if (root / CAPTIONS).is_file():
            found = _read_starts(findings, root / CAPTIONS)
        elif needed and not (root / "captions").is_dir():
            findings.add("unusable", CAPTIONS, "missing: nothing is said in the videos")
            findings.downloads.append(WILLOW)
        else:
            findings.add("ok", CAPTIONS, "none (not needed beside captions/ or shards)")
    except ValueError as error:
        findings.add("unusable", CAPTIONS, str(error))
    if not (root / "captions").is_dir():
        findings.add("ok", "captions/", "none (not needed beside raw_caption.json or shards)")
        return found
    try:
        store = CaptionStore(root / "captions")
    except ValueError as error:
        findings.add("unusable", "captions/", str(error))
        return found
    findings.add("ok", "captions/", f"{len(store):,} videos; training reads these")
    if found is not None and len(found) != len(store):
        findings.add("odd", "captions/", f"{CAPTIONS} has {len(found):,} videos: made of another file?")
    return store


def _read_starts(findings: Findings, path: Path) -> FirstStarts:
    names, starts, spoken, silent = [], [], 0, []
    for name, said in iterate_captions(path):
        names.append(name)
        starts.append(said.starts[0] if len(said) else np.nan)
        spoken += len(said)
        if not len(said):
            silent.append(name)
    found = FirstStarts(names, starts)
    findings.add("ok", CAPTIONS, f"{len(names):,} videos, {spoken:,} captions with text and time")
    if silent:
        findings.add("odd", CAPTIONS, f"{len(silent):,} videos in which nothing is said", silent)
    return found


def _check_features(findings: Findings, folder: Path, part: str, captions: Mapping[str, Captions] | None) -> None:
    where = f"{os.path.relpath(folder, findings.root)}/{f' ({part})' if part else ''}"
    if part == "val" and not (folder / "val_meta.pkl").is_file():
        findings.add("missing", "features", f"{where} no val_meta.pkl, no videos held out")
        return
    try:
        if part:
            source: Features = FeatureShards(folder, part)
            captions = CaptionShards(source, caption_prefix(folder, part))
        else:
            source = FeatureFiles(folder)
        if captions is None:
            return
        videos, skipped = load_videos(source, captions)
    except ValueError as error:
        findings.add("unusable", "features", f"{where} {str(error).removeprefix(f'{folder}: ')}")
        return
    first = np.asarray(videos[0].features, np.float32)
    dim, unit = first.shape[1], np.allclose(np.linalg.norm(first, axis=1), 1, atol=0.01)
    about = f"{len(videos):,} usable videos, {videos.seconds.sum() / 3600:,.1f} h, D = {dim}"
    looked = f"numbers of {min(SAMPLE, len(videos)):,} looked at"
    findings.add("ok", "features", f"{where} {about}, vectors of {'length one' if unit else 'any length'}; {looked}")
    if dim == PUBLISHED_DIM or (dim == VIDEOCLIP_DIM and not unit):
        wanted = f"{VIDEOCLIP_DIM} values of length one, through the layer fc of S3D"
        findings.add("odd", "features", f"{where} not what the public VideoCLIP was trained on: {wanted}")
    for reason, names in skipped.items():
        if names:
            level = "missing" if reason == "no features" else "odd"
            findings.add(level, "features", f"{where} {len(names):,} videos left out, {reason}", names)
    if not part:
        with os.scandir(folder) as entries:
            strangers = [
                one.name[:-4] for one in entries if one.name.endswith(".npy") and one.name[:-4] not in captions
            ]
        if strangers:
            findings.add("odd", "features", f"{where} {len(strangers):,} files of videos without captions", strangers)


def _check_videos(findings: Findings, captions: Mapping[str, Captions] | None) -> int:
    folder = findings.root / "videos"
    names = sorted(path.stem for path in folder.glob("*") if path.suffix.lower() in video.SUFFIXES)
    findings.add("ok", "videos/", f"{len(names):,} files, not opened" if names else "none (not needed beside features)")
    strangers = [] if captions is None else [name for name in names if name not in captions]
    if strangers:
        findings.add("odd", "videos/", f"{len(strangers):,} videos without captions", strangers)
    return len(names)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*") if path.is_dir() and path.name not in ("captions", "videos"))


def _holds_features(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".npy") for entry in entries)
