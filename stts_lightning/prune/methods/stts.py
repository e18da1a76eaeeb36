"""STTS: a learned score a window (paper 3.1), with and without the auxiliary loss (3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stts_lightning.prune.aux_loss import auxiliary_loss
from stts_lightning.prune.presets import PRESETS, Preset
from stts_lightning.prune.registry import Host, register
from stts_lightning.prune.similarity import temporal_change
from stts_lightning.prune.types import Scores, Windows
from stts_lightning.prune.windows import gather_windows, is_first_frame, mean_pool, previous_frame


class QueryOfPatches(nn.Linear):
    """The keys' projection, taken to the query: ``query @ (W x + b)`` is ``(W^T query) @ x + query @ b``."""

    def forward(self, query_MHd: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(M, H, D / H) to (M, H, D) and (M, H, 1)."""
        weight_HdD, bias_Hd = (x.unflatten(0, (query_MHd.shape[1], -1)) for x in (self.weight, self.bias))
        return (query_MHd.transpose(0, 1) @ weight_HdD).transpose(0, 1), (query_MHd * bias_Hd).sum(-1, keepdim=True)


class ValueOfMean(nn.Linear):
    """The values' projection of a mean of patches by head: as the weights add up to 1, the mean of their values."""

    def forward(self, mean_MHD: Tensor) -> Tensor:
        """(M, H, D) to (M, D)."""
        weight_HdD = self.weight.unflatten(0, (mean_MHD.shape[1], -1))
        return (mean_MHD.transpose(0, 1) @ weight_HdD.transpose(1, 2)).transpose(0, 1).flatten(1) + self.bias


class TokenPooler(nn.Module):
    """Attention pooling of a window: the mean of its patches asks, the patches answer (paper 3.1).

    A window asks one question, so its query is brought to the patches and their mean to the values, instead of a key
    and a value made of every patch: the same products in another order, an eighth of them.
    """

    def __init__(self, dim: int, num_heads: int, std: float | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.wq, self.wk, self.wv = nn.Linear(dim, dim), QueryOfPatches(dim, dim), ValueOfMean(dim, dim)
        self.wo = nn.Linear(dim, dim)
        for layer in (self.wq, self.wk, self.wv, self.wo):
            nn.init.normal_(layer.weight, std=dim**-0.5 if std is None else std)
            nn.init.zeros_(layer.bias)

    def forward(self, x_MPD: Tensor, valid_MP: Tensor | None) -> Tensor:
        """(M, P, D) to (M, D); slots that hang over the edge of the frame are masked."""
        query_MHd = self.wq(mean_pool(x_MPD, valid_MP)).unflatten(-1, (self.num_heads, -1))
        question_MHD, offset_MH1 = self.wk(query_MHd)
        logits_MHP = (question_MHD @ x_MPD.transpose(1, 2) + offset_MH1) * query_MHd.shape[-1] ** -0.5
        if valid_MP is not None:
            logits_MHP = logits_MHP.masked_fill(~valid_MP[:, None], -torch.inf)
        return self.wo(self.wv(logits_MHP.softmax(-1) @ x_MPD))


class ScoreMLP(nn.Module):
    """Three layers to one logit a window."""

    def __init__(self, dim: int, preset: Preset) -> None:
        super().__init__()
        first, second = preset.mlp_widths(dim)
        self.w1, self.w2, self.w3 = nn.Linear(2 * dim, first), nn.Linear(first, second), nn.Linear(second, 1)
        self.activation = preset.activation
        for layer in (self.w1, self.w2, self.w3):
            std = layer.in_features**-0.5
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.activation(self.w2(self.activation(self.w1(x))))).squeeze(-1)


@register("stts")
class STTSScorer(nn.Module):
    """The paper's scorer (3.1) with its auxiliary loss (3.4)."""

    def __init__(self, host: Host, with_aux_loss: bool = True) -> None:
        super().__init__()
        self.preset = PRESETS[host.preset]
        self.with_aux_loss = with_aux_loss
        self.patch_token_pooler = TokenPooler(host.dim, host.num_heads, self.preset.pooler_std)
        self.mlp = ScoreMLP(host.dim, self.preset)

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        """Scores in (0, 1)."""
        logits_TW, aux_loss = self.score(x_TND, windows, self.with_aux_loss)
        return Scores(logits_TW.sigmoid(), F.logsigmoid(logits_TW), aux_loss)

    def warmup_loss(self, x_TND: Tensor, windows: Windows) -> Tensor:
        """What the scorer learns from alone, before anything is pruned: the auxiliary loss."""
        aux_loss = self.score(x_TND, windows, with_aux_loss=True)[1]
        assert aux_loss is not None
        return aux_loss

    def score(self, x_TND: Tensor, windows: Windows, with_aux_loss: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits (T, W) and the auxiliary loss; the previous frame's pooled features come before the current one's."""
        first_T = is_first_frame(windows.frames_per_video, x_TND.device)
        x_MPD, valid_MP = gather_windows(x_TND, windows.table_MP, windows.tile(x_TND.shape[1]))
        pooled_TWD = self.patch_token_pooler(x_MPD, valid_MP).unflatten(0, (-1, windows.windows_per_frame))
        pair = torch.cat([previous_frame(pooled_TWD, first_T), pooled_TWD], dim=-1)
        logits_TW = self.mlp(pair).float()
        aux_loss = None
        if with_aux_loss:
            # "Ground truth", so without gradient and by plain pooling: it is the signal that the heuristic sorts
            # by (5.1), and with the pooler that is being trained it would move under the scorer.
            plain = not self.preset.flattened_target
            target_MD = mean_pool(x_MPD, valid_MP).detach() if plain else x_MPD.flatten(1)
            change_TW = temporal_change(target_MD.unflatten(0, (-1, windows.windows_per_frame)), first_T)
            frames, count_first = windows.frames_per_video, self.preset.count_first_frame
            aux_loss = auxiliary_loss(logits_TW.sigmoid(), change_TW, frames, count_first)
        return logits_TW, aux_loss


@register("stts_no_aux")
class STTSWithoutAuxLoss(STTSScorer):
    """The scorer on the task's gradient alone, which reaches it through the bias (paper 5.1)."""

    warmup_loss = None  # type: ignore[assignment]

    def __init__(self, host: Host) -> None:
        super().__init__(host, with_aux_loss=False)
