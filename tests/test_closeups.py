"""Close-ups: what is shown is what extraction saw; stages, classes and bags are counted right."""

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import closeups
from thesis_lib.data.howto100m import Captions
from thesis_lib.data.video import write_video
from thesis_lib.extraction import PADDINGS, i3d_features
from thesis_lib.models.s3d import S3D
from thesis_lib.training import i3d
from thesis_lib.training.predictions import save_predictions


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.avi"
    colors = np.linspace([20, 200, 90], [220, 30, 10], 30).astype(np.uint8)
    write_video(path, (np.full((32, 32, 3), color, np.uint8) for color in colors), 8)
    return path


class Means(torch.nn.Module):
    """The mean colour of every frame of a clip: what a window holds, told apart by place."""

    def forward(self, clip):
        return clip.mean(dim=(3, 4)).flatten(1)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("frame", [0, 3, 15, 29])
def test_a_window_is_what_extraction_saw(film, frame, padding):
    images, titles = closeups.window(film, frame, 7, 32, padding)
    shown = (np.stack(images).mean(axis=(1, 2)) / 255 - i3d.MEAN) / i3d.STD
    seen = i3d_features(Means(), film, window=7, size=32, padding=padding)[:, frame].reshape(3, 7).T
    assert np.allclose(shown, seen, atol=0.03)
    assert titles == [str(i) if 0 <= i < 30 else "padding" for i in range(frame - 3, frame + 4)]


def test_swapped_colors_are_those_of_extraction(film):
    places, *swapped = closeups.swapped_colors(Means(), film, 7, 32, step=5)
    assert places.tolist() == [3, 8, 13, 18, 23]
    for color, vectors in zip(("rgb", "bgr"), swapped, strict=True):
        assert np.allclose(vectors, i3d_features(Means(), film, window=7, size=32, color=color)[:, places].T, atol=1e-5)
    rgb = closeups.swapped_colors(Means(), film, 7, 32, step=5, mean=0.5, std=0.5)[1]
    expected = i3d_features(Means(), film, window=7, size=32, mean=0.5, std=0.5)[:, places]
    assert np.allclose(rgb, expected.T, atol=1e-5)


def test_seconds_of_either_output_end_up_beside_the_texts():
    torch.manual_seed(0)
    model = S3D(channels_div=16, embed_dim=12, vocab_size=9).eval()
    clips = torch.rand(2, 3, 8, 16, 16)
    with torch.inference_mode():
        mixed, embedded = model.mixed_5c(clips).numpy(), model.encode_video(clips).numpy()
    assert np.allclose(closeups.beside_texts(model, mixed), embedded, rtol=1e-4, atol=1e-6)
    assert closeups.beside_texts(model, embedded) is embedded


def test_cosines_of_swap_sort_pairs_by_class():
    rgb, labels = np.eye(3)[[0, 0, 1]], [4, 4, 7]
    swap, same, other = closeups.cosines_of_swap(rgb, rgb, labels).values()
    assert swap.tolist() == [1, 1, 1] and same.tolist() == [1] and other.tolist() == [0, 0]


def test_health_and_surplus(tmp_path):
    vectors = np.full((4, 10), 3.0, np.float32)
    vectors[0, 0] = np.nan
    np.save(tmp_path / "a.npy", vectors)
    (tmp_path / "groundTruth").mkdir()
    (tmp_path / "groundTruth/a.txt").write_text("cut\n" * 7)
    row = closeups.health(tmp_path, axis=1).iloc[0]
    assert (row["video"], row["vectors"], row["values"], row["non_finite"]) == ("a", 10, 4, 1)
    assert closeups.surplus(tmp_path, tmp_path)["surplus"].tolist() == [3]


def test_nearest_mean_needs_a_class_in_the_vectors():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    x = rng.normal(size=(200, 5))
    clear = x + 10 * np.eye(5)[labels]
    assert closeups.nearest_mean_accuracy((clear[:100], labels[:100]), (clear[100:], labels[100:])) == 1
    assert closeups.nearest_mean_accuracy((x[:100], labels[:100]), (x[100:], labels[100:])) < 0.6


def test_bags_name_what_is_shown():
    said = {"v": Captions(np.array([0.0, 4.0]), np.array([1.0, 5.0]), ["hello", "cut the tomato"])}
    frame = closeups.bags_that_name(said, {"v": [[0, 1, "cut tomato"], [1, 9, "wait"]]}, [1, 2])
    assert frame["bags"].tolist() == [0, 1] and frame["captions"].tolist() == [0, 0.5]


def test_clip_and_captions(film):
    said = Captions(np.array([0.0, 1.0, 3.0]), np.array([1.0, 2.0, 4.0]), ["a", "b", "c"])
    images, table = closeups.clip_and_captions(film, said, 1.0, 4, 2, 16, fps=8)
    assert len(images) == 4 and images[0].shape == (16, 16, 3)
    assert table["in_the_bag"].tolist() == [True, True, False] and table["distance"].tolist() == [-0.5, 0.5, 2.5]


@pytest.fixture
def runs(tmp_path):
    truth = np.array([0, 0, 0, 1, 1, 2])
    stages = np.array([[0, 1, 0, 1, 2, 2], [0, 0, 0, 1, 2, 2]])
    for split in (1, 2):
        (tmp_path / str(split)).mkdir()
        save_predictions(tmp_path / str(split), {"v": stages, "w": stages[[1, 1]]}, {"v": truth, "w": truth})
        pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0]}).to_csv(tmp_path / f"{split}/history.csv", index=False)
    return {split: tmp_path / str(split) for split in (1, 2)}


def test_stages_of_a_run(runs):
    stages, truth = closeups.stages_of(runs[1], "v")
    assert list(stages) == ["encoder", "decoder 1"] and truth.tolist() == [0, 0, 0, 1, 1, 2]
    frame = closeups.by_stage(runs)
    assert frame["segments"].tolist() == [4, 3] * 2 and set(frame["true_segments"]) == {3}
    assert frame["accuracy"].tolist() == pytest.approx([9 / 12, 10 / 12] * 2)
    assert len(closeups.histories(runs)) == 4 and len(closeups.pooled(runs)[0]) == 4
    assert closeups.ranked(runs)["accuracy"].is_monotonic_decreasing


def test_class_scores_say_what_is_taken_for_what():
    frame = closeups.class_scores([[8, 2, 0], [0, 4, 0], [0, 0, 0]], ["cut", "peel", "never"]).set_index("class")
    assert (frame.loc["cut", "recall"], frame.loc["cut", "taken_for"], frame.loc["cut", "share"]) == (0.8, "peel", 0.2)
    assert frame.loc["peel", "taken_for"] == "" and frame.loc["never", ["F1", "recall"]].isna().all()


def test_segment_seconds():
    assert closeups.segment_seconds([[1, 1, 2], [3, 3]], fps=2).tolist() == [1.0, 0.5, 1.0]
