"""Bytes that changed inside the pictures: FFmpeg paints over them, and nobody must take that for the video."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from stts_lightning.video import ClipReader, VideoError
from stts_lightning.video.complaints import said
from stts_lightning.video.write import write_h264

ASK = {"size": 64, "max_frames": 8, "max_fps": 2}
FPS, GOP = 10, 10  # a key frame each second


@pytest.fixture(scope="module")
def reader():
    with ClipReader(timeout_s=60) as reader:
        yield reader


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of coloured blocks that wander."""
    path = tmp_path_factory.mktemp("damage") / "whole.mp4"
    blocks = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    write_h264(path, (np.roll(blocks, 4 * number, axis=1) for number in range(30)), FPS, keyframe_interval=GOP)
    return path


@pytest.fixture(scope="module")
def damaged(whole: Path) -> Path:
    """With three bytes flipped in the key frame at 1 s, which the nine frames after it build on."""
    data, path = bytearray(whole.read_bytes()), whole.with_name("damaged.mp4")
    with av.open(str(whole)) as container:
        keys = [packet for packet in container.demux(video=0) if packet.is_keyframe]
    for part in (0.3, 0.5, 0.7):
        data[keys[1].pos + int(keys[1].size * part)] ^= 0xFF
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
@pytest.mark.parametrize("resize", ["molmo2", "decoder"])
def test_pictures_that_build_on_a_damaged_one_are_refused(reader, whole, damaged, decoder, resize) -> None:
    how = {**ASK, "decoder": decoder, "resize": resize}
    for start, end in ((0, 3), (1, 1.1), (1.6, 1.9)):
        with pytest.raises(VideoError) as caught:
            reader.read(damaged, **how, start=start, end=end)
        assert caught.value.kind == "unreadable"
        assert reader.read(whole, **how, start=start, end=end).note == ""


@pytest.mark.parametrize("decoder", ["auto", "pyav"])  # decord by itself reads ahead, and cannot tell where it was
def test_pictures_before_and_after_the_damage_are_read(reader, whole, damaged, decoder) -> None:
    for start, end in ((0, 0.9), (2, 2.9)):
        expected, clip = (reader.read(path, **ASK, decoder=decoder, start=start, end=end) for path in (whole, damaged))
        assert np.abs(clip.frames.astype(int) - expected.frames).max() <= 3


def test_a_process_of_the_users_keeps_its_standard_error(tmp_path) -> None:
    """Only the decoding process listens to its own."""
    words, usual = b"what the user's program had to say\n", os.dup(2)
    with (tmp_path / "errors.txt").open("wb", buffering=0) as file:
        try:
            os.dup2(file.fileno(), 2)
            os.write(2, words)
            heard = said()
        finally:
            os.dup2(usual, 2)
            os.close(usual)
    assert heard == "" and (tmp_path / "errors.txt").read_bytes() == words
