"""Scores against slow and obvious ones."""

from __future__ import annotations

import itertools
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.benchmark.extract import Extracted
from stts_lightning.benchmark.items import Item
from stts_lightning.benchmark.score import METRICS, Prediction, metrics_of, scores_by_category, stderr_of, vqa_text


def item(answers=(), options=(), answer=None):
    return Item(
        id="q", kind="all", prompt="", question="", options=tuple(options), answer=answer, answers=tuple(answers),
        category="", media="v",
    )  # fmt: skip


def score(metric, text, *answers):
    return METRICS[metric](Extracted(text=text), item(answers))


def slow_edits(a: str, b: str) -> int:
    @lru_cache(None)
    def edits(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(edits(i - 1, j) + 1, edits(i, j - 1) + 1, edits(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return edits(len(a), len(b))


word = st.text(alphabet="ab c", min_size=1, max_size=6)


@given(word, st.lists(word, min_size=1, max_size=3))
def test_anls_is_the_best_similarity_that_reaches_one_half(text, answers):
    best = 0.0
    for answer in answers:
        a, b = " ".join(text.split()), " ".join(answer.split())
        likeness = 1 - slow_edits(a, b) / max(len(a), len(b), 1)
        best = max(best, likeness if likeness >= 0.5 else 0.0)
    assert score("anls", text.upper(), *answers) == pytest.approx(best, abs=1e-6)


def slow_vqa(said: str, answers: list[str]) -> float:
    """The mean over all groups of nine of the ten people, of a third for each agreement."""
    groups = list(itertools.combinations(answers, len(answers) - 1))
    return sum(min(1.0, sum(a == said for a in group) / 3) for group in groups) / len(groups)


@given(st.lists(st.sampled_from(["cat", "dog", "bird"]), min_size=10, max_size=10))
def test_vqa_accuracy_leaves_each_person_out(answers):
    assert score("vqa", "cat", *answers) == pytest.approx(slow_vqa("cat", answers))


@pytest.mark.parametrize(("agreements", "value"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_as_its_authors_tabulate_it(agreements, value):
    assert score("vqa", "yes", *["yes"] * agreements, *["no"] * (10 - agreements)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Cat.", "cat"), ("two dogs", "2 dogs"), ("don't", "dont"), ("1,000", "1000"), ("3.5", "3.5"),
        ("red/blue", "red blue"), ("a, b", "b"), ("U.S.", "us"),
    ],
)  # fmt: skip
def test_vqa_compares_plain_texts(text, plain):
    assert vqa_text(text) == plain


@pytest.mark.parametrize(
    ("said", "right", "value"),
    [
        ("105", "100", 1), ("105.1", "100", 0), ("95", "100", 1), ("-95", "-100", 1), ("95", "-100", 0),
        ("0.5", "50%", 1), ("50%", "0.5", 1), ("Norway ", "norway", 1), ("Norwa", "norway", 0), ("0.01", "0", 0),
        ("0", "0", 1), ("many", "3", 0),
    ],
)  # fmt: skip
def test_relaxed_is_five_percent_of_the_right_number(said, right, value):
    assert score("relaxed", said, right) == value


@pytest.mark.parametrize(
    ("metric", "said", "right", "value"),
    [
        ("exact", "Left.", "left", 1), ("exact", "Left side", "left", 0), ("exact", "3", "3", 1),
        ("math", "x = 1.24", "1.2", 1), ("math", "1.26", "1.2", 0), ("math", "14", "14", 1), ("math", "14.4", "14", 1),
        ("math", "[1, 2]", "[1, 2]", 1), ("math", "no idea", "14", 0),
        ("open_answer", "about 3.50 m", "3.5", 1), ("open_answer", "35", "3.5", 0),
        ("open_answer", "The Nile river", "nile", 1), ("open_answer", "", "nile", 0),
    ],
)  # fmt: skip
def test_free_answers(metric, said, right, value):
    assert score(metric, said, right) == value


@pytest.mark.parametrize("metric", ["choice", "exact", "open_answer", "math"])
def test_an_option_is_right_by_its_number(metric):
    asked = item(options=("x", "y"), answer=1)
    assert [METRICS[metric](Extracted(choice), asked) for choice in (0, 1, 2, None)] == [0, 1, 0, 0]


def prediction(answer, predicted, category="", video="v", score=None):
    hit = float(answer == predicted) if score is None else score
    return Prediction("q", video, category, "all", "", ("x", "y", "z"), answer, predicted, "", hit, True, True)


choices = st.lists(
    st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 6)), st.sampled_from("abc")),
    min_size=1,
    max_size=20,
)


@given(choices)
def test_micro_counts_hits_and_the_other_mean_weighs_categories_alike(rows):
    predictions = [prediction(answer, said, category) for answer, said, category in rows]
    found = metrics_of(predictions, "m_avg")
    assert found["micro"] == pytest.approx(sum(a == s for a, s, _ in rows) / len(rows), abs=1e-6)
    means = []
    for category in {c for _, _, c in rows}:
        hits = [a == s for a, s, c in rows if c == category]
        means.append(sum(hits) / len(hits))
    assert found["m_avg"] == pytest.approx(sum(means) / len(means))


def test_shares_are_averaged_as_they_are():
    predictions = [prediction(("cat",), "cat", score=0.6), prediction(("dog",), "cow", score=0.0)]
    assert metrics_of(predictions, None) == {"micro": pytest.approx(0.3)}
    assert [p.correct for p in predictions] == [True, False]


def test_questions_on_one_video_are_one_cluster():
    """Two videos, all right and all wrong, two questions each: residuals 1 and -1 by video."""
    rows = [prediction(0, 0, video="a")] * 2 + [prediction(0, 1, video="b")] * 2
    assert stderr_of(rows) == pytest.approx((2 * 2 / 1 / 16) ** 0.5)
    assert stderr_of(rows[:2]) is None


def test_categories():
    rows = [prediction(0, 0, "x"), prediction(0, 1, "x"), prediction(0, 0)]
    assert scores_by_category(rows) == {"all": 1.0, "x": 0.5}
