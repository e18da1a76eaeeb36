"""What a file looks like before any decoder opens it: is it there, is it a video's, was it cut short."""

import os
import stat
from typing import NamedTuple

from stts_lightning.video.clip import VideoError, video_error

_MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


class FileShape(NamedTuple):
    """What the first bytes and the box sizes of a file say."""

    looks_like_video: bool
    is_cut: bool  # the sizes written in the file reach past its end
    must_be_whole: bool  # its header does not tell how many pictures there should be, so a cut cannot be measured


def check_file(path: str) -> FileShape:
    """The shape of the file at `path`. Raises VideoError as `check_there`, which comes first."""
    size = check_there(path)
    try:
        return _file_shape(path, size)
    except OSError as error:
        raise _unreadable(path, error) from None


def check_there(path: str) -> int:
    """The bytes of a file, which is not opened.

    Raises VideoError of the kinds "missing", "not_a_file", "empty" and "unreadable".
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        is_link = os.path.islink(path)
        problem = "the link points to a file that does not exist" if is_link else "there is no such file"
        raise video_error(path, "missing", problem) from None
    except OSError as error:  # a folder that is locked, a name too long, a ring of links
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        what = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise video_error(path, "not_a_file", f"this is {what}")
    if found.st_size == 0:
        raise video_error(path, "empty", "the file has zero bytes")
    return found.st_size


def _unreadable(path: str, error: OSError) -> VideoError:
    return video_error(path, "unreadable", f"the file cannot be read: {error.strerror or error}")


def _file_shape(path: str, size: int) -> FileShape:
    """Walk the top-level boxes of an MP4 or MOV; know AVI, Matroska and FLV by their first bytes."""
    at, kinds = 0, []
    with open(path, "rb") as file:
        magic = file.read(12)
        if magic[4:8] not in _MP4_FIRST_BOXES:
            if magic[:4] == b"RIFF" and magic[8:11] == b"AVI":
                return FileShape(True, int.from_bytes(magic[4:8], "little") + 8 > size, True)
            return FileShape(magic[:4] == b"\x1a\x45\xdf\xa3" or magic[:3] == b"FLV", False, False)
        while at < size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:  # the size stands in 64 bits after the name
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:  # to the end of the file
                length = size - at
            if length < 8:  # no box: padding after the last one
                break
            kinds.append(head[4:8])
            at += length
    return FileShape(True, at > size, b"moof" in kinds)
