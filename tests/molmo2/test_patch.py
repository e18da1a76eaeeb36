"""The verb and its way back: nothing pruned is the stock model."""

import copy

import pytest
import torch
from slow_reference import shorten_by_hand
from transformers import Molmo2ForConditionalGeneration
from transformers.models.molmo2.modeling_molmo2 import Molmo2Model

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig

METHODS = ("stts", "stts_no_aux", "random", "heuristic", "none")


def image_inputs(model, build_table):
    """Two images of one low-resolution crop and one or two high-resolution crops, in one prompt each."""
    generator = torch.Generator().manual_seed(4)
    placeholder, start, end = (
        model.config.image_token_id,
        model.config.image_start_token_id,
        model.config.image_end_token_id,
    )
    crops = [2, 3]
    rows = [[0, start, *[placeholder] * (9 * n), end, *range(20, 30)] for n in crops]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        "mm_token_type_ids": torch.isin(ids, torch.tensor([placeholder, start, end])).long(),
        "pixel_values": torch.rand(sum(crops), 81, 48, generator=generator) * 2 - 1,
        "image_token_pooling": build_table(sum(crops), 9),
        "image_grids": torch.tensor([[3, 3, 3 * (n - 1), 3] for n in crops]),
        "image_num_crops": torch.tensor(crops),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("left", [False, True])
def test_zero_percent_is_the_stock_model_to_the_last_bit(model, build_inputs, method, left):
    inputs = build_inputs([5, 3], left=left)
    labels = torch.where(inputs["attention_mask"] > 0, inputs["input_ids"] % 200, -100)
    stock = model(**inputs, labels=labels)
    # `none` is the baseline whatever percentage stands beside it.
    apply_stts(model, PruneConfig(method=method, percent=50 if method == "none" else 0, layer=0))
    ours = model(**inputs, labels=labels)
    assert torch.equal(ours.logits, stock.logits) and torch.equal(ours.loss, stock.loss)
    assert ours.pruning.kept_tokens == [45, 27] and ours.pruning.packed_rows == 8
    assert ours.pruning.prompt_lengths == inputs["attention_mask"].sum(1).tolist()


def test_zero_percent_takes_a_ready_mask(model, build_inputs):
    inputs = build_inputs([4])
    length = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.ones(1, 1, length, length, dtype=torch.bool)
    logits = model(**inputs).logits
    apply_stts(model, PruneConfig(percent=0, layer=0))
    out = model(**inputs)
    assert torch.equal(out.logits, logits) and out.pruning.prompt_lengths == [length]


@pytest.mark.parametrize("method", METHODS)
def test_zero_percent_generates_as_the_stock_model(model, build_inputs, method):
    inputs = build_inputs([5, 3], left=True)
    stock = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    stock_beams = model.generate(**inputs, max_new_tokens=4, num_beams=2, do_sample=False)
    apply_stts(model, PruneConfig(method=method, percent=0, layer=0))
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False), stock)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, num_beams=2, do_sample=False), stock_beams)


def test_zero_percent_gives_the_stock_gradients(model, build_inputs):
    inputs = build_inputs([4, 3])
    labels = torch.where(inputs["attention_mask"] > 0, inputs["input_ids"] % 200, -100)
    gradients = []
    for prune in (False, True):
        if prune:
            apply_stts(model, PruneConfig(percent=0, layer=0))
        model(**inputs, labels=labels).loss.backward()
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and "token_scorer" not in n}
        )
        model.zero_grad(set_to_none=True)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-8, rtol=1e-5, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_remove_gives_the_stock_model_back(model, build_inputs, method):
    inputs = build_inputs([4, 3], left=True)
    logits = model(**inputs).logits
    tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(vars(model)), set(vars(model.model))
    handle = apply_stts(model, PruneConfig(method=method, percent=50, layer=0))
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    if method.startswith("stts"):
        added = model.state_dict().keys() - state.keys()
        assert added and all(name.startswith("model.vision_tower.token_scorer.") for name in added)
    handle.remove()
    assert type(model) is Molmo2ForConditionalGeneration and type(model.model) is Molmo2Model
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert (set(vars(model)), set(vars(model.model))) == attributes
    assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), tokens)


def test_a_removed_model_can_be_pruned_anew(model, build_inputs):
    inputs = build_inputs([4])
    first = apply_stts(model, PruneConfig(percent=50, layer=0))
    logits = model(**inputs).logits
    first.remove()
    apply_stts(model, PruneConfig(percent=50, layer=0))
    assert torch.equal(model(**inputs).logits, logits)


def test_the_dial_turns_without_a_new_scorer(model, build_inputs):
    inputs = build_inputs([4])
    handle = apply_stts(model, PruneConfig(percent=0, layer=0))
    scorer = handle.scorer
    kept = []
    for percent in (0, 25, 50, 75):
        handle.percent = percent
        assert handle.percent == handle.config.percent == percent
        kept.append(model(**inputs).pruning.kept_tokens[0])
    assert kept == [36, 27, 18, 9] and handle.scorer is scorer


def test_the_dial_leaves_the_given_config_alone(model):
    config = PruneConfig(percent=50, layer=0)
    handle = apply_stts(model, config)
    handle.percent = 10
    assert config.percent == 50


def test_changing_the_given_config_later_changes_nothing(model):
    config = PruneConfig(percent=50, layer=0)
    handle = apply_stts(model, config)
    config.percent = 70
    assert handle.percent == 50


@pytest.mark.parametrize("positions", ["renumbered", "original"])
@pytest.mark.parametrize("left", [False, True])
def test_one_hundred_percent_is_the_prompt_without_placeholders(model, build_inputs, positions, left):
    inputs = build_inputs([4, 2], left=left)
    handle = apply_stts(model, PruneConfig(percent=100, layer=0, positions=positions))
    out = model(**inputs)
    tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    beams = model.generate(**inputs, max_new_tokens=3, num_beams=2, do_sample=False)
    assert out.pruning.kept_tokens == [0, 0] and not (out.pruning.token_index.shape[1] > 30)
    handle.remove()
    nothing = [torch.zeros(4, 9), torch.zeros(2, 9)]
    short = shorten_by_hand(inputs, nothing, model.config.image_token_id, positions, left)
    real = short.pop("index") >= 0
    stock = model(**short)
    torch.testing.assert_close(out.logits[real], stock.logits[real], atol=1e-5, rtol=1e-5)
    if left:
        start, length = inputs["input_ids"].shape[1], short["input_ids"].shape[1]
        if positions == "renumbered":
            del short["position_ids"]
        expected = model.generate(**short, max_new_tokens=5, do_sample=False)
        assert torch.equal(tokens[:, start:], expected[:, length:])
        expected = model.generate(**short, max_new_tokens=3, num_beams=2, do_sample=False)
        assert torch.equal(beams[:, start:], expected[:, length:])


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_images_go_through_unpruned(model, build_table, preset):
    inputs = image_inputs(model, build_table)
    logits = model(**inputs).logits
    tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    apply_stts(model, PruneConfig(percent=50, layer=0, preset=preset))
    out = model(**inputs)
    assert torch.equal(out.logits, logits) and out.pruning is None
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), tokens)


def test_text_goes_through_untouched(model):
    inputs = {"input_ids": torch.arange(20, 30)[None], "attention_mask": torch.ones(1, 10, dtype=torch.long)}
    logits, tokens = model(**inputs).logits, model.generate(**inputs, max_new_tokens=5, do_sample=False)
    apply_stts(model, PruneConfig(percent=50, layer=0))
    assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), tokens)


def test_auxiliary_loss_is_there_for_stts_alone(model, build_inputs):
    inputs = build_inputs([4])
    for method in METHODS:
        handle = apply_stts(model, PruneConfig(method=method, percent=50, layer=0))
        loss = model(**inputs).pruning.aux_loss
        assert (loss is not None) == (method == "stts")
        handle.remove()


def test_training_mode_is_the_scorer_s_too(model):
    assert not apply_stts(model, PruneConfig(layer=0)).scorer.training
    assert model.train() and model.model.vision_tower.token_scorer.training


def test_a_pruned_model_can_be_copied(model, build_inputs):
    inputs = build_inputs([4])
    apply_stts(model, PruneConfig(percent=50, layer=0))
    assert torch.equal(copy.deepcopy(model)(**inputs).logits, model(**inputs).logits)


def test_tuple_on_request_holds_the_same_logits(model, build_inputs):
    apply_stts(model, PruneConfig(percent=50, layer=0))
    inputs = build_inputs([4, 3])
    out = model(**inputs)
    as_tuple = model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], out.logits) and as_tuple[-1].kept_tokens == out.pruning.kept_tokens
