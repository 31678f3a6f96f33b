"""RandAugment and random erasing of training clips, the same for all frames of a clip; the operations are kornia's.

Cubuk et al., RandAugment, CVPRW 2020; Zhong et al., Random Erasing, AAAI 2020. VideoMAE's fine-tuning asks timm for
"rand-m7-n4-mstd0.5-inc1" and an erasing of 0.25: four operations, each left out half of the time, of strength 7 of 10,
and in a quarter of the clips a box. Here too, but for kornia's own ranges of each operation, a strength without noise,
operations that are not drawn twice, and boxes of grey in place of noise.
"""

import torch

OPERATIONS, STRENGTH, ERASED = 4, 7 / 10, 0.25


class Augmentation:
    """Clips [B, 3, T, H, W], RGB in 0..1 -> the same, changed; every clip in another way.

    All that is random comes from torch's generator of the CPU, which `loop.fit` seeds by seed, epoch and batch.
    """

    def __init__(self):
        import kornia.augmentation as kornia  # half a second that most runs can do without

        self.operations = kornia.auto.RandAugment(n=OPERATIONS, m=STRENGTH * 30)  # kornia counts to 30
        box = kornia.RandomErasing(p=ERASED, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value=0.5)
        self.erasing = kornia.VideoSequential(box, data_format="BCTHW")

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        with torch.autocast(clips.device.type, enabled=False):  # half precision moves pixels to wrong places
            clips = torch.stack([self._changed(clip.transpose(0, 1)).transpose(0, 1) for clip in clips])
            return self.erasing(clips).clamp(0, 1)

    def _changed(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames [T, 3, H, W]: what is drawn for one frame is done to all."""
        drawn = self.operations.forward_parameters(frames[:1].shape)
        drawn = [operation for operation, stays in zip(drawn, torch.rand(len(drawn)) < 0.5, strict=True) if stays]
        return self.operations(frames, params=_repeated(drawn, len(frames))) if drawn else frames


def _repeated(drawn, count: int):
    """kornia's tree of parameters of one image, for so many."""
    if isinstance(drawn, list):
        return [item._replace(data=_repeated(item.data, count)) for item in drawn]
    shape = drawn["forward_input_shape"]
    rows = {name: value.expand(count, *value.shape[1:]) for name, value in drawn.items() if value is not shape}
    return rows | {"forward_input_shape": torch.cat([torch.tensor([count]), shape[1:]])}
