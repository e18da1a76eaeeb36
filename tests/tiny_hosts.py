"""Tiny checkpoints of the other models' classes, with random weights, saved as real ones are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from stts_lightning.hosts.declare import HostSpec, load_host

SIDE, PATCH = 24, 4  # pixels: 6 x 6 patches, 3 x 3 tokens
SPECIAL = [
    "<eos>", "<sys>", "<user>", "<bot>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|image_pad|>",
    "<|video|>", "<|image|>", "<video>", "<IMG_CONTEXT>", "<img>", "</img>",
]  # fmt: skip
MARKS = {
    "qwen3_vl_4b": "<|vision_start|><|video_pad|><|vision_end|>",
    "plm_8b": "<|video|>",
    "internvl3_5_8b": "<video>\n",
}
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.5, "vocab_size": 512,
}  # fmt: skip


def _tokenizer(mark: str) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    bpe.train_from_iterator(["Which one? Frame seconds"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = (
        "<sys>{% for m in messages %}<user>{% for part in m['content'] %}{% if part['type'] == 'video' %}"
        + mark.replace("\n", "{{ '\\n' }}")
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
        + "{% if add_generation_prompt %}<bot>{% endif %}"
    )
    return tokenizer


def _qwen(ids: Callable[[str], int]) -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    config = Qwen3VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={
            "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "patch_size": PATCH,
            "out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
            "initializer_range": 0.5,
        },
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    return Qwen3VLForConditionalGeneration(config)


def _plm(ids: Callable[[str], int]) -> Any:
    # The released vision tower comes from timm; a CLIP tower stands in for it, with the same class token in front.
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH, initializer_range=0.5, model_args={"embed_dim": 32},
    )  # fmt: skip
    config = PerceptionLMConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT), projector_pooling_ratio=2,
        image_token_id=ids("<|image|>"), video_token_id=ids("<|video|>"),
    )  # fmt: skip
    return PerceptionLMForConditionalGeneration(config)


def _internvl(ids: Callable[[str], int]) -> Any:
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": PATCH, "initializer_range": 0.5,
        },
        text_config=Qwen2Config(**TEXT), image_token_id=ids("<IMG_CONTEXT>"), image_seq_length=9,
    )  # fmt: skip
    return InternVLForConditionalGeneration(config)


BUILD = {"qwen3_vl_4b": _qwen, "plm_8b": _plm, "internvl3_5_8b": _internvl}


def save_tiny_host(name: str, folder: Path) -> HostSpec:
    """A checkpoint in ``folder``, and the shipped declaration at its sizes."""
    tokenizer = _tokenizer(MARKS[name])
    torch.manual_seed(0)
    model = BUILD[name](tokenizer.convert_tokens_to_ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tiny = {"pretrained": str(folder), "dtype": "float32", "image_size": SIDE, "patch_size": PATCH, "min_pixels": 0}
    return replace(load_host(name), **tiny, max_new_tokens=4)
