"""Benchmarks at the end of a training, of an evaluation, and by their own command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from databases import empty_database

from stts_lightning.cli import main
from stts_lightning.config import load_config, save_config
from stts_lightning.report.collect import read_runs
from stts_lightning.report.mlflow_runs import tracking_client
from stts_lightning.runs import RunDir, read_result
from stts_lightning.train import train


def small(folder: Path, video: bytes, root: Path) -> list[str]:
    """A configuration that trains for two steps on two clips, and asks two benchmarks."""
    lines = []
    for name in ("a", "b"):
        (folder / f"{name}.mp4").write_bytes(video)
        lines.append({"video": f"{name}.mp4", "question": "Which?", "options": ["x", "y"], "answer": 0})
    (folder / "qa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        f"data.train={folder / 'qa.jsonl'}", "data.num_workers=0", "optim.steps=2", "optim.batch_size=1",
        "optim.warmup_steps=1", "trainer.accelerator=cpu", "trainer.progress=false", "tracking.enabled=false",
        "backbone.image_size=24", "video.max_frames=3", f"benchmark.root={root}",
    ]  # fmt: skip


def test_a_training_ends_with_its_benchmarks(tmp_path, video_bytes, root, capsys):
    overrides = small(tmp_path, video_bytes, root)
    asked = ["benchmark.names=[next_qa,long_video_sub]"]
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    config = load_config(overrides + asked)
    save_config(config, run.config)
    result = train(config, run.path)
    assert set(result.benchmarks) == {"next_qa", "long_video_sub"} and set(result.benchmarks_stderr) == {
        "long_video_sub"
    }
    assert read_result(run.path) == result
    lines = [
        json.loads(line) for line in (run.benchmarks / "long_video_sub/predictions.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 2 and {
        "id",
        "video",
        "category",
        "question",
        "options",
        "answer",
        "predicted",
        "correct",
    } <= set(lines[0])

    # The saved model, asked again by its own commands, says the same.
    again = tmp_path / "again"
    command = ["benchmark", "long_video_sub", "--model", str(run.model), "--root", str(root), "--out", str(again)]
    assert main([*command, *overrides]) == 0
    said = [json.loads(line)["text"] for line in (again / "long_video_sub/predictions.jsonl").read_text().splitlines()]
    assert said == [line["text"] for line in lines]
    for path in run.benchmarks.rglob("*.jsonl"):
        path.unlink()
    capsys.readouterr()
    assert main(["eval", str(run.model), *overrides, *asked]) == 0
    assert "LongVideo-Sub val: " in capsys.readouterr().out
    assert (run.benchmarks / "next_qa/predictions.jsonl").is_file()


@pytest.mark.slow
def test_a_benchmark_that_fails_at_the_end_is_a_failed_run_in_mlflow(tmp_path, video_bytes, root, monkeypatch):
    uri = empty_database(tmp_path / "mlflow.db")
    tracked = ["tracking.enabled=true", f"tracking.uri={uri}", f"tracking.artifacts={tmp_path / 'artifacts'}"]
    config = load_config([*small(tmp_path, video_bytes, root), *tracked, "benchmark.names=[next_qa]"])
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    save_config(config, run.config)
    monkeypatch.setattr("stts_lightning.benchmark.answer.Molmo2Answerer.many", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config, run.path)
    (found,) = read_runs(tracking_client(config.tracking))
    assert found.status == "FAILED" and not (run.path / "result.json").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [("[next_qa]", "benchmark next_qa"), ("[ai2d]", "benchmark ai2d")],
)
def test_what_cannot_be_asked_stops_a_training_before_it_begins(tmp_path, video_bytes, names, said, monkeypatch):
    overrides = small(tmp_path, video_bytes, tmp_path / "nowhere")
    monkeypatch.setattr("stts_lightning.train.load_backbone", lambda *_: pytest.fail("began"))
    with pytest.raises(ValueError, match=said):
        train(load_config([*overrides, f"benchmark.names={names}"]), tmp_path / "run")


def test_the_command_guesses_without_a_model(tmp_path, root, capsys):
    command = ["benchmark", "lvbench,mlvu", "--root", str(root), "--control", "random_choice", "--out", str(tmp_path)]
    assert main([*command, "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert "LVBench test: " in printed and "on 1 questions" in printed and "control random_choice" in printed
    assert main(["benchmark", "lvbnch"]) == 2
    assert "Did you mean 'lvbench'" in capsys.readouterr().err
