"""Every way in which a file is no readable video has its own kind of error."""

import copy
import os
import pickle

import numpy as np
import pytest

from stts_lightning.video.clip import REMEDIES, VideoError
from stts_lightning.video.decode import decode_clip


def read(path, **changes):
    return decode_clip(path, **{"size": 32, "max_frames": 64, "max_fps": 2} | changes)


def failure(path, **changes) -> VideoError:
    with pytest.raises(VideoError) as caught:
        read(path, **changes)
    error = caught.value
    assert error.path == str(path)
    assert str(path) in str(error) and REMEDIES[error.kind] in str(error)
    return error


def cut(source, target, part):
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * part)])
    return target


def test_missing_file(tmp_path):
    assert failure(tmp_path / "none.mp4").kind == "missing"
    assert failure(tmp_path / "none" / "none.mp4").kind == "missing"


def test_broken_link(tmp_path):
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    error = failure(tmp_path / "link.mp4")
    assert error.kind == "missing" and "link" in str(error)


def test_file_used_as_a_folder(video):
    assert failure(video("h264.mp4") / "x.mp4").kind == "missing"


def test_directory_and_pipe(tmp_path):
    assert failure(tmp_path).kind == "not_a_file"
    os.mkfifo(tmp_path / "pipe.mp4")
    assert failure(tmp_path / "pipe.mp4").kind == "not_a_file"


def test_zero_bytes(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert failure(tmp_path / "empty.mp4").kind == "empty"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_no_permission(video, tmp_path):
    path = cut(video("h264.mp4"), tmp_path / "locked.mp4", 1)
    path.chmod(0)
    assert failure(path).kind == "unreadable"


@pytest.mark.parametrize("data", [b"<html>404 Not Found</html>" * 50, bytes(range(256)) * 40, b"x"])
def test_other_data_under_a_video_name(tmp_path, data):
    (tmp_path / "page.mp4").write_bytes(data)
    assert failure(tmp_path / "page.mp4").kind == "not_a_video"


def test_sound_alone(sound):
    error = failure(sound)
    assert error.kind == "no_video_stream" and "audio" in str(error)


# Little loss makes the pictures outweigh the index, so that a cut falls into them.
BIG = {"frames": 90, "size": (320, 240), "options": {"crf": "1"}}
MAKING = {
    "index_first.mp4": {"container_options": {"movflags": "faststart"}},
    "index_last.mp4": {},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "matroska.mkv": {},
    "riff.avi": {},
}


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", MAKING)
def test_truncated_file(video, tmp_path, name, part):
    path = cut(video(f"big_{name}", **BIG, **MAKING[name]), tmp_path / name, part)
    assert failure(path).kind == "truncated"
    assert failure(path, decoder="pyav").kind == "truncated"


def test_one_lost_byte_of_pictures_is_found(video, tmp_path):
    path = video("big_index_first.mp4", **BIG, **MAKING["index_first.mp4"])
    data = path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[:-1])
    assert failure(tmp_path / "cut.mp4").kind == "truncated"


def test_clip_inside_what_is_left_of_a_cut_file(video, read_numbers, tmp_path):
    source = video("big_index_first.mp4", **BIG, **MAKING["index_first.mp4"])
    path = cut(source, tmp_path / "cut.mp4", 0.6)
    clip = read(path, start=0.0, end=1.0)
    assert clip.decoder == "pyav" and "cut short" in clip.note
    assert read_numbers(clip.frames) == [0, 15, 30]
    assert failure(path, start=0.0, end=2.9).kind == "truncated"
    # The range is judged against the length that the header claims, not against what is left.
    assert failure(path, start=2.5, end=2.9).kind == "truncated"
    assert failure(path, start=3.0).kind == "bad_clip_range"


@pytest.mark.parametrize("size", [40, 700])
def test_header_alone(video, tmp_path, size):
    data = video("big_index_first.mp4", **BIG, **MAKING["index_first.mp4"])
    (tmp_path / "header.mp4").write_bytes(data.read_bytes()[:size])
    assert failure(tmp_path / "header.mp4").kind == "truncated"


@pytest.mark.parametrize("damage", ["zeros", "flipped bytes"])
@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
def test_damage_inside_the_pictures_is_loud(video, tmp_path, decoder, damage):
    """A copy that was reserved and never filled has the right length and holes: they must not become frames."""
    data = bytearray(video("big_index_last.mp4", **BIG).read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    middle = (start + end) // 2
    if damage == "zeros":
        data[middle : middle + 3000] = bytes(3000)
    else:
        for place in np.random.default_rng(0).integers(start + 1000, end, 20):
            data[place] ^= 0xFF
    (tmp_path / "damaged.mp4").write_bytes(data)
    assert failure(tmp_path / "damaged.mp4", decoder=decoder, max_fps=None).kind == "unreadable"


def test_error_survives_pickling():
    error = VideoError("a.mp4: gone", "a.mp4", "missing")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(other), other.path, other.kind) == ("a.mp4: gone", "a.mp4", "missing")
    assert isinstance(VideoError("as a DataLoader raises it again"), ValueError)
