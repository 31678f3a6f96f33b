"""Clips of narrated videos: from memory and decoded on demand they are the same, and they lie where they should."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch

from thesis_lib.data.video import write_video
from thesis_lib.training.films import around, at_once, decode, even, on_demand, read_films
from thesis_lib.training.narrated_clips import NarratedClips

FPS, SIDE, LENGTH = 8.0, 16, 96


@pytest.fixture(scope="module")
def howto(tmp_path_factory):
    """Three videos whose frames tell their number by their brightness, one caption in each of the first two."""
    root = tmp_path_factory.mktemp("howto")
    (root / "videos").mkdir()
    ramp = np.broadcast_to((2 * np.arange(LENGTH, dtype=np.uint8))[:, None, None, None], (LENGTH, SIDE, SIDE, 3))
    for name in ("a", "b", "c"):
        write_video(root / f"videos/{name}.avi", list(np.ascontiguousarray(ramp)), FPS)
    said = {name: {"start": [4.0], "end": [6.0], "text": [f"words of {name}"]} for name in ("a", "b")}
    (root / "raw_caption.json").write_text(json.dumps(said))
    return root


def numbers(clip: torch.Tensor) -> np.ndarray:
    return (clip.float().mean(dim=(1, 2, 3)) / 2).round().int().numpy()


def test_clips_decoded_on_demand_are_those_from_memory(howto):
    """8 frames a second, as the files have; a clip at half that rate takes every second frame."""
    path = howto / "videos/a.avi"
    whole, opened, slow = at_once(path, SIDE), *(on_demand(path, SIDE, fps, 12.0) for fps in (8.0, 4.0))
    assert (whole.length, opened.length, slow.length) == (96, 96, 48)
    for start in (0, 7, 50, 92):
        assert torch.equal(opened.clip(start, 4), whole.clip(start, 4))
    assert torch.equal(slow.clip(5, 4), torch.stack([whole.clip(frame, 1)[0] for frame in (10, 12, 14, 16)]))
    wide = on_demand(path, 2 * SIDE, 8.0, 12.0).clip(0, 2)  # smaller than the size: filled up
    assert wide.shape == (2, 3, 2 * SIDE, 2 * SIDE) and not wide[:, :, : SIDE // 2].any()


def test_decoded_once_for_all_they_are_the_same_and_the_unreadable_are_still_named(howto, tmp_path, capfd):
    root, folder = tmp_path / "howto", tmp_path / "decoded"
    shutil.copytree(howto, root)
    (root / "videos/b.avi").write_bytes(b"no video")
    folder.mkdir()
    decode(folder, howto=root, size=SIDE // 2)
    assert sorted(path.name for path in folder.glob("*.npy")) == ["a.npy", "c.npy"]
    for given in ("", folder):
        films = read_films(root, ["a", "b", "c"], SIDE // 2, 0.0, {}, 8, decoded=given)
        assert list(films) == ["a", "c"] and "passed over" in capfd.readouterr().out
        assert torch.equal(films["c"].clip(5, 20), at_once(howto / "videos/c.avi", SIDE // 2).clip(5, 20))
    shutil.copy(howto / "videos/a.avi", root / "videos/b.avi")  # what is mended is there, what is replaced is read anew
    os.utime(root / "videos/c.avi", (time.time() + 9, time.time() + 9))
    (folder / "c.npy").write_bytes(b"of another video")
    films = read_films(root, ["a", "b", "c"], SIDE // 2, 0.0, {}, 8, decoded=folder)
    assert list(films) == ["a", "b", "c"] and torch.equal(films["b"].clip(90, 20), films["a"].clip(90, 20))
    assert films["a"].clip(90, 20).shape == (6, 3, SIDE // 2, SIDE // 2), "no more than there is"
    (root / "videos/a.avi").unlink()  # what is decoded and gone is gone
    assert list(read_films(root, ["a", "c"], SIDE // 2, 0.0, {}, 8, decoded=folder)) == ["c"]
    (folder / "c.npy").unlink()
    assert list(read_films(root, ["c"], SIDE // 2, 0.0, {}, 8, decoded=folder)) == ["c"], "decoded later is decoded"


def test_only_films_with_captions_that_are_long_enough(howto, capfd):
    assert list(read_films(howto, ["b", "a", "missing"], SIDE, 0.0, {}, 8)) == ["b", "a"]
    with pytest.raises(ValueError, match="not one video with captions that is 97 frames long"):
        read_films(howto, ["a"], SIDE, 0.0, {}, LENGTH + 1)


def test_a_clip_lies_around_its_caption(howto):
    clips = NarratedClips(howto, frames=4, seconds=2.0, size=SIDE)
    assert clips.names == ["a", "b"]
    assert np.abs(numbers(around(clips.films["a"], 5.0, 4, 2.0)) - [33, 37, 41, 45]).max() <= 1, (
        "seconds 4 to 6, in the middle of fourths"
    )
    assert np.abs(numbers(around(clips.films["a"], -3.0, 4, 2.0)) - [2, 6, 10, 14]).max() <= 1, "moved into the video"
    drawn, texts = clips.draw(np.random.default_rng(0), 50)
    assert drawn.shape == (50, 4, 3, SIDE, SIDE) and set(texts) == {"words of a", "words of b"}
    middles = np.array([numbers(clip).mean() for clip in drawn]) / FPS
    assert middles.min() < 4.3 and middles.max() > 5.7 and (np.abs(middles - 5) < 1.2).all()


def test_even_places():
    assert even(8, 4).tolist() == [1, 3, 5, 7] and even(4, 4).tolist() == [0, 1, 2, 3]
    assert len(set(even(9, 8).tolist())) == 8 and even(9, 8).max() < 9


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A video of one wide picture whose colours are its coordinates."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "videos").mkdir()
    row, column = np.mgrid[:24, :36]
    picture = np.stack([10 * row, 7 * column, 0 * row], axis=2).astype(np.uint8)
    write_video(root / "videos/a.avi", [picture] * LENGTH, FPS)
    (root / "raw_caption.json").write_text(json.dumps({"a": {"start": [4.0], "end": [6.0], "text": ["words"]}}))
    return root


@pytest.mark.parametrize("opened", [False, True])
def test_crops_are_of_one_size_and_the_same_in_all_frames(pictures, opened):
    settings = dict(frames=4, seconds=0.5, size=SIDE, on_demand=opened)
    cropped = NarratedClips(pictures, crop_scales=[1, 0.75, 0.5], **settings)
    assert cropped.films["a"].clip(0, 2).shape == (2, 3, 24, 32), "as high as it is, no wider than a crop may need"
    drawn, _ = cropped.draw(np.random.default_rng(0), 40)
    assert drawn.shape == (40, 4, 3, SIDE, SIDE) and len({clip[0].numpy().tobytes() for clip in drawn}) > 20
    assert (drawn.int() - drawn[:, :1].int()).abs().max() <= 6, "but for the compression"
    assert torch.equal(drawn, cropped.draw(np.random.default_rng(0), 40)[0])
    heights = drawn[:, 0, 0].float().mean(2).diff(dim=1).mean(1) / 10 * SIDE  # rows that a clip shows
    assert heights.min() == pytest.approx(12, abs=1.5) and heights.max() == pytest.approx(24, abs=1.5)


def test_half_of_the_clips_are_mirrored_and_else_are_what_they_were(pictures):
    plain, mirrored = (
        NarratedClips(pictures, frames=4, seconds=0.5, size=SIDE, flip=flip).draw(np.random.default_rng(0), 60)[0]
        for flip in (False, True)
    )
    rightwards = [bool(clip[0, 1, 8, -1].int() > clip[0, 1, 8, 0].int()) for clip in mirrored]
    assert 15 < sum(rightwards) < 45
    for clip, right in zip(mirrored, rightwards, strict=True):
        as_it_was = clip if right else clip.flip(3)
        assert (as_it_was.int() - plain[0].int()).abs().max() <= 6, "all frames alike"


def test_scales_that_cannot_be_are_said(howto):
    with pytest.raises(ValueError, match=r"crop_scales=\[1.0, 2.0\]: expected some numbers"):
        NarratedClips(howto, frames=4, seconds=0.5, size=SIDE, crop_scales=[1.0, 2.0])
