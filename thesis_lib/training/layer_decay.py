"""Layer-wise decay of the learning rate: the closer to the pixels or words, the smaller the steps of fine-tuning.

Bao et al., BEiT, ICLR 2022; the rule: MCG-NJU/VideoMAE optim_factory.py, get_num_layer_for_vit.
"""

import re
from collections.abc import Sequence
from os.path import commonprefix

from torch import nn

LAYER = re.compile(r"(?:(.*)\.)?(?:blocks|layer)\.(\d+)\.")  # the numbered layers of all our models
EMBEDDING = re.compile(r"embed|cls_token|mask_token")


def heights(names: Sequence[str]) -> dict[str, int]:
    """How many steps each parameter lies below the top: 0 for all that is in no numbered layer, heads and last norms.

    The last layer of a stack is at 1, its first at the number of its layers, the embeddings before it at one more. A
    model may have several stacks; embeddings belong to the one whose name begins most alike.
    """
    stacks = {}  # path before the stack -> number of its layers
    for found in filter(None, map(LAYER.match, names)):
        stacks[found[1] or ""] = max(stacks.get(found[1] or "", 0), int(found[2]) + 1)

    def height(name: str) -> int:
        if found := LAYER.match(name):
            return stacks[found[1] or ""] - int(found[2])
        if not EMBEDDING.search(name):
            return 0
        alike = {path: len(commonprefix([path.split("."), name.split(".")])) for path in stacks}
        return 1 + (stacks[max(alike, key=alike.get)] if alike else 0)

    return {name: height(name) for name in names}


def parameter_groups(model: nn.Module, lr: float, decay: float) -> list[dict]:
    """What an optimizer takes: lr at the top, times `decay` for each step below it; the top first.

    Raises ValueError for a decay outside of 0..1.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay={decay}: expected more than 0 and at most 1")
    steps, groups = heights([name for name, _ in model.named_parameters()]), {}
    for name, parameter in model.named_parameters():
        groups.setdefault(decay ** steps[name], []).append(parameter)
    return [{"params": groups[scale], "lr": lr * scale} for scale in sorted(groups, reverse=True)]
