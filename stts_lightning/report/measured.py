"""Measured runs as lines of one CSV file, with enough of their answers to compare any two of them later.

A run's folder goes; what was measured stays: `experiments/saliency/measured.csv` is what its tables are made from.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stts_lightning.report.paired import Answer, Answers, read_answers
from stts_lightning.runs import Result


@dataclass(frozen=True)
class Measured:
    """One finished run; the fields are the columns of the file."""

    domain: str
    checkpoint: int
    settings: str  # `key=value` for what is not as the experiment's own file has it, with "; " between
    percent: float  # 0-100
    method: str
    layer: int
    seed: int
    accuracy: float  # 0-1
    kept: dict[str, float]  # shares, 0-1, of what the windows after frame 0 show
    curve: tuple[tuple[int, float], ...]  # (step, accuracy) where it was evaluated on its way; the warm-up counts
    commit: str
    asked: int  # questions of each video
    right: tuple[int, ...]  # of those, by video in the order of their names

    @property
    def answers(self) -> Answers:
        """Which of a video's questions were right is not known, and no difference of means or its error needs it."""
        return {
            (video, question): Answer(str(video), "all", question < right)
            for video, right in enumerate(self.right)
            for question in range(self.asked)
        }

    def steps_to(self, share: float) -> int | None:
        """The first step that was evaluated at this share, 0-1, of the last accuracy; None without a curve."""
        return next((step for step, accuracy in self.curve if accuracy >= share * self.curve[-1][1]), None)


def measured_run(domain: str, checkpoint: int, settings: str, result: Result, folder: Path) -> Measured:
    """A finished run as a line.

    Raises:
        ValueError: the folder has no predictions, or its videos have different numbers of questions.
    """
    by_video: dict[str, list[bool]] = {}
    for answer in read_answers(folder).values():
        by_video.setdefault(answer.video, []).append(answer.correct)
    asked = {len(answers) for answers in by_video.values()}
    if len(asked) != 1:
        raise ValueError(
            f"{folder}: its videos have {', '.join(map(str, sorted(asked)))} questions. The tables of domains are of "
            "generated sets, whose videos have as many each."
        )
    return Measured(
        domain, checkpoint, settings, result.prune_percent, result.method, result.layer, result.seed, result.accuracy,
        result.kept_shares, tuple((int(step), accuracy) for step, accuracy in result.curve if len(result.curve) > 1),
        result.git_commit or "unknown", asked.pop(), tuple(sum(by_video[video]) for video in sorted(by_video)),
    )  # fmt: skip


def write_measured(runs: Iterable[Measured], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Measured)], lineterminator="\n")
        writer.writeheader()
        for run in runs:
            line = asdict(run)
            line["kept"] = " ".join(f"{kind}={share!r}" for kind, share in run.kept.items())
            line["curve"] = " ".join(f"{step}={accuracy!r}" for step, accuracy in run.curve)
            line["right"] = " ".join(map(str, run.right))
            writer.writerow(line)


def read_measured(paths: Sequence[Path]) -> list[Measured]:
    """All runs of some files; of one that is in several, the last.

    Raises:
        ValueError: a file is not there or has another form; the message names it, the line and the column.
    """
    found = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: no such file. `make experiment` writes one, measured.csv, beside its tables.")
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [field.name for field in fields(Measured) if field.name not in (reader.fieldnames or [])]
            if missing:
                raise ValueError(f"{path}: it has no column {', '.join(missing)}. `make experiment` writes such files.")
            for line in reader:
                run = _read(line, f"{path}, line {reader.line_num}")
                found[run.domain, run.checkpoint, run.settings, run.percent, run.method, run.layer, run.seed] = run
    return list(found.values())


def _read(line: dict[str, Any], where: str) -> Measured:
    def pairs(text: str) -> list[tuple[str, float]]:
        return [(name, float(value)) for name, _, value in (item.partition("=") for item in text.split())]

    values, field = {}, ""
    readers: dict[str, Any] = {
        "checkpoint": int, "percent": float, "layer": int, "seed": int, "accuracy": float, "asked": int,
        "kept": lambda text: dict(pairs(text)),
        "curve": lambda text: tuple((int(step), accuracy) for step, accuracy in pairs(text)),
        "right": lambda text: tuple(map(int, text.split())),
    }  # fmt: skip
    try:
        for field in (f.name for f in fields(Measured)):
            values[field] = readers.get(field, str)(line[field])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: {field}={line[field]!r} is not readable ({error}). Mend or remove the line."
        ) from None
    run = Measured(**values)
    if not run.right or not all(0 <= right <= run.asked for right in run.right):
        raise ValueError(f"{where}: right={line['right']!r} has a count outside 0 to asked={run.asked}. Mend the line.")
    return run
