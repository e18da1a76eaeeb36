"""Tiny copies of every benchmark, in the layout in which it is published."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before `datasets` is imported: no test may reach the hub
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-")

import pytest
from layout import Layout, clip, write
from layouts import LAYOUTS

from stts_lightning.benchmark.declare import Benchmark, load_benchmark
from stts_lightning.benchmark.items import Item
from stts_lightning.benchmark.load import load_items


@pytest.fixture(autouse=True)
def fast(one_decoding_process: None) -> None:
    """For all tests here."""


@pytest.fixture(scope="session")
def video_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, video_bytes: bytes) -> Path:
    """All benchmarks below one folder. Not to be changed: `lay_out` makes one that may be."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for layout in LAYOUTS.values():
        write(layout, folder, video_bytes)
    return folder


@pytest.fixture()
def lay_out(tmp_path: Path, video_bytes: bytes) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        write(LAYOUTS[name], tmp_path, video_bytes)
        return tmp_path

    return make


@pytest.fixture(scope="session")
def loaded(root: Path) -> Callable[[str], tuple[Benchmark, list[Item], Layout]]:
    """``loaded("next_qa")``: the declaration, the questions, and what was written."""
    known: dict[str, Any] = {}

    def load(name: str) -> tuple[Benchmark, list[Item], Layout]:
        if name not in known:
            benchmark = load_benchmark(name)
            known[name] = (benchmark, load_items(benchmark, root).items, LAYOUTS[name])
        return known[name]

    return load
