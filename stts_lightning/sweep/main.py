"""A sweep from its plan to its report.

What a run is lies in its folder: with a result it is finished and skipped, without one it is taken up.
So the same command goes on where an earlier one stopped, and another list of percentages only adds runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from stts_lightning.config import Config, read_config
from stts_lightning.report.tables import QUICK_WARNING, row, row_line, sort_rows, terminal_table
from stts_lightning.report.write import point_latest, write_report
from stts_lightning.runs import Result, RunDir, read_result
from stts_lightning.sweep.estimate import calibrated, clock_from
from stts_lightning.sweep.folders import finished_runs, locked, log_tail, result_or_none, set_aside_if_other
from stts_lightning.sweep.plan import Job, job_of, plan, pretrain_job, report_folder, sweep_folder
from stts_lightning.sweep.pool import Live, Pool, cores, exit_status, slots, stop_signals
from stts_lightning.sweep.progress import Lines, board, duration
from stts_lightning.sweep.publish import SweepTracking
from stts_lightning.sweep.run import run_of

COMMAND = (sys.executable, "-m", "stts_lightning", "train")
CALIBRATE = (sys.executable, "-m", "stts_lightning", "calibrate")
INTERRUPTED = 130  # exit status


def run_sweep(
    config: Config,
    *,
    command: Sequence[str] = COMMAND,
    calibrate: Sequence[str] | None = CALIBRATE,
    console: Console | None = None,
) -> int:
    """Run what has not been run yet, and write the report.

    Args:
        command: starts a run's process; ``--run-dir DIR`` is appended.
        calibrate: measures the machine where no earlier run has; ``--config FILE`` is appended.

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
        sweep = _Sweep(config, folder, pretraining, command, calibrate, console)
        try:
            return sweep.run()
        except KeyboardInterrupt:
            return sweep.interrupted()
        finally:
            sweep.pool.kill()  # nothing is left behind, whatever went wrong


class _Sweep:
    """What the steps of one call share."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        pretraining: Job | None,
        command: Sequence[str],
        calibrate: Sequence[str] | None,
        console: Console,
    ) -> None:
        self.calibrate = calibrate
        self.config, self.folder, self.pretraining, self.console = config, folder, pretraining, console
        self.jobs, self.out = plan(config, folder), report_folder(config, folder)
        self.total = len(self.jobs)
        self.failed: dict[str, str] = {}
        self.clock, self.estimated = clock_from(config), False
        self.tracking = SweepTracking(config, self.out)
        self.pool = Pool(command, slots(config))
        self.shown = Lines(console, self.total)

    def run(self) -> int:
        for job in self.jobs:
            set_aside_if_other(job, self.console)
            read_result(job.folder.path)  # a damaged one is an error now, not in the middle
        todo = [job for job in self.jobs if not job.finished]
        self._announce(todo)
        self.tracking.open()
        with board(self.console, self.total) as self.shown:
            if todo and self.pretraining is not None and not self._pretrain(self.pretraining, todo):
                self.shown.say(
                    f"Without pretraining there is nothing to start from: {len(todo)} runs were not started."
                )
                todo = []
            for job in self.pool.run(todo, self._start, self._poll, self._end):
                assert job.after is not None
                self.failed[job.name] = (
                    f"not started: it evaluates the model of {job.after.path.name}, which is not there"
                )
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
        self.estimated = left is not None
        if left is not None:
            say(f"This will take about {duration(left)}, by what earlier runs took here.")
        elif (left := self._calibrated_seconds(todo)) is not None:
            say(f"This will take about {duration(left)}, by what a few clips took here just now.")
        else:
            say("Nothing was measured here yet: how long it takes follows as soon as the first run knows its pace.")

    def _calibrated_seconds(self, todo: Sequence[Job]) -> float | None:
        if self.calibrate is None:
            return None
        self._print("Measuring this machine on a few clips ...")
        measured = calibrated(self.config, self.calibrate)
        if measured is None:
            return None
        first = self.pretraining
        alone = measured.run(first.config) if first is not None and not first.finished else 0.0
        new_set = alone > 0 or self.config.data.train is None
        making = measured.making(self.config, cores()) if new_set else 0.0
        together = sum(measured.run(job.config) for job in todo) / min(len(todo), len(self.pool.slots))
        return making + alone + together

    def _pretrain(self, job: Job, todo: Sequence[Job]) -> bool:
        """Train the checkpoint that every run starts from, unless another sweep has; whether there is one now."""
        with locked(job.folder.path, wait=True):
            if not job.finished:
                set_aside_if_other(job, self.console)
                job.folder.result.unlink(missing_ok=True)  # a result without its model is of no use
                self.pool.run([job], self._start, lambda live, _: self._poll(live, todo, alone=True), self._end)
        return job.finished

    def _start(self, job: Job) -> None:
        self.tracking.start_child(job.config, job.folder.path, job.kind)

    def _poll(self, live: Sequence[Live], waiting: Sequence[Job], alone: bool = False) -> None:
        running = [(run.job.config, run.state()) for run in live]
        left = self.clock.seconds_left(running, [job.config for job in waiting], len(self.pool.slots), alone)
        done = sum(job.finished for job in self.jobs)
        self.shown.update([state for _, state in running], done, left)
        if left is not None and not self.estimated:
            self.estimated = True
            end = time.strftime("%H:%M", time.localtime(time.time() + left))
            self.shown.say(f"At this pace the sweep takes about {duration(left)} more, until {end}.")

    def _end(self, run: Live, status: int) -> None:
        job, took = run.job, time.monotonic() - run.started
        result = result_or_none(job.folder)
        if job.finished and result is not None:
            if not run.resumed:
                self.clock.add(job.config, took, max(took - result.train_seconds, 0.0))
            if job.kind == "run":
                done = sum(other.finished for other in self.jobs)
                self.shown.say(f"[{done}/{self.total}] {row_line(row(result))}  in {duration(took)}")
            else:
                self.shown.say(f"pretrained in {duration(took)}: accuracy {result.accuracy:.3f} unpruned")
            return
        tail = log_tail(job.folder.log)
        self.failed[job.name] = f"{exit_status(status)}: {tail[-1] if tail else 'its log is empty'}"
        lines = [f"FAILED {job.name}: {exit_status(status)}. The end of {job.folder.log}:", *(f"    {x}" for x in tail)]
        self.shown.say("\n".join(lines))
        self.tracking.end_child(job.config, job.folder.path, "FAILED")

    def interrupted(self) -> int:
        stopped = self.pool.kill()
        done = sum(job.finished for job in self.jobs)
        self.shown.say(f"Stopped with {done} of {self.total} runs finished. The same command goes on from here.")
        for job in stopped:
            self.tracking.end_child(job.config, job.folder.path, "KILLED")
        self.tracking.stop()
        return INTERRUPTED

    def _report(self) -> int:
        results, quick = self._results(), self.config.sweep.quick
        rows = sort_rows(row(result) for result in results.values())
        files = write_report(self.folder, results, self.failed, quick=quick, out=self.out)
        point_latest(self.out, self.config.experiment.name if self.out != self.folder else "latest")
        self.tracking.report(
            [(job.config, job.folder.path) for job in self._jobs_of(results)],
            None if self.pretraining is None else (self.pretraining.config, self.pretraining.folder.path),
            rows,
            files,
            "FAILED" if self.failed else "FINISHED",
        )
        if rows:
            self.console.print(terminal_table(rows))
            if quick:
                self._print(QUICK_WARNING)
        for name, line in self.failed.items():
            self._print(f"FAILED {name}: {line}")
        self._print("Written: " + ", ".join(str(path) for path in files))
        if self.failed:
            self._print(f"{len(self.failed)} failed. The same command runs what has not finished again.")
        if self.config.tracking.enabled:
            self._print("Compare the runs in the dashboard: make dashboard")
        return 1 if self.failed else 0

    def _results(self) -> dict[str, Result]:
        """By name: all that the folder has of this sweep, or what the experiment asked for."""
        found, asked = finished_runs(self.config, self.folder), {job.name for job in self.jobs}
        return {name: result for name, result in found.items() if self.out == self.folder or name in asked}

    def _jobs_of(self, results: Iterable[str]) -> list[Job]:
        runs = [run_of(read_config(RunDir(self.folder / name).config), self.config) for name in results]
        return [job_of(run, self.config, self.folder) for run in runs]

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
