"""Mixup and CutMix: clips of a batch are mixed with those of the same batch in reverse, and so are their labels.

Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019; as MCG-NJU/VideoMAE mixup.py mixes a batch: one share for
all of it, and half of the batches by each where both are on.
"""

import torch
from torch.distributions import Beta
from torch.nn.functional import one_hot


def mix(
    clips: torch.Tensor, labels: torch.Tensor, num_classes: int, mixup: float, cutmix: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips [B, C, T, H, W] and labels [B] -> mixed clips, and targets [B, num_classes] that sum to 1.

    mixup, cutmix: the share that a clip keeps is drawn from Beta(a, a); 0 is off. CutMix replaces one box in all frames
    of all clips; its share is that of the pixels that stay. With both off everything comes back as it is.
    """
    if mixup < 0 or cutmix < 0:
        raise ValueError(f"mixup={mixup}, cutmix={cutmix}: expected 0, which is off, or more")
    if not mixup and not cutmix:
        return clips, labels
    cut = cutmix > 0 and (not mixup or torch.rand(()).item() < 0.5)
    share = Beta(*2 * [torch.tensor(cutmix if cut else mixup)]).sample().item()
    if cut:
        size = clips.shape[-2:]
        (top, bottom), (left, right) = (span(side, share, torch.randint(side, ()).item()) for side in size)
        clips, other = clips.clone(), clips.flip(0)
        clips[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / size.numel()
    else:
        clips = share * clips + (1 - share) * clips.flip(0)
    targets = one_hot(labels, num_classes).float()
    return clips, share * targets + (1 - share) * targets.flip(0)


def span(side: int, share: float, centre: int) -> tuple[int, int]:
    """From where to where a box reaches on a side of so many pixels; in a square, 1 - share of it if it lies inside."""
    half = int(side * (1 - share) ** 0.5) // 2
    return max(0, centre - half), min(side, centre + half)
