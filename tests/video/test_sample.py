import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.video.sample import clip_window, format_time, frames_at, sample_times


def shown(fps: float, n_frames: int, max_frames: int = 64, max_fps: float | None = 2) -> list[int]:
    """Frame indices on an ideal stream of constant rate."""
    times = sample_times(n_frames / fps, max_frames, max_fps)
    return frames_at(times, (np.arange(n_frames) + 1) / fps).tolist()


def test_golden_table_in_full(shared_folder):
    table = json.loads((shared_folder / "golden" / "frame_sampling.json").read_text())
    assert len(table["frames"]) >= 25 and len(table["durations"]) >= 17
    for case in table["frames"]:
        times = sample_times(case["duration"], case["max_frames"], case["max_fps"])
        np.testing.assert_allclose(times, case["timestamps"], rtol=0, atol=6e-10, err_msg=str(case["fps"]))
        ends = (np.arange(case["n_frames"]) + 1) / case["fps"]
        assert frames_at(times, ends).tolist() == case["frame_indices"]
        assert [format_time(t) for t in times] == case["prompt_times"]
    for case in table["durations"]:
        times = sample_times(case["duration"], case["max_frames"], case["max_fps"])
        assert len(times) == case["num"]
        np.testing.assert_allclose(times, case["timestamps"], rtol=0, atol=6e-10)


def test_published_spot_values():
    assert shown(30, 1) == [0, 0]
    assert shown(30, 16) == [0, 15, 15]
    assert shown(30, 30) == [0, 15, 29]
    assert len(shown(30, 301)) == 22 and shown(30, 301)[-2:] == [300, 300]
    assert len(shown(30, 945)) == 64 and shown(30, 945)[-2:] == [930, 944]
    assert shown(30, 1800)[:4] == [0, 28, 57, 85] and shown(30, 1800)[-2:] == [1771, 1799]
    assert shown(30, 108000)[:3] == [0, 1714, 3428] and shown(30, 108000)[-2:] == [106285, 107999]
    assert len(shown(1, 10)) == 21
    assert len(shown(2, 63)) == 64 and shown(2, 63)[-2:] == [62, 62]


def test_two_fps_end_where_the_frames_run_out():
    assert np.diff(sample_times(31.5, 64, 2)).max() == 0.5
    assert len(sample_times(31.500001, 64, 2)) == 64
    assert np.allclose(np.diff(sample_times(63.0, 64, 2)), 1.0)


DURATIONS = st.floats(0.001, 20_000)
FRAMES = st.integers(1, 500)
RATES = st.none() | st.floats(0.05, 60)


@given(DURATIONS, FRAMES, RATES)
def test_never_more_than_max_frames(duration, max_frames, max_fps):
    assert 1 <= len(sample_times(duration, max_frames, max_fps)) <= max_frames


@given(DURATIONS, st.integers(2, 500), RATES)
def test_first_time_is_zero_and_last_is_the_end(duration, max_frames, max_fps):
    times = sample_times(duration, max_frames, max_fps)
    assert times.dtype == np.float64
    assert times[0] == 0.0 and times[-1] == duration
    assert (np.diff(times) >= 0).all()


@given(DURATIONS, FRAMES, RATES.filter(lambda rate: rate is not None))
def test_capped_times_are_a_period_apart_or_evenly_spread(duration, max_frames, max_fps):
    gaps = np.diff(sample_times(duration, max_frames, max_fps))
    if (max_frames - 1) / max_fps >= duration:
        np.testing.assert_allclose(gaps[:-1], 1 / max_fps, rtol=1e-6)
        assert gaps[-1] <= 1 / max_fps * (1 + 1e-6)
    elif len(gaps):
        np.testing.assert_allclose(gaps, duration / (max_frames - 1), rtol=1e-6)


@given(st.lists(st.floats(0.001, 5), min_size=1, max_size=50), st.lists(st.floats(0, 300), max_size=20))
def test_frame_on_screen_has_started_and_not_ended(durations, times):
    ends = np.cumsum(durations)
    starts = np.concatenate([[0.0], ends[:-1]])
    for t, index in zip(times, frames_at(np.array(times), ends), strict=True):
        assert starts[index] <= t and (t < ends[index] or index == len(ends) - 1)


def test_clip_window_stops_at_the_video_end():
    assert clip_window(10.0, None, None) == (0.0, 10.0)
    assert clip_window(10.0, 2.5, 4.0) == (2.5, 1.5)
    assert clip_window(10.0, 9.0, 99.0) == (9.0, 1.0)


@pytest.mark.parametrize(
    "start, end", [(5, 5), (6, 5), (10, None), (11, 12), (-1, 5), (float("nan"), 5), (0, float("nan"))]
)
def test_wrong_clip_range_is_named(start, end):
    with pytest.raises(ValueError, match="clip start"):
        clip_window(10.0, start, end)


@pytest.mark.parametrize(
    "arguments, value",
    [
        ((0.0, 64, 2), "0.0"),
        ((-1.0, 64, 2), "-1.0"),
        ((float("nan"), 64, 2), "nan"),
        ((float("inf"), 64, 2), "inf"),
        ((10.0, 0, 2), "0"),
        ((10.0, 2.5, 2), "2.5"),
        ((10.0, 64, 0), "0"),
        ((10.0, 64, -2.0), "-2.0"),
    ],
)
def test_wrong_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=f"got {value}"):
        sample_times(*arguments)


def test_no_frames_are_an_error():
    with pytest.raises(ValueError, match="frame_end_times"):
        frames_at(np.array([0.0]), np.array([]))


def test_sampling_imports_numpy_only():
    code = (
        "import sys, stts_lightning.video, stts_lightning.video.sample\n"
        "heavy = {'torch', 'av', 'decord', 'transformers', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
