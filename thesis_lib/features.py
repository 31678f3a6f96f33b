"""Whole corpora to features: which network, which weights, which videos."""

from functools import partial
from pathlib import Path

from thesis_lib.data import video
from thesis_lib.extraction import extract_folder, i3d_features, s3d_features
from thesis_lib.models.official import load_official
from thesis_lib.training import i3d, s3d
from thesis_lib.training.loop import choose_device


def videos_of(root: Path) -> list[Path]:
    """The videos of a corpus, by name. Raises ValueError where there are none."""
    found = video.files(Path(root) / "videos")
    if not found:
        raise ValueError(f"{root}/videos: no {', '.join(video.SUFFIXES)} file there")
    return list(found.values())


def extract_i3d(
    folder: Path,
    *,
    root: Path,
    weights: Path,
    window: int,
    size: int,
    color: str,
    head: str,
    mode: str,
    batch_size: int,
    device: str,
) -> None:
    """<video>.npy [D, T] of every video in root/videos: one vector a frame, in the layout of MS-TCN.

    weights: a folder of `training.i3d`, or a file as pytorchvideo released it. mode: see `extraction.i3d_features`.
    """
    weights = Path(weights)
    model = i3d.load(weights) if weights.is_dir() else load_official("i3d_r50", weights, head=head)[0]
    extractor = partial(
        i3d_features,
        model,
        window=window,
        size=size,
        batch=batch_size,
        color=color,
        mode=mode,
        device=choose_device(device),
    )
    extract_folder(folder, extractor=extractor, videos=videos_of(root), skip_unreadable=True)


def extract_s3d(
    folder: Path,
    *,
    root: Path,
    weights: Path,
    frames: int,
    size: int,
    normalise: bool,
    batch_size: int,
    device: str,
    num_videos: int = 0,
) -> None:
    """<video>.npy [seconds, D] of every video in root/videos: one vector a second.

    weights: a folder of `training.s3d`, or a file as antoine77340/S3D_HowTo100M released it. frames: seen of a second.
    num_videos: the first so many, 0 for all.
    """
    weights = Path(weights)
    model = s3d.load(weights)[0] if weights.is_dir() else load_official("s3d_howto100m", weights)[0]
    extractor = partial(
        s3d_features,
        model,
        frames_per_clip=frames,
        size=size,
        normalise=normalise,
        batch=batch_size,
        device=choose_device(device),
    )
    extract_folder(folder, extractor=extractor, videos=videos_of(root)[: num_videos or None], skip_unreadable=True)
