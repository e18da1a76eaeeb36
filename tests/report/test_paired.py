"""Paired differences against arithmetic and a bootstrap."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from stts_lightning.report.paired import (
    compare,
    paired_difference,
    read_answers,
    seeds_compared,
    sweep_pairs,
    write_paired,
)
from stts_lightning.runs import Result

RNG = np.random.default_rng(3)
VIDEOS, PER_VIDEO = 60, 5


def write_run(folder: Path, correct: np.ndarray, first_id: int = 0) -> Path:
    """(videos, questions) hits; the last question of each video is of another category."""
    folder.mkdir(parents=True)
    lines = []
    for video, hits in enumerate(correct):
        for i, hit in enumerate(hits):
            category = "when" if i == len(hits) - 1 else "where"
            line = {"id": f"{first_id + video}-{i}", "video": f"{video}.mp4", "category": category, "question": "?"}
            line |= {"options": ["a", "b"], "answer": 0, "predicted": 0 if hit else 1, "correct": bool(hit)}
            lines.append(json.dumps(line))
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def clustered(share: float) -> np.ndarray:
    """Hits that videos share: some are easy, some hard."""
    easy = RNG.random((VIDEOS, 1)) < share
    return np.where(RNG.random((VIDEOS, PER_VIDEO)) < 0.8, easy, ~easy)


def test_difference_by_hand(tmp_path: Path) -> None:
    one = read_answers(write_run(tmp_path / "one", np.array([[1, 1], [1, 0], [0, 1]])))
    other = read_answers(write_run(tmp_path / "other", np.array([[0, 0], [1, 0], [1, 1]])))
    found = paired_difference([(one, other)])
    # by question 1 1 | 0 0 | -1 0: mean 1/6; residuals by video 10/6, -2/6, -8/6
    variance = (100 + 4 + 64) / 36 * 3 / 2 / 6**2
    assert (found.mean, found.questions, found.videos) == (pytest.approx(1 / 6), 6, 3)
    assert found.stderr == pytest.approx(variance**0.5)
    assert found.low == pytest.approx(1 / 6 - 1.96 * variance**0.5, abs=1e-4)
    assert found.high == pytest.approx(1 / 6 + 1.96 * variance**0.5, abs=1e-4)


def test_interval_is_a_bootstraps_over_videos(tmp_path: Path) -> None:
    hits = [[clustered(0.8), clustered(0.6)] for _ in range(3)]  # two methods, three seeds
    runs = [
        tuple(read_answers(write_run(tmp_path / f"{seed}{method}", h)) for method, h in enumerate(pair))
        for seed, pair in enumerate(hits)
    ]
    found = paired_difference(runs)
    by_video = np.mean([a.astype(float) - b for a, b in hits], axis=0).mean(axis=1)
    drawn = by_video[RNG.integers(0, VIDEOS, (20000, VIDEOS))].mean(axis=1)
    assert found.mean == pytest.approx(by_video.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.006)
    assert found.by_seed == pytest.approx([a.mean() - b.mean() for a, b in hits])


def test_a_seed_that_differs_is_seen_in_the_sentence(tmp_path: Path) -> None:
    right, wrong = np.ones((4, 2)), np.zeros((4, 2))
    names = (("a0", right), ("b0", right), ("a1", wrong), ("b1", right))
    runs = {name: write_run(tmp_path / name, hits) / "predictions.jsonl" for name, hits in names}
    told = seeds_compared([runs["a0"], runs["a1"]], [runs["b0"], runs["b1"]])
    assert told.startswith("-0.500, ") and "8 questions on 4 videos; by seed +0.000, -1.000." in told


def test_what_both_have_in_common_cancels(tmp_path: Path) -> None:
    hits = clustered(0.7)
    better = hits.copy()
    better[:, 0] = True
    one, other = (read_answers(write_run(tmp_path / name, h)) for name, h in (("one", better), ("other", hits)))
    assert paired_difference([(one, other)]).stderr < 0.5 * paired_difference([(other, invert(other))]).stderr
    assert paired_difference([(one, one)]).low == paired_difference([(one, one)]).high == 0


def invert(answers: dict) -> dict:
    return {key: type(answer)(answer.video, answer.category, not answer.correct) for key, answer in answers.items()}


def test_runs_with_other_questions_are_refused(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one", clustered(0.5)), write_run(tmp_path / "other", clustered(0.5), first_id=1)
    with pytest.raises(ValueError, match=r"different questions: 5 only the first and 5 only the second.*'0-0'"):
        compare(one, other)
    with pytest.raises(ValueError, match=r"none/predictions.jsonl: no such file"):
        compare(one, tmp_path / "none")


def test_a_question_that_stands_twice_is_compared_twice(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", np.array([[1, 0], [1, 1]]))
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    (folder / "predictions.jsonl").write_text("\n".join([*lines, lines[0]]))
    assert len(read_answers(folder)) == 5


def test_compare_says_it_overall_and_by_category(tmp_path: Path) -> None:
    better = np.zeros((VIDEOS, PER_VIDEO), bool)
    worse = better.copy()
    better[:, -1] = True
    said = compare(write_run(tmp_path / "a", better), write_run(tmp_path / "b", worse))
    lines = [line.split() for line in said.splitlines()]
    assert [line[:2] for line in lines[1:]] == [["all", "+0.200"], ["when", "+1.000"], ["where", "+0.000"]]
    assert lines[2][-2:] == ["60", "questions"] and "clustered by 60 videos" in said


def a_result(method: str, percent: float, seed: int, **more: object) -> Result:
    return Result(method, percent, seed, 0.5, None, 64, None, None, None, 1, 1, 10, **more)


def test_a_sweep_compares_what_is_pruned_alike_and_all_with_the_ends(tmp_path: Path) -> None:
    results = {f"none{s}": a_result("none", 0, s) for s in (0, 1)}
    results |= {f"stts{k}{s}": a_result("stts", k, s) for k in (30, 50) for s in (0, 1, 2)}
    results |= {"random50": a_result("random", 50, 1), "floor": a_result("text_only", 100, 7)}
    results |= {"scaled": a_result("stts", 50, 0, variant="test_time_scaling")}
    hits = {name: clustered(0.6) for name in results}
    for name, h in hits.items():
        write_run(tmp_path / name, h)
    pairs = {(p.one, p.other, p.prune_percent): p.difference for p in sweep_pairs(tmp_path, results)}
    assert set(pairs) == {
        ("stts", "none", 30), ("stts", "none", 50), ("random", "none", 50), ("stts-test_time_scaling", "none", 50),
        ("stts", "random", 50), ("stts-test_time_scaling", "stts", 50),
    }  # fmt: skip
    expected = np.mean([hits[f"stts50{s}"].mean() - hits[f"none{s}"].mean() for s in (0, 1)])
    assert pairs["stts", "none", 50].mean == pytest.approx(expected)
    assert len(pairs["stts", "none", 50].by_seed) == 2 and len(pairs["stts", "random", 50].by_seed) == 1

    write_paired(sweep_pairs(tmp_path, results), tmp_path / "paired.csv")
    rows = list(csv.DictReader((tmp_path / "paired.csv").open()))
    line = next(r for r in rows if (r["one"], r["other"], r["prune_percent"]) == ("stts", "none", "50"))
    assert float(line["difference"]) == pytest.approx(expected) and len(line["by_seed"].split()) == 2
