"""Stochastic depth (Huang et al., ECCV 2016): training leaves out branches of a layer for some clips of a batch."""

import torch
from torch import nn


def leave_out(x: torch.Tensor, chance: float, training: bool) -> torch.Tensor:
    """What a branch gives [..., L, D]: whole sequences become zeros by `chance`, the others weigh more instead."""
    if not training or not chance:
        return x
    stays = torch.rand(*x.shape[:-2], 1, 1, device=x.device) >= chance
    return x * stays / (1 - chance)


def set_chances(model: nn.Module, last: float) -> None:
    """Sets `stochastic_depth` of all layers that know it: 0 for the first of a stack, linear to `last`.

    Raises ValueError where no layer does.
    """
    stacks = [stack for stack in model.modules() if isinstance(stack, nn.ModuleList)]
    stacks = [stack for stack in stacks if len(stack) and all(hasattr(layer, "stochastic_depth") for layer in stack)]
    if not stacks:
        raise ValueError(f"stochastic_depth: no layer of {type(model).__name__} can be left out")
    for stack in stacks:
        for number, layer in enumerate(stack):
            layer.stochastic_depth = last * number / max(1, len(stack) - 1)
