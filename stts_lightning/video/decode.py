"""Decode the frames that the model sees. MAIN PATH, and the only place that imports a decoder.

file -> checks -> frame table (`track.py`) -> sampling times (`sample.py`) -> decord, else PyAV -> square frames.

A decoder may hang, or crash the process, on a bad file: call `reader.ClipReader`, which runs this in a process of
its own, unless the files are known to be good.
"""

import os
import stat
from collections.abc import Iterator

import numpy as np

from stts_lightning.video.sample import clip_window, frames_at, sample_times
from stts_lightning.video.track import (
    FileShape,
    Packet,
    Track,
    build_track,
    file_shape,
    starts_clean,
    why_not_decord,
)
from stts_lightning.video.types import Clip, VideoError, video_error

DECODERS = ("auto", "decord", "pyav")
CHUNK = 4  # frames held at full resolution: four of 1080p take 100 MB as the floats they are resized in


class _NotRight(RuntimeError):
    """A decoder opened the file and disagrees with its container."""


def decode_clip(
    path: str | os.PathLike,
    *,
    size: int,
    max_frames: int,
    max_fps: float | None,
    start: float | None = None,
    end: float | None = None,
    decoder: str = "auto",
) -> Clip:
    """The frames of a video, or of its clip from `start` to `end` seconds, at Molmo2's sampling times.

    Frames are `size` x `size` pixels whatever the video's shape, and upright. "auto" takes decord where it is known
    to return the right frames and PyAV elsewhere, and says why in `Clip.note`; a decoder that is named is the only
    one tried. Both see the same frame table, so they return the same frames.

    Raises VideoError for a video that cannot be read, ValueError for the other arguments.
    """
    path = os.path.abspath(os.fspath(path))
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {decoder!r}")
    if size != int(size) or size < 1:
        raise ValueError(f"size must be a whole number of pixels, at least 1, got {size!r}")
    sample_times(1.0, max_frames, max_fps)  # raises for a wrong argument before any work
    track = _read_track(path, _check_file(path))
    try:
        offset_s, duration_s = clip_window(track.duration_s, start, end)
    except ValueError as error:
        raise video_error(path, "bad_clip_range", str(error)) from None
    times = sample_times(duration_s, max_frames, max_fps)
    if times[-1] + offset_s > track.complete_s:
        raise video_error(
            path,
            "truncated",
            f"the file was cut short: its header claims {track.duration_s:.2f} s of video, the pictures are complete "
            f"up to {max(track.complete_s, 0.0):.2f} s and {times[-1] + offset_s:.2f} s are asked for",
        )
    indices = frames_at(times + offset_s, track.ends_s)
    wanted, place = np.unique(indices, return_inverse=True)
    frames, used, note = _fetch(path, track, wanted, int(size), decoder)
    return Clip(frames[place], times, indices, duration_s, used, note)


def _fetch(
    path: str, track: Track, wanted: np.ndarray, size: int, decoder: str
) -> tuple[np.ndarray, str, str]:
    """The frames `wanted` (ascending indices), the decoder that gave them, and the note."""
    reason = why_not_decord(track)
    if decoder == "decord" or (decoder == "auto" and not reason):
        try:
            return _with_decord(path, track, wanted, size), "decord", ""
        except Exception as error:  # DECORDError is no RuntimeError; the reader is unusable after either
            reason = f"decord failed: {_first_line(error)}"
            if decoder == "decord":
                raise video_error(path, "unreadable", reason) from None
    try:
        frames, remark = _with_pyav(path, track, wanted, size)
    except VideoError:
        raise
    except Exception as error:
        raise video_error(path, "unreadable", f"no decoder reads it; PyAV: {_first_line(error)}") from None
    notes = [reason if decoder == "auto" else "", remark]
    return frames, "pyav", "; ".join(filter(None, notes))


# ---- before decoding ---------------------------------------------------------------------------------------------


def _check_file(path: str) -> FileShape:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise video_error(path, "not_a_file", f"this is {kind}")
        if found.st_size == 0:
            raise video_error(path, "empty", "the file has zero bytes")
        return file_shape(path)
    except (FileNotFoundError, NotADirectoryError):
        problem = (
            "the link points to a file that does not exist"
            if os.path.islink(path)
            else "there is no such file"
        )
        raise video_error(path, "missing", problem) from None
    except OSError as error:
        raise video_error(path, "unreadable", f"the file cannot be read: {error.strerror or error}") from None


def _read_track(path: str, shape: FileShape) -> Track:
    """Read the header and list every packet of the best video stream; about 4 microseconds each, none decoded."""
    import av

    try:
        with av.open(path, metadata_errors="ignore") as container:
            pictures = [s for s in container.streams.video if not _is_cover(s)]
            if not pictures and not shape.is_cut:
                streams = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
                raise video_error(path, "no_video_stream", f"the file holds {streams} and no video stream")
            track = _demux(path, container, _best(container, pictures), shape) if pictures else None
    except VideoError:
        raise
    except Exception as error:
        if shape.looks_like_video:
            problem = (
                f"the file starts like a video, but its index or data are missing ({_first_line(error)})"
            )
            raise video_error(path, "truncated", problem) from None
        raise video_error(path, "not_a_video", f"this is no video file ({_first_line(error)})") from None
    if track is None and (shape.is_cut or shape.looks_like_video):
        raise video_error(path, "truncated", "the file has a video's header and no complete picture")
    if track is None or not track.duration_s > 0:
        raise video_error(path, "no_frames", "the video stream has no frames, or none with a duration")
    return track


def _demux(path: str, container, stream, shape: FileShape) -> Track | None:
    from av.error import FFmpegError

    context, tick_s = stream.codec_context, float(stream.time_base)
    codec, extradata, packets, broke_off = context.codec.canonical_name, context.extradata or b"", [], False
    try:
        for p in container.demux(stream):
            if p.pts is None and p.dts is None and not p.size:  # PyAV's own marker of the end
                continue
            clean = p.is_keyframe and starts_clean(bytes(p), codec, extradata)
            packets.append(
                Packet(p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard, p.is_corrupt, clean)
            )
    except FFmpegError:
        broke_off = True
    file_bytes = os.path.getsize(path)
    beyond = any(entry.pos + entry.size > file_bytes for entry in stream.index_entries)
    rate = stream.average_rate or stream.guessed_rate
    return build_track(
        packets,
        containers=frozenset(container.format.name.split(",")),
        codec=codec,
        size=(context.width, context.height),
        tick_s=tick_s,
        frame_s=1.0 / float(rate) if rate else 0.0,
        claimed_end_s=_claimed_end(container, stream, tick_s),
        is_cut=beyond or broke_off or (shape.is_cut and shape.is_fragmented),
    )


def _claimed_end(container, stream, tick_s: float) -> float | None:
    """When the header says that the video stream ends, in seconds on the stream's own clock."""
    if not {"mov", "matroska", "flv"} & set(container.format.name.split(",")):
        return None  # elsewhere it is guessed from the very data that may be missing
    tag = stream.metadata.get("DURATION", "")  # Matroska's, as "00:00:02.000000000"
    if tag.count(":") == 2:
        hours, minutes, seconds = tag.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    if stream.duration:
        return ((stream.start_time or 0) + stream.duration) * tick_s
    # The file's own length is that of its longest stream, which may be the sound.
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None


def _is_cover(stream) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _best(container, pictures):
    best = container.streams.best("video")
    return best if best is not None and not _is_cover(best) else pictures[0]


# ---- the decoders ------------------------------------------------------------------------------------------------


def _with_decord(path: str, track: Track, wanted: np.ndarray, size: int) -> np.ndarray:
    import decord

    reader = decord.VideoReader(path, num_threads=1)  # at full resolution: its own scaling is not Molmo2's
    if len(reader) != len(track.ticks):
        raise _NotRight(f"it sees {len(reader)} frames, the container lists {len(track.ticks)}")
    starts = np.asarray(reader.get_frame_timestamp(list(range(len(reader)))), dtype=np.float64)[:, 0]
    expected = (track.ticks - track.ticks[0]) * track.tick_s
    # Its times are float32: on a video of hours they are off by milliseconds, still less than a frame.
    tolerance = np.maximum(1e-3, 1e-6 * expected)
    if (np.abs(starts - starts[0] - expected) > tolerance).any():
        raise _NotRight("its frame times are not the container's")

    def chunks() -> Iterator[np.ndarray]:
        for at in range(0, len(wanted), CHUNK):
            frames = reader.get_batch(wanted[at : at + CHUNK].tolist()).asnumpy()
            if frames.shape[3] != 3 or set(frames.shape[1:3]) != {track.width, track.height}:
                raise _NotRight(f"its frames have the shape {frames.shape[1:]}")
            yield frames

    return _gather(chunks(), len(wanted), size)


def _with_pyav(path: str, track: Track, wanted: np.ndarray, size: int) -> tuple[np.ndarray, str]:
    """Decode from the start up to the last frame wanted, keeping one frame at full resolution at a time."""
    import av

    targets, stand_ins = track.ticks[wanted].tolist(), 0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal stand_ins
        with av.open(path, metadata_errors="ignore") as container:
            stream = _best(container, [s for s in container.streams.video if not _is_cover(s)])
            stream.codec_context.thread_count = 1
            before, done = None, 0
            for count, frame in enumerate(container.decode(stream)):
                tick = count if track.counted else frame.pts
                # A picture that is listed and does not decode: the one before it stays on the screen.
                while done < len(targets) and targets[done] < tick:
                    yield _upright(frame if before is None else before)
                    done, stand_ins = done + 1, stand_ins + 1
                if done < len(targets) and targets[done] == tick:
                    yield _upright(frame)
                    done += 1
                if done == len(targets):
                    return
                before = frame
            if before is None:
                raise video_error(path, "no_frames", "no picture of the video can be decoded")
            last = count if track.counted else before.pts
            behind = len(track.ticks) - np.searchsorted(track.ticks, last, side="right")
            if behind > 2:  # some encoders end on a packet or two without a picture; more is a loss
                raise video_error(path, "truncated", f"the last {behind} frames cannot be decoded")
            for _ in targets[done:]:
                stand_ins += 1
                yield _upright(before)

    frames = _gather(chunks(), len(wanted), size)
    return frames, f"{stand_ins} undecodable frame(s) shown as their neighbour" if stand_ins else ""


def _upright(frame) -> np.ndarray:
    """RGB (1, H, W, 3) of a PyAV frame, turned as its metadata say; `rotation` counts degrees counter-clockwise."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, round(frame.rotation / 90) % 4)[None]


def _gather(chunks: Iterator[np.ndarray], count: int, size: int) -> np.ndarray:
    frames, at = np.empty((count, size, size, 3), dtype=np.uint8), 0
    for chunk in chunks:
        frames[at : at + len(chunk)] = resize(chunk, size)
        at += len(chunk)
    assert at == count, (at, count)
    return frames


def resize(frames: np.ndarray, size: int) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, size, size, 3) uint8, as Molmo2 does it: bilinear, no antialias, no aspect kept."""
    if frames.shape[1:3] == (size, size):
        return frames
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    pixels = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
    return pixels.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _first_line(error: BaseException) -> str:
    """A decoder's complaint without its stack trace, at most 160 characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
