"""Nothing of a step waits for the device: it runs on `meta` tensors, which have shapes and no values.

Whatever reads a value (`.item()`, `.tolist()`, `nonzero`, boolean indexing, a Python `if` on a tensor) raises there.
"""

from unittest import mock

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig, method_names
from stts_lightning.molmo2 import language
from stts_lightning.molmo2.load import attention_by_part
from stts_lightning.molmo2.prompt import SHARED_PREFIX, count_prompts
from stts_lightning.molmo2.vision import read_by_scorer


def without_values(model, inputs):
    """The model and a training batch on `meta`, with what a data module counts while prompts are on the host."""
    inputs = {**inputs, "labels": torch.where(inputs["mm_token_type_ids"] == 0, inputs["input_ids"], -100)}
    placeholder = model.config.image_token_id
    counts = count_prompts(inputs["input_ids"], inputs["attention_mask"], placeholder, inputs["labels"])
    grids = [tuple(grid) for grid in inputs.pop("video_grids").tolist()]
    inputs["loss_weights"] = torch.ones(inputs["labels"].shape)
    inputs["subsegment_ids"] = torch.full_like(inputs["input_ids"], SHARED_PREFIX)
    batch = {name: x.to("meta") for name, x in inputs.items()}
    return model.to("meta"), {**batch, "video_grids": grids, "prompt_counts": counts, "use_cache": False}


@pytest.mark.parametrize("method", sorted({*method_names()} - {"text_only"}))  # which is any of them at k = 100
@pytest.mark.parametrize(  # in float32 there is no variable-length kernel: the lengths of the frames are read
    "percent, dtype",
    [(0, torch.float32), (100, torch.float32), (0, torch.bfloat16), (50, torch.bfloat16), (100, torch.bfloat16)],
)
def test_a_step_reads_no_value_back(build_model, build_inputs, method, percent, dtype):
    model = build_model().to(dtype).train()
    apply_stts(model, PruneConfig(method=method, percent=percent, layer=0))
    model, batch = without_values(model, build_inputs([5, 3]))
    if method == "oracle":
        batch["video_relevance"] = torch.empty(8, 9, dtype=torch.bool, device="meta")
    out = model(**batch)
    listwise = 0 if out.pruning.listwise is None else out.pruning.listwise.loss
    (out.loss + (0 if out.pruning.aux_loss is None else out.pruning.aux_loss) + listwise).backward()
    if percent < 100:
        assert model.model.vision_tower.layers[0].mlp.fc1.weight.grad is not None
        assert out.pruning.kept_tokens == ([45, 27] if percent == 0 or method == "none" else [23, 14])
        assert sum(out.pruning.prompt_lengths) == sum(batch["prompt_counts"].lengths) - 72 + sum(
            out.pruning.kept_tokens
        )


def test_the_scorer_s_warm_up_reads_no_value_back(build_model, build_inputs):
    model = build_model().bfloat16()
    handle = apply_stts(model, PruneConfig(layer=0))
    model, batch = without_values(model, build_inputs([5, 3]))
    videos = [batch[name] for name in ("pixel_values_videos", "video_token_pooling", "video_grids")]
    handle.scorer.warmup_loss(*read_by_scorer(model.model, 0, *videos)).backward()
    assert handle.scorer.mlp.w1.weight.grad is not None


def test_the_mask_of_blocks_reads_no_value_back(build_model, build_inputs):
    ids = torch.zeros(2, 300, dtype=torch.long, device="meta")
    mask = language.attention_mask_4d(ids, ids == 1, ids, "flex_attention", torch.bfloat16)
    assert mask.shape == (2, 1, 300, 300) and mask.kv_indices.shape == (2, 1, 3, 3)


@pytest.mark.parametrize("missing, layout", [("video_grids", "flat"), ("prompt_counts", "flat"), (None, "packed")])
def test_what_does_wait_is_seen(build_model, build_inputs, missing, layout):
    """Without what the host knows, or in the paper's packed rows, something has to be read: the test above sees it."""
    model = build_model().bfloat16()
    apply_stts(model, PruneConfig(percent=50, layer=0, layout=layout))
    model, batch = without_values(model, build_inputs([5, 3]))
    if missing == "video_grids":
        batch["video_grids"] = torch.tensor(batch["video_grids"], device="meta")
    elif missing:
        del batch[missing]
    with pytest.raises((RuntimeError, NotImplementedError), match="meta|Meta"):
        model(**batch)


@pytest.mark.parametrize("percent", [pytest.param(0, marks=pytest.mark.slow), 50])
def test_compiled_blocks_are_compiled_once(build_model, build_inputs, percent):
    """Whatever is kept of the frames, the shapes are the same; and each block is one graph without a break."""
    torch._dynamo.reset()
    model = build_model().bfloat16().train()
    apply_stts(model, PruneConfig(percent=percent, layer=0))
    model, batch = without_values(model, build_inputs([5, 3]))
    for part in (model.model.vision_tower, model.model.language_model):
        for block in part.layers:
            block.compile(backend="aot_eager", fullgraph=True)
    model(**batch).loss.backward()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (1, 2):
            _, other = without_values(model, build_inputs([5, 3], seeds=(2 * seed, 2 * seed + 1)))
            model(**other).loss.backward()
        _, longer = without_values(model, build_inputs([6, 3]))
        with pytest.raises(torch._dynamo.exc.RecompileError):  # so a new shape is seen
            model(**longer)


@pytest.mark.slow
def test_the_mask_of_blocks_is_compiled_once():
    """As it is made on a GPU, and anew for every batch."""
    torch._dynamo.reset()

    def as_on_a_gpu(*args, **how):
        return create_block_mask(*args, **{**how, "_compile": True})

    def mask(seed):
        vision = torch.rand(2, 300, generator=torch.Generator().manual_seed(seed)) < 0.5
        ids = torch.ones(2, 300, dtype=torch.long)
        with mock.patch.object(language, "create_block_mask", as_on_a_gpu):
            return language.attention_mask_4d(ids, vision, ids, "flex_attention", torch.float32)

    first = mask(0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        second = mask(1)
    assert not torch.equal(
        create_mask(first.mask_mod, 2, None, 300, 300, device="cpu"),
        create_mask(second.mask_mod, 2, None, 300, 300, device="cpu"),
    )


@pytest.mark.slow
def test_flex_attention_gives_the_same_logits(build_model, build_inputs):
    inputs = build_inputs([5, 3])
    inputs["subsegment_ids"] = torch.full_like(inputs["input_ids"], SHARED_PREFIX)
    found = []
    for attention in ("sdpa", "flex_attention"):
        model = build_model(attention=attention)
        apply_stts(model, PruneConfig(percent=50, layer=0))
        with torch.no_grad():
            found.append(model(**inputs).logits)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


def test_flex_attention_runs_the_language_model_alone():
    parts = attention_by_part("flex_attention")
    assert parts == {"text_config": "flex_attention", "vision_config": "sdpa", "adapter_config": "sdpa"}
    assert attention_by_part("eager") == "eager"
    assert attention_by_part("auto", "cpu") == "sdpa"  # FlexAttention has no backward pass there
