"""When to look: Molmo2's sampling times, and which frame a time shows. Numpy only, no decoder.

Molmo2 trains and evaluates with its time-based sampler in the mode `uniform_last_frame`: two frames a second
and the last frame while that fits into `max_frames`, else `max_frames` times spread evenly from 0 to the end.
The Transformers port differs, it drops the last frame; this module follows the original.

All times are float64 seconds. `D` is the duration, `F` the most frames, `r` the most frames a second.
"""

import math

import numpy as np


def sample_times(duration_s: float, max_frames: int, max_fps: float | None) -> np.ndarray:
    """The times (T,) at which a video of `duration_s` seconds is looked at; T <= max_frames.

    If (F - 1) / r >= D: 0, 1/r, 2/r, ... below D, and then D itself. Else, or without `max_fps`: F even steps
    from 0 to D, both ends included. Nothing is dropped as a duplicate: a video shorter than 1/r has the two
    times [0, D], and both may show the same frame. F = 1 gives [0].

    Raises ValueError for a duration that is not a positive number, `max_frames` < 1 or `max_fps` <= 0.
    """
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise ValueError(f"duration_s must be a positive number of seconds, got {duration_s!r}")
    if max_frames != int(max_frames) or max_frames < 1:
        raise ValueError(f"max_frames must be a whole number of at least 1, got {max_frames!r}")
    if max_fps is not None and not (math.isfinite(max_fps) and max_fps > 0):
        raise ValueError(f"max_fps must be a positive number, or None for no cap, got {max_fps!r}")
    if max_fps is None or (max_frames - 1) / max_fps < duration_s:
        return np.linspace(0.0, duration_s, int(max_frames), dtype=np.float64)
    steps = np.arange(0.0, duration_s, 1.0 / max_fps, dtype=np.float64)
    # arange may add one step that equals D but for rounding; the append below would then pass max_frames.
    steps = steps[: int(max_frames) - 1]
    return np.append(steps, np.float64(duration_s))


def frames_at(times: np.ndarray, frame_end_times: np.ndarray) -> np.ndarray:
    """Index (T,) int64 of the frame on screen at each of `times` (T,).

    `frame_end_times` (n,), ascending, is when each frame leaves the screen, on the clock of `times`. A frame
    is on screen until just before its end: the first with end > t is taken, and the last frame from there on.

    Raises ValueError if there are no frames.
    """
    ends = np.asarray(frame_end_times, dtype=np.float64)
    if ends.ndim != 1 or ends.size == 0:
        raise ValueError(f"frame_end_times must hold at least one time, got shape {ends.shape}")
    # No tolerance: where t and an end differ by rounding alone, Molmo2 too compares the float64 as they are.
    first_later = np.searchsorted(ends, np.asarray(times, dtype=np.float64), side="right")
    return np.minimum(first_later, ends.size - 1).astype(np.int64)


def clip_window(duration_s: float, start: float | None, end: float | None) -> tuple[float, float]:
    """Where a clip (start, end) of a video begins and how long it is, in seconds; None means no limit.

    An `end` past the video is cut to its duration, as the benchmarks' annotations often round up.

    Raises ValueError for a start below 0, at or after the end, or at or after the video's end.
    """
    begin = 0.0 if start is None else float(start)
    stop = duration_s if end is None else float(end)
    if not (math.isfinite(begin) and begin >= 0):
        raise ValueError(f"clip start must be 0 or more seconds, got {start!r}")
    if begin >= duration_s:
        raise ValueError(f"clip start {begin:g} s is not before the video's end at {duration_s:g} s")
    if not begin < stop:  # also catches an end that is not a number
        raise ValueError(f"clip start {begin:g} s must be before its end, got end={end!r}")
    return begin, min(stop, duration_s) - begin


def format_time(time_s: float) -> str:
    """A sampling time as Molmo2's prompt prints it: seconds with one decimal (10.0333 -> "10.0")."""
    return f"{time_s:.1f}"
