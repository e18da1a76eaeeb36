"""The table of a sweep."""

from __future__ import annotations

import csv
import io
import math

import pytest
from rich.console import Console

from stts_lightning.report.tables import Row, average, csv_text, markdown, row_line, sort_rows, terminal_table

ROWS = [
    Row("random", 30.0, 0, 0.70, 0.02, 89.6, 13.0, 0.8),
    Row("stts", 50.0, 0, 0.80, 0.02, 64.0, 13.0, 0.8),
    Row("stts", 30.0, 1, 0.86, 0.01, 89.6, 15.0, None),
    Row("stts", 30.0, 0, 0.82, 0.01, 89.6, None, None),
    Row("none", 0.0, 0, 0.90, None, 12560.0, 12.0, 0.9),
]


def test_the_baseline_comes_first_then_percentages_then_methods() -> None:
    order = [(r.method, r.prune_percent, r.seed) for r in sort_rows(ROWS)]
    assert order == [("none", 0, 0), ("stts", 30, 0), ("stts", 30, 1), ("random", 30, 0), ("stts", 50, 0)]


def test_csv_keeps_full_precision_and_leaves_unknown_numbers_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text([Row("stts", 50.0, 0, 1 / 3, None, 64.0, None, 0.8)]))))
    assert float(rows[0]["accuracy"]) == 1 / 3 and rows[0]["accuracy_stderr"] == rows[0]["samples_per_second"] == ""


def test_seeds_are_averaged_with_the_larger_standard_error() -> None:
    mean = next(m for m in average(ROWS) if (m.method, m.prune_percent) == ("stts", 30.0))
    assert (mean.seeds, mean.accuracy, mean.samples_per_second) == (2, pytest.approx(0.84), 15.0)
    assert mean.accuracy_stderr == pytest.approx(math.sqrt(0.0008 / 2))  # of the seeds: 0.02, above a run's 0.01
    assert average(ROWS)[0].accuracy_stderr is None


def test_markdown_columns_line_up() -> None:
    lines = markdown(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS) and len({len(line) for line in lines}) == 1
    assert "| none   |             0 |    0 |    0.900 |                 |       12560 |" in lines[-1]


def test_terminal_table_fits_eighty_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal_table([*ROWS, Row("stts_no_aux", 33.3, 10, 0.5, 0.123, 15670.0, 1234.5, 138.25)]))
    assert "0.500 ± 0.123" in console.file.getvalue() and "…" not in console.file.getvalue()


def test_a_finished_run_is_one_line() -> None:
    line = " ".join(row_line(ROWS[1]).split())
    assert line == "stts k=50 % seed 0 accuracy 0.800 ± 0.020 64.0 tokens 13.0 clips/s 0.80 GiB"
    assert row_line(ROWS[4]).startswith("unpruned") and "±" not in row_line(ROWS[4])
