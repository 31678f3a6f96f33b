"""ASFormer forward and backward, the official code beside ours: python -m benchmarks.asformer --official DIR

DIR is a checkout of ChinaYi/ASFormer; only its model.py is imported, as it is (it wants a plotting function of eval.py,
which no longer imports). Both train on random features of 2048 values, 19 classes. Without --official ours alone.
--device cuda --precision bf16 compares on a GPU: ours in mixed precision, the official code in the only one it has.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType

import torch

from benchmarks.measure import MEGABYTE, alternate, machine, peak, peak_memory, ratio
from thesis_lib.models.asformer import ASFormer

CLASSES, VALUES = 19, 2048


def training_step(official: str | None, length: int, device="cpu", precision="fp32") -> Callable[[], None]:
    """A function that runs one video of `length` frames forward and backward."""
    torch.manual_seed(0)
    x, mask = torch.randn(1, VALUES, length, device=device), torch.ones(1, CLASSES, length, device=device)
    if official:
        # 3 decoders, 10 layers, halved twice in attention, 64 maps
        network = official_model(official).MyTransformer(3, 10, 2, 2, 64, VALUES, CLASSES, 0.3).train().to(device)
        forward = lambda: network(x, mask)  # noqa: E731
    else:
        network = ASFormer(CLASSES, VALUES).train().to(device)
        forward = lambda: network(x)  # noqa: E731

    def step():
        network.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16" and not official):
            loss = forward().square().mean()
        loss.backward()

    return step


def official_model(folder: str) -> ModuleType:
    """model.py of the official code."""
    sys.modules["eval"] = ModuleType("eval")
    sys.modules["eval"].segment_bars_with_confidence = None
    spec = importlib.util.spec_from_file_location("official_asformer", Path(folder) / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    del sys.modules["eval"]
    return module


def in_memory(official: str | None, length: int):
    """For peak_memory: ready with network and features; prints the peak of the whole process at the end."""
    torch.set_num_threads(1)
    step = training_step(official, length)
    yield
    step()
    print(f"whole process {peak() / MEGABYTE:.0f} MB, ", end="", flush=True)


def on_gpu(step: Callable[[], None]) -> float:
    """Bytes that a step holds at its peak, what is there before included."""
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--official", help="checkout of ChinaYi/ASFormer")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 3000, 6000], help="frames, both")
    parser.add_argument("--long", type=int, nargs="*", default=[3000, 6000, 12000, 24000], help="frames, ours alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of ours")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    names = {"official": options.official, "ours": None} if options.official else {"ours": None}

    on = options.device, options.precision
    for length in options.lengths if options.device == "cpu" else ():
        for name, folder in names.items():
            print(f"{length} frames, {name}: ", end="", flush=True)
            added = peak_memory(in_memory, folder, length)
            print(f"{added / MEGABYTE:.0f} MB of it by the step", flush=True)
    for length in options.lengths if options.official else ():
        steps = {name: training_step(folder, length, *on) for name, folder in names.items()}
        if options.device == "cuda":
            held = ", ".join(f"{name} {on_gpu(step) / MEGABYTE:.0f} MB" for name, step in steps.items())
            print(f"{length} frames, peak memory of the GPU: {held}")
        seconds = alternate(steps, options.repeats)
        medians = ", ".join(f"{name} {median(values):.2f} s" for name, values in seconds.items())
        print(f"{length} frames: {medians}, ours {ratio(seconds, 'official', 'ours'):.1f} times faster", flush=True)
    steps = {length: training_step(None, length, *on) for length in options.long}
    for length, values in alternate(steps, options.repeats).items():
        print(f"ours, {length} frames: {median(values) * 1000 / length:.2f} s for 1000 frames")


if __name__ == "__main__":
    main()
