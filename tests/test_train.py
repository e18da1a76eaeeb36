"""Whole runs through the command line, in processes of their own as a user starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stts_lightning.config import load_config
from stts_lightning.lit.module import STTSModule
from stts_lightning.train import train

SMALL = [
    "data.generated.train_videos=8", "data.generated.eval_videos=2", "tracking.enabled=false", "prune.percent=50",
    "optim.batch_size=2", "optim.warmup_steps=2", "aux.scorer_warmup_steps=2", "trainer.accelerator=cpu",
    "trainer.progress=false", "pretrain.enabled=false", "trainer.checkpoint_every=3", "data.frame_cache_dir=null",
    "optim.steps=10",
]  # fmt: skip


def start(root: Path, run_dir: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stts_lightning", "train", "--run-dir", str(run_dir)]
    if not (run_dir / "config.yaml").exists():
        command += [*SMALL, f"data.generated.root={root / 'set'}", *overrides]
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
    """An uninterrupted run with `random`, whose masks depend on the state of the generator."""
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
    small = [*SMALL, f"data.generated.root={root / 'set'}", "method=random", f"init_from={whole / 'model'}"]
    train(load_config([*small, "optim.steps=3"]), root / "loaded")
    assert modes == {True} and len(set(masks)) == 3


def test_killed_run_is_taken_up_and_ends_as_if_nothing_had_been(root: Path, whole: Path) -> None:
    run_dir = root / "killed"
    process = start(root, run_dir, "method=random")
    deadline = time.monotonic() + 120
    while not list((run_dir / "checkpoints").glob("*.sha256")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (run_dir / "result.json").exists()

    (run_dir / "checkpoints/step=9.ckpt").write_bytes(b"PK half of a checkpoint")  # as if it was killed in there
    said = finish(start(root, run_dir))
    assert "step=9.ckpt: it was never finished" in said and "Restored all states from the checkpoint at" in said
    expected, resumed = (load_file(folder / "model/model.safetensors") for folder in (whole, run_dir))
    assert all(np.array_equal(expected[name], resumed[name]) for name in expected)
    scores = [json.loads((folder / "result.json").read_text())["accuracy"] for folder in (whole, run_dir)]
    assert scores[0] == scores[1]


def test_saved_model_evaluates_alike_and_at_another_percentage(root: Path, whole: Path) -> None:
    def evaluate(*extra: str) -> str:
        command = [sys.executable, "-m", "stts_lightning", "eval", str(whole / "model"), *extra, *SMALL]
        done = subprocess.run(
            [*command, f"data.generated.root={root / 'set'}"], cwd=root, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    accuracy = json.loads((whole / "result.json").read_text())["accuracy"]
    assert f"accuracy {accuracy:.3f}" in evaluate()
    assert "k=80 %" in evaluate("--percent", "80")


def test_folder_of_another_run_is_not_taken_up(root: Path, whole: Path) -> None:
    command = [sys.executable, "-m", "stts_lightning", "train", "--run-dir", str(whole), "method=random", *SMALL]
    changed = ["prune.percent=40", f"data.generated.root={root / 'set'}"]
    done = subprocess.run([*command, *changed], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "another run" in done.stderr and "prune.percent: 50.0 != 40.0" in done.stderr


def test_tiny_model_is_pretrained_first_and_once(root: Path) -> None:
    def train(name: str) -> str:
        steps = ["pretrain.enabled=true", "pretrain.steps=3", "pretrain.batch_size=2", "pretrain.num_threads=1"]
        output = finish(start(root, root / name, "method=heuristic", *steps, f"output_dir={root / 'out'}"))
        assert json.loads((root / name / "result.json").read_text())["method"] == "heuristic"
        return output

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
