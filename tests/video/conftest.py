"""Videos that number their own frames, and other files that the tests of this folder share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numbered_videos import make_video, numbered, numbers_of


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Callable[..., Path]:
    """`video("name.mp4", **options)` makes the file once a session; see `make_video` for the options."""
    folder, made = tmp_path_factory.mktemp("videos"), {}

    def make(name: str, **options) -> Path:
        if name not in made:
            made[name] = make_video(folder / name, **options)
        return made[name]

    return make


@pytest.fixture(scope="session")
def read_numbers() -> Callable[[np.ndarray], list[int]]:
    return numbers_of


@pytest.fixture(scope="session")
def paint_number() -> Callable[[int, int, int], np.ndarray]:
    return numbered


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    folder = Path(__file__).resolve().parents[2].parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder}")
    return folder


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """An mp4 of silence, without pictures."""
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        for at in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 1024 * at
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
