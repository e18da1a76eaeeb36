"""What pruning means, done the slow and obvious way: masks instead of packing, loops instead of indexing."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Molmo2ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from stts_lightning.molmo2.patch import PruneHandle
from stts_lightning.prune.types import Scores, Windows

VIDEO = ("pixel_values_videos", "video_token_pooling", "video_grids")


class FixedScorer(torch.nn.Module):
    """Given scores, with the bias that the real scorer would make of them."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(scores)

    def forward(self, x_TND: torch.Tensor, windows: Windows) -> Scores:
        return Scores(self.scores, self.scores.log())


def fix_scores(model: Any, scores: torch.Tensor) -> None:
    model.model.vision_tower.token_scorer = FixedScorer(scores)


def split_stock_and_scorer(model: Any) -> tuple[Molmo2ForConditionalGeneration, torch.nn.Module]:
    """A stock copy of a pruned model, and a copy of its scorer."""
    twin = copy.deepcopy(model)
    scorer = twin.model.vision_tower.token_scorer
    PruneHandle(twin).remove()
    return twin, scorer


def masked_tokens(
    stock: Any, scorer: Any, config: Any, inputs: dict[str, torch.Tensor], keep: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Vision tokens of the kept windows, one tensor a video. No packing: every block after l+1 runs on all
    frames, and a mask hides the pruned patches of each frame as keys."""
    tower, pixels, table = stock.model.vision_tower, inputs["pixel_values_videos"], inputs["video_token_pooling"]
    frames = [int(f) for f in inputs["video_grids"][:, 0]]
    rows, columns = (int(n) for n in inputs["video_grids"][0, 1:])
    num_frames, num_patches = pixels.shape[:2]
    kept_windows = [bool(flag) for part in keep for flag in part.flatten()]
    owner, kept_patch = {}, [[False] * num_patches for _ in range(num_frames)]
    for m, slots in enumerate(table.tolist()):
        for patch in slots:
            if patch >= 0:
                owner[patch] = m
                kept_patch[patch // num_patches][patch % num_patches] = kept_windows[m]

    outputs = []
    x = tower.patch_embedding(pixels) + tower.positional_embedding
    for i in range(config.layer + 1):
        x = tower.layers[i](x, None)
        outputs.append(x)
    windows = Windows(table, frames, rows * columns, rows, columns)
    scores = scorer(x, windows)
    bias = None
    if config.method.startswith("stts"):
        bias = torch.stack(
            [scores.scores_TW.flatten()[owner[patch]] for patch in range(num_frames * num_patches)]
        ).view(num_frames, num_patches)
        bias = rescaled(bias) if config.preset == "released" else bias.log()
        first = torch.tensor([i == 0 for f in frames for i in range(f)])
        bias = torch.where(first[:, None], 0.0, bias)[:, None, None]
    x = tower.layers[config.layer + 1](x, bias)
    outputs.append(x)

    if config.preset == "released":  # a frame that stands alone in its row is whole again for the tower
        for t in lone_frames([sum(flags) for flags in kept_patch], num_patches):
            kept_patch[t] = [True] * num_patches
    hide = torch.where(torch.tensor(kept_patch), 0.0, torch.finfo(torch.float32).min)[:, None, None]
    for layer in tower.layers[config.layer + 2 :]:
        x = layer(x, hide.expand(-1, 1, num_patches, -1))
        outputs.append(x)

    taps = stock.config.adapter_config.vision_feature_layer
    tapped = torch.cat([outputs[tap] for tap in taps], dim=-1)
    tokens = stock.model.multi_modal_projector(tapped, table[torch.tensor(kept_windows)]).last_hidden_state
    return list(tokens.split([int(part.sum()) for part in keep]))


def rescaled(score_TN: torch.Tensor) -> torch.Tensor:
    """The released code: each row of patches goes to [e^-2, 1] before the log."""
    side = math.isqrt(score_TN.shape[1])
    lines = score_TN.view(-1, side, side)
    low, high = lines.min(-1, keepdim=True).values, lines.max(-1, keepdim=True).values
    floor = math.exp(-2)
    return torch.log(floor + (lines - low) * (1 - floor) / (high - low + 1e-6)).flatten(1)


def lone_frames(counts: list[int], capacity: int) -> list[int]:
    """Frames that share their row with none: first-fit descending, row by row."""
    rows: list[list[int]] = []
    for t in sorted(range(len(counts)), key=lambda t: (-counts[t], t)):
        if not counts[t]:
            continue
        for row in rows:
            if sum(counts[other] for other in row) + counts[t] <= capacity:
                row.append(t)
                break
        else:
            rows.append([t])
    return [row[0] for row in rows if len(row) == 1]


def shorten_by_hand(
    inputs: dict[str, torch.Tensor], keep: list[torch.Tensor], placeholder: int, positions: str, left: bool = False
) -> dict[str, torch.Tensor]:
    """The prompt without the placeholders of pruned windows, token by token. ``index`` is where each stood."""
    flags = iter([bool(flag) for part in keep for flag in part.flatten()])
    ids, mask = inputs["input_ids"].tolist(), inputs["attention_mask"].tolist()
    beside = {name: inputs[name].tolist() for name in ("mm_token_type_ids", "labels", "loss_weights") if name in inputs}
    fill = {"mm_token_type_ids": 0, "labels": -100, "loss_weights": 0.0}
    short: dict[str, list[list[Any]]] = {
        n: [] for n in ("input_ids", "position_ids", "attention_mask", "index", *beside)
    }
    for b, row in enumerate(ids):
        out: dict[str, list[Any]] = {name: [] for name in short}
        old = 0
        for place, token in enumerate(row):
            if not mask[b][place]:
                continue
            if token != placeholder or next(flags):
                out["position_ids"].append(len(out["input_ids"]) if positions == "renumbered" else old)
                out["input_ids"].append(token)
                out["attention_mask"].append(1)
                out["index"].append(place)
                for name, values in beside.items():
                    out[name].append(values[b][place])
            old += 1
        for name, values in out.items():
            short[name].append(values)
    longest = max(len(row) for row in short["input_ids"])
    padded = {}
    for name, rows in short.items():
        value = {**fill, "index": -1}.get(name, 0)
        gaps = [[value] * (longest - len(row)) for row in rows]
        padded[name] = torch.tensor([g + row if left else row + g for g, row in zip(gaps, rows, strict=True)])
    return padded


def features(tokens: list[torch.Tensor]) -> dict[str, BaseModelOutputWithPooling]:
    return {"video": BaseModelOutputWithPooling(pooler_output=tuple(tokens))}


def masked_forward(
    stock: Any, scorer: Any, config: Any, inputs: dict[str, torch.Tensor], keep: list[torch.Tensor], left: bool = False
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of the stock language model on the shortened prompt, and that prompt."""
    short = shorten_by_hand(inputs, keep, stock.config.image_token_id, config.positions, left)
    tokens = masked_tokens(stock, scorer, config, inputs, keep)
    given = {n: short[n] for n in ("input_ids", "attention_mask", "position_ids", "mm_token_type_ids")}
    return stock(**given, mm_encoder_outputs=features(tokens)).logits, short


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
