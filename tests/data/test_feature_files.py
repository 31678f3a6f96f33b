"""The short cut to a file's shape says what numpy says; broken files are told from missing ones."""

import numpy as np
import pytest

from thesis_lib.data.feature_files import HEAD, FeatureFiles


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("shape", [(0, 512), (1, 4), (281, 1024), (123456, 1)])
def test_shape_from_the_head(tmp_path, dtype, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, dtype))
    assert HEAD.match((tmp_path / "a.npy").read_bytes()[:128])  # else numpy is asked, which is slow
    assert FeatureFiles(tmp_path).shape("a") == shape == FeatureFiles(tmp_path).open("a").shape


@pytest.mark.parametrize("array", [np.asfortranarray(np.ones((3, 5))), np.ones((3, 5), ">f4")])
def test_other_layouts_are_read_too(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    assert FeatureFiles(tmp_path).shape("a") == (3, 5)


@pytest.mark.parametrize(
    "content", [b"", b"no array", "cut short", np.ones(3), np.ones((2, 3, 4)), np.ones((2, 3), int), np.array([{}])]
)
def test_broken(tmp_path, content):
    path = tmp_path / "a.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content == "cut short":
        np.save(path, np.ones((100, 8)))
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(content)
    for ask in (FeatureFiles(tmp_path).shape, FeatureFiles(tmp_path).open):
        with pytest.raises(ValueError, match="a.npy"):
            ask("a")
        with pytest.raises(FileNotFoundError):
            ask("b")


def test_features_stay_on_disk(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((5, 4), np.float16))
    assert isinstance(FeatureFiles(tmp_path).open("a"), np.memmap)
