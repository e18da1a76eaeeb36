"""The backbone and its tokenizer: a checkpoint for real work, a tiny random-weight one for two cores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import AutoTokenizer, Molmo2Config, Molmo2ForConditionalGeneration, PreTrainedTokenizerBase

from stts_lightning.config import BackboneConfig
from stts_lightning.molmo2.tokenizer import VISION_TOKENS, train_tokenizer


class Backbone(NamedTuple):
    model: Molmo2ForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase


def load_backbone(config: BackboneConfig, init_from: str | None = None, accelerator: str = "auto") -> Backbone:
    """`from_pretrained` where a checkpoint is named, else the tiny configuration with random weights.

    ``init_from`` is a model folder that an earlier run left; it comes before ``config.pretrained``.
    ``accelerator``: where the model will run, as Lightning's Trainer takes it.
    """
    attention = attention_by_part(config.attention, accelerator)
    source = init_from or config.pretrained
    if source is None:
        tokenizer = tiny_tokenizer()
        return Backbone(tiny_molmo2(config, tokenizer, attention), tokenizer)
    where = {"revision": config.revision} if config.revision and init_from is None else {}
    model = Molmo2ForConditionalGeneration.from_pretrained(
        source,
        dtype=getattr(torch, config.dtype),
        attn_implementation=attention,
        use_safetensors=True,  # pickled weights could run code, and so could a tokenizer's own
        **where,
    )
    return Backbone(model, AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where))


def attention_by_part(attention: str, accelerator: str = "auto") -> str | dict[str, str]:
    """``backbone.attention`` as transformers takes it. FlexAttention is for the language model alone: the vision
    tower has no mask to skip blocks by, and on a CPU FlexAttention cannot be trained."""
    if attention == "auto":
        on_gpu = accelerator != "cpu" and torch.cuda.is_available()
        attention = "flex_attention" if on_gpu else "sdpa"
    if attention != "flex_attention":
        return attention
    return {"text_config": "flex_attention", "vision_config": "sdpa", "adapter_config": "sdpa"}


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Trained on the embedded set's own prompts, which are the same at every call."""
    from stts_lightning.data.corpus import tokenizer_corpus

    return train_tokenizer(tokenizer_corpus())


def tiny_molmo2(
    config: BackboneConfig, tokenizer: PreTrainedTokenizerBase, attention: str | dict[str, str] = "sdpa"
) -> Molmo2ForConditionalGeneration:
    """Molmo2's own classes at toy size, initialised from ``config.tiny.seed`` alone."""
    tiny = config.tiny
    base_vocab = len(tokenizer) - len(VISION_TOKENS)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in VISION_TOKENS}
    heads = {"num_attention_heads": tiny.vit_heads, "num_key_value_heads": tiny.vit_heads}
    head_dim = tiny.vit_hidden // tiny.vit_heads
    molmo2 = Molmo2Config(
        vision_config={
            "hidden_size": tiny.vit_hidden, "intermediate_size": tiny.vit_mlp, "head_dim": head_dim, **heads,
            "num_hidden_layers": tiny.vit_layers, "patch_size": config.patch_size,
            "image_size": [config.image_size, config.image_size], "initializer_range": tiny.initializer_range,
        },
        adapter_config={
            "hidden_size": tiny.vit_hidden, "intermediate_size": tiny.adapter_mlp, "head_dim": head_dim, **heads,
            "vision_feature_layer": list(tiny.feature_layers), "text_hidden_size": tiny.text_hidden,
            "initializer_range": tiny.initializer_range,
        },
        text_config={
            "hidden_size": tiny.text_hidden, "intermediate_size": tiny.text_mlp,
            "num_attention_heads": tiny.text_heads, "num_key_value_heads": tiny.text_heads,
            "head_dim": tiny.text_hidden // tiny.text_heads, "num_hidden_layers": tiny.text_layers,
            "vocab_size": base_vocab, "additional_vocab_size": len(VISION_TOKENS),
            "rope_parameters": {"rope_type": "default", "rope_theta": tiny.rope_theta},
            "initializer_range": tiny.initializer_range,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        image_start_token_id=ids["<im_start>"], image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"], low_res_image_start_token_id=ids["<low_res_im_start>"],
        frame_start_token_id=ids["<frame_start>"], frame_end_token_id=ids["<frame_end>"],
        initializer_range=tiny.initializer_range,
    )  # fmt: skip
    molmo2._attn_implementation = attention
    with torch.random.fork_rng():
        torch.manual_seed(tiny.seed)
        model = Molmo2ForConditionalGeneration(molmo2)
        torch.nn.init.normal_(model.model.vision_tower.positional_embedding, std=tiny.position_std)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.to(getattr(torch, config.dtype))
