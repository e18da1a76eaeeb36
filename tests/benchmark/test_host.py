"""Another model asked benchmarks by the command, and its row in the report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from databases import empty_database
from omegaconf import OmegaConf
from tiny_hosts import save_tiny_host

from stts_lightning.cli import main
from stts_lightning.config import Config, TrackingConfig
from stts_lightning.report.page.main import write_page


@pytest.fixture()
def declaration(tmp_path: Path) -> Path:
    """A file as those in conf/host/, of a tiny checkpoint."""
    path = tmp_path / "qwen3_vl_4b.yaml"
    OmegaConf.save(OmegaConf.create(asdict(save_tiny_host("qwen3_vl_4b", tmp_path / "checkpoint"))), path)
    return path


def command(tmp_path: Path, root: Path, declaration: Path, names: str, tracking: TrackingConfig | None) -> list[str]:
    tracked = ["tracking.enabled=false"]
    if tracking is not None:
        tracked = [f"tracking.uri={tracking.uri}", f"tracking.artifacts={tracking.artifacts}"]
    asked = ["benchmark", names, "--host", str(declaration), "--root", str(root), "--limit", "2"]
    return [*asked, f"output_dir={tmp_path}", "trainer.accelerator=cpu", *tracked]


def test_another_model_fills_its_row_of_the_report(tmp_path, root, declaration, capsys):
    tracking = TrackingConfig(uri=empty_database(tmp_path / "mlflow.db"), artifacts=str(tmp_path / "artifacts"))
    # Clips of a video, a folder of pictures, subtitles; asked one by one.
    for name in ("mvbench", "long_video_sub"):
        assert main(command(tmp_path, root, declaration, name, tracking)) == 0
    assert "video benchmarks: long" in capsys.readouterr().out
    folder = tmp_path / "hosts" / "qwen3_vl_4b"
    score = {}
    for name in ("mvbench", "long_video_sub"):
        lines = [json.loads(line) for line in (folder / "benchmarks" / name / "predictions.jsonl").open()]
        score[name] = 100 * sum(line["correct"] for line in lines) / len(lines)
        assert len(lines) == 2 and all(isinstance(line["text"], str) for line in lines)

    page = write_page(Config(tracking=tracking), tmp_path / "report.html").read_text()
    strength = page[page.index('id="pruning_strength"') : page.index('id="methods"')]
    (ours,) = [row for row in strength.split("<tr>") if "<td>Qwen3-VL-4B</td><td>ours</td>" in row.replace("\n", "")]
    for value in score.values():
        assert f"{value:.1f}" in ours
    assert "Not run: PLM-8B" in strength and "Not run: Qwen3-VL-4B" not in strength


def test_a_control_of_another_model_is_not_its_number(tmp_path, root, declaration):
    tracking = TrackingConfig(uri=empty_database(tmp_path / "mlflow.db"), artifacts=str(tmp_path / "artifacts"))
    asked = command(tmp_path, root, declaration, "next_qa", tracking)
    assert main([*asked, "--control", "no_vision"]) == 0
    page = write_page(Config(tracking=tracking), tmp_path / "report.html").read_text()
    assert "<td>Qwen3-VL-4B</td><td>ours</td>" not in page


def test_another_model_is_asked_unpruned(declaration, tmp_path, root, capsys):
    asked = command(tmp_path, root, declaration, "next_qa", None)
    assert main([*asked, "--percent", "50"]) == 2
    assert "--host asks another model, unpruned" in capsys.readouterr().err
