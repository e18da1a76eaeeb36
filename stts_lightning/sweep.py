"""A sweep: the unpruned baseline and each method x percentage x seed, every run a process of its own.

What a run is lies in its folder: with a result it is finished and skipped, without one it is taken up.
So the same command goes on where an earlier one stopped, and another list of percentages only adds runs.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from stts_lightning.config import AuxConfig, Config, PruneConfig, flatten, read_config, save_config, with_method
from stts_lightning.report.estimate import Clock, clock_from
from stts_lightning.report.progress import Lines, Running, board, duration
from stts_lightning.report.publish import SweepTracking
from stts_lightning.report.tables import QUICK_WARNING, row, row_line, sort_rows, terminal_table
from stts_lightning.report.write import point_latest, write_report
from stts_lightning.runs import Result, RunDir, config_hash, differences, digest, hashed, read_progress, read_result

COMMAND = (sys.executable, "-m", "stts_lightning", "train")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS = 0.2
KILL_AFTER_SECONDS = 5.0  # between SIGTERM and SIGKILL
LOG_TAIL_LINES = 15
INTERRUPTED = 130  # exit status


@dataclass(frozen=True)
class Job:
    """One run to do."""

    kind: str  # run or pretrain
    folder: RunDir
    config: Config

    @property
    def name(self) -> str:
        return "pretrain" if self.kind == "pretrain" else self.folder.path.name

    @property
    def finished(self) -> bool:
        return self.folder.finished and (self.kind == "run" or self.folder.model.is_dir())


def run_sweep(config: Config, *, command: Sequence[str] = COMMAND, console: Console | None = None) -> int:
    """Run what has not been run yet, and write the report.

    Args:
        command: starts a run's process; ``--run-dir DIR`` is appended.

    Returns:
        the exit status: 0, 1 if a run failed, 130 if the sweep was stopped.

    Raises:
        ValueError: another sweep is at work in the same folder.
    """
    console = console or Console()
    pretraining = pretrain_job(config)
    if pretraining is not None:
        config = replace(config, init_from=str(pretraining.folder.model))
    folder = sweep_folder(config)
    with locked(folder), stop_signals():
        return _Sweep(config, folder, pretraining, command, console).run()


class _Sweep:
    """What the steps of one call share."""

    def __init__(
        self, config: Config, folder: Path, pretraining: Job | None, command: Sequence[str], console: Console
    ) -> None:
        self.config, self.folder, self.pretraining, self.console = config, folder, pretraining, console
        self.jobs = plan(config, folder)
        self.failed: dict[str, str] = {}
        self.clock, self.estimated = clock_from(config), False
        self.tracking = SweepTracking(config, folder)
        self.pool = Pool(command, slots(config))
        self.shown: Lines

    def run(self) -> int:
        for job in self.jobs:
            _set_aside_if_other(job, self.console)
        todo = [job for job in self.jobs if not job.finished]
        self._announce(todo)
        self.tracking.open()
        self.total = len(self.jobs)
        with board(self.console, self.total) as self.shown:
            try:
                if todo and self.pretraining is not None and not self._pretrain(self.pretraining, todo):
                    todo = []
                self.pool.run(todo, self._start, self._poll, self._end)
            except KeyboardInterrupt:
                return self._interrupted()
        return self._report()

    def _announce(self, todo: Sequence[Job]) -> None:
        say = self._print
        if self.config.sweep.quick:
            say(QUICK_WARNING)
        done = [job.name for job in self.jobs if job.finished]
        say(f"Sweep in {self.folder}: {len(self.jobs)} runs, {len(done)} of them finished.")
        if done:
            say(f"  finished: {', '.join(done)}")
        if not todo:
            return
        say(f"  to run:   {', '.join(job.name for job in todo)}; {self.pool.describe()}")
        if self.pretraining is not None and not self.pretraining.finished:
            say(f"  first:    pretraining without pruning, in {self.pretraining.folder.path}")
        left = self.clock.seconds_left([], [job.config for job in todo], len(self.pool.slots))
        if left is not None:
            self.estimated = True
            say(f"This will take about {duration(left)}, by what earlier runs took here.")
        else:
            say("Nothing was measured here yet: how long it takes follows as soon as the first run knows its pace.")

    def _pretrain(self, job: Job, todo: Sequence[Job]) -> bool:
        """Train the checkpoint that every run starts from, unless another sweep has; whether there is one now."""
        with locked(job.folder.path, wait=True):
            if not job.finished:
                _set_aside_if_other(job, self.console)
                job.folder.result.unlink(missing_ok=True)  # a result without its model is of no use
                self.pool.run([job], self._start, lambda live, _: self._poll(live, todo), self._end)
        return job.finished

    def _start(self, job: Job) -> None:
        self.tracking.start_child(job.config, job.folder.path, job.kind)

    def _poll(self, live: Sequence[Live], waiting: Sequence[Job]) -> None:
        running = [(run.job.config, run.state()) for run in live]
        left = self.clock.seconds_left(running, [job.config for job in waiting], len(self.pool.slots))
        done = sum(job.finished for job in self.jobs)
        self.shown.update([state for _, state in running], done, left)
        if left is not None and not self.estimated:
            self.estimated = True
            end = time.strftime("%H:%M", time.localtime(time.time() + left))
            self.shown.say(f"At this pace the sweep takes about {duration(left)} more, until {end}.")

    def _end(self, run: Live, status: int) -> None:
        job, took = run.job, time.monotonic() - run.started
        result = _result_or_none(job)
        if job.finished and result is not None:
            if not run.resumed:
                self.clock.add(job.config, took)
            if job.kind == "run":
                done = sum(other.finished for other in self.jobs)
                self.shown.say(f"[{done}/{self.total}] {row_line(row(result))}  in {duration(took)}")
            else:
                self.shown.say(f"pretrained in {duration(took)}: accuracy {result.accuracy:.3f} unpruned")
            return
        tail = log_tail(job.folder.log)
        self.failed[job.name] = f"{_status(status)}: {tail[-1] if tail else 'its log is empty'}"
        lines = [f"FAILED {job.name}: {_status(status)}. The end of {job.folder.log}:", *(f"    {x}" for x in tail)]
        self.shown.say("\n".join(lines))
        self.tracking.end_child(job.config, job.folder.path, "FAILED")

    def _interrupted(self) -> int:
        stopped = self.pool.kill()
        done = sum(job.finished for job in self.jobs)
        self.shown.say(f"Stopped with {done} of {self.total} runs finished. The same command goes on from here.")
        for job in stopped:
            self.tracking.end_child(job.config, job.folder.path, "KILLED")
        return INTERRUPTED

    def _report(self) -> int:
        results = finished_runs(self.config, self.folder)
        quick, rows = self.config.sweep.quick, sort_rows(row(result) for result in results.values())
        files = write_report(self.folder, results, self.failed, quick=quick)
        point_latest(self.folder)
        configs = {name: run_config(self.config, r.method, r.prune_percent, r.seed) for name, r in results.items()}
        self.tracking.complete((configs[name], self.folder / name) for name in results)
        self.tracking.publish(rows, files, "FAILED" if self.failed else "FINISHED")
        if rows:
            self.console.print(terminal_table(rows, QUICK_WARNING if quick else ""))
        for name, line in self.failed.items():
            self._print(f"FAILED {name}: {line}")
        self._print("Written: " + ", ".join(str(path) for path in files))
        if self.failed:
            self._print(f"{len(self.failed)} failed. The same command runs what has not finished again.")
        if self.config.tracking.enabled:
            self._print("Compare the runs in the dashboard: make dashboard")
        return 1 if self.failed else 0

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


# What is run, and where.


def plan(config: Config, folder: Path) -> list[Job]:
    """The baseline a seed, then each percentage x method x seed; none twice."""
    sweep = config.sweep
    wanted = [("none", 0.0, seed) for seed in sweep.seeds]
    wanted += [(m, k, seed) for k in sweep.percents for m in sweep.methods if m != "none" for seed in sweep.seeds]
    return [
        Job("run", RunDir(folder / run_name(method, percent, seed)), run_config(config, method, percent, seed))
        for method, percent, seed in dict.fromkeys(wanted)
    ]


def run_name(method: str, percent: float, seed: int) -> str:
    return f"none-seed{seed}" if method == "none" else f"{method}-k{percent:g}-seed{seed}"


def run_config(config: Config, method: str, percent: float, seed: int) -> Config:
    """One run's configuration, derived from the sweep's."""
    config = with_method(config, method)
    return replace(config, seed=seed, prune=replace(config.prune, method=method, percent=percent, seed=seed))


def pretrain_config(config: Config) -> Config:
    """The run that makes the checkpoint that the others start from: unpruned, on the generated set."""
    pretrain = config.pretrain
    optim = replace(
        config.optim,
        steps=pretrain.steps,
        batch_size=pretrain.batch_size,
        accumulate=1,
        lr_language=pretrain.lr,
        lr_vision=pretrain.lr,
        lr_scorer=pretrain.lr,
        warmup_steps=pretrain.warmup_steps,
        dense_weight=pretrain.dense_weight,
    )
    return replace(
        config,
        init_from=None,
        prune=PruneConfig(method="none"),
        aux=AuxConfig(),
        optim=optim,
        data=replace(config.data, name="generated", train=None, eval=None),
        trainer=replace(config.trainer, num_threads=pretrain.num_threads),
    )


def pretrain_job(config: Config) -> Job | None:
    """The pretraining run, in a folder that every sweep with the same pretraining shares; None if there is none."""
    if not config.pretrain.enabled or config.init_from is not None:
        return None
    config = pretrain_config(config)
    return Job("pretrain", RunDir(Path(config.output_dir) / "pretrained" / config_hash(config)), config)


def sweep_folder(config: Config) -> Path:
    """``<output_dir>/sweeps/<backbone>-<data>-<hash of what every run of the sweep shares>``.

    The hash covers the bytes of the question files as well: other questions are another sweep.
    """
    of_one_run = ("seed", "prune.method", "prune.percent", "prune.seed")
    shared = {key: value for key, value in hashed(config).items() if key not in of_one_run}
    for key in ("data.train", "data.eval"):
        path = flatten(config)[key]
        if path is not None and Path(path).is_file():
            shared[key] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    name = re.sub(r"[^\w.]+", "_", f"{config.backbone.name} {config.data.name}").replace("_", "-", 1)
    return Path(config.output_dir) / "sweeps" / f"{name}-{digest(shared)}"


def finished_runs(config: Config, folder: Path) -> dict[str, Result]:
    """Results by name: those of earlier calls with other percentages too, as long as they are of this sweep."""
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        result = _result_or_none(Job("run", RunDir(path.parent), config))
        if result is not None and path.parent.name == run_name(result.method, result.prune_percent, result.seed):
            asked = run_config(config, result.method, result.prune_percent, result.seed)
            if _other_config(RunDir(path.parent), asked) is None:
                found[path.parent.name] = result
    return found


def _result_or_none(job: Job) -> Result | None:
    with suppress(ValueError):
        return read_result(job.folder.path)
    return None


def _other_config(folder: RunDir, asked: Config) -> str | None:
    """What the configuration of an existing run folder says otherwise than ``asked``; None if nothing."""
    if not folder.path.exists() or (not folder.config.exists() and not folder.result.exists()):
        return None
    try:
        return "; ".join(differences(read_config(folder.config), asked)) or None
    except ValueError as error:
        return str(error)


def _set_aside_if_other(job: Job, console: Console) -> None:
    """Never reuse a folder of the same name whose run was another one; it is kept under another name."""
    why = _other_config(job.folder, job.config)
    if why is None:
        return
    aside = job.folder.path.with_name(f"{job.folder.path.name}.replaced-{time.strftime('%Y%m%d-%H%M%S')}")
    os.replace(job.folder.path, aside)
    console.print(
        f"{job.name} was run with another configuration ({why}): it is run again, the old one is kept in {aside}.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


# The processes.


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
    ) -> None:
        """Start the jobs in order as slots fall free, until all have ended; ``on_end`` gets the exit status."""
        waiting = deque(jobs)
        while waiting or self.live:
            free = [slot for slot in range(len(self.slots)) if slot not in {run.slot for run in self.live}]
            for slot in free[: len(waiting)]:
                job = waiting.popleft()
                on_start(job)
                self.live.append(self._start(job, slot))
            on_poll(self.live, waiting)
            time.sleep(POLL_SECONDS)
            for run in [run for run in self.live if run.process.poll() is not None]:
                self.live.remove(run)
                _kill_group(run.process, signal.SIGKILL)  # a decoder or loader that outlived a killed run
                on_end(run, run.process.returncode)

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


def _status(status: int) -> str:
    if status == 0:
        return "it ended without a result"
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}" + (" (often for want of memory)" if name == "SIGKILL" else "")
    return f"exit status {status}"
