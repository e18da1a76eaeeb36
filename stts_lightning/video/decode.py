"""Decode the frames that the model sees. MAIN PATH of a video, from the file to its frames.

file -> checks (files) -> frame table (container, track) -> times (sample) -> decord or PyAV -> square frames

On a bad file a decoder may hang, or crash the process. `reader.ClipReader` runs this in a process of its own:
call that one unless the files are known to be good.
"""

import os
import re
import traceback

import numpy as np

from stts_lightning.video.clip import Clip, VideoError, video_error
from stts_lightning.video.container import best_stream, is_picture, lacks_data, list_packets
from stts_lightning.video.decoders import MAX_PIXELS, open_video, with_decord, with_pyav
from stts_lightning.video.files import FileShape, check_file
from stts_lightning.video.sample import clip_window, frames_at, sample_times
from stts_lightning.video.track import Track, why_not_decord

DECODERS = ("auto", "decord", "pyav")
RESIZERS = ("molmo2", "decoder")


def decode_clip(
    path: str | os.PathLike[str],
    *,
    size: int,
    max_frames: int,
    max_fps: float | None,
    start: float | None = None,
    end: float | None = None,
    decoder: str = "auto",
    resize: str = "molmo2",
) -> Clip:
    """The frames of a video, or of its clip from `start` to `end` seconds, at Molmo2's sampling times.

    Frames are `size` x `size` pixels whatever the video's shape, and upright. "auto" takes decord where it is known
    to return the right frames and PyAV elsewhere, and says why in `Clip.note`. A decoder that is named is the only
    one tried; decord is refused where it is known to be wrong. Both work from the same frame table, so they return
    the same frames.

    `resize`: "molmo2" resizes the decoded frames with Molmo2's own arithmetic (`patches.resize_frames`); "decoder"
    lets the decoder scale while it converts the colours, which is faster. Its bilinear filter widens as the picture
    shrinks, Molmo2's does not, so the pixels differ: the more, the finer the picture and the smaller `size`.

    Raises VideoError for a video that cannot be read, ValueError for wrong arguments.
    """
    path = os.path.abspath(os.fspath(path))
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {decoder!r}")
    if resize not in RESIZERS:
        raise ValueError(f"resize must be one of {', '.join(RESIZERS)}, got {resize!r}")
    if size != int(size) or size < 1:
        raise ValueError(f"size must be a whole number of pixels, at least 1, got {size!r}")
    sample_times(1.0, max_frames, max_fps)  # raises for a wrong argument before any work
    track = _read_track(path, check_file(path))
    try:
        offset_s, duration_s = clip_window(track.duration_s, start, end)
    except ValueError as error:
        raise video_error(path, "bad_clip_range", str(error)) from None
    times = sample_times(duration_s, max_frames, max_fps)
    last_s = float(times[-1]) + offset_s
    if last_s > track.complete_s:
        problem = (
            f"the file was cut short: its header claims {track.duration_s:.2f} s of video, the pictures are "
            f"complete up to {max(track.complete_s, 0.0):.2f} s, and those up to {last_s:.2f} s are needed"
        )
        raise video_error(path, "truncated", problem)
    indices = frames_at(times + offset_s, track.ends_s)
    wanted, place = np.unique(indices, return_inverse=True)  # a frame shown twice is decoded once
    frames, used, note = _fetch(path, track, wanted, int(size), decoder, resize == "decoder")
    return Clip(frames[place], times, indices, duration_s, used, note)


def _fetch(
    path: str, track: Track, wanted: np.ndarray, size: int, decoder: str, straight: bool
) -> tuple[np.ndarray, str, str]:
    """The frames `wanted` (ascending indices), the decoder that gave them, and the note.

    `straight`: the decoder scales to `size` itself.
    """
    reason = why_not_decord(track)
    if decoder == "decord" and reason:
        raise video_error(path, "unreadable", f"decord was asked for; {reason}")
    if decoder == "decord" or (decoder == "auto" and not reason):
        try:
            return with_decord(path, track, wanted, size, straight), "decord", ""
        except Exception as error:  # DECORDError is no RuntimeError; after either the reader is unusable
            reason = f"decord failed: {_first_line(error)}"
            # A reader that lives on in the traceback would hang a forked process that frees it.
            traceback.clear_frames(error.__traceback__)
    if decoder == "decord":
        raise video_error(path, "unreadable", reason)
    try:
        frames, remark = with_pyav(path, track, wanted, size, straight)
    except VideoError:
        raise
    except Exception as error:
        raise video_error(path, "unreadable", f"no decoder reads it; PyAV: {_first_line(error)}") from None
    return frames, "pyav", "; ".join(filter(None, [reason if decoder == "auto" else "", remark]))


# ---- before decoding: the container ------------------------------------------------------------------------


def _read_track(path: str, shape: FileShape) -> Track:
    """Read the header and the list of packets of the best video stream; nothing is decoded."""
    track, streams, is_cut = None, "nothing", shape.is_cut
    try:
        with open_video(path) as container:
            streams = ", ".join(sorted({s.type for s in container.streams})) or streams
            if is_picture(container):
                raise video_error(path, "not_a_video", "this is a picture, which `images` may name and `video` not")
            stream = best_stream(container)
            if stream is not None:
                _check_size(path, stream.codec_context.width, stream.codec_context.height)
                size = os.path.getsize(path)
                track = list_packets(container, stream, shape, size)
                is_cut = is_cut or lacks_data(stream, size)
    except (ImportError, VideoError):
        raise
    except Exception as error:
        if shape.looks_like_video:
            problem = f"it starts like a video, but its index or data are missing ({_first_line(error)})"
            raise video_error(path, "truncated", problem) from None
        raise video_error(path, "not_a_video", f"this is no video file ({_first_line(error)})") from None
    if track is None and is_cut:
        raise video_error(path, "truncated", "the file was cut before its first complete picture")
    if stream is None:
        raise video_error(path, "no_video_stream", f"the file holds {streams} and no video stream")
    if track is None or not track.duration_s > 0:
        raise video_error(path, "no_frames", "the video stream has no frames, or none with a time")
    return track


def _check_size(path: str, width: int, height: int) -> None:
    """Before anything is decoded, for a decoder takes the memory that a header asks for."""
    if width * height > MAX_PIXELS:
        raise video_error(path, "too_large", f"{width} x {height} pixels are more than {MAX_PIXELS:,}")


def _first_line(error: BaseException) -> str:
    """A decoder's complaint in at most 160 characters: no stack trace, and not decord's "[05:31:28] /src/x.cc:27: "."""
    lines = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
