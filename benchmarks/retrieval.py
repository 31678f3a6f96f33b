"""Clusters of hard negatives for very many videos: seconds, peak memory, and how many exact neighbours are found.

    python -m benchmarks.retrieval --videos 120000 --dim 768
    python -m benchmarks.retrieval --videos 1200000 --dim 768     # in full, on a server

Vectors are random ones, or a mixture of Gaussians with 300 videos a topic, twice as far between topics as within.
Projection to n times the videos: training as long (48 vectors a cell), adding n times, searching n^2 times, since both
the centres and what each is compared with grow; memory n times.
"""

import argparse
import time
from collections.abc import Iterator
from functools import partial
from statistics import median

import faiss
import numpy as np

from benchmarks.measure import MEGABYTE, alternate, machine, peak_memory
from thesis_lib import retrieval

CLUSTER, CANDIDATES = 32, 64  # of the published recipe
FULL = 1_200_000  # videos of HowTo100M
METHODS = {  # name: cells, visited
    "exact": (0, 0),
    "512 cells, 1 visited (released)": (512, 1),
    "512 cells, 8 visited": (512, 8),
    "2048 cells, 8 visited (ours)": (2048, 8),
    "2048 cells, 32 visited": (2048, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--videos", type=int, default=120_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median counts")
    arguments = parser.parse_args()
    size = arguments.videos, arguments.dim
    times = FULL / arguments.videos
    where = "GPU" if hasattr(faiss, "index_cpu_to_all_gpus") and faiss.get_num_gpus() else "CPU"
    print(f"{size[0]:,} vectors of {size[1]}, {size[0] // CLUSTER:,} clusters of {CLUSTER} from {CANDIDATES}")
    print(f"{machine()}; faiss {faiss.__version__} on {where} with {faiss.omp_get_max_threads()} thread(s)\n")
    # First, since a new process begins with the peak of the one that started it.
    print(f"| build_clusters | peak memory beside the vectors, MB | {FULL:,} videos, MB |\n|---|---:|---:|")
    for name in ("exact", "2048 cells, 8 visited (ours)"):
        peak = peak_memory(all_clusters, *METHODS[name], *size) / MEGABYTE
        print(f"| {name} | {peak:,.0f} | {peak * times:,.0f} |", flush=True)
    print(
        f"\n| vectors | index | train s | add s | search s | neighbours found | short clusters | {FULL:,} videos, s |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for kind in ("mixture", "random"):
        vectors = draw_vectors(kind, *size)
        centres = np.random.default_rng(1).choice(len(vectors), len(vectors) // CLUSTER, replace=False)
        indices, found, train, add = {}, {}, {}, {}
        for name, (cells, visited) in METHODS.items():
            start = time.perf_counter()
            indices[name] = retrieval.empty_index(vectors, np.inf if cells == 0 else 0, cells, visited, seed=0)
            train[name] = time.perf_counter() - start
            indices[name].add(vectors)
            add[name] = time.perf_counter() - start - train[name]

        def search(name, vectors=vectors, centres=centres, indices=indices, found=found):
            found[name] = retrieval.search(indices[name], vectors[centres], CANDIDATES)

        turns = alternate({name: partial(search, name) for name in METHODS}, arguments.repeats)
        for name, seconds in turns.items():
            pairs = zip(found["exact"], found[name], strict=True)
            share = np.mean([np.isin(exact, own[own >= 0]).mean() for exact, own in pairs])
            short = np.mean((found[name] >= 0).sum(1) < CLUSTER)
            projected = train[name] + add[name] * times + median(seconds) * times**2
            stages = f"{train[name]:.1f} | {add[name]:.1f} | {median(seconds):.1f}"
            print(f"| {kind} | {name} | {stages} | {share:.1%} | {short:.1%} | {projected:,.0f} |", flush=True)


def all_clusters(cells: int, visited: int, videos: int, dim: int) -> Iterator[None]:
    """Ready with the vectors, then all clusters of an epoch: for `peak_memory`."""
    vectors = draw_vectors("mixture", videos, dim)
    yield
    exact_below = np.inf if cells == 0 else 0
    retrieval.build_clusters(
        vectors, videos // CLUSTER, CLUSTER, CANDIDATES, 0, exact_below=exact_below, cells=cells, nprobe=visited
    )


def draw_vectors(kind: str, videos: int, dim: int) -> np.ndarray:
    """[V, D] float32: "random" normal ones, or a "mixture" of videos // 300 Gaussians; drawn in pieces."""
    rng = np.random.default_rng(0)
    vectors = np.empty((videos, dim), np.float32)
    topics = rng.standard_normal((max(2, videos // 300), dim), np.float32)
    for start in range(0, videos, 8192):
        piece = vectors[start : start + 8192]
        rng.standard_normal(out=piece, dtype=np.float32)
        if kind == "mixture":
            piece *= 0.5
            piece += topics[rng.integers(len(topics), size=len(piece))]
    return vectors


if __name__ == "__main__":
    main()
