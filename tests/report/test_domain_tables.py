"""The tables of domains and checkpoints, against arithmetic on made-up runs."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stts_lightning.report.collect import Run, Setting
from stts_lightning.report.domains import Swept, averages, gaps, gather, write_domains
from stts_lightning.runs import Result

VIDEOS, QUESTIONS = 6, 4
KEPT = {"event": 0.5, "background": 0.1}


def a_run(folder: Path, method: str, percent: float, seed: int, hits: np.ndarray) -> Result:
    folder.mkdir(parents=True)
    rows = [
        {"id": f"{v}-{q}", "video": f"{v}.mp4", "category": "", "question": "?", "options": ["a", "b"],
         "correct": bool(hits[v, q])}
        for v in range(VIDEOS) for q in range(QUESTIONS)
    ]  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    none = {"samples_per_second": None, "tokens_per_second": None, "peak_memory_gib": None}
    return Result(
        method, percent, seed, float(hits.mean()), 0.01, 26.0, **none, train_seconds=1.0, eval_seconds=1.0,
        num_questions=VIDEOS * QUESTIONS, kept_shares=KEPT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Swept], dict[tuple[str, int, int], np.ndarray]]:
    """Two checkpoints x two seeds in one domain, and the hits by method, checkpoint and seed."""
    root, rng, swept, hits = tmp_path_factory.mktemp("swept"), np.random.default_rng(0), [], {}
    shares = {"stts_saliency": 0.9, "heuristic": 0.5, "text_only": 0.3}
    for checkpoint in (0, 1):
        results = {}
        for method, share in shares.items():
            for seed in (0, 1):
                percent = 100.0 if method == "text_only" else 80.0
                name = f"{method}-k{percent:g}-seed{seed}"
                hits[method, checkpoint, seed] = rng.random((VIDEOS, QUESTIONS)) < share
                results[name] = a_run(
                    root / str(checkpoint) / name, method, percent, seed, hits[method, checkpoint, seed]
                )
        swept.append(Swept("flicker", checkpoint, root / str(checkpoint), results))
    return swept, hits


def test_averages_are_over_checkpoints_and_seeds(made) -> None:
    swept, hits = made
    rows = {row.method: row for row in averages(gather(swept))}
    values = [h.mean() for (method, _, _), h in hits.items() if method == "heuristic"]
    assert rows["heuristic"].runs == 4 and rows["heuristic"].kept == KEPT
    assert rows["heuristic"].accuracy == pytest.approx(np.mean(values))
    assert rows["heuristic"].stderr_runs == pytest.approx(np.std(values, ddof=1) / 2)


def test_gaps_have_the_error_of_videos_and_that_of_runs(made) -> None:
    swept, hits = made
    found = {gap.other: gap for gap in gaps(gather(swept))}
    assert set(found) == {"heuristic", "text_only"}
    runs = [(c, s) for c in (0, 1) for s in (0, 1)]
    each = [hits["stts_saliency", *run].astype(float) - hits["heuristic", *run] for run in runs]
    gap = found["heuristic"]
    assert gap.difference == pytest.approx(np.mean(each)) and gap.runs == 4
    assert gap.stderr_runs == pytest.approx(np.std([e.mean() for e in each], ddof=1) / 2)
    by_video = np.mean(each, axis=0).mean(1)
    assert gap.stderr_videos == pytest.approx(np.std(by_video, ddof=1) / VIDEOS**0.5)
    assert gap.by_checkpoint == pytest.approx([np.mean(each[:2]), np.mean(each[2:])])
    assert found["text_only"].percent == 80 and found["text_only"].standing == "above"


def test_standing_needs_both_errors(made) -> None:
    (gap, *_) = gaps(gather(made[0]))
    for difference, videos, runs, standing in (
        (0.1, 0.04, 0.04, "above"), (0.1, 0.06, 0.04, "level"), (0.1, 0.04, 0.06, "level"), (-0.1, 0.01, 0.02, "below"),
        (0.1, None, None, "level"),
    ):  # fmt: skip
        assert replace(gap, difference=difference, stderr_videos=videos, stderr_runs=runs).standing == standing


def test_files_hold_the_same_numbers(made, tmp_path: Path) -> None:
    files = write_domains(made[0], tmp_path / "out")
    assert [file.name for file in files] == ["tables.md", "cells.csv", "gaps.csv"]  # no run has left pictures
    text = files[0].read_text()
    heuristic = next(row for row in averages(gather(made[0])) if row.method == "heuristic")
    assert f"| heuristic | {heuristic.accuracy:.3f} ± {heuristic.stderr_runs:.3f} (4) |" in text
    assert "| flicker | 80 | heuristic | 0.50 | 0.10 |" in text
    rows = list(csv.DictReader(files[1].open()))
    cell = next(row for row in rows if row["method"] == "heuristic")
    assert float(cell["accuracy"]) == pytest.approx(heuristic.accuracy) and cell["kept_event"] == "0.5"
    assert {row["other"] for row in csv.DictReader(files[2].open())} == {"heuristic", "text_only"}


def test_a_run_that_is_missing_is_left_out_of_its_pairs(made) -> None:
    swept = [made[0][0], made[0][1]._replace(results={})]
    assert {gap.runs for gap in gaps(gather(swept))} == {2}
    assert gaps(gather([s._replace(results={}) for s in swept])) == []


def test_runs_from_different_checkpoints_are_no_seeds_of_each_other() -> None:
    def setting_of(**params: str) -> Setting:
        of_run = {"backbone.name": "tiny", "data.name": "generated", **params}
        return Run("1", "x", "run", "saliency", "f", None, "FINISHED", 0, {}, of_run, {}).setting

    first = setting_of(**{"backbone.tiny.seed": "0"})
    assert first == setting_of() and first.backbone == "tiny"
    assert setting_of(**{"backbone.tiny.seed": "2"}).backbone == "tiny (checkpoint 2)"
