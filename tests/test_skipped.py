"""What a training did without is told where its user looks: at its end, in its folder, in MLflow."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stts_lightning.config import Config, GeneratedConfig, load_config
from stts_lightning.data.generate import generated_set
from stts_lightning.report.mlflow_runs import result_metrics
from stts_lightning.train import describe, train

QUESTIONS = 12  # on each clip of the embedded set


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of which one is empty and one a text."""
    made = generated_set(GeneratedConfig(root=str(tmp_path_factory.mktemp("set")), train_videos=8, eval_videos=2))
    (made.train.parent / "train/00002.mp4").write_bytes(b"")
    (made.train.parent / "train/00005.mp4").write_text("not a video at all\n" * 50)
    return made.train.parent


def config_for(folder: Path, *overrides: str) -> Config:
    return load_config([
        "data=files", f"data.train={folder}/train.jsonl", f"data.eval={folder}/test.jsonl", "method=random",
        "optim.batch_size=2", "optim.steps=7", "tracking.enabled=false", "pretrain.enabled=false",
        "trainer.accelerator=cpu", "trainer.progress=false", "data.frame_cache_dir=null", *overrides,
    ])  # fmt: skip


def test_a_finished_run_says_what_it_skipped(folder: Path, tmp_path: Path) -> None:
    result = train(config_for(folder, "data.bad_sample_budget=0.25"), tmp_path)
    assert result.skipped == {"empty": QUESTIONS, "not_a_video": QUESTIONS}
    assert describe(result).endswith(f"; questions skipped in training: empty {QUESTIONS}, not_a_video {QUESTIONS}")
    assert json.loads((tmp_path / "result.json").read_text())["skipped"] == result.skipped
    listed = json.loads((tmp_path / "skipped.json").read_text())
    assert [(row["kind"], row["questions"]) for row in listed] == [("empty", 1)] * QUESTIONS + [("not_a_video", 12)]
    assert listed[-1]["where"].endswith("train/00005.mp4") and "not_a_video" not in describe(
        replace(result, skipped={})
    )
    metrics = result_metrics(result)
    assert metrics["data/skipped/empty"] == metrics["data/skipped/not_a_video"] == QUESTIONS


def test_a_run_that_stopped_past_its_budget_leaves_the_list(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"(?s){2 * QUESTIONS} of 96 .*empty {QUESTIONS}, not_a_video {QUESTIONS}"):
        train(config_for(folder, "data.bad_sample_budget=0.2"), tmp_path)
    assert {row["kind"] for row in json.loads((tmp_path / "skipped.json").read_text())} == {"empty", "not_a_video"}
    assert not (tmp_path / "result.json").exists()
