"""Sparsity in numbers and pictures: what is drawn is what the model keeps and what the pattern allows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from thesis_lib import sparsity
from thesis_lib.models.svitt import SViTT, SViTTConfig, count_edges, sparse_pattern
from thesis_lib.palette import FAINT, OURS, THESIS
from thesis_lib.training.svitt import Encoder, normalised


class Pieces:
    """A vocabulary of ten pieces."""

    def __len__(self):
        return 10

    def encode(self, texts, most):
        """[CLS] and a piece for each letter of the first four."""
        ids = np.array([[0, *(1 + ord(letter) % 8 for letter in text[:4].ljust(4))] for text in texts])
        return ids, np.ones(ids.shape, bool)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = SViTTConfig(3, 32, 8, 16, 2, 32, 4, 1.0, 0.0, (1, 1), 4, 0, 0.5, (0, 2), 10, 1, 0, embed_dim=8)
    return Encoder(SViTT(config), Pieces(), 2.0).eval()


def test_patches_that_are_left(encoder):
    clips = torch.rand(2, 3, 3, 32, 32)
    left = sparsity.kept_patches(encoder, clips)
    assert left.shape == (3, 2, 3, 4, 4) and left[0].all()
    for stage, kept in enumerate(encoder.kept(clips), 1):
        assert np.array_equal(left[stage].reshape(2, 48).nonzero()[1].reshape(2, -1), kept)
        assert not (left[stage] & ~left[stage - 1]).any(), "what is gone stays gone"
    table = sparsity.kept_table(left)
    assert table["patches"].tolist() == [48, 24, 12] and table["share"].tolist() == [1, 0.5, 0.25]
    assert sparsity.kept_patches(encoder, clips[:, :, :2]).shape == (3, 2, 2, 4, 4)


def test_patches_that_words_leave_are_those_that_they_look_at():
    """The last layer of fusion is asked what it saw: its keys are those of the patches that are said to be left."""
    torch.manual_seed(3)
    config = SViTTConfig(3, 32, 8, 16, 2, 32, 4, 1.0, 0.0, (1, 1), 4, 0, 0.5, (0,), 10, 3, 1, 0.25, (1,), embed_dim=8)
    encoder, seen = Encoder(SViTT(config), Pieces(), 2.0).eval(), []
    last = encoder.model.text_encoder.bert["encoder"]["layer"][-1].crossattention["self"].key
    last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][:, 1:]))
    clip = torch.rand(3, 3, 32, 32)
    left = sparsity.kept_for_texts(encoder, clip, ["one", "another"])
    assert left.shape == (2, 3, 4, 4) and left.reshape(2, -1).sum(1).tolist() == [6, 6]
    states = encoder.model.encode_video(normalised(clip[None]))[0][0, 1:]
    of_video = np.flatnonzero(sparsity.kept_patches(encoder, clip[None])[-1])
    for text in range(2):
        rows = np.searchsorted(of_video, np.flatnonzero(left[text]))
        assert np.array_equal(of_video[rows], np.flatnonzero(left[text])), "of those that the video encoder left"
        torch.testing.assert_close(seen[0][text], states[rows])
    encoder.model.text_encoder.config = replace(config, fusion_keep_rate=1.0)
    everything = sparsity.kept_for_texts(encoder, clip, ["one"])
    assert np.array_equal(everything[0], sparsity.kept_patches(encoder, clip[None])[-1, 0])


def test_the_picture_of_patches_shows_those_that_are_left(encoder):
    clips = torch.rand(1, 3, 3, 32, 32)
    left = sparsity.kept_patches(encoder, clips)[:, 0]
    figure = sparsity.draw_kept(clips[0], left)
    images = [ax.images[0].get_array() for ax in figure.axes]
    assert len(images) == 9
    pixels = clips[0].permute(1, 2, 3, 0).numpy()
    for number, image in enumerate(images):
        stage, frame = divmod(number, 3)
        shown = np.isclose(image, pixels[frame], atol=1e-6).all(axis=2)
        assert np.array_equal(shown.reshape(4, 8, 4, 8).all(axis=(1, 3)), left[stage, frame])
    assert [figure.axes[k].get_ylabel() for k in (0, 3, 6)] == ["100 %", "50 %", "25 %"]


@pytest.mark.parametrize("num_patches", [32, 30])
def test_the_matrix_of_edges_is_the_pattern(num_patches):
    pattern = sparse_pattern(8, 3, 2, 0)
    matrix = sparsity.edge_matrix(num_patches, pattern, 4, local=3)
    assert (matrix > 0).sum() == count_edges(num_patches, pattern, 4)
    assert (matrix[0] == sparsity.CLS).all() and (matrix[:, 0] == sparsity.CLS).all()
    for query in range(num_patches):
        row = matrix[1 + query, 1:]
        blocks = np.arange(num_patches) // 4
        assert set(blocks[row == sparsity.LOCAL]) == set(pattern[query // 4, :3].tolist())
        assert set(blocks[row == sparsity.RANDOM]) == set(pattern[query // 4, 3:].tolist())


def test_the_picture_of_edges_is_the_matrix():
    matrix = sparsity.edge_matrix(32, sparse_pattern(8, 1, 2, 0), 4, local=1)
    figure = sparsity.draw_edges({"sparse": matrix, "dense": np.full_like(matrix, sparsity.CLS)}, patches=16)
    image = figure.axes[0].images[0].get_array()
    for kind, color in ((0, "white"), (sparsity.CLS, FAINT), (sparsity.LOCAL, OURS), (sparsity.RANDOM, THESIS)):
        assert np.allclose(image[matrix == kind], to_rgb(color), atol=1e-6) and (matrix == kind).any()
    assert [text.get_text() for text in figure.legends[0].texts] == ["[CLS]", "local", "random"]
    assert len(sparsity.draw_edges(matrix).axes) == 1


def test_edges_grow_linearly_where_dense_ones_grow_with_the_square():
    table = sparsity.edge_counts((4, 8, 16, 32), 196, 56, 1, 3)
    sparse = table[table["kind"] == "sparse"]["edges"].tolist()
    assert sparse == [177185, 354369, 708737, 1417473]
    powers = sparsity.exponents(table, "edges")
    assert powers == {"sparse": pytest.approx(1, abs=1e-3), "dense": pytest.approx(2, abs=1e-2)}


def test_exponent_of_a_power_law():
    sizes = np.array([1, 2, 8, 20.0])
    assert sparsity.exponent(sizes, 7 * sizes**1.7) == pytest.approx(1.7)


def test_times_are_measured_for_both_kinds():
    times = sparsity.attention_times((2, 4), 4, 4, 1, 1, dim=8, heads=2, repeats=2)
    assert times.groupby(["frames", "kind"]).size().tolist() == [2, 2, 2, 2] and (times["seconds"] > 0).all()
    edges = sparsity.edge_counts((2, 4), 16, 4, 1, 1)
    figure = sparsity.draw_growth(edges, times)
    left = figure.axes[0].lines
    drawn = {line.get_label().split(":")[0]: line.get_ydata() for line in left if ":" in line.get_label()}
    for kind in sparsity.KINDS:
        assert np.array_equal(drawn[kind], edges[edges["kind"] == kind]["edges"])


def test_pictures_need_no_more_than_the_data():
    edges = pd.DataFrame({"frames": [1, 2] * 2, "kind": ["sparse"] * 2 + ["dense"] * 2, "edges": [3, 6, 5, 20]})
    assert sparsity.exponents(edges, "edges") == {"sparse": pytest.approx(1), "dense": pytest.approx(2)}


def test_other_sparsity_keeps_what_was_learned(encoder, monkeypatch):
    """The weights of the fine-tuned encoder, not those it started from, under the settings asked for."""

    def load(weights, vocab, **changed):
        torch.manual_seed(1)
        return Encoder(SViTT(replace(encoder.model.config, **changed)), Pieces(), 2.0).eval()

    monkeypatch.setattr(sparsity.svitt, "load", load)
    tuned = torch.nn.Module()
    tuned.encoder, tuned.forward = encoder, None
    same = sparsity.with_sparsity(tuned, "weights", "vocab")
    clips = torch.rand(2, 3, 3, 32, 32)
    assert torch.equal(same.encoder.features(clips), encoder.features(clips))
    dense = sparsity.with_sparsity(tuned, "weights", "vocab", sparse_edges=None, keep_rate=1.0)
    assert dense.encoder.kept(clips) == [] and tuned.encoder is encoder
    table = sparsity.accuracy_table(
        tuned, lambda model: model.encoder.model.config.keep_rate, "weights", "vocab", [None, (1, 1)], [1.0, 0.5]
    )
    assert table["edges"].tolist() == ["dense"] * 2 + ["1 local, 1 random"] * 2
    assert table["accuracy"].tolist() == table["keep"].tolist() == [1.0, 0.5] * 2
    assert table["work"][0] == 1 and table["work"].is_monotonic_decreasing


def test_work_is_that_of_all_layers(encoder):
    """48 patches, 24 after the first layer, 12 after the third of four; blocks of 4, each with two: 8 keys a patch."""
    assert sparsity.work(encoder) == sum(1 + 2 * left + 8 * left for left in (48, 24, 24, 12))
