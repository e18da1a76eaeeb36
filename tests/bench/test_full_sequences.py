"""What the bench says of packed sequences follows from the sizes of the clips."""

from fractions import Fraction

import numpy as np
import pytest

from stts_lightning.bench import main
from stts_lightning.bench.packing import LIMITS, packing_table

CLIPS = 300


@pytest.fixture(scope="module")
def table():
    return packing_table(CLIPS)


def test_padding_is_what_the_clips_leave(table):
    """The mean clip, with the paper's count of tokens: 81 a frame, two markers, and its time, a token a character."""
    rng = np.random.default_rng(0)
    frames, texts = np.minimum(rng.integers(8, 97, CLIPS), 64), rng.integers(50, 601, CLIPS)
    times = [sum(len(f"{32.5 * i:.1f} ") + (i > 0) for i in range(count)) for count in frames]
    for row, (percent, _, max_tokens, _) in zip(table, LIMITS, strict=True):
        left = [
            83 * int(f) + time + int(text) - int(Fraction(percent, 100) * 81 * int(f))
            for f, time, text in zip(frames, times, texts, strict=True)
        ]
        expected = 1 - row["samples_per_sequence"] * np.mean(left) / max_tokens
        assert row["padding_share"] == pytest.approx(expected, abs=0.06)  # without what waits in the buffer


def test_counting_what_is_kept_fits_more_where_frames_allow_it(table):
    rows = {(row["run"], row["counted"], row["max_tokens"], row["max_frames"]): row for row in table}
    by_all, by_kept = rows["50", "unpruned", 16384, 128], rows["50", "kept", 16384, 256]
    assert by_kept["samples_per_sequence"] > 1.5 * by_all["samples_per_sequence"]
    assert by_kept["padding_share"] < by_all["padding_share"] / 2
    assert by_all["samples_per_sequence"] == rows["0", "unpruned", 16384, 128]["samples_per_sequence"]


def test_it_needs_no_model(tmp_path, monkeypatch, table):
    monkeypatch.setattr(main, "Bench", None)
    monkeypatch.setattr(main, "packing_table", lambda: table)
    assert main.bench(tmp_path, only=["packing"])["tables"]["packing"] == table
    assert "| 50 | kept |" in (tmp_path / "bench.md").read_text()
