"""Frames are shuffled within each clip and nowhere else, in another order for each clip."""

import torch

from thesis_lib.shuffled import Shuffled


class Keep(torch.nn.Module):
    def forward(self, clips):
        return clips

    encode_video = mixed_5c = forward


def test_each_clip_keeps_its_frames_in_another_order():
    clips = torch.arange(6 * 3 * 8 * 2 * 2.0).view(6, 3, 8, 2, 2)
    for method in ("__call__", "encode_video", "mixed_5c"):
        mixed = getattr(Shuffled(Keep(), seed=1), method)(clips)
        assert not torch.equal(mixed, clips) and torch.equal(mixed.sort(2).values, clips)
        orders = {tuple((one[0, :, 0, 0] - one[0, :, 0, 0].min()).tolist()) for one in mixed}
        assert len(orders) == 6, "an order of its own for each"
        frames = mixed - mixed[:, :1]
        assert torch.equal(frames, frames[:, :, :1].expand_as(frames)), "colours of a frame stay together"
        assert torch.equal(mixed, getattr(Shuffled(Keep(), seed=1), method)(clips)), "the same for the same seed"


def test_a_mean_over_frames_does_not_notice():
    clips = torch.rand(4, 3, 8, 2, 2, dtype=torch.float64)

    class Mean(torch.nn.Module):
        def forward(self, clips):
            return clips.mean(2)

    torch.testing.assert_close(Shuffled(Mean())(clips), Mean()(clips))
