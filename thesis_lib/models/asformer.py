"""ASFormer: a transformer over thousands of frames, whose attention sees a window that doubles with every layer.

An encoder predicts a class per frame from features; decoders refine the prediction of the stage before. Parameter names
are those of the released weights (496 tensors, 1,134,476 parameters at 19 classes).
Yi, Wen, Jiang, ASFormer: Transformer for Action Segmentation, BMVC 2021; ChinaYi/ASFormer model.py (MyTransformer).
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from thesis_lib.models.kinds import Kind, count

# Added to the score of a frame outside the window: its weight is then exactly 0, and it still fits into half precision.
NEVER = -3e4
LONG = 2048  # frames from which memory counts for more than time


class ASFormer(nn.Module):
    """Features [B, D, T] -> logits [num_decoders + 1, B, num_classes, T], one set for the encoder and each decoder.

    Layer i attends over d = 2 ** i frames:
    window="centred": the frames t - d // 2 ... t + d - 1 - d // 2, no others, as the paper says;
    window="official": as the released weights were trained, where the window of a frame is that of its block of d
    frames (half a block more on each side, less the last frame), and frames outside take 1e-6 of their weight in the
    softmax away from those inside (model.py:72, 112-118).
    """

    def __init__(
        self,
        num_classes: int,
        input_dim: int = 2048,
        num_layers: int = 10,
        num_decoders: int = 3,
        num_f_maps: int = 64,
        r1: int = 2,
        r2: int = 2,
        channel_masking_rate: float = 0.3,
        window: str = "centred",
    ):
        super().__init__()
        if window not in ("centred", "official"):
            raise ValueError(f'ASFormer: window is "centred" or "official", not {window!r}')
        self.window = window
        self.num_layers = num_layers
        self.channel_masking_rate = channel_masking_rate
        reduced = num_f_maps // r1, num_f_maps // r2
        self.encoder = Stage(input_dim, num_f_maps, num_classes, num_layers, reduced, alpha=1.0)
        self.decoders = nn.ModuleList(
            # Attention counts less in later stages, so that errors do not add up (model.py:14, 307).
            Stage(num_classes, num_f_maps, num_classes, num_layers, reduced, alpha=math.exp(-3 * stage))
            for stage in range(num_decoders)
        )

    def forward(self, x, mask=None):
        """x [B, D, T], mask [B, T] bool (True = a frame of the video) -> [num_decoders + 1, B, num_classes, T].

        Every video of a batch gets what it gets alone; logits beyond its end are 0.
        """
        if mask is None or mask.all():
            mask = None
        else:
            mask = mask[:, None].to(x.dtype)
        windows = [make_windows(self.window, 2**i, x, mask) for i in range(self.num_layers)]
        if self.channel_masking_rate > 0:
            x = F.dropout1d(x, self.channel_masking_rate, self.training)  # whole feature channels
        logits, features = self.encoder(x, None, windows, mask)
        stages = [logits]
        for decoder in self.decoders:
            logits, features = decoder(_masked(logits.softmax(dim=1), mask), features, windows, mask)
            stages.append(logits)
        return torch.stack(stages)


class Stage(nn.Module):
    """The encoder or one decoder: inputs [B, D, T], the features of the stage before -> (logits, own features)."""

    def __init__(self, inputs, channels, num_classes, num_layers, reduced, alpha):
        super().__init__()
        self.conv_1x1 = nn.Conv1d(inputs, channels, 1)
        self.layers = nn.ModuleList(Layer(channels, 2**i, reduced, alpha) for i in range(num_layers))
        self.conv_out = nn.Conv1d(channels, num_classes, 1)

    def forward(self, x, previous, windows, mask):
        x = _masked(self.conv_1x1(x), mask)
        for layer, window in zip(self.layers, windows, strict=True):
            x = layer(x, previous, window, mask)
        return _masked(self.conv_out(x), mask), x


class Layer(nn.Module):
    """A dilated convolution, attention over the window as a residual, a 1x1 convolution as a residual."""

    def __init__(self, channels, dilation, reduced, alpha):
        super().__init__()
        self.alpha = alpha
        # Holds its convolution as `layer.0`, the official name.
        self.feed_forward = nn.Module()
        self.feed_forward.layer = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation), nn.ReLU()
        )
        self.att_layer = WindowAttention(channels, *reduced)
        self.conv_1x1 = nn.Conv1d(channels, channels, 1)
        self.dropout = nn.Dropout()

    def forward(self, x, previous, window, mask):
        out = self.feed_forward.layer(x)
        normed = normalise(out, mask)
        # A decoder looks where its own features say, and reads there what the stage before found.
        out = torch.add(out, self.att_layer(normed, normed if previous is None else previous, window), alpha=self.alpha)
        return _masked(x + self.dropout(self.conv_1x1(out)), mask)


class WindowAttention(nn.Module):
    """One head of attention inside windows: queries and keys from x [B, C, T], values from `source` [B, C, T]."""

    def __init__(self, channels, qk_channels, value_channels):
        super().__init__()
        self.query_conv = nn.Conv1d(channels, qk_channels, 1)
        self.key_conv = nn.Conv1d(channels, qk_channels, 1)
        self.value_conv = nn.Conv1d(channels, value_channels, 1)
        self.conv_out = nn.Conv1d(value_channels, channels, 1)

    def forward(self, x, source, window):
        query, key = _project(self.query_conv, x), _project(self.key_conv, x)
        value = _project(self.value_conv, source)
        if x.shape[-1] < LONG:
            attended = attend(query, key, value, window)
        else:  # the overlapping windows of keys and values are several times larger: made again for the gradient
            attended = checkpoint(attend, query, key, value, window, use_reentrant=False, preserve_rng_state=False)
        return self.conv_out(F.relu(attended).transpose(1, 2))


@dataclass(frozen=True)
class Windows:
    """How T frames are cut: blocks of queries, each against `pieces` blocks of keys that begin `left` frames before."""

    block: int
    pieces: int
    left: int
    bias: torch.Tensor  # added to the scores: [B or 1, blocks, block, pieces * block]
    frames: torch.Tensor | None = None  # multiplies keys and values before cutting: [B, T, 1]; None = 1
    weight: torch.Tensor | None = None  # multiplies values after cutting: [pieces * block, 1]; None = 1


def make_windows(kind, dilation, x, mask):
    """The windows of one layer for x [B, D, T] and mask [B, 1, T] or None; kind and dilation as in ASFormer."""
    left = dilation // 2
    if kind == "centred":
        # A block of d queries would meet 2 d keys, half of them in vain; with a quarter of that a fifth is in vain.
        # Below 32 frames blocks cost more than they save.
        block = max(32, dilation // 4)
        pieces = -(-(block + dilation - 1) // block)
    else:
        block, pieces = dilation, 1 if dilation == 1 else 2
    key = torch.arange(pieces * block, device=x.device)
    query = torch.arange(block, device=x.device)[:, None]
    valid = x.new_ones(1, x.shape[-1], 1) if mask is None else mask.transpose(1, 2)
    valid = cut_keys(valid, block, pieces, left).transpose(2, 3) > 0
    if kind == "centred":
        inside = valid & (key >= query) & (key < query + dilation)
        return Windows(block, pieces, left, torch.where(inside, 0.0, NEVER).to(x.dtype))
    counted = key < max(1, pieces * block - 1)
    bias = torch.log((valid & counted).to(x.dtype) + 1e-6).expand(-1, -1, block, -1)
    return Windows(block, pieces, left, bias, None if mask is None else mask.transpose(1, 2), counted[:, None].to(x))


def attend(query, key, value, window):
    """Softmax attention of each block of frames to its window: query, key [B, T, C], value [B, T, V] -> [B, T, V]."""
    length = query.shape[1]
    if window.frames is not None:
        key, value = key * window.frames, value * window.frames
    query = F.pad(query, (0, 0, 0, -length % window.block)).unflatten(1, (-1, window.block))
    key, value = (cut_keys(x, window.block, window.pieces, window.left) for x in (key, value))
    if window.weight is not None:
        value = value * window.weight
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=window.bias.to(query.dtype))
    return attended.flatten(1, 2)[:, :length]


def cut_keys(x, block, pieces, left):
    """Overlapping windows of x [B, T, C], zeros outside: -> [B, ceil(T / block), pieces * block, C]."""
    blocks = -(-x.shape[1] // block)
    after = (blocks + pieces - 1) * block - left - x.shape[1]
    x = F.pad(x, (0, 0, left, after)).unflatten(1, (-1, block))
    # Tensor.unfold makes the same windows, but its backward pass is several times slower.
    return torch.cat([x[:, piece : piece + blocks] for piece in range(pieces)], dim=2)


def normalise(x, mask):
    """Each channel of x [B, C, T] to mean 0 and variance 1 over the frames of its video; a single frame becomes 0."""
    if mask is None and x.shape[-1] > 1:
        return F.instance_norm(x)
    count = x.shape[-1] if mask is None else mask.sum(dim=-1, keepdim=True)
    centred = _masked(x - _masked(x, mask).sum(dim=-1, keepdim=True) / count, mask)
    variance = centred.square().sum(dim=-1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-5)


def _project(conv, x):
    """A 1x1 convolution of x [B, C, T] with the frames first: [B, T, C']."""
    return F.linear(x.transpose(1, 2), conv.weight[:, :, 0], conv.bias)


def _masked(x, mask):
    return x if mask is None else x * mask


# -- official files --------------------------------------------------------------------------------------------------


def _sizes(tensors):
    channels, input_dim, _ = tensors["encoder.conv_1x1.weight"].shape
    return {
        "num_classes": len(tensors["encoder.conv_out.weight"]),
        "input_dim": input_dim,
        "num_layers": count(tensors, r"encoder\.layers\.(\d+)\."),
        "num_decoders": count(tensors, r"decoders\.(\d+)\."),
        "num_f_maps": channels,
        "r1": channels // len(tensors["encoder.layers.0.att_layer.query_conv.weight"]),
        "r2": channels // len(tensors["encoder.layers.0.att_layer.value_conv.weight"]),
    }


OFFICIAL = {
    "asformer": Kind(
        build=ASFormer,
        accepts=ASFormer,
        signature=("encoder.conv_1x1.weight", "encoder.layers.0.att_layer.query_conv.weight"),
        sizes=_sizes,
        example=lambda model: model(torch.randn(1, model.encoder.conv_1x1.in_channels, 64)),
    ),
}
