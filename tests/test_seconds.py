"""One clip a second: which frames it holds, that each is decoded once and lies where it should."""

import numpy as np
import pytest
import torch

from thesis_lib import seconds
from thesis_lib.data.video import write_video

SIDE = 16


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """75 frames at 10 a second whose brightness tells their number."""
    path = tmp_path_factory.mktemp("root") / "videos/a.avi"
    path.parent.mkdir()
    ramp = np.broadcast_to((3 * np.arange(75, dtype=np.uint8))[:, None, None, None], (75, SIDE, SIDE, 3))
    write_video(path, list(np.ascontiguousarray(ramp)), 10.0)
    return path


def numbers(clips: np.ndarray) -> np.ndarray:
    return np.round(clips.astype(float).mean(axis=(2, 3, 4)) / 3).astype(int)


def test_the_clip_of_a_second_has_its_middle_in_the_middle_of_the_second():
    found = seconds.clip_indices(75, 10.0, 5, 1.0)
    assert found.shape == (8, 5), "seven seconds, and the half one that begins"
    assert found[0].tolist() == [1, 3, 5, 7, 9] and found[3].tolist() == [31, 33, 35, 37, 39]
    assert found[-1].max() == 74, "moved inside at the end"
    wide = seconds.clip_indices(75, 10.0, 4, 3.0)
    assert wide[0].tolist() == wide[1].tolist(), "and at the start"
    assert wide[4].mean() + 0.5 == pytest.approx(45, abs=1)
    short = seconds.clip_indices(3, 10.0, 5, 1.0)
    assert short.shape == (1, 5) and short.min() == 0 and short.max() == 2, "fewer frames than the clip: some twice"


@pytest.mark.parametrize("frames, length", [(5, 1.0), (4, 3.0)])
def test_clips_hold_those_frames(video, frames, length):
    clips = seconds.second_clips(video, frames=frames, seconds=length, size=SIDE)
    assert clips.dtype == np.uint8 and clips.shape == (8, frames, 3, SIDE, SIDE)
    assert np.abs(numbers(clips) - seconds.clip_indices(75, 10.0, frames, length)).max() <= 1


def test_frames_are_read_once(video, monkeypatch):
    read, real = [], seconds.read_frames
    monkeypatch.setattr(seconds, "read_frames", lambda *a, **k: (read.append(i) or (i, f) for i, f in real(*a, **k)))
    seconds.second_clips(video, frames=4, seconds=3.0, size=SIDE)
    assert read == sorted(set(read))


def test_a_folder_of_clips_and_their_vectors(video, tmp_path, monkeypatch):
    from thesis_lib import methods

    class Mean(torch.nn.Module):
        def features(self, clips):
            return clips.mean(dim=(2, 3, 4))

    monkeypatch.setattr(methods, "load", lambda method, weights, vocab: Mean())
    clips, vectors = tmp_path / "clips", tmp_path / "vectors"
    vectors.mkdir()
    seconds.extract_clips(clips, root=video.parents[1], frames=5, seconds=1.0, size=SIDE)
    about = dict(method="mean", weights=tmp_path, vocab=tmp_path, clips=clips, kind="features", device="cpu")
    seconds.extract_vectors(vectors, **about, batch_size=3)
    found, stored = np.load(vectors / "a.npy"), np.load(clips / "a.npy")
    assert found.shape == (8, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, stored.mean(axis=(1, 3, 4)) / 255, atol=1e-5)


def test_a_video_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "b.avi").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"b.avi: not a readable video"):
        seconds.second_clips(tmp_path / "b.avi", frames=2, seconds=1.0, size=SIDE)


def test_frames_smaller_than_asked_are_an_error(video):
    with pytest.raises(ValueError, match=rf"a.avi: frames of {SIDE} x {SIDE} pixels, fewer than the {2 * SIDE} of"):
        seconds.second_clips(video, frames=2, seconds=1.0, size=2 * SIDE)
