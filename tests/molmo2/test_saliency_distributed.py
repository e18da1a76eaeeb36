"""Processes that share a step teach the scorer the mean of what each of their batches would, by two passes."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from processes import PROCESSES, forkserver, run_together
from saliency_reference import SALIENCY, assert_same, two_pass_gradients, with_answers
from saliency_worker import run
from test_patch import image_inputs

from stts_lightning import apply_stts

STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")


@pytest.fixture(scope="module")
def context():
    with forkserver() as context:
        yield context


@pytest.fixture(scope="module")
def batches(build_model, build_inputs, build_table):
    """By kind, one a process. The sampler deals all of them one kind; ``text`` is a video for the first alone."""

    def videos(frames, first):
        return with_answers(build_inputs(frames, seeds=range(first, first + len(frames))), seed=first)

    text, blank = build_inputs([0, 0], seeds=[7, 8]), build_inputs([2])
    text |= {name: x for name, x in blank.items() if "video" in name} | {"blank_video": True}
    return {
        "videos": [videos([5, 3], 0), videos([2, 4], 10)],
        "text": [videos([5, 3], 0), with_answers(text)],
        "images": [with_answers(image_inputs(build_model(), build_table), seed) for seed in (0, 1)],
    }


@pytest.fixture(scope="module")
def expected(build_model, batches):
    handle = apply_stts(build_model(), SALIENCY)
    return {kind: two_pass_gradients(handle, batches[kind])[0] for kind in ("videos", "images")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, build_model, batches):
    folder = tmp_path_factory.mktemp("processes")
    model = build_model()
    torch.save({"config": model.config, "weights": model.state_dict()}, folder / "model.pt")
    for kind, pair in batches.items():
        for rank, batch in enumerate(pair):
            torch.save(batch, folder / f"{kind}-{rank}.pt")
    return folder


@pytest.fixture(scope="module")
def shared_out(context, folder):
    """``shared_out(strategy, kind)``: what each process found. All kinds of a strategy are run when one is asked for,
    and a hang is a failure that says so."""

    @cache
    def start(strategy: str) -> str:
        return run_together(context, strategy, folder, run, strategy, ["videos", "images", "text"], folder)

    def found(strategy: str, kind: str) -> list[dict[str, torch.Tensor]]:
        story = start(strategy)
        files = [folder / f"{strategy}-{kind}-{rank}.pt" for rank in range(PROCESSES)]
        if not all(file.exists() for file in files):
            pytest.fail(f"{kind} did not come out of {story}")
        return [torch.load(file) for file in files]

    return found


def of_scorer(found):
    return {name: gradient for name, gradient in found.items() if "token_scorer" in name}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_teach_the_mean_of_their_two_pass_losses(shared_out, expected, strategy):
    assert max(float(g.abs().max()) for g in of_scorer(expected["videos"]).values()) > 1e-3
    for found in shared_out(strategy, "videos"):
        assert_same(found, expected["videos"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_steps_of_images_teach_the_scorer_nothing_and_wait_for_nothing(shared_out, expected, strategy):
    for found in shared_out(strategy, "images"):
        unheard = of_scorer(expected["images"]).keys() - found.keys()  # nothing is made of no gradient
        assert_same({**found, **{name: expected["images"][name] for name in unheard}}, expected["images"])
        assert not any(bool(g.any()) for g in of_scorer(found).values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_process_with_text_alone_halves_what_the_other_teaches(shared_out, batches, build_model, strategy):
    alone, _ = two_pass_gradients(apply_stts(build_model(), SALIENCY), batches["text"][:1])
    half = {name: gradient / 2 for name, gradient in of_scorer(alone).items()}
    for found in shared_out(strategy, "text"):
        assert_same(of_scorer(found), half)
