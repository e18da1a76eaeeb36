"""Whole runs through the command line; those that are killed in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from databases import empty_database
from mlflow import MlflowClient
from safetensors.torch import load_file

from stts_lightning.cli import main
from stts_lightning.config import load_config
from stts_lightning.lit.module import STTSModule
from stts_lightning.train import train

SMALL = [
    "data.generated.train_videos=8", "data.generated.eval_videos=2", "tracking.enabled=false", "prune.percent=50",
    "optim.batch_size=2", "optim.warmup_steps=2", "aux.scorer_warmup_steps=2", "trainer.accelerator=cpu",
    "trainer.progress=false", "pretrain.enabled=false", "trainer.checkpoint_every=3", "optim.steps=10",
]  # fmt: skip
# `random` draws its masks from the global generator; two micro-batches a step, each of a packed sequence; every step
# is logged.
INTERRUPTIBLE = [
    "method=random", "optim.batch_size=1", "optim.accumulate=2", "data.packing.enabled=true", "data.packing.buffer=5",
    "data.packing.max_tokens=1100", "data.packing.max_frames=20", "trainer.log_every=1", "tracking.enabled=true",
]  # fmt: skip


def small(root: Path) -> list[str]:
    return [*SMALL, f"data.generated.root={root / 'set'}", f"data.frame_cache_dir={root / 'frames'}"]


def start(root: Path, run_dir: Path, *overrides: str, interrupt: tuple[str, int] | None = None) -> Any:
    program = ["-m", "stts_lightning"]
    if interrupt is not None:
        program = [str(Path(__file__).with_name("interrupted.py")), interrupt[0], str(interrupt[1])]
    command = [sys.executable, *program, "train", "--run-dir", str(run_dir)]
    if not (run_dir / "config.yaml").exists():
        command += [*small(root), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(root: Path) -> Path:
    """An uninterrupted run with `random`, in a process of its own as a user starts it."""
    finish(start(root, root / "whole", "method=random"))
    return root / "whole"


def test_run_leaves_model_result_predictions_and_decisions(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert (result["method"], result["prune_percent"], result["num_questions"]) == ("random", 50, 24)
    assert result["kept_tokens"] == 8 * 16 / 2
    lines = [json.loads(line) for line in (whole / "predictions.jsonl").read_text().splitlines()]
    assert np.mean([line["correct"] for line in lines]) == pytest.approx(result["accuracy"])
    assert np.load(whole / "decisions.npz")["frames"].shape[0] == 2
    assert json.loads((whole / "progress.json").read_text())["phase"] == "done"


def test_a_model_that_was_loaded_is_trained_in_training_mode(
    root: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers loads in evaluation mode, in which `random` repeats its mask and nothing is recomputed."""
    modes, masks = set(), []
    real = STTSModule.training_step

    def watched(self: STTSModule, *batch: object) -> dict[str, object]:
        modes.update(module.training for module in self.modules())
        out = real(self, *batch)
        masks.append(tuple(torch.cat(out["pruning"].keep).flatten().tolist()))
        return out

    monkeypatch.setattr(STTSModule, "training_step", watched)
    monkeypatch.chdir(root)
    loaded = [*small(root), "method=random", f"init_from={whole / 'model'}", "optim.steps=3"]
    train(load_config(loaded), root / "loaded")
    assert modes == {True} and len(set(masks)) == 3


def losses(run_dir: Path, client: MlflowClient) -> dict[int, float]:
    """What MLflow has by step; steps that ran twice have to have said the same twice."""
    run_id = (run_dir / "mlflow_run_id").read_text().strip()
    found: dict[int, float] = {}
    for metric in client.get_metric_history(run_id, "train/task_loss"):
        assert found.setdefault(metric.step, metric.value) == metric.value, f"step {metric.step}"
    return found


def test_interrupted_run_is_taken_up_and_ends_as_if_nothing_had_been(root: Path, whole: Path) -> None:
    """Killed in the middle of a step; a checkpoint torn; told to end between the micro-batches of another step."""
    tracking = f"tracking.uri={empty_database(root / 'mlflow.db')}"
    run_dir = root / "interrupted"
    overrides = [*small(root), *INTERRUPTIBLE, tracking]
    assert main(["train", "--run-dir", str(root / "uninterrupted"), *overrides]) == 0

    killed = start(root, run_dir, *INTERRUPTIBLE, tracking, interrupt=("KILL", 8))
    killed.communicate(timeout=180)
    assert killed.returncode == -signal.SIGKILL and not (run_dir / "result.json").exists()
    (run_dir / "checkpoints/step=9.ckpt").write_bytes(b"PK half of a checkpoint")  # as if it was killed in there

    ended = start(root, run_dir, interrupt=("TERM", 14))
    said, _ = ended.communicate(timeout=180)
    assert ended.returncode == 143 and not (run_dir / "result.json").exists()
    assert "step=9.ckpt: it was never finished" in said and "Restored all states from the checkpoint at" in said
    assert sorted(path.name for path in run_dir.glob("checkpoints/*.ckpt")) == ["step=3.ckpt", "step=6.ckpt"]

    finish(start(root, run_dir))
    folders = root / "uninterrupted", run_dir
    expected, resumed = (load_file(folder / "model/model.safetensors") for folder in folders)
    assert all(np.array_equal(expected[name], resumed[name]) for name in expected)
    predictions = [(folder / "predictions.jsonl").read_text() for folder in folders]
    assert predictions[0] == predictions[1]
    client = MlflowClient(tracking.removeprefix("tracking.uri="))
    curves = [losses(folder, client) for folder in folders]
    assert curves[0] == curves[1] and len(curves[0]) == 10
    experiment = client.get_experiment_by_name("stts-lightning")
    assert len(client.search_runs([experiment.experiment_id])) == 2  # a run each, however often it was taken up


def test_saved_model_evaluates_alike_and_at_another_percentage(
    root: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(*extra: str) -> str:
        assert main(["eval", str(whole / "model"), *extra, *small(root)]) == 0
        return capsys.readouterr().out

    accuracy = json.loads((whole / "result.json").read_text())["accuracy"]
    assert f"accuracy {accuracy:.3f}" in evaluate()
    assert "k=80 %" in evaluate("--percent", "80")


def test_folder_of_another_run_is_not_taken_up(root: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = [*small(root), "method=random", "prune.percent=40"]
    assert main(["train", "--run-dir", str(whole), *changed]) == 2
    said = capsys.readouterr().err
    assert "another run" in said and "prune.percent: 50.0 != 40.0" in said


def test_a_finished_run_is_not_trained_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "result.json").stat().st_mtime_ns
    assert main(["train", "--run-dir", str(whole)]) == 0
    assert "has finished. It is not trained again" in capsys.readouterr().out
    assert (whole / "result.json").stat().st_mtime_ns == before


def test_tiny_model_is_pretrained_first_and_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def train(name: str) -> str:
        steps = ["pretrain.enabled=true", "pretrain.steps=3", "pretrain.batch_size=2", "pretrain.num_threads=1"]
        overrides = [*small(root), "method=heuristic", *steps, f"output_dir={root / 'out'}"]
        assert main(["train", "--run-dir", str(root / name), *overrides]) == 0
        assert json.loads((root / name / "result.json").read_text())["method"] == "heuristic"
        return capsys.readouterr().out

    assert "pretraining without pruning" in train("first")
    assert "pretraining without pruning" not in train("second")
    (model,) = (root / "out/pretrained").glob("*/model")
    assert json.loads((model / "stts.json").read_text())["method"] == "none"


def test_wrong_key_ends_with_one_line_and_no_traceback(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stts_lightning", "train", "prune.percnt=5"],
        cwd=root, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "'prune.percent'" in done.stderr and "Traceback" not in done.stderr
