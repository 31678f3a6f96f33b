"""Times and memory, measured side by side: what is compared runs in turns in one process, so that noise meets both."""

import multiprocessing
import platform
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

MEGABYTE = 2**20


def alternate(functions: Mapping[str, Callable], repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of each function, once to warm up and then `repeats` times, the functions taking turns."""
    seconds = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster: the median over the turns, in each of which both ran under the same noise."""
    return median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def peak_memory(function: Callable, *arguments) -> int:
    """Bytes by which function(*arguments) raises the peak resident memory of a fresh process; CPU only.

    function must be importable; it is a generator that yields once when it is ready, then does what is measured.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__}{arguments} failed in its process, see above") from None
    finally:
        process.join()


def _measure(sender, function, arguments):
    steps = function(*arguments)
    next(steps)
    before = peak()
    for _ in steps:
        pass
    sender.send(peak() - before)


def peak() -> int:
    """Peak resident bytes of this process alone: ru_maxrss would begin with what its parent had when it was started."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def machine() -> str:
    """Processor or GPU, threads and version of torch, for the heading of a table."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
