"""Sliding windows against the official numbers, a plain loop and properties."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thesis_lib import segmentation

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

GOLDEN = Path(__file__).parent / "golden" / "windows"
layouts = st.tuples(st.integers(1, 120), st.integers(1, 20)).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(1, pair[1]))
)


def uniform(shape, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32))


def plain_starts(length, size, stride):
    starts = []
    for start in range(0, length, stride):
        starts.append(start)
        if length - start <= size:
            break
    return starts


def test_merge_equals_the_official_code():
    with np.load(GOLDEN / "merge_a.npz") as case:
        spec = json.loads(str(case["spec"]))
        for length in spec["T"]:
            for stride in spec["strides"]:
                name = f"T{length}_s{stride}"
                count = int(case[f"out_nwin_{name}"])
                starts = segmentation.window_starts(length, 32, stride)
                assert len(starts) == count
                assert [min(32, length - start) for start in starts] == case[f"out_winlen_{name}"].tolist()
                logits = uniform((count, 32, spec["C"]), spec["seed"] + 1000 * stride + length)
                merged = segmentation.merge_windows(logits, length, 32, stride)
                np.testing.assert_allclose(merged, case[f"out_merged_{name}"], atol=1e-6)


def test_window_targets_equal_the_official_aligner():
    with np.load(GOLDEN / "paint_a.npz") as case:
        for j, stride in enumerate(case["in_stride"]):
            seconds = case[f"out_video_targets{j}"]
            ours = segmentation.window_targets(seconds, stride=int(stride))
            np.testing.assert_array_equal(ours, case[f"out_targets{j}"])
            mask = segmentation.windows(torch.ones(len(seconds), 1), stride=int(stride))[1]
            np.testing.assert_array_equal(mask, case[f"out_vmasks{j}"])
    with np.load(GOLDEN / "gt_a.npz") as case:
        for j in range(len(case["in_T"])):
            ours = segmentation.window_targets(case[f"out_video_targets{j}"])
            np.testing.assert_array_equal(ours, case[f"out_targets{j}"])


def test_window_counts_of_a_real_video():
    assert len(segmentation.window_starts(385, 32, 16)) == 24
    assert len(segmentation.window_starts(385, 32, 8)) == 46


@given(layouts)
def test_starts_follow_the_loop(layout):
    length, size, stride = layout
    assert segmentation.window_starts(length, size, stride) == plain_starts(length, size, stride)


@given(layouts)
def test_merge_undoes_windows(layout):
    length, size, stride = layout
    features = uniform((length, 3), length)
    clips, mask = segmentation.windows(features, size, stride)
    assert clips.shape == (*mask.shape, 3) and not clips[~mask].any()
    torch.testing.assert_close(segmentation.merge_windows(clips, length, size, stride), features)
    poisoned = clips.masked_fill(~mask[..., None], float("nan"))  # what stands in the padding never counts
    torch.testing.assert_close(segmentation.merge_windows(poisoned, length, size, stride), features)


@given(layouts)
def test_merge_is_the_mean_of_the_windows_that_see_a_frame(layout):
    length, size, stride = layout
    starts = plain_starts(length, size, stride)
    logits = uniform((len(starts), size, 2), 7)
    expected = [
        torch.stack([logits[w, t - s] for w, s in enumerate(starts) if s <= t < s + size]).mean(0)
        for t in range(length)
    ]
    torch.testing.assert_close(segmentation.merge_windows(logits, length, size, stride), torch.stack(expected))


@given(layouts)
def test_targets_cover_the_labels(layout):
    length, size, stride = layout
    targets = segmentation.window_targets(list(range(length)), size, stride)
    assert set(targets[targets != segmentation.IGNORE].tolist()) == set(range(length))
    mask = segmentation.windows(torch.ones(length, 1), size, stride)[1]
    assert torch.equal(targets != segmentation.IGNORE, mask)


def test_segment_is_a_dot_product_of_window_tokens():
    torch.manual_seed(0)
    features, classes = torch.randn(70, 5), torch.randn(4, 6)
    linear = torch.nn.Linear(5, 6)
    seen = []

    def encode_tokens(clips, mask):
        assert clips.shape[:2] == mask.shape and mask.dtype == torch.bool
        seen.append(len(clips))
        return linear(clips)

    logits = segmentation.segment(encode_tokens, features, classes, batch_size=2)
    torch.testing.assert_close(logits, linear(features).detach() @ classes.T)
    assert seen == [2, 2] and not logits.requires_grad
    head = torch.nn.Linear(6, 4)
    logits = segmentation.segment(encode_tokens, features, head)
    torch.testing.assert_close(logits, head(linear(features)).detach())


def test_windows_with_context_are_averaged():
    def running_mean(clips, mask):
        return clips.mean(1, keepdim=True).expand_as(clips)

    features = torch.arange(6.0)[:, None]
    logits = segmentation.segment(running_mean, features, torch.ones(1, 1), size=4, stride=2)
    assert logits.flatten().tolist() == [1.5, 1.5, 2.5, 2.5, 3.5, 3.5]


@pytest.mark.parametrize("arguments", [(0,), (5, 32, 0), (5, 4, 5), (-1,)])
def test_layouts_that_leave_gaps(arguments):
    with pytest.raises(ValueError, match="stride from 1 to the size"):
        segmentation.window_starts(*arguments)


def test_wrong_number_of_windows():
    with pytest.raises(ValueError, match=r"logits \[3, 32, 4\] for 33 frames; expected \[2, 32\]"):
        segmentation.merge_windows(torch.zeros(3, 32, 4), 33)


def test_prompts():
    names = ["place_tomato_into_bowl", "action_start"]
    assert segmentation.prompts(names) == ["place tomato into bowl", "action start"]
    assert segmentation.prompts(names, "raw") == names
    with pytest.raises(ValueError, match="readable, raw, averaged"):
        segmentation.prompts(names, "plain")
    averaged = segmentation.prompts(names, "averaged")
    count = len(segmentation.TEMPLATES)
    assert len(averaged) == 2 * count == 2 * len(set(segmentation.TEMPLATES))
    assert all("place tomato into bowl" in text for text in averaged[:count]) and averaged[count] == "action start"


def test_scores_of_averaged_texts_are_the_mean_of_their_scores():
    """As VideoCLIP scores: a plain dot product, so nothing is brought to unit length before the mean."""
    torch.manual_seed(0)
    texts, tokens = torch.randn(12, 5) * torch.rand(12, 1) * 9, torch.randn(7, 5)
    classes = segmentation.text_vectors(lambda ids, mask: texts[ids], torch.arange(12), None, 4)
    expected = torch.stack([(tokens @ texts[3 * c : 3 * c + 3].T).mean(1) for c in range(4)], 1)
    torch.testing.assert_close(tokens @ classes.T, expected)
