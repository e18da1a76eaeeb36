"""The tables of domains and checkpoints, against arithmetic on made-up runs."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stts_lightning.cli import main
from stts_lightning.report.collect import Run, Setting
from stts_lightning.report.domains import Swept, averages, gaps, gather, measured_runs, tables, write_domains
from stts_lightning.report.measured import Measured, measured_run, read_measured, write_measured
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
    rows = {row.method: row for row in averages(gather(measured_runs(swept, "")))}
    values = [h.mean() for (method, _, _), h in hits.items() if method == "heuristic"]
    assert rows["heuristic"].runs == 4 and rows["heuristic"].kept == KEPT
    assert rows["heuristic"].accuracy == pytest.approx(np.mean(values))
    assert rows["heuristic"].stderr_runs == pytest.approx(np.std(values, ddof=1) / 2)


def test_gaps_have_the_error_of_videos_and_that_of_runs(made) -> None:
    swept, hits = made
    found = {gap.other: gap for gap in gaps(gather(measured_runs(swept, "")))}
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
    (gap, *_) = gaps(gather(measured_runs(made[0], "")))
    for difference, videos, runs, standing in (
        (0.1, 0.04, 0.04, "above"), (0.1, 0.06, 0.04, "level"), (0.1, 0.04, 0.06, "level"), (-0.1, 0.01, 0.02, "below"),
        (0.1, None, None, "level"),
    ):  # fmt: skip
        assert replace(gap, difference=difference, stderr_videos=videos, stderr_runs=runs).standing == standing


def test_files_hold_the_same_numbers(made, tmp_path: Path) -> None:
    files = write_domains(made[0], "", tmp_path / "out")
    names = ["measured.csv", "tables.md", "cells.csv", "gaps.csv"]
    assert [file.name for file in files] == names  # no run has left pictures
    assert read_measured(files[:1]) == measured_runs(made[0], "")
    text = files[1].read_text()
    assert tables(read_measured(files[:1])) in text
    heuristic = next(row for row in averages(gather(measured_runs(made[0], ""))) if row.method == "heuristic")
    assert f"| heuristic | {heuristic.accuracy:.3f} ± {heuristic.stderr_runs:.3f} (4) |" in text
    assert "| flicker | 80 | heuristic | 0.50 | 0.10 |" in text
    rows = list(csv.DictReader(files[2].open()))
    cell = next(row for row in rows if row["method"] == "heuristic")
    assert float(cell["accuracy"]) == pytest.approx(heuristic.accuracy) and cell["kept_event"] == "0.5"
    assert {row["other"] for row in csv.DictReader(files[3].open())} == {"heuristic", "text_only"}


def test_a_run_that_is_missing_is_left_out_of_its_pairs(made) -> None:
    swept = [made[0][0], made[0][1]._replace(results={})]
    assert {gap.runs for gap in gaps(gather(measured_runs(swept, "")))} == {2}
    assert gaps(gather([])) == []


def test_runs_from_different_checkpoints_are_no_seeds_of_each_other() -> None:
    def setting_of(**params: str) -> Setting:
        of_run = {"backbone.name": "tiny", "data.name": "generated", **params}
        return Run("1", "x", "run", "saliency", "f", None, "FINISHED", 0, {}, of_run, {}).setting

    first = setting_of(**{"backbone.tiny.seed": "0"})
    assert first == setting_of() and first.backbone == "tiny"
    assert setting_of(**{"backbone.tiny.seed": "2"}).backbone == "tiny (checkpoint 2)"


LINE = Measured(
    "decoy", 0, "", 80.0, "stts_saliency", 0, 1, 0.5, {"event": 0.75}, ((20, 0.25), (40, 0.5)), "abc", 4, (4, 0, 2)
)


def test_what_is_read_is_what_was_written_and_the_last_of_several_files_counts(tmp_path: Path) -> None:
    again = replace(LINE, accuracy=0.75, right=(4, 3, 2))
    other = replace(LINE, settings="prune.preset=released", kept={}, curve=())
    write_measured([LINE, other], tmp_path / "one.csv")
    write_measured([again], tmp_path / "two.csv")
    assert read_measured([tmp_path / "one.csv"]) == [LINE, other]
    assert read_measured([tmp_path / "one.csv", tmp_path / "two.csv"]) == [again, other]


def test_steps_are_those_to_a_share_of_the_last_accuracy() -> None:
    curve = ((20, 0.1), (40, 0.77), (60, 0.75), (80, 0.8))  # 95 % of .8 are .76
    early, late = replace(LINE, curve=curve), replace(LINE, seed=2, curve=((20, 0.2), (90, 0.7)))
    assert early.steps_to(0.95) == 40 and early.steps_to(1.0) == 80 and late.steps_to(0.95) == 90
    assert replace(LINE, curve=()).steps_to(0.95) is None
    assert "| decoy | 80 | stts_saliency | 65 | 40, 90 |" in tables([early, late])
    assert "Steps to" not in tables([replace(LINE, curve=())])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("4 0 2", "4 0 5", r"line 2: right='4 0 5' has a count outside 0 to asked=4"),
        ("4 0 2", "", r"line 2: right='' has a count"),
        ("4 0 2", "4 x 2", r"line 2: right='4 x 2' is not readable"),
        ("event=0.75", "event", r"line 2: kept='event' is not readable"),
        (",80.0,", ",much,", r"line 2: percent='much' is not readable"),
        ("percent", "per", r"no column percent"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    write_measured([LINE], tmp_path / "m.csv")
    text = (tmp_path / "m.csv").read_text()
    assert old in text
    (tmp_path / "m.csv").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"m.csv.*{told}"):
        read_measured([tmp_path / "m.csv"])
    with pytest.raises(ValueError, match="gone.csv: no such file"):
        read_measured([tmp_path / "gone.csv"])


def test_the_command_prints_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_measured([LINE], tmp_path / "m.csv")
    assert main(["tables", str(tmp_path / "m.csv")]) == 0
    assert capsys.readouterr().out == tables([LINE]) + "\n"
    assert main(["tables", str(tmp_path / "gone.csv")]) == 2 and "no such file" in capsys.readouterr().err


def test_videos_with_different_numbers_of_questions_are_refused(tmp_path: Path) -> None:
    result = a_run(tmp_path / "run", "random", 80.0, 0, np.ones((VIDEOS, QUESTIONS), bool))
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    (tmp_path / "run" / "predictions.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="videos have 3, 4 questions"):
        measured_run("main", 0, "", result, tmp_path / "run")


def test_other_settings_are_rows_of_their_own_and_compared_with_what_is_comparable() -> None:
    def run(method: str, settings: str, seed: int, right: tuple[int, ...], percent: float = 80.0) -> Measured:
        return replace(LINE, method=method, settings=settings, seed=seed, right=right, percent=percent)

    subject, cold = [run("stts_saliency", "", s, (4, 3, 4)) for s in (0, 1)], "aux.scorer_warmup_steps=0"
    runs = [
        *subject,
        run("stts_saliency", cold, 0, (4, 1, 4)),
        run("stts", "", 0, (2, 2, 2)),
        run("stts", cold, 0, (0, 0, 4)),
        run("stts", "prune.preset=released", 1, (1, 1, 1)),
        run("stts", "", 0, (4, 4, 4), percent=50.0),
        run("none", "", 0, (4, 4, 4), percent=0.0),
    ]
    found = {(gap.one, gap.other): (round(gap.difference * 12), gap.runs) for gap in gaps(gather(runs))}
    assert found == {
        ("stts_saliency", "none"): (-1, 1),
        ("stts_saliency", "stts"): (5, 1),
        ("stts_saliency", f"stts, {cold}"): (7, 1),
        ("stts_saliency", "stts, prune.preset=released"): (8, 1),
        (f"stts_saliency, {cold}", "stts_saliency"): (-2, 1),
        (f"stts_saliency, {cold}", f"stts, {cold}"): (5, 1),
    }
    text = tables(runs)
    assert f"| stts_saliency, {cold} | " in text and "| stts_saliency | " in text
    assert f"| decoy | 80 | stts, {cold} | 0.75 |" in text


def test_what_was_trained_or_tested_on_something_else_is_compared_with_its_like_alone() -> None:
    few, deep = "data.questions_per_clip=1", "backbone.tiny.vit_layers=6; backbone.tiny.feature_layers=[5, 4]"
    cold = "aux.scorer_warmup_steps=0"
    settings = [("stts_saliency", s) for s in ("", few, deep, f"{few}; {cold}")] + [("stts", few), ("stts", deep)]
    runs = [replace(LINE, method=method, settings=s) for method, s in settings]
    assert {(gap.one, gap.other) for gap in gaps(gather(runs))} == {
        (f"stts_saliency, {few}", f"stts, {few}"),
        (f"stts_saliency, {deep}", f"stts, {deep}"),
        (f"stts_saliency, {few}; {cold}", f"stts_saliency, {few}"),
    }


def test_layers_are_told_where_a_method_has_several() -> None:
    at = {layer: [replace(LINE, layer=layer), replace(LINE, method="stts", layer=layer)] for layer in (0, 2)}
    heuristic = replace(LINE, method="heuristic")
    found = {(gap.one, gap.other) for gap in gaps(gather([*at[0], *at[2], heuristic]))}
    assert found == {
        ("stts_saliency, l = 0", "stts, l = 0"),
        ("stts_saliency, l = 2", "stts, l = 2"),
        ("stts_saliency, l = 0", "heuristic"),
    }
    text = tables([*at[0], *at[2], heuristic])
    assert "| stts, l = 2 | 0.500 (1) |" in text and "| decoy | 80 | stts_saliency, l = 2 | 0.75 |" in text
    assert "| decoy | 80 | stts_saliency, l = 0 | 40 | 40 |" in text
    assert "l = " not in tables([*at[0], heuristic])
