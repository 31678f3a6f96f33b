"""Probes: accumulation equals devices, clusters and confusions are counted right, comparisons take the same seconds."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import probes
from thesis_lib.data.text import write_vocab
from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig
from thesis_lib.training.pairs import SpanLimits

DIM = 6


@pytest.fixture(scope="module")
def narrated(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("howto"), np.random.default_rng(0)
    captions = {}
    for k in range(12):
        np.save(root / f"v{k:02d}.npy", rng.normal(size=(20, DIM)).astype(np.float32))
        texts = [f"cut the {thing}" for thing in rng.permutation(["tomato", "cheese", "bread"])]
        captions[f"v{k:02d}"] = {"start": [1, 6, 12], "end": [4, 9, 15], "text": texts}
    (root / "raw_caption.json").write_text(json.dumps(captions))
    write_vocab(root / "vocab.txt", ["cut the tomato cheese bread"])
    limits = SpanLimits(min_tokens=1, max_tokens=4, min_seconds=3, max_seconds=8)
    return probes.Narrated.read(root, root, root / "vocab.txt", limits)


@pytest.fixture(scope="module")
def model(narrated):
    words = narrated.collate.vocabulary
    torch.manual_seed(0)
    config = VideoCLIPConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=16,
        video_layers=1,
        text_layers=1,
        video_dim=DIM,
        cls_id=words.cls,
        sep_id=words.sep,
    )
    return VideoCLIP(config)


def test_accumulation_is_what_devices_do_and_one_batch_is_not(narrated, model):
    found = probes.gradients(model, narrated, [[0, 1, 2], [3, 4, 5], [6, 7, 8]], clips=2, seed=0)
    (loss, devices), (same, accumulated), (other, merged) = found.values()
    torch.testing.assert_close(accumulated, devices, rtol=1e-10, atol=1e-12)
    assert loss == same and other > loss + 0.5, "one batch has three times the negatives"
    assert (merged - devices).norm() > 1e-3 * devices.norm()


def test_clusters_hold_videos_once_and_repeat_themselves(narrated, model):
    for towers in (None, model):
        clusters = narrated.clusters(towers, 4, 2, seed=1)
        assert len(clusters) == 3 and all(len(set(cluster)) == 4 for cluster in clusters)
        assert clusters == narrated.clusters(towers, 4, 2, seed=1)
    assert narrated.names([1, 0]) == ["v01", "v00"]


def test_the_two_pairs_of_an_example_share_their_text(narrated):
    for aligned, drawn in narrated.example_pairs(narrated.tracks[0], 20, seed=0):
        assert (aligned.first, aligned.last) == (drawn.first, drawn.last)
        assert 3 <= drawn.end - drawn.start <= 8


def test_what_videos_share():
    shown = {"a": {"cut tomato", "pour oil"}, "b": {"cut tomato"}, "c": {"stir"}}
    assert probes.common_share(["a", "b"], shown) == 0.5
    assert probes.common_share(["a", "b", "c"], shown) == pytest.approx(0.5 / 3)


def test_contents_come_from_actions_or_from_the_task(tmp_path):
    columns = ["video_id", "category_1", "category_2", "rank", "task_id"]
    rows = [("v", "Food", "Salads", 1, 7)]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "HowTo100M_v1.csv", index=False)
    assert probes.contents(tmp_path) == {"v": {"Salads", "task 7"}}
    (tmp_path / "actions.json").write_text(json.dumps({"v": [[0, 2, "wait"], [2, 5, "cut tomato"]]}))
    assert probes.contents(tmp_path) == {"v": {"cut tomato"}}


def test_weights_from_a_file_have_no_history(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/history.csv").write_text("epoch,loss\n1,2.5\n")
    frame = probes.histories({"ours": tmp_path / "run", "public": tmp_path / "file.pt"})
    assert frame["weights"].tolist() == ["ours"]
    assert np.isnan(probes.seconds_taken(tmp_path / "file.pt"))


def test_classes_share_motion_object_or_words():
    actions = {"add_oil": ("pour", "oil", 1), "add_vinegar": ("pour", "vinegar", 1), "wait": ("wait", "", 1)}
    assert probes.shared("add_oil", "add_vinegar", actions) == "motion (pour)"
    assert probes.shared("add_oil", "wait", actions) == "nothing"
    assert probes.shared("place_tomato_into_bowl", "place_cheese_into_bowl") == "bowl, place"


def test_confused_pairs_count_both_directions():
    counts = np.array([[6, 2, 0, 0], [4, 8, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0]])
    table = probes.confused_pairs(counts, ["a", "b", "c", "never"], {"look": np.arange(16).reshape(4, 4)})
    assert table["classes"].tolist()[0] == "a / b" and table["% confused"][0] == pytest.approx(100 * 6 / 20)
    assert len(table) == 3 and table["look"][0] == 1


def test_correlations_know_likes_from_opposites():
    found = probes.correlations(np.array([[1.0, 0], [2, 0], [-3, 0], [np.nan, np.nan]]))
    assert found[0, 1] == pytest.approx(1) and found[0, 2] == pytest.approx(-1) and np.isnan(found[0, 3])


def test_the_constant_class_is_the_most_frequent_of_training(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "groundTruth").mkdir()
    (tmp_path / "mapping.txt").write_text("0 cut\n1 stir\n")
    (tmp_path / "splits/train.split1.bundle").write_text("v.txt\nw.txt\n")
    (tmp_path / "groundTruth/v.txt").write_text("cut\ncut\nstir\n")
    (tmp_path / "groundTruth/w.txt").write_text("stir\nstir\n")
    assert probes.constant_class(tmp_path, 1) == 1


def test_comparisons_take_the_same_seconds_in_the_same_order():
    first = (["v", "w"], [np.array([0, 1, 1]), np.array([2, 2])], [np.array([0, 1, 2]), np.array([2, 2])])
    second = (["w", "v"], [np.array([1, 1]), np.array([0, 0])], [np.array([2, 2]), np.array([0, 1])])
    ours, theirs, targets = probes.on_same_seconds(first, second)
    assert [row.tolist() for row in ours] == [[0, 1], [2, 2]]
    assert [row.tolist() for row in theirs] == [[0, 0], [1, 1]]
    assert [row.tolist() for row in targets] == [[0, 1], [2, 2]]
    with pytest.raises(ValueError, match="different targets"):
        probes.on_same_seconds(first, (["w", "v"], second[1], [np.array([0, 0]), np.array([0, 1])]))
    with pytest.raises(ValueError, match="different videos"):
        probes.on_same_seconds(first, (["w", "x"], second[1], second[2]))


def test_segment_lengths():
    assert probes.segment_lengths([np.array([0, 0, 1]), np.array([1])]).tolist() == [2, 1, 1]


def test_a_verdict_follows_the_numbers():
    a, b = [0.5, 0.6, 0.7], [0.3, 0.41, 0.5]
    assert "0.600 against 0.403, 0.197 higher, a difference beyond chance" in probes.verdict(a, b)
    assert "lower, a difference beyond chance" in probes.verdict(b, a)
    assert "not beyond what chance gives" in probes.verdict([0.5, 0.6], [0.45, 0.75])
    assert "too few" in probes.verdict([0.5], [0.4])


def test_beyond_is_one_sided_and_careful():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0, 1, 20), rng.normal(3, 1, 20)
    assert probes.beyond(high, low) and not probes.beyond(low, high) and not probes.beyond(low + 0.01, low)
