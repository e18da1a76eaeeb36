"""Two runs on the same questions: what one answers better than the other, question by question.

Both saw the same videos, so most of what makes a run's accuracy uncertain is common to both and cancels: the
interval of the difference is narrower than the two accuracies let expect.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stts_lightning.config import FIXED_PERCENT
from stts_lightning.metrics.accuracy import clustered_accuracy
from stts_lightning.report.tables import Series, method_rank, row, series_names
from stts_lightning.runs import Result, RunDir

Z_95 = 1.959964  # of the normal distribution, both sides


@dataclass(frozen=True)
class Answer:
    video: str
    category: str
    correct: bool


Answers = dict[tuple[Any, ...], Answer]


@dataclass(frozen=True)
class Difference:
    """Accuracy of one minus that of the other, 0-1, by question, averaged over the seeds that both have.

    The standard error is clustered by video and of these seeds: how much others would differ is seen in ``by_seed``.
    ``low`` and ``high`` are the 95 % interval. All three are None with fewer than two videos.
    """

    mean: float
    stderr: float | None
    low: float | None
    high: float | None
    questions: int
    videos: int
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    """A line of a sweep's table of differences."""

    one: str
    other: str
    prune_percent: float  # of the first; the other has the same, or is one of the two ends
    difference: Difference


def read_answers(run_dir: str | Path) -> Answers:
    """The answers of a run by question: its id, text and options, and the how-manieth of these it is.

    Raises:
        ValueError: the folder has no predictions.
    """
    path = RunDir(Path(run_dir)).predictions
    if not path.is_file():
        raise ValueError(f"{path}: no such file. A finished run's folder has one; name that folder.")
    answers: Answers = {}
    seen: Counter[tuple[Any, ...]] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        key = (str(item["id"]), item["question"], *item["options"])
        answers[(*key, seen[key])] = Answer(item["video"], item["category"] or "all", bool(item["correct"]))
        seen[key] += 1
    return answers


def paired_difference(pairs: Sequence[tuple[Answers, Answers]], category: str | None = None) -> Difference:
    """Compare two runs a seed.

    Raises:
        ValueError: not all of them answered the same questions.
    """
    first = pairs[0][0]
    for answers in itertools.chain.from_iterable(pairs):
        _same_questions(first, answers)
    keys = [key for key, answer in first.items() if category in (None, answer.category)]
    by_seed = [[one[key].correct - other[key].correct for key in keys] for one, other in pairs]
    mean_by_question = [sum(seeds) / len(pairs) for seeds in zip(*by_seed, strict=True)]
    videos = [first[key].video for key in keys]
    mean, stderr = clustered_accuracy(mean_by_question, videos)
    margin = None if stderr is None else Z_95 * stderr
    return Difference(
        mean,
        stderr,
        None if margin is None else mean - margin,
        None if margin is None else mean + margin,
        len(keys),
        len(set(videos)),
        tuple(sum(seed) / len(keys) for seed in by_seed),
    )


def by_category(one: Answers, other: Answers) -> dict[str, Difference]:
    categories = sorted({answer.category for answer in one.values()})
    return {category: paired_difference([(one, other)], category) for category in categories}


def sweep_pairs(folder: Path, results: Mapping[str, Result]) -> list[Pair]:
    """Every two series of one percentage, and each against the two ends, over the seeds that both have.

    Runs without predictions are left out.
    """
    rows = {name: row(result) for name, result in results.items()}
    names = series_names(rows.values())
    runs: dict[tuple[Series, float], dict[int, Answers]] = {}
    for name, r in rows.items():
        if RunDir(folder / name).predictions.is_file():
            runs.setdefault((r.series, r.prune_percent), {})[r.seed] = read_answers(folder / name)
    pairs = []
    for one, other in itertools.combinations(sorted(runs, key=_order), 2):
        seeds = sorted(runs[one].keys() & runs[other].keys())
        if seeds and (one[1] == other[1] or other[0].method in FIXED_PERCENT):
            found = paired_difference([(runs[one][seed], runs[other][seed]) for seed in seeds])
            pairs.append(Pair(names[one[0]], names[other[0]], one[1], found))
    return pairs


def _order(run: tuple[Series, float]) -> tuple[Any, ...]:
    """By percentage, the two ends last: they are what the others are compared with."""
    series, percent = run
    return series.method in FIXED_PERCENT, percent, method_rank(series.method), series


def write_paired(pairs: Sequence[Pair], path: Path) -> None:
    """paired.csv, at full precision."""
    rows = []
    for pair in pairs:
        found = asdict(pair.difference)
        by_seed = " ".join(map(str, found.pop("by_seed")))
        rows.append({**asdict(pair), "difference": found.pop("mean"), **found, "by_seed": by_seed})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def paired_markdown(pairs: Sequence[Pair]) -> str:
    lines = ["| k % | difference of | mean | 95 % interval | by seed |", "|---:|---|---:|---|---|"]
    for pair in pairs:
        by_seed = ", ".join(f"{value:+.3f}" for value in pair.difference.by_seed)
        told = f"{pair.difference.mean:+.3f} | {interval(pair.difference)} | {by_seed}"
        lines.append(f"| {pair.prune_percent:g} | {pair.one} - {pair.other} | {told} |")
    return "\n".join(lines)


def interval(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return "unknown: one video"
    return f"{difference.low:+.3f} to {difference.high:+.3f}"


def seeds_compared(ones: Sequence[Path], others: Sequence[Path]) -> str:
    """A sentence on two methods, given the predictions of their runs, a pair a seed."""
    pairs = [(read_answers(a.parent), read_answers(b.parent)) for a, b in zip(ones, others, strict=True)]
    found = paired_difference(pairs)
    by_seed = ", ".join(f"{value:+.3f}" for value in found.by_seed)
    return (
        f"{found.mean:+.3f}, 95 % interval over the videos {interval(found)}, "
        f"{found.questions} questions on {found.videos} videos; by seed {by_seed}."
    )


def compare(one: str | Path, other: str | Path) -> str:
    """What `make compare` prints: overall, then by category.

    Raises:
        ValueError: a folder has no predictions, or the runs answered different questions.
    """
    first, second = read_answers(one), read_answers(other)
    overall = paired_difference([(first, second)])
    table = [("all", overall), *by_category(first, second).items()]
    width = max(len(name) for name, _ in table)
    lines = [f"{one} minus {other}, accuracy by question, clustered by {overall.videos} videos:"]
    for name, found in table:
        told = f"{found.mean:+.3f}  95 % {interval(found)}  {found.questions} questions"
        lines.append(f"  {name:<{width}}  {told}")
    return "\n".join(lines)


def _same_questions(one: Answers, other: Answers) -> None:
    if one.keys() == other.keys():
        return
    only_one, only_other = [key[:2] for key in one if key not in other], [key[:2] for key in other if key not in one]
    some = "; ".join(f"{name!r} ({text})" for name, text in (only_one + only_other)[:3])
    raise ValueError(
        f"the runs answered different questions: {len(only_one)} only the first and {len(only_other)} only the second, "
        f"such as {some}. Evaluate both on the same data."
    )
