"""The recipe of ASFormer on videos whose features say the class: it must be learned, resumed, and written down."""

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import metrics
from thesis_lib.models.asformer import ASFormer
from thesis_lib.training import asformer
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
    asformer.train(folder, features=root / "features", root=root, **{**SMALL, "num_epochs": 8} | changed)
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


def test_channel_statistics_joined_video_by_video_are_those_of_all_frames():
    """Means far apart and far from 0, where squares of sums would lose every digit."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(1e6 + 10 * number, 1, (3, length)) for number, length in enumerate((1, 40, 7))]
    videos = [asformer.salads.Video(str(number), part, np.zeros(0)) for number, part in enumerate(parts)]
    mean, std = asformer._channel_statistics(videos)
    np.testing.assert_allclose(mean, np.concatenate(parts, 1).mean(1), rtol=1e-12)
    np.testing.assert_allclose(std, np.concatenate(parts, 1).std(1), rtol=1e-9)
