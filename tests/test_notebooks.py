"""The notebooks run on a tracking database that a sweep wrote."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from recorded import Fake, fresh, record_sweep
from rich.console import Console

from stts_lightning.config import REPOSITORY, Config, SweepConfig, TrackingConfig
from stts_lightning.report.collect import newest_sweep, open_database
from stts_lightning.runs import git_commit
from stts_lightning.sweep import run_sweep

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
Execute = Callable[[str], tuple[str, int]]
FAKE_TRAIN = REPOSITORY / "tests" / "report" / "fake_train.py"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """A database that holds one small sweep."""
    out = tmp_path_factory.mktemp("outputs")
    fresh(out)
    config = Config(
        output_dir=str(out),
        sweep=SweepConfig(percents=[50.0], methods=["stts"], seeds=[0, 1], jobs=2),
        tracking=TrackingConfig(uri=f"sqlite:///{out}/mlflow.db", artifacts=str(out / "artifacts"), experiment="tried"),
    )
    command = (sys.executable, str(FAKE_TRAIN))
    assert run_sweep(config, command=command, calibrate=None, console=Console(quiet=True)) == 0
    return config.tracking


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    return fresh(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def recorded(tracked: TrackingConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The parent runs of three experiments in the same database, by name."""
    out = tmp_path_factory.mktemp("recorded")
    layers = [Fake("none", 0, 0, 0.9), Fake("stts", 50, 0, 0.60, 0), Fake("stts", 50, 1, 0.64, 0)]
    layers.append(Fake("stts", 50, 0, 0.75, 3))
    fall = [Fake("text_only", 100, 0, 0.35)] + [
        Fake(method, k, 0, best - k / 200) for method, best in (("stts", 1.0), ("random", 0.86)) for k in (50, 90)
    ]
    kinds = {"layer_depth": layers, "degradation": fall}
    kinds["what_is_pruned"] = [Fake("none", 0), Fake("stts", decisions=True), Fake("heuristic", decisions=True)]
    return {name: record_sweep(tracked, out / name, name, runs) for name, runs in kinds.items()}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel of this very interpreter, whatever is installed beside it."""
    folder = tmp_path / "jupyter" / "kernels" / "here"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return "here"


@pytest.fixture
def execute(tracked: TrackingConfig, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """``execute("sweep")``: all text that a notebook shows, and how many pictures."""

    def run(name: str) -> tuple[str, int]:
        monkeypatch.setenv("STTS_TRACKING_URI", tracked.uri)
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
        notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
        where = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=120, kernel_name=kernel, resources=where).execute()
        shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        return "\n".join(map(_text, shown)), sum("image/png" in output.get("data", {}) for output in shown)

    return run


def test_sweep_notebook_shows_table_figures_and_origin(tracked: TrackingConfig, execute: Execute) -> None:
    text, pictures = execute("sweep")
    assert "tried" in text and "parent run" in text and tracked.uri in text
    for column in ("prune_percent", "accuracy_stderr", "kept_tokens", "peak_memory_gib"):
        assert column in text
    assert "Averaged over the seeds" in text and "what shape" in text
    assert pictures == 2  # the curve and the contact sheet


def test_layer_depth_notebook_shows_a_row_a_layer(
    recorded: dict[str, str], tracked: TrackingConfig, execute: Execute
) -> None:
    text, pictures = execute("layer_depth")
    assert recorded["layer_depth"] in text and tracked.uri in text and git_commit() in text
    assert "| stts | 50 | trained | 0 | 62.00 | 2.00 | 2.00 | 2 | 64 |" in text  # 0.60 and 0.64
    assert "| stts | 50 | trained | 3 | 75.00 | 2.00 |  | 1 | 64 |" in text and pictures == 1


def test_degradation_notebook_shows_our_rows_and_the_papers_error(
    recorded: dict[str, str], tracked: TrackingConfig, execute: Execute
) -> None:
    text, pictures = execute("degradation")
    assert recorded["degradation"] in text and tracked.uri in text and git_commit() in text
    assert "| random | 90 | trained | 0 | 41.00 | 2.00 |  | 1 | 13 |" in text
    assert "the long average is printed as 58.4, its cells give 57.94" in text and pictures == 1


def test_scorer_notebook_relates_the_decisions_in_mlflow(
    recorded: dict[str, str], tracked: TrackingConfig, execute: Execute
) -> None:
    text, pictures = execute("what_a_scorer_keeps")
    assert recorded["what_is_pruned"] in text and tracked.uri in text and git_commit() in text
    # Two clips of 8 and 5 frames of 16 windows, without their frames 0.
    assert re.search(r"\| stts \| 176 \| \d+% \| [+-]\d\.\d\d \| [+-]\d\.\d\d \|", text)
    assert "| heuristic | 176 |" in text and "| none |" not in text and pictures == 1


def test_notebook_says_what_to_run_where_its_sweep_is_missing(empty: TrackingConfig) -> None:
    with pytest.raises(ValueError, match="make experiment NAME=layer_depth"):
        newest_sweep(open_database(empty), "layer_depth")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def _text(output: Any) -> str:
    data = output.get("data", {})
    return "\n".join(str(data.get(kind, "")) for kind in ("text/plain", "text/html", "text/markdown"))
