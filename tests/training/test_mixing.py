"""Mixup and CutMix, pixel by pixel: what a clip keeps is what its label keeps."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch.nn.functional import cross_entropy

from thesis_lib.training.mixing import mix, span

CLASSES = 7


def batch(count=5, size=(9, 12), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 2, *size, generator=generator), torch.randint(CLASSES, (count,), generator=generator)


def mixed(clips, labels, seed, mixup, cutmix):
    torch.manual_seed(seed)
    return mix(clips, labels, CLASSES, mixup, cutmix)


def kept_of(labels, targets):
    """The share of the own label, solved from targets; all clips must agree."""
    pairs = zip(labels.tolist(), labels.flip(0).tolist(), targets, strict=True)
    (share,) = {round(row[own].item(), 6) for own, other, row in pairs if own != other}
    return share


def test_mixup_blends_each_clip_with_its_counterpart_and_the_labels_alike():
    clips, labels = batch()
    for seed in range(20):
        shown, targets = mixed(clips, labels, seed, 0.8, 0.0)
        share = kept_of(labels, targets)
        for number in range(5):
            expected = share * clips[number] + (1 - share) * clips[4 - number]
            torch.testing.assert_close(shown[number], expected, atol=1e-5, rtol=0)
            row = torch.zeros(CLASSES)
            row[labels[number]] += share
            row[labels[4 - number]] += 1 - share
            torch.testing.assert_close(targets[number], row, atol=1e-5, rtol=0)


def test_cutmix_exchanges_one_box_and_the_label_keeps_the_share_of_the_pixels_that_stay():
    clips, labels = batch()
    areas = set()
    for seed in range(60):
        shown, targets = mixed(clips, labels, seed, 0.0, 1.0)
        foreign = (shown != clips).any(dim=1)[[0, 1, 3, 4]]  # the clip in the middle is its own counterpart
        assert (foreign == foreign[:1, :1]).all(), "the same box in all frames of all clips"
        assert torch.equal(torch.where((shown != clips), clips.flip(0), clips), shown)
        box = foreign[0, 0]
        rows, columns = box.any(1).nonzero()[:, 0], box.any(0).nonzero()[:, 0]
        assert box.sum() == len(rows) * len(columns)
        if len(rows):
            assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "a rectangle"
        assert kept_of(labels, targets) == pytest.approx(1 - box.float().mean().item(), abs=1e-5)
        areas.add(int(box.sum()))
    assert len(areas) > 20


@pytest.mark.parametrize("side", [8, 9, 32])
def test_a_box_is_the_published_one(side):
    for share in (0.0, 0.3, 0.64, 1.0):
        for centre in range(side):
            cut = int(side * np.sqrt(1 - share))
            expected = np.clip([centre - cut // 2, centre + cut // 2], 0, side)
            assert span(side, share, centre) == tuple(expected)


def test_shares_are_beta_and_each_way_has_half_of_the_batches():
    clips, labels = batch(count=2, size=(1, 1))
    labels = torch.tensor([0, 1])
    shares = [mixed(clips, labels, seed, 0.8, 0.0)[1][0, 0].item() for seed in range(600)]
    assert kstest(shares, "beta", (0.8, 0.8)).pvalue > 0.01
    clips = batch(count=2, size=(20, 20))[0]
    ways = [(mixed(clips, labels, seed, 0.8, 1.0)[0][0] == clips[0]).any().item() for seed in range(600)]
    assert 240 < sum(ways) < 360, "CutMix leaves pixels as they are, mixup none"


def test_smoothed_targets_are_the_published_on_and_off_values():
    clips, labels = batch()
    _, targets = mixed(clips, labels, 3, 0.8, 1.0)
    share, off = kept_of(labels, targets), 0.1 / CLASSES
    scores = torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(1))
    expected = 0
    for own, other, row in zip(labels, labels.flip(0), scores.log_softmax(1), strict=True):
        for kept, label in ((share, own), (1 - share, other)):
            values = torch.full((CLASSES,), off)
            values[label] = 1 - 0.1 + off
            expected -= kept * (values * row).sum() / 5
    torch.testing.assert_close(cross_entropy(scores, targets, label_smoothing=0.1), expected, atol=1e-5, rtol=0)


def test_off_it_touches_nothing_and_draws_nothing():
    clips, labels = batch()
    state = torch.get_rng_state()
    shown, targets = mix(clips, labels, CLASSES, 0.0, 0.0)
    assert shown is clips and targets is labels and torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="mixup=-1"):
        mix(clips, labels, CLASSES, -1, 0.0)
