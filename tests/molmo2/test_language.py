"""Who sees whom: vision tokens both ways, branches and samples only themselves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow_reference import VIDEO, fix_scores
from torch.nn.attention.flex_attention import create_mask

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig
from stts_lightning.molmo2.language import attention_mask_4d
from stts_lightning.molmo2.prompt import SAMPLE_STRIDE, SHARED_PREFIX

SUBS = [SHARED_PREFIX, 0, 1, SHARED_PREFIX + SAMPLE_STRIDE, SAMPLE_STRIDE, SAMPLE_STRIDE + 1]
token = st.tuples(st.booleans(), st.booleans(), st.sampled_from(SUBS))


@given(st.integers(1, 8).flatmap(lambda n: st.lists(st.lists(token, min_size=n, max_size=n), min_size=1, max_size=2)))
def test_mask_equals_the_rule(rows):
    real, vision, sub = (torch.tensor([[entry[i] for entry in row] for row in rows]) for i in range(3))
    mask = attention_mask_4d(real.long(), vision, sub, "sdpa", torch.float32)
    additive = attention_mask_4d(real.long(), vision, sub, "eager", torch.float32)
    blocks = attention_mask_4d(real.long(), vision, sub, "flex_attention", torch.float32)
    length = mask.shape[-1]
    assert torch.equal(create_mask(blocks.mask_mod, len(rows), None, length, length, device="cpu"), mask)
    for b, row in enumerate(rows):
        for q, (q_real, q_vision, q_sub) in enumerate(row):
            for k, (k_real, k_vision, k_sub) in enumerate(row):
                both_vision = q_vision and k_vision and q_sub // 100000 == k_sub // 100000
                allowed = k_real and (k <= q or both_vision) and q_sub <= k_sub
                if not q_real:  # padding is read by nobody and sees itself, so that its row is not empty
                    allowed = q == k
                elif q == k:
                    assert allowed
                assert bool(mask[b, 0, q, k]) == allowed
                assert float(additive[b, 0, q, k]) == (0.0 if allowed else torch.finfo(torch.float32).min)


def later_frame_changed(inputs):
    pixels = inputs["pixel_values_videos"].clone()
    pixels[-1] = -pixels[-1]
    return {**inputs, "pixel_values_videos": pixels}


@pytest.mark.parametrize("percent", [0, 50])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("with_subsegments", [False, True])
def test_a_later_frame_moves_earlier_vision_tokens_but_no_earlier_text(
    build_model, build_inputs, percent, attention, with_subsegments
):
    model = build_model(attention=attention)
    inputs = build_inputs([4])
    if with_subsegments:
        inputs["subsegment_ids"] = torch.full_like(inputs["input_ids"], SHARED_PREFIX)
    apply_stts(model, PruneConfig(percent=percent, layer=0))
    fix_scores(model, torch.linspace(0.2, 0.9, 36).view(4, 9).clone())  # the same windows whatever the pixels
    before, after = model(**inputs), model(**later_frame_changed(inputs))
    ids = inputs["input_ids"][0]
    if percent:
        assert torch.equal(before.pruning.token_index, after.pruning.token_index)
        ids = ids[before.pruning.token_index[0]]
    moved = (before.logits - after.logits)[0].abs().amax(-1)
    placeholders = (ids == model.config.image_token_id).nonzero().flatten()
    assert len(placeholders) > 9 and bool((moved[placeholders] > 1e-4).all())
    assert moved[0] == 0 and moved[1] == 0  # the first token and the first timestamp are causal


def tree(inputs, branches):
    """One row: the video's prefix, then the branches, each going on where the prefix ends."""
    prefix = inputs["input_ids"][0]
    length = len(prefix)
    ids, sub, positions = [prefix], [torch.full((length,), SHARED_PREFIX)], [torch.arange(length)]
    for i, branch in enumerate(branches):
        ids.append(torch.tensor(branch))
        sub.append(torch.full((len(branch),), i))
        positions.append(torch.arange(length, length + len(branch)))
    row = {
        "input_ids": torch.cat(ids)[None],
        "subsegment_ids": torch.cat(sub)[None],
        "position_ids": torch.cat(positions)[None],
    }
    row["attention_mask"] = torch.ones_like(row["input_ids"])
    types = torch.zeros_like(row["input_ids"])
    types[:, :length] = inputs["mm_token_type_ids"]
    return {**row, "mm_token_type_ids": types, **{name: inputs[name] for name in VIDEO}}


def alone(inputs, branch):
    """A plain prompt with one question, without sub-segments or positions."""
    extra = torch.tensor([branch])
    return {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], extra], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(extra)], 1),
        "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(extra)], 1),
    }


BRANCHES = [[31, 32, 33, 34], [41, 42, 43, 44, 45, 46]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", ["renumbered", "original"])
@pytest.mark.parametrize("percent", [0, 50])
def test_each_branch_answers_as_alone(build_model, build_inputs, percent, positions, attention):
    model = build_model(attention=attention)
    apply_stts(model, PruneConfig(percent=percent, layer=0, positions=positions))
    inputs = build_inputs([4])
    together = model(**tree(inputs, BRANCHES)).logits[0]
    end = len(together)
    for branch in reversed(BRANCHES):
        own = model(**alone(inputs, branch)).logits[0]
        prefix = len(own) - len(branch)
        torch.testing.assert_close(together[end - len(branch) : end], own[prefix:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[:prefix], own[:prefix], atol=1e-5, rtol=1e-5)
        end -= len(branch)


@pytest.mark.parametrize("percent", [0, 50])
def test_branches_are_blind_to_each_other_to_the_last_bit(model, build_inputs, percent):
    apply_stts(model, PruneConfig(percent=percent, layer=0))
    inputs = build_inputs([4])
    first = model(**tree(inputs, BRANCHES)).logits[0]
    other = model(**tree(inputs, [[91, 92, 93, 94], BRANCHES[1]])).logits[0]
    second = len(BRANCHES[1])
    assert torch.equal(first[-second:], other[-second:])
    assert not torch.equal(first[-second - 1], other[-second - 1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", ["renumbered", "original"])
@pytest.mark.parametrize("method", ["none", "stts", "heuristic"])
def test_samples_packed_in_one_row_answer_as_alone(build_model, build_inputs, method, positions, attention):
    model = build_model(attention=attention)
    apply_stts(model, PruneConfig(method=method, percent=50, layer=0, positions=positions))
    singles = [build_inputs([frames], seeds=[i]) for i, frames in enumerate([4, 3])]
    own = [model(**single) for single in singles]
    packed = {
        name: torch.cat([single[name] for single in singles], 1)
        for name in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    lengths = [single["input_ids"].shape[1] for single in singles]
    packed["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    packed["subsegment_ids"] = torch.cat(
        [torch.full((n,), SHARED_PREFIX + i * SAMPLE_STRIDE) for i, n in enumerate(lengths)]
    )[None]
    joined = build_inputs([4, 3])
    out = model(**packed, **{name: joined[name] for name in VIDEO})
    torch.testing.assert_close(out.logits[0], torch.cat([o.logits[0] for o in own]), atol=1e-5, rtol=1e-5)
    if method != "none":
        assert out.pruning.prompt_lengths == [sum(o.pruning.prompt_lengths[0] for o in own)]


def test_subsegments_survive_padding(model, build_inputs):
    # Two trees of different length in one batch: the shorter one is padded, and gives what it gives alone.
    apply_stts(model, PruneConfig(percent=50, layer=0))
    trees = [tree(build_inputs([n], seeds=[i]), BRANCHES) for i, n in enumerate([4, 3])]
    longest = max(t["input_ids"].shape[1] for t in trees)
    fill = {"subsegment_ids": -1}
    batch = {
        name: torch.cat(
            [torch.nn.functional.pad(t[name], (0, longest - t[name].shape[1]), value=fill.get(name, 0)) for t in trees]
        )
        for name in ("input_ids", "attention_mask", "mm_token_type_ids", "position_ids", "subsegment_ids")
    }
    joined = build_inputs([4, 3])
    out = model(**batch, **{name: joined[name] for name in VIDEO})
    assert bool(out.logits.isfinite().all())
    for i, single in enumerate(trees):
        own = model(**single).logits[0]
        torch.testing.assert_close(out.logits[i, : len(own)], own, atol=1e-5, rtol=1e-5)


def test_subsegments_without_token_types_are_refused(model, build_inputs):
    apply_stts(model, PruneConfig(percent=50, layer=0))
    inputs = tree(build_inputs([4]), BRANCHES)
    del inputs["mm_token_type_ids"]
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        model(**inputs)
