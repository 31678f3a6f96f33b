"""Pretraining on narrated videos whose captions name what the features show, and where they do not."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import segmentation
from thesis_lib.data.text import Vocabulary, write_vocab
from thesis_lib.losses import contrastive_loss
from thesis_lib.retrieval import build_clusters
from thesis_lib.training import tracks as reading
from thesis_lib.training import videoclip
from thesis_lib.training.pairs import Pair, SpanLimits

ACTIONS = ["cut tomato", "peel cucumber", "add oil", "mix dressing", "place cheese", "pour vinegar"]
DIM = 12
SMALL = dict(width=24, video_layers=1, text_layers=1, heads=2, dropout=0.0, videos_per_cluster=8, clips_per_video=4)
SMALL |= dict(min_tokens=1, max_tokens=6, min_seconds=3, max_seconds=10, val_videos=8, warmup=5, lr=4e-3)


def write_howto(root, num_videos=56, seed=0):
    """Videos of four actions of 5 to 9 s; a caption names each, up to a second early or late. Two are unusable."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(ACTIONS), DIM))
    (root / "features").mkdir(parents=True)
    captions, rows = {}, []
    for number in range(num_videos):
        actions = rng.permutation(len(ACTIONS))[:4]
        seconds = np.repeat(actions, rng.integers(5, 10, 4))
        features = vectors[seconds] + rng.normal(scale=0.3, size=(len(seconds), DIM))
        np.save(root / "features" / f"v{number:02d}.npy", features.astype(np.float32))
        starts = np.array([np.argmax(seconds == action) for action in actions]) + rng.uniform(-1, 1, 4)
        starts = np.maximum(starts, 0)
        texts = [ACTIONS[action] for action in actions]
        captions[f"v{number:02d}"] = {"start": starts.tolist(), "end": (starts + 4).tolist(), "text": texts}
        rows.append((f"v{number:02d}", "Food", "Salad" if number % 2 else "Other", 1, 1))
    captions |= {
        "none": {"start": [0], "end": [1], "text": ["add oil"]},
        "silent": {"start": [], "end": [], "text": []},
    }
    np.save(root / "features" / "silent.npy", np.zeros((9, DIM), np.float32))
    (root / "raw_caption.json").write_text(json.dumps(captions))
    table = pd.DataFrame(rows, columns=["video_id", "category_1", "category_2", "rank", "task_id"])
    table.to_csv(root / "HowTo100M_v1.csv", index=False)
    write_vocab(root / "vocab.txt", ACTIONS)
    return vectors


@pytest.fixture(scope="module")
def howto(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "howto100m"
    return root, write_howto(root)


def train(tmp_path, root, name="run", **changed):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    arguments = dict(features=root / "features", howto=root, vocab=root / "vocab.txt") | SMALL
    videoclip.train(folder, **arguments | changed)
    return folder, pd.read_csv(folder / "history.csv")


def zero_shot(folder, root, vectors):
    """Accuracy a second on a new video of all actions."""
    model = videoclip.load(folder)
    rng = np.random.default_rng(9)
    targets = np.repeat(rng.permutation(len(ACTIONS)), 8)
    features = torch.from_numpy(vectors[targets] + rng.normal(scale=0.3, size=(len(targets), DIM))).float()
    with torch.no_grad():
        classes = model.encode_text(*map(torch.from_numpy, Vocabulary(root / "vocab.txt").encode(ACTIONS)))
    logits = segmentation.segment(model.encode_video_tokens, features, classes)
    return float((logits.argmax(1).numpy() == targets).mean())


def test_it_learns_what_captions_say_and_nothing_from_permuted_ones(howto, tmp_path, capsys):
    root, vectors = howto
    folder, history = train(tmp_path, root, num_steps=90, vector_clips=2)
    assert "1 no features" in (printed := capsys.readouterr().out) and "1 no captions" in printed
    assert zero_shot(folder, root, vectors) > 0.9
    assert history["val_loss"].iloc[-1] < history["val_loss"][0] - 0.5
    assert history["val_loss_clusters"].notna().all()

    accuracies = []
    for seed in (1, 2, 3):
        permuted, history = train(tmp_path, root, f"permuted{seed}", num_steps=90, caption_order="permuted", seed=seed)
        accuracies.append(zero_shot(permuted, root, vectors))
    assert np.mean(accuracies) < 0.35  # chance is 1 in 6


def test_history_counts_steps_and_pairs_and_clusters_are_kept(howto, tmp_path):
    root, _ = howto
    folder, history = train(tmp_path, root, num_steps=5, clusters_per_step=4)  # 6 clusters an epoch: steps of 4 and 2
    assert history["steps"].tolist() == [2, 4, 5]
    assert history["pairs"].tolist() == [192, 384, 512]  # the last epoch stops after one step of 4 x 8 x 4 pairs
    examples = json.loads((folder / "clusters.json").read_text())
    assert [example["epoch"] for example in examples] == [1, 2, 3]
    assert all(len(set(example["videos"])) == 8 for example in examples)
    _, history = train(tmp_path, root, "epochs", num_epochs=2, clusters_per_step=1)
    assert history["steps"].tolist() == [6, 12]


def test_a_step_over_clusters_is_the_mean_of_their_gradients(howto, tmp_path, monkeypatch):
    """One step of 6 clusters against the explicit sum of six gradients, at the first weights, with plain descent."""
    root, _ = howto
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, **_: torch.optim.SGD(parameters, lr=lr))
    seen = []
    real = reading.Collate.__call__
    monkeypatch.setattr(reading.Collate, "__call__", lambda self, picks: seen.append(real(self, picks)) or seen[-1])
    start, _ = train(tmp_path, root, "start", num_steps=1, lr=0.0, clusters_per_step=6, val_videos=0)
    model = videoclip.load(start)
    clusters = [batch for batch in seen if len(batch[0]) == 32]  # not those of retrieval, of 56 videos
    assert len(clusters) == 6
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    mean = [torch.zeros_like(value) for value in parameters.values()]
    for batch in clusters:
        gradients = torch.autograd.grad(contrastive_loss(*model(*batch)), list(parameters.values()), allow_unused=True)
        mean = [total + (0 if one is None else one / 6) for total, one in zip(mean, gradients, strict=True)]

    arguments = dict(num_steps=1, lr=0.1, warmup=0, clip_norm=0.0, clusters_per_step=6, val_videos=0)
    moved, _ = train(tmp_path, root, "moved", **arguments)
    after = torch.load(moved / "weights.pt", weights_only=True)
    for (name, before), gradient in zip(parameters.items(), mean, strict=True):
        torch.testing.assert_close(after[name], before.detach() - 0.1 * gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("save_every", [0.0, 600.0])
@pytest.mark.parametrize(
    ("where", "call"),
    [("contrastive_loss", 19), ("build_clusters", 3), ("encode_videos", 3)],  # all in the third epoch of four
)
def test_a_killed_run_goes_on_with_the_same_result(howto, tmp_path, monkeypatch, where, call, save_every):
    root, _ = howto
    settings = dict(num_steps=12, clusters_per_step=2, dropout=0.1, save_every=save_every)
    whole, _ = train(tmp_path, root, "whole", **settings)
    real, calls = getattr(videoclip, where), iter(range(1000))

    def dying(*arguments, **keywords):
        if next(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    monkeypatch.setattr(videoclip, where, dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, root, "killed", **settings)
    assert pd.read_csv(tmp_path / "killed/history.csv")["epoch"].tolist() == [1, 2]
    monkeypatch.undo()
    killed, _ = train(tmp_path, root, "killed", **settings)
    for name in ("history.csv", "clusters.json", "config.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (whole, killed)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_an_interruption_restarts_the_schedule_only_without_exact_resume(howto, tmp_path):
    root, _ = howto
    settings = dict(num_epochs=6, val_videos=0, warmup=4)
    _, whole = train(tmp_path, root, "whole", **settings)
    _, exact = train(tmp_path, root, "exact", interruptions=2, exact_resume=True, **settings)
    pd.testing.assert_frame_equal(whole, exact)
    _, restarted = train(tmp_path, root, "restarted", interruptions=2, exact_resume=False, **settings)
    assert whole["lr"].is_monotonic_decreasing
    assert restarted["lr"][2] == restarted["lr"][0] == restarted["lr"][4]  # restarts before the epochs 3 and 5
    assert restarted["loss"][1] == whole["loss"][1] and restarted["loss"][2] != whole["loss"][2]


def test_retrieved_frozen_and_random_clusters(howto, tmp_path, monkeypatch):
    root, _ = howto
    calls_of = {}
    for retrieval in ("hard", "frozen", "none"):
        calls = calls_of[retrieval] = []
        monkeypatch.setattr(
            videoclip, "build_clusters", lambda *a, calls=calls, **k: calls.append((a, k)) or build_clusters(*a, **k)
        )
        settings = dict(num_epochs=4, val_videos=0, retrieval=retrieval, retrieval_shards=2)
        train(tmp_path, root, retrieval, interruptions=1, exact_resume=False, **settings)
    assert {name: len(calls) for name, calls in calls_of.items()} == {"hard": 4, "frozen": 2, "none": 0}
    (vectors, count, size, candidates, _), keywords = calls_of["hard"][0]
    assert (vectors.shape, count, size, candidates, keywords) == ((56, 24), 7, 8, 16, {"shards": 2})


def test_collation_gives_what_the_pairs_say(howto):
    root, _ = howto
    vocabulary = Vocabulary(root / "vocab.txt")
    tracks = reading.read_tracks(root / "features", root, vocabulary)
    collate = reading.Collate(vocabulary, 32)
    first, second = tracks[0], tracks[1]
    features, video_mask, ids, text_mask = collate([(first, Pair(0, 2, 1, 4)), (second, Pair(3, 4, 2, 9))])
    assert features.shape == (2, 7, DIM) and video_mask.sum(1).tolist() == [3, 7]
    assert np.array_equal(features[0, :3].numpy(), first.features[1:4]) and not features[0, 3:].any()
    assert np.array_equal(features[1].numpy(), second.features[2:9])
    expected_ids, expected_mask = vocabulary.encode([" ".join(first.captions.texts[:2]), second.captions.texts[3]])
    assert np.array_equal(ids.numpy(), expected_ids) and np.array_equal(text_mask.numpy(), expected_mask)
    long = reading.Track("long", first.features, first.captions, [list(range(5, 105))], [100])
    assert collate([(long, Pair(0, 1, 0, 3))])[2].shape == (1, 63)  # 61 pieces, [CLS] and [SEP]


def test_video_vectors_are_means_over_clips_of_both_towers(howto, tmp_path):
    root, _ = howto
    folder, _ = train(tmp_path, root, num_steps=1, val_videos=0)
    model, vocabulary = videoclip.load(folder), Vocabulary(root / "vocab.txt")
    tracks = list(reading.read_tracks(root / "features", root, vocabulary))[:5]
    collate = reading.Collate(vocabulary, 32)
    limits, make = SpanLimits(min_tokens=1, max_tokens=4), reading.aligned_pair
    whole = reading.encode_videos(model, tracks, 3, collate, limits, [0, 5], videos_per_batch=2)
    for number, (track, vector) in enumerate(zip(tracks, whole, strict=True)):
        rng = np.random.default_rng([0, 5, number])
        with torch.no_grad():
            pairs = [model(*collate([pick])) for pick in reading.draw([track], 3, rng, limits, make)]
        mean = torch.stack([(video + text) / 2 for video, text in pairs]).mean((0, 1))
        np.testing.assert_allclose(vector, mean.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(num_steps=1, retrieval="soft"), "retrieval='soft': choose one of hard"),
        (dict(num_steps=1, caption_order="mixed"), "caption_order='mixed'"),
        (dict(num_steps=1, num_epochs=1), "give one of them"),
        (dict(), "give one of them"),
        (dict(num_steps=1, videos_per_cluster=60), "48 training videos, fewer than"),
    ],
)
def test_mistakes_are_named(howto, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, howto[0], **changed)


def cluster_batch(howto, pairs=24, dtype=torch.float64):
    root, _ = howto
    vocabulary = Vocabulary(root / "vocab.txt")
    tracks = list(reading.read_tracks(root / "features", root, vocabulary))[: pairs // 4]
    rng, limits = np.random.default_rng(0), SpanLimits(min_tokens=1, max_tokens=6)
    features, *rest = reading.Collate(vocabulary, 32)(reading.draw(tracks, 4, rng, limits))
    return features.to(dtype), *rest


def small_model(dropout):
    torch.manual_seed(2)
    config = videoclip.VideoCLIPConfig(
        vocab_size=200, hidden_size=16, num_attention_heads=2, intermediate_size=32, video_layers=2, text_layers=2,
        video_dim=DIM, dropout=dropout, cls_id=2, sep_id=3,
    )  # fmt: skip
    return videoclip.VideoCLIP(config).double().train()


def gradient(model, encoded):
    contrastive_loss(*encoded).backward()
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


@pytest.mark.parametrize("pairs_at_once", [1, 7, 8, 23])
def test_a_cluster_encoded_in_chunks_has_the_gradient_of_the_whole(howto, pairs_at_once):
    batch = cluster_batch(howto)
    whole, chunked = small_model(0.0), small_model(0.0)
    expected = gradient(whole, whole(*batch))
    found = gradient(chunked, videoclip.encode(chunked, batch, pairs_at_once))
    assert (found - expected).norm() < 1e-10 * expected.norm()


def test_chunks_are_encoded_again_with_the_dropout_of_the_first_time(howto):
    batch = cluster_batch(howto)
    kept, again = small_model(0.2), small_model(0.2)
    torch.manual_seed(5)
    parts = [kept(*chunk) for chunk in zip(*(tensor.split(8) for tensor in batch), strict=True)]
    expected = gradient(kept, [torch.cat(side) for side in zip(*parts, strict=True)])
    torch.manual_seed(5)
    found = gradient(again, videoclip.encode(again, batch, 8))
    assert (found - expected).norm() < 1e-10 * expected.norm()


def test_chunks_keep_no_activations_for_the_gradient(howto):
    def kept(pairs_at_once):
        total = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: total.append(t.nbytes) or t, lambda t: t):
            videoclip.encode(model, batch, pairs_at_once)
        return sum(total)

    batch, model = cluster_batch(howto), small_model(0.1)
    assert kept(4) < 0.02 * kept(0)


def test_both_towers_start_from_a_published_bert(howto, tmp_path):
    """A BERT written here in the published layout; at learning rate 0 its layers are in both towers."""
    from safetensors.torch import save_file

    root, _ = howto
    pieces = (root / "vocab.txt").read_text().splitlines()
    torch.manual_seed(1)
    sizes = dict(hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=len(pieces))
    source = videoclip.VideoCLIP(videoclip.VideoCLIPConfig(text_layers=3, video_layers=1, video_dim=DIM, **sizes))
    bert = tmp_path / "bert"
    bert.mkdir()
    save_file(
        {f"bert.{k}": v.contiguous() for k, v in source.text_encoder.state_dict().items()}, bert / "model.safetensors"
    )
    (bert / "vocab.txt").write_text("\n".join(pieces))
    (bert / "config.json").write_text(json.dumps(sizes | dict(num_hidden_layers=3, max_position_embeddings=512)))
    folder, _ = train(tmp_path, root, bert=str(bert), video_layers=2, num_steps=1, lr=0.0, val_videos=0)
    model = videoclip.load(folder)
    assert (model.config.text_layers, model.config.video_layers, model.config.hidden_size) == (3, 2, 16)
    theirs = source.text_encoder.state_dict()
    for tower in (model.text_encoder, model.video_encoder.bert):
        assert all(torch.equal(value, theirs[name]) for name, value in tower.state_dict().items())


def test_workers_and_half_precision(howto, tmp_path):
    """Loading in a process of its own changes nothing; bf16 changes the losses a little."""
    root, _ = howto
    settings = dict(num_steps=6, clusters_per_step=2, pairs_at_once=9)
    _, alone = train(tmp_path, root, "alone", **settings)
    _, workers = train(tmp_path, root, "workers", loading_workers=1, **settings)
    pd.testing.assert_frame_equal(alone, workers, check_exact=True)
    _, half = train(tmp_path, root, "half", precision="bf16", **settings)
    columns = ["loss", "val_loss", "val_loss_clusters"]
    np.testing.assert_allclose(half[columns], alone[columns], rtol=0.05)
    assert not np.array_equal(half["loss"], alone["loss"])
