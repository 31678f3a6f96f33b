"""S3D-G with a text tower, as trained on HowTo100M: a clip and a sentence in one 512-d space.

Parameter names are those of the released checkpoints (537 state-dict entries, 31,211,336 parameters at full size).
Xie et al., Rethinking Spatiotemporal Feature Learning, ECCV 2018; Miech et al., End-to-End Learning of Visual
Representations from Uncurated Instructional Videos, CVPR 2020; antoine77340/S3D_HowTo100M s3dg.py.
"""

import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.models.kinds import Kind

# Output channels of an Inception block: 1x1, 1x1 before 3x3, 3x3, 1x1 before the second 3x3, 3x3, 1x1 after pooling.
BLOCKS = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
# Max-pooling before a layer: kernel and stride in time, height, width.
POOLS = {
    "conv_2b": ((1, 3, 3), (1, 2, 2)),
    "mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


class S3D(nn.Module):
    """Video [B, 3, T, H, W] (RGB in 0..1, no mean subtracted; T, H, W even) and word ids [B, L] to vectors of a space.

    channels_div divides every channel count of the video tower: 1 is the published network, 8 a small one whose
    `mixed_5c` has 128 values. space_to_depth folds 2x2x2 pixels into channels before the first layer, as the HowTo100M
    checkpoint does; MIL-NCE checkpoints have a strided 3x7x7 layer instead. Word id 0 is padding, and takes part in the
    maximum over words: pad every sentence to 16 ids, as in training.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        channels_div: int = 1,
        space_to_depth: bool = True,
        vocab_size: int = 66250,
        word_dim: int = 300,
        text_hidden: int = 2048,
    ):
        super().__init__()
        stem, widened = 64 // channels_div, 192 // channels_div
        self.space_to_depth = space_to_depth
        if space_to_depth:
            self.conv1 = ConvUnit(24, stem, (2, 4, 4), padding=(1, 2, 2))
        else:
            self.conv1 = ConvUnit(3, stem, (3, 7, 7), stride=2, padding=(1, 3, 3))
        self.conv_2b = ConvUnit(stem, stem, (1, 1, 1))
        self.conv_2c = SeparableUnit(stem, widened)
        self.gating = Gating(widened)
        channels = widened
        for name, plan in BLOCKS.items():
            block = InceptionBlock(channels, tuple(max(1, count // channels_div) for count in plan))
            # Not add_module: the last block's official name, mixed_5c, is also our method that runs up to it.
            self._modules[name] = block
            channels = block.channels
        self.features_dim = channels
        self.fc = nn.Linear(channels, embed_dim)
        self.text_module = TextModule(embed_dim, vocab_size, word_dim, text_hidden)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, clip, ids):
        """Both vectors: clip [B, 3, T, H, W], ids [B * K, L] -> ([B, 512], [B * K, 512])."""
        return self.encode_video(clip), self.encode_text(ids)

    def encode_video(self, clip):
        """clip [B, 3, T, H, W] -> [B, 512]: the vector that is compared with a text by dot product."""
        return self.project(self.mixed_5c(clip))

    def project(self, mixed_5c, normalise: bool = False):
        """mixed_5c [..., 1024] -> [..., 512], what encode_video gives for the same clips; normalise: to unit length.

        Turns the public HowTo100M features of 1024 values into those that VideoCLIP was trained on, which have 512 and
        unit length (antoine77340/S3D_HowTo100M issue 8; fairseq examples/MMPT scripts/video_feature_extractor).
        """
        vectors = self.fc(mixed_5c)
        return F.normalize(vectors, dim=-1) if normalise else vectors

    def mixed_5c(self, clip):
        """clip [B, 3, T, H, W] -> [B, 1024]: the last block averaged over time and space, before `fc`."""
        return self.feature_map(clip).mean(dim=(2, 3, 4))

    def encode_text(self, ids):
        """Word ids [B, L], 0 = padding -> [B, 512]."""
        return self.text_module(ids)

    def feature_map(self, clip):
        """clip [B, 3, T, H, W] -> [B, 1024, T / 8, H / 32, W / 32]: the last block. Raises ValueError for odd sizes."""
        if self.space_to_depth:
            if any(size % 2 for size in clip.shape[2:]):
                raise ValueError(f"S3D needs even frames, height and width, not {tuple(clip.shape[2:])}: pad or crop")
            # The surplus position comes from the padding of 1, 2, 2 before an even kernel.
            x = self.conv1(fold_pixels(clip))[:, :, 1:, 1:, 1:]
        else:
            x = self.conv1(clip)
        x = self.conv_2b(pool_before("conv_2b", x))
        x = self.gating(self.conv_2c(x))
        for name in BLOCKS:
            x = self._modules[name](pool_before(name, x))
        return x


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs, outputs, kernel, stride=1, padding=0):
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)

    def forward(self, x):
        return F.relu(self.bn1(self.conv1(x)))


class SeparableUnit(nn.Module):
    """A 3x3x3 convolution as 1x3x3 in space, then 3x1x1 in time, each with batch norm and ReLU."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class Gating(nn.Module):
    """Scales each channel by a sigmoid of all channels' averages: the G of S3D-G."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x):
        gate = torch.sigmoid(self.fc(x.mean(dim=(2, 3, 4))))
        return x * gate[:, :, None, None, None]


class InceptionBlock(nn.Module):
    """Four branches over the same input, each gated, side by side in the channels."""

    def __init__(self, inputs, plan):
        super().__init__()
        b0, b1_a, b1_b, b2_a, b2_b, b3_b = plan
        self.conv_b0 = ConvUnit(inputs, b0, 1)
        self.conv_b1_a = ConvUnit(inputs, b1_a, 1)
        self.conv_b1_b = SeparableUnit(b1_a, b1_b)
        self.conv_b2_a = ConvUnit(inputs, b2_a, 1)
        self.conv_b2_b = SeparableUnit(b2_a, b2_b)
        self.conv_b3_b = ConvUnit(inputs, b3_b, 1)
        self.gating_b0, self.gating_b1, self.gating_b2, self.gating_b3 = map(Gating, (b0, b1_b, b2_b, b3_b))
        self.channels = b0 + b1_b + b2_b + b3_b

    def forward(self, x):
        return torch.cat(
            [
                self.gating_b0(self.conv_b0(x)),
                self.gating_b1(self.conv_b1_b(self.conv_b1_a(x))),
                self.gating_b2(self.conv_b2_b(self.conv_b2_a(x))),
                self.gating_b3(self.conv_b3_b(F.max_pool3d(x, 3, stride=1, padding=1))),
            ],
            dim=1,
        )


class TextModule(nn.Module):
    """A bag of words: the maximum over positions, padding included, of a layer on each word's embedding."""

    def __init__(self, embed_dim, vocab_size, word_dim, hidden):
        super().__init__()
        self.word_embd = nn.Embedding(vocab_size, word_dim)
        self.fc1 = nn.Linear(word_dim, hidden)
        self.fc2 = nn.Linear(hidden, embed_dim)

    def forward(self, ids):
        return self.fc2(F.relu(self.fc1(self.word_embd(ids))).amax(dim=1))


def fold_pixels(clip):
    """[B, C, T, H, W] -> [B, 8 C, T / 2, H / 2, W / 2]; channels ordered by time, row, column, then colour."""
    batch, channels, frames, height, width = clip.shape
    clip = clip.reshape(batch, channels, frames // 2, 2, height // 2, 2, width // 2, 2)
    clip = clip.permute(0, 3, 5, 7, 1, 2, 4, 6)
    return clip.reshape(batch, 8 * channels, frames // 2, height // 2, width // 2)


def pool_before(name, x):
    """The max-pooling in front of a layer, padded like TensorFlow's SAME: zeros, the odd one at the end."""
    if name not in POOLS:
        return x
    kernel, stride = POOLS[name]
    padding = []
    for size, step in zip(reversed(kernel), reversed(stride), strict=True):
        total = max(size - step, 0)
        padding += [total // 2, total - total // 2]
    return F.max_pool3d(F.pad(x, padding), kernel, stride, ceil_mode=True)


# -- official files --------------------------------------------------------------------------------------------------


def _sizes(tensors):
    stem, in_channels = tensors["conv1.conv1.weight"].shape[:2]
    vocab_size, word_dim = tensors["text_module.word_embd.weight"].shape
    return {
        "embed_dim": len(tensors["fc.weight"]),
        "channels_div": 64 // stem,
        "space_to_depth": in_channels == 24,
        "vocab_size": vocab_size,
        "word_dim": word_dim,
        "text_hidden": len(tensors["text_module.fc1.weight"]),
    }


OFFICIAL = {
    "s3d_howto100m": Kind(
        build=S3D,
        accepts=S3D,
        signature=("conv1.conv1.weight", "mixed_3b.conv_b1_b.conv2.weight"),
        sizes=_sizes,
        example=lambda model: torch.cat(model(torch.rand(1, 3, 8, 64, 64), torch.ones(1, 16, dtype=torch.long))),
    ),
}
