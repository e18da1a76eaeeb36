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
    """Figure 1 of arXiv 1910.02054: 7.5 billion parameters, AdamW, 64 GPUs. Its gradients have 2 bytes, ours 4, and
    in stage 1 both."""
    count, gpus = 7_500_000_000, 64
    state = training_state(of(count), on(strategy, gpus=gpus))
    more = {"ddp": 0, "zero1": 4 * count, "zero2": 2 * count / gpus, "zero3": 2 * count / gpus}[strategy]
    assert round((state.on_gpu - state.buffers - more) / GB, 1) == printed


@pytest.mark.parametrize(
    "strategy, whole", [("zero1", ["weights", "gradients"]), ("zero2", ["weights"]), ("zero3", []), ("fsdp2", [])]
)
def test_stages_share_out_what_their_names_say(strategy, whole):
    few, many = (training_state(of(1600), on(strategy, gpus=gpus)) for gpus in (2, 16))
    shares = {part: getattr(few, part) / getattr(many, part) for part in ("weights", "gradients", "moments")}
    assert shares == {part: 1 if part in whole else 8 for part in shares}
    assert few.master == 8 * many.master


def test_what_is_sent_needs_room_beside_it():
    count = 4_000_000_000
    assert training_state(of(count), on("zero1")).buffers == training_state(of(count), on("ddp")).buffers == 0
    assert training_state(of(count), on("zero2")).buffers == BUCKET * 2
    assert training_state(of(count), on("zero3")).buffers == BUCKET * 2 + MAX_LIVE * 2
    parts = Parameters(language=count, vision=0, scorer=0, block=100, outside=700)
    assert training_state(parts, on("fsdp2")).buffers == 2 * (2 * 700 + 2 * 100)
    assert training_state(parts, on("fsdp2", precision="32-true")).buffers == 4 * (2 * 700 + 2 * 100)


def test_offloading_moves_state_to_the_host_of_each_node():
    # float32 weights, moments and gradients, weights in bfloat16, and accumulated gradients
    for strategy, left, kept in (("zero2", 2 * 1600, 2), ("zero3", 0, 4)):
        one = training_state(of(1600), on(strategy, offload=True), accumulate=8)
        assert one.on_gpu - one.buffers == left
        assert one.host == 1600 * (4 + 8 + 4 + 2 + kept)
        assert training_state(of(1600), on(strategy, nodes=4, gpus=32, offload=True), 8).host == one.host / 4
    assert training_state(of(1600), on("zero2", offload=True), accumulate=1).host == 1600 * 18


@pytest.mark.parametrize(
    "strategy, precision, found",
    [
        ("ddp", "bf16-mixed", (4, True)),
        ("fsdp2", "bf16-mixed", (2, True)),
        ("auto", "bf16-true", (2, False)),
        ("zero2", "bf16-mixed", (2, False)),
        ("zero3", "32-true", (4, False)),
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
