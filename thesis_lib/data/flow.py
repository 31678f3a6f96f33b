"""Optical flow between consecutive frames, as the flow network of I3D wants it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

METHODS = {
    # The method that I3D was trained on (Zach, Pock and Bischof, 2007): seconds for a pair of 224 x 224 pixels.
    "tvl1": cv2.optflow.DualTVL1OpticalFlow_create,
    # Dense inverse search (Kroeger et al., 2016): much quicker, smoother.
    "dis": lambda: cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
}
LIMIT = 20  # pixels a frame: what moves faster counts as this


def optical_flow(frames: Sequence[np.ndarray], method: str = "tvl1", threads: int = 1) -> np.ndarray:
    """N frames [H, W, 3] uint8 RGB -> [N - 1, H, W, 2] float32: the flow from each to the next, right and down.

    Pixels a frame, clipped at +-20 and divided by 20, as the flow network of I3D was trained
    (ahsaniqbal/Kinetics-FeatureExtractor LazyLoader.cpp). method: "tvl1" or "dis". Raises ValueError for another.
    """
    if method not in METHODS:
        raise ValueError(f"flow={method!r}: choose one of {', '.join(METHODS)}")
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]

    def measure(pairs: range) -> list[np.ndarray]:
        estimator = METHODS[method]()  # one a thread: it keeps its buffers
        return [estimator.calc(grey[pair], grey[pair + 1], None) for pair in pairs]

    with ThreadPoolExecutor(threads) as pool:  # OpenCV lets other threads of Python run
        parts = pool.map(measure, (range(start, len(grey) - 1, threads) for start in range(threads)))
    flows = [None] * (len(grey) - 1)
    for start, part in enumerate(parts):
        flows[start::threads] = part
    return np.stack(flows).clip(-LIMIT, LIMIT) / LIMIT
