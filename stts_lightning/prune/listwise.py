"""Scores that learn in which proportion windows matter, from a use that is measured further down the model.

The paper's scorer learns through a bias in the ViT and from temporal change. Here the target is a list: the share that
each window has in what its video gave the language model. Its source is this project's own `experiments/saliency/`.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from stts_lightning.prune.types import Listwise, Selection, Windows
from stts_lightning.prune.windows import is_first_frame


def listwise_loss(logits: Tensor, use: Tensor, counted: Tensor, lengths: list[int]) -> Tensor:
    """Mean over the videos of the cross-entropy of ``softmax(logits)`` against ``use / sum(use)``.

    Args:
        logits, use, counted: (M,) each, windows of the videos one after the other; where ``counted`` is False a
            window belongs to neither distribution.
        lengths: windows of each video. One without any use counts as 0.
    """
    shares, log_shares = _shares(logits, use, counted, lengths)
    return -(shares * log_shares).sum() / len(lengths)


def learn_from_use(
    tokens_KD: Tensor, logits_TW: Tensor, selection: Selection, windows: Windows
) -> tuple[Tensor, Listwise]:
    """The kept windows' vision tokens, unchanged, and a loss that teaches the scorer how much each of them is used.

    With ``f_j`` the token of window j and ``L`` what is differentiated, ``w_j = |dL/df_j| * |f_j|`` and
    ``p = w / sum(w)`` over the kept windows of a video, those of frame 0 aside. The loss is the mean over the videos of
    ``-sum_j p_j log softmax(logits)_j``. ``w`` takes no second pass: it is read off when the gradient of the tokens
    comes by. The gradient that it sends into ``logits_TW`` is scaled as ``Listwise.loss`` is, so weights, accumulation
    and gradient scaling act on it as on any loss, while ``p`` does not feel them.
    """
    first_T = is_first_frame(windows.frames_per_video, logits_TW.device)
    counted_K = ~first_T.index_select(0, selection.kept_K // windows.windows_per_frame)
    logits_K = logits_TW.flatten().index_select(0, selection.kept_K)
    value = logits_K.new_zeros(())
    tokens_KD, loss = _LearnFromUse.apply(tokens_KD, logits_K, counted_K, selection.kept_per_video, value)
    return tokens_KD, Listwise(loss, value)


class _LearnFromUse(torch.autograd.Function):
    """Identity on the tokens; its backward pass sees dL/df, and answers with the logits' gradient beside it."""

    @staticmethod
    def forward(
        ctx: Any, tokens_KD: Tensor, logits_K: Tensor, counted_K: Tensor, lengths: list[int], value: Tensor
    ) -> tuple[Tensor, Tensor]:
        norm_K = tokens_KD.detach().float().norm(dim=-1)
        ctx.save_for_backward(norm_K, logits_K.detach(), counted_K)
        ctx.lengths, ctx.value = lengths, value
        return tokens_KD.view_as(tokens_KD), logits_K.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_KD, scale = gradients
        norm_K, logits_K, counted_K = ctx.saved_tensors
        use_K = grad_KD.float().norm(dim=-1) * norm_K
        shares_K, log_shares_K = _shares(logits_K, use_K, counted_K, ctx.lengths)
        ctx.value.copy_(-(shares_K * log_shares_K).sum() / len(ctx.lengths))
        # d/dz of -sum p log softmax(z), for each video; where p is empty there is nothing to learn.
        predicted_K = log_shares_K.exp() * counted_K * _per_video(shares_K, ctx.lengths).sign()
        grad_K = scale / len(ctx.lengths) * (predicted_K - shares_K)
        return grad_KD, grad_K.to(logits_K.dtype), None, None, None


def _shares(logits: Tensor, use: Tensor, counted: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """(M,) each: the use's share of its video, and the log of the share that the logits give; 0 where not counted."""
    use = use.float() * counted
    total = _per_video(use, lengths)
    # A use that underflows to nothing is no use, and divides by nothing.
    shares = torch.where(total > 0, use / total.clamp(min=torch.finfo(torch.float).tiny), 0.0)
    bounds = [0, *accumulate(lengths)]
    masked = logits.float().masked_fill(~counted, torch.finfo(torch.float).min)
    parts = [masked[start:end].log_softmax(0) for start, end in pairwise(bounds)]
    return shares, torch.cat(parts).masked_fill(~counted, 0.0)


def _per_video(x: Tensor, lengths: list[int]) -> Tensor:
    """(M,) the sum over the video that each window is of."""
    return torch.cat([part.sum().expand(len(part)) for part in x.split(lengths)])
