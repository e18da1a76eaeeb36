"""Saving a pruned model, and a loader that checks what it loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, Molmo2ForConditionalGeneration, PreTrainedTokenizerBase

from stts_lightning.config import PruneConfig
from stts_lightning.molmo2.load import attention_by_part
from stts_lightning.molmo2.patch import PruneHandle, apply_stts

SETTINGS, SCORER = "stts.json", "token_scorer.safetensors"


class Pruned(NamedTuple):
    model: Molmo2ForConditionalGeneration
    handle: PruneHandle
    tokenizer: PreTrainedTokenizerBase


def save_pruned(
    handle: PruneHandle,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """A stock Molmo2 checkpoint with the scorer and its settings in two files beside it.

    Stock transformers loads the folder as the unpruned model; `load_pruned` loads both. The handle stays valid.
    ``weights`` are those of `handle.model` by name, where the model itself has not all of them.
    """
    folder, prefix = Path(folder), "model.vision_tower.token_scorer."
    weights = handle.model.state_dict() if weights is None else weights
    stock_weights = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    scorer = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    with handle.as_stock() as stock:
        stock.save_pretrained(folder, state_dict=stock_weights, max_shard_size="1TB")
    tokenizer.save_pretrained(folder)
    save_file({name: value.contiguous().clone() for name, value in scorer.items()}, folder / SCORER)  # tied ones too
    (folder / SETTINGS).write_text(json.dumps(asdict(handle.config), indent=2) + "\n", encoding="utf-8")


def load_pruned(folder: str | Path, *, dtype: torch.dtype = torch.float32, attention: str = "auto") -> Pruned:
    """Load what `save_pruned` wrote, scorer included. ``attention`` as in `backbone.attention`.

    Raises:
        ValueError: the folder has no settings or no scorer, or the scorer's weights do not fit them.
    """
    folder = Path(folder)
    for name in (SETTINGS, SCORER):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} has no {name}: it is not a model that save_pruned wrote. "
                "For a stock checkpoint use from_pretrained and apply_stts."
            )
    config = PruneConfig(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
    model = Molmo2ForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention_by_part(attention), use_safetensors=True
    )
    handle = apply_stts(model, config)
    weights = load_file(folder / SCORER)
    try:
        handle.scorer.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{folder / SCORER} does not fit {SETTINGS}: {error}") from None
    return Pruned(model, handle, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
