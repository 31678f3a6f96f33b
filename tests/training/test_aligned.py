"""Vectors and frames of two rates: exact at both ends, found from lengths, or refused in one line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thesis_lib import metrics
from thesis_lib.data import salads
from thesis_lib.training import aligned

CLASSES = ["cut", "peel", "mix"]
FPS = 30


@pytest.fixture
def write(tmp_path):
    """A function ({name: (vectors, labels)}, dim=, turned=) -> root; the first is the test video. Vector v holds v."""

    def make(lengths, dim=4, turned=False):
        for folder in ("features", "groundTruth", "splits"):
            (tmp_path / folder).mkdir()
        (tmp_path / "mapping.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(CLASSES)))
        for name, (vectors, count) in lengths.items():
            features = np.tile(np.arange(vectors, dtype=np.float32), (dim, 1))
            np.save(tmp_path / f"features/{name}.npy", features.T if turned else features)
            labels = [CLASSES[frame // 7 % 3] for frame in range(count)]
            (tmp_path / f"groundTruth/{name}.txt").write_text("\n".join(labels) + "\n")
        first, *rest = lengths
        (tmp_path / "splits/test.split1.bundle").write_text(f"{first}.txt\n")
        (tmp_path / "splits/train.split1.bundle").write_text("".join(f"{name}.txt\n" for name in rest))
        return tmp_path

    return make


def load(root, **options):
    return aligned.load_split(root, 1, root / "features", **options)


def test_one_vector_a_frame_is_what_salads_load_split_gives(write):
    root = write({"a": (308, 300), "b": (320, 315)})
    for cut in ("back", "front", "symmetric"):
        for part in salads.PARTS:
            for ours, theirs in zip(load(root, cut=cut)[part], salads.load_split(root, 1, part, cut=cut), strict=True):
                assert np.array_equal(ours.features, theirs.features)
                assert np.array_equal(ours.targets, theirs.labels) and np.array_equal(ours.labels, theirs.labels)
                assert np.array_equal(ours.places, np.arange(len(theirs.labels)))


def test_one_vector_a_second_at_both_ends(write):
    root = write({"a": (21, 601), "b": (40, 1190)}, turned=True)  # 601 frames begin a 21st second
    (video,) = load(root)["test"]
    assert video.features.shape == (4, 21) and video.features[0].tolist() == list(range(21))
    assert video.targets[0] == video.labels[15] and video.targets[19] == video.labels[19 * 30 + 15]
    assert video.targets[20] == video.labels[600], "the middle of the last second lies beyond the labels"
    assert np.array_equal(video.places, np.arange(601) // 30)


@pytest.mark.parametrize("turned", [False, True])
def test_videos_of_one_length_are_turned_as_their_rate_says(write, turned):
    """The shapes are all alike, so that they do not tell which side is time."""
    root = write({"a": (8, 7 * FPS), "b": (8, 8 * FPS)}, dim=38, turned=turned)
    for video in [one for part in load(root, fps=FPS, rate=1.0).values() for one in part]:
        assert video.features.shape[0] == 38 and video.features[0].tolist() == list(range(len(video.targets)))


def test_features_that_end_within_a_second_of_the_labels(write):
    (video,) = load(write({"a": (20, 620), "b": (39, 1190)}))["test"]
    assert len(video.targets) == 20 and video.places[-1] == 19 and video.places[600] == 19


@given(st.integers(1, 400), st.sampled_from([1, 2, 5, 10, 15, 25, 30, 60]))
def test_every_frame_has_the_vector_that_shows_its_middle(count, rate):
    vectors = -(-count * rate // FPS)
    start, held = aligned._window(vectors, count, FPS, rate, "back", "a")
    places = metrics.places(held, rate, FPS, count)
    assert (start, held) == (0, vectors) and places[0] == min(0.5 * rate / FPS // 1, vectors - 1)
    middles = (2 * np.arange(count) + 1) * rate // (2 * FPS)  # in whole numbers
    assert np.array_equal(places, np.minimum(middles, vectors - 1))
    if FPS % rate == 0:
        assert set(places) == set(range(vectors)), "every vector speaks for a frame, the first and the last as well"


@pytest.mark.parametrize("rate, count", [(1, 3000), (15, 3000), (2, 5000), (25, 9000), (60, 3001), (30, 2000)])
@pytest.mark.parametrize("surplus", [0, 8])
def test_rates_are_found_from_lengths(rate, count, surplus):
    lengths = {str(n): (-(-(n + surplus) * rate // FPS), n) for n in (count, count + 431, count + 1799)}
    assert aligned.find_rate(lengths, FPS) == rate


def test_a_missing_vector_is_said_and_not_explained_by_another_rate(write):
    with pytest.raises(ValueError, match="a: 2995 feature vectors for 3000 labels"):
        load(write({"a": (2995, 3000), "b": (3200, 3150)}))
    assert aligned.find_rate({"a": (2995, 3000), "b": (3200, 3150)}, 29.97) == 29.97


def test_half_of_an_odd_rate_is_found():
    assert aligned.find_rate({"a": (7500 // 2, 7500), "b": (9000 // 2, 9000)}, 25) == 12.5


def test_lengths_that_fit_no_rate(write):
    with pytest.raises(ValueError, match="no frame rate fits all features .*give feature_rate, in vectors a second"):
        load(write({"a": (100, 3000), "b": (300, 3000)}))


@pytest.mark.parametrize("rate, found", [(2.0, "b: 110 vectors at 2 a second last 55.0 s"), (0.4, "last 275.0 s")])
def test_a_rate_that_cannot_be(write, rate, found):
    with pytest.raises(ValueError, match=f"{found}.* 3300 labels at 30 a second 110.0 s: give feature_rate"):
        load(write({"a": (100, 3000), "b": (110, 3300)}), rate=rate)


def test_a_missing_vector_of_one_a_frame_is_refused(write):
    with pytest.raises(ValueError, match="a: 299 feature vectors for 300 labels"):
        load(write({"a": (299, 300), "b": (320, 315)}), rate=FPS)


def test_a_file_of_another_width_is_named(write):
    root = write({"a": (308, 300), "b": (320, 315), "c": (350, 345)})
    np.save(root / "features/b.npy", np.zeros((5, 320), np.float32))
    with pytest.raises(ValueError, match=r"b: features \[5, 320\], of width 5; those of other videos have 4"):
        load(root)


def test_features_are_mapped_when_used_and_not_held(write):
    root = write({"a": (308, 300), "b": (320, 315)})
    (video,) = load(root)["test"]
    assert isinstance(video.features, np.memmap)
    assert not any(isinstance(value, np.memmap) for value in vars(video).values())
