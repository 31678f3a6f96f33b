"""Clusters of videos that are hard negatives for each other, found with FAISS before every epoch (VideoCLIP, sec. 3.3).

A video is the mean vector of its clips; a cluster is a random video and a random half of its nearest neighbours. As in
fairseq examples/MMPT (modules/vectorpool.py, modules/retri.py, tasks/retritask.py), with three things made explicit:
the search is exact unless there are very many videos (released: one of 512 cells, so that clusters came out short, and
a crash below 512 videos), the random numbers are seeded, and what eight GPUs do by the way is a parameter (`shards`).
Times, memory and how many neighbours are found: benchmarks/README.md.
"""

import faiss
import numpy as np

# Videos. All of HowTo100M are searched exactly: matrix products make that as fast as to visit 8 of the released 512
# cells, which finds fewer neighbours (benchmarks/README.md).
EXACT_BELOW = 2_000_000
CELLS = 2048  # of the inverted file, released: 512
NPROBE = 8  # of which so many are visited, released: 1
POINTS_PER_CELL = 48  # that its k-means is trained on, as released; faiss complains below 39


def video_vectors(video, text, clips_per_video):
    """Pooled clips [V * clips_per_video, D], those of a video in a row -> [V, D], the mean of (video + text) / 2."""
    video, text = np.asarray(video, np.float32), np.asarray(text, np.float32)
    return ((video + text) / 2).reshape(-1, clips_per_video, video.shape[-1]).mean(1)


def build_clusters(
    vectors,
    num_clusters,
    cluster_size,
    num_candidates,
    seed,
    include_centre=False,
    shards=1,
    exact_below=EXACT_BELOW,
    cells=CELLS,
    nprobe=NPROBE,
):
    """Clusters of neighbouring videos, as lists of positions in `vectors` [V, D].

    Each cluster has its own random centre (centres repeat only when there are fewer videos than clusters). Its
    candidates are the centre and its nearest neighbours, num_candidates in all; cluster_size of them are drawn without
    replacement, or all where there are fewer. The centre itself may be dropped, as released; include_centre keeps it.

    shards: every GPU of the released code searches only its own 1 / shards of the videos, where neighbours are farther
    apart. shards=8 does so on any machine. Shard r holds the videos r, r + shards, ... in every epoch.
    exact_below, cells, nprobe: passed to `index_of`.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    # The extremes tell of NaN and infinity without an array of V x D truth values.
    if vectors.ndim != 2 or vectors.size == 0 or not np.isfinite([vectors.min(), vectors.max()]).all():
        raise ValueError(
            f"vectors {list(vectors.shape)}: need [V, D] finite numbers, one row a video, one video at least"
        )
    if min(num_clusters, cluster_size, num_candidates, shards) < 1:
        raise ValueError("num_clusters, cluster_size, num_candidates and shards must be at least 1")
    rng = np.random.default_rng(seed)
    shards = min(shards, len(vectors), num_clusters)
    clusters = []
    for shard in range(shards):
        own = np.ascontiguousarray(vectors[shard::shards])  # a copy only where there are several shards
        count = num_clusters // shards + (shard < num_clusters % shards)
        centres = rng.choice(len(own), count, replace=count > len(own))
        index = index_of(own, exact_below, cells, nprobe, seed)
        for centre, neighbours in zip(centres, search(index, own[centres], num_candidates), strict=True):
            others = neighbours[(neighbours >= 0) & (neighbours != centre)][: num_candidates - 1]
            drawn = _draw(rng, centre, others, cluster_size, include_centre)
            clusters.append((shard + shards * drawn).tolist())
    return [clusters[i] for i in rng.permutation(num_clusters)] if shards > 1 else clusters


def index_of(vectors, exact_below=EXACT_BELOW, cells=CELLS, nprobe=NPROBE, seed=0):
    """A FAISS index over vectors [V, D] float32, squared Euclidean distance, on a GPU where faiss-gpu finds one.

    Exact for fewer than exact_below vectors; else an inverted file of at most `cells` cells, of which a search
    visits the `nprobe` nearest. Its cells are found on the CPU, so that they are the same with and without a GPU.
    """
    index = empty_index(vectors, exact_below, cells, nprobe, seed)
    index.add(vectors)
    return index


def empty_index(vectors, exact_below, cells, nprobe, seed):
    """The index of `index_of`, trained, without the vectors."""
    dim = vectors.shape[1]
    cells = min(cells, len(vectors) // POINTS_PER_CELL)
    if len(vectors) < exact_below or cells < 2:
        index = faiss.IndexFlatL2(dim)
    else:
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, cells, faiss.METRIC_L2)
        index.cp.seed = seed % 2**31
        index.cp.max_points_per_centroid = POINTS_PER_CELL
        index.nprobe = min(nprobe, cells)
        index.train(vectors)
    if hasattr(faiss, "index_cpu_to_all_gpus") and faiss.get_num_gpus():
        index = faiss.index_cpu_to_all_gpus(index, ngpu=1)
    return index


def search(index, queries, count):
    """Positions [Q, min(count, V)] of the nearest vectors, nearest first, -1 where the cells held fewer."""
    return index.search(queries, min(count, index.ntotal))[1]


def _draw(rng, centre, others, cluster_size, include_centre):
    if include_centre:
        return np.r_[centre, rng.choice(others, min(cluster_size - 1, len(others)), replace=False)]
    candidates = np.r_[centre, others]
    return rng.choice(candidates, min(cluster_size, len(candidates)), replace=False)
