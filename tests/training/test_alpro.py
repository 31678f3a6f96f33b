"""ALPRO on a narrated corpus of the drawn kitchen: each video cuts four things in random order, captions name them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.mmpt import write_bert
from tests.models.test_starts import vit_weights
from thesis_lib.data.kitchen import Kitchen
from thesis_lib.data.text import Vocabulary, write_vocab
from thesis_lib.losses import IGNORED
from thesis_lib.models.alpro import Alpro, AlproConfig, Prompter
from thesis_lib.planted import PATCH, SETTINGS, SIDE, THINGS, write_corpus
from thesis_lib.training import alpro, loop
from thesis_lib.training.entities import TEMPLATES, random_region

GOLDEN = Path(__file__).parents[1] / "golden/alpro"
SMALL = SETTINGS | dict(num_steps=10, prompter_steps=120, start="prompter", device="cpu")
TINY = SMALL | dict(num_steps=3, prompter_steps=2, batch_size=4, hidden_size=16, warmup=1)


@pytest.fixture(scope="module")
def howto(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "howto"
    write_corpus(root)
    return root


def train(folder, howto, **settings):
    folder.mkdir(exist_ok=True)
    alpro.train(folder, howto=howto, vocab=howto / "vocab.txt", **settings)
    return folder


@pytest.fixture(scope="module")
def trained(howto, tmp_path_factory):
    return train(tmp_path_factory.mktemp("alpro") / "run", howto, **SMALL)


@pytest.fixture(scope="module")
def tiny(howto, tmp_path_factory):
    return train(tmp_path_factory.mktemp("alpro") / "tiny", howto, **TINY)


def new_clips(count=40):
    """(clips [count, 3, 2, SIDE, SIDE] in 0..1, thing of each) of kitchens outside the corpus."""
    rng, clips = np.random.default_rng(1), []
    for number in range(count):
        frames = Kitchen(rng, 0.0).act("cut", THINGS[number % 4], 4)[[1, 3]]
        small = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255
        clips.append(torch.nn.functional.interpolate(small, size=(2, SIDE, SIDE), mode="area"))
    return torch.cat(clips), np.arange(count) % 4


# -- the claims --------------------------------------------------------------------------------------------------------


def test_labels_of_regions_recover_the_planted_object(trained):
    """A box around the thing, which lies in the first two patches of the third row, is labelled with its name.

    One that leaves the row out knows little: some pieces of the thing reach over the edge.
    """
    model, about = alpro.load_model(trained)
    assert sorted(about["entities"]) == sorted(THINGS)
    clips, things = new_clips()
    rng, right = np.random.default_rng(0), {True: [], False: []}
    for clip, thing in zip(clips, things, strict=True):
        for _ in range(8):
            region = random_region(rng, SIDE // PATCH, SIDE // PATCH)
            shown = alpro.normalise(alpro.cut_out(clip[None], torch.from_numpy(region)[None]))
            named = about["entities"][int(model.prompter.soft_labels(shown).argmax())]
            if region[2, :2].all() or not region[2].any():
                right[bool(region[2, 1])].append(named == THINGS[thing])
    assert len(right[True]) > 20 and len(right[False]) > 20
    assert np.mean(right[True]) > 0.8 and np.mean(right[False]) < 0.5, {k: np.mean(v) for k, v in right.items()}


def test_captions_alone_teach_what_a_clip_shows(trained, howto):
    encoder = alpro.load(trained, howto / "vocab.txt")
    clips, things = new_clips()
    with torch.no_grad():
        guesses = (encoder.embed(clips) @ encoder.embed_texts(THINGS).T).argmax(dim=1).numpy()
    assert (guesses == things).mean() > 0.75, "chance is 0.25"


def test_every_loss_goes_down(howto, trained, tmp_path):
    """From the prompter's encoders; each loss on a batch that is not trained on, at the first and the last epoch."""
    settings = SMALL | dict(num_steps=75, lr=3e-3)
    folder = train(tmp_path / "long", howto, **settings, prompter=trained / "prompter")
    history = pd.read_csv(folder / "history.csv")
    assert history["loss"].iloc[-1] < history["loss"][0] - 0.3
    for name in ("vtm", "mlm", "pem"):
        assert history[name].iloc[-1] < history[name][0], name
    assert not (folder / "prompter").exists()


# -- parts -------------------------------------------------------------------------------------------------------------


def test_a_box_is_the_same_in_all_frames_and_black_around(howto):
    clips = torch.rand(5, 3, 4, SIDE, SIDE) + 0.1
    regions = torch.from_numpy(np.stack([random_region(np.random.default_rng(k), 4, 4) for k in range(5)]))
    shown = alpro.cut_out(clips, regions)
    for clip, cut, region in zip(clips, shown, regions, strict=True):
        for row in range(4):
            for column in range(4):
                at = np.s_[..., PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)]
                assert torch.equal(cut[at], clip[at] if region[row, column] else torch.zeros_like(clip[at]))


def test_masked_words(howto):
    vocabulary = Vocabulary(howto / "vocab.txt")
    ids, mask = vocabulary.encode(["tomato cheese lettuce"] * 3000 + ["cheese"] * 3000)
    chances = np.random.default_rng(0).random((len(ids), 3, ids.shape[1]))
    masked, labels = alpro.mask_words(ids, mask, chances, vocabulary)
    chosen = labels != IGNORED
    words = mask & ~np.isin(ids, (vocabulary.cls, vocabulary.sep))
    assert not chosen[~words].any() and np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(masked[~chosen], ids[~chosen])
    assert chosen[words].mean() == pytest.approx(0.15, abs=0.01)
    assert (masked[chosen] == vocabulary.mask).mean() == pytest.approx(0.8, abs=0.03)
    assert (masked[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.03)
    assert len(np.unique(masked[chosen])) > 40, "any piece may stand there"


def test_negatives_are_never_the_pair_itself_and_mostly_alike():
    torch.manual_seed(0)
    similarities = torch.tensor([[9.0, 3.0, 0.0], [0.0, 9.0, 1.0], [5.0, 5.0, 9.0]])
    weights = alpro.negative_weights(similarities)
    assert weights.diagonal().tolist() == [0, 0, 0] and torch.allclose(weights.sum(dim=1), torch.ones(3))
    assert similarities[0, 0] == 9, "the similarities stay as they are"
    drawn = torch.stack([alpro.hard_negatives(similarities) for _ in range(2000)])
    for row in range(3):
        shares = torch.bincount(drawn[:, row], minlength=3) / 2000
        assert shares[row] == 0 and torch.allclose(shares, weights[row], atol=0.04)
    with pytest.raises(ValueError, match="a batch of one clip has no negatives"):
        alpro.hard_negatives(torch.ones(1, 1))


def test_weights_of_negatives_equal_the_official():
    with np.load(GOLDEN / "vtc_a.npz") as case:
        for way, name in (("v2t", "text_for_video"), ("t2v", "video_for_text")):
            weights = alpro.negative_weights(torch.from_numpy(case[f"out_sim_{way}"]))
            assert np.abs(weights.numpy() - case[f"out_vtm_weights_{name}"]).max() < 1e-6


@pytest.fixture
def batch(howto):
    clips = alpro.NarratedClips(howto, frames=2, seconds=0.5, size=SIDE, num_videos=3)
    vocabulary = Vocabulary(howto / "vocab.txt")
    return alpro.draw(clips, vocabulary, PATCH, [(0, number) for number in range(6)])


@pytest.fixture
def model(howto):
    torch.manual_seed(0)
    sizes = dict(size=SIDE, patch_size=PATCH, num_frames=2, video_layers=1, hidden_size=16, num_attention_heads=2)
    sizes |= dict(intermediate_size=32, num_hidden_layers=2, fusion_layer=1, embed_dim=8, num_entities=4, dropout=0.0)
    return Alpro(AlproConfig(**sizes, stochastic_depth=0.0, vocab_size=len(Vocabulary(howto / "vocab.txt"))))


def test_a_pair_has_two_strangers(model, batch, monkeypatch):
    """Matching sees every true pair, every text with another video and every video with another text."""
    seen = {}

    def fuse(text, mask, video):
        seen["text"], seen["video"] = text, video
        return torch.cat([text, video], dim=1)

    monkeypatch.setattr(model, "fuse", fuse)
    monkeypatch.setattr(model, "match_logits", lambda fused: torch.tensor([[0.0, 9.0]] * 6 + [[9.0, 0.0]] * 12))
    found = alpro.objective(model, batch, ("vtm",))
    assert list(found) == ["vtm"] and found["vtm"] < 1e-3, "6 labels of 1, then 12 of 0"
    text, video = seen["text"].split(6), seen["video"].split(6)
    assert torch.equal(text[1], text[0]) and torch.equal(video[2], video[0])
    for number in range(6):
        other = [torch.equal(video[1][number], video[0][k]) for k in range(6)]
        assert sum(other) == 1 and not other[number]
        assert any(torch.equal(text[2][number], text[0][k]) for k in range(6) if k != number)


def test_a_stranger_is_what_the_pair_itself_looks_like(model, batch, monkeypatch):
    """A text's other video is one that is like the text, a video's other text one that is like the video."""
    vectors = torch.eye(6)
    for number in range(6):  # video k is like text k + 1, so text k is like video k - 1
        vectors[number, (number + 1) % 6] = 0.9
    seen = {}

    def fuse(text, mask, video):
        seen.update(text=text, mask=mask, video=video)
        return torch.cat([text, video], dim=1)

    monkeypatch.setattr(model, "project_video", lambda tokens: vectors)
    monkeypatch.setattr(model, "project_text", lambda tokens: torch.eye(6))
    monkeypatch.setattr(model, "temperature", lambda: torch.tensor(0.01))
    monkeypatch.setattr(model, "fuse", fuse)
    ids, masks = torch.arange(5, 35).reshape(6, 5), torch.arange(5)[None] < torch.tensor([2, 3, 4, 5, 3, 2])[:, None]
    alpro.objective(model, (batch[0], ids, masks, ids, ids, batch[-1]), ("vtm",))
    text, mask, video = (seen[name].split(6) for name in ("text", "mask", "video"))
    assert torch.equal(video[1], video[0].roll(1, 0)) and torch.equal(text[1], text[0])
    assert torch.equal(text[2], text[0].roll(-1, 0)) and torch.equal(video[2], video[0])
    assert torch.equal(torch.cat(mask), torch.cat([masks, masks, masks.roll(-1, 0)])), "a text brings its own mask"


def test_the_teacher_sees_the_box_alone_and_the_model_all_but_the_masked_words(model, batch, monkeypatch):
    clips, ids, mask, masked, labels, regions = batch
    masked = torch.where(mask, masked, 0)
    masked[0, 1] = ids[0, 1] + 1
    shown, read, known = [], [], []
    encode_video, encode_text, soft = model.encode_video_tokens, model.encode_text_tokens, model.prompter.soft_labels
    monkeypatch.setattr(model, "encode_video_tokens", lambda clip: shown.append(clip) or encode_video(clip))
    monkeypatch.setattr(model, "encode_text_tokens", lambda ids, mask: read.append(ids) or encode_text(ids, mask))
    monkeypatch.setattr(model.prompter, "soft_labels", lambda clip: known.append(clip) or soft(clip))
    alpro.objective(model, (clips, ids, mask, masked, labels, regions), alpro.LOSSES)
    whole = clips.transpose(1, 2).float() / 255
    assert len(shown) == len(known) == 1 and torch.equal(shown[0], alpro.normalise(whole))
    assert torch.equal(known[0], alpro.normalise(alpro.cut_out(whole, regions)))
    assert not torch.equal(known[0], shown[0])
    assert len(read) == 2 and torch.equal(read[0], ids) and torch.equal(read[1], masked)


def test_each_loss_trains_what_it_should(model, batch):
    def reached(losses):
        model.zero_grad(set_to_none=True)
        found = alpro.objective(model, batch, losses)
        assert list(found) == list(losses)
        sum(found.values()).backward()
        trained = {name for name, x in model.named_parameters() if x.grad is not None and x.grad.abs().max() > 0}
        return {part for part in ("temp", "vision_proj", "itm_head", "text_encoder.cls.predictions.transform",
                                  "mpm_head", "prompter", "visual_encoder", "text_encoder.bert.encoder.layer.1")
                if any(name.startswith(part) for name in trained)}  # fmt: skip

    model.prompter.video_prompt_feat.copy_(torch.eye(4, 8))
    fusion, video = "text_encoder.bert.encoder.layer.1", "visual_encoder"
    assert reached(["vtc"]) == {"temp", "vision_proj", video}
    assert reached(["vtm"]) == {"itm_head", fusion, video}, "negatives are drawn without gradient"
    assert reached(["mlm"]) == {"text_encoder.cls.predictions.transform", fusion, video}
    assert reached(["pem"]) == {"mpm_head", fusion, video}
    everything = reached(list(alpro.LOSSES))
    assert "prompter" not in everything and len(everything) == 7


def test_only_the_box_matters_for_its_entities(model, batch, monkeypatch):
    model.prompter.video_prompt_feat.copy_(torch.eye(4, 8))
    before = alpro.objective(model, batch, ["pem"])["pem"]
    whole, regions = model.fuse, batch[-1]

    def elsewhere(text, mask, video):
        fused = whole(text, mask, video)
        outside = torch.cat([torch.ones(6, fused.shape[1] - 16, dtype=torch.bool), ~regions.flatten(1)], dim=1)
        return fused.masked_fill(outside[..., None], 5.0)

    monkeypatch.setattr(model, "fuse", elsewhere)
    assert torch.equal(alpro.objective(model, batch, ["pem"])["pem"], before)


# -- runs --------------------------------------------------------------------------------------------------------------


def weights_of(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


def test_the_prompter_stays_as_it_was_trained(tiny):
    model, taught = weights_of(tiny), weights_of(tiny / "prompter")
    assert len(taught) > 30
    for name, value in taught.items():
        assert torch.equal(model[f"prompter.{name}"], value), name
    assert not torch.equal(model["vision_proj.weight"], taught["vision_proj.weight"]), "the model went on"


def test_an_entity_is_the_mean_of_twelve_texts(howto, tiny):
    """Each text read by itself, by what the prompter had become when its training ended."""
    model, about = alpro.load_model(tiny)
    vocabulary = Vocabulary(howto / "vocab.txt")
    for entity, vector in zip(about["entities"], model.prompter.video_prompt_feat, strict=True):
        texts = [vocabulary.encode([template.format(entity)]) for template in TEMPLATES]
        with torch.no_grad():
            each = [model.prompter.embed_text(*map(torch.from_numpy, text))[0] for text in texts]
        assert len(each) == 12 and torch.allclose(vector, torch.stack(each).mean(0), atol=1e-6)


SURE, UNSURE = [0.7, 0.1, 0.1, 0.1], [0.2, 0.3, 0.25, 0.25]  # the first entity is the likeliest, the second is


@pytest.mark.parametrize(
    ("labels", "rule", "threshold", "discarded"),
    [(SURE, "paper", 0.2, False), (SURE, "released", 0.2, True), (UNSURE, "paper", 0.4, True),
     (UNSURE, "paper", 0.3, False), (UNSURE, "released", 0.4, False)],
)  # fmt: skip
def test_boxes_are_discarded_by_the_rule_that_was_asked_for(
    howto, tiny, tmp_path, monkeypatch, labels, rule, threshold, discarded
):
    """In the loss that trains and in the one that is measured, which are 0 where all boxes are discarded."""
    monkeypatch.setattr(Prompter, "soft_labels", lambda prompter, clip: torch.tensor([labels] * len(clip)))
    settings = TINY | dict(losses=("pem",), num_videos=2, prompter=tiny / "prompter", num_steps=1)
    folder = train(tmp_path / "run", howto, **settings, entity_rule=rule, entity_threshold=threshold)
    history = pd.read_csv(folder / "history.csv")
    for column in ("loss", "pem"):
        assert (history[column] == 0).all() == discarded and (history[column] > 0.1).all() != discarded


def test_a_killed_run_goes_on_with_the_same_result(howto, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STEPS_PER_EPOCH", 2)
    whole = train(tmp_path / "whole", howto, **TINY)
    real, calls = alpro.objective, iter(range(100))

    def dying(*arguments):
        if next(calls) == 6:  # prompter: 2 steps and what is measured after them; model: 2, measured, and one
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(alpro, "objective", dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", howto, **TINY)
    monkeypatch.setattr(alpro, "objective", real)
    assert not (tmp_path / "killed/weights.pt").exists() and (tmp_path / "killed/prompter/weights.pt").exists()
    killed = train(tmp_path / "killed", howto, **TINY)
    assert (whole / "history.csv").read_bytes() == (killed / "history.csv").read_bytes()
    first, second = weights_of(whole), weights_of(killed)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_seeds(howto, tiny, tmp_path):
    again, other = train(tmp_path / "again", howto, **TINY), train(tmp_path / "other", howto, **TINY | dict(seed=1))
    first, second, third = map(weights_of, (tiny, again, other))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["vision_proj.weight"], third["vision_proj.weight"])


def test_ablations_leave_out_what_they_do_not_need(howto, tiny, tmp_path):
    folder = train(tmp_path / "plain", howto, **TINY | dict(losses=("vtc", "mlm"), start="random"))
    assert not (folder / "prompter").exists() and alpro.load_model(folder)[1]["entities"] == []
    assert {"vtc", "mlm"} < set(pd.read_csv(folder / "history.csv")) and not any(
        "prompter" in n for n in weights_of(folder)
    )
    one = train(tmp_path / "one", howto, **TINY | dict(prompter=tiny / "prompter", prompts="one", num_entities=2))
    model, about = alpro.load_model(one)
    assert len(about["entities"]) == 2 and not (one / "prompter").exists()
    ids, mask = map(
        torch.from_numpy, Vocabulary(howto / "vocab.txt").encode([f"A video of a {e}." for e in about["entities"]])
    )
    with torch.no_grad():
        assert torch.allclose(model.prompter.video_prompt_feat, model.prompter.embed_text(ids, mask), atol=1e-6)


def test_model_and_prompter_start_from_published_models(howto, tmp_path, capsys):
    """Nothing is learned: what is left is the start. The BERT reads the corpus's own words."""
    pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[fairseq]'")
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    bert = write_bert(tmp_path / "bert", len(Vocabulary(howto / "vocab.txt")), **sizes)
    (bert / "vocab.txt").write_text((howto / "vocab.txt").read_text())
    vit = vit_weights(SIDE // PATCH, PATCH, 16, TINY["video_layers"])
    torch.save(vit, tmp_path / "vit.pth")
    settings = TINY | dict(start="random", num_steps=1, prompter_steps=1, lr=0.0)
    folder = train(tmp_path / "run", howto, **settings, vision=tmp_path / "vit.pth", bert=bert)
    model, theirs = weights_of(folder), load_file(bert / "model.safetensors")
    for name, value in vit.items():
        for tower in ("", "prompter.") if not name.startswith(("head", "pre_logits")) else ():
            assert torch.equal(model[f"{tower}visual_encoder.model.{name}"], value), name
    for name, value in theirs.items():
        if "pooler" not in name:
            assert torch.equal(model[f"text_encoder.bert.{name}"], value), name
            assert "layer.1." in name or torch.equal(model[f"prompter.text_encoder.bert.{name}"], value), name
    printed = capsys.readouterr().out
    assert printed.count("vit: ") == printed.count("bert: ") == 2 and "blocks.0.temporal_fc.weight" in printed
    plain = weights_of(train(tmp_path / "plain", howto, **settings))
    assert torch.equal(model["vision_proj.weight"], plain["vision_proj.weight"]), "what no file has is drawn as without"


def test_bad_settings_are_refused(howto, tiny, tmp_path):
    for changed, message in [
        (dict(losses=("vtc", "itm")), r"losses=\['vtc', 'itm'\]: expected some of vtc, vtm, mlm, pem"),
        (dict(losses=()), "expected some of vtc, vtm, mlm, pem"),
        (dict(batch_size=1), "batch_size=1 on 1 .*2 clips each at least"),
        (dict(entity_rule="position"), "entity_rule='position': expected one of paper, released"),
        (dict(entity_threshold=20.0), "entity_threshold=20.0: a probability, so 0 to 1"),
        (dict(start="bert"), 'start=\'bert\': expected "random" or "prompter"'),
        (
            dict(vision="vit.pth"),
            'start="prompter" would replace the ViT or the BERT that is given: take start="random"',
        ),
        (dict(vision="none.pth", start="random"), "none.pth: no such file"),
        (dict(prompter=tmp_path / "none"), "none/weights.pt: no prompter there"),
        (dict(prompter=tiny / "prompter", hidden_size=32), "a prompter of other sizes"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(tmp_path / "bad", howto, **TINY | changed)


def test_the_encoder(howto, tiny, tmp_path):
    encoder = alpro.load(tiny, howto / "vocab.txt")
    assert (encoder.frames, encoder.seconds, encoder.size, encoder.dim, encoder.has_text) == (2, 0.5, SIDE, 32, True)
    assert not encoder.training
    clips, _ = new_clips(3)
    with torch.no_grad():
        vectors, texts = encoder.embed(clips), encoder.embed_texts(["cut tomato", "oil"])
    assert vectors.shape == (3, 16) and texts.shape == (2, 16)
    assert torch.allclose(torch.cat([vectors, texts]).norm(dim=1), torch.ones(5))
    features = encoder.features(clips)
    assert features.shape == (3, 32) and torch.equal(features, encoder.features(clips))
    features.sum().backward()
    assert encoder.model.visual_encoder.model.patch_embed.proj.weight.grad.abs().max() > 0
    mean, std = (torch.tensor(x)[:, None, None, None] for x in (alpro.MEAN, alpro.STD))
    with torch.no_grad():
        tokens = encoder.model.encode_video_tokens((clips - mean) / std)
    assert torch.allclose(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1), features, atol=1e-6)
    write_vocab(tmp_path / "vocab.txt", ["more", "words"])
    with pytest.raises(ValueError, match=r"a vocabulary of \d+ pieces for an ALPRO of \d+"):
        alpro.load(tiny, tmp_path / "vocab.txt")


def test_a_released_file_becomes_an_encoder(howto, tmp_path):
    """At the width whose number of heads is known; twelve layers of BERT are too many for a test."""
    sizes = dict(size=16, patch_size=8, num_frames=2, video_layers=1, num_attention_heads=12, num_entities=0)
    config = AlproConfig(**sizes, intermediate_size=8, vocab_size=len(Vocabulary(howto / "vocab.txt")), embed_dim=8)
    torch.save(Alpro(config).state_dict(), tmp_path / "alpro.pt")
    encoder = alpro.load(tmp_path / "alpro.pt", howto / "vocab.txt")
    assert (encoder.frames, encoder.seconds, encoder.size, encoder.dim) == (2, 8.0, 16, 1536)
    with torch.no_grad():
        assert encoder.embed(torch.rand(1, 3, 2, 16, 16)).shape == encoder.embed_texts(["oil"]).shape == (1, 8)
