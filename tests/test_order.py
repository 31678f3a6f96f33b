"""Sensitivity to the order of frames: two tasks of one set of clips, models that see order and models that cannot."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from thesis_lib.models.svitt import SViTT, SViTTConfig, inflate
from thesis_lib.order import TASKS, in_order_and_shuffled, linear_probe, order_tasks, sensitivity, shuffle_frames


@pytest.fixture(scope="module")
def tasks():
    return order_tasks(np.random.default_rng(0), 200, frames=4, size=16)


def order_sensitivity(features_or_predict, clips, labels, rng, **settings):
    return sensitivity(*in_order_and_shuffled(features_or_predict, clips, rng, **settings), labels, rng)


def mean_of_frames(clips):
    return clips.mean(dim=2).flatten(1)


def movement(clips):
    """Which way the square goes: where the first and the last frame depart from the mean of all."""
    apart = (clips - clips.mean(dim=2, keepdim=True)).abs().sum(dim=(1, 3))  # [B, T, columns]
    columns = torch.arange(clips.shape[-1], dtype=torch.float32)
    centre = (apart**4 * columns).sum(-1) / (apart**4).sum(-1)
    return torch.stack([centre[:, -1] - centre[:, 0], clips.mean(dim=(1, 2, 3, 4))], dim=1)


def test_labels_are_balanced_and_independent(tasks):
    clips, labels = tasks
    assert clips.shape == (200, 3, 4, 16, 16) and clips.min() >= 0 and clips.max() <= 1
    assert list(labels) == list(TASKS) and all(found.sum() == 100 for found in labels.values())
    assert abs((labels["appearance"] == labels["order"]).sum() - 100) < 40


def test_no_set_of_frames_tells_the_order(tasks):
    """Of one clip and the same clip backwards the label differs, the frames do not."""
    clips, labels = tasks
    right = movement(clips)[:, 0] > 0
    assert torch.equal(right, labels["order"] == 0)
    assert torch.equal(movement(clips.flip(2))[:, 0] > 0, labels["order"] == 1)


def test_a_mean_of_frames_has_no_sensitivity_at_all(tasks):
    clips, labels = tasks
    for task in TASKS:
        found = order_sensitivity(mean_of_frames, clips, labels[task], np.random.default_rng(1))
        assert found["sensitivity"] == 0 and found["ordered"] == found["shuffled"]
        assert found["ordered"] == 1 if task == "appearance" else found["ordered"] < 0.65


def test_a_model_that_sees_movement_needs_the_order(tasks):
    clips, labels = tasks
    found = order_sensitivity(movement, clips, labels["order"], np.random.default_rng(1))
    assert found["ordered"] > 0.97 and 0.35 < found["shuffled"] < 0.65
    assert found["sensitivity"] == found["ordered"] - found["shuffled"]
    classes = order_sensitivity(
        lambda c: (movement(c)[:, 0] < 0).long(), clips, labels["order"], np.random.default_rng(1)
    )
    assert classes["ordered"] == 1 and 0.4 < classes["shuffled"] < 0.6


def test_an_encoder_is_asked_for_its_features(tasks):
    clips, labels = tasks
    encoder, seen = SimpleNamespace(), []

    def features(part):
        seen.append(len(part))
        assert not torch.is_grad_enabled()
        return movement(part)

    encoder.features = features
    found = order_sensitivity(encoder, clips, labels["order"], np.random.default_rng(1), batch=128)
    assert found == order_sensitivity(movement, clips, labels["order"], np.random.default_rng(1))
    assert seen == [128, 72, 128, 72]


def test_shuffling_moves_whole_frames_of_each_clip_by_itself(tasks):
    clips, _ = tasks
    shuffled = shuffle_frames(clips, np.random.default_rng(2))
    same = [(shuffled[:, :, t : t + 1] == clips).all(dim=4).all(dim=3).all(dim=1) for t in range(4)]
    orders = torch.stack([found.float().argmax(dim=1) for found in same], dim=1)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(4).expand(200, 4))
    assert len(orders.unique(dim=0)) == 24, "all orders of four frames"
    assert torch.equal(shuffled, shuffle_frames(clips, np.random.default_rng(2)))


def test_the_probe_is_least_squares():
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.normal(size=(300, 5)))
    labels = torch.from_numpy(np.array([3, 7, 9]))[vectors[:, :3].argmax(1)]
    probe = linear_probe(vectors, labels)
    assert (probe(vectors) == labels).double().mean() > 0.9
    assert (probe(1000 * vectors) == probe(vectors)).double().mean() > 0.85  # the offset is small beside it
    moved = linear_probe(vectors * 40 + 7, labels)(vectors * 40 + 7)
    assert torch.equal(moved, probe(vectors)), "units do not matter"


def test_too_little_is_said(tasks):
    clips, labels = tasks
    with pytest.raises(ValueError, match="3 clips and 3 labels: at least 4 clips, a label each"):
        order_sensitivity(movement, clips[:3], labels["order"][:3], np.random.default_rng(0))


def test_svitt_learns_the_order_that_it_cannot_see_right_after_inflation():
    """A task of order alone: by chance with biases constant in time; a model whose biases know time solves it, and is
    by chance again when frames are shuffled. Looks need no order."""
    clips, labels = order_tasks(np.random.default_rng(0), 256, frames=2, size=8)
    test, truth = order_tasks(np.random.default_rng(1), 200, frames=2, size=8)
    torch.manual_seed(0)
    sizes = dict(frames=2, image_size=8, patch_size=4, hidden_size=16, num_attention_heads=4, intermediate_size=32)
    sizes |= dict(video_layers=2, layer_scale=1.0, stochastic_depth=0.0, sparse_edges=None, keep_rate=1.0)
    model = SViTT(SViTTConfig(**sizes, vocab_size=10, text_layers=1, fusion_layer=0, embed_dim=8))
    head = torch.nn.Linear(16, 2)

    def features(part):
        return model.encode_video(2 * part - 1)[1]

    with torch.no_grad():
        for layer in model.vision_encoder.encoder.layer:
            table = layer.attention["attention"].relative_position_bias.relative_position_bias_table
            table.copy_(inflate(torch.randn(3 * 3 + 3, 4), 2))
    before = order_sensitivity(features, test, truth["order"], np.random.default_rng(1))
    assert before["sensitivity"] == 0 and before["ordered"] < 0.65
    torch.manual_seed(0)
    model = SViTT(model.config)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=5e-3)
    for _ in range(160):
        chosen = torch.randint(0, 256, (64,))
        loss = torch.nn.functional.cross_entropy(head(features(clips[chosen])), labels["order"][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = order_sensitivity(lambda c: head(features(c)).argmax(1), test, truth["order"], np.random.default_rng(1))
    assert after["ordered"] > 0.9 and 0.35 < after["shuffled"] < 0.65
    looks = order_sensitivity(features, test, truth["appearance"], np.random.default_rng(1))
    assert looks["ordered"] > 0.7 and abs(looks["sensitivity"]) < 0.1, "of features that were trained for order alone"
