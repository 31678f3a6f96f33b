"""Which cubes of a clip VideoMAE hides: the same places in all frames, any, or whole moments.

Tong et al., VideoMAE, NeurIPS 2022, figure 2 and table 1b; the tube: MCG-NJU/VideoMAE masking_generator.py.
"""

import math

import numpy as np

MASKS = ("tube", "random", "frame")


def masks(kind: str, grid: tuple[int, int, int], ratio: float, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """`count` masks [count, N] bool of a clip of `grid` cubes in time, height and width; True = hidden.

    tube: the share `ratio` of the places, each at all times, so that time gives nothing away · random: of all cubes ·
    frame: of the moments, whole. The number hidden is rounded down, as published: 176 of 196 places at 0.9, and 7 of 8
    moments. Raises ValueError for another kind, or where a ratio would hide nothing or everything.
    """
    if kind not in MASKS:
        raise ValueError(f"masking={kind!r}: choose one of {', '.join(MASKS)}")
    time, *space = grid
    choices = {"tube": math.prod(space), "random": math.prod(grid), "frame": time}[kind]
    hidden = int(ratio * choices)
    if not 0 < hidden < choices:
        cubes = " x ".join(map(str, grid))
        raise ValueError(f"ratio={ratio}: a {kind} mask of {cubes} cubes hides {hidden} of {choices}: choose another")
    drawn = rng.permuted(np.tile(np.arange(choices) < hidden, (count, 1)), axis=1)
    if kind == "tube":
        return np.tile(drawn, (1, time))
    return np.repeat(drawn, math.prod(grid) // choices, axis=1)
