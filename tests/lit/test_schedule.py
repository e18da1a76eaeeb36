from __future__ import annotations

import math

import pytest

from stts_lightning.config import AuxConfig, OptimConfig
from stts_lightning.lit.schedule import aux_weight_at, cosine_with_warmup, warmup_steps


def molmo2_rate(update: int, total: int) -> float:
    """Molmo2's own rule for a peak of 1 and 200 warm-up steps; the first update is number 1."""
    if update < 200:
        return update / 200
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (update - 200) / (total - 200)))


@pytest.mark.parametrize("step", [0, 1, 100, 198, 199, 200, 3000, 6249])
def test_learning_rate_is_molmo2s(step: int) -> None:
    assert cosine_with_warmup(step, OptimConfig(steps=6250)) == pytest.approx(molmo2_rate(step + 1, 6250))


def test_learning_rate_without_warmup_starts_near_the_peak() -> None:
    assert cosine_with_warmup(0, OptimConfig(steps=100, warmup_steps=0)) == pytest.approx(1, abs=1e-3)


def test_aux_weight_is_constant_by_default() -> None:
    assert [aux_weight_at(step, AuxConfig(), 0.5) for step in (0, 10, 10**6)] == [0.5] * 3


def test_aux_weight_ramps_linearly_and_stays() -> None:
    aux = AuxConfig(schedule="linear", end_weight=0.2, ramp_start=10, ramp_end=20)
    assert [aux_weight_at(step, aux, 1.0) for step in (0, 10, 15, 20, 99)] == pytest.approx([1, 1, 0.6, 0.2, 0.2])


def test_ramp_needs_an_end_after_its_start() -> None:
    with pytest.raises(ValueError, match="ramp_end=5 must be greater than aux.ramp_start=5"):
        AuxConfig(schedule="linear", ramp_start=5, ramp_end=5)


def test_method_without_auxiliary_loss_has_no_warmup() -> None:
    aux = AuxConfig(scorer_warmup_steps=7)
    assert (warmup_steps(aux, True), warmup_steps(aux, False)) == (7, 0)
