"""generate() on a pruned model: the stock search over what the slow reference would give it."""

import pytest
import torch
from slow_reference import features, masked_tokens, shorten_by_hand, split_stock_and_scorer
from transformers import GenerationConfig

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig

PAD = 0  # and end of sequence


@pytest.fixture(params=["renumbered", "original"])
def positions(request):
    return request.param


def prune(model, positions="renumbered", **config):
    return apply_stts(model, PruneConfig(**{"percent": 50, "layer": 0, "positions": positions, **config}))


def manual_greedy(model, inputs, steps):
    """One video; every step runs the whole pruned forward pass on the given prompt and the answer so far."""
    answer = []
    while len(answer) < steps:
        extra = torch.tensor([answer], dtype=torch.long)
        grown = {
            **inputs,
            "input_ids": torch.cat([inputs["input_ids"], extra], 1),
            "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(extra)], 1),
            "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(extra)], 1),
        }
        answer.append(int(model(**grown).logits[0, -1].argmax()))
        if answer[-1] == PAD:
            break
    return answer + [PAD] * (steps - len(answer))


def stock_generate(model, handle, inputs, keep, **search):
    """The stock generate() on the prompt shortened by hand and the features of the masked tower."""
    stock, scorer = split_stock_and_scorer(model)
    short = shorten_by_hand(inputs, keep, stock.config.image_token_id, handle.config.positions, left=True)
    del short["index"]
    if handle.config.positions == "renumbered":
        del short["position_ids"]
    tokens = masked_tokens(stock, scorer, handle.config, inputs, keep)
    out = stock.generate(**short, mm_encoder_outputs=features(tokens), **search)
    return out[:, short["input_ids"].shape[1] :]


@pytest.mark.parametrize("method", ["stts", "random", "heuristic"])
def test_greedy_equals_a_loop_over_forward(model, build_inputs, positions, method):
    prune(model, positions, method=method)
    inputs = build_inputs([5, 3], left=True)
    assert not bool(inputs["attention_mask"].all())  # one prompt is padded
    tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    start = inputs["input_ids"].shape[1]
    assert torch.equal(tokens[:, :start], inputs["input_ids"])
    for i, frames in enumerate([5, 3]):
        alone = build_inputs([frames], seeds=[i])
        assert tokens[i, start:].tolist() == manual_greedy(model, alone, 6)


def test_right_padded_prompts_are_padded_left_for_the_model(model, build_inputs, positions):
    # After shortening, rows differ in length whatever the given padding; generation needs their ends aligned.
    prune(model, positions)
    left, right = build_inputs([5, 3], left=True), build_inputs([5, 3])
    answers = [
        model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, left["input_ids"].shape[1] :]
        for inputs in (left, right)
    ]
    assert torch.equal(*answers)


@pytest.mark.parametrize(
    "search",
    [
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.5},
    ],
)
def test_beams_equal_the_stock_search(model, build_inputs, positions, search):
    handle = prune(model, positions)
    inputs = build_inputs([5, 3], left=True)
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, **search)
    copies, start = search.get("num_return_sequences", 1), inputs["input_ids"].shape[1]
    assert torch.equal(out.sequences[:, :start], inputs["input_ids"].repeat_interleave(copies, 0))
    expected = stock_generate(model, handle, inputs, out.pruning.keep, max_new_tokens=5, do_sample=False, **search)
    assert torch.equal(out.sequences[:, start:], expected)
    assert len(out.pruning.keep) == 2 and out.pruning.prompt_lengths == [len(k) for k in _index_rows(out.pruning)]


def _index_rows(pruning):
    return [row[row >= 0] for row in pruning.token_index]


def test_beams_differ_from_greedy_somewhere(model, build_inputs):
    # Otherwise the test above would compare nothing.
    prune(model)
    inputs = build_inputs([5, 3], left=True)
    greedy = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    beams = model.generate(**inputs, max_new_tokens=5, num_beams=3, num_return_sequences=3, do_sample=False)
    assert not torch.equal(beams, greedy.repeat_interleave(3, 0))


def test_sampling_draws_as_the_stock_search(model, build_inputs, positions):
    handle = prune(model, positions)
    inputs = build_inputs([5, 3], left=True)
    search = {"max_new_tokens": 5, "do_sample": True, "temperature": 1.5, "num_return_sequences": 2}
    torch.manual_seed(3)
    out = model.generate(**inputs, return_dict_in_generate=True, **search)
    torch.manual_seed(3)
    expected = stock_generate(model, handle, inputs, out.pruning.keep, **search)
    start = inputs["input_ids"].shape[1]
    assert torch.equal(out.sequences[:, start:], expected)
    assert torch.equal(out.sequences[:, :start], inputs["input_ids"].repeat_interleave(2, 0))


def test_generation_carries_the_decisions_of_forward(model, build_inputs):
    prune(model)
    inputs = build_inputs([5, 3], left=True)
    out = model.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True, output_scores=True)
    expected = model(**inputs)
    for ours, theirs in zip(out.pruning.keep, expected.pruning.keep, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(out.pruning.token_index, expected.pruning.token_index)
    assert out.pruning.prompt_lengths == expected.pruning.prompt_lengths
    torch.testing.assert_close(out.scores[0], expected.logits[:, -1].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["stts", "none"])
def test_an_unpruned_generation_carries_its_decisions_too(model, build_inputs, method):
    prune(model, method=method, percent=0)
    inputs = build_inputs([5, 3], left=True)
    out = model.generate(**inputs, max_new_tokens=2, num_beams=2, do_sample=False, return_dict_in_generate=True)
    assert out.pruning.kept_tokens == [45, 27]
    assert out.pruning.prompt_lengths == model(**inputs).pruning.prompt_lengths
    assert out.pruning.prompt_lengths == inputs["attention_mask"].sum(1).tolist()


@pytest.mark.parametrize("where", ["argument", "config"])
def test_max_length_counts_the_given_prompt(model, build_inputs, where):
    prune(model)
    inputs = build_inputs([5, 3], left=True)
    length = inputs["input_ids"].shape[1] + 4
    expected = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=-1)
    if where == "argument":
        tokens = model.generate(**inputs, max_length=length, do_sample=False, eos_token_id=-1)
    else:
        config = GenerationConfig(max_length=length, do_sample=False, eos_token_id=-1, pad_token_id=PAD)
        tokens = model.generate(**inputs, generation_config=config)
    assert tokens.shape[1] == length and torch.equal(tokens, expected)


def test_min_length_counts_the_given_prompt(model, build_inputs):
    prune(model)
    inputs = build_inputs([5])
    start = inputs["input_ids"].shape[1]
    greedy = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=-1)[0, start:]
    limits = {"do_sample": False, "eos_token_id": int(greedy[0])}  # ends at once, unless it must not
    assert model.generate(**inputs, max_new_tokens=6, **limits).shape[1] == start + 1
    held = model.generate(**inputs, min_length=start + 3, max_length=start + 6, **limits)
    assert torch.equal(held, model.generate(**inputs, min_new_tokens=3, max_new_tokens=6, **limits))
    assert held.shape[1] > start + 1


def test_the_default_length_is_the_stock_model_s(model, build_inputs):
    inputs = build_inputs([4])
    stock = model.generate(**inputs, do_sample=False, eos_token_id=-1)
    prune(model)
    ours = model.generate(**inputs, do_sample=False, eos_token_id=-1)
    assert ours.shape == stock.shape


def test_the_prompt_may_be_the_first_argument(model, build_inputs):
    prune(model)
    inputs = build_inputs([4])
    expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    ids = inputs.pop("input_ids")
    assert torch.equal(model.generate(ids, **inputs, max_new_tokens=3, do_sample=False), expected)


def test_generation_leaves_its_inputs_alone(model, build_inputs):
    prune(model)
    inputs = build_inputs([5, 3], left=True)
    before = {name: value.clone() for name, value in inputs.items()}
    model.generate(**inputs, max_new_tokens=2, num_beams=2, do_sample=False)
    assert inputs.keys() == before.keys() and all(torch.equal(inputs[name], before[name]) for name in before)
