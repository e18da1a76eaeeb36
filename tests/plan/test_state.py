"""What stays in memory is ZeRO's arithmetic, and what torch really allocates."""

import pytest
import torch

from stts_lightning.config import TrainerConfig, load_config
from stts_lightning.lit.module import STTSModule
from stts_lightning.molmo2.load import Backbone, tiny_molmo2
from stts_lightning.plan.activations import parameters_of
from stts_lightning.plan.state import BUCKET, MAX_LIVE, Parameters, computes_in, training_state

GB = 1e9  # as the paper counts


def on(strategy, gpus=8, nodes=1, precision="bf16-mixed", offload=False):
    return TrainerConfig(
        devices=gpus // nodes, num_nodes=nodes, strategy=strategy, precision=precision, offload=offload
    )


def of(count):
    return Parameters(language=count, vision=0, scorer=0, block=0, outside=0)


@pytest.mark.parametrize("strategy, printed", [("ddp", 120), ("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9)])
def test_the_worked_example_of_zero_s_paper(strategy, printed):
    """Figure 1 of arXiv 1910.02054: 7.5 billion parameters, AdamW, 64 GPUs."""
    state = training_state(of(7_500_000_000), on(strategy, gpus=64))
    assert round((state.on_gpu - state.buffers) / GB, 1) == printed


def test_stages_share_out_what_their_names_say():
    alone = training_state(of(800), on("zero1", gpus=1))
    shared = {strategy: training_state(of(800), on(strategy)) for strategy in ("zero1", "zero2", "zero3")}
    share = {
        name: [getattr(alone, part) / getattr(state, part) for part in ("weights", "gradients", "master", "moments")]
        for name, state in shared.items()
    }
    assert share == {"zero1": [1, 1, 8, 8], "zero2": [1, 8, 8, 8], "zero3": [8, 8, 8, 8]}


def test_what_is_sent_needs_room_beside_it():
    count = 4_000_000_000
    assert training_state(of(count), on("zero2")).buffers == 2 * BUCKET * 2  # two buckets of bfloat16
    assert training_state(of(count), on("zero3")).buffers == BUCKET * 2 + MAX_LIVE * 2
    assert training_state(of(count), on("ddp")).buffers == 4 * count  # DDP's buckets are a second set of gradients
    parts = Parameters(language=count, vision=0, scorer=0, block=100, outside=700)
    assert training_state(parts, on("fsdp2")).buffers == 4 * (2 * 700 + 2 * 100)


def test_offloading_moves_state_to_the_host_of_each_node():
    for strategy, left in (("zero2", 2 * 1600), ("zero3", 0)):
        one = training_state(of(1600), on(strategy, offload=True), accumulate=8)
        assert one.on_gpu - one.buffers == left
        # float32 weights, moments and gradients, weights and accumulated gradients in bfloat16, of 8 GPUs
        assert one.host == 1600 * (4 + 8 + 4 + 2 + 2)
        assert training_state(of(1600), on(strategy, nodes=4, gpus=32, offload=True), 8).host == one.host / 4
    assert training_state(of(1600), on("zero2", offload=True), accumulate=1).host == 1600 * 18


@pytest.mark.parametrize(
    "strategy, precision, found",
    [
        ("ddp", "bf16-mixed", "autocast"),
        ("fsdp2", "bf16-mixed", "autocast"),
        ("auto", "bf16-true", "bfloat16"),
        ("zero2", "bf16-mixed", "bfloat16"),
        ("zero3", "32-true", "float32"),
    ],
)
def test_deepspeed_takes_mixed_precision_as_bfloat16_weights(strategy, precision, found):
    assert computes_in(on(strategy, precision=precision)) == found


@pytest.mark.parametrize("precision, dtype", [("32-true", torch.float32), ("bf16-true", torch.bfloat16)])
def test_one_process_really_allocates_what_is_planned(tiny_tokenizer, precision, dtype):
    config = load_config([f"trainer.precision={precision}"])
    model = tiny_molmo2(config.backbone, tiny_tokenizer).to(dtype)
    module = STTSModule(config, Backbone(model, tiny_tokenizer)).to(dtype)
    optimizer = module.configure_optimizers()["optimizer"]
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    state = training_state(parameters_of(module), config.trainer)
    assert state.weights == sum(p.nbytes for p in module.parameters())
    assert state.gradients == sum(p.grad.nbytes for p in module.parameters())
    assert state.moments == sum(moment.nbytes for moment in moments)
    assert state.on_gpu == state.weights + state.gradients + state.moments
