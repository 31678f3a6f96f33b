"""Optical flow of pictures whose motion is known."""

import cv2
import numpy as np
import pytest

from thesis_lib.data.flow import METHODS, optical_flow


def texture(side, seed=0):
    """A smooth random picture [side, side, 3] of full contrast: flow needs something to hold on to."""
    noise = np.random.default_rng(seed).uniform(0, 255, (side, side, 3))
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def moving(shifts, side=64):
    """A view into the texture; its content moves by (right, down) pixels from each frame to the next."""
    margin = 48
    picture, top, left, frames = texture(side + 2 * margin), margin, margin, []
    for right, down in [(0, 0), *shifts]:
        top, left = top - down, left - right
        frames.append(picture[top : top + side, left : left + side])
    return np.stack(frames)


@pytest.mark.parametrize("method", METHODS)
def test_flow_of_a_translated_picture_is_the_translation(method):
    shifts = [(3, 0), (0, 2), (-2, 1), (0, 0)]
    flow = optical_flow(moving(shifts), method)
    assert flow.shape == (4, 64, 64, 2) and flow.dtype == np.float32
    inner = 20 * flow[:, 8:-8, 8:-8]
    np.testing.assert_allclose(np.median(inner, (1, 2)), shifts, atol=0.05)
    assert np.abs(inner - np.array(shifts)[:, None, None]).mean() < 0.05


@pytest.mark.parametrize("method", METHODS)
def test_the_flow_of_a_pair_does_not_depend_on_the_pairs_before(method):
    frames = moving([(3, 0), (0, 2), (-2, 1)])
    np.testing.assert_array_equal(optical_flow(frames, method)[2:], optical_flow(frames[2:], method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [2, 9])
def test_threads_change_nothing(method, threads):
    frames = moving([(3, 0), (0, 2), (-2, 1), (1, 1), (2, 0)])
    np.testing.assert_array_equal(optical_flow(frames, method, threads), optical_flow(frames, method))


def test_faster_than_20_pixels_counts_as_20():
    flow = optical_flow(moving([(24, 0), (-24, 0)], side=224), "dis")
    assert np.abs(flow).max() == 1
    assert np.median(flow[0, ..., 0]) == 1 and np.median(flow[1, ..., 0]) == -1


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="flow='farneback': choose one of tvl1, dis"):
        optical_flow(moving([(1, 0)]), "farneback")
