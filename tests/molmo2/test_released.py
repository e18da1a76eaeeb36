"""Scorer weights under the released code's names."""

import math

import pytest
import torch

from stts_lightning import apply_stts, load_released_scorer
from stts_lightning.config import PruneConfig

PREFIX = "vision_backbone.image_vit.transformer.temporal_token_scorer."
WIDTH, HEADS = 16, 2  # of the tiny vision tower
HIDDEN = round(WIDTH * 4304 / 1152)


def released_weights(seed=0):
    """Random weights with the names and proportions of the released scorer, alone."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"patch_token_pooler.{name}": (WIDTH, WIDTH) for name in ("wq", "wk", "wv", "wo")}
    shapes |= {"mlp.w1": (HIDDEN, 2 * WIDTH), "mlp.w2": (HIDDEN, HIDDEN), "mlp.w3": (1, HIDDEN)}
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) / 4
    return weights


def prune(model, **config):
    return apply_stts(model, PruneConfig(**{"percent": 50, "layer": 0, "preset": "released", **config}))


def scores_from_weights(weights, x, frames):
    """Facts of the released code alone: 16 heads there, 2 here; the mean of 9 patches asks, SiLU, sigmoid."""

    def linear(name, value):
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    pooled = []
    for patches in x.view(-1, 9, WIDTH):
        query = linear("patch_token_pooler.wq", patches.sum(0) / 9)
        keys, values = linear("patch_token_pooler.wk", patches), linear("patch_token_pooler.wv", patches)
        parts = []
        for head in range(HEADS):
            cut = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            share = torch.softmax(keys[:, cut] @ query[cut] / math.sqrt(WIDTH // HEADS), 0)
            parts.append((share[:, None] * values[:, cut]).sum(0))
        pooled.append(linear("patch_token_pooler.wo", torch.cat(parts)))
    now = torch.stack(pooled).view(sum(frames), 9, WIDTH)
    before = torch.cat([torch.cat([torch.zeros(1, 9, WIDTH), video[:-1]]) for video in now.split(frames)])
    hidden = torch.cat([before, now], -1)
    for name in ("mlp.w1", "mlp.w2"):
        hidden = linear(name, hidden)
        hidden = hidden / (1 + torch.exp(-hidden))
    return torch.sigmoid(linear("mlp.w3", hidden))[..., 0]


@pytest.mark.parametrize("prefix", ["", "temporal_token_scorer.", PREFIX, "model." + PREFIX])
def test_loaded_weights_give_the_scores_of_the_state_dict(model, build_inputs, prefix):
    inputs, weights = build_inputs([4, 3]), released_weights()
    prune(model)
    before = model(**inputs).pruning.scores
    state = {prefix + name: weight for name, weight in weights.items()}
    if prefix.endswith(PREFIX):  # a whole checkpoint has more
        state["vision_backbone.image_vit.transformer.resblocks.0.attention.wq.weight"] = torch.zeros(3, 3)
        state["transformer.wte.embedding"] = torch.zeros(2, 2)
    load_released_scorer(model, state)

    tower = model.model.vision_tower
    x = tower.layers[0](tower.patch_embedding(inputs["pixel_values_videos"]) + tower.positional_embedding, None)
    by_window = x.flatten(0, 1)[inputs["video_token_pooling"].flatten()]
    expected = scores_from_weights(weights, by_window, [4, 3])
    after = torch.cat(model(**inputs).pruning.scores)
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(after, torch.cat(before), atol=1e-2)


def test_a_saved_scorer_loads_again(model):
    handle = prune(model, method="stts_no_aux", seed=5)
    saved = {PREFIX + name: weight.clone() for name, weight in handle.scorer.state_dict().items()}
    handle.remove()
    handle = prune(model, method="stts", seed=6)
    load_released_scorer(model, saved)
    assert all(torch.equal(saved[PREFIX + name], weight) for name, weight in handle.scorer.state_dict().items())


def test_weights_take_the_scorer_s_dtype(model):
    handle = prune(model)
    load_released_scorer(model, {name: weight.to(torch.bfloat16) for name, weight in released_weights().items()})
    assert handle.scorer.mlp.w1.weight.dtype == torch.float32
    assert torch.equal(handle.scorer.mlp.w1.weight, released_weights()["mlp.w1.weight"].to(torch.bfloat16).float())


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda w: w.pop("mlp.w2.bias"), r"missing \['mlp\.w2\.bias'\]"),
        (lambda w: w.update({"mlp.w4.weight": torch.zeros(1)}), r"unexpected \['mlp\.w4\.weight'\]"),
        (
            lambda w: w.update({"mlp.w1.weight": torch.zeros(HIDDEN, 5)}),
            rf"mlp\.w1\.weight has shape \({HIDDEN}, 5\).*needs \({HIDDEN}, {2 * WIDTH}\)",
        ),
        (lambda w: w.update({"mlp.w3.bias": torch.zeros(())}), r"mlp\.w3\.bias has shape \(\).*needs \(1,\)"),
    ],
)
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(model, spoil, named, prefix):
    handle = prune(model)
    before = {name: weight.clone() for name, weight in handle.scorer.state_dict().items()}
    weights = released_weights()
    spoil(weights)
    with pytest.raises(ValueError, match=named):
        load_released_scorer(model, {prefix + name: weight for name, weight in weights.items()})
    assert all(torch.equal(before[name], weight) for name, weight in handle.scorer.state_dict().items())


def test_a_checkpoint_without_a_scorer_is_named(model):
    prune(model)
    with pytest.raises(ValueError, match="temporal_token_scorer"):
        load_released_scorer(model, {"transformer.wte.embedding": torch.zeros(2, 2)})


def test_two_scorers_in_one_checkpoint_are_named(model):
    prune(model)
    weights = released_weights()
    state = {path + PREFIX + name: weight for path in ("model.", "ema.") for name, weight in weights.items()}
    with pytest.raises(ValueError, match=rf"'model\.{PREFIX}.*'ema\.{PREFIX}"):
        load_released_scorer(model, state)


def test_a_model_that_is_not_pruned_is_refused(model):
    with pytest.raises(ValueError, match=r"Molmo2ForConditionalGeneration is not a pruned model.*apply_stts"):
        load_released_scorer(model, released_weights())


@pytest.mark.parametrize(
    "config, named",
    [
        ({"preset": "paper"}, r"prune\.preset='paper'.*preset='released'"),
        ({"method": "heuristic"}, r"prune\.method='heuristic' has no weights"),
        ({"method": "none"}, r"prune\.method='none' has no weights"),
    ],
)
def test_a_model_pruned_otherwise_is_refused(model, config, named):
    prune(model, **config)
    with pytest.raises(ValueError, match=named):
        load_released_scorer(model, released_weights())
