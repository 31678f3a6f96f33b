"""VideoMAE: a transformer over cubes of video that learns by painting in the nine tenths of them which it cannot see.

Parameter names are those of the released checkpoints, of pretraining (94,210,944 parameters with the base encoder and
four decoder layers) or, with num_classes, of fine-tuning. Tong et al., VideoMAE: Masked Autoencoders are Data-Efficient
Learners for Self-Supervised Video Pre-Training, NeurIPS 2022; MCG-NJU/VideoMAE modeling_pretrain.py,
modeling_finetune.py; the target: engine_for_pretraining.py.
"""

import math
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.models.kinds import Kind, count
from thesis_lib.models.stochastic_depth import leave_out

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # a channel, of RGB in 0..1
HEADS = {192: 3, 384: 6, 512: 8, 640: 8, 768: 12, 1024: 16, 1280: 16}  # of the published widths, decoders included
EPS = 1e-6  # of every LayerNorm, and beside the deviation of a target


class VideoMAE(nn.Module):
    """Clips [B, 3, T, H, W], less MEAN and over STD, as N tokens: cubes of tubelet_size frames and patch_size pixels.

    Tokens are ordered by time, row, column; there is no [CLS]. A mask [B, N] bool is True where a cube is hidden, and
    hides equally many in each clip of a batch. Any size that the cubes divide is accepted, but weights fit the size
    they were trained at: positions count tokens one after the other.

    num_classes=0 is the pretraining layout, with a decoder; otherwise the fine-tuned one, with a classifier and without
    a LayerNorm after the last block. Numbers of heads follow from published widths, others must be given.
    """

    def __init__(
        self,
        *,
        patch_size: int = 16,
        tubelet_size: int = 2,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int | None = None,
        decoder_hidden_size: int = 384,
        decoder_num_hidden_layers: int = 4,
        decoder_num_attention_heads: int | None = None,
        num_classes: int = 0,
    ):
        super().__init__()
        self.patch, self.tubelet = patch_size, tubelet_size
        self.width, self.num_classes = hidden_size, num_classes
        heads = num_attention_heads or _heads(hidden_size, "")
        embedding = CubeEmbedding(tubelet_size, patch_size, hidden_size)
        blocks = nn.ModuleList(Block(hidden_size, heads) for _ in range(num_hidden_layers))
        if num_classes:
            self.patch_embed, self.blocks = embedding, blocks
            self.fc_norm = nn.LayerNorm(hidden_size, eps=EPS)
            self.head = nn.Linear(hidden_size, num_classes)
        else:
            decoder_heads = decoder_num_attention_heads or _heads(decoder_hidden_size, "decoder_")
            self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_hidden_size))
            self.encoder, self.decoder = nn.Module(), nn.Module()
            self.encoder.patch_embed, self.encoder.blocks = embedding, blocks
            self.encoder.norm = nn.LayerNorm(hidden_size, eps=EPS)
            self.decoder.blocks = nn.ModuleList(
                Block(decoder_hidden_size, decoder_heads) for _ in range(decoder_num_hidden_layers)
            )
            self.decoder.norm = nn.LayerNorm(decoder_hidden_size, eps=EPS)
            self.decoder.head = nn.Linear(decoder_hidden_size, tubelet_size * patch_size**2 * 3)
            self.encoder_to_decoder = nn.Linear(hidden_size, decoder_hidden_size, bias=False)
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, clip):
        """clip [B, 3, T, H, W] -> [B, D]: the mean of its tokens, after fc_norm where there is a classifier."""
        mean = self.encode(clip).mean(dim=1)
        return self.fc_norm(mean) if self.num_classes else mean

    def logits(self, clip):
        """clip [B, 3, T, H, W] -> class scores [B, num_classes]. Raises ValueError without a classifier."""
        if not self.num_classes:
            raise ValueError(
                "this VideoMAE has no classifier, its weights are of pretraining: build it with num_classes"
            )
        return self.head(self(clip))

    def encode(self, clip, mask=None):
        """clip [B, 3, T, H, W], mask [B, N] bool or None -> the visible tokens [B, V, D], in their order.

        What the mask hides is never computed.
        """
        cubes, parts = self._cubes(clip), self if self.num_classes else self.encoder
        where = positions(cubes.shape[1], self.width, clip.device)
        if mask is not None:
            visible = self._places(clip, mask)[0]
            cubes, where = _take(cubes, visible), where[visible]
        x = parts.patch_embed(cubes) + where
        for block in parts.blocks:
            x = block(x)
        return x if self.num_classes else self.encoder.norm(x)

    def reconstruct(self, clip, mask):
        """clip [B, 3, T, H, W], mask [B, N] bool -> guesses [B, M, cube] of the hidden cubes' targets, in their order.

        Raises ValueError where the mask hides nothing, or without a decoder.
        """
        if self.num_classes:
            raise ValueError("this VideoMAE has no decoder, its weights are fine-tuned: take those of pretraining")
        x = self.encoder_to_decoder(self.encode(clip, mask))
        visible, hidden = self._places(clip, mask)
        if not hidden.shape[1]:
            raise ValueError("VideoMAE: the mask hides nothing, so there is nothing to reconstruct")
        where = positions(mask.shape[1], x.shape[2], x.device)
        x = torch.cat([x + where[visible], self.mask_token + where[hidden]], dim=1)
        for block in self.decoder.blocks:
            x = block(x)
        return self.decoder.head(self.decoder.norm(x[:, -hidden.shape[1] :]))

    def targets(self, clip, mask, normalise: bool = True):
        """What `reconstruct` should give: [B, M, cube], a cube's values by time, row, column, channel.

        Colours in 0..1; normalise: less their mean and over their standard deviation in each cube and channel.
        """
        hidden = self._places(clip, mask)[1]
        pixels = _take(self._cubes(clip), hidden).unflatten(2, (-1, 3))
        pixels = pixels * clip.new_tensor(STD) + clip.new_tensor(MEAN)
        if normalise:
            mean, deviation = cube_statistics(pixels)
            pixels = (pixels - mean) / deviation
        return pixels.flatten(2)

    def grid(self, clip) -> tuple[int, int, int]:
        """How many cubes a clip [B, 3, T, H, W] has in time, height and width; ValueError if they do not divide it."""
        sizes = self.tubelet, self.patch, self.patch
        if clip.dim() != 5 or clip.shape[1] != 3 or any(a % b for a, b in zip(clip.shape[2:], sizes, strict=True)):
            raise ValueError(
                f"VideoMAE reads clips [B, 3, T, H, W], T a multiple of {self.tubelet}, H and W of {self.patch}, "
                f"not {list(clip.shape)}"
            )
        return tuple(a // b for a, b in zip(clip.shape[2:], sizes, strict=True))

    def _cubes(self, clip):
        """clip [B, 3, T, H, W] -> [B, N, cube]."""
        self.grid(clip)
        return to_cubes(clip, self.tubelet, self.patch).flatten(2)

    def _places(self, clip, mask):
        """Token numbers of what a mask shows [B, V] and hides [B, M], ascending."""
        shape = (len(clip), math.prod(self.grid(clip)))
        if mask.dtype != torch.bool or mask.shape != shape:
            raise ValueError(
                f"VideoMAE: a mask of these clips is bool {list(shape)}, not {mask.dtype} {list(mask.shape)}"
            )
        counts = mask.sum(dim=1)
        fewest, most = counts.min().item(), counts.max().item()
        if fewest != most:
            raise ValueError(
                f"VideoMAE: masks of a batch must hide equally many cubes of each clip, these hide {fewest} to {most}"
            )
        order = mask.int().argsort(dim=1, stable=True)
        return order.tensor_split([order.shape[1] - most], dim=1)


class CubeEmbedding(nn.Module):
    """The published convolution, whose stride is its kernel: a linear map of each cube, of the visible ones alone."""

    def __init__(self, tubelet, patch, width):
        super().__init__()
        size = tubelet, patch, patch
        self.proj = nn.Conv3d(3, width, size, stride=size)

    def forward(self, cubes):
        """Cubes [B, V, cube] -> [B, V, D]."""
        return F.linear(cubes, self.proj.weight.movedim(1, -1).flatten(1), self.proj.bias)


class Block(nn.Module):
    """Attention between all tokens of a clip and a network for each, LayerNorm before, residual around.

    stochastic_depth: chance to leave out each of the two in training; `stochastic_depth.set_chances` sets it.
    """

    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.stochastic_depth = 0.0

    def forward(self, x):
        x = x + leave_out(self.attn(self.norm1(x)), self.stochastic_depth, self.training)
        made = self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))
        return x + leave_out(made, self.stochastic_depth, self.training)


class Attention(nn.Module):
    """Queries and values have a bias, keys none: to a key's the softmax is blind."""

    def __init__(self, width, heads):
        super().__init__()
        if width % heads:
            raise ValueError(f"VideoMAE: hidden_size {width} is no multiple of num_attention_heads {heads}")
        self.heads = heads
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        query, key, value = (
            F.linear(x, self.qkv.weight, bias).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each [B, heads, N, D / heads]
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def to_cubes(clip: torch.Tensor, tubelet: int, patch: int) -> torch.Tensor:
    """Clip [B, 3, T, H, W] -> [B, N, pixels, C]: cubes by time, row, column, and so the pixels in each."""
    cubes = clip.unflatten(4, (-1, patch)).unflatten(3, (-1, patch)).unflatten(2, (-1, tubelet))
    return cubes.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(1, 3).flatten(2, 4)


def to_clip(cubes: torch.Tensor, grid: tuple[int, int, int], tubelet: int, patch: int) -> torch.Tensor:
    """What `to_cubes` was made of: [B, N, pixels, C] -> [B, 3, T, H, W]; grid: cubes in time, height and width."""
    parts = cubes.unflatten(2, (tubelet, patch, patch)).unflatten(1, grid)
    return parts.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def cube_statistics(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (unbiased, and EPS) of cubes [..., pixels, C], each [..., 1, C]."""
    mean = pixels.mean(dim=-2, keepdim=True)
    variance = (pixels - mean).square().sum(dim=-2, keepdim=True) / (pixels.shape[-2] - 1)
    return mean, variance.sqrt() + EPS  # torch's own std takes several times as long


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def positions(count: int, width: int, device: torch.device) -> torch.Tensor:
    """Sines and cosines [count, width] of the number of a token in its clip; nothing learned."""
    column = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64)[:, None] / 10000 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angles.sin(), angles.cos()).float().to(device)


def _take(tokens, places):
    """Tokens [B, N, D] at places [B, K] -> [B, K, D], whole rows at once."""
    rows = places + tokens.shape[1] * torch.arange(len(tokens), device=places.device)[:, None]
    return tokens.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, places.shape)


def _heads(width, part):
    if width not in HEADS:
        raise ValueError(f"{part}hidden_size={width} does not tell the number of heads: {part}num_attention_heads=")
    return HEADS[width]


# -- official files --------------------------------------------------------------------------------------------------


def _sizes(tensors):
    """Of both layouts: that of pretraining has an encoder and a decoder, the fine-tuned one a classifier."""
    encoder = "encoder." if "encoder.patch_embed.proj.weight" in tensors else ""
    width, _, tubelet, patch, _ = tensors[encoder + "patch_embed.proj.weight"].shape
    sizes = {
        "patch_size": patch,
        "tubelet_size": tubelet,
        "hidden_size": width,
        "num_hidden_layers": count(tensors, rf"{encoder}blocks\.(\d+)\."),
    }
    if not encoder:
        return sizes | {"num_classes": len(tensors["head.weight"])}
    return sizes | {
        "decoder_hidden_size": len(tensors["encoder_to_decoder.weight"]),
        "decoder_num_hidden_layers": count(tensors, r"decoder\.blocks\.(\d+)\."),
        "num_classes": 0,
    }


OFFICIAL = {
    "videomae": Kind(
        build=VideoMAE,
        accepts=VideoMAE,
        signature=(r"(encoder\.)?patch_embed\.proj\.weight", r"(encoder\.)?blocks\.0\.attn\.q_bias"),
        sizes=_sizes,
        prefixes=("encoder.", "backbone."),  # of fine-tuned files; those of pretraining have a decoder too
        example=lambda model: model(torch.randn(1, 3, 2 * model.tubelet, 2 * model.patch, 2 * model.patch)),
    ),
}
