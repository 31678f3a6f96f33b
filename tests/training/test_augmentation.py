"""RandAugment and erasing: one change for all frames of a clip, another for each clip, told by the seed alone."""

import pytest
import torch

from thesis_lib.training.augmentation import ERASED, Augmentation


@pytest.fixture(scope="module")
def augment():
    return Augmentation()


def changed(augment, clips, seed):
    torch.manual_seed(seed)
    return augment(clips)


@pytest.fixture
def clip():
    return torch.rand(1, 3, 4, 24, 20, generator=torch.Generator().manual_seed(0))


def test_every_frame_is_changed_as_if_it_were_alone(augment, clip):
    for seed in range(60):
        whole = changed(augment, clip, seed)
        assert whole.shape == clip.shape and whole.min() >= 0 and whole.max() <= 1
        for frame in range(4):
            alone = changed(augment, clip[:, :, frame : frame + 1], seed)
            torch.testing.assert_close(whole[:, :, frame : frame + 1], alone, atol=1e-5, rtol=0)


def test_a_still_clip_stays_still_and_clips_of_a_batch_are_changed_in_different_ways(augment, clip):
    still = clip[:, :, :1].expand(6, -1, 4, -1, -1).contiguous()
    for seed in range(30):
        shown = changed(augment, still, seed)
        assert (shown == shown[:, :, :1]).all()
        assert len({one.numpy().tobytes() for one in shown}) > 1


def test_the_seed_decides_and_most_but_not_all_clips_are_changed(augment, clip):
    same = [torch.equal(changed(augment, clip, seed), changed(augment, clip, seed)) for seed in range(10)]
    assert all(same)
    untouched = sum(torch.equal(changed(augment, clip, seed), clip) for seed in range(400)) / 400
    assert untouched == pytest.approx((1 - ERASED) / 2**4, abs=0.035), (
        "four operations are left out by chance of a half"
    )


def test_erasing_greys_one_box_in_all_frames(augment, clip):
    erased = []
    for seed in range(300):
        torch.manual_seed(seed)
        shown = augment.erasing(clip)
        box = (shown != clip).any(dim=1)[0]
        assert (box == box[:1]).all()
        assert (shown.movedim(1, -1)[0][box] == 0.5).all()
        erased.append(box[0].float().mean().item())
    shares = [share for share in erased if share]
    assert len(shares) / 300 == pytest.approx(ERASED, abs=0.07) and max(shares) < 0.4


def test_mixed_precision_does_not_reach_it(augment, clip):
    plain = changed(augment, clip, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(changed(augment, clip, 5), plain)
