"""One backward pass teaches the scorer what two would, however the step is made."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from saliency_reference import (
    SALIENCY,
    assert_same,
    gradients,
    loss_to_differentiate,
    two_pass_gradients,
    with_answers,
)

from stts_lightning import apply_stts
from stts_lightning.config import BackboneConfig, Config, PruneConfig
from stts_lightning.lit.module import STTSModule
from stts_lightning.molmo2.load import Backbone
from stts_lightning.molmo2.speed import speed_up


@pytest.fixture()
def handle(model):
    return apply_stts(model, SALIENCY)


@pytest.fixture()
def batch(build_inputs):
    return with_answers(build_inputs([5, 3]))


def one_backward(handle, batches, scale=1.0):
    """Gradients of the mean of the batches' losses, gathered batch by batch; and the listwise losses."""
    handle.model.zero_grad(set_to_none=True)
    listwise = []
    for batch in batches:
        out = handle.model(**batch)
        (scale / len(batches) * loss_to_differentiate(out)).backward()
        listwise.append(float(out.pruning.listwise.value))
    return gradients(handle.model), listwise


def of_scorer(found):
    return {name: gradient for name, gradient in found.items() if "token_scorer" in name}


def assert_learns(found):
    """No comparison of nothing with nothing: the weights of every layer of the scorer have a gradient."""
    weights = {name: g for name, g in of_scorer(found).items() if name.endswith("weight") and g.dim() > 1}
    assert len(weights) == 7 and all(float(g.abs().max()) > 2e-6 for g in weights.values())


def test_one_backward_equals_two_passes(handle, batch):
    expected, listwise = two_pass_gradients(handle, [batch])
    found, value = one_backward(handle, [batch])
    assert_learns(expected)
    assert_same(found, expected)
    assert value == pytest.approx(listwise, rel=1e-5) and value[0] > 1


def test_a_training_step_makes_the_loss_that_is_tested_here(model, batch):
    module = STTSModule(Config(prune=SALIENCY), Backbone(model, None))
    expected, _ = two_pass_gradients(module.handle, [batch])
    module.log = lambda *_, **__: None
    module.trainer = SimpleNamespace(world_size=1, global_step=0)
    module._trainer = module.trainer
    module.training_step({**batch, "step_totals": [0.0, 0]}, 0)["loss"].backward()  # of one process and micro-batch
    assert_same(gradients(model), expected)


def test_the_task_gradient_of_all_else_is_as_without_learning_from_use(handle, batch):
    handle.model(**batch).loss.backward()  # the listwise loss is left out of what is differentiated
    without = gradients(handle.model)
    found, _ = one_backward(handle, [batch])
    assert not any(bool(g.any()) for g in of_scorer(without).values())
    others = {name: g for name, g in found.items() if "token_scorer" not in name}
    assert all(torch.equal(g, without[name]) for name, g in others.items())


@pytest.mark.parametrize("count", [2, 4])
def test_micro_batches_add_up_to_the_mean_of_their_two_pass_losses(handle, build_inputs, count):
    sizes = [[5, 3], [4], [2, 6], [3, 3]][:count]
    batches = [
        with_answers(build_inputs(frames, seeds=range(10 * i, 10 * i + len(frames))), seed=i)
        for i, frames in enumerate(sizes)
    ]
    expected, listwise = two_pass_gradients(handle, batches)
    found, values = one_backward(handle, batches)
    assert_learns(expected)
    assert_same(found, expected)
    assert values == pytest.approx(listwise, rel=1e-5) and len(set(values)) == count


@pytest.mark.parametrize("whose", ["vision", "language", "all"])
def test_recomputed_blocks_teach_the_same(handle, batch, whose):
    model = handle.model
    expected, listwise = two_pass_gradients(handle, [batch])
    parts = {"vision": model.model.vision_tower.layers, "language": model.model.language_model.layers}
    calls = {name: [0] * len(blocks) for name, blocks in parts.items()}

    def count(name, i):
        def counted(*_):
            calls[name][i] += 1

        return counted

    for name, blocks in parts.items():
        for i, block in enumerate(blocks):  # a block checkpoints inside of its own forward, where its hooks see nothing
            block.mlp.register_forward_pre_hook(count(name, i))
    speed_up(model, BackboneConfig(activation_checkpointing=whose))
    model.train()  # blocks are recomputed in training alone; nothing here drops out
    found, value = one_backward(handle, [batch])
    for name, counts in calls.items():
        assert counts == [2 if whose in (name, "all") else 1] * len(counts), name
    assert_learns(expected)
    assert_same(found, expected)
    assert value == pytest.approx(listwise, rel=1e-5)


def test_mixed_precision_teaches_the_same_up_to_bfloat16(handle, batch):
    """Both forms run in bfloat16, so that they keep the same windows; what is left is that one adds the scorer's
    gradients in another order."""
    exact, _ = two_pass_gradients(handle, [batch])
    with torch.autocast("cpu", torch.bfloat16):
        expected, listwise = two_pass_gradients(handle, [batch])
        found, value = one_backward(handle, [batch])
    assert_learns(found)
    assert all(g.dtype == torch.float32 for g in of_scorer(found).values())
    assert not torch.equal(expected["lm_head.weight"], exact["lm_head.weight"])
    assert_same(found, expected, relative=1e-2)
    assert value == pytest.approx(listwise, rel=1e-2)


@pytest.mark.parametrize("scale", [1024.0, 1 / 1024])
def test_a_scaled_loss_gives_scaled_gradients(handle, batch, scale):
    """As a gradient scaler does it: a power of two takes no digit away."""
    expected, listwise = two_pass_gradients(handle, [batch])
    found, value = one_backward(handle, [batch], scale)
    assert_learns(expected)
    assert_same({name: gradient / scale for name, gradient in found.items()}, expected)
    assert value == pytest.approx(listwise, rel=1e-5)


def test_nothing_is_learnt_from_use_without_gradients(handle, batch):
    with torch.no_grad():
        assert handle.model(**batch).pruning.listwise is None


def test_other_methods_learn_nothing_from_use(model, batch):
    apply_stts(model, PruneConfig(percent=50, layer=1))
    assert model(**batch).pruning.listwise is None
