"""Rows of different lengths in one array that stays on disk: `<path>_data.npy` and where each row starts in it.

The layout is that of fairseq examples/MMPT, mmpt/utils/shardedtensor.py, which can read what is written here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np


class Ragged:
    """R rows [n, ...] of data [sum of n, ...]; starts [R + 1] int64, both memory-mapped."""

    def __init__(self, data: np.ndarray, starts: np.ndarray):
        self.data, self.starts = data, starts

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises ValueError if a file is missing or broken, or if the two do not fit each other."""
        try:
            data, starts = (np.load(f"{path}_{part}.npy", mmap_mode="r") for part in ("data", "starts"))
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}_data.npy, {path}_starts.npy: {error}") from None
        if starts.ndim != 1 or len(starts) == 0 or starts[0] != 0 or starts[-1] != len(data):
            raise ValueError(f"{path}_starts.npy: must lead from 0 to {len(data)}, the length of {path}_data.npy")
        return cls(data, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.data[self.starts[row] : self.starts[row + 1]]


class RaggedWriter:
    """Writes a `Ragged` some rows at a time, with none of them kept in memory. A context manager."""

    def __init__(self, path: str | Path, dtype: type, width: tuple[int, ...] = ()):
        self._data = _GrowingArray(f"{path}_data.npy", dtype, width)
        self._starts = _GrowingArray(f"{path}_starts.npy", np.int64)
        self._starts.extend([0])

    def append(self, data: np.ndarray, lengths: Sequence[int]) -> None:
        """Rows of these lengths, one after the other in data."""
        starts = self._data.length + np.cumsum(lengths, dtype=np.int64)
        self._data.extend(data)
        self._starts.extend(starts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._data.close()
        self._starts.close()


class _GrowingArray:
    """A .npy file whose header is written again at the end, when the length is known; numpy leaves room for it."""

    def __init__(self, path: str, dtype: type, width: tuple[int, ...] = ()):
        self.dtype, self.width, self.length = np.dtype(dtype), width, 0
        self._file = open(path, "wb")
        self._header()

    def extend(self, rows: np.ndarray) -> None:
        rows = np.asarray(rows, self.dtype).reshape(-1, *self.width)
        self._file.write(rows.tobytes())
        self.length += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        self._header()
        self._file.close()

    def _header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length, *self.width)}
        np.lib.format.write_array_header_1_0(self._file, header)
