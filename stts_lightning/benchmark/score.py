"""From extracted answers to a benchmark's numbers."""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.text import edit_distance

from stts_lightning.benchmark.extract import NUMBER_WORDS, Extracted
from stts_lightning.benchmark.items import Item
from stts_lightning.metrics.accuracy import clustered_accuracy

RELAXED = 0.05  # ChartQA: share of the right number that an answer may be off
ANLS_LEAST = 0.5  # DocVQA: a similarity below it is worth nothing
VOTES = 3  # VQA: so many of the other nine people make an answer right
ARTICLES = {"a", "an", "the"}


def choice(said: Extracted, item: Item) -> float:
    return float(said.choice is not None and said.choice == item.answer)


def exact(said: Extracted, item: Item) -> float:
    """The option, or without options the text, lower case and without outer punctuation."""
    if item.options:
        return choice(said, item)
    return float(_bare(said.text) in {_bare(answer) for answer in item.answers})


def open_answer(said: Extracted, item: Item) -> float:
    """The option, or a free answer that holds a right one: a number by its value, words by their text (MMMU)."""
    if item.options:
        return choice(said, item)
    numbers = [float(n.replace(",", "")) for n in re.findall(r"-?\d[\d,]*\.?\d*", said.text)]
    for answer in item.answers:
        value = _number(answer.replace(",", ""))
        if value is not None:
            if any(round(value, 2) == round(n, 2) for n in numbers):
                return 1.0
        elif _bare(answer) and _bare(answer) in said.text.lower():
            return 1.0
    return 0.0


def math(said: Extracted, item: Item) -> float:
    """MathVista: the option, or the last number of the answer at the right one's decimal places, or the same text."""
    if item.options:
        return choice(said, item)
    right = item.answers[0]
    numbers = re.findall(r"-?\d+\.?\d*", said.text.replace(",", ""))
    if _number(right) is None or not numbers:
        return float(said.text == right)
    places = len(right.partition(".")[2])
    return float(round(float(numbers[-1]), places) == round(float(right), places))


def relaxed(said: Extracted, item: Item) -> float:
    """ChartQA: within 5 % of the right number, else the same text."""
    for answer in item.answers:
        target, value = _percentage(answer), _percentage(said.text)
        if target and value is not None:
            if abs(value - target) <= RELAXED * abs(target):
                return 1.0
        elif said.text.strip().lower() == answer.strip().lower():
            return 1.0
    return 0.0


def anls(said: Extracted, item: Item) -> float:
    """DocVQA and InfoQA: 1 - edits / length of the longer text, best of the right answers, nothing below one half."""
    if not item.answers:
        return 0.0
    text, answers = _squeeze(said.text), [_squeeze(answer) for answer in item.answers]
    edits = edit_distance([text] * len(answers), answers, reduction="none").tolist()
    likeness = [1 - e / max(len(text), len(a), 1) for e, a in zip(edits, answers, strict=True)]
    return max(likeness) if max(likeness) >= ANLS_LEAST else 0.0


def vqa(said: Extracted, item: Item) -> float:
    """VQA: a third for each of the other people who said the same, at most 1, averaged over leaving each person out."""
    votes = Counter(map(vqa_text, item.answers))
    same, people = votes[vqa_text(said.text)], len(item.answers)
    left_out = same * min(1.0, (same - 1) / VOTES) + (people - same) * min(1.0, same / VOTES)
    return left_out / people if people else 0.0


def vqa_text(text: str) -> str:
    """Lower case, digits for number words, no articles, apostrophes or punctuation but in numbers."""
    text = text.lower().replace("\n", " ").replace("'", "")
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = re.sub(r"[;/\[\]\"{}()=+\\_\-><@`,?!]", " ", text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)
    words = [str(NUMBER_WORDS.index(word)) if word in NUMBER_WORDS[:11] else word for word in text.split()]
    return " ".join(word for word in words if word not in ARTICLES)


METRICS: dict[str, Callable[[Extracted, Item], float]] = {
    metric.__name__: metric for metric in (choice, exact, open_answer, math, relaxed, anls, vqa)
}


def _bare(text: str) -> str:
    return text.strip().lower().strip(string.punctuation + " ")


def _squeeze(text: str) -> str:
    return " ".join(text.lower().split())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _percentage(text: str) -> float | None:
    text = text.strip()
    value = _number(text.rstrip("%"))
    return value / 100 if value is not None and text.endswith("%") else value


@dataclass(frozen=True)
class Prediction:
    """One question and what was said to it; a line of predictions.jsonl. ``predicted`` and ``answer`` are numbers of
    options, or texts where there are none. ``counted`` is False for what the benchmark leaves out of its accuracy."""

    id: str
    video: str
    category: str
    kind: str
    question: str
    options: tuple[str, ...]
    answer: int | tuple[str, ...] | None
    predicted: int | str | None
    text: str  # as it was written
    score: float  # 0-1
    parsed: bool
    counted: bool

    @property
    def correct(self) -> bool:
        """Half right is right: a share of the people (VQA) or of the letters (ANLS)."""
        return self.score >= 0.5


@dataclass(frozen=True)
class BenchmarkResult:
    """``accuracy`` (0-1) is what the paper's column shows, ``metrics`` all that are usual for the benchmark."""

    name: str
    title: str
    group: str
    control: str
    accuracy: float
    stderr: float | None  # clustered by video
    metrics: dict[str, float]
    by_category: dict[str, float]
    num_questions: int
    num_counted: int
    num_unparsed: int
    unparsed_policy: str
    dropped: dict[str, int] = field(default_factory=dict)  # by reason
    note: str = ""
    predictions: tuple[Prediction, ...] = ()


def metrics_of(predictions: Sequence[Prediction], category_mean: str | None) -> dict[str, float]:
    """``micro`` over all questions and, where it is usual, the unweighted mean over categories (MLVU's M-avg)."""
    values = {"micro": _micro(predictions)}
    if category_mean is not None:
        values[category_mean] = _mean(list(scores_by_category(predictions).values()))
    return values


def _micro(predictions: Sequence[Prediction]) -> float:
    """torchmetrics' accuracy where every question has options, else the mean score."""
    if not all(isinstance(p.answer, int) for p in predictions):
        return _mean([p.score for p in predictions])
    right: Any = [p.answer for p in predictions]
    classes = max(right) + 2  # one more for what is not an answer to this question
    said = [p.predicted if isinstance(p.predicted, int) and p.predicted < classes else classes - 1 for p in predictions]
    accuracy = MulticlassAccuracy(num_classes=classes, average="micro")
    return float(accuracy(torch.tensor(said), torch.tensor(right)))


def scores_by_category(predictions: Sequence[Prediction]) -> dict[str, float]:
    groups: dict[str, list[float]] = defaultdict(list)
    for prediction in predictions:
        groups[prediction.category or "all"].append(prediction.score)
    return {name: _mean(scores) for name, scores in sorted(groups.items())}


def stderr_of(predictions: Sequence[Prediction]) -> float | None:
    """Standard error of the mean score, videos as clusters; None with fewer than two videos."""
    return clustered_accuracy([p.score for p in predictions], [p.video for p in predictions]).stderr


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
