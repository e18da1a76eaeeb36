"""Each optimisation changes the time and the memory of a step, never the step: 20 of them, with it and without."""

from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from torch.optim import AdamW
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stts_lightning import apply_stts
from stts_lightning.config import BackboneConfig, PruneConfig
from stts_lightning.molmo2 import loss as labelled
from stts_lightning.molmo2.attention import PREFIX
from stts_lightning.molmo2.prompt import SHARED_PREFIX, count_prompts
from stts_lightning.molmo2.speed import speed_up

STEPS = 20


def with_an_added_bias(module, query, key, value, attention_mask, key_bias=None, **how):
    """The bias of block l+1 as an additive mask, with its gradient."""
    if key_bias is not None:
        return sdpa_attention_forward(module, query, key, value, key_bias[:, None, None, :], **how)
    return OURS(module, query, key, value, attention_mask, **how)


OURS = ALL_ATTENTION_FUNCTIONS[PREFIX + "sdpa"]
PATCHES = {
    "small_chunks": lambda: mock.patch.object(labelled, "LOSS_CHUNK", 3),
    "added_bias": lambda: mock.patch.dict(
        ALL_ATTENTION_FUNCTIONS._global_mapping, {PREFIX + "sdpa": with_an_added_bias}
    ),
}


@pytest.fixture()
def losses(build_model, build_inputs):
    """``losses("packed")``: the loss of each step of a run with one thing done differently; () for none."""

    def batch(step, model, how):
        inputs = build_inputs([5, 3], seeds=(2 * step, 2 * step + 1), text=(7, 10, 4))
        inputs["labels"] = torch.where(inputs["mm_token_type_ids"] == 0, inputs["input_ids"], -100)
        inputs["labels"][inputs["attention_mask"] == 0] = -100
        if "stock" in how:
            return inputs
        if "all_logits" not in how:
            inputs["loss_weights"] = torch.ones(inputs["labels"].shape)
        inputs["subsegment_ids"] = torch.full_like(inputs["input_ids"], SHARED_PREFIX)
        if "counted_by_the_model" not in how:
            placeholder = model.config.image_token_id
            inputs["video_grids"] = [tuple(grid) for grid in inputs["video_grids"].tolist()]
            inputs["prompt_counts"] = count_prompts(
                inputs["input_ids"], inputs["attention_mask"], placeholder, inputs["labels"]
            )
        return inputs

    def run(*how, percent=50.0, method="stts"):
        torch.manual_seed(0)
        model = build_model().train()
        if "stock" not in how:
            layout = "packed" if "packed" in how else "flat"
            apply_stts(model, PruneConfig(method=method, percent=percent, layer=0, layout=layout))
            checkpointing = "all" if "checkpointing" in how else "none"
            speed_up(model, BackboneConfig(activation_checkpointing=checkpointing, compile="compile" in how))
        optimizer = AdamW(model.parameters(), lr=2e-3, fused="plain_adamw" not in how)
        found = []
        with next((PATCHES[name]() for name in how if name in PATCHES), nullcontext()):
            for step in range(STEPS):
                out = model(**batch(step, model, how))
                auxiliary = getattr(getattr(out, "pruning", None), "aux_loss", None)
                loss = out.loss if auxiliary is None else out.loss + auxiliary
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                found.append(loss.item())
        return found

    return run


def assert_same(ours, expected):
    assert len(ours) == STEPS and abs(ours[0] - ours[-1]) > 0.1  # it does learn, so a difference would grow
    for step, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5), f"step {step}"


@pytest.mark.parametrize(
    "without",
    ["packed", "added_bias", "all_logits", "counted_by_the_model", "small_chunks", "plain_adamw", "checkpointing"],
)
def test_same_losses_with_and_without(losses, without):
    assert_same(losses(), losses(without))


def test_unpruned_training_is_the_stock_model_s(losses):
    assert_same(losses(method="none"), losses("stock"))


@pytest.mark.slow
@pytest.mark.parametrize("also", [(), ("checkpointing",)])
def test_compiled_blocks_train_the_same(losses, also):
    torch._dynamo.reset()
    assert_same(losses("compile", *also), losses())
