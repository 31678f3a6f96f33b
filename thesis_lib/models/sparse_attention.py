"""Attention of SViTT: few edges, few nodes, and positions known by their distance in time and space alone.

Edges: patches are cut into blocks of G in their order; the queries of a block attend to the keys of `local` blocks
around it (cyclic), of `random` others, and to [CLS], which itself attends to all. Nodes: after some layers the patches
that [CLS] attends to least are dropped. Li et al., SViTT, CVPR 2023; JerryYLi/svitt models/sparse_xbeit.py.

The released code can put patches in the order of a Z or Hilbert curve first; its configurations do not, nor does this.

Three things differ from the released code on purpose. Its random blocks are drawn anew in every call, in eval mode too
(line 350); here they follow from a seed. With three local blocks or more it weighs the values of block n - r by the
keys of block n + r (lines 343, 344), and it lets the zeros that fill up the last block take part in the softmax.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class SparseSelfAttention(nn.Module):
    """Self-attention over [CLS] and the patches of a clip, dense or block-sparse, with a bias for relative positions.

    window: frames, rows and columns of patches at most · block: patches in a block (G). Heads are joined, the output
    projection is left to the layer. The keys have no bias, as in BEiT.
    """

    def __init__(self, dim: int, num_heads: int, window: tuple[int, int, int], block: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is no multiple of num_heads {num_heads}")
        self.num_heads, self.block = num_heads, block
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.relative_position_bias = RelativePositionBias(window, num_heads)

    def forward(self, x, pattern=None, positions=None):
        """x [B, 1 + N, D] -> [B, 1 + N, D].

        pattern [ceil(N / G), k] ints: the blocks, all different, that each block attends to; None: dense.
        positions [B or 1, N] ints: which patches of the window these are; None: the first N.
        Raises ValueError if the pattern is of another number of blocks.
        """
        return self.attend(x, pattern, positions)[0]

    def attend(self, x, pattern=None, positions=None):
        """As forward, and the attention of [CLS] to all tokens, [B, heads, 1, 1 + N]."""
        count = x.shape[1] - 1
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # each [B, heads, 1 + N, D / heads]
        if positions is None:
            positions = torch.arange(count, device=x.device)[None]
        places = F.pad(positions + 1, (1, 0))  # 0 is [CLS]
        bias = self.relative_position_bias(places[:, :1], places).to(query.dtype)
        scores = query[:, :, :1] @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        from_cls = (scores + bias).softmax(dim=-1)
        if pattern is None:
            bias = self.relative_position_bias(places, places).to(query.dtype)
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:
            local = self._sparse(query, key, value, pattern, places)
            attended = torch.cat([from_cls.to(value.dtype) @ value, local], dim=2)
        return attended.transpose(1, 2).flatten(2), from_cls

    def _sparse(self, query, key, value, pattern, places):
        """What the N patches get: a gather of each block's keys, then attention within the block."""
        size, count = self.block, query.shape[2] - 1
        blocks = -(-count // size)
        missing = blocks * size - count  # of the last block
        if len(pattern) != blocks:
            raise ValueError(f"a pattern of {len(pattern)} blocks for {count} patches, which are {blocks} of {size}")

        def cut(x):  # [B, heads, 1 + N, d] -> the patches as [B, heads, blocks, G, d]
            x = x[:, :, 1:]
            return (F.pad(x, (0, 0, 0, missing)) if missing else x).unflatten(2, (blocks, size))

        def gather(x):  # -> [CLS] and the chosen patches as [B, heads * blocks, 1 + k * G, d]
            chosen = cut(x).index_select(2, pattern.flatten()).unflatten(2, pattern.shape).flatten(3, 4)
            return torch.cat([x[:, :, None, :1].expand(-1, -1, blocks, -1, -1), chosen], dim=3).flatten(1, 2)

        own = F.pad(places[:, 1:], (0, missing), value=1).unflatten(1, (blocks, size))
        others = F.pad(own[:, pattern].flatten(2), (1, 0))  # [B or 1, blocks, 1 + k * G]
        bias = self.relative_position_bias(own, others)
        if missing:
            numbers = pattern[..., None] * size + torch.arange(size, device=pattern.device)
            filling = F.pad(numbers.flatten(1) >= count, (1, 0))[:, None]  # [blocks, 1, 1 + k * G]
            bias = bias.masked_fill(filling, -torch.inf)
        attended = F.scaled_dot_product_attention(
            cut(query).flatten(1, 2), gather(key), gather(value), attn_mask=bias.flatten(1, 2).to(query.dtype)
        )
        return attended.unflatten(1, (self.num_heads, blocks)).flatten(2, 3)[:, :, :count]


class RelativePositionBias(nn.Module):
    """A number a head for each distance in time, rows and columns between two patches, and three for [CLS].

    Files hold the index [1 + N, 1 + N] of all pairs under its official name; in memory, where it would grow with the
    square of the clip, it is computed for the pairs that are asked for.
    """

    def __init__(self, window: tuple[int, int, int], num_heads: int):
        super().__init__()
        self.window = tuple(window)
        distances = [2 * length - 1 for length in window]
        self.num_distances = math.prod(distances)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(self.num_distances + 3, num_heads))
        strides = torch.tensor([distances[1] * distances[2], distances[2], 1])
        codes = torch.cartesian_prod(*map(torch.arange, window)) @ strides
        self.register_buffer("codes", F.pad(codes, (1, 0)), persistent=False)

    def forward(self, queries, keys):
        """Places [B, ..., Q] and [B, ..., K] (0 is [CLS], 1 + i is patch i) -> [B, heads, ..., Q, K]."""
        return F.embedding(self.index(queries, keys), self.relative_position_bias_table).movedim(-1, 1)

    def index(self, queries, keys):
        """The row of the table for each pair: [..., Q] and [..., K] -> [..., Q, K]."""
        queries, keys = queries[..., :, None], keys[..., None, :]
        between = self.codes[queries] - self.codes[keys] + (self.num_distances - 1) // 2
        with_cls = self.num_distances + torch.where(queries > 0, 1, torch.where(keys > 0, 0, 2))
        return torch.where((queries > 0) & (keys > 0), between, with_cls)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        every = torch.arange(len(self.codes), device=self.codes.device)
        destination[prefix + "relative_position_index"] = self.index(every, every)

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        state_dict.pop(prefix + "relative_position_index", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def inflate(table, frames: int):
    """A bias table of images [(2h - 1)(2w - 1) + 3, heads] for clips: the same at every distance in time.

    The features of a clip then do not depend on the order of its frames. Official: models/utils.py.
    """
    return torch.cat([table[:-3].repeat(2 * frames - 1, 1), table[-3:]])


def regrid(table, side: int):
    """A bias table of square images [(2h - 1)^2 + 3, heads] for images of `side` patches a side.

    The nearest distances stay, farther ones move apart in a geometric progression until the farthest is that of the new
    image, and cubic splines fill in between. Official: models/utils.py, after BEiT's own fine-tuning, with the same
    bounds of the ratio. Raises ValueError if the table is of no square image.
    """
    from scipy.interpolate import RectBivariateSpline
    from scipy.optimize import brentq

    old, half = math.isqrt(max(0, len(table) - 3)), side - 1
    if old < 3 or old % 2 == 0 or old**2 + 3 != len(table):
        raise ValueError(f"a bias table of {len(table)} rows, which no square image has")

    def beyond(ratio):
        return (ratio ** np.arange(old // 2)).sum() - half

    low, high = 1.01, 1.5
    ratio = low if beyond(low) >= 0 else high if beyond(high) <= 0 else brentq(beyond, low, high)
    far = np.cumsum(ratio ** np.arange(old // 2))
    places, wanted = np.concatenate([-far[::-1], [0], far]), np.arange(-half, half + 1)
    grids = table[:-3].detach().T.unflatten(1, (old, old)).double().numpy()
    degree = min(3, old - 1)
    moved = [RectBivariateSpline(places, places, grid, kx=degree, ky=degree)(wanted, wanted).ravel() for grid in grids]
    return torch.cat([torch.from_numpy(np.stack(moved, axis=1)).to(table.dtype), table[-3:]])


def stretch(table, frames: int, new_frames: int, mode: str = "nearest-exact"):
    """The bias table of clips of `frames` frames for `new_frames` over the same time (temporal expansion).

    Each distance takes the nearest of the old ones. The official mode="nearest" rounds down instead: of 4 frames made
    8, one frame ahead gets what was 0 ahead, one frame back what was 1 back.
    """
    by_time = table[:-3].unflatten(0, (2 * frames - 1, -1))  # [distances in time, distances in space, heads]
    stretched = F.interpolate(by_time.permute(1, 2, 0), 2 * new_frames - 1, mode=mode)
    return torch.cat([stretched.permute(2, 0, 1).flatten(0, 1), table[-3:]])


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # or a pattern first made for evaluation could not be trained with
def sparse_pattern(blocks: int, local: int, random: int, seed: int | tuple[int, ...], device: str = "cpu"):
    """Which blocks each block attends to: [blocks, local + random] ints, all different in a row.

    The local ones first, -local // 2 .. local // 2 around it, cyclic; then random others, ascending. Where there are no
    more blocks than asked for, each attends to all. The same seed gives the same pattern on every machine.
    """
    if local % 2 == 0 or local < 1 or random < 0:
        raise ValueError(f"{local} local and {random} random blocks: local must be odd, random not negative")
    if local + random >= blocks:
        return torch.arange(blocks, device=device).repeat(blocks, 1)
    rows = np.arange(blocks)[:, None]
    near = (rows + np.arange(local) - local // 2) % blocks
    scores = np.random.default_rng(seed).random((blocks, blocks))
    scores[rows, near] = 2
    far = np.sort(scores.argsort(axis=1)[:, :random], axis=1)
    return torch.from_numpy(np.concatenate([near, far], axis=1)).to(device)


def count_edges(num_patches: int, pattern=None, block: int = 1) -> int:
    """Pairs (query, key) of a head: [CLS] and all, and each patch with [CLS] and the blocks of its row of `pattern`."""
    if pattern is None:
        return (1 + num_patches) ** 2
    sizes = torch.full((len(pattern),), block)
    sizes[-1] = num_patches - block * (len(pattern) - 1)
    return int(1 + 2 * num_patches + (sizes * sizes[pattern.cpu()].sum(dim=1)).sum())


def keep_tokens(cls_attention, rate: float):
    """The patches that [CLS] attends to most, all heads together.

    cls_attention [B, heads, 1, 1 + N], the first column [CLS] itself, which is no patch -> [B, ceil(rate * N)] ints in
    0..N - 1, ascending. No gradient goes through the choice. Raises ValueError for a rate outside 0 < rate <= 1.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"a keep rate of {rate}: it must be above 0 and at most 1")
    scores = cls_attention.detach().mean(dim=1)[:, 0, 1:]
    return scores.topk(math.ceil(rate * scores.shape[1]), dim=1).indices.sort(dim=1).values


def keep_rows(x, kept):
    """[CLS] and the kept patches of x [B, 1 + N, D], kept [B, M] -> [B, 1 + M, D]."""
    places = F.pad(kept + 1, (1, 0))
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
