"""Run folders on disk: which are finished, which are another run's, and who is at work in them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from stts_lightning.config import Config, read_config
from stts_lightning.runs import Result, RunDir, differences, read_result
from stts_lightning.sweep.plan import Job
from stts_lightning.sweep.run import run_config, run_of

LOG_TAIL_LINES = 15


def finished_runs(config: Config, folder: Path) -> dict[str, Result]:
    """Results by name: those of earlier calls with other percentages too, as long as they are of this sweep."""
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        run = RunDir(path.parent)
        result = result_or_none(run)
        with suppress(ValueError):  # a configuration of an older version
            planned = run_of(read_config(run.config), config)
            asked = run_config(config, planned, folder)
            if result is not None and planned.name == run.path.name and _other_config(run, asked) is None:
                found[planned.name] = result
    return found


def result_or_none(folder: RunDir) -> Result | None:
    with suppress(ValueError):
        return read_result(folder.path)
    return None


def _other_config(folder: RunDir, asked: Config) -> str | None:
    """What the configuration of an existing run folder says otherwise than ``asked``; None if nothing."""
    if not folder.path.exists() or (not folder.config.exists() and not folder.result.exists()):
        return None
    try:
        return "; ".join(differences(read_config(folder.config), asked)) or None
    except ValueError as error:
        return str(error)


def set_aside_if_other(job: Job, console: Console) -> None:
    """Never reuse a folder of the same name whose run was another one; it is kept under another name."""
    why = _other_config(job.folder, job.config)
    if why is None and job.finished and job.after is not None and not job.after.finished:
        why = f"on a model of {job.after.path.name} that is no longer there"
    if why is None:
        return
    aside = job.folder.path.with_name(f"{job.folder.path.name}.replaced-{time.strftime('%Y%m%d-%H%M%S')}")
    os.replace(job.folder.path, aside)
    console.print(
        f"{job.name} was run with another configuration ({why}): it is run again, the old one is kept in {aside}.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> list[str]:
    """The last lines of a log that say something."""
    if not path.is_file():
        return []
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 16384))
        text = log.read().decode("utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Raises:
        ValueError: another process holds it, and ``wait`` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ValueError(f"another sweep is at work in {folder}: wait for it, or stop it first.") from None
        yield
