"""Tokens leave after the whole ViT: by a score of each vision token, or as larger windows in the connector."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.models.molmo2.modeling_molmo2 import Molmo2Model

from stts_lightning.molmo2.tower import (
    VideoFeatures,
    all_the_same,
    connect,
    connect_all,
    embed,
    feature_layers,
    run_blocks,
    tapped,
    videos_of,
)
from stts_lightning.prune.coarse import coarse_table, placeholders_left
from stts_lightning.prune.select import select
from stts_lightning.prune.types import Windows
from stts_lightning.prune.windows import gather_windows


def encode_then_drop(model: Molmo2Model, scorer: nn.Module, pixels_TNC: Tensor, windows: Windows) -> VideoFeatures:
    """Score the connector's output, and drop the lowest."""
    tokens_MD = connect_all(model, embed(model, pixels_TNC), windows)
    scores = scorer(tokens_MD.unflatten(0, (-1, windows.windows_per_frame)), windows)
    selection = select(scores.scores_TW, windows.frames_per_video, windows.percent)
    kept = tokens_MD.index_select(0, selection.kept_K)
    return videos_of(kept, scores, selection.keep_TW, windows, selection.kept_per_video, len(pixels_TNC))


def encode_coarsely(model: Molmo2Model, _: nn.Module, pixels_TNC: Tensor, windows: Windows) -> VideoFeatures:
    """The connector on larger windows. Their tokens stand at the first placeholders of their frame."""
    taps = feature_layers(model)
    x_TND, features = run_blocks(model, embed(model, pixels_TNC), range(max(taps) + 1), {})
    table_KP = coarse_table(windows, pixels_TNC.shape[1])
    tokens_KD = connect(model, *gather_windows(tapped(features, taps), table_KP))
    scores = all_the_same(windows, x_TND)
    return videos_of(tokens_KD, scores, placeholders_left(windows), windows, windows.budget(), len(pixels_TNC))
