"""Subtitles: two file layouts, and which of them a prompt shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stts_lightning.benchmark.items import Subtitle

HEADER = "subtitle\n"
REACH_S = 1.0  # Molmo2's mode `frame_1`: a subtitle is shown within a second of a sampled frame


def subtitle_text(subtitles: Sequence[Subtitle], times: np.ndarray) -> str:
    """What stands between the frames and the question: the entries that overlap [t - 1, t + 1] of a sampled time.

    Which ones are shown depends on the number of frames. Empty if none is.
    """
    early, late = np.asarray(times) - REACH_S, np.asarray(times) + REACH_S
    shown = [s for s in subtitles if bool(((s.start <= late) & (s.end >= early)).any())]
    return HEADER + "".join(f"{s.start:.1f} - {s.end:.1f} {s.text}\n" for s in shown) if shown else ""


def video_mme_subtitles(path: Path) -> dict[str, tuple[Subtitle, ...]]:
    """By video, from one JSON object {videoID: {number: {start, end, text}}}."""
    body = json.loads(path.read_text(encoding="utf-8"))
    return {
        video: tuple(Subtitle(float(e["start"]), float(e["end"]), str(e["text"])) for e in entries.values())
        for video, entries in body.items()
    }


def long_video_subtitles(path: Path, begins_s: float, duration_s: float) -> tuple[Subtitle, ...]:
    """Of one video, which is cut from a longer one at ``begins_s``: entries outside [begins, begins + duration] leave,
    and the rest starts at 0, cut there.

    Two layouts: {timestamp: [s, e], text}, where an end that is no number means the end of the video, and
    {start, end, line} with "h:m:s" times.
    """
    ends_s = begins_s + duration_s
    kept = []
    for entry in json.loads(path.read_text(encoding="utf-8")):
        start, end, text = _entry(entry, ends_s)
        if end >= begins_s and start <= ends_s:
            kept.append(Subtitle(max(start - begins_s, 0.0), end - begins_s, text))
    return tuple(kept)


def _entry(entry: dict[str, Any], last_s: float) -> tuple[float, float, str]:
    if "timestamp" not in entry:
        return _seconds(entry["start"]), _seconds(entry["end"]), str(entry["line"])
    start, end = entry["timestamp"]
    return float(start), float(end) if isinstance(end, int | float) else last_s, str(entry["text"])


def _seconds(text: str) -> float:
    """ "1:02:03.5" is 3723.5."""
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
