"""How many windows leave (paper 3.3)."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

_said: set[tuple[float, int]] = set()


def prune_count(percent: float, num_frames: int, windows_per_frame: int) -> int:
    """floor(k / 100 * frames * windows): how many windows of a video leave.

    All frames count towards the budget, frame 0 included, though it is never touched itself (the paper's
    Table 6 pins this). Exact: 40 % of 5,184 windows is 2,073 whatever the floating point says. A request
    that would need frame 0 is clamped and said once.
    """
    if percent == 100:
        return num_frames * windows_per_frame
    wanted = math.floor(Fraction(str(percent)) / 100 * num_frames * windows_per_frame)
    available = (num_frames - 1) * windows_per_frame
    if wanted > available and (percent, num_frames) not in _said:
        _said.add((percent, num_frames))
        warnings.warn(
            f"Pruning {percent} % of a video of {num_frames} frame(s) would need frame 0, which always stays: "
            f"{available} of the {wanted} windows leave. Sample more frames or prune less.",
            stacklevel=2,
        )
    return min(wanted, available)
