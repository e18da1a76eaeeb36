"""The processes of a sweep: as many at a time as the machine has room for, ended with the sweep."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stts_lightning.config import Config, save_config
from stts_lightning.runs import read_progress
from stts_lightning.sweep.plan import Job
from stts_lightning.sweep.progress import Running

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS = 0.2
KILL_AFTER_SECONDS = 5.0  # between SIGTERM and SIGKILL


@dataclass
class Live:
    """A run's process."""

    job: Job
    process: subprocess.Popen[bytes]
    slot: int
    resumed: bool
    started: float = field(default_factory=time.monotonic)

    def state(self) -> Running:
        elapsed, at = time.monotonic() - self.started, read_progress(self.job.folder.path)
        if at is None:
            return Running(self.job.name, "starting", 0, 0, elapsed, None)
        return Running(self.job.name, at.phase, at.step, at.steps, elapsed, at.seconds_left)


class Pool:
    """Runs jobs, one a slot at a time.

    Args:
        slots: the environment variables of each slot: which GPUs it has.
    """

    def __init__(self, command: Sequence[str], slots: Sequence[dict[str, str]]) -> None:
        self.command, self.slots = list(command), list(slots)
        self.live: list[Live] = []

    def describe(self) -> str:
        where = sorted({f"GPU {slot['CUDA_VISIBLE_DEVICES']}" for slot in self.slots if slot})
        return f"{len(self.slots)} at a time on {', '.join(where) if where else f'{cores()} CPU cores'}"

    def run(
        self,
        jobs: Sequence[Job],
        on_start: Callable[[Job], None],
        on_poll: Callable[[Sequence[Live], Sequence[Job]], None],
        on_end: Callable[[Live, int], None],
    ) -> list[Job]:
        """Start the jobs in order as slots fall free and what they wait for is there, until all have ended;
        ``on_end`` gets the exit status.

        Returns:
            the jobs that were not started, because what they wait for did not finish.
        """
        waiting = list(jobs)
        while waiting or self.live:
            free = [slot for slot in range(len(self.slots)) if slot not in {run.slot for run in self.live}]
            for slot, job in zip(free, [job for job in waiting if job.ready], strict=False):
                waiting.remove(job)
                on_start(job)
                self.live.append(self._start(job, slot))
            if not self.live:
                break
            on_poll(self.live, waiting)
            time.sleep(POLL_SECONDS)
            for run in [run for run in self.live if run.process.poll() is not None]:
                self.live.remove(run)
                _kill_group(run.process, signal.SIGKILL)  # a decoder or loader that outlived a killed run
                on_end(run, run.process.returncode)
        return waiting

    def kill(self) -> list[Job]:
        """End every process: asked first, then forced; the jobs that were running."""
        live, self.live = self.live, []
        for run in live:
            _kill_group(run.process, signal.SIGTERM)
        deadline = time.monotonic() + KILL_AFTER_SECONDS
        for run in live:
            with suppress(subprocess.TimeoutExpired):
                run.process.wait(max(0.0, deadline - time.monotonic()))
            _kill_group(run.process, signal.SIGKILL)
            run.process.wait()
        return [run.job for run in live if not run.job.finished]

    def _start(self, job: Job, slot: int) -> Live:
        folder = job.folder
        resumed = folder.checkpoints.exists()
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.progress.unlink(missing_ok=True)  # an interrupted attempt's
        save_config(job.config, folder.config)
        threads = dict.fromkeys(THREAD_VARIABLES, str(job.config.trainer.num_threads))
        with folder.log.open("ab") as log:
            process = subprocess.Popen(
                [*self.command, "--run-dir", str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads, **self.slots[slot], "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # its own group: loaders and decoders can be killed with it
                preexec_fn=_die_with_parent,
            )
        return Live(job, process, slot, resumed)


def slots(config: Config) -> list[dict[str, str]]:
    """The environment of each of the runs that go on at a time: its GPUs, or nothing on a CPU."""
    trainer = config.trainer
    gpus = [] if trainer.accelerator == "cpu" else visible_gpus()
    groups = [gpus[i : i + trainer.devices] for i in range(0, len(gpus) - trainer.devices + 1, trainer.devices)]
    if not groups:
        return [{}] * (config.sweep.jobs or max(1, cores() // (trainer.num_threads * trainer.devices)))
    count = config.sweep.jobs or len(groups)
    return [{"CUDA_VISIBLE_DEVICES": ",".join(groups[i % len(groups)])} for i in range(count)]


def visible_gpus() -> list[str]:
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def cores() -> int:
    """CPU cores that this process may use: a container's share where it has one."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(available, int(quota) // int(period)))  # ValueError where the quota is "max"
    return available


@contextmanager
def stop_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (a closed terminal) end the sweep as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _load_prctl() -> Any:
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else None


_PRCTL = _load_prctl()  # before any fork: the child may not load libraries
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """In a run's process, before it starts: end it when the sweep is killed outright (Linux only)."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def exit_status(status: int) -> str:
    if status == 0:
        return "it ended without a result"
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}" + (" (often for want of memory)" if name == "SIGKILL" else "")
    return f"exit status {status}"
