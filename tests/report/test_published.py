"""The paper's numbers: that they are all there, and what follows from them."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

from stts_lightning.benchmark.averages import IMAGE, LONG, MULTI_IMAGE, SHORT
from stts_lightning.config import REPOSITORY, benchmark_names, method_names
from stts_lightning.report.published import (
    PUBLISHED,
    PublishedRow,
    published_tables,
    recomputed,
    tokens_per_instance,
    verdict,
)

TABLES = published_tables()
PAPER = REPOSITORY.parent / "shared" / "paper" / "stts_paper.md"


def row(number: int, name: str, frames: int | None = None) -> PublishedRow:
    return next(r for r in TABLES[number].rows if r.name == name and frames in (None, r.frames))


def ones(number: int, name: str, frames: int | None = None) -> dict[str, float | None]:
    return recomputed(TABLES[number], row(number, name, frames), TABLES)


def test_every_row_of_the_eight_tables_is_there() -> None:
    assert {n: len(t.rows) for n, t in TABLES.items()} == {1: 7, 2: 4, 3: 7, 4: 2, 5: 4, 6: 8, 7: 8, 8: 11}
    assert len(TABLES[1].columns) == 13 == len(TABLES[4].columns) and TABLES[1].columns == [*SHORT, *LONG]
    assert TABLES[4].columns == [*IMAGE, *MULTI_IMAGE]
    assert {*TABLES[1].columns, *TABLES[3].columns, *TABLES[4].columns} == {*benchmark_names()}
    assert {r.method for t in TABLES.values() for r in t.rows if r.method} <= set(method_names())


def test_every_number_stands_in_the_paper() -> None:
    if not PAPER.is_file():
        pytest.skip(f"the paper's text is not at {PAPER}")
    text = PAPER.read_text(encoding="utf-8")
    for number, table in TABLES.items():
        start = re.search(rf"\*\*Table {number}\b", text)
        assert start is not None
        part = text[start.start() : text.index("</table>", start.start())]
        in_cells = part.replace("<b>", "").replace("</b>", "").replace("<u>", "").replace("</u>", "")
        for r in table.rows:
            decimals = {"tokens": 0, "throughput": 4, "speedup": 2}
            for column, value in {**r.cells, **r.printed}.items():
                shown = "-" if value is None else f"{value:.{decimals.get(column, 1)}f}"
                shown = "1x" if column == "speedup" and value == 1 else shown + "x" * (column == "speedup")
                assert f">{shown}</td>" in in_cells, f"table {number}, {r.name}: {column} {shown}"


def test_the_three_averages_are_arithmetic_on_the_cells() -> None:
    for r in TABLES[1].rows:
        found = recomputed(TABLES[1], r, TABLES)
        short = [Fraction(str(r.cells[name])) for name in SHORT]
        long = [Fraction(str(r.cells[name])) for name in LONG if r.cells[name] is not None]
        means = sum(short) / 6, sum(long) / len(long)
        assert (found["short"], found["long"]) == (pytest.approx(float(means[0])), pytest.approx(float(means[1])))
        assert found["average"] == pytest.approx(float(sum(means) / 2))


@pytest.mark.parametrize(
    "name, short, long, average",
    [
        ("Qwen3-VL-4B", 63.70, 61.75, 62.73),
        ("PLM-8B", 68.53, 54.15, 61.34),
        ("InternVL3.5-8B", 63.00, 56.90, 59.95),
        ("Baseline (ours)", 67.10, 58.96, 63.03),
        ("+ STTS 30%", 66.70, 58.86, 62.78),
        ("+ STTS 40%", 65.97, 58.17, 62.07),
        ("+ STTS 50%", 66.05, 57.94, 62.00),
    ],
)
def test_table_1_by_hand(name: str, short: float, long: float, average: float) -> None:
    assert list(ones(1, name).values()) == pytest.approx([short, long, average], abs=0.0051)


def test_the_row_at_50_percent_does_not_follow_from_its_cells_wherever_it_is_printed() -> None:
    for number, name in ((1, "+ STTS 50%"), (2, "STTS"), (5, "STTS"), (8, "STTS")):
        found, printed = ones(number, name), row(number, name).printed
        verdicts = {key: verdict(printed[key], found[key]) for key in found}
        assert verdicts == {"short": "same", "long": "differs", "average": "differs"}, number
    assert verdict(58.4, ones(3, "50%")["long"]) == "differs"
    assert ones(1, "+ STTS 50%")["average"] < ones(1, "+ STTS 40%")["average"]  # 50 % does not beat 40 %


def test_what_else_does_not_follow() -> None:
    """Of all printed numbers: the row at 50 %, the average of table 4 at 50 %, a ratio of table 6."""
    wrong = set()
    for number, table in TABLES.items():
        speed = table.rule == "speedup"
        for r in table.rows:
            found = recomputed(table, r, TABLES)
            for key, value in found.items():
                if (
                    verdict(r.printed[key], value, decimals=2 if speed else 1, slack=0.0 if speed else 0.05)
                    == "differs"
                ):
                    wrong.add((number, r.percent, r.variant, key))
    fifty = {(n, 50, "trained", key) for n in (1, 2, 5, 8) for key in ("long", "average")}
    assert wrong == fifty | {(3, 50, "trained", "long"), (4, 50, "trained", "average"), (6, 40, "trained", "speedup")}


def test_table_3_and_the_ratios_by_hand() -> None:
    long = [ones(3, name)["long"] for name in ("0%", "30% with TTS", "40% with TTS", "50% with TTS", "50%")]
    assert long == pytest.approx([58.957, 60.071, 59.014, 59.400, 57.943], abs=0.0006)
    ratios = [ones(6, f"{k}%", frames)["speedup"] for frames in (128, 256) for k in (30, 40, 50)]
    assert ratios == pytest.approx([1.283, 1.442, 1.620, 1.477, 1.780, 2.246], abs=0.0006)
    ratios = [ones(7, f"{k}%", frames)["speedup"] for frames in (128, 256) for k in (30, 40, 50)]
    assert ratios == pytest.approx([1.144, 1.303, 1.614, 1.452, 1.710, 2.223], abs=0.0006)


def test_table_3_repeats_table_1() -> None:
    for name, other in (("0%", "Baseline (ours)"), ("30%", "+ STTS 30%"), ("40%", "+ STTS 40%"), ("50%", "+ STTS 50%")):
        assert row(3, name).cells == {key: row(1, other).cells[key] for key in LONG}


def test_the_tokens_of_table_6_follow_from_its_formula() -> None:
    for r in TABLES[6].rows:
        assert r.frames is not None and r.percent is not None
        assert tokens_per_instance(r.frames // r.videos, r.videos, r.percent) == r.cells["tokens"]
    overhead = tokens_per_instance(64, 1, 0) - 2048 - 81 * 64, tokens_per_instance(256, 1, 0) - 2048 - 81 * 256
    assert overhead == (603, 2523)


@pytest.mark.parametrize("printed, computed, found", [
    (62.0, 61.95, "same"), (62.0, 62.04, "same"), (67.0, 67.1, "rounding"), (58.4, 57.94, "differs"), (None, 1.0, ""),
])  # fmt: skip
def test_verdicts_allow_for_the_rounding_of_the_cells(printed: float | None, computed: float, found: str) -> None:
    assert verdict(printed, computed) == found


@pytest.mark.parametrize("old, new, message", [
    ("rule: halves", "rule: half", "table 2: rule='half' is not one of"),
    ("same_as: 1/+ STTS 50%, ", "same_at: 1, ", "unknown key 'same_at'. Did you mean 'same_as'"),
    ("printed: [65.3, 57.5, 61.4]", "printed: [65.3, 57.5]", "row Random, printed: 2 numbers for 3 columns"),
    ("cells: [81.4, ", "cells: [high, ", "'high' is not a number"),
    ("model: plm_8b", "method: none\n        model: plm_8b", "either a method of ours or another model"),
    ("    experiment: methods\n", "", "table 2: experiment missing"),
])  # fmt: skip
def test_the_file_is_read_strictly(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = PUBLISHED.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "published.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        published_tables(tmp_path / "published.yaml")
