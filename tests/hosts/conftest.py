"""Tiny models of the three families, and videos to ask them about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_hosts import BUILD, SIDE, save_tiny_host

from stts_lightning.hosts.answer import Host, load_host_model
from stts_lightning.hosts.declare import HostSpec
from stts_lightning.video.write import write_h264


@dataclass
class Question:
    prompt: str = "Which one?\nA. left\nB. right"
    video: Path | None = None
    decoder: str = "auto"
    start: float | None = None
    end: float | None = None
    subtitles: Any = None
    images: Any = ()


@pytest.fixture()
def question() -> type[Question]:
    return Question


@pytest.fixture(scope="session", params=BUILD)
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HostSpec:
    """The shipped declaration, at the tiny checkpoint's sizes."""
    return save_tiny_host(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def host(spec: HostSpec) -> Host:
    return load_host_model(spec)


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``film(seconds, size=(24, 24), seed=None)``: 8 frames a second, black, or noise that follows from the seed."""
    folder = tmp_path_factory.mktemp("films")

    def make(seconds: float, size: tuple[int, int] = (SIDE, SIDE), seed: int | None = None) -> Path:
        path = folder / f"{seconds}-{size[0]}x{size[1]}-{seed}.mp4"
        if not path.is_file():
            shape = (round(seconds * 8), size[0] // 4, size[1] // 4, 3)
            blocks = np.zeros(shape) if seed is None else np.random.default_rng(seed).integers(0, 255, shape)
            write_h264(path, blocks.astype(np.uint8).repeat(4, 1).repeat(4, 2), fps=8)
        return path

    return make
