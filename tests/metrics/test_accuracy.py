from __future__ import annotations

import numpy as np
import pytest
import torch

from stts_lightning.data.encode import Asked
from stts_lightning.data.records import Question
from stts_lightning.metrics.accuracy import by_category, clustered_accuracy
from stts_lightning.metrics.answers import read_answers


def test_one_question_a_video_gives_the_plain_standard_error() -> None:
    correct = [True] * 30 + [False] * 10
    accuracy = clustered_accuracy(correct, [str(i) for i in range(40)])
    assert accuracy.mean == 0.75
    assert accuracy.stderr == pytest.approx(np.std(np.array(correct, float), ddof=1) / 40**0.5)


def test_copies_of_a_question_add_no_information() -> None:
    correct, videos = [True, False, True], ["a", "b", "c"]
    once = clustered_accuracy(correct, videos)
    assert clustered_accuracy(correct * 5, videos * 5).stderr == pytest.approx(once.stderr)


def test_standard_error_matches_resampling_of_whole_videos() -> None:
    """A cluster bootstrap knows nothing of the formula."""
    rng = np.random.default_rng(0)
    skill = rng.uniform(0, 1, 60)
    groups = [rng.uniform(size=12) < p for p in skill]
    correct = [bool(hit) for group in groups for hit in group]
    videos = [str(i) for i, group in enumerate(groups) for _ in group]
    draws = [np.mean([groups[i].mean() for i in rng.integers(0, 60, 60)]) for _ in range(4000)]
    assert clustered_accuracy(correct, videos).stderr == pytest.approx(np.std(draws), rel=0.1)


def test_one_video_has_no_standard_error_and_none_is_an_error() -> None:
    assert clustered_accuracy([True, False], ["a", "a"]).stderr is None
    with pytest.raises(ValueError, match="No question"):
        clustered_accuracy([], [])


def test_categories_are_apart() -> None:
    assert by_category([True, False, True], ["b", "b", ""]) == {"all": 1.0, "b": 0.5}


def test_answer_is_the_likeliest_letter_and_nothing_else() -> None:
    question = Question("q", "?", ("x", "y"), 1, "c")
    logits = torch.zeros(1, 3, 10)
    logits[0, 2, 9] = 50  # no option's letter
    logits[0, 2, 4] = 1  # B
    # Token 7 of the given prompt stands at place 2 of the shortened one.
    index = torch.tensor([[0, 5, 7]])
    (prediction,) = read_answers(logits, index, [[Asked(question, 7, [3, 4])]], ["v"])
    assert prediction.predicted == 1 and prediction.correct
    assert sum(np.exp(prediction.letter_scores)) == pytest.approx(1, abs=1e-3)
