"""The tables have every row and every column; how fast it is, is no matter of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stts_lightning.bench.inputs import Sizes, input_tables

TINY = Sizes(
    width=64,
    height=48,
    seconds=2,
    fps=8,
    keyframe_intervals=(8,),
    max_fps=(2.0,),
    side=48,
    ways=(("decord", "molmo2"), ("pyav", "decoder")),
    clips=14,
    num_workers=(0,),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        return input_tables(2, TINY)


def test_decoders_are_compared_on_the_same_frames(tables: dict[str, list[dict[str, Any]]]) -> None:
    assert [(row["decoder"], row["resize"]) for row in tables["decoders"]] == list(TINY.ways)
    for row in tables["decoders"]:
        assert (row["keyframe_interval"], row["sampling"], row["frames"]) == (8, "2 fps", 5)
        assert 0 < row["ms_min"] <= row["ms_median"] <= row["ms_max"]
        assert row["frames_per_s"] == pytest.approx(5000 / row["ms_median"])
        assert row.get("peak_mib", 50) > 10


def test_loader_is_measured_cold_and_warm(tables: dict[str, list[dict[str, Any]]]) -> None:
    assert [(row["num_workers"], row["cache"]) for row in tables["loader"]] == [(0, "cold"), (0, "warm")]
    for row in tables["loader"]:
        assert 0 < row["clips_per_s_min"] <= row["clips_per_s_median"] <= row["clips_per_s_max"]
        assert (row["clips"], row["batch_size"], row["frames_per_clip"], row["questions_per_clip"]) == (14, 12, 8, 12)
        assert row["bytes_per_clip"] > 8 * 48 * 48 * 3  # the frames as bytes, and the sequences


def test_rows_are_flat_and_no_file_stays(tables: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    values = [value for table in tables.values() for row in table for value in row.values()]
    assert all(isinstance(value, (str, int, float)) for value in values)
    assert not list(folder.iterdir())
