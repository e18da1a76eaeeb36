"""Packed equals masked, and what a video needs to survive: no motion, few frames, empty frames."""

import pytest
import torch
from slow_reference import VIDEO, fix_scores, lone_frames, masked_forward, next_token_loss, split_stock_and_scorer

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig
from stts_lightning.molmo2 import vision
from stts_lightning.molmo2.attention import attention_dtype
from stts_lightning.prune import budget

METHODS = ("stts", "stts_no_aux", "random", "heuristic")


def with_labels(inputs):
    """Every real token is learnt, vision tokens included: their places must shorten alike. But for the first,
    which left padding would have to predict."""
    real = inputs["attention_mask"] > 0
    learnt = real & (real.cumsum(1) > 1)
    return {**inputs, "labels": torch.where(learnt, inputs["input_ids"] % 200, -100)}


def assert_same_gradients(ours, expected):
    """Relative to the largest entry of each gradient; 1e-7 is what rounding leaves of sums that cancel."""
    for (name, a), (_, b) in zip(ours, expected, strict=True):
        if a.grad is None and b.grad is None:
            continue
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-7 + 1e-5 * float(b.grad.abs().max()), msg=name)


@pytest.mark.parametrize("layout", ["flat", "packed"])
@pytest.mark.parametrize(
    "preset, positions, layer, side",
    [
        ("paper", "renumbered", 0, 9),
        ("paper", "original", 1, 9),
        ("paper", "renumbered", 2, 8),  # windows hang over, and no block is packed
        ("paper", "original", 0, 8),
        ("released", "renumbered", 0, 9),
        ("released", "original", 1, 9),
    ],
)
def test_flat_and_packed_equal_masked(build_model, build_inputs, preset, positions, layer, side, layout):
    model = build_model(side)
    inputs = with_labels(build_inputs([5, 3], side=side))
    config = PruneConfig(percent=50, layer=layer, preset=preset, positions=positions, layout=layout)
    handle = apply_stts(model, config)
    out = model(**inputs)
    out.loss.backward()

    stock, scorer = split_stock_and_scorer(model)
    for parameter in [*stock.parameters(), *scorer.parameters()]:
        parameter.grad = None
    logits, short = masked_forward(stock, scorer, handle.config, inputs, out.pruning.keep)
    next_token_loss(logits, short["labels"]).backward()

    real = short["attention_mask"].bool()
    assert out.pruning.packed_rows < 8 if layout == "packed" else out.pruning.packed_rows == 1
    counts = [9 * int(frame.sum()) for keep in out.pruning.keep for frame in keep]
    if preset == "released":  # otherwise nothing was refilled
        assert any(counts[t] < 81 for t in lone_frames(counts, 81))
    assert torch.equal(out.pruning.token_index, short["index"])
    torch.testing.assert_close(out.logits[real], logits[real], atol=1e-5, rtol=1e-5)
    mine = [(n, p) for n, p in model.named_parameters() if "token_scorer" not in n]
    assert_same_gradients(mine, stock.named_parameters())
    assert_same_gradients(handle.scorer.named_parameters(), scorer.named_parameters())
    assert float(handle.scorer.mlp.w1.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("method", ["random", "heuristic"])
@pytest.mark.parametrize("percent", [30, 90])
def test_packed_equals_masked_for_baselines(model, build_inputs, method, percent):
    inputs = build_inputs([6, 4], left=True)
    handle = apply_stts(model, PruneConfig(method=method, percent=percent, layer=0))
    out = model(**inputs)
    logits, short = masked_forward(*split_stock_and_scorer(model), handle.config, inputs, out.pruning.keep, left=True)
    real = short["attention_mask"].bool()
    torch.testing.assert_close(out.logits[real], logits[real], atol=1e-5, rtol=1e-5)


def test_feature_layers_may_be_counted_from_the_end(build_model, build_inputs):
    inputs = build_inputs([4])
    logits = []
    for layers in ([3, 1], [-1, -3]):
        model = build_model(feature_layers=layers)
        apply_stts(model, PruneConfig(percent=50, layer=1))
        logits.append(model(**inputs).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("percent", [0, 50])
def test_videos_of_a_batch_are_each_as_alone(model, build_inputs, method, percent):
    apply_stts(model, PruneConfig(method=method, percent=percent, layer=0))
    together = model(**build_inputs([5, 3]))
    lengths = together.pruning.prompt_lengths
    for i, frames in enumerate([5, 3]):
        alone = model(**build_inputs([frames], seeds=[i]))
        assert torch.equal(alone.pruning.keep[0], together.pruning.keep[i])
        torch.testing.assert_close(alone.pruning.scores[0], together.pruning.scores[i], atol=1e-6, rtol=1e-5)
        assert alone.logits.shape[1] == lengths[i]
        torch.testing.assert_close(alone.logits[0], together.logits[i, : lengths[i]], atol=2e-5, rtol=1e-5)


def test_released_decisions_do_not_depend_on_the_batch(model, build_inputs):
    # Its features do: whether a frame stands alone, and is refilled, follows from all frames of the batch.
    apply_stts(model, PruneConfig(preset="released", layer=0))
    together = model(**build_inputs([5, 3]))
    for i, frames in enumerate([5, 3]):
        alone = model(**build_inputs([frames], seeds=[i]))
        assert torch.equal(alone.pruning.keep[0], together.pruning.keep[i])
        torch.testing.assert_close(alone.pruning.scores[0], together.pruning.scores[i], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_task_loss_reaches_the_scorer(model, build_inputs, preset):
    inputs = with_labels(build_inputs([4, 3]))
    handle = apply_stts(model, PruneConfig(percent=50, layer=0, preset=preset))
    model(**inputs).loss.backward()
    for name, parameter in handle.scorer.named_parameters():
        if name != "patch_token_pooler.wk.bias":  # moves all keys alike, which a softmax does not see
            assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_task_loss_reaches_the_scorer_through_the_bias_alone(model, build_inputs, preset, monkeypatch):
    inputs = with_labels(build_inputs([4, 3]))
    handle = apply_stts(model, PruneConfig(percent=50, layer=0, preset=preset))
    expand = vision.expand_to_patches
    monkeypatch.setattr(vision, "expand_to_patches", lambda bias_TW, *args: expand(bias_TW.detach(), *args))
    model(**inputs).loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in handle.scorer.parameters())


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_scores_alone_are_those_of_the_whole_pass(model, build_inputs, preset):
    inputs = build_inputs([4, 3])
    handle = apply_stts(model, PruneConfig(percent=50, layer=1, preset=preset))
    whole = model(**inputs).pruning
    scores = handle.scorer(*vision.read_by_scorer(model.model, 1, *(inputs[name] for name in VIDEO)))
    torch.testing.assert_close(scores.scores_TW, torch.cat(whole.scores))
    torch.testing.assert_close(scores.aux_loss, whole.aux_loss)
    scores.aux_loss.backward()
    learnt = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learnt == {name for name, _ in model.named_parameters() if "token_scorer" in name}


def test_checkpointed_blocks_give_the_same_gradients(model, build_inputs):
    inputs = with_labels(build_inputs([4, 3]))
    handle = apply_stts(model, PruneConfig(percent=50, layer=0))
    gradients = []
    for enable in (False, True):
        if enable:
            model.activation_checkpointing_enable()
            model.train()  # blocks checkpoint in training alone; nothing here drops out
        out = model(**inputs)
        (out.loss + out.pruning.aux_loss).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    assert handle.scorer.training
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=1e-4, msg=name)


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("method", METHODS)
def test_a_video_without_motion_is_pruned_like_any_other(model, build_inputs, method, preset):
    inputs = build_inputs([5])
    inputs["pixel_values_videos"][1:] = inputs["pixel_values_videos"][0]
    apply_stts(model, PruneConfig(method=method, percent=50, layer=0, preset=preset))
    out, again = model(**inputs), model(**inputs)
    keep = out.pruning.keep[0]
    assert bool(keep[0].all()) and out.pruning.kept_tokens == [45 - 22]
    assert bool(out.logits.isfinite().all()) and torch.equal(keep, again.pruning.keep[0])


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_one_frame_stays_whole(model, build_inputs, preset, monkeypatch):
    monkeypatch.setattr(budget, "_said", set())
    inputs = build_inputs([1])
    handle = apply_stts(model, PruneConfig(percent=50, layer=0, preset=preset))
    with pytest.warns(UserWarning, match=r"50 % of a video of 1 frame"):
        out = model(**inputs)
    assert out.pruning.kept_tokens == [9] and out.pruning.packed_rows == 1
    handle.remove()  # frame 0 has no bias, so that nothing at all is left of the pruning
    torch.testing.assert_close(out.logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_half_of_two_frames_is_the_second_frame(model, build_inputs, preset):
    inputs = with_labels(build_inputs([2]))
    apply_stts(model, PruneConfig(percent=50, layer=0, preset=preset))
    out = model(**inputs)
    out.loss.backward()
    assert out.pruning.keep[0].tolist() == [[True] * 9, [False] * 9]
    assert out.pruning.packed_rows == 1 and bool(out.logits.isfinite().all())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_ninety_percent_of_four_frames_leaves_the_first_and_says_so_once(model, build_inputs, monkeypatch):
    monkeypatch.setattr(budget, "_said", set())
    apply_stts(model, PruneConfig(percent=90, layer=0))
    with pytest.warns(UserWarning, match=r"90 % of a video of 4 frame.*27 of the 32") as caught:
        outs = [model(**build_inputs([4])) for _ in range(2)]
    assert len([w for w in caught if "would need frame 0" in str(w.message)]) == 1
    for out in outs:
        assert out.pruning.keep[0].tolist() == [[True] * 9] + [[False] * 9] * 3


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_frames_that_lost_every_window_leave_no_nan(build_model, build_inputs, preset, attention):
    model = build_model(attention=attention)
    inputs = with_labels(build_inputs([5, 3]))
    handle = apply_stts(model, PruneConfig(percent=50, layer=0, preset=preset))
    scores = torch.linspace(0.4, 0.9, 8 * 9).view(8, 9).clone()
    scores[[2, 3, 6]] *= 0.1  # frames 2 and 3 of the first video, frame 1 of the second
    fix_scores(model, scores)
    out = model(**inputs)
    out.loss.backward()
    left = [keep.sum(1).tolist() for keep in out.pruning.keep]
    assert left == [[9, 5, 0, 0, 9], [9, 0, 5]]  # 22 of 45 and 13 of 27 windows leave, the lowest first
    assert bool(out.logits.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert bool(handle.scorer.scores.grad.isfinite().all()) and bool(handle.scorer.scores.grad.any())

    logits, short = masked_forward(*split_stock_and_scorer(model), handle.config, inputs, out.pruning.keep)
    real = short["attention_mask"].bool()
    torch.testing.assert_close(out.logits[real], logits[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("percent", [50, 100])
def test_sdpa_equals_eager(build_model, build_inputs, preset, percent):
    inputs = with_labels(build_inputs([5, 3], left=True))
    outs, gradients = [], []
    for attention in ("sdpa", "eager"):
        model = build_model(attention=attention)
        assert model.model.vision_tower.config._attn_implementation == attention
        assert model.model.language_model.config._attn_implementation == attention
        apply_stts(model, PruneConfig(percent=percent, layer=0, preset=preset))
        outs.append(model(**inputs))
        outs[-1].loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    real = outs[0].pruning.token_index >= 0
    for out in outs:
        assert bool(out.logits.isfinite().all())
    torch.testing.assert_close(outs[0].logits[real], outs[1].logits[real], atol=1e-5, rtol=1e-5)
    for name, gradient in gradients[0].items():
        assert bool(gradient.isfinite().all()) and bool(gradients[1][name].isfinite().all())
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_unused_blocks_and_patches_cost_nothing(build_model, build_inputs):
    # Blocks after the last feature layer never run: the stock tower runs them for nothing.
    model = build_model(feature_layers=[2, 1])
    inputs = build_inputs([4])
    expected = model(**inputs).logits
    ran = []
    for i, layer in enumerate(model.model.vision_tower.layers):
        layer.register_forward_hook(lambda _m, args, _out, i=i: ran.append((i, args[0].shape[0])))
    handle = apply_stts(model, PruneConfig(percent=0, layer=0))
    assert torch.equal(model(**inputs).logits, expected) and ran == [(0, 4), (1, 4), (2, 4)]
    ran.clear()
    handle.percent = 50
    rows = model(**inputs).pruning.packed_rows
    assert rows < 4 and ran == [(0, 4), (1, 4), (2, rows)]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"video_grids": [[4, 3, 3], [4, 3, 3]]}, r"\[\[4, 3, 3\], \[4, 3, 3\]\].* 7 frames and .* 63 windows"),
        ({"video_grids": [[4, 3, 3], [3, 3, 2]]}, r"\[\[4, 3, 3\], \[3, 3, 2\]\].*same rows and columns"),
        ({"video_grids": [[4, 3, 2], [3, 3, 2]]}, r"do not fit .* 63 windows"),
        ({"drop_windows": 9}, r"54 windows"),
    ],
)
def test_grids_that_do_not_fit_are_named(model, build_inputs, change, named):
    inputs = build_inputs([4, 3])
    apply_stts(model, PruneConfig(percent=50, layer=0))
    if "video_grids" in change:
        inputs["video_grids"] = torch.tensor(change["video_grids"])
    else:
        inputs["video_token_pooling"] = inputs["video_token_pooling"][: -change["drop_windows"]]
    with pytest.raises(ValueError, match=named):
        model(**inputs)


@pytest.mark.parametrize("layer", [3, 40])
def test_a_layer_past_the_last_feature_layer_is_named(model, layer):
    with pytest.raises(ValueError, match=rf"prune.layer={layer}.*below 3"):
        apply_stts(model, PruneConfig(layer=layer))
    assert not hasattr(model.model.vision_tower, "token_scorer")


@pytest.mark.parametrize("layout", ["flat", "packed"])
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_trains_in_mixed_precision(build_model, build_inputs, layout, preset):
    """Weights and residual stream in float32, products in bfloat16: the same loss within bfloat16's three digits."""
    inputs = with_labels(build_inputs([5, 3]))
    model = build_model()
    handle = apply_stts(model, PruneConfig(percent=50, layer=0, layout=layout, preset=preset))
    fix_scores(model, torch.linspace(0.2, 0.9, 72).view(8, 9).clone())  # no decision hangs on a rounded score
    exact = model(**inputs).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(**inputs).loss
    rounded.backward()
    assert model.model.vision_tower.layers[0].mlp.fc1.weight.grad.dtype == torch.float32
    assert float(handle.scorer.scores.grad.abs().max()) > 0
    torch.testing.assert_close(rounded.float(), exact, rtol=1e-2, atol=0)
    assert float(rounded) != float(exact)


def test_autocast_tells_what_attention_runs_in():
    x = torch.zeros(1)
    assert attention_dtype(x) == torch.float32 and attention_dtype(x.bfloat16()) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert attention_dtype(x) == torch.bfloat16
    assert attention_dtype(x.to("meta")) == torch.float32
