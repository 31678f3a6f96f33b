"""Masked video: pictures show what was hidden and guessed, copying in time fails under tubes alone, work is counted."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from thesis_lib import masked_video
from thesis_lib.masking import masks
from thesis_lib.models.videomae import VideoMAE
from thesis_lib.training.videomae import normalised

GRID = (4, 4, 4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    decoder = dict(decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    return VideoMAE(patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, **decoder).eval()


@pytest.fixture
def clip():
    return torch.rand(3, 8, 32, 32, generator=torch.Generator().manual_seed(1))


def mask_of(kind="random", ratio=0.75, seed=0):
    return masks(kind, GRID, ratio, np.random.default_rng(seed))[0]


def pixels(mask):
    """A mask of cubes as one of pixels [T, H, W]."""
    return mask.reshape(GRID).repeat(2, 0).repeat(8, 1).repeat(8, 2)


def test_hidden_cubes_are_grey_and_the_others_as_they_were(clip):
    mask, before = mask_of(), clip.clone()
    shown = masked_video.hide(clip, mask, 2, 8)
    hidden = torch.from_numpy(pixels(mask))
    assert (shown[:, hidden] == masked_video.GREY).all()
    assert torch.equal(shown[:, ~hidden], clip[:, ~hidden]) and torch.equal(clip, before)


def test_perfect_guesses_give_the_clip_back(model, clip, monkeypatch):
    """The mean and deviation of the true cube turn normalised targets into its colours again."""
    mask = mask_of()
    for normalise in (True, False):
        monkeypatch.setattr(model, "reconstruct", lambda x, m, n=normalise: model.targets(x, m, n))
        whole = masked_video.reconstruct(model, clip, mask, normalise)
        torch.testing.assert_close(whole, clip, atol=1e-5, rtol=0)


def test_an_idle_model_is_shown_the_true_colours(model, clip, monkeypatch):
    """What the picture owes to the true statistics: guesses of 0 paint each hidden cube in its own mean colour."""
    mask = mask_of()
    monkeypatch.setattr(model, "reconstruct", lambda x, m: torch.zeros_like(model.targets(x, m)))
    whole = masked_video.reconstruct(model, clip, mask)
    moment, row, column = np.argwhere(mask.reshape(GRID))[0]
    cube = (
        slice(None),
        slice(2 * moment, 2 * moment + 2),
        slice(8 * row, 8 * row + 8),
        slice(8 * column, 8 * column + 8),
    )
    torch.testing.assert_close(whole[cube], clip[cube].mean((1, 2, 3), keepdim=True).expand(3, 2, 8, 8))
    hidden = torch.from_numpy(pixels(mask))
    assert torch.equal(whole[:, ~hidden], clip[:, ~hidden]), "visible cubes are not touched"


def test_pictures(model, clip):
    found = masked_video.pictures(model, clip, mask_of())
    assert list(found) == ["input", "masked", "reconstruction"]
    assert all(strip.shape == (8, 32, 32, 3) and strip.dtype == np.uint8 for strip in found.values())
    assert np.abs(found["input"] / 255 - clip.permute(1, 2, 3, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert (found["masked"][pixels(mask_of())] == 128).all()


@pytest.mark.parametrize("kind", ["random", "frame", "tube"])
def test_copies_are_the_nearest_in_time(kind):
    """Against a search through all pairs of cubes."""
    grid, rng = (6, 2, 3), np.random.default_rng(3)
    cubes = torch.from_numpy(rng.normal(size=(36, 5)))
    mask = masks(kind, grid, 0.6, rng)[0]
    guess = masked_video.copy_nearest(cubes, mask, grid)
    mean = cubes[torch.from_numpy(~mask)].mean(0)
    for number, (moment, row, column) in enumerate(itertools.product(*map(range, grid))):
        there = [t for t in range(6) if not mask.reshape(grid)[t, row, column]]
        nearest = min(there, key=lambda t, moment=moment: (abs(t - moment), t), default=None)
        expected = mean if nearest is None else cubes[nearest * 6 + row * 3 + column]
        torch.testing.assert_close(guess[number], expected)


def film(step, moments=16):
    """Smooth noise that moves `step` pixels a frame: [3, T, 32, 32] in 0..1."""
    rng = np.random.default_rng(5)
    waves = np.sin(np.arange(32)[:, None] * rng.uniform(0.2, 0.8, 8) + rng.uniform(0, 6, 8))
    picture = torch.from_numpy((waves @ waves.T)[None] * rng.uniform(0.3, 1, (3, 1, 1)) / 20 + 0.5).float()
    return torch.stack([picture.roll(step * t, 2) for t in range(moments)], dim=1)


def test_time_gives_a_still_clip_away_unless_tubes_hide_it():
    """Why tubes: where nothing moves, cubes seen at another time are the hidden ones; tubes leave none to copy."""
    frame = masked_video.leakage({"still": film(0), "moving": film(5)}, ratios=(0.5, 0.75), draws=60)
    mean = frame.groupby(["clip", "masking", "ratio"])["error"].mean()
    assert (mean["still", "frame"] < 1e-6).all()
    assert (frame[frame["masking"] == "tube"]["error"] == 1).all()
    assert (mean["moving", "frame"] > 0.5).all() and (mean["moving", "random"] > 0.5).all()
    still = frame[(frame["clip"] == "still") & (frame["masking"] == "random")]
    # Of 128 cubes 64 or 96 are hidden; the place of a hidden one is so at the 7 other moments too.
    never = {ratio: math.prod((128 * ratio - 1 - k) / (127 - k) for k in range(7)) for ratio in (0.5, 0.75)}
    for ratio, rows in still.groupby("ratio"):
        assert rows["copied"].mean() == pytest.approx(1 - never[ratio], abs=0.03)
        assert rows["error"].mean() == pytest.approx(never[ratio], abs=0.05)


def test_leakage_of_several_clips_repeats_itself():
    clips = torch.stack([film(0, 8), film(3, 8)])
    first, again = (masked_video.leakage({"both": clips}, ratios=(0.75,), draws=3, seed=2) for _ in range(2))
    assert first.equals(again) and len(first) == 2 * 3 * 3 and set(first["number"]) == {0, 1}
    alone = masked_video.leakage({"both": film(0, 8)}, ratios=(0.75,), draws=3, seed=2)
    assert np.allclose(alone["error"], first[first["number"] == 0]["error"])


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_multiply_adds_are_those_that_torch_counts(model, clip, ratio):
    row = masked_video.costs(model, GRID, (ratio,)).iloc[0]
    mask, inputs = torch.from_numpy(mask_of("tube", ratio))[None], normalised(clip[None])
    assert row["visible"] == (~mask).sum() and row["hidden"] == mask.sum()
    counted = []
    for function in (model.encode, model.reconstruct):
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            function(inputs, mask)
        counted.append(counter.get_total_flops() / 2)
    assert [row["encoder"], row["encoder"] + row["decoder"]] == counted


def test_at_nine_tenths_a_hundredth_of_attention_is_left():
    with torch.device("meta"):
        full = VideoMAE()
    frame = masked_video.costs(full, (8, 14, 14)).set_index("ratio")
    assert frame.loc[[0, 0.75, 0.9], "visible"].tolist() == [1568, 392, 160]
    assert frame.loc[0.9, "attention_share"] == pytest.approx(0.0104, abs=1e-4)
    assert frame.loc[0, "encoder"] == pytest.approx(180e9, rel=0.01), "Tong et al., table 10: 180 GFLOPs"
    assert (frame.loc[0, ["encoder_share", "attention_share"]] == 1).all()


def test_a_fine_tuned_model_costs_the_same_without_decoder():
    with torch.device("meta"):
        frames = [masked_video.costs(VideoMAE(num_classes=classes), (8, 14, 14)) for classes in (0, 5)]
    assert frames[1].drop(columns="decoder").equals(frames[0].drop(columns="decoder"))
    assert (frames[1]["decoder"] == 0).all() and (frames[0]["decoder"] > 0).all()


def test_step_seconds_takes_turns_and_gives_medians(model, clip):
    times = iter(np.cumsum([0, 9, 0, 9, *[0, 1, 0, 2], *[0, 3, 0, 5], *[0, 2, 0, 90]]).tolist())
    frame = masked_video.step_seconds(model, clip[None], (0.5, 0.75), repeats=3, clock=lambda: next(times))
    assert frame["ratio"].tolist() == [0.5, 0.75] and frame["seconds"].tolist() == [2, 5]
    assert all(parameter.grad is None for parameter in model.parameters())
