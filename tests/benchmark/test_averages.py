"""Against the paper's cells, and the averages recomputed from them by hand."""

from __future__ import annotations

import pytest

from stts_lightning.benchmark.averages import IMAGE, LONG, MULTI_IMAGE, SHORT, image_averages, video_averages

VIDEO_ROWS = {  # Table 1's cells, then short, long and average recomputed to two places
    "Qwen3-VL-4B": ("81.4 70.7 68.9 31.8 58.6 70.8 69.3 74.0 62.8 - 58.4 56.2 49.8", (63.70, 61.75, 62.73)),
    "PLM-8B": ("84.1 82.7 77.1 33.2 61.4 72.7 58.3 65.4 56.9 - 52.6 44.5 47.2", (68.53, 54.15, 61.34)),
    "InternVL3.5-8B": ("81.7 72.7 72.1 24.6 56.6 70.3 66.0 68.6 62.1 - 53.2 43.4 48.1", (63.00, 56.90, 59.95)),
    "Baseline": ("83.9 78.7 72.6 36.5 61.0 69.9 62.8 67.6 61.5 60.9 70.3 42.0 47.6", (67.10, 58.96, 63.03)),
    "30%": ("84.1 79.0 72.7 35.6 59.2 69.6 63.4 68.5 61.1 59.2 69.5 42.6 47.7", (66.70, 58.86, 62.78)),
    "40%": ("83.6 77.3 71.8 34.6 59.2 69.3 62.4 67.4 61.4 60.2 67.5 41.1 47.2", (65.97, 58.17, 62.07)),
    "50%": ("83.7 77.7 72.4 35.1 58.2 69.2 62.4 67.2 61.0 60.1 68.4 40.5 46.0", (66.05, 57.94, 62.00)),
}
IMAGE_ROWS = {  # Table 4's cells and its own printed averages; the 50 % row prints 77.3, its cells give 77.1
    "0%": ("95.0 84.1 91.9 77.2 85.5 86.0 74.6 49.6 57.4 94.3 91.1 61.2 54.2", (80.6, 57.7, 77.1)),
    "50%": ("94.3 83.9 91.3 77.3 85.7 86.2 75.4 50.0 57.4 94.9 89.6 62.0 54.9", (80.5, 58.4, 77.1)),
}


def cells(names, text):
    return {name: None if value == "-" else float(value) for name, value in zip(names, text.split(), strict=True)}


@pytest.mark.parametrize("row", VIDEO_ROWS)
def test_video_averages_follow_from_the_papers_cells(row):
    text, expected = VIDEO_ROWS[row]
    found = video_averages(cells(SHORT + LONG, text))
    assert found[:3] == pytest.approx(expected, abs=0.006)
    assert found.missing == (("long_video_sub",) if " - " in text else ())


@pytest.mark.parametrize("row", IMAGE_ROWS)
def test_image_averages_follow_from_the_papers_cells(row):
    text, expected = IMAGE_ROWS[row]
    found = image_averages(cells(IMAGE + MULTI_IMAGE, text))
    assert found[:3] == pytest.approx(expected, abs=0.0501)
    assert found.missing == ()


def test_the_average_is_the_mean_of_the_groups_and_not_of_thirteen():
    found = video_averages({**dict.fromkeys(SHORT, 1.0), **dict.fromkeys(LONG, 0.0)})
    assert found.average == 0.5 != 6 / 13


def test_what_is_not_there_is_said_and_not_counted():
    found = video_averages({"next_qa": 0.8, "mvbench": 0.4})
    assert found.first == pytest.approx(0.6) and found.second is None and found.average is None
    assert len(found.missing) == 11 and "next_qa" not in found.missing
