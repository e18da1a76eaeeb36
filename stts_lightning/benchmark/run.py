"""Ask a benchmark's questions and count; any model, or none."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from stts_lightning.benchmark.declare import Benchmark
from stts_lightning.benchmark.extract import RULES, unparsed_policy
from stts_lightning.benchmark.items import Item
from stts_lightning.benchmark.score import (
    METRICS,
    BenchmarkResult,
    Prediction,
    metrics_of,
    scores_by_category,
    stderr_of,
)
from stts_lightning.config import BENCHMARK_CONTROLS
from stts_lightning.data.prompts import LETTERS
from stts_lightning.runs import write_json

Answer = Callable[[Item], str]


@runtime_checkable
class AnswersMany(Protocol):
    """An answerer that would rather have all questions at once, to batch them."""

    def __call__(self, item: Item) -> str: ...

    def many(self, items: Sequence[Item]) -> list[str]: ...


def run_benchmark(
    benchmark: Benchmark,
    items: Sequence[Item],
    answer: Answer,
    *,
    control: str = "none",
    seed: int = 0,
    dropped: dict[str, int] | None = None,
) -> BenchmarkResult:
    """Answer every question, read the answers by the benchmark's rule and score them.

    Args:
        answer: what a model writes to a question.
        control: ``random_choice`` guesses and asks nobody; ``no_vision`` hands on the questions without video,
            pictures and subtitles.
        seed: of guesses.
        dropped: from `load_items`, for the record.

    Raises:
        ValueError: an unknown control, one that the benchmark does not have, or nothing to average.
    """
    answer = controlled(benchmark, items, answer, control, seed)
    if control == "no_vision":
        items = [blind(item) for item in items]
    texts = answer.many(items) if isinstance(answer, AnswersMany) else [answer(item) for item in items]
    predictions = tuple(_judge(benchmark, item, text, seed) for item, text in zip(items, texts, strict=True))
    return summarise(benchmark, predictions, control, dropped or {})


def controlled(benchmark: Benchmark, items: Sequence[Item], answer: Answer, control: str, seed: int) -> Answer:
    """The answerer of a control."""
    if control not in BENCHMARK_CONTROLS:
        raise ValueError(f"benchmark.control={control!r} is not one of {', '.join(BENCHMARK_CONTROLS)}.")
    if control != "none" and control not in benchmark.controls:
        raise ValueError(f"benchmark {benchmark.name} has no control {control!r}: {', '.join(benchmark.controls)}.")
    return random_choice(items, seed) if control == "random_choice" else answer


def random_choice(items: Sequence[Item], seed: int) -> Answer:
    """A uniform guess among the options; where there are none, among all right answers of the benchmark."""
    right = sorted({text for item in items for text in item.answers})

    def answer(item: Item) -> str:
        draw = random.Random(f"{seed} random_choice {item.id}")
        if not item.options:
            return draw.choice(right)
        index = draw.randrange(len(item.options))
        return item.options[index] if item.options == ("yes", "no") else LETTERS[index]

    return answer


def blind(item: Item) -> Item:
    """The same question with nothing to look at."""
    return replace(item, video=None, start=None, end=None, images=(), subtitles=())


def _judge(benchmark: Benchmark, item: Item, text: str, seed: int) -> Prediction:
    ask = benchmark.ask[item.kind]
    said = RULES[ask.extract](text, item, seed)
    return Prediction(
        id=item.id,
        video=item.media,
        category=item.category,
        kind=item.kind,
        question=item.question,
        options=item.options,
        answer=item.answer if item.options else item.answers,
        predicted=said.choice if item.options else said.text,
        text=text,
        score=METRICS[ask.metric](said, item),
        parsed=said.parsed,
        counted=said.counted,
    )


def summarise(
    benchmark: Benchmark, predictions: Sequence[Prediction], control: str, dropped: dict[str, int]
) -> BenchmarkResult:
    """The benchmark's numbers over the predictions that count."""
    counted = [prediction for prediction in predictions if prediction.counted]
    if not counted:
        raise ValueError(
            f"benchmark {benchmark.name}: not one of {len(predictions)} answers could be read, and this benchmark "
            "leaves such questions out. Look at the answers: the model does not follow the prompt."
        )
    metrics = metrics_of(counted, benchmark.category_mean)
    policies = {unparsed_policy(ask.extract) for ask in benchmark.ask.values()}
    other_split = f"the paper's column is the split {benchmark.paper_split}" if benchmark.paper_split else ""
    return BenchmarkResult(
        name=benchmark.name,
        title=benchmark.title,
        group=benchmark.group,
        control=control,
        accuracy=metrics["micro"],
        stderr=stderr_of(counted),
        metrics=metrics,
        by_category=scores_by_category(counted),
        num_questions=len(predictions),
        num_counted=len(counted),
        num_unparsed=sum(not prediction.parsed for prediction in predictions),
        unparsed_policy=", ".join(sorted(policies)),
        dropped=dropped,
        note=other_split,
        predictions=tuple(predictions),
    )


def save_result(result: BenchmarkResult, folder: Path) -> None:
    """``predictions.jsonl``, a line a question, and ``result.json`` with everything else."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({**asdict(p), "correct": p.correct}, ensure_ascii=False) for p in result.predictions]
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    body: dict[str, Any] = asdict(replace(result, predictions=()))
    del body["predictions"]
    write_json(folder / "result.json", body)


def describe(result: BenchmarkResult) -> str:
    """One line for the terminal: the number, and everything that qualifies it."""
    stderr = "" if result.stderr is None else f" +- {result.stderr:.3f}"
    parts = [f"{result.title}: {result.accuracy:.3f}{stderr} on {result.num_counted} questions"]
    parts += [f"{name} {value:.3f}" for name, value in result.metrics.items() if name != "micro"]
    if result.control != "none":
        parts.append(f"control {result.control}")
    if result.num_unparsed:
        parts.append(f"{result.num_unparsed} answers unparsable ({result.unparsed_policy})")
    parts += [f"{count} dropped: {reason}" for reason, count in Counter(result.dropped).items()]
    return "; ".join([*parts, result.note] if result.note else parts)
