"""However it is shared out, a training learns what one process learns: real clips, with texts and images mixed in."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import pytest
import torch
from mixed_data import write_mixed_data
from processes import PROCESSES, forkserver, run_together
from strategy_worker import STEPS, Case, learn, work

STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
FAST = [Case(2, "32-true")]
REST = [
    Case(1, "32-true"),
    Case(4, "32-true"),
    Case(1, "bf16-mixed"),
    Case(4, "bf16-mixed"),
    Case(1, "32-true", "stts_saliency", 3),
    Case(4, "32-true", "stts", 3),
]
TAUGHT = [Case(2, "32-true", "stts_distill", 3)]  # every other step, so that the scorer idles between
WHOLE_WEIGHTS = ("ddp", "zero1", "zero2")  # which a teacher needs


@pytest.fixture(scope="module")
def context():
    with forkserver() as context:
        yield context


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_mixed_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def alone(data):
    return cache(lambda case: learn("auto", case, data, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strategies")


@pytest.fixture(scope="module")
def together(context, data, folder):
    """``together(strategy, case, cases)``: what each process recorded; all the cases run when one is asked for."""

    @cache
    def start(strategy, cases):
        return run_together(context, strategy, folder, work, strategy, list(cases), data, folder)

    def found(strategy, case, cases):
        story = start(strategy, tuple(cases))
        files = [folder / f"{strategy}-{case.name}-{rank}.pt" for rank in range(PROCESSES)]
        if not all(file.exists() for file in files):
            pytest.fail(f"{case.name} did not come out of {story}")
        return [torch.load(file) for file in files]

    return found


def group(name, case):
    """Float32 is compared by parameter; in bfloat16 small gradients of large sums are mostly noise."""
    if case.precision == "32-true":
        return name
    return "scorer" if "token_scorer" in name else "language" if "language_model" in name else "vision"


def errors(ours, theirs, case):
    """By group, the distance of the gradients and their norm; where nothing reached a parameter it is 0."""
    found = defaultdict(lambda: [0.0, 0.0])
    for name, expected in theirs.items():
        difference = ours.get(name, torch.zeros_like(expected)) - expected
        found[group(name, case)][0] += float(difference.square().sum())
        found[group(name, case)][1] += float(expected.square().sum())
    assert not any(bool(ours[name].any()) for name in ours.keys() - theirs.keys())
    return {name: (error**0.5, norm**0.5) for name, (error, norm) in found.items()}


def compare(both, one, case, strategy):
    kinds = set(zip(*(found["kinds"] for found in both), strict=True))
    assert ("images", "images") in kinds and kinds & {("text", "videos"), ("videos", "text")}
    loss, norm, gradient = (2e-5, 1e-4, 1e-3) if case.precision == "32-true" else (1e-2, 0.1, 0.25)
    if case.precision != "32-true" and strategy.startswith("zero"):
        # All of it is in bfloat16, where autocast leaves sums in float32. One process that is cast as a whole has it
        # too: in the step in which the vision tower's gradient is 6.62 under ZeRO-2, 6.59 instead of 5.82.
        loss, norm = 0.1, 0.2
    zero = 1e-7 if case.method == "stts" else 1e-6  # the listwise loss teaches the last bias nothing
    mean = torch.tensor([found["losses"] for found in both]).mean(0)
    assert len(mean) == (STEPS + case.warmup) * case.accumulate
    torch.testing.assert_close(mean, torch.tensor(one["losses"]), rtol=loss, atol=loss)
    for found in both:
        assert len(found["norms"]) == len(found["gradients"]) == STEPS + case.warmup
        for ours, theirs in zip(found["norms"], one["norms"], strict=True):
            assert ours == pytest.approx(theirs, rel=norm, abs=1e-7)
        for step, (ours, theirs) in enumerate(zip(found["gradients"], one["gradients"], strict=True)):
            for name, (error, size) in errors(ours, theirs, case).items():
                assert error <= gradient * size + zero, (step, name)


@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_learn_what_one_learns(together, alone, strategy, case):
    compare(together(strategy, case, FAST), alone(case), case, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("case", REST, ids=lambda case: case.name)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_learn_what_one_learns_in_every_case(together, alone, strategy, case):
    compare(together(strategy, case, REST), alone(case), case, strategy)


@pytest.mark.parametrize("case", TAUGHT, ids=lambda case: case.name)
@pytest.mark.parametrize("strategy", WHOLE_WEIGHTS)
def test_two_processes_with_a_teacher_learn_what_one_learns(together, alone, strategy, case):
    compare(together(strategy, case, TAUGHT), alone(case), case, strategy)
