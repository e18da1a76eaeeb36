"""Decode the frames that the model sees. MAIN PATH of a video, and the only place that imports a decoder.

file -> checks (files) -> frame table (container, track) -> times (sample) -> decord or PyAV -> square frames

On a bad file a decoder may hang, or crash the process. `reader.ClipReader` runs this in a process of its own:
call that one unless the files are known to be good.
"""

import contextlib
import os
import re
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np

from stts_lightning.video.clip import Clip, VideoError, video_error
from stts_lightning.video.complaints import said
from stts_lightning.video.container import best_stream, is_picture, lacks_data, list_packets
from stts_lightning.video.files import FileShape, check_file
from stts_lightning.video.patches import resize_frames
from stts_lightning.video.sample import clip_window, frames_at, sample_times
from stts_lightning.video.track import Track, why_not_decord

DECODERS = ("auto", "decord", "pyav")
RESIZERS = ("molmo2", "decoder")
MAX_PIXELS = 8192 * 8192  # of a picture: 8K has half of it; as RGB they take 200 MB, and FFmpeg's own limit 800
CHUNK = 4  # frames that decord returns at once at full resolution: four of 1080p take 25 MB


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
            return _with_decord(path, track, wanted, size, straight), "decord", ""
        except Exception as error:  # DECORDError is no RuntimeError; after either the reader is unusable
            reason = f"decord failed: {_first_line(error)}"
            # A reader that lives on in the traceback would hang a forked process that frees it.
            traceback.clear_frames(error.__traceback__)
    if decoder == "decord":
        raise video_error(path, "unreadable", reason)
    try:
        frames, remark = _with_pyav(path, track, wanted, size, straight)
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
        with _open(path) as container:
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


def load_decoders() -> None:
    """Import the decoders now, so that the first clip's time limit does not pay for it."""
    import av  # noqa: F401

    with contextlib.suppress(ImportError):  # there is no decord for some platforms; "auto" does without
        import decord  # noqa: F401


def _open(path: str) -> Any:
    import av

    return av.open(path, metadata_errors="ignore")  # a title in a foreign encoding must not stop us


# ---- the decoders ------------------------------------------------------------------------------------------


def _with_decord(path: str, track: Track, wanted: np.ndarray, size: int, straight: bool) -> np.ndarray:
    """Fetch by index, after comparing decord's frame table with the container's; raises where they differ."""
    import decord

    if straight and track.header.video_streams > 1:  # a scaled frame does not tell which stream it is from
        _check_shape(decord.VideoReader(path, num_threads=1).get_batch([0]).asnumpy(), track)
    if track.header.codec in ("vp8", "vp9"):  # the others' headers are read from the pictures' own
        first = next(_frames(path, counted=True))[1]
        if (first.width, first.height) != (track.header.width, track.header.height):
            raise RuntimeError(f"the header has another size than the pictures, {first.width} x {first.height}")
    said()
    side = size if straight else -1  # -1: as in the file. decord turns a frame upright before it scales it
    reader = decord.VideoReader(path, num_threads=1, width=side, height=side)
    if len(reader) != len(track.ticks):
        raise RuntimeError(f"it sees {len(reader)} frames, the container lists {len(track.ticks)}")
    starts_s = np.asarray(reader.get_frame_timestamp(list(range(len(reader)))), dtype=np.float64)[:, 0]
    listed_s = (track.ticks - track.ticks[0]) * track.tick_s
    # Its times are float32: in a video of hours they are off by milliseconds, still less than a frame.
    if (np.abs(starts_s - starts_s[0] - listed_s) > np.maximum(1e-3, 1e-6 * listed_s)).any():
        raise RuntimeError("its frame times are not the container's")
    out = np.empty((len(wanted), size, size, 3), dtype=np.uint8)
    if straight:
        for place, index in enumerate(wanted.tolist()):
            # Singly, as rows may come padded, with the padding counted as colours: a batch then fails (48 pixels).
            rows = reader[index].asnumpy().reshape(size, -1)
            out[place] = rows[:, : size * 3].reshape(size, size, 3)
    for at in range(0, 0 if straight else len(wanted), CHUNK):
        frames = reader.get_batch(wanted[at : at + CHUNK].tolist()).asnumpy()
        _check_shape(frames, track)
        out[at : at + CHUNK] = resize_frames(frames, size)
    if complaint := said():  # of damage, perhaps: PyAV tells which pictures have it
        raise RuntimeError(complaint)
    return out


def _check_shape(frames: np.ndarray, track: Track) -> None:
    if frames.shape[3] != 3 or set(frames.shape[1:3]) != {track.header.width, track.header.height}:
        raise RuntimeError(f"its frames have the shape {frames.shape[1:]}")


def _with_pyav(path: str, track: Track, wanted: np.ndarray, size: int, straight: bool) -> tuple[np.ndarray, str]:
    """Decode from the start to the last frame wanted; one frame at a time is held at full resolution.

    Also tells of pictures that are listed and do not decode: the one before stays on the screen, as it would
    in a player. One that decodes with damage, or builds on one, is an error: FFmpeg paints over what is missing.
    """
    targets = track.ticks[wanted].tolist()
    out, done, stand_ins = np.empty((len(wanted), size, size, 3), dtype=np.uint8), 0, 0
    before, damaged, damaged_before = None, False, False
    for tick, frame in _frames(path, track.counted):
        damaged = frame.is_corrupt or (damaged and not frame.key_frame)
        while done < len(targets) and targets[done] <= tick:
            exact = targets[done] == tick
            this_one = exact or before is None
            if damaged if this_one else damaged_before:
                at_s = (targets[done] - int(track.ticks[0])) * track.tick_s
                raise video_error(path, "unreadable", f"the picture at {at_s:.2f} s is damaged")
            out[done] = _square(frame if this_one else before, size, straight)
            done, stand_ins = done + 1, stand_ins + (not exact)
        if done == len(targets):
            break
        before, last_tick, damaged_before = frame, tick, damaged
    if before is None and done == 0:
        raise video_error(path, "no_frames", "no picture of the video can be decoded")
    if done < len(targets):
        behind = int((track.ticks > last_tick).sum())
        if behind > 2:  # some encoders end with a packet or two that hold no picture; more is a loss
            raise video_error(path, "truncated", f"the last {behind} frames cannot be decoded")
        out[done:] = _square(before, size, straight)
        stand_ins += len(targets) - done
    return out, f"{stand_ins} undecodable frame(s) shown as their neighbour" if stand_ins else ""


def _frames(path: str, counted: bool) -> Iterator[tuple[int, Any]]:
    """Every picture in order of presentation with its tick, decoded on one thread."""
    with _open(path) as container:
        stream = best_stream(container)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # a picture may be larger than its header says
        for count, frame in enumerate(container.decode(stream)):
            yield (count if counted else frame.pts), frame


def _square(frame: Any, size: int, straight: bool) -> np.ndarray:
    """RGB (S, S, 3), turned as the metadata say; PyAV counts `rotation` in degrees counter-clockwise."""
    scaled = {"width": size, "height": size, "interpolation": "BILINEAR"} if straight else {}  # decord's, too
    upright = np.rot90(frame.to_ndarray(format="rgb24", **scaled), round(frame.rotation / 90) % 4)
    return resize_frames(upright[None], size)[0]


def _first_line(error: BaseException) -> str:
    """A decoder's complaint in at most 160 characters: no stack trace, and not decord's "[05:31:28] /src/x.cc:27: "."""
    lines = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
