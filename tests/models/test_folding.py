"""A folded network gives what it gave, with all of its norms gone."""

import copy

import pytest
import torch
from torch import nn

from thesis_lib.models.folding import fold_norms
from thesis_lib.models.i3d import I3DR50, InceptionI3D
from thesis_lib.models.s3d import S3D

NETWORKS = {
    "r50": (lambda: I3DR50(stem_dim=2), lambda model: model(torch.randn(2, 3, 8, 32, 32).double())),
    "r50 windows": (lambda: I3DR50(stem_dim=2), lambda model: model.windows(torch.randn(9, 3, 32, 32).double(), 7)),
    "r50 dense": (lambda: I3DR50(stem_dim=2), lambda model: model.dense(torch.randn(9, 3, 32, 32).double(), 7)),
    "inception": (InceptionI3D, lambda model: model(torch.randn(1, 3, 9, 32, 32).double())),
    "s3d": (
        lambda: S3D(embed_dim=8, channels_div=8, vocab_size=5),
        lambda model: model.encode_video(torch.rand(2, 3, 8, 32, 32).double()),
    ),
    "s3d of MIL-NCE": (
        lambda: S3D(embed_dim=8, channels_div=8, vocab_size=5, space_to_depth=False),
        lambda model: model.encode_video(torch.rand(2, 3, 8, 32, 32).double()),
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_folded_network_gives_what_it_gave(network):
    build, run = NETWORKS[network]
    torch.manual_seed(0)
    model = build().double().eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm3d)):
        for values in (norm.weight.data, norm.running_var):
            values.uniform_(0.5, 2.0)
        for values in (norm.bias.data, norm.running_mean):
            values.normal_()
    folded = fold_norms(copy.deepcopy(model))
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    with torch.no_grad():
        before, after = [], []
        for found, one in ((before, model), (after, folded)):
            torch.manual_seed(1)
            found.append(run(one))
    assert before[0].std() > 0
    torch.testing.assert_close(after[0], before[0], rtol=1e-9, atol=1e-9)


def test_a_network_in_training_is_refused():
    with pytest.raises(ValueError, match="eval"):
        fold_norms(S3D(embed_dim=8, channels_div=16, vocab_size=5))
