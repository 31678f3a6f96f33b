"""Clusters against exact neighbours, the official pooling, and small corpora."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thesis_lib import retrieval

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

GOLDEN = Path(__file__).parent / "golden" / "retrieval"


def uniform(shape, seed, low=-1.0, high=1.0):
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.uniform(low, high, shape).astype(np.float32)


def neighbours(vectors, count):
    """Sets of the `count` nearest videos of each video, itself among them, by brute force in float64."""
    exact = vectors.astype(np.float64)
    distances = ((exact[:, None] - exact[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, -1)
    return [set(row[:count].tolist()) for row in distances.argsort(1, kind="stable")]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "knn_a.npz") as case:
        spec = json.loads(str(case["spec"]))
        centres = uniform((spec["centres"], spec["d"]), spec["seed"], -3, 3)
        offsets = uniform((spec["N"], spec["d"]), spec["seed"] + 1) * spec["noise"]
        vectors = (centres[np.arange(spec["N"]) % spec["centres"]] + offsets).astype(np.float32)
        return vectors, spec["k"], case["out_own_knn"]


def test_index_finds_the_golden_neighbours(golden):
    vectors, k, nearest = golden
    found = retrieval.search(retrieval.index_of(vectors), vectors, 2 * k)
    assert [set(row) for row in found.tolist()] == [set(row) for row in nearest.tolist()]
    # An inverted file that visits all its cells is exact as well: the released index with nprobe = nlist.
    cells = retrieval.index_of(vectors, exact_below=0, nprobe=512)
    assert type(cells).__name__ == "IndexIVFFlat" and cells.nlist == len(vectors) // 48
    found = retrieval.search(cells, vectors, 2 * k)
    assert [set(row) for row in found.tolist()] == [set(row) for row in nearest.tolist()]


@pytest.mark.parametrize("include_centre", [False, True])
def test_clusters_are_drawn_from_golden_neighbours(golden, include_centre):
    vectors, k, nearest = golden
    clusters = retrieval.build_clusters(vectors, len(vectors), k, 2 * k, seed=3, include_centre=include_centre)
    rows = [set(row) for row in nearest.tolist()]
    assert all(len(cluster) == len(set(cluster)) == k for cluster in clusters)
    assert all(any(set(cluster) <= row for row in rows) for cluster in clusters)
    if include_centre:  # every video is the centre of one cluster, and its first member
        assert sorted(cluster[0] for cluster in clusters) == list(range(len(vectors)))
        assert all(set(cluster) <= rows[cluster[0]] for cluster in clusters)


def test_the_centre_is_dropped_as_often_as_any_other(golden):
    vectors, k, _ = golden
    rng = np.random.default_rng(0)
    kept = [0 in retrieval._draw(rng, 0, np.arange(1, 2 * k), k, False) for _ in range(2000)]
    assert 0.45 < np.mean(kept) < 0.55


def test_pooling_equals_the_official_code():
    with np.load(GOLDEN / "pool_a.npz") as case:
        spec = json.loads(str(case["spec"]))
        shape = (spec["videos"] * spec["sub"], spec["d"])
        ours = retrieval.video_vectors(uniform(shape, spec["seed"]), uniform(shape, spec["seed"] + 1), spec["sub"])
        np.testing.assert_allclose(ours, case["out_video_vectors"], atol=1e-6)


def test_seeded(golden):
    vectors = golden[0]
    for options in ({}, {"shards": 4}, {"exact_below": 0}):
        first, again, other = (retrieval.build_clusters(vectors, 8, 4, 8, seed, **options) for seed in (1, 1, 2))
        assert first == again != other


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 10), st.integers(1, 20), st.integers(1, 9), st.booleans())
@settings(max_examples=60)
def test_any_size_of_corpus(videos, num_clusters, size, candidates, shards, include_centre):
    vectors = uniform((videos, 5), videos)
    clusters = retrieval.build_clusters(vectors, num_clusters, size, candidates, 0, include_centre, shards)
    assert len(clusters) == num_clusters
    near = neighbours(vectors, candidates) if shards == 1 else None
    for cluster in clusters:
        assert all(type(video) is int and 0 <= video < videos for video in cluster)
        assert 1 <= len(cluster) == len(set(cluster)) <= min(size, candidates)
        if shards == 1:
            assert len(cluster) == min(size, candidates, videos)
            assert any(set(cluster) <= row for row in near)
        else:
            assert len({video % min(shards, videos, num_clusters) for video in cluster}) == 1


def test_centres_are_distinct_while_there_are_videos():
    vectors = uniform((30, 4), 0)
    clusters = retrieval.build_clusters(vectors, 30, 1, 1, seed=0)
    assert sorted(sum(clusters, [])) == list(range(30))


def test_inverted_file_on_fewer_videos_than_its_512_cells():
    vectors = uniform((400, 8), 0)  # the released retriever raises here
    clusters = retrieval.build_clusters(vectors, 12, 16, 32, seed=0, exact_below=0)
    assert [len(cluster) for cluster in clusters] == [16] * 12
    assert retrieval.build_clusters(vectors[:1], 3, 16, 32, seed=0, exact_below=0) == [[0]] * 3


def topics(videos, dim=16, seed=0):
    """Vectors around videos // 50 centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(videos // 50, dim))
    return (centres[rng.integers(len(centres), size=videos)] + rng.normal(0, 0.3, (videos, dim))).astype(np.float32)


def test_exact_below_a_size_and_cells_from_there_on():
    vectors = topics(300)
    kinds = [type(retrieval.index_of(vectors, exact_below=size)).__name__ for size in (301, 300)]
    assert kinds == ["IndexFlatL2", "IndexIVFFlat"]
    assert type(retrieval.index_of(vectors)).__name__ == "IndexFlatL2"


def test_more_visited_cells_find_more_neighbours():
    vectors = uniform((6000, 16), 0)
    exact = retrieval.search(retrieval.index_of(vectors), vectors[:200], 32)
    found = {}
    for visited in (1, 8, 125):
        near = retrieval.search(retrieval.index_of(vectors, 0, 512, visited), vectors[:200], 32)
        found[visited] = np.mean([np.isin(a, b).mean() for a, b in zip(exact, near, strict=True)])
    assert found[1] < found[8] < found[125] == 1  # 6000 // 48 cells: all are visited


def test_the_released_single_cell_makes_short_clusters_and_eight_do_not():
    vectors = topics(3000)
    sizes = {
        visited: [len(c) for c in retrieval.build_clusters(vectors, 90, 32, 64, 0, exact_below=0, nprobe=visited)]
        for visited in (1, 8)
    }
    assert min(sizes[1]) < 32 and set(sizes[8]) == {32}


@pytest.mark.parametrize("exact_below", [0, 10_000])
def test_each_shard_searches_its_own_videos_alone(exact_below):
    """Eight runs on every eighth video, as eight GPUs do: the same clusters in another order."""
    vectors = topics(1600)
    clusters = retrieval.build_clusters(
        vectors, 40, 8, 16, 0, include_centre=True, shards=8, exact_below=exact_below, nprobe=512
    )
    assert sorted(cluster[0] % 8 for cluster in clusters) == sorted(5 * list(range(8)))
    near = {shard: neighbours(vectors[shard::8], 16) for shard in range(8)}
    for cluster in clusters:
        shard, own = cluster[0] % 8, [video // 8 for video in cluster]
        assert {video % 8 for video in cluster} == {shard} and set(own) <= near[shard][own[0]]


def test_neighbours_are_farther_within_a_shard():
    vectors = topics(1600)

    def spread(shards):
        clusters = retrieval.build_clusters(vectors, 50, 16, 32, 0, shards=shards)
        return np.mean([vectors[cluster].std(0).mean() for cluster in clusters])

    assert spread(8) > 1.2 * spread(1)


def test_one_shard_works_without_a_copy_of_the_vectors(monkeypatch):
    seen = []
    index_of = retrieval.index_of
    monkeypatch.setattr(retrieval, "index_of", lambda vectors, *args: seen.append(vectors) or index_of(vectors, *args))
    vectors = topics(200)
    retrieval.build_clusters(vectors, 4, 4, 8, 0)
    retrieval.build_clusters(vectors, 4, 4, 8, 0, shards=2)
    assert np.shares_memory(seen[0], vectors) and [len(own) for own in seen] == [200, 100, 100]


def test_cells_are_trained_on_48_videos_each():
    index = retrieval.empty_index(topics(2000), 0, 4, 1, seed=0)
    assert index.is_trained and index.ntotal == 0 and index.nlist == 4
    assert index.cp.max_points_per_centroid == 48  # released: the first 512 * 48 vectors


def test_a_gpu_is_used_where_faiss_finds_one(monkeypatch):
    moved = []
    monkeypatch.setattr(retrieval.faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(
        retrieval.faiss,
        "index_cpu_to_all_gpus",
        lambda index, ngpu: moved.append((index.is_trained, index.ntotal, ngpu)) or index,
        raising=False,
    )
    for exact_below in (0, 1000):
        assert len(retrieval.build_clusters(topics(400), 5, 4, 8, 0, exact_below=exact_below)) == 5
    assert moved == [(True, 0, 1)] * 2  # trained where the result is the same, filled there


def test_identical_videos_keep_their_clusters():
    clusters = retrieval.build_clusters(np.ones((20, 3)), 20, 4, 4, seed=0, include_centre=True)
    assert sorted(cluster[0] for cluster in clusters) == list(range(20))
    assert all(len(set(cluster)) == 4 for cluster in clusters)


def test_shards_are_spread_over_the_epoch():
    clusters = retrieval.build_clusters(uniform((400, 4), 0), 64, 4, 8, seed=0, shards=8)
    first = [clusters[i][0] % 8 for i in range(8)]
    assert len(set(first)) > 1  # not all clusters of one shard in a row


@pytest.mark.parametrize(
    "vectors, sizes, message",
    [
        (np.ones((0, 3)), (1, 1, 1), "one video at least"),
        (np.ones(3), (1, 1, 1), "need"),
        (np.full((3, 2), np.nan), (1, 1, 1), "finite"),
        (np.ones((3, 2)), (0, 1, 1), "at least 1"),
        (np.ones((3, 2)), (1, 0, 1), "at least 1"),
    ],
)
def test_mistakes(vectors, sizes, message):
    with pytest.raises(ValueError, match=message):
        retrieval.build_clusters(vectors, *sizes, seed=0)
