"""What apply_stts and a pruned model refuse, and by which name."""

import pytest
import torch
from transformers import Molmo2ForConditionalGeneration

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig


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
