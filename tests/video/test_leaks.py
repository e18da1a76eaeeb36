"""Thousands of decodes, good and broken, leave nothing behind: no memory, no file handle, no process."""

import gc
from pathlib import Path

import pytest
from broken_videos import BROKEN
from odd_videos import ODD, plain
from procfs import children, open_files, resident_bytes

from stts_lightning.video import ClipReader, VideoError

ASK = {"size": 48, "max_frames": 8, "max_fps": 2}
MAY_GROW_BYTES = 1024  # by each decode; a leaked frame has 7,000, a clip 35,000
NOISE_BYTES = 2**20  # what allocators keep or give back from time to time


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str | None]:
    """Two of each kind of broken and odd video, and as many plain ones, with the error that each ends in."""
    folder, made = tmp_path_factory.mktemp("mixed"), {}
    for variant in range(2):
        made |= {kind.write(folder, variant): kind.error for kind in BROKEN.values()}
        made |= {write(folder, variant).path: None for write in ODD.values()}
    made |= {plain(folder, variant).path: None for variant in range(20)}
    return made


@pytest.mark.parametrize("decodes", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_decodes_leave_nothing_behind(files: dict[Path, str | None], decodes: int) -> None:
    def read_all(count: int) -> None:
        for number in range(count):
            path, error = list(files.items())[number % len(files)]
            try:
                assert reader.read(path, **ASK).frames.any() and error is None, path
            except VideoError as failure:
                assert failure.kind == error, failure

    family = children()
    with ClipReader(timeout_s=60) as reader:
        read_all(3 * len(files))
        gc.collect()  # what other tests left open
        pids = {"self", reader.child_pid}
        before = {pid: (open_files(pid), resident_bytes(pid)) for pid in pids}
        read_all(decodes)
        assert {"self", reader.child_pid} == pids and children() - family == {reader.child_pid}
        for pid, (handles, memory) in before.items():
            assert open_files(pid) <= handles, pid
            grown = resident_bytes(pid) - memory
            print(f"{decodes} decodes, {'our' if pid == 'self' else 'decoding'} process: {grown / 1024:+.0f} KiB")
            assert grown < NOISE_BYTES + MAY_GROW_BYTES * decodes, f"{pid}: {grown} bytes"
    assert children() <= family  # what another test left may have ended meanwhile


@pytest.mark.parametrize("kind", ["huge index", "huge box", "huge header", "huge pictures"])
def test_what_a_file_declares_is_not_allocated(tmp_path: Path, kind: str) -> None:
    def most_memory_bytes() -> int:
        status = Path(f"/proc/{reader.child_pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    with ClipReader(timeout_s=60) as reader:
        reader.read(plain(tmp_path, 0).path, **ASK)
        before = most_memory_bytes()
        for variant in range(3):
            with pytest.raises(VideoError) as caught:
                reader.read(BROKEN[kind].write(tmp_path, variant), **ASK)
            assert caught.value.kind == BROKEN[kind].error
        assert most_memory_bytes() < before + 64 * 2**20
