"""The recipe of ASFormer on videos whose features say the class: it must be learned, resumed, and written down."""

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import metrics
from thesis_lib.models.asformer import ASFormer
from thesis_lib.training import aligned, asformer
from thesis_lib.training.predictions import load_predictions

CLASSES = ["cut_tomato", "place_tomato", "add_oil", "mix_dressing"]
DIM = 10
SMALL = dict(num_layers=4, num_decoders=2, num_f_maps=16, channel_masking_rate=0.1, lr=3e-3, split=1)


def write_salads(root, seed=0, train=8, test=3, surplus=8):
    """A data set in MS-TCN layout; features = class vector + noise, `surplus` vectors of noise after the labels."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(CLASSES), DIM))
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(CLASSES)))
    names = [f"rgb-{1 + number:02d}-1" for number in range(train + test)]
    for name in names:
        labels = np.repeat(rng.permutation(len(CLASSES)), rng.integers(10, 25, len(CLASSES)))
        features = vectors[labels] + rng.normal(scale=0.5, size=(len(labels), DIM))
        features = np.concatenate([features, rng.normal(size=(surplus, DIM))]).T * 7 + 100
        np.save(root / "features" / f"{name}.npy", features.astype(np.float32))
        (root / "groundTruth" / f"{name}.txt").write_text("".join(f"{CLASSES[label]}\n" for label in labels))
    for part, chosen in (("train", names[:train]), ("test", names[train:])):
        (root / "splits" / f"{part}.split1.bundle").write_text("".join(f"{name}.txt\n" for name in chosen))
    return names[:train], names[train:]


@pytest.fixture(scope="module")
def salads(tmp_path_factory):
    root = tmp_path_factory.mktemp("salads") / "50salads"
    return root, *write_salads(root)


def train(tmp_path, root, name="run", **changed):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    arguments = dict(features=root / "features", root=root, num_epochs=8) | SMALL
    asformer.train(folder, **arguments | changed)
    return folder, pd.read_csv(folder / "history.csv")


def test_it_learns_and_writes_what_it_found(salads, tmp_path):
    root, train_names, test_names = salads
    folder, history = train(tmp_path, root)
    last = history.iloc[-1]
    assert len(history) == 8 and last["loss"] < 0.6 * history["loss"][0]
    assert last["accuracy"] > 0.85

    names, predictions, targets = load_predictions(folder)
    assert names == test_names
    for name, target in zip(names, targets, strict=True):  # every frame, though the network saw every second one
        lines = (root / "groundTruth" / f"{name}.txt").read_text().split()
        assert [CLASSES[label] for label in target] == lines
    expected = metrics.evaluate(predictions, targets)
    for key in ("accuracy", "edit_score", "f1@10", "f1@25", "f1@50"):
        assert last[key] == pytest.approx(expected[key])
    for stage in range(3):
        _, stage_predictions, _ = load_predictions(folder, stage)
        assert last[f"accuracy_{stage + 1}"] == pytest.approx(metrics.evaluate(stage_predictions, targets)["accuracy"])
    assert last["accuracy_3"] == last["accuracy"]


def test_the_weights_give_the_predictions_and_the_scale_is_that_of_training_videos(salads, tmp_path):
    root, train_names, test_names = salads
    folder, _ = train(tmp_path, root, num_epochs=1)

    def vectors(name):
        length = len((root / "groundTruth" / f"{name}.txt").read_text().split())
        return np.load(root / "features" / f"{name}.npy")[:, :length]

    frames = np.concatenate([vectors(name) for name in train_names], 1)
    scale = np.load(folder / "scale.npz")
    np.testing.assert_allclose(scale["mean"], frames.mean(1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(scale["std"], frames.std(1, keepdims=True), rtol=1e-4)

    model = ASFormer(len(CLASSES), DIM, 4, 2, 16)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    _, predictions, _ = load_predictions(folder)
    x = (vectors(test_names[0]) - scale["mean"]) / scale["std"]
    with torch.no_grad():
        labels = model.eval()(torch.from_numpy(x[None, :, ::2]), None)[-1, 0].argmax(0)
    assert np.array_equal(labels.numpy().repeat(2)[: x.shape[1]], predictions[0])


def test_a_killed_run_goes_on_with_the_same_result(salads, tmp_path, monkeypatch):
    root, *_ = salads
    whole, _ = train(tmp_path, root, "whole", num_epochs=3)
    real, calls = asformer.segmentation_loss, iter(range(1000))

    def dying(*arguments):
        if next(calls) == 15:  # in the second epoch
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(asformer, "segmentation_loss", dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, root, "killed", num_epochs=3)
    monkeypatch.undo()
    killed, _ = train(tmp_path, root, "killed", num_epochs=3)
    for name in ("history.csv", "predictions.npz"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (whole, killed)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_batches_of_several_videos(salads, tmp_path):
    root, *_ = salads
    _, history = train(tmp_path, root, batch_size=4, num_epochs=3, sample_rate=1, evaluate_every=3)
    assert history["loss"].iloc[-1] < history["loss"][0]
    assert history["accuracy"].notna().tolist() == [False, False, True]


def test_the_cut_decides_which_vectors_are_seen(salads, tmp_path):
    root, train_names, _ = salads
    means = {}
    for cut in ("back", "front"):
        folder, _ = train(tmp_path, root, cut, cut=cut, num_epochs=1)
        means[cut] = np.load(folder / "scale.npz")["mean"]
    assert not np.allclose(means["back"], means["front"])


def losses_fall_then_rise(monkeypatch, lowest):
    """The test loss of each evaluation is its distance from epoch `lowest`."""
    real, calls = asformer.segmentation_loss, iter(range(10**6))

    def distance(logits, targets, smoothing):
        if torch.is_grad_enabled():
            return real(logits, targets, smoothing)
        return torch.tensor(float(abs(next(calls) // 3 + 1 - lowest)))  # three test videos

    monkeypatch.setattr(asformer, "segmentation_loss", distance)


def test_predictions_weights_and_reliability_are_of_the_chosen_epoch(salads, tmp_path, monkeypatch):
    root, *_ = salads
    short, _ = train(tmp_path, root, "short", num_epochs=2)
    losses_fall_then_rise(monkeypatch, lowest=2)
    chosen, history = train(tmp_path, root, "chosen", num_epochs=4, epoch_choice="test_loss")
    assert len(history) == 4 and history["test_loss"].idxmin() == 1
    for name in ("predictions.npz", "reliability.csv"):
        assert (short / name).read_bytes() == (chosen / name).read_bytes(), name
    one, other = (torch.load(folder / "weights.pt", weights_only=True) for folder in (short, chosen))
    assert all(torch.equal(one[key], other[key]) for key in one)
    _, predictions, targets = load_predictions(chosen)
    assert metrics.evaluate(predictions, targets)["accuracy"] == pytest.approx(history["accuracy"][1])


def test_held_out_users_are_not_trained_on_but_choose(salads, tmp_path, monkeypatch):
    root, train_names, test_names = salads
    seen = []
    real = asformer._channel_statistics
    monkeypatch.setattr(asformer, "_channel_statistics", lambda videos: seen.extend(videos) or real(videos))
    folder, history = train(tmp_path, root, num_epochs=3, epoch_choice="held_out")
    used = {video.name for video in seen}
    assert len(used) == 6 and used < set(train_names), "one user in five of eight"
    assert history["held_out_loss"].notna().all() and (history["held_out_loss"] != history["test_loss"]).all()
    assert load_predictions(folder)[0] == test_names, "all test videos are scored"


def test_an_unknown_choice_is_refused(salads, tmp_path):
    with pytest.raises(ValueError, match="choose one of last, held_out, test_loss"):
        train(tmp_path, salads[0], epoch_choice="best")


def test_reliability_counts_every_frame_of_every_stage(salads, tmp_path):
    root, *_ = salads
    folder, history = train(tmp_path, root, num_epochs=3)
    table = pd.read_csv(folder / "reliability.csv")
    _, _, targets = load_predictions(folder)
    for stage, rows in table.groupby("stage"):
        assert rows["frames"].sum() == sum(map(len, targets))
        accuracy = np.average(rows["accuracy"], weights=rows["frames"])
        assert accuracy == pytest.approx(history.iloc[-1][f"accuracy_{stage}"])
        width = 1 / asformer.BINS
        assert (rows["confidence"] >= rows["bin"] * width - 1e-9).all()
        assert (rows["confidence"] <= (rows["bin"] + 1) * width + 1e-9).all()
    assert set(table["stage"]) == {1, 2, 3}


def test_statistics_of_merged_blocks_are_those_of_all_vectors(salads):
    root, *_ = salads
    videos = aligned.load_split(root, 1, root / "features")["train"]
    every = np.concatenate([video.features for video in videos], 1).astype(np.float64)
    for channels in (3, 64):
        mean, std = asformer._channel_statistics(videos, channels)
        np.testing.assert_allclose(mean, every.mean(1, keepdims=True), rtol=1e-6)
        np.testing.assert_allclose(std, every.std(1, keepdims=True), rtol=1e-6)


def test_features_at_one_vector_a_second_train_on_labels_at_30(tmp_path):
    """Vectors [seconds, D] as S3D's, of another width: learned, and a prediction for every frame."""
    root, rng = tmp_path / "salads", np.random.default_rng(1)
    train_names, test_names = write_salads(root)
    vectors = rng.normal(size=(len(CLASSES), 7))
    (root / "s3d").mkdir()
    for name in train_names + test_names:
        seconds = np.repeat(rng.permutation(len(CLASSES)), rng.integers(10, 25, len(CLASSES)))
        features = vectors[seconds] + rng.normal(scale=0.3, size=(len(seconds), 7))
        np.save(root / "s3d" / f"{name}.npy", features.astype(np.float16))
        frames = np.repeat(seconds, 30)[: -rng.integers(1, 30)]
        (root / "groundTruth" / f"{name}.txt").write_text("".join(f"{CLASSES[label]}\n" for label in frames))
    options = dict(features=root / "s3d", sample_rate=1, standardise=False, evaluate_every=8)
    found, history = train(tmp_path, root, "found", **options)
    assert history["accuracy"].iloc[-1] > 0.85
    _, predictions, targets = load_predictions(found)
    for name, prediction, target in zip(test_names, predictions, targets, strict=True):
        assert [CLASSES[label] for label in target] == (root / "groundTruth" / f"{name}.txt").read_text().split()
        assert len(prediction) == len(target)
        assert set(np.flatnonzero(np.diff(prediction.astype(int))) % 30) <= {29}, "changes between seconds alone"
    with pytest.raises(ValueError, match="give feature_rate, in vectors a second, or 0 to find it"):
        train(tmp_path, root, "wrong", feature_rate=15.0, **options)


def test_half_precision_learns_too(salads, tmp_path):
    root, *_ = salads
    _, full = train(tmp_path, root, "full", num_epochs=3)
    _, half = train(tmp_path, root, "half", num_epochs=3, precision="bf16")
    assert half["loss"].iloc[-1] == pytest.approx(full["loss"].iloc[-1], rel=0.1)
    assert not np.array_equal(half["loss"], full["loss"])
