"""A fresh TimeSformer becomes a published ViT, where the official pretraining of ALPRO starts.

timm's ViT-B/16 of ImageNet-21k: salesforce/ALPRO src/modeling/timesformer/helpers.py load_pretrained_imagenet,
src/modeling/alpro_models.py.
"""

import math
import re
from pathlib import Path

import torch

from thesis_lib.models.alpro import TimeSformer, nearest_places
from thesis_lib.models.official import Report
from thesis_lib.models.starts import fill, read

VIT = "a ViT in timm's layout, as vit_base_patch16_224"


def start_timesformer(model: TimeSformer, path: str | Path) -> Report:
    """Puts a ViT into a fresh TimeSformer, in place; the report tells what became of every tensor.

    Attention over time begins as a copy of that over space, LayerNorm included. temporal_fc and time_embed stay 0, so a
    clip of equal frames gets what the ViT makes of one. Another number of patches takes the nearest of the position
    embeddings in rows and columns, as the model itself does (the official code of this start lets them go then).
    Raises ValueError if the file is unreadable, no ViT or of other sizes.
    """
    tensors = read(path, "blocks.0.attn.qkv.weight", VIT)
    if "pos_embed" in tensors:
        cls, places = tensors["pos_embed"][:, :1], tensors["pos_embed"][:, 1:]
        if math.isqrt(places.shape[1]) ** 2 != places.shape[1]:
            raise ValueError(
                f"{path}: pos_embed has {1 + places.shape[1]} rows, expected [CLS] and a square of patches"
            )
        side = math.isqrt(model.pos_embed.shape[1] - 1)
        tensors["pos_embed"] = torch.cat([cls, nearest_places(places, side, side)], dim=1)
    for name in [name for name in tensors if re.match(r"blocks\.\d+\.(attn|norm1)\.", name)]:
        tensors.setdefault(re.sub(r"\.(attn|norm1)\.", r".temporal_\1.", name), tensors[name])
    fresh, dropped = r"^time_embed$|\.temporal_fc\.", r"^(head|pre_logits\.fc)\."
    return fill(model, tensors, path, "vit", VIT, fresh, dropped)
