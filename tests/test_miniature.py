"""What the embedded set must show, or a sweep on it shows nothing. About fifteen minutes on two cores."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHANCE = (3 / 4 + 3 / 3 + 3 / 3 + 3 / 2) / 12  # where, when, shape and order, three questions each


def accuracies(folder: Path, percent: int, methods: str) -> dict[str, float]:
    """Run a sweep in ``folder`` and read its table; what has finished there is not run again."""
    command = [sys.executable, "-m", "stts_lightning", "sweep", "--experiment", "sweep"]
    overrides = [f"sweep.percents=[{percent}]", f"sweep.methods=[{methods}]"]
    subprocess.run([*command, *overrides], cwd=folder, check=True, timeout=3600)
    with (folder / "outputs/sweeps/latest/results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if float(row["prune_percent"]) in (0, percent)]
    return {row["method"]: float(row["accuracy"]) for row in rows}


@pytest.mark.slow
def test_unpruned_learns_text_alone_guesses_and_random_loses(tmp_path: Path) -> None:
    """``STTS_SWEEP_IN=folder`` uses the sweeps below ``folder/outputs`` as far as they have come."""
    folder = Path(os.environ.get("STTS_SWEEP_IN", tmp_path))
    half = accuracies(folder, 50, "heuristic,random")
    nothing = accuracies(folder, 100, "random")
    assert half["none"] >= 0.80
    assert half["heuristic"] - half["random"] >= 0.10
    assert nothing["random"] == pytest.approx(CHANCE, abs=0.04)
