"""What a step must compute, counted from shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

from stts_lightning.bench.case import WINDOW, Shape
from stts_lightning.prune.select import prune_count


class Flops(NamedTuple):
    """Floating-point operations of one forward pass; a multiplication and an addition are two."""

    vision: float
    connector: float
    language: float
    head: float

    @property
    def total(self) -> float:
        return sum(self)


def forward_flops(
    model_config: Any, shape: Shape, percent: float, layer: int, *, labels: int | None = None, dense: bool = True
) -> Flops:
    """Matrix products and attention of a forward pass; the backward pass takes twice that.

    Norms, activations and the scorer are left out, and every frame is taken to lose the same share. ``labels``: how
    many places of a prompt need logits, None for all. ``dense``: the language model's attention counted for all
    pairs of tokens, as a dense mask computes it; else for the pairs that see each other.
    """
    vision, adapter, text = model_config.vision_config, model_config.adapter_config, model_config.text_config
    patches = (vision.image_size[0] // vision.patch_size) ** 2
    windows = patches // WINDOW**2
    frames = shape.videos * shape.frames
    dropped = prune_count(percent, shape.frames, windows)
    kept = 1 - dropped / (shape.frames * windows)  # of a video's windows

    width = vision.num_attention_heads * vision.head_dim
    linear = 2 * (4 * vision.hidden_size * width + 2 * vision.hidden_size * vision.intermediate_size)
    attention = 4 * patches * width
    whole = layer + 2 if dropped else vision.num_hidden_layers
    pruned = vision.num_hidden_layers - whole
    embedding = 2 * vision.patch_size**2 * 3 * vision.hidden_size
    patch_flops = embedding + whole * (linear + attention) + pruned * kept * (linear + kept * attention)

    taps = len(adapter.vision_feature_layer) * adapter.hidden_size
    inner = adapter.num_attention_heads * adapter.head_dim
    per_window = (
        2 * taps * inner * (1 + 2 * WINDOW**2)  # the query, and the keys and values of its patches
        + 4 * WINDOW**2 * inner
        + 2 * inner * adapter.hidden_size
        + 2 * adapter.intermediate_size * (2 * adapter.hidden_size + adapter.text_hidden_size)
    )

    kinds = shape.video_tokens(windows)
    length = len(kinds) - dropped
    visible = length - kinds.count(0)
    pairs = length**2 if dense else length * (length + 1) / 2 + visible * (visible - 1) / 2
    heads = text.num_attention_heads * text.head_dim
    language = length * language_flops_per_token(text) + text.num_hidden_layers * 4 * pairs * heads
    head = 2 * text.hidden_size * text.vocab_size * (length if labels is None else labels)
    return Flops(
        vision=frames * patches * patch_flops,
        connector=frames * windows * kept * per_window,
        language=shape.videos * language,
        head=shape.videos * head,
    )


def language_flops_per_token(text: Any) -> float:
    """Matrix products of all blocks of the language model for one token, without attention itself."""
    heads, key_heads = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    per_block = 2 * text.hidden_size * (2 * heads + 2 * key_heads + 3 * text.intermediate_size)
    return float(text.num_hidden_layers * per_block)
