"""A run that several processes share out leaves what one process leaves: model, answers, and checkpoints for anyone."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from mixed_data import write_mixed_data
from processes import forkserver, run_together
from safetensors.torch import load_file
from shared_run_worker import whole_run, work

from stts_lightning.convert import convert
from stts_lightning.lit.checkpoints import newest_sealed
from stts_lightning.molmo2.checkpoint import load_pruned

STRATEGIES = ["fsdp2", "zero2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ddp", "zero1", "zero3"))]
FILES = ("model.safetensors", "token_scorer.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_mixed_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(data, folder):
    whole_run("auto", data, folder / "alone", processes=1)
    return folder / "alone"


@pytest.fixture(scope="module")
def shared(data, folder):
    with forkserver() as context:

        @cache
        def start(strategy):
            return run_together(context, strategy, folder, work, strategy, data, folder)

        def run(strategy):
            story = start(strategy)
            if not (folder / strategy / "result.json").exists():
                pytest.fail(story)
            return folder / strategy

        yield run


def weights(model):
    return {name: value for file in FILES for name, value in load_file(model / file).items()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_leaves_the_model_and_the_answers_of_one_process(shared, alone, strategy):
    ours, theirs = weights(shared(strategy) / "model"), weights(alone / "model")
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)
    answers = [
        [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
        for run in (shared(strategy), alone)
    ]
    assert len(answers[0]) > 20
    for ours, theirs in zip(*answers, strict=True):
        assert ours["id"] == theirs["id"]
        assert ours["letter_scores"] == pytest.approx(theirs["letter_scores"], abs=1e-2)
    results = [json.loads((run / "result.json").read_text()) for run in (shared(strategy), alone)]
    for key in ("num_questions", "kept_tokens", "kept_shares"):
        assert results[0][key] == pytest.approx(results[1][key], abs=0.02)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_its_checkpoint_becomes_one_file_that_one_process_loads(shared, tmp_path, strategy):
    run = shared(strategy)
    checkpoint = newest_sealed(run / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "step=6.ckpt"  # of 1 + 5 steps
    out = convert(run, tmp_path / "model")
    assert len(list(out.glob("model*.safetensors"))) == 1
    ours, theirs = weights(out), weights(run / "model")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    tied = load_pruned(out).handle.scorer.patch_token_pooler
    assert torch.equal(tied.wo.weight, tied.wq.weight) and tied.wq.weight.abs().sum() > 0
