"""Two processes that train together on this machine's CPU, over gloo; a hang is a failure that says where."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

PROCESSES = 2
LIMIT = 300  # seconds that both together may take, on a machine that is busy
PATIENCE = 120  # seconds that one waits for the other's part before it raises
PRELOADED = ["deepspeed", "torch._inductor.lowering", "transformers.models.molmo2.modeling_molmo2", "lightning.pytorch"]


@contextmanager
def forkserver() -> Iterator[Any]:
    """Processes of a server that imports the heavy packages once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else DeepSpeed, which imports it, starts a pool
        patch.setenv("DS_ACCELERATOR", "cpu")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        yield context


def run_together(context: Any, name: str, folder: Path, work: Callable[..., None], *arguments: Any) -> str:
    """``work(rank, *arguments)`` in each process; what became of them, with the ends of their logs."""
    _meeting(folder, name).unlink(missing_ok=True)  # where others have met, these would look for those
    started = [context.Process(target=_join, args=(name, folder, rank, work, *arguments)) for rank in range(PROCESSES)]
    for process in started:
        process.start()
    deadline = time.monotonic() + LIMIT
    for process in started:
        process.join(max(deadline - time.monotonic(), 0))
    hung = [rank for rank, process in enumerate(started) if process.is_alive()]
    for process in started:
        process.kill()
        process.join()
    how = f"processes {hung} hung for {LIMIT} s" if hung else f"exits {[p.exitcode for p in started]}"
    logs = [folder / f"{name}-{rank}.log" for rank in range(PROCESSES)]
    ends = [log.read_text()[-3000:] if log.exists() else "it never began" for log in logs]
    return f"{name}: {how}\n" + "\n---- the other process\n".join(ends)


def _join(name: str, folder: Path, rank: int, work: Callable[..., None], *arguments: Any) -> None:
    import torch
    import torch.distributed as dist

    log = open(folder / f"{name}-{rank}.log", "w", buffering=1)  # noqa: SIM115 - it lives as long as the process
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    faulthandler.dump_traceback_later(LIMIT - 10)  # tells where it hangs; in one that works it may end it
    torchrun = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": name, "GROUP_RANK": "0"}
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES), **torchrun)
    torch.set_num_threads(1)
    meeting = f"file://{_meeting(folder, name)}"  # no port that another process could take
    dist.init_process_group("gloo", meeting, timedelta(seconds=PATIENCE), PROCESSES, rank)
    work(rank, *arguments)
    dist.destroy_process_group()


def _meeting(folder: Path, name: str) -> Path:
    return folder / f"{name}.meeting"
