"""Networks of convolutions in eval mode, where a batch norm is a scale and a shift that the convolution can do itself.

A pass over every map less, to read and to write, which extraction with narrow networks or on a GPU waits for.
"""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_norms(model: nn.Module) -> nn.Module:
    """The model, changed in place: without a BatchNorm3d after a Conv3d it gives the same, but for rounding.

    A norm must follow its convolution among the children of one module and take what that gives, nothing else: so it is
    in I3DR50, InceptionI3D and S3D. Raises ValueError for a model in training mode, whose norms depend on the batch.
    """
    if model.training:
        raise ValueError("batch norms can be folded in eval mode alone: call eval() first")
    for module in model.modules():
        for (first, convolution), (second, norm) in pairwise(list(module.named_children())):
            if isinstance(convolution, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
                setattr(module, first, fuse_conv_bn_eval(convolution, norm))
                setattr(module, second, nn.Identity())
    return model
