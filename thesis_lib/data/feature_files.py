"""One .npy of vectors a second for each video, [seconds, D], opened when a video is asked for and not before."""

import os
import re
from pathlib import Path

import numpy as np

HEAD = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<f([248])', 'fortran_order': False, 'shape': \((\d+), (\d+)\)", re.S
)


class FeatureFiles:
    """folder/<video>.npy [seconds, D] in half, single or double precision."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __str__(self) -> str:
        return str(self.folder)

    def shape(self, name: str) -> tuple[int, int]:
        """(seconds, D) from the head of the file alone. Raises as `open` does.

        A million files are looked through before training, so that numpy's own reader of heads is the exception here.
        """
        with open(self._path(name), "rb") as file:
            head = HEAD.match(file.read(128))
            if head:
                width, seconds, dim = (int(number) for number in head.groups()[1:])
                if os.fstat(file.fileno()).st_size >= 10 + int.from_bytes(head[1], "little") + seconds * dim * width:
                    return seconds, dim
        return self.open(name).shape

    def open(self, name: str) -> np.ndarray:
        """Memory-mapped [seconds, D]. Raises FileNotFoundError for a missing file, ValueError for a broken one."""
        path = self._path(name)
        try:
            vectors = np.load(path, mmap_mode="r")
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
        if vectors.ndim != 2 or vectors.dtype.kind != "f":
            raise ValueError(f"{path}: {vectors.dtype} {list(vectors.shape)}, not [seconds, D] real numbers")
        return vectors

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}.npy"  # a Path would intern a million names
