from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.benchmark.items import Subtitle
from stts_lightning.benchmark.subtitles import long_video_subtitles, subtitle_text, video_mme_subtitles


def slow_selection(subtitles, times):
    """One comparison of two intervals at a time."""
    shown = []
    for subtitle in subtitles:
        for t in times:
            if not (subtitle.end < t - 1 or subtitle.start > t + 1):
                shown.append(subtitle)
                break
    return shown


second = st.integers(0, 80).map(lambda quarter: quarter / 4)


@given(st.lists(st.tuples(second, second), max_size=6), st.lists(second, min_size=1, max_size=4))
def test_shows_what_overlaps_a_second_around_a_sampled_frame(spans, times):
    subtitles = [Subtitle(min(s), max(s), f"line {i}") for i, s in enumerate(spans)]
    expected = slow_selection(subtitles, times)
    lines = [f"{s.start:.1f} - {s.end:.1f} {s.text}\n" for s in expected]
    assert subtitle_text(subtitles, np.array(times)) == ("subtitle\n" + "".join(lines) if lines else "")


def test_more_frames_show_more_subtitles():
    subtitles = [Subtitle(float(s), s + 0.5, f"at {s}") for s in range(0, 60, 3)]
    few, many = (subtitle_text(subtitles, np.linspace(0, 60, n)).count("\n") for n in (4, 16))
    assert few < many


def test_the_text_as_molmo2_prints_it():
    subtitles = [Subtitle(0.0, 2.5, "text"), Subtitle(3.04, 4.06, "more")]
    assert subtitle_text(subtitles, np.array([0.0, 3.0])) == "subtitle\n0.0 - 2.5 text\n3.0 - 4.1 more\n"


def test_video_mme_layout(tmp_path):
    path = tmp_path / "subtitles.json"
    path.write_text(
        json.dumps({"v": {"0": {"start": 1, "end": 2.5, "text": "a"}, "1": {"start": 3, "end": 4, "text": "b"}}})
    )
    assert video_mme_subtitles(path) == {"v": (Subtitle(1, 2.5, "a"), Subtitle(3, 4, "b"))}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"timestamp": [90.0, 99.0], "text": "before"}], []),
        ([{"timestamp": [99.0, 101.0], "text": "across"}], [(0.0, 1.0, "across")]),
        ([{"timestamp": [105.5, None], "text": "open"}], [(5.5, 10.0, "open")]),
        ([{"timestamp": [111.0, 112.0], "text": "after"}], []),
        ([{"start": "00:01:42.500", "end": "00:01:43.000", "line": "clock"}], [(2.5, 3.0, "clock")]),
        ([{"start": "01:00:00.000", "end": "01:00:01.000", "line": "an hour later"}], []),
    ],
)
def test_long_video_layouts_are_cut_to_the_clip(tmp_path, entries, expected):
    path = tmp_path / "v_en.json"
    path.write_text(json.dumps(entries))
    found = long_video_subtitles(path, begins_s=100.0, duration_s=10.0)
    assert [tuple(s) for s in found] == expected
