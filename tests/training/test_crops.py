"""Crops of several scales: where they may lie, and that they are what is there."""

import numpy as np
import pytest
import torch

from thesis_lib.training.crops import boxes, crop, size_to_read

SCALES = [1, 0.875, 0.75, 0.66]


def test_pictures_are_read_so_large_that_no_crop_is_enlarged():
    assert size_to_read(224, SCALES) == 340 and size_to_read(32, [1.0]) == 32
    side = size_to_read(224, SCALES)
    assert min(min(box[2:]) for box in boxes(side, side, 224, SCALES)) == 224
    for wrong in ([], [0.0], [1.5]):
        with pytest.raises(ValueError, match="crop_scales"):
            size_to_read(224, wrong)


def test_boxes_are_those_that_were_published():
    """320 x 240 at 224: sides 240, 210, 180, 158, at corners, middles, the centre and the four quarters."""
    found = boxes(240, 320, 224, SCALES)
    sides = {(rows, columns) for *_, rows, columns in found}
    order = [240, 210, 180, 158]
    assert sides == {(a, b) for i, a in enumerate(order) for j, b in enumerate(order) if abs(i - j) < 2}
    assert len(found) == 10 * 13
    places = {(top, left) for top, left, rows, columns in found if (rows, columns) == (180, 210)}
    steps_down, steps_right = 15, 27
    grid = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    assert places == {(down * steps_down, right * steps_right) for down, right in grid}
    assert all(top + rows <= 240 and left + columns <= 320 for top, left, rows, columns in found)


def test_sides_close_to_the_size_are_the_size_and_need_no_interpolation():
    assert {box[2:] for box in boxes(226, 226, 224, [1.0])} == {(224, 224)}
    assert {box[2:] for box in boxes(222, 222, 224, [1.0])} == {(222, 222)}, "no larger than the picture"
    clip = torch.randint(256, (2, 3, 226, 226), dtype=torch.uint8)
    cut = crop(clip, 224, [1.0], np.random.default_rng(0))
    assert any(torch.equal(cut, clip[:, :, r : r + 224, c : c + 224]) for r in range(3) for c in range(3))


def test_all_frames_have_the_same_crop_of_the_wanted_size_and_the_generator_decides():
    """A picture whose colours are its coordinates: the crop tells where it was."""
    row, column = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    clip = torch.stack([4 * row, 3 * column, 0 * row]).byte().expand(3, -1, -1, -1)
    seen = set()
    for seed in range(80):
        cut = crop(clip, 32, SCALES, np.random.default_rng(seed))
        assert cut.shape == (3, 3, 32, 32) and cut.dtype == torch.uint8 and (cut == cut[:1]).all()
        assert torch.equal(cut, crop(clip, 32, SCALES, np.random.default_rng(seed)))
        down, across = cut[0, 0, :, 5].float() / 4, cut[0, 1, 5].float() / 3
        found = [
            box
            for box in boxes(48, 64, 32, SCALES)
            if all(
                torch.allclose(start + (torch.arange(32) + 0.5) * side / 32 - 0.5, there, atol=0.5)
                for start, side, there in ((box[0], box[2], down), (box[1], box[3], across))
            )
        ]
        assert found
        seen.add(found[0])
    assert len(seen) > 40
