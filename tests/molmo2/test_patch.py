"""The verb and its way back: nothing pruned is the stock model, everything else is refused by name."""

import copy

import pytest
import torch
from slow_reference import masked_forward, next_token_loss, shorten_by_hand, split_stock_and_scorer
from transformers import Molmo2ForConditionalGeneration
from transformers.models.molmo2.modeling_molmo2 import Molmo2Model

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig
from stts_lightning.molmo2.patch import weighted_loss

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


def loop_loss(logits, labels, weights):
    """Next-token cross-entropy, place by place."""
    total, norm = 0.0, 0.0
    for b in range(len(labels)):
        for place in range(1, labels.shape[1]):
            if labels[b, place] != -100:
                log_probability = torch.log_softmax(logits[b, place - 1], 0)[labels[b, place]]
                total -= weights[b, place] * log_probability
                norm += float(weights[b, place])
    return total / max(norm, 1e-9)


@pytest.mark.parametrize("most", [5, 4, 3])  # more than there are, or exactly as many as the fuller row has
def test_weighted_loss_equals_a_loop(monkeypatch, most):
    monkeypatch.setattr("stts_lightning.molmo2.patch.LOSS_CHUNK", 3)
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(7, 11, bias=False)
    hidden = torch.randn(2, 6, 7, generator=generator, requires_grad=True)
    labels = torch.randint(0, 11, (2, 6), generator=generator)
    labels[0, :3] = -100
    labels[1, 2:5] = -100 if most == 3 else labels[1, 2:5]
    labels[1, 4] = -100
    weights = torch.rand(2, 6, generator=generator)
    loss = weighted_loss(head, hidden, labels, weights, most)
    slow = loop_loss(head(hidden), labels, weights)
    torch.testing.assert_close(loss, slow)
    for ours, theirs in zip(*(torch.autograd.grad(x, [hidden, head.weight]) for x in (loss, slow)), strict=True):
        torch.testing.assert_close(ours, theirs)
    nothing = torch.full_like(labels, -100)
    assert float(weighted_loss(head, hidden, nothing, weights, most)) == 0  # and not NaN
    assert float(weighted_loss(head, hidden, nothing, weights, 0)) == 0


@pytest.mark.parametrize("weigh", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_labels_and_weights_shorten_with_the_prompt(model, build_inputs, weigh, left):
    inputs = build_inputs([4, 3], left=left)
    real = inputs["attention_mask"] > 0
    learnt = real & (real.cumsum(1) > 1)
    inputs["labels"] = torch.where(learnt, torch.arange(real.shape[1]) % 200, -100)  # tells its own place
    if weigh:
        inputs["loss_weights"] = torch.rand(real.shape, generator=torch.Generator().manual_seed(2))
    handle = apply_stts(model, PruneConfig(percent=50, layer=0))
    out = model(**inputs)
    assert (out.logits is None) == weigh
    index = out.pruning.token_index
    for b in range(2):  # the loss of labels gathered by token_index, row by row
        places = index[b][index[b] >= 0]
        assert torch.equal(places, places.sort().values) and len(places) == out.pruning.prompt_lengths[b]
    labels = torch.where(index >= 0, inputs["labels"].gather(1, index.clamp(min=0)), -100)
    logits = model(**{name: x for name, x in inputs.items() if name not in ("labels", "loss_weights")}).logits
    if weigh:
        expected = loop_loss(logits, labels, inputs["loss_weights"].gather(1, index.clamp(min=0)))
    else:
        expected = next_token_loss(logits, labels)
    torch.testing.assert_close(out.loss, expected)

    stock_inputs = {name: value for name, value in inputs.items() if name != "loss_weights" or weigh}
    logits, short = masked_forward(
        *split_stock_and_scorer(model), handle.config, stock_inputs, out.pruning.keep, left=left
    )
    slow = (
        loop_loss(logits, short["labels"], short["loss_weights"]) if weigh else next_token_loss(logits, short["labels"])
    )
    torch.testing.assert_close(out.loss, slow, atol=1e-5, rtol=1e-5)


def test_weights_of_one_give_the_plain_loss(model, build_inputs):
    inputs = build_inputs([4, 3])
    inputs["labels"] = torch.where(inputs["attention_mask"] > 0, inputs["input_ids"] % 200, -100)
    apply_stts(model, PruneConfig(percent=50, layer=0))
    weighted = model(**inputs, loss_weights=torch.ones(inputs["input_ids"].shape)).loss
    torch.testing.assert_close(weighted, model(**inputs).loss)


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


# What is refused, and by which name


def test_pruning_twice_is_refused(model):
    apply_stts(model, PruneConfig(layer=0))
    with pytest.raises(ValueError, match=r"handle\.remove\(\)"):
        apply_stts(model, PruneConfig(layer=0))


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="not Linear"):
        apply_stts(torch.nn.Linear(2, 2), PruneConfig())


@pytest.mark.parametrize(
    "part, name, implementation",
    [
        ("vision_tower", "vision tower", "flash_attention_2"),
        ("vision_tower", "vision tower", "flex_attention"),
        ("multi_modal_projector", "connector", "flash_attention_2"),
        ("language_model", "language model", "flash_attention_2"),
    ],
)
def test_attention_that_drops_masks_is_refused(model, part, name, implementation):
    getattr(model.model, part).config._attn_implementation = implementation
    with pytest.raises(ValueError, match=f"{name} uses attn_implementation='{implementation}'"):
        apply_stts(model, PruneConfig(layer=0))
    assert type(model) is Molmo2ForConditionalGeneration


@pytest.mark.parametrize("call", ["forward", "generate"])
def test_a_ready_mask_with_videos_is_refused(model, build_inputs, call):
    inputs = build_inputs([4])
    length = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.ones(1, 1, length, length, dtype=torch.bool)
    apply_stts(model, PruneConfig(percent=50, layer=0))
    with pytest.raises(ValueError, match="4-D attention_mask"):
        getattr(model, call)(**inputs)


def test_generation_in_branches_is_refused(model, build_inputs):
    inputs = build_inputs([4])
    apply_stts(model, PruneConfig(percent=50, layer=0))
    with pytest.raises(ValueError, match="subsegment_ids"):
        model.generate(**inputs, subsegment_ids=torch.zeros_like(inputs["input_ids"]))


def test_generation_without_ids_is_refused(model, build_inputs):
    inputs = build_inputs([4])
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    apply_stts(model, PruneConfig(percent=50, layer=0))
    with pytest.raises(ValueError, match="needs input_ids"):
        model.generate(inputs_embeds=embeds, **inputs)


def test_the_inner_model_with_pixels_is_refused(model, build_inputs):
    apply_stts(model, PruneConfig(percent=50, layer=0))
    with pytest.raises(ValueError, match="does not shorten its prompt"):
        model.model(**build_inputs([4]))


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan")])
def test_a_percentage_out_of_range_is_named(model, percent):
    with pytest.raises(ValueError, match=rf"percent={percent}"):
        PruneConfig(percent=percent)
    handle = apply_stts(model, PruneConfig(percent=50, layer=0))
    with pytest.raises(ValueError, match=rf"percent={percent}"):
        handle.percent = percent
    assert handle.percent == 50


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"method": "heuristics"}, r"prune\.method='heuristics'.*Did you mean 'heuristic'"),
        ({"preset": "relased"}, r"prune\.preset='relased'.*Did you mean 'released'"),
        ({"positions": "renumber"}, r"prune\.positions='renumber'.*Did you mean 'renumbered'"),
        ({"layer": -1}, r"prune\.layer=-1"),
    ],
)
def test_an_unknown_setting_is_named_with_its_nearest(wrong, named):
    with pytest.raises(ValueError, match=named):
        PruneConfig(**wrong)


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
