"""Stochastic depth: what is left out, how often, and in which layers."""

import pytest
import torch

from thesis_lib.models.stochastic_depth import leave_out, set_chances
from thesis_lib.models.videomae import VideoMAE


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VideoMAE(hidden_size=192, num_hidden_layers=4, patch_size=8, num_classes=3)


def test_whole_sequences_are_left_out_and_the_mean_stays():
    x = torch.rand(4000, 3, 2) + 1
    torch.manual_seed(0)
    kept = leave_out(x, 0.25, training=True)
    gone = (kept == 0).all(dim=(1, 2))
    assert torch.equal(kept[~gone], x[~gone] / 0.75) and gone.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert leave_out(x, 0.25, training=False) is x and leave_out(x, 0.0, training=True) is x


def test_chances_rise_from_0_to_the_last_layer(model):
    set_chances(model, 0.3)
    assert [block.stochastic_depth for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="stochastic_depth: no layer of Linear can be left out"):
        set_chances(torch.nn.Linear(1, 1), 0.1)


def test_videomae_leaves_out_both_branches_in_training_alone(model):
    clip = torch.rand(6, 3, 2, 16, 16)
    with torch.no_grad():
        whole = model.eval()(clip)
        assert torch.equal(model.train()(clip), whole), "by default nothing is left out"
        for block in model.blocks:
            block.stochastic_depth = 1 - 1e-7
        embedded = model.fc_norm(model.train().encode(clip).mean(1))
        assert torch.equal(embedded, model(clip)) and not torch.equal(embedded, whole)
        assert torch.equal(model.eval()(clip), whole)
        for block in model.blocks[1:]:
            block.stochastic_depth = 0.0
        x = torch.rand(200, 2, 192)
        block = model.blocks[0].train()
        block.stochastic_depth = 0.5
        seen = {tuple(row.tolist()) for row in block(x[:1].expand(200, -1, -1)).flatten(1).round(decimals=4)}
    assert len(seen) == 4, "with or without attention, with or without the network"
