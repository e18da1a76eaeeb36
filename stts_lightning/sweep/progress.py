"""What a sweep shows while it runs: bars in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

HEARTBEAT_SECONDS = 30.0


@dataclass(frozen=True)
class Running:
    """A run in progress."""

    name: str
    phase: str
    step: int
    steps: int  # 0 where the phase has no count
    elapsed: float  # seconds
    seconds_left: float | None


class Lines:
    """For logs and pipes: what is said, and a line at most every half minute."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total
        self._last = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._last = time.monotonic()

    def update(self, running: Sequence[Running], done: int, seconds_left: float | None) -> None:
        if running and time.monotonic() - self._last >= HEARTBEAT_SECONDS:
            self.say(f"  {done}/{self.total} runs, {left(seconds_left)}; " + ", ".join(map(describe, running)))


class Bars(Lines):
    """For a terminal: one bar for the sweep, and one below it for each run in progress."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, total)
        text, state = TextColumn("{task.description}"), TextColumn("{task.fields[state]}")
        self._progress = Progress(text, BarColumn(bar_width=28), state, console=console, refresh_per_second=4)
        self._all = self._progress.add_task("sweep", total=total, state="")
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, running: Sequence[Running], done: int, seconds_left: float | None) -> None:
        names = {run.name for run in running}
        for name in self._tasks.keys() - names:
            self._progress.remove_task(self._tasks.pop(name))
        for run in running:
            if run.name not in self._tasks:
                self._tasks[run.name] = self._progress.add_task(f"  {run.name}", total=None, state="")
            task, steps = self._tasks[run.name], run.steps or None  # no count: the bar pulses
            self._progress.update(task, total=steps, completed=run.step, state=_state(run))
        share = sum(run.step / run.steps for run in running if run.steps and run.phase == "training")
        state = f"{done}/{self.total} runs  {left(seconds_left)}"
        self._progress.update(self._all, completed=min(done + share, self.total), state=state)


def board(console: Console, total: int) -> Lines:
    """Bars where they can be drawn, else lines."""
    return Bars(console, total) if console.is_terminal else Lines(console, total)


def describe(run: Running) -> str:
    return f"{run.name} {_state(run)}"


def left(seconds: float | None) -> str:
    return "time left not known yet" if seconds is None else f"about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """``50 s``, ``4 min``, ``1 h 20 min``; to the accuracy that an estimate has."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _state(run: Running) -> str:
    steps = f" {run.step}/{run.steps}" if run.steps else ""
    rest = "" if run.seconds_left is None else f", {duration(run.seconds_left)} left"
    return f"{run.phase}{steps}{rest}"
