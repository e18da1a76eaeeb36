"""Time and memory of one thing, on a CPU or a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Dense bf16 matrix products, from the makers' data sheets.
PEAK_TFLOPS = {"H100": 989.4, "H200": 989.4, "A100": 312.0, "L40S": 362.0, "B200": 2250.0}


class Spread(NamedTuple):
    """Milliseconds of each round."""

    times: list[float]

    median = property(lambda self: statistics.median(self.times))
    low = property(lambda self: min(self.times))
    high = property(lambda self: max(self.times))

    def times_as_fast_as(self, other: Spread) -> float:
        """Median over the rounds of the ratio in one round, in which both met the same machine."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.times, other.times, strict=True))

    def later_than(self, other: Spread) -> float:
        """Median over the rounds of the difference in one round, ms; 0 where noise would make it negative."""
        return max(statistics.median(a - b for a, b in zip(self.times, other.times, strict=True)), 0.0)


def keep_freed_memory() -> None:
    """Let glibc keep what tensors give back, as torch's allocator on a GPU does.

    A step on a CPU frees and takes gigabytes. Given back to the system, every page of them has to be found and zeroed
    again, and on a virtual machine that may come back from the host page by page: steps then take one to four times
    as long, at random.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def time_once(run: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call, the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) * 1000


def side_by_side(
    runs: dict[str, Callable[[], Any]], device: torch.device, rounds: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, Spread]:
    """Each run once a round, in turn, after a round that does not count: whatever slows the machine down for a
    while slows all of them.

    On a GPU nothing may be compiled again after that first round: torch's RecompileError says what was.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        steady = turn > 0 and device.type == "cuda"
        with torch._dynamo.config.patch(error_on_recompile=steady):
            for name, run in runs.items():
                took = time_once(run, device)
                if turn:
                    times[name].append(took)
        say(f"round {turn} of {rounds}")
    return {name: Spread(took) for name, took in times.items()}


def peak_memory_mib(run: Callable[[], Any], device: torch.device) -> float | None:
    """How far one call drives memory above what stands before it; None where it cannot be told.

    On a GPU what torch allocates. On a CPU the resident memory of the process, for which Linux can forget the peak
    so far.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    if not CLEAR.exists():
        return None
    with contextlib.suppress(OSError, AttributeError):  # freed memory back to the system, so that the start is low
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        CLEAR.write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> float:
    """KiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return float(line.split()[1])


def machine(device: torch.device) -> dict[str, Any]:
    """What stands here, and its peak in TFLOP/s: the maker's for a GPU we know, else the best matrix product seen."""
    described: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device.type != "cuda":
        return {**described, "device": "cpu", "peak_tflops": _best_matmul(device), "peak_from": "matrix product"}
    name = torch.cuda.get_device_name(device)
    known = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return {
        **described, "device": name, "memory_gib": round(memory),
        "peak_tflops": known or _best_matmul(device), "peak_from": "data sheet" if known else "matrix product",
    }  # fmt: skip


def _best_matmul(device: torch.device, repeats: int = 12) -> float:
    size, dtype = (1536, torch.float32) if device.type == "cpu" else (8192, torch.bfloat16)
    x = torch.randn(size, size, dtype=dtype, device=device)
    fastest = min(time_once(lambda: x @ x, device) for _ in range(repeats))
    return 2 * size**3 / fastest / 1e9


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
