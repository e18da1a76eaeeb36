"""The notebooks run on a tracking database that a sweep wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

from stts_lightning.config import REPOSITORY, Config, SweepConfig, TrackingConfig
from stts_lightning.sweep import run_sweep

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
FAKE_TRAIN = REPOSITORY / "tests" / "report" / "fake_train.py"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """A database that holds one small sweep."""
    out = tmp_path_factory.mktemp("outputs")
    config = Config(
        output_dir=str(out),
        sweep=SweepConfig(percents=[50.0], methods=["stts"], seeds=[0, 1], jobs=2),
        tracking=TrackingConfig(uri=f"sqlite:///{out}/mlflow.db", artifacts=str(out / "artifacts"), experiment="tried"),
    )
    assert run_sweep(config, command=(sys.executable, str(FAKE_TRAIN)), console=Console(quiet=True)) == 0
    return config.tracking


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel of this very interpreter, whatever is installed beside it."""
    folder = tmp_path / "jupyter" / "kernels" / "here"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return "here"


def test_sweep_notebook_shows_table_figures_and_origin(
    tracked: TrackingConfig, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STTS_TRACKING_URI", tracked.uri)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(REPOSITORY / "notebooks" / "sweep.ipynb", as_version=4)

    NotebookClient(notebook, timeout=120, kernel_name=kernel, resources={"metadata": {"path": str(tmp_path)}}).execute()

    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "\n".join(_text(output) for output in shown)
    assert "tried" in text and "parent run" in text and tracked.uri in text
    for column in ("prune_percent", "accuracy_stderr", "kept_tokens", "peak_memory_gib"):
        assert column in text
    assert "Averaged over the seeds" in text and "what shape" in text
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2  # the curve and the contact sheet


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def _text(output: Any) -> str:
    data = output.get("data", {})
    return "\n".join(str(data.get(kind, "")) for kind in ("text/plain", "text/html", "text/markdown"))
