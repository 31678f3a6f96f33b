"""Extraction one step after the other, and its steps at once: python -m benchmarks.extraction

"In turn" is the same code with nothing made ahead and the flow of one pair measured after another, as it was before:
decode a batch, prepare it, run the network, decode the next. Videos of the mini corpus, and a generated clip of
640 x 480 at 30 frames a second. The networks are untrained, and so small that they take about as long as decoding
does, as large ones do on a GPU: where one step takes nearly all the time, doing others meanwhile saves nearly nothing.
"""

import argparse
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.i3d import video
from benchmarks.measure import alternate, machine, ratio
from thesis_lib import extraction, params, stages
from thesis_lib.data.video import frame_count, read_frames, write_video
from thesis_lib.models.i3d import I3DR50
from thesis_lib.models.s3d import S3D


@contextmanager
def in_turn():
    ahead, threads = extraction.ahead, torch.get_num_threads
    extraction.ahead, torch.get_num_threads = iter, lambda: 1
    try:
        yield
    finally:
        extraction.ahead, torch.get_num_threads = ahead, threads


def cases(mini: Path, clip: Path, device: str, precision: str) -> dict[str, tuple[Path, Callable]]:
    """name -> (video, function of a video)."""
    torch.manual_seed(0)
    small, seconds = I3DR50(stem_dim=4), S3D(channels_div=16)
    colors, motion = I3DR50(stem_dim=1), I3DR50(stem_dim=1, in_channels=2)
    on = dict(device=device, precision=precision)

    def i3d(model, **more):
        return lambda path: extraction.i3d_features(model, path, **on, **more)

    def two_stream(path):
        return extraction.two_stream_features(colors, motion, path, flow="dis", size=48, **on)

    def s3d(path):
        return extraction.s3d_features(seconds, path, size=64, batch=2, **on)

    return {
        "mini, I3D, 48 pixels": (mini, i3d(small, size=48)),
        "clip, decoding alone": (clip, lambda path: sum(1 for _ in read_frames(path))),
        "clip, I3D, 48 pixels": (clip, i3d(colors, size=48)),
        "clip, S3D, 64 pixels": (clip, s3d),
        "clip, two streams, DIS flow, 48 pixels": (clip, two_stream),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--profile", default="mini", help="whose corpus: it is drawn if it is not there")
    parser.add_argument("--seconds", type=int, default=30, help="of the generated clip")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=extraction.PRECISIONS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())

    root = stages.corpus(params.load(stages.NOTEBOOK["corpus"], options.profile)) / "50salads"
    with TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.avi"
        moving = video(30)  # a second, again and again
        write_video(clip, (moving[number % 30] for number in range(30 * options.seconds)), 30, codec="XVID")
        every = cases(min(root.glob("videos/*.avi")), clip, options.device, options.precision)
        print("| | frames | in turn, frames/s | at once, frames/s | times faster |\n|---|---|---|---|---|")
        for name, (path, extract) in every.items():
            found = {}

            def run(how, path=path, extract=extract, found=found):
                found[how] = extract(path)

            def before(run=run):
                with in_turn():
                    run("in turn")

            seconds = alternate({"in turn": before, "at once": lambda run=run: run("at once")}, options.repeats)
            assert np.array_equal(found["in turn"], found["at once"]), f"{name}: the bits differ"
            count = frame_count(path)
            rates = " | ".join(f"{count / median(values):.0f}" for values in seconds.values())
            print(f"| {name} | {count} | {rates} | {ratio(seconds, 'in turn', 'at once'):.2f} |", flush=True)


if __name__ == "__main__":
    main()
