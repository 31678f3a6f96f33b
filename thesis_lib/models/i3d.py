"""Two I3D networks that turn 21 frames around a moment into one vector: ResNet-50 and Inception.

I3DR50 is the thesis's extractor (pytorchvideo's hub model i3d_r50, trained on Kinetics-400, 2048 values);
InceptionI3D made the public 50Salads features (1024 values from RGB, 1024 from optical flow). Parameter names are
those of the released files. Carreira and Zisserman, Quo Vadis, Action Recognition?, CVPR 2017; pytorchvideo
models/hub/resnet.py i3d_r50; piergiaj/pytorch-i3d pytorch_i3d.py.
"""

import sys
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.models.kinds import Kind
from thesis_lib.models.s3d import BLOCKS

R50_WINDOW = (4, 7, 7)
INCEPTION_WINDOW = (2, 7, 7)
# Frames on each side of a window that reach its part of the map of a longer stretch (I3DR50.dense): layers with a depth
# in time add 5 frames before the pooling by 2, and 6 places of the map after it.
DENSE_REACH = 17


class I3DR50(nn.Module):
    """I3D with a ResNet-50: clip [B, 3, T, H, W], mean 0.45 and std 0.225 removed -> features [B, features_dim].

    The trunk gives a map of T // 2 frames and ceil(H / 32) by ceil(W / 32) places, which the head averages:
    head="adaptive" over everything, any size; head="window" first in windows of 4 x 7 x 7 with stride 1, then over the
    windows, which weighs the centre more, as the thesis does. They differ where the map is larger than one window.
    stem_dim is the width of the first layer; features_dim is 32 times that: 64 gives the published network.
    """

    def __init__(self, head: str = "adaptive", stem_dim: int = 64, num_classes: int = 400, in_channels: int = 3):
        super().__init__()
        if head not in ("adaptive", "window"):
            raise ValueError(f'I3DR50: head is "adaptive" or "window", not {head!r}')
        with _stub_torchvision():
            from pytorchvideo.models.resnet import create_resnet
        self.head = head
        self.features_dim = 32 * stem_dim
        self.blocks = create_resnet(
            input_channel=in_channels,
            model_num_class=num_classes,
            stem_dim_out=stem_dim,
            stem_conv_kernel_size=(5, 7, 7),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=(
                (3, 1, 1),
                [(3, 1, 1), (1, 1, 1)],
                [(3, 1, 1), (1, 1, 1)],
                [(1, 1, 1), (3, 1, 1)],
            ),
        ).blocks

    def forward(self, clip):
        """clip [B, 3, T, H, W] -> [B, features_dim].

        Raises ValueError if head="window" and the clip has fewer than 8 frames or a side below 193 pixels.
        """
        return self._pool(self.feature_map(clip))

    def logits(self, clip):
        """clip [B, 3, T, H, W] -> class scores [B, num_classes].

        Averaged in windows as the official head does, whatever `head` is; over everything where a window does not fit.
        """
        x = self.feature_map(clip)
        if _fits(R50_WINDOW, x.shape[2:]):
            x = _window_mean(x, R50_WINDOW)
        head = self.blocks[-1]
        return head.proj(head.dropout(x.mean(dim=(2, 3, 4))))

    def feature_map(self, clip):
        """clip [B, 3, T, H, W] -> [B, features_dim, T // 2, ceil(H / 32), ceil(W / 32)], before any head."""
        for block in self.blocks[:-1]:
            clip = block(clip)
        return clip

    def _pool(self, x):
        """A map [B, features_dim, t, h, w] -> [B, features_dim] by the head."""
        if self.head == "adaptive":
            return x.mean(dim=(2, 3, 4))
        _check_fits(R50_WINDOW, x.shape[2:])
        return _window_mean(x, R50_WINDOW).mean(dim=(2, 3, 4))

    def windows(self, frames, window: int = 21):
        """frames [N, 3, H, W] -> [N - window + 1, features_dim]: what forward gives for each `window` consecutive ones.

        Windows overlap in all frames but one, so the stem, the dearest layer, runs once a frame instead of once a
        window. Only the first two and the last two frames of a window, where its kernel of 5 meets the zeros around the
        window, have maps of their own: five maps a frame in place of `window`. For inference (batch norm in eval mode).
        """
        stem, rest = self.blocks[0], self.blocks[1:-1]
        reach = stem.conv.kernel_size[0] // 2
        starts = len(frames) - window + 1
        video = frames.transpose(0, 1)[None]

        def stem_maps(first_tap: int, last_tap: int, position: int):
            """Stem maps [starts, C, h, w] at one position of every window, with some taps of the kernel."""
            first = position - reach + first_tap
            taps = stem.conv.weight[:, :, first_tap : last_tap + 1]
            clip = video[:, :, first : first + starts + last_tap - first_tap]
            x = F.conv3d(clip, taps, stem.conv.bias, (1, *stem.conv.stride[1:]), (0, *stem.conv.padding[1:]))
            return stem.pool(stem.activation(stem.norm(x)))[0].transpose(0, 1)

        inner = F.conv3d(video, stem.conv.weight, stem.conv.bias, stem.conv.stride, (0, *stem.conv.padding[1:]))
        inner = stem.pool(stem.activation(stem.norm(inner)))[0].transpose(0, 1)  # of frame `reach` and those after it
        inner = inner.unfold(0, window - 2 * reach, 1).movedim(-1, 2)
        before = [stem_maps(reach - k, 2 * reach, k) for k in range(reach)]
        after = [stem_maps(0, reach + k, window - 1 - k) for k in reversed(range(reach))]
        x = torch.cat([torch.stack(before, 2), inner, torch.stack(after, 2)], dim=2)
        for block in rest:
            x = block(x)
        return self._pool(x)

    def dense(self, frames, window: int = 21):
        """frames [N, 3, H, W] -> [N - window + 1, features_dim]: nearly what `windows` gives, many times faster.

        Runs once over all frames, from the pooling by 2 in time onwards once for even and once for odd frames; the head
        then averages the part of the map that belongs to a window. Inside a window the weights are those of `forward`,
        its surroundings are not: `forward` puts zeros around the window at every layer with a depth in time, which
        changes the 5 frames and then the 6 places of the map next to each border, thus all 10 places of 21 frames;
        here these see up to DENSE_REACH frames before and after the window. Zeros are at the ends of `frames` only.
        Equal to `windows` where no layer has a depth in time. For inference (batch norm in eval mode).

        Raises ValueError as `forward`, and if `window` is below 2.
        """
        if window < 2:
            raise ValueError(f"I3DR50.dense: window={window}: the network makes one place of 2 frames")
        places, x = window // 2, frames.transpose(0, 1)[None]
        for block in self.blocks[:2]:
            x = block(x)
        vectors = x.new_empty(len(frames) - 1, self.features_dim)  # row f: of frames f and f + 1
        for phase in (0, 1):
            part = x[:, :, phase:]
            for block in self.blocks[2:-1]:
                part = block(part)
            vectors[phase::2] = self._pool_places(part, places)[0].T
        weights = vectors.new_full((1, 1, places), 1 / places)
        if self.head == "window":
            weights = F.avg_pool1d(torch.eye(places)[None], R50_WINDOW[0], stride=1).mean(2)[None].to(vectors)
        averaged = F.conv1d(vectors.T[:, None], weights, dilation=2)[:, 0].T
        return averaged[: len(frames) - window + 1]

    def _pool_places(self, x, places: int):
        """A map [B, features_dim, t, h, w] -> [B, features_dim, t]: the head in space, for windows of `places` in t."""
        if self.head == "adaptive":
            return x.mean(dim=(3, 4))
        _check_fits(R50_WINDOW, (places, *x.shape[3:]))
        return _window_mean(x, (1, *R50_WINDOW[1:])).mean(dim=(3, 4))


# Layers in front of the Inception blocks: output channels, kernel, stride; pools are named as in the released code.
STEM = {"Conv3d_1a_7x7": (64, 7, 2), "Conv3d_2b_1x1": (64, 1, 1), "Conv3d_2c_3x3": (192, 3, 1)}
POOL_BEFORE = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


class InceptionI3D(nn.Module):
    """I3D with Inception-v1: clip [B, C, T, H, W] in -1..1 -> features [B, 1024]. in_channels 3 for RGB, 2 for flow.

    The last block gives a map of ceil(T / 8) by ceil(H / 32) by ceil(W / 32), averaged in windows of 2 x 7 x 7 with
    stride 1, then over the windows; over everything where a window does not fit (T < 9 or a side below 193 pixels).
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 400):
        super().__init__()
        # Through _modules, because the official name of the classifier, logits, is also our method.
        self._modules["logits"] = SameConv(1024, num_classes, 1, bias=True, norm=False)
        self.dropout = nn.Dropout(0.5)
        channels = in_channels
        for name, (outputs, kernel, stride) in STEM.items():
            self.add_module(name, SameConv(channels, outputs, kernel, stride))
            channels = outputs
        for name, plan in BLOCKS.items():
            block = InceptionBlock(channels, plan)
            self.add_module(name.capitalize(), block)
            channels = block.channels
        self.features_dim = channels

    def forward(self, clip):
        """clip [B, C, T, H, W] -> [B, 1024]."""
        return self._pooled(clip).mean(dim=(2, 3, 4))

    def logits(self, clip):
        """clip [B, C, T, H, W] -> class scores [B, num_classes, T'], one for each position of the window in time.

        Averaged over positions in space; the official code keeps those of frames larger than 224 pixels apart.
        """
        return self._modules["logits"](self.dropout(self._pooled(clip))).mean(dim=(3, 4))

    def feature_map(self, clip):
        """clip [B, C, T, H, W] -> Mixed_5c [B, 1024, ceil(T / 8), ceil(H / 32), ceil(W / 32)]."""
        for name in [*STEM, *(block.capitalize() for block in BLOCKS)]:
            if name in POOL_BEFORE:
                kernel, stride = POOL_BEFORE[name]
                clip = F.max_pool3d(_pad_same(clip, kernel, stride), kernel, stride)
            clip = self._modules[name](clip)
        return clip

    def _pooled(self, clip):
        x = self.feature_map(clip)
        if _fits(INCEPTION_WINDOW, x.shape[2:]):
            return _window_mean(x, INCEPTION_WINDOW)
        return x.mean(dim=(2, 3, 4), keepdim=True)


class InceptionBlock(nn.Module):
    """Four branches over the same input, side by side in the channels."""

    def __init__(self, inputs, plan):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = plan
        self.b0 = SameConv(inputs, b0, 1)
        self.b1a = SameConv(inputs, b1a, 1)
        self.b1b = SameConv(b1a, b1b, 3)
        self.b2a = SameConv(inputs, b2a, 1)
        self.b2b = SameConv(b2a, b2b, 3)
        self.b3b = SameConv(inputs, b3b, 1)
        self.channels = b0 + b1b + b2b + b3b

    def forward(self, x):
        # The pool sees zeros at the border, not minus infinity; equal here, as its input is never negative.
        pooled = F.max_pool3d(x, 3, stride=1, padding=1)
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class SameConv(nn.Module):
    """Convolution with TensorFlow's SAME padding, then batch norm and ReLU unless norm is False."""

    def __init__(self, inputs, outputs, kernel, stride=1, bias=False, norm=True):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=bias)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01) if norm else None

    def forward(self, x):
        x = self.conv3d(_pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return F.relu(self.bn(x)) if self.bn else x


def _pad_same(x, kernel, stride):
    """Zeros around [B, C, T, H, W] so that a layer gives ceil(size / stride) outputs, the odd one at the end."""
    padding = []
    for size, width, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(width - (size % step or step), 0)
        padding = [total // 2, total - total // 2, *padding]  # F.pad counts from the last dimension
    return F.pad(x, padding) if any(padding) else x


def _fits(window, size):
    return all(width <= length for width, length in zip(window, size, strict=True))


def _check_fits(window, size):
    if not _fits(window, size):
        raise ValueError(
            f'I3DR50 with head="window" needs 8 frames of 193 pixels or more, its map is {tuple(size)}: '
            'use head="adaptive"'
        )


def _window_mean(x, window):
    return F.avg_pool3d(x, window, stride=1)


@contextmanager
def _stub_torchvision():
    """Lets pytorchvideo.models be imported without torchvision, of which it wants RoIAlign for detection alone.

    The stub is gone afterwards: other libraries look for torchvision to see what they can do.
    """
    if "torchvision.ops" in sys.modules:
        yield
        return
    package, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
    package.ops, ops.RoIAlign = ops, nn.Identity
    before = {name: sys.modules.get(name) for name in ("torchvision", "torchvision.ops")}
    sys.modules.update({"torchvision": package, "torchvision.ops": ops})
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


# -- official files --------------------------------------------------------------------------------------------------


def _r50_sizes(tensors):
    stem_dim, in_channels = tensors["blocks.0.conv.weight"].shape[:2]
    return {"stem_dim": stem_dim, "in_channels": in_channels, "num_classes": len(tensors["blocks.6.proj.weight"])}


def _inception_sizes(tensors):
    classes, in_channels = len(tensors["logits.conv3d.weight"]), tensors["Conv3d_1a_7x7.conv3d.weight"].shape[1]
    return {"in_channels": in_channels, "num_classes": classes}


OFFICIAL = {
    "i3d_r50": Kind(
        build=I3DR50,
        accepts=I3DR50,
        signature=("blocks.0.conv.weight", "blocks.1.res_blocks.0.branch2.conv_a.weight"),
        sizes=_r50_sizes,
        example=lambda model: model.logits(torch.randn(1, model.blocks[0].conv.in_channels, 8, 64, 64)),
    ),
    "i3d_inception": Kind(
        build=InceptionI3D,
        accepts=InceptionI3D,
        signature=("Conv3d_1a_7x7.conv3d.weight", "Mixed_3b.b1b.conv3d.weight"),
        sizes=_inception_sizes,
        example=lambda model: model(torch.rand(1, model.Conv3d_1a_7x7.conv3d.in_channels, 9, 64, 64)),
    ),
}
