"""SViTT and SViTT-Ego on a narrated corpus written here: four actions told apart by colours, captions name them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from benchmarks.mmpt import write_bert
from thesis_lib.data.egoclip import Taxonomy
from thesis_lib.data.text import Vocabulary, write_vocab
from thesis_lib.data.video import write_video
from thesis_lib.losses import ego_nce_loss
from thesis_lib.models.svitt import CrossAttention, SViTT, SViTTConfig, inflate
from thesis_lib.training import loop, svitt
from thesis_lib.training.narrated_clips import NarratedClips

FPS, SIDE, SECONDS = 4, 16, 3  # of an action
ACTIONS = {
    "cut tomato": (230, 20, 20),
    "peel cucumber": (20, 200, 20),
    "pour oil": (20, 20, 230),
    "grate cheese": (230, 230, 20),
}
TEXTS = list(ACTIONS)
SMALL = dict(objective="itc", stage_frames=[2], stage_keep=[0.7], num_steps=50, batch_size=16, lr=0.003, warmup=5)
SMALL |= dict(seconds=2.0, size=SIDE)
SMALL |= dict(patch=8, width=16, heads=2, video_layers=2, text_layers=2, fusion_layer=1, embed_dim=16, block=2)
SMALL |= dict(drop_after=(0,), fusion_keep_rate=0.5, fusion_drop_after=(1,), layer_scale=1.0, stochastic_depth=0.0)
SMALL |= dict(dropout=0.0, mask_probability=0.3)


def film(action, rng):
    """Three seconds of a coloured frame under noise."""
    for _ in range(SECONDS * FPS):
        yield np.clip(rng.normal(ACTIONS[TEXTS[action]], 20, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """howto and vocab: twelve videos."""
    root = tmp_path_factory.mktemp("corpus") / "howto100m"
    write_corpus(root)
    return dict(howto=root, vocab=root / "vocab.txt")


def write_corpus(root, num_videos=12):
    """Videos of four actions in random order, a caption in the middle of each, and the vocabulary."""
    rng = np.random.default_rng(0)
    (root / "videos").mkdir(parents=True)
    captions = {}
    for number in range(num_videos):
        actions = rng.permutation(4)
        write_video(root / f"videos/v{number:02d}.avi", (f for action in actions for f in film(action, rng)), FPS)
        starts = (SECONDS * np.arange(4) + 1).tolist()
        texts = [TEXTS[action] for action in actions]
        captions[f"v{number:02d}"] = {"start": starts, "end": [start + 1 for start in starts], "text": texts}
    (root / "raw_caption.json").write_text(json.dumps(captions))
    write_vocab(root / "vocab.txt", TEXTS)


def train(folder, corpus, **changed):
    folder.mkdir(exist_ok=True)
    svitt.train(folder, **corpus, **SMALL | changed)
    return folder


@pytest.fixture(scope="module", params=svitt.OBJECTIVES)
def trained(request, corpus, tmp_path_factory):
    steps = {"itc": 50, "egonce": 120}[request.param]  # half of the clips are negatives of the same scene
    return train(tmp_path_factory.mktemp("svitt") / request.param, corpus, objective=request.param, num_steps=steps)


def new_clips(count=6, frames=2):
    """(clips [N, 3, T, S, S] in 0..1, actions [N]) outside the corpus."""
    rng, actions = np.random.default_rng(9), np.tile(np.arange(4), count)
    frames = [
        np.stack([frame for frame, _ in zip(film(action, rng), range(frames), strict=False)]) for action in actions
    ]
    return torch.from_numpy(np.stack(frames)).permute(0, 4, 1, 2, 3).float() / 255, actions


def zero_shot(folder, corpus):
    encoder = svitt.load(folder, corpus["vocab"])
    clips, actions = new_clips(frames=encoder.frames)
    with torch.no_grad():
        found = (encoder.embed(clips) @ encoder.embed_texts(TEXTS).T).argmax(1)
    return float((found.numpy() == actions).mean())


def test_captions_alone_teach_what_a_clip_shows(trained, corpus):
    assert zero_shot(trained, corpus) > 0.7
    loss = pd.read_csv(trained / "history.csv")["loss"]
    assert loss.iloc[-1] < 0.8 * loss.iloc[0]


def test_permuted_captions_teach_nothing(corpus, tmp_path):
    """Four guesses a run, right by chance with probability 1/4; two runs of eight guesses: 0.25 + 2 * 0.15."""
    runs = [train(tmp_path / str(seed), corpus, captions="permuted", seed=seed, num_steps=30) for seed in (1, 2)]
    assert np.mean([zero_shot(folder, corpus) for folder in runs]) <= 0.55


def test_the_encoder_keeps_the_contract(trained, corpus):
    encoder = svitt.load(trained, corpus["vocab"])
    clips, _ = new_clips(1)
    assert (encoder.frames, encoder.seconds, encoder.size, encoder.dim, encoder.has_text) == (2, 2.0, SIDE, 16, True)
    assert not encoder.training and clips.shape == (4, 3, encoder.frames, encoder.size, encoder.size)
    vectors = encoder.embed(clips), encoder.embed_texts(TEXTS)
    assert all(torch.allclose(v.norm(dim=1), torch.ones(4)) and v.shape == (4, 16) for v in vectors)
    features = encoder.features(clips)
    assert features.shape == (4, 16) and features.dtype == torch.float32
    assert torch.equal(features, svitt.load(trained, corpus["vocab"]).features(clips)), "the same bit for bit"
    torch.testing.assert_close(encoder.features(clips[1:2]), features[1:2])
    torch.testing.assert_close(encoder.embed_texts(TEXTS[:1]), vectors[1][:1])
    features.sum().backward()
    gradient = encoder.model.vision_encoder.embeddings.patch_embeddings["projection"].weight.grad
    assert gradient.abs().sum() > 0, "a head on top can fine-tune it"
    assert [kept.shape for kept in encoder.kept(clips)] == [(4, 6)], "0.7 of 2 frames of 4 patches"
    saved = torch.load(trained / "weights.pt", weights_only=True)
    own = encoder.model.state_dict()
    assert own.keys() == saved.keys() and all(torch.equal(value, saved[name]) for name, value in own.items())


def test_every_setting_reaches_the_model(corpus, tmp_path):
    """None of them the default of the model: one that is read nowhere, as some of the released code are, would show."""
    sizes = dict(video_layers=4, text_layers=3, fusion_layer=1, embed_dim=10, block=3, sparse_edges=(3, 2))
    sizes |= dict(drop_after=(1, 2), fusion_keep_rate=0.4, fusion_drop_after=(1,), layer_scale=0.3)
    sizes |= dict(stochastic_depth=0.2, dropout=0.3)
    asked = dict(stage_frames=[2], stage_keep=[0.6], width=12, heads=3, num_steps=1, seed=3)
    model = svitt.load(train(tmp_path / "run", corpus, **asked, **sizes), corpus["vocab"]).model
    sizes |= dict(frames=2, keep_rate=0.6, hidden_size=12, num_attention_heads=3, intermediate_size=48, patch_size=8)
    sizes |= dict(image_size=SIDE, pattern_seed=3, vocab_size=len(Vocabulary(corpus["vocab"])))
    default = SViTTConfig()
    assert model.config == replace(default, **sizes)
    same = {name for name, value in vars(default).items() if getattr(model.config, name) == value}
    assert same == {"max_position_embeddings"}


@pytest.mark.parametrize("rate, fewer", [(0.3, 2), (1.0, 6)])
def test_the_keep_rate_of_fusion_takes_effect_in_training(corpus, tmp_path, monkeypatch, rate, fewer):
    """[CLS] and 6 of 8 patches reach the first fusion layer; the released code never reads the rate of the second."""
    seen, real = [], CrossAttention.forward
    monkeypatch.setattr(CrossAttention, "forward", lambda s, x, video: seen.append(video.shape[1]) or real(s, x, video))
    layers = dict(text_layers=3, fusion_drop_after=(1,), num_steps=1)
    folder = train(tmp_path / "run", corpus, **layers, fusion_keep_rate=rate)
    assert len(seen) >= 4 and seen == [1 + 6, 1 + fewer] * (len(seen) // 2)
    assert svitt.load(folder, corpus["vocab"]).model.config.fusion_keep_rate == rate


def test_sparsity_can_be_changed_when_loading(trained, corpus):
    clips, _ = new_clips(1)
    usual, dense, whole = (
        svitt.load(trained, corpus["vocab"], **changed)
        for changed in ({}, {"sparse_edges": None, "keep_rate": 1.0}, {"sparse_edges": (1, 9), "keep_rate": 1.0})
    )
    assert dense.kept(clips) == []
    torch.testing.assert_close(dense.features(clips), whole.features(clips))
    assert not torch.allclose(usual.features(clips), dense.features(clips), atol=1e-3)


def test_an_official_file_is_an_encoder_too(trained, corpus, tmp_path):
    encoder = svitt.load(trained, corpus["vocab"])
    torch.save({"model": encoder.model.state_dict(), "epoch": 9}, tmp_path / "official.pth")
    same = dict(block=2, drop_after=(0,), fusion_keep_rate=0.5)
    official = svitt.load(tmp_path / "official.pth", corpus["vocab"], seconds=7.0, **same)
    clips, _ = new_clips(1)
    assert official.seconds == 7.0 and torch.equal(official.features(clips), encoder.features(clips))
    released = svitt.load(tmp_path / "official.pth", corpus["vocab"], block=2).model.config
    assert released.fusion_keep_rate == 1.0, "the rate is in the released configuration and read by nothing"
    more = tmp_path / "more.txt"
    more.write_text(corpus["vocab"].read_text() + "extra\n")
    with pytest.raises(ValueError, match="a vocabulary of .* pieces, the model knows"):
        svitt.load(trained, more)


def test_stages_of_more_frames_go_on_from_the_weights_before(corpus, tmp_path):
    """The second stage begins where the first ends: one step moves a weight by about the learning rate."""
    stages = dict(stage_frames=[2, 4], stage_keep=[0.7, 0.6], num_steps=1)
    folder = train(tmp_path / "two", corpus, **stages, lr=0.003, last_lr=3e-5, warmup=0)
    history = pd.read_csv(folder / "history.csv")
    assert history["stage"].tolist() == [1, 2] and history["frames"].tolist() == [2, 4]
    assert history["lr"].tolist() == pytest.approx([3e-5, 3e-5]), "each stage falls to last_lr"
    encoder = svitt.load(folder, corpus["vocab"])
    assert encoder.frames == 4 and encoder.model.config.keep_rate == 0.6
    first = torch.load(folder / "stage-1/weights.pt", weights_only=True)
    second = torch.load(folder / "weights.pt", weights_only=True)
    table = "vision_encoder.encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table"
    assert first[table].shape == (3 * 3 * 3 + 3, 2) and second[table].shape == (7 * 3 * 3 + 3, 2)
    moved = (first["vision_proj.weight"] - second["vision_proj.weight"]).abs().max()
    torch.manual_seed(0)
    fresh = SViTT(SViTTConfig(**{**json.loads((folder / "config.json").read_text())["model"]}))
    assert 0 < moved < 0.004 < (first["vision_proj.weight"] - fresh.vision_proj.weight).abs().max()


def test_an_official_checkpoint_can_be_the_beginning(trained, corpus, tmp_path):
    encoder = svitt.load(trained, corpus["vocab"])
    torch.save({"model": encoder.model.state_dict()}, tmp_path / "official.pth")
    settings = dict(stage_frames=[4], stage_keep=[0.6], num_steps=1, lr=1e-6)
    folder = train(tmp_path / "more", corpus, **settings, initial=tmp_path / "official.pth")
    weights = torch.load(folder / "weights.pt", weights_only=True)["vision_proj.weight"]
    torch.testing.assert_close(weights, encoder.model.vision_proj.weight.detach(), rtol=0, atol=1e-5)


def test_published_models_can_be_the_beginning(corpus, tmp_path, capsys):
    """Nothing is learned: what is left after both stages is the start, the same at every distance in time."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[fairseq]'")
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    bert = write_bert(tmp_path / "bert", len(Vocabulary(corpus["vocab"])), **sizes)
    (bert / "vocab.txt").write_text(corpus["vocab"].read_text())
    config = transformers.BeitConfig(image_size=SIDE, patch_size=8, use_relative_position_bias=True, **sizes)
    beit = transformers.BeitForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in beit.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    beit.save_pretrained(tmp_path / "beit")
    given = dict(vision=tmp_path / "beit/model.safetensors", bert=bert)
    settings = dict(stage_frames=[1, 3], stage_keep=[1.0, 1.0], num_steps=1, lr=0.0, sparse_edges=())
    folder = train(tmp_path / "run", corpus, **settings, **given)
    encoder = svitt.load(folder, corpus["vocab"])
    new = encoder.model.state_dict()
    for name, value in load_file(given["vision"]).items():
        if name.startswith("beit."):
            value = inflate(value, 3) if name.endswith("bias_table") else value
            assert torch.equal(new[name.replace("beit.", "vision_encoder.")], value), name
    for name, value in load_file(bert / "model.safetensors").items():
        assert "pooler" in name or torch.equal(new[f"text_encoder.bert.{name}"], value), name
    images = torch.rand(2, 3, 1, SIDE, SIDE)
    with torch.no_grad():
        expected = beit.beit(svitt.normalised(images)[:, :, 0]).pooler_output
        torch.testing.assert_close(encoder.features(images), expected, rtol=1e-4, atol=1e-5)
    printed = capsys.readouterr().out
    assert "beit: " in printed and "bert.encoder.layer.1.crossattention.self.query.weight" in printed
    with pytest.raises(ValueError, match="is a whole model: give it, or a BEiT and a BERT, not both"):
        train(tmp_path / "both", corpus, initial=tmp_path / "official.pth", **given)


@pytest.mark.parametrize("objective", svitt.OBJECTIVES)
def test_a_killed_run_goes_on_with_the_same_result(corpus, tmp_path, monkeypatch, objective):
    monkeypatch.setattr(loop, "STEPS_PER_EPOCH", 2)
    settings = dict(
        objective=objective, stage_frames=[2, 4], stage_keep=[0.7, 0.6], num_steps=3, batch_size=6, dropout=0.1,
        stochastic_depth=0.5,
    )  # fmt: skip
    whole = train(tmp_path / "whole", corpus, **settings)
    real, calls = svitt.pair_losses, iter(range(100))

    def dying(*arguments):
        if next(calls) == 4:  # in the second stage
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(svitt, "pair_losses", dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", corpus, **settings)
    monkeypatch.setattr(svitt, "pair_losses", real)
    killed = tmp_path / "killed"
    assert not (killed / "weights.pt").exists() and (killed / "stage-1/weights.pt").exists()
    train(killed, corpus, **settings)
    assert (whole / "history.csv").read_bytes() == (killed / "history.csv").read_bytes()
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (whole, killed)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_seeds(corpus, tmp_path):
    folders = [train(tmp_path / name, corpus, num_steps=2, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    one, same, other = (
        torch.load(folder / "weights.pt", weights_only=True)["vision_proj.weight"] for folder in folders
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_what_cannot_be_trained_is_said(corpus, tmp_path):
    with pytest.raises(ValueError, match="objective 'nce': expected one of itc, egonce"):
        train(tmp_path, corpus, objective="nce")
    with pytest.raises(ValueError, match="1 keep rates for 2 stages"):
        train(tmp_path, corpus, stage_frames=[2, 4])
    with pytest.raises(ValueError, match="batch_size=5 must be a multiple of 1 processes, .*, an even number"):
        train(tmp_path, corpus, objective="egonce", batch_size=5)
    with pytest.raises(ValueError, match="batch_size=1 must be a multiple of 1 processes, two or more in each"):
        train(tmp_path, corpus, batch_size=1)


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(corpus):
    torch.manual_seed(0)
    vocabulary = Vocabulary(corpus["vocab"])
    model = SViTT(
        SViTTConfig(2, 16, 8, 16, 2, 32, 2, 1.0, 0.0, (1, 1), 2, vocab_size=len(vocabulary), text_layers=2,
                    fusion_layer=1, embed_dim=8, dropout=0.0)
    )  # fmt: skip
    return model, vocabulary


def test_contrast_without_equal_captions_is_cross_entropy():
    scores = torch.randn(6, 6, dtype=torch.float64)
    pairs = torch.arange(6)
    expected = (F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)) / 2
    torch.testing.assert_close(svitt.itc_loss(scores, torch.eye(6, dtype=torch.bool)), expected)
    pair = torch.eye(6, dtype=torch.bool)
    pair[0, 1] = pair[1, 0] = True
    by_hand = []
    for table in (scores, scores.T):
        log = table.log_softmax(1)
        by_hand += [-(log[0, 0] + log[0, 1]) / 2, -(log[1, 0] + log[1, 1]) / 2, *(-log[k, k] for k in range(2, 6))]
    torch.testing.assert_close(svitt.itc_loss(scores, pair), torch.stack(by_hand).sum() / 12)


def test_negatives_of_matching_are_others_and_look_alike(small):
    """Seen from outside: which video and text of which row each fused pair has."""
    model, vocabulary = small
    count, seen = 5, []
    text, mask = torch.randn(count, 3, 16), torch.ones(count, 3, dtype=torch.bool)
    video = torch.randn(count, 4, 16)

    def fuse(texts, masks, videos):
        where = [
            (texts[:, None] == text).all((2, 3)).nonzero()[:, 1],
            (videos[:, None] == video).all((2, 3)).nonzero()[:, 1],
        ]
        seen.append(torch.stack(where, 1))
        return torch.zeros(len(texts), 3, 16)

    class Seen:
        itm_head = model.itm_head

    Seen.fuse = staticmethod(fuse)
    positive = torch.eye(count, dtype=torch.bool)
    positive[0, 1] = positive[1, 0] = True
    scores = torch.zeros(count, count)
    scores[2, 4] = 3.0  # text 2 takes video 4 for its own: its video is drawn, and its text for video 4
    for _ in range(300):
        svitt.itm_loss(Seen, text, mask, video, scores, positive)
    pairs = torch.stack(seen)
    assert pairs.shape == (300, 3 * count, 2)
    assert (pairs[:, :count] == torch.arange(count)[:, None].expand(count, 2)).all()
    assert (pairs[:, count : 2 * count, 0] == torch.arange(count)).all() and (
        pairs[:, 2 * count :, 1] == torch.arange(count)
    ).all()
    negatives = pairs[:, count:].flatten(0, 1)
    assert not positive[negatives[:, 0], negatives[:, 1]].any()
    drawn = pairs[:, count + 2, 1].bincount(minlength=count) / 300
    assert drawn[4] == pytest.approx(np.exp(3) / (np.exp(3) + 3), abs=0.06)
    everything = torch.ones(count, count, dtype=torch.bool)
    assert svitt.itm_loss(Seen, text, mask, video, scores, everything).isfinite(), "no negative at all: pairs alone"


def test_masking_of_words(small):
    _, vocabulary = small
    ids, mask = map(torch.from_numpy, vocabulary.encode(["cut tomato", "peel"] * 4000))
    torch.manual_seed(0)
    hidden, targets = svitt.mask_words(ids, mask, vocabulary, 0.5)
    chosen = targets >= 0
    assert not chosen[~mask].any() and not chosen[:, 0].any() and torch.equal(targets[chosen], ids[chosen])
    assert torch.equal(hidden[~chosen], ids[~chosen])
    words = mask & (ids != vocabulary.cls)
    assert chosen[words].float().mean().item() == pytest.approx(0.5, abs=0.02)
    became = hidden[chosen]
    assert (became == vocabulary.mask).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (became == targets[chosen]).float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_no_masked_word_costs_nothing(small):
    model, vocabulary = small
    ids, mask = map(torch.from_numpy, vocabulary.encode(["cut tomato"]))
    loss = svitt.mlm_loss(model, ids, mask, torch.randn(1, 3, 16), vocabulary, 0.0)
    assert loss.item() == 0 and loss.requires_grad


def test_the_second_objective_is_ego_nce(small, monkeypatch):
    """Only the contrast differs: with tags that nobody shares it is InfoNCE at 0.05, with those of captions less."""
    model, vocabulary = small
    monkeypatch.setattr(svitt, "itm_loss", lambda *a: 0.0)
    monkeypatch.setattr(svitt, "mlm_loss", lambda *a: 0.0)
    texts = ["cut tomato", "cut the tomato", "pour oil", "peel cucumber"]
    ids, mask = map(torch.from_numpy, vocabulary.encode(texts))
    clips = torch.randint(0, 256, (4, 2, 3, 16, 16), dtype=torch.uint8)
    words = tuple(map(torch.from_numpy, Taxonomy.of_names(TEXTS).tags(texts)))
    shared, apart = (
        svitt.pair_losses(model, clips, ids, mask, tags, vocabulary) for tags in (words, tuple(w * 0 for w in words))
    )
    _, pooled = model.encode_video(svitt.normalised(clips.transpose(1, 2).float() / 255))
    similarities = model.project_text(model.encode_text(ids, mask)) @ model.project_video(pooled).T
    torch.testing.assert_close(shared, ego_nce_loss(similarities, *words))
    pairs = torch.arange(4)
    expected = F.cross_entropy(similarities / 0.05, pairs) + F.cross_entropy(similarities.T / 0.05, pairs)
    torch.testing.assert_close(apart, expected)
    assert shared < apart


def test_class_names_say_too_what_the_same_action_is(corpus, tmp_path, monkeypatch):
    """Of a corpus without kitchens; captions share no word that kitchens know."""
    (tmp_path / "mapping.txt").write_text("0 fold_paper\n1 press_flowers\n")
    seen, tags = [], svitt.Taxonomy.tags
    monkeypatch.setattr(svitt.Taxonomy, "tags", lambda self, texts: seen.append(self) or tags(self, texts))
    for classes in ("", tmp_path / "mapping.txt"):
        train(tmp_path / f"run{len(seen)}", corpus, objective="egonce", num_steps=1, classes=classes)
    (nouns, verbs), (more_nouns, more_verbs) = (tags(one, ["now fold the paper", "she folds paper"]) for one in seen)
    assert not nouns.any() and (more_nouns @ more_nouns.T == 1).all() and (more_verbs @ more_verbs.T == 1).all()


def test_tags_of_egoclip_are_what_counts_where_there_are_some(tmp_path, monkeypatch):
    root, seen = tmp_path / "howto100m", []
    write_corpus(root, num_videos=3)
    (root / "tags.json").write_text(json.dumps({text: [[number], [5]] for number, text in enumerate(TEXTS)}))
    monkeypatch.setattr(svitt, "ego_nce_loss", lambda sims, *words: seen.append(words) or sims.sum())
    corpus = dict(howto=root, vocab=root / "vocab.txt")
    train(tmp_path / "run", corpus, objective="egonce", num_steps=1)
    nouns, verbs = seen[0]
    assert nouns.shape[1] == 582 and (nouns.sum(1) == 1).all() and (verbs[:, 5] == 1).all() and verbs.shape[1] == 118


def test_what_is_a_positive_of_ego_nce_is_no_negative_of_matching(small, monkeypatch):
    model, vocabulary = small
    texts = ["cut tomato", "cut the tomato", "pour oil", "pour oil"]
    ids, mask = map(torch.from_numpy, vocabulary.encode(texts))
    clips = torch.randint(0, 256, (4, 2, 3, 16, 16), dtype=torch.uint8)
    words, seen = tuple(map(torch.from_numpy, Taxonomy.of_names(TEXTS).tags(texts))), []
    monkeypatch.setattr(svitt, "itm_loss", lambda *arguments: seen.append(arguments[-1]) or 0.0)
    for tags in (words, ()):
        svitt.pair_losses(model, clips, ids, mask, tags, vocabulary, words_weight=0.0)
    block = torch.ones(2, 2, dtype=torch.bool)
    assert torch.equal(seen[0], torch.block_diag(block, block))
    assert torch.equal(seen[1], torch.block_diag(torch.eye(2).bool(), block)), "equal captions alone"


def test_a_true_positive_never_raises_ego_nce_and_one_word_is_none():
    torch.manual_seed(0)
    for _ in range(50):
        similarities = torch.rand(6, 6, dtype=torch.float64) * 2 - 1
        nouns, verbs = torch.eye(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
        before = ego_nce_loss(similarities, nouns, verbs)
        nouns[1], verbs[2] = nouns[0], verbs[0]
        assert ego_nce_loss(similarities, nouns, verbs) == before, "a noun or a verb alone makes no positive"
        verbs[1] = verbs[0]
        assert ego_nce_loss(similarities, nouns, verbs) <= before


def test_a_loss_of_weight_0_is_not_computed(small, monkeypatch):
    model, vocabulary = small
    ids, mask = map(torch.from_numpy, vocabulary.encode(["cut tomato", "pour oil"]))
    clips = torch.randint(0, 256, (2, 2, 3, 16, 16), dtype=torch.uint8)
    monkeypatch.setattr(svitt, "itm_loss", lambda *a: torch.tensor(10.0))
    monkeypatch.setattr(svitt, "mlm_loss", lambda *a: torch.tensor(100.0))

    def total(*weights):
        return svitt.pair_losses(model, clips, ids, mask, (), vocabulary, 0.5, *weights).item()

    contrast = total(0.0, 0.0)
    assert total(2.0, 0.5) == pytest.approx(contrast + 70, abs=1e-3)
    monkeypatch.setattr(svitt, "itm_loss", lambda *a: pytest.fail("not asked for"))
    monkeypatch.setattr(svitt, "mlm_loss", lambda *a: pytest.fail("not asked for"))
    assert total(0.0, 0.0) == contrast


def test_scene_clips_are_pairs_of_one_video(corpus):
    clips = NarratedClips(corpus["howto"], frames=2, seconds=2.0, size=SIDE)
    scenes = svitt.SceneClips(clips)
    drawn, texts = scenes.draw(np.random.default_rng(3), 8)
    assert drawn.shape == (8, 2, 3, SIDE, SIDE) and drawn.dtype == torch.uint8 and len(texts) == 8
    again = scenes.draw(np.random.default_rng(3), 8)
    assert torch.equal(drawn, again[0]) and texts == again[1]
    assert all(one != other for one, other in zip(texts[:4], texts[4:], strict=True)), "another caption of the video"
    assert [scenes.rows[scenes.first[name]] for name in clips.names] == [(name, 0) for name in clips.names]
    odd, _ = scenes.draw(np.random.default_rng(3), 7)
    assert len(odd) == 7


def test_projections_begin_centred_and_even(small, corpus):
    _, vocabulary = small
    torch.manual_seed(1)
    model = SViTT(SViTTConfig(2, 16, 8, 16, 2, 32, 2, 1.0, 0.0, None, keep_rate=1.0, vocab_size=len(vocabulary),
                              text_layers=2, fusion_layer=1, embed_dim=6, dropout=0.0))  # fmt: skip
    clips, texts = NarratedClips(corpus["howto"], frames=2, seconds=2.0, size=SIDE).draw(np.random.default_rng(0), 64)
    ids, mask = map(torch.from_numpy, vocabulary.encode(texts))
    svitt.whiten(model, clips, ids, mask)
    pooled = model.encode_video(svitt.normalised(clips.transpose(1, 2).float() / 255))[1]
    words = model.encode_text(ids, mask)[:, 0]
    for vectors, layer in ((pooled, model.vision_proj), (words, model.text_proj)):
        projected, variance = layer(vectors).double(), vectors.var(dim=0, correction=0).mean()
        assert projected.shape == (64, 6) and projected.mean(dim=0).abs().max() < 1e-3
        largest = torch.linalg.eigvalsh(torch.cov(vectors.T.double(), correction=0)).flip(0)[:6]
        expected = largest / (largest + 0.1 * variance)
        torch.testing.assert_close(projected.T @ projected / 64, expected.diag().double(), rtol=0, atol=1e-3)
