"""Pseudo-labels of boxes: drawn as in training, counted by both rules."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from thesis_lib.data.text import Vocabulary, write_vocab
from thesis_lib.data.video import write_video
from thesis_lib.models.alpro import Alpro, AlproConfig
from thesis_lib.pseudo_labels import PseudoLabels, ask_again, pseudo_labels
from thesis_lib.training.alpro import load_model
from thesis_lib.training.entities import TEMPLATES, prompt_texts

SIDE, PATCH, ENTITIES = 16, 4, ["tomato", "oil", "bowl", "knife"]
TEXTS = ["cut it", "pour it"]


@pytest.fixture(scope="module")
def howto(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    (root / "videos").mkdir()
    rng = np.random.default_rng(0)
    write_video(root / "videos/a.avi", rng.integers(0, 255, (40, SIDE, SIDE, 3)).astype(np.uint8), 8)
    said = {"a": {"start": [1.0, 3.0], "end": [2.0, 4.0], "text": TEXTS}}
    (root / "raw_caption.json").write_text(json.dumps(said))
    return root


def save(folder, entities, vocab_size=50):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    sizes = dict(size=SIDE, patch_size=PATCH, num_frames=2, video_layers=1, hidden_size=16, num_attention_heads=2)
    sizes |= dict(intermediate_size=32, num_hidden_layers=2, fusion_layer=1, vocab_size=vocab_size, embed_dim=8)
    model = Alpro(AlproConfig(**sizes, num_entities=len(entities)))
    if entities:
        model.prompter.video_prompt_feat.copy_(torch.eye(len(entities), 8))
    torch.save(model.state_dict(), folder / "weights.pt")
    about = {"model": asdict(model.config), "entities": entities, "frames": 2, "seconds": 1.0, "size": SIDE}
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def test_pseudo_labels_are_those_of_training(howto, tmp_path):
    folder = save(tmp_path, ENTITIES)
    found = pseudo_labels(folder, howto=howto, count=12, seed=3)
    assert found.frames.shape == (12, SIDE, SIDE, 3) and found.probabilities.shape == (12, 4)
    assert np.allclose(found.probabilities.sum(axis=1), 1, atol=1e-6) and set(found.captions) <= set(TEXTS)
    assert (found.boxes % PATCH == 0).all() and (found.boxes[:, :2] + found.boxes[:, 2:] <= SIDE).all()
    areas = found.boxes[:, 2:].prod(axis=1) / SIDE**2
    assert (0.3 <= areas).all() and (areas <= 0.5).all()
    best = found.top(2)
    assert [row[0][0] for row in best] == [ENTITIES[k] for k in found.probabilities.argmax(axis=1)]
    assert all(len(row) == 2 and row[0][1] >= row[1][1] for row in best)
    again = pseudo_labels(folder, howto=howto, count=12, seed=3)
    assert np.array_equal(found.probabilities, again.probabilities) and np.array_equal(found.frames, again.frames)


def test_how_often_the_rules_discard():
    sure, first, unsure = [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.4, 0.3, 0.3]
    rows = np.array([sure, sure, first, unsure], np.float32)
    found = PseudoLabels(np.zeros((4, 2, 2, 3)), np.zeros((4, 4)), [""] * 4, ["a", "b", "c"], rows, np.zeros((4, 2)))
    assert found.discarded(0.5) == {"paper": 0.25, "released": 0.5, "different": 0.25}
    assert found.kept("paper", 0.5).tolist() == [True, True, True, False]
    assert found.kept("released", 0.5).tolist() == [True, True, False, False]


def test_a_model_without_prompter_has_none(howto, tmp_path):
    with pytest.raises(ValueError, match='trained without "pem", there is no prompter'):
        pseudo_labels(save(tmp_path, []), howto=howto, count=1)


@pytest.mark.parametrize("prompts, count", [("one", 1), ("averaged", 12)])
def test_other_entities_can_be_asked_about(howto, tmp_path, prompts, count):
    """As if the prompter had been given the mean of their texts, embedded one by one, after its training."""
    vocab, asked = tmp_path / "vocab.txt", ["pan", "cup"]
    write_vocab(vocab, [*asked, *TEMPLATES])
    vocabulary, folder, given = Vocabulary(vocab), tmp_path / "four", tmp_path / "two"
    prompter = load_model(save(folder, ENTITIES, len(vocabulary)))[0].prompter
    with torch.no_grad():
        texts = [vocabulary.encode([text]) for text in prompt_texts(asked, prompts)]
        each = torch.cat([prompter.embed_text(*map(torch.from_numpy, text)) for text in texts])
    save(given, asked, len(vocabulary))
    weights = torch.load(given / "weights.pt")
    weights = {name: torch.load(folder / "weights.pt").get(name, value) for name, value in weights.items()}
    own = {"prompter.video_prompt_feat": each.view(count, 2, -1).mean(dim=0)}
    heads = {name: value for name, value in torch.load(given / "weights.pt").items() if name.startswith("mpm_head")}
    torch.save(weights | heads | own, given / "weights.pt")
    found = ask_again(pseudo_labels(folder, howto=howto, count=5), folder, asked, prompts, vocab)
    expected = pseudo_labels(given, howto=howto, count=5)
    assert found.entities == asked and np.array_equal(found.boxes, expected.boxes)
    assert np.abs(found.probabilities - expected.probabilities).max() < 1e-5
    assert found.probabilities.std(axis=0).max() > 0
