"""Runs that evaluate the models of other runs, with a stand-in for training."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from databases import empty_database
from rich.console import Console

from stts_lightning.config import REPOSITORY, Config, SweepConfig, TrackingConfig, load_config
from stts_lightning.report.mlflow_runs import EXPERIMENT_TAG, PARENT_TAG, VARIANT_TAG, tracking_client
from stts_lightning.runs import read_result
from stts_lightning.sweep import run_sweep
from stts_lightning.sweep.estimate import Clock
from stts_lightning.sweep.plan import sweep_folder
from stts_lightning.sweep.run import Run, run_config

FAKE_TRAIN = (sys.executable, str(REPOSITORY / "tests" / "report" / "fake_train.py"))
ALL = {
    "none-seed0": "trained",
    "stts-k50-seed0": "trained",
    "tome-k50-inference_only-seed0": "inference_only",
    "stts-k50-test_time_scaling-seed0": "test_time_scaling",
}


def a_config(out: Path, seed: int = 0, tracking: bool = False) -> Config:
    uri = empty_database(out / "m.db") if tracking and not (out / "m.db").exists() else f"sqlite:///{out}/m.db"
    return Config(
        output_dir=str(out),
        sweep=SweepConfig([50.0], ["stts"], ["tome"], seeds=[seed], jobs=3, test_time_scaling=True),
        tracking=TrackingConfig(enabled=tracking, uri=uri, artifacts=str(out / "artifacts"), experiment="e"),
    )


def call(config: Config) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=100)
    status = run_sweep(config, command=FAKE_TRAIN, calibrate=None, console=console)
    return status, console.file.getvalue()


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text().splitlines())


def test_what_is_evaluated_starts_when_its_model_is_there_and_is_in_the_table(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    status, said = call(config)  # three at a time: there is room for what has to wait
    folder = sweep_folder(config)
    assert status == 0 and {name: read_result(folder / name).variant for name in ALL} == ALL
    assert read_result(folder / "stts-k50-test_time_scaling-seed0").max_frames == 128
    for source, name in (("none-seed0", "tome-k50-inference_only-seed0"), ("stts-k50-seed0", list(ALL)[-1])):
        done, started = folder / source / "result.json", folder / name / "config.yaml"  # written before the process
        assert started.stat().st_mtime_ns > done.stat().st_mtime_ns
    table = (folder / "results.csv").read_text()
    assert [line.split(",")[-2:] for line in table.splitlines()[1:]] == [
        ["trained", "64"], ["trained", "64"], ["test_time_scaling", "128"], ["inference_only", "64"]
    ]  # fmt: skip
    assert "inference_only" in (folder / "results.md").read_text() and "tome *" in said

    assert call(config)[0] == 0
    assert {name: starts(folder / name) for name in ALL} == dict.fromkeys(ALL, 1)


def test_what_would_evaluate_a_failed_run_is_not_started_and_said_so(tmp_path: Path) -> None:
    config = a_config(tmp_path, seed=13)
    status, said = call(config)
    assert status == 1 and "4 failed" in said
    assert "FAILED tome-k50-inference_only-seed13: not started: it evaluates the model of none-seed13" in said
    assert not (sweep_folder(config) / "tome-k50-inference_only-seed13").exists()


def test_a_run_on_a_model_that_is_trained_anew_is_evaluated_anew(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    folder = sweep_folder(config)
    assert call(config)[0] == 0
    shutil.rmtree(folder / "none-seed0")
    status, said = call(config)
    assert status == 0 and "model of none-seed0 that is no longer there" in said
    assert len(list(folder.glob("tome-k50-inference_only-seed0.replaced-*"))) == 1
    assert starts(folder / "tome-k50-inference_only-seed0") == 1 == starts(folder / "stts-k50-seed0")


def test_an_evaluation_counts_for_what_evaluations_took(tmp_path: Path) -> None:
    config, clock = a_config(tmp_path), Clock()
    stts, tome = (
        run_config(config, run, tmp_path) for run in (Run("stts", 50, 0), Run("tome", 50, 0, None, "inference_only"))
    )
    clock.add(stts, 100.0, eval_seconds=10.0)
    clock.add(tome, 14.0, eval_seconds=14.0)
    assert clock.measured.keys() == {"stts"}
    assert clock.seconds_left([], [stts, tome], slots=1) == pytest.approx(100 + 12)


def test_experiments_share_their_runs_and_each_has_its_own_table_and_entries(tmp_path: Path) -> None:
    config = a_config(tmp_path, tracking=True)
    first = replace(config, experiment=replace(config.experiment, name="tome"))
    second = replace(config, experiment=replace(config.experiment, name="pruning_strength"))
    second = replace(second, sweep=SweepConfig([30.0, 50.0], ["stts"], jobs=3))
    for experiment in (first, second, second):  # the second time nothing is new
        assert call(experiment)[0] == 0

    folder = sweep_folder(config)
    assert sweep_folder(first) == sweep_folder(second) == folder and starts(folder / "stts-k50-seed0") == 1
    of_first, of_second = (
        (tmp_path / "experiments" / name / "results.csv").read_text() for name in ("tome", "pruning_strength")
    )
    assert len(of_first.splitlines()) == 1 + len(ALL) and len(of_second.splitlines()) == 1 + 3
    assert not (folder / "results.csv").exists()

    client = tracking_client(config.tracking)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id], "tags.`stts.kind` = 'run'")
    entered: dict[str, dict[str, str]] = {"tome": {}, "pruning_strength": {}}
    parents: dict[str, set[str]] = {"tome": set(), "pruning_strength": set()}
    for run in runs:
        assert run.info.status == "FINISHED" and run.data.metrics["eval/accuracy"] > 0
        assert run.data.params["experiment.name"] == run.data.tags[EXPERIMENT_TAG]
        entered[run.data.tags[EXPERIMENT_TAG]][run.info.run_name] = run.data.tags[VARIANT_TAG]
        parents[run.data.tags[EXPERIMENT_TAG]].add(run.data.tags[PARENT_TAG])
    assert len(runs) == 4 + 3 and entered["tome"] == ALL
    assert entered["pruning_strength"] == dict.fromkeys(["none-seed0", "stts-k30-seed0", "stts-k50-seed0"], "trained")
    assert all(len(ids) == 1 for ids in parents.values()) and parents["tome"] != parents["pruning_strength"]


def test_several_seeds_leave_paired_differences(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    assert call(replace(config, sweep=SweepConfig([50.0], ["stts", "random"], seeds=[0, 1], jobs=3)))[0] == 0
    folder = sweep_folder(config)
    page, table = (folder / "results.md").read_text(), (folder / "paired.csv").read_text().splitlines()
    assert "## Paired differences" in page and "| 50 | stts - random | +0.000 | +0.000 to +0.000 |" in page
    assert [line.split(",")[:2] for line in table[1:]] == [["stts", "random"], ["stts", "none"], ["random", "none"]]


def test_an_experiments_name_is_its_files() -> None:
    assert load_config(experiment="methods").experiment.name == "methods"
    assert load_config().experiment.name == ""


def test_one_result_of_an_older_version_is_read(tmp_path: Path) -> None:
    keys = ("method", "prune_percent", "seed", "accuracy", "accuracy_stderr", "kept_tokens", "samples_per_second")
    keys += ("tokens_per_second", "peak_memory_gib", "train_seconds", "eval_seconds", "num_questions")
    (tmp_path / "result.json").write_text(json.dumps(dict.fromkeys(keys, 1)))
    result = read_result(tmp_path)
    assert (result.layer, result.max_frames, result.variant, result.benchmarks) == (0, 64, "trained", {})
