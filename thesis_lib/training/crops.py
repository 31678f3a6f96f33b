"""Crops of several scales: a clip is cut to one of a few boxes, the same in all frames, and brought to one size.

Wang et al., Temporal Segment Networks, ECCV 2016; MCG-NJU/VideoMAE transforms.py, GroupMultiScaleCrop.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

FIFTHS = [(row, column) for row in range(5) for column in range(5) if row % 2 == column % 2]  # where a box may lie


def size_to_read(size: int, scales: Sequence[float]) -> int:
    """Pixels of the short side of which the smallest crop still has `size`, so that nothing need be enlarged.

    Raises ValueError for scales outside of 0..1.
    """
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise ValueError(f"crop_scales={list(scales)}: expected some numbers, each more than 0 and at most 1")
    return math.ceil(size / min(scales))


def boxes(height: int, width: int, size: int, scales: Sequence[float]) -> list[tuple[int, int, int, int]]:
    """All crops (top, left, rows, columns) of a picture that may be drawn, each as likely as the others.

    rows and columns are neighbours in `scales`, times the short side; those within 2 pixels of `size` are `size`. Of
    five even places along each side, a box lies at 13: the odd ones in both directions, or the even ones in both.
    """
    sides = [int(min(height, width) * scale) for scale in scales]
    sides = [size if abs(side - size) < 3 and size <= min(height, width) else side for side in sides]
    pairs = [(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1]
    return [
        (down * ((height - rows) // 4), right * ((width - columns) // 4), rows, columns)
        for rows, columns in pairs
        for down, right in FIFTHS
    ]


def crop(clip: torch.Tensor, size: int, scales: Sequence[float], rng: np.random.Generator) -> torch.Tensor:
    """Clip [T, 3, H, W] uint8 -> one of its `boxes` at [T, 3, size, size] uint8, bilinear."""
    found = boxes(*clip.shape[2:], size, scales)
    top, left, rows, columns = found[rng.integers(len(found))]
    clip = clip[:, :, top : top + rows, left : left + columns]
    if (rows, columns) == (size, size):
        return clip
    return F.interpolate(clip.float(), (size, size), mode="bilinear", align_corners=False).round().byte()
