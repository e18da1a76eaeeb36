"""What the ways of pruning share: the tower's blocks, the connector, and the record of what was decided."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.molmo2.modeling_molmo2 import Molmo2Model

from stts_lightning.config import PruneConfig
from stts_lightning.prune.types import Listwise, Pruning, Scores, Windows
from stts_lightning.prune.windows import gather_windows

Grids = list[tuple[int, int, int]]


@dataclass
class VideoFeatures(BaseModelOutputWithPooling):
    """What `get_video_features` returns: ``pooler_output`` holds one (kept windows, hidden) tensor a video."""

    pruning: Pruning | None = None


def embed(model: Molmo2Model, pixels_TNC: Tensor) -> Tensor:
    """What the first ViT block takes, (T, N, D)."""
    tower = model.vision_tower
    x_TND: Tensor = tower.patch_embedding(pixels_TNC.to(tower.dtype))
    return x_TND + tower.positional_embedding[None].to(x_TND)


def run_blocks(
    model: Molmo2Model, x_TND: Tensor, blocks: range, features: dict[int, Tensor]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Whole frames through some of the ViT's blocks; the outputs that the connector reads are added to ``features``."""
    taps = feature_layers(model)
    for i in blocks:
        x_TND = model.vision_tower.layers[i](x_TND, None)
        if i in taps:
            features = {**features, i: x_TND}
    return x_TND, features


def connect_all(model: Molmo2Model, x_TND: Tensor, windows: Windows) -> Tensor:
    """Embedded frames to the vision tokens of all windows, (M, hidden). Blocks after the last feature layer never
    run."""
    taps, num_patches = feature_layers(model), x_TND.shape[1]
    _, features = run_blocks(model, x_TND, range(max(taps) + 1), {})
    return connect(model, *gather_windows(tapped(features, taps), windows.table_MP, windows.tile(num_patches)))


def tapped(features: dict[int, Tensor], taps: list[int]) -> Tensor:
    return torch.cat([features[tap] for tap in taps], dim=-1)


def connect(model: Molmo2Model, x_KPD: Tensor, valid_KP: Tensor | None) -> Tensor:
    """The connector on kept windows only: (K, hidden)."""
    tokens_KD: Tensor = model.multi_modal_projector(x_KPD, valid_KP=valid_KP).last_hidden_state
    return tokens_KD


def describe_windows(
    pixels_TNC: Tensor,
    table_MP: Tensor,
    grids_V3: Tensor | Grids,
    percent: float = 0.0,
    relevant_TW: Tensor | None = None,
) -> Windows:
    """Check that pixels, table and grids speak of the same videos."""
    grids = grids_V3.tolist() if isinstance(grids_V3, Tensor) else grids_V3
    frames = [frames for frames, _, _ in grids]
    _, rows, columns = grids[0]
    if any((r, c) != (rows, columns) for _, r, c in grids):
        raise ValueError(f"video_grids={grids}: all videos of a batch need the same rows and columns.")
    if sum(frames) != len(pixels_TNC) or sum(frames) * rows * columns != len(table_MP):
        raise ValueError(
            f"video_grids={grids} do not fit pixel_values_videos of {len(pixels_TNC)} frames and "
            f"video_token_pooling of {len(table_MP)} windows."
        )
    return Windows(table_MP, frames, rows * columns, rows, columns, percent, relevant_TW)


def feature_layers(model: Molmo2Model) -> list[int]:
    """The ViT blocks whose outputs the connector reads, counted from 0."""
    num_blocks = len(model.vision_tower.layers)
    return [layer % num_blocks for layer in model.config.adapter_config.vision_feature_layer]


def check_layer(config: PruneConfig, taps: list[int]) -> None:
    """Raise ValueError unless block l+1 exists and its output is still needed."""
    if config.layer + 1 > max(taps):
        raise ValueError(
            f"prune.layer={config.layer}: scores bias block {config.layer + 1}, but the connector reads block "
            f"{max(taps)} at the latest. Choose a layer below {max(taps)}."
        )


def all_the_same(windows: Windows, like: Tensor) -> Scores:
    """The scores of a method that gives none."""
    return Scores(like.new_ones(sum(windows.frames_per_video), windows.windows_per_frame, dtype=torch.float))


def videos_of(
    tokens_KD: Tensor,
    scores: Scores,
    keep_TW: Tensor,
    windows: Windows,
    kept: list[int],
    rows: int,
    listwise: Listwise | None = None,
) -> VideoFeatures:
    """The vision tokens by video, with the record of this pass."""
    frames = windows.frames_per_video
    pruning = Pruning(
        scores=list(scores.scores_TW.detach().split(frames)),
        keep=list(keep_TW.split(frames)),
        kept_tokens=kept,
        packed_rows=rows,
        aux_loss=scores.aux_loss,
        listwise=listwise,
    )
    return VideoFeatures(pooler_output=tokens_KD.split(kept), pruning=pruning)


def nothing(model: Molmo2Model, pixels_TNC: Tensor, windows: Windows) -> VideoFeatures:
    zeros = [pixels_TNC.new_zeros(f, windows.windows_per_frame, dtype=torch.float) for f in windows.frames_per_video]
    hidden = model.config.text_config.hidden_size
    empty = pixels_TNC.new_zeros(0, hidden, dtype=model.vision_tower.dtype)
    pruning = Pruning(zeros, [z.bool() for z in zeros], kept_tokens=[0] * len(zeros), packed_rows=0)
    return VideoFeatures(pooler_output=tuple(empty for _ in zeros), pruning=pruning)
