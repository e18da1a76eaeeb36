"""What reading a video gives: a `Clip`, or a `VideoError` that says what is wrong and what to do."""

from typing import NamedTuple

import numpy as np


class Clip(NamedTuple):
    """The frames that the model sees of one video.

    T: sampling times; S: side of the square frames in pixels.
    """

    frames: np.ndarray  # (T, S, S, 3) uint8, RGB
    times: np.ndarray  # (T,) float64: the sampling times asked for, in seconds from the clip's start
    frame_indices: np.ndarray  # (T,) int64: which frame of the file each is, in order of presentation
    duration_s: float  # what was sampled: the clip's length, not the file's
    decoder: str  # "decord" or "pyav"
    note: str  # why it was not the decoder tried first, or what else to know; "" if nothing


# Every `VideoError.kind`, with what the user can do about it.
REMEDIES = {
    "missing": "Check the path, and that the disk or network share is mounted.",
    "not_a_file": "Give the path of one file.",
    "empty": "The download or copy wrote nothing: fetch it again.",
    "unreadable": "Check the permissions; if the data are damaged, fetch the file again or re-encode it.",
    "not_a_video": "Check that the download did not save an error page or another kind of file.",
    "no_video_stream": "Give a file that has pictures, or drop the sample.",
    "too_large": "Scale the video down or drop the sample.",
    "truncated": "The download or copy stopped early: fetch it again, or take a clip inside what is there.",
    "timeout": "Raise timeout_s if the disk is slow or the video long; else re-encode or drop the sample.",
    "decoder_crash": "Re-encode the file (H.264 in MP4 is the safest) or drop the sample.",
    "bad_clip_range": "Correct the clip's start and end; they are seconds from the start of the video.",
    "no_frames": "Re-encode the file or drop the sample.",
}


class VideoError(ValueError):
    """A video that cannot be read. The text names the file, what is wrong with it and the remedy.

    `kind` is a key of `REMEDIES`, to count or skip by; `path` is the file. Both are "" where only the text
    survived, as when a DataLoader worker's error is raised again in the main process.
    """

    def __init__(self, message: str, path: str = "", kind: str = ""):
        super().__init__(message)
        self.path = path
        self.kind = kind

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return VideoError, (str(self), self.path, self.kind)


def video_error(path: str, kind: str, problem: str) -> VideoError:
    """The error for `path`: its text is "<path>: <problem>. <remedy of the kind>"."""
    return VideoError(f"{path}: {problem.rstrip('.')}. {REMEDIES[kind]}", path, kind)
