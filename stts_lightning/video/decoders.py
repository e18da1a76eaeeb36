"""decord and PyAV, the only place that imports a decoder. Each fetches the frames of a table that is made before.

Both return (n, S, S, 3) uint8 squares for `wanted`, the ascending indices of n frames. `straight`: the decoder scales
to the side S, `size`, itself, else Molmo2's own resizing does.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from stts_lightning.video.clip import VideoError, video_error
from stts_lightning.video.complaints import said
from stts_lightning.video.container import best_stream
from stts_lightning.video.patches import resize_frames
from stts_lightning.video.track import Track

MAX_PIXELS = 8192 * 8192  # of a picture: 8K has half of it; as RGB they take 200 MB, and FFmpeg's own limit 800
CHUNK = 4  # frames that decord returns at once at full resolution: four of 1080p take 25 MB


def load_decoders() -> None:
    """Import the decoders now, so that the first clip's time limit does not pay for it."""
    import av  # noqa: F401

    with contextlib.suppress(ImportError):  # there is no decord for some platforms; "auto" does without
        import decord  # noqa: F401


def open_video(path: str) -> Any:
    import av

    return av.open(path, metadata_errors="ignore")  # a title in a foreign encoding must not stop us


def with_decord(path: str, track: Track, wanted: np.ndarray, size: int, straight: bool) -> np.ndarray:
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


def with_pyav(path: str, track: Track, wanted: np.ndarray, size: int, straight: bool) -> tuple[np.ndarray, str]:
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
                raise _damage(path, track, targets[done])
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
        if damaged_before:
            raise _damage(path, track, targets[done])
        out[done:] = _square(before, size, straight)
        stand_ins += len(targets) - done
    return out, f"{stand_ins} undecodable frame(s) shown as their neighbour" if stand_ins else ""


def _damage(path: str, track: Track, tick: int) -> VideoError:
    at_s = (tick - int(track.ticks[0])) * track.tick_s
    return video_error(path, "unreadable", f"the picture at {at_s:.2f} s is damaged, or builds on one that is")


def _frames(path: str, counted: bool) -> Iterator[tuple[int, Any]]:
    """Every picture in order of presentation with its tick, decoded on one thread."""
    with open_video(path) as container:
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
