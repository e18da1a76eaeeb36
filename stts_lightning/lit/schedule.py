"""Learning rate and auxiliary weight as functions of the step."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from stts_lightning.config import AuxConfig, OptimConfig


def cosine_with_warmup(step: int, optim: OptimConfig) -> float:
    """Share of the peak learning rate at optimizer step ``step`` (0-based; the first update counts as 1).

    Linear from 0 over ``warmup_steps``, then a cosine to ``min_lr_ratio`` (paper 4.1; Molmo2's trainer).
    """
    step = step + 1
    if step < optim.warmup_steps:
        return step / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(optim.steps - optim.warmup_steps, 1)
    low = optim.min_lr_ratio
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def aux_weight_at(step: int, aux: AuxConfig, weight: float) -> float:
    """Weight of the auxiliary loss at optimizer step ``step``, scorer warm-up not counted."""
    if aux.schedule == "constant":
        return weight
    share = (step - aux.ramp_start) / (aux.ramp_end - aux.ramp_start)
    return weight + (aux.end_weight - weight) * min(max(share, 0.0), 1.0)


def warmup_steps(aux: AuxConfig, has_warmup_loss: bool) -> int:
    """Steps in which the scorer learns alone: none for a method that has no loss for it."""
    return aux.scorer_warmup_steps if has_warmup_loss else 0


def percent_at(step: int, percent_range: Sequence[float], seed: int) -> int:
    """k % of optimizer step ``step``, a whole number drawn evenly from the range: the same in all processes, and again
    after a resume."""
    return random.Random(f"{seed} {step}").randint(round(percent_range[0]), round(percent_range[1]))
