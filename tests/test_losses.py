"""Losses against the official code and against their definitions written out."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from thesis_lib.losses import (
    contrastive_loss,
    ego_nce_loss,
    entity_labels_kept,
    entity_loss,
    mil_nce_loss,
    segmentation_loss,
    vtc_loss,
)

GOLDEN = Path(__file__).parent / "golden"


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("spec"))), {key: torch.from_numpy(array) for key, array in arrays.items()}


def noise(shape, seed, gain=1.0):
    rng = np.random.Generator(np.random.PCG64(seed))
    return (torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32)) * gain).requires_grad_()


def closeness(ours, official):
    return ((ours - official).abs().max() / official.abs().max()).item()


# -- segmentation ------------------------------------------------------------------------------------------------------


def by_definition(logits, targets, smoothing):
    total = 0.0
    for stage in logits:
        rows = [(b, t) for b in range(len(targets)) for t in range(targets.shape[1]) if targets[b, t] >= 0]
        total += sum(-stage[b, :, t].log_softmax(0)[targets[b, t]] for b, t in rows) / len(rows)
        squares = []
        for b in range(len(targets)):
            last = max(t for t in range(targets.shape[1]) if targets[b, t] >= 0)
            for t in range(1, targets.shape[1]):
                change = (stage[b, :, t].log_softmax(0) - stage[b, :, t - 1].log_softmax(0)) ** 2
                squares += change.clamp(max=16).tolist() if t <= last else [0.0] * stage.shape[1]
        total += smoothing * sum(squares) / len(squares)
    return total


def test_segmentation_loss_is_its_definition():
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 3, 4, 9, dtype=torch.float64)
    targets = torch.randint(0, 4, (3, 9))
    targets[1, 6:] = -100  # padding
    targets[2, 3] = -100  # a frame that nobody labelled
    for smoothing in (0.0, 0.15, 2.0):
        assert segmentation_loss(logits, targets, smoothing).item() == pytest.approx(
            float(by_definition(logits, targets, smoothing)), rel=1e-12
        )


def test_what_lies_behind_the_end_of_a_video_does_not_matter():
    logits, targets = torch.randn(2, 1, 4, 9), torch.randint(0, 4, (1, 9))
    targets[0, 6:] = -100
    changed = logits.clone()
    changed[..., 6:] = 100 * torch.randn(2, 1, 4, 3)
    assert torch.equal(segmentation_loss(logits, targets), segmentation_loss(changed, targets))


def test_smoothing_is_cut_at_16_and_leaves_the_frame_before_alone():
    logits = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    logits[0, 0, 0, 1] = 1000.0  # log-probabilities -log 2, -log 2, then 0, -1000
    targets = torch.zeros(1, 2, dtype=torch.long)
    cross_entropy = math.log(2) / 2
    expected = cross_entropy + (16 + math.log(2) ** 2) / 2
    assert segmentation_loss(logits, targets, 1.0).item() == pytest.approx(expected)

    logits = torch.randn(1, 1, 3, 2, requires_grad=True)
    only_smoothing = segmentation_loss(logits, targets, 1.0) - segmentation_loss(logits, targets, 0.0)
    gradient = torch.autograd.grad(only_smoothing, logits)[0]
    assert gradient[..., 0].abs().max() < 1e-6 < gradient[..., 1].abs().max()


def test_one_frame_has_nothing_to_smooth():
    logits = torch.randn(2, 1, 4, 1)
    expected = sum(F.cross_entropy(stage, torch.tensor([[2]])) for stage in logits)
    assert torch.allclose(segmentation_loss(logits, torch.tensor([[2]])), expected)


# -- contrastive -------------------------------------------------------------------------------------------------------


def test_contrastive_loss_is_the_sum_of_both_directions():
    video, text = noise((5, 7), 1), noise((5, 7), 2)
    p = (video @ text.T).double()
    rows = -torch.log(p.exp().diagonal() / p.exp().sum(1)).mean()
    columns = -torch.log(p.exp().diagonal() / p.exp().sum(0)).mean()
    assert contrastive_loss(video, text).item() == pytest.approx((rows + columns).item(), rel=1e-6)
    assert contrastive_loss(torch.zeros(8, 3), torch.zeros(8, 3)).item() == pytest.approx(2 * math.log(8))


def test_contrastive_loss_wants_pairs():
    with pytest.raises(ValueError, match="one text a video"):
        contrastive_loss(torch.zeros(4, 3), torch.zeros(8, 3))


# -- MIL-NCE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["milnce_k1", "milnce_k3", "milnce_k5"])
def test_mil_nce_equals_the_official(name):
    spec, official = load("s3d_howto100m/case_a")
    (item,) = (item for item in spec["items"] if item["name"] == name)
    video = noise((item["B"], item["D"]), item["seed"], item["gain"]).detach().requires_grad_()
    text = noise((item["B"] * item["K"], item["D"]), item["seed"] + 1, item["gain"]).detach().requires_grad_()
    loss = mil_nce_loss(video, text)
    loss.backward()
    assert loss.item() == pytest.approx(official[f"{name}/loss"].item(), rel=2e-6)
    assert closeness(torch.stack([video.grad.norm(), text.grad.norm()]), official[f"{name}/grad_norm"]) < 2e-5
    assert closeness(video.grad[:4], official[f"{name}/grad_v"]) < 2e-5
    assert closeness(text.grad[:4], official[f"{name}/grad_t"]) < 2e-5


@pytest.mark.parametrize("candidates", [1, 3])
def test_mil_nce_never_falls_below_log_2(candidates):
    perfect = 100 * torch.eye(6, dtype=torch.float64)
    texts = perfect.repeat_interleave(candidates, dim=0)
    assert mil_nce_loss(perfect, texts).item() == pytest.approx(math.log(2), rel=1e-6)
    video, text = noise((1, 4), 1), noise((candidates, 4), 2)
    assert mil_nce_loss(video, text).item() == pytest.approx(math.log(2))  # one clip has no negatives
    assert mil_nce_loss(video.repeat(3, 1), text.repeat(3, 1)).item() > math.log(2)


def test_mil_nce_wants_as_many_texts_for_each_clip():
    with pytest.raises(ValueError, match="K texts a video"):
        mil_nce_loss(torch.zeros(4, 3), torch.zeros(9, 3))


# -- EgoNCE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["case_a", "disjoint_a"])
def test_ego_nce_equals_the_official(name):
    spec, official = load(f"egonce/{name}")
    similarities, nouns, verbs = official["out_sim"].requires_grad_(), official["in_noun"], official["in_verb"]
    loss = ego_nce_loss(similarities, nouns, verbs, spec["temperature"])
    loss.backward()
    assert loss.item() == pytest.approx(official["out_egonce"].item(), rel=2e-6, abs=1e-6)
    assert closeness(similarities.grad, official["out_grad_sim"]) < 2e-6
    any_word, no_word = torch.ones(len(nouns), 1), torch.zeros(len(nouns), 1)
    for words, key in {
        (nouns, any_word): "out_egonce_noun_only",
        (any_word, verbs): "out_egonce_verb_only",
        (no_word, no_word): "out_infonce",
    }.items():
        expected = official[key].item()
        assert ego_nce_loss(similarities, *words).item() == pytest.approx(expected, rel=2e-6, abs=1e-6)


def test_ego_nce_stays_finite_where_a_softmax_would_underflow():
    similarities = torch.tensor([[-30.0, 30.0], [30.0, -30.0]], requires_grad=True)
    loss = ego_nce_loss(similarities, torch.eye(2), torch.eye(2))
    loss.backward()
    assert loss.item() == pytest.approx(2 * 60 / 0.05) and similarities.grad.isfinite().all()


@pytest.mark.parametrize("loss", [contrastive_loss, mil_nce_loss])
def test_losses_are_in_single_precision_under_autocast(loss):
    """Vectors as long as trained ones: bf16 products would be off by tenths."""
    torch.manual_seed(0)
    video, text = (4 * torch.randn(32, 64) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(video, text)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(video, text), rtol=1e-6, atol=0)


# -- ALPRO -------------------------------------------------------------------------------------------------------------


def test_vtc_equals_the_official_and_the_closed_form():
    spec, arrays = load("alpro/vtc_a")
    shape, seed = (spec["b"] * spec["world"], spec["d"]), spec["seed"]
    video, other = (F.normalize(noise(shape, s).detach(), dim=-1) for s in (seed, seed + 1))
    text = F.normalize(other + spec["mix"] * video, dim=-1)
    assert abs(vtc_loss(video, text, spec["temp"]) - arrays["out_vtc_loss"]) < 1e-6
    same = torch.eye(5, 8)
    for temperature in (0.07, 1.0):
        expected = math.log(math.exp(1 / temperature) + 4) - 1 / temperature
        assert vtc_loss(same, same, temperature).item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"one text a video, not \(5, 8\) and \(4, 8\)"):
        vtc_loss(same, same[:4], 1.0)


def test_vtc_learns_its_temperature():
    torch.manual_seed(0)
    video, text = (F.normalize(torch.randn(4, 3, dtype=torch.double), dim=1).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(vtc_loss, (video, text, torch.tensor(0.3).double().requires_grad_()))


def test_entity_loss_is_that_of_the_paper_and_on_request_the_released_one():
    _, arrays = load("alpro/pem_a")
    logits, labels = arrays["out_official_mpm_logits"], arrays["out_official_soft_labels"]
    assert abs(entity_loss(logits, labels) - arrays["out_own_paper_loss"]) < 1e-6
    assert abs(entity_loss(logits, labels, rule="released") - arrays["out_official_bug_loss"]) < 1e-6
    assert torch.equal(entity_labels_kept(labels), ~arrays["out_own_paper_ignore"])
    assert torch.equal(entity_labels_kept(labels, rule="released"), ~arrays["out_official_bug_ignore"])
    assert not torch.equal(arrays["out_own_paper_ignore"], arrays["out_official_bug_ignore"])


def test_samples_without_a_likely_entity_teach_nothing():
    labels = torch.tensor([[0.2] * 5, [0.19, 0.19, 0.19, 0.19, 0.24], [0.19] * 5])
    assert entity_labels_kept(labels).tolist() == [True, True, False], "0.2 itself is enough"
    logits = noise((3, 5), 1)
    entity_loss(logits, labels).backward()
    assert logits.grad[2].abs().max() == 0 and (logits.grad[:2].abs().sum(dim=1) > 0).all()
    first_two = entity_loss(logits[:2], labels[:2])
    assert torch.allclose(entity_loss(logits, labels), first_two), "the mean is over those that count"
    with torch.no_grad():
        by_hand = -(labels[:2] * logits[:2].log_softmax(1)).sum() / 2
    assert torch.allclose(first_two, by_hand)


def test_a_batch_without_likely_entities_has_no_loss_and_no_gradient():
    logits = noise((4, 10), 2)
    loss = entity_loss(logits, torch.full((4, 10), 0.1))
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().max() == 0


def test_the_released_rule_discards_by_position():
    sure_of_the_first = torch.tensor([9.0, 1.0, 1.0]).softmax(0)
    flat = torch.tensor([1.0, 1.1, 1.0, 1.0, 1.0, 1.0]).softmax(0)
    assert entity_labels_kept(sure_of_the_first[None]) and not entity_labels_kept(flat[None])
    assert not entity_labels_kept(sure_of_the_first[None], rule="released")
    assert entity_labels_kept(flat[None], rule="released")
    with pytest.raises(ValueError, match="rule='other': expected one of paper, released"):
        entity_loss(flat[None], flat[None], rule="other")
    with pytest.raises(ValueError, match=r"a label a logit, not \(1, 6\) and \(1, 3\)"):
        entity_loss(flat[None], sure_of_the_first[None])
