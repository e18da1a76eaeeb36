"""MAIN PATH: ViT blocks 0..l -> score -> biased block l+1 -> select -> pack -> other blocks -> connector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.molmo2.modeling_molmo2 import Molmo2Model

from stts_lightning.config import PruneConfig
from stts_lightning.molmo2.arrange import arrange
from stts_lightning.molmo2.attention import attention_dtype
from stts_lightning.prune.bias import expand_to_patches, paper_bias, released_bias
from stts_lightning.prune.scorers import PRESETS
from stts_lightning.prune.select import select
from stts_lightning.prune.types import Pruning, Scores, Selection, Windows
from stts_lightning.prune.windows import gather_windows, is_first_frame, window_of_patch

Grids = list[tuple[int, int, int]]


@dataclass
class VideoFeatures(BaseModelOutputWithPooling):
    """What `get_video_features` returns: ``pooler_output`` holds one (kept windows, hidden) tensor a video."""

    pruning: Pruning | None = None


def encode_videos(
    model: Molmo2Model,
    scorer: nn.Module,
    config: PruneConfig,
    pixels_TNC: Tensor,
    table_MP: Tensor,
    grids_V3: Tensor | Grids,
) -> VideoFeatures:
    """Patches of all videos to the language model's vision tokens, pruned on the way.

    Args:
        pixels_TNC: normalised patches, one row a pixel value of the patch.
        table_MP: ``video_token_pooling``, flat patch indices of each window.
        grids_V3: ``video_grids``, frames, window rows and window columns of each video; as a list, or on the
            host, nothing waits for them.

    Raises:
        ValueError: grids that do not fit the pixels or the table, or too few ViT blocks for ``layer``.
    """
    pixels_TNC = pixels_TNC.flatten(0, -3)
    windows = describe_windows(pixels_TNC, table_MP, grids_V3)
    if config.percent == 100:  # the text-only lower bound: nothing to look at
        return _nothing(model, pixels_TNC, windows)

    tower, taps = model.vision_tower, feature_layers(model)
    num_patches = pixels_TNC.shape[1]
    check_layer(config, taps)

    x_TND, features = first_blocks(model, config.layer, pixels_TNC)
    scores = scorer(x_TND, windows)
    if config.percent == 0:
        for i in range(config.layer + 1, max(taps) + 1):  # blocks after the last feature layer never run
            x_TND = tower.layers[i](x_TND, None)
            if i in taps:
                features[i] = x_TND
        gathered = gather_windows(_tapped(features, taps), table_MP, windows.tile(num_patches))
        return _result(_connect(model, *gathered), scores, None, windows, len(x_TND))

    bias_TN = _key_bias(scores, config.preset, windows, num_patches, x_TND)
    selection = select(scores.scores_TW, windows.frames_per_video, config.percent)
    i = config.layer + 1
    x_TND = tower.layers[i](x_TND, None, key_bias=bias_TN)

    refill = PRESETS[config.preset].refill_lone_frames
    left = arrange(selection, windows, num_patches, config.layout, refill, attention_dtype(x_TND))
    features = {tap: left.gather(features[tap]) for tap in features}
    x_RND = left.gather(x_TND)
    if i in taps:
        features[i] = x_RND
    for i in range(config.layer + 2, max(taps) + 1):
        x_RND = tower.layers[i](x_RND, left.mask, segments=left.segments)
        if i in taps:
            features[i] = x_RND
    tokens_KD = left.restore(_connect(model, *left.windows(_tapped(features, taps))))
    return _result(tokens_KD, scores, selection, windows, len(x_RND))


def _tapped(features: dict[int, Tensor], taps: list[int]) -> Tensor:
    return torch.cat([features[tap] for tap in taps], dim=-1)


def _connect(model: Molmo2Model, x_KPD: Tensor, valid_KP: Tensor | None) -> Tensor:
    """The connector on kept windows only: (K, hidden)."""
    tokens_KD: Tensor = model.multi_modal_projector(x_KPD, valid_KP=valid_KP).last_hidden_state
    return tokens_KD


def first_blocks(model: Molmo2Model, layer: int, pixels_TNC: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """The output of ViT block ``layer`` on whole frames, and of those up to it that the connector reads, (T, N, D)."""
    tower, taps = model.vision_tower, feature_layers(model)
    x_TND = tower.patch_embedding(pixels_TNC.to(tower.dtype))
    x_TND = x_TND + tower.positional_embedding[None].to(x_TND)
    features = {}
    for i in range(layer + 1):
        x_TND = tower.layers[i](x_TND, None)
        if i in taps:
            features[i] = x_TND
    return x_TND, features


def score_videos(
    model: Molmo2Model, scorer: nn.Module, layer: int, pixels_TNC: Tensor, table_MP: Tensor, grids_V3: Tensor | Grids
) -> Scores:
    """Scores alone, with gradients for the scorer alone: what its warm-up trains on."""
    pixels_TNC = pixels_TNC.flatten(0, -3)
    with torch.no_grad():
        x_TND, _ = first_blocks(model, layer, pixels_TNC)
    return scorer(x_TND, describe_windows(pixels_TNC, table_MP, grids_V3))


def describe_windows(pixels_TNC: Tensor, table_MP: Tensor, grids_V3: Tensor | Grids) -> Windows:
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
    return Windows(table_MP, frames, rows * columns, rows, columns)


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


def _key_bias(scores: Scores, preset: str, windows: Windows, num_patches: int, x_TND: Tensor) -> Tensor | None:
    if scores.log_scores_TW is None:
        return None
    first_T = is_first_frame(windows.frames_per_video, x_TND.device)
    if PRESETS[preset].rescale_bias:
        bias_TW = released_bias(scores.scores_TW, first_T, windows)
    else:
        bias_TW = paper_bias(scores.log_scores_TW, first_T)
    owner = window_of_patch(windows, x_TND.shape[0] * num_patches)
    return expand_to_patches(bias_TW, owner, num_patches)


def _result(
    tokens_KD: Tensor, scores: Scores, selection: Selection | None, windows: Windows, rows: int
) -> VideoFeatures:
    frames = windows.frames_per_video
    keep_TW = torch.ones_like(scores.scores_TW, dtype=torch.bool) if selection is None else selection.keep_TW
    kept = [f * windows.windows_per_frame for f in frames] if selection is None else selection.kept_per_video
    pruning = Pruning(
        scores=list(scores.scores_TW.detach().split(frames)),
        keep=list(keep_TW.split(frames)),
        kept_tokens=kept,
        packed_rows=rows,
        aux_loss=scores.aux_loss,
    )
    return VideoFeatures(pooler_output=tokens_KD.split(kept), pruning=pruning)


def _nothing(model: Molmo2Model, pixels_TNC: Tensor, windows: Windows) -> VideoFeatures:
    zeros = [pixels_TNC.new_zeros(f, windows.windows_per_frame, dtype=torch.float) for f in windows.frames_per_video]
    hidden = model.config.text_config.hidden_size
    empty = pixels_TNC.new_zeros(0, hidden, dtype=model.vision_tower.dtype)
    pruning = Pruning(zeros, [z.bool() for z in zeros], kept_tokens=[0] * len(zeros), packed_rows=0)
    return VideoFeatures(pooler_output=tuple(empty for _ in zeros), pruning=pruning)
