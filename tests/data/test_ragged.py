"""Rows of any lengths come back, and numpy itself reads the files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thesis_lib.data.ragged import Ragged, RaggedWriter


@given(st.lists(st.integers(0, 20), max_size=30))
def test_rows_come_back(tmp_path_factory, lengths):
    path = tmp_path_factory.mktemp("ragged") / "r"
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((length, 3)).astype(np.float32) for length in lengths]
    with RaggedWriter(path, np.float32, (3,)) as writer:
        for some in (rows[:7], rows[7:]):
            writer.append(np.concatenate([np.empty((0, 3)), *some]), list(map(len, some)))
    ragged = Ragged.open(path)
    assert len(ragged) == len(rows) and all(np.array_equal(a, b) for a, b in zip(ragged, rows, strict=True))
    data, starts = np.load(f"{path}_data.npy"), np.load(f"{path}_starts.npy")
    assert data.shape == (sum(lengths), 3) and starts.tolist() == np.cumsum([0, *lengths]).tolist()


def test_stays_on_disk_and_is_checked(tmp_path):
    with RaggedWriter(tmp_path / "r", np.int32) as writer:
        writer.append([1, 2, 3], [3])
    ragged = Ragged.open(tmp_path / "r")
    assert isinstance(ragged.data, np.memmap) and isinstance(ragged.starts, np.memmap)
    np.save(tmp_path / "r_starts.npy", np.array([0, 2]))
    with pytest.raises(ValueError, match="from 0 to 3"):
        Ragged.open(tmp_path / "r")
    (tmp_path / "r_data.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="r_data.npy"):
        Ragged.open(tmp_path / "r")
    with pytest.raises(ValueError, match="No such file"):
        Ragged.open(tmp_path / "nothing")
