"""What `stts_saliency` should learn, by two backward passes and loops; and the loss that a training step makes."""

from __future__ import annotations

from typing import Any

import torch
from pytest import MonkeyPatch
from torch import Tensor, nn

from stts_lightning.config import PruneConfig
from stts_lightning.molmo2 import vision
from stts_lightning.molmo2.patch import PrunedOutput, PruneHandle

Inputs = dict[str, Tensor]
# Without noise the kept windows are the same in every pass, so that gradients can be compared.
SALIENCY = PruneConfig(method="stts_saliency", percent=50, layer=1, options={"noise": 0, "noise_floor": 0})

SHIFTS = ("mlp.w3.bias", "wk.bias")  # they move all that a softmax compares: 0 but for rounding


def with_answers(inputs: Inputs, seed: int = 0) -> Inputs:
    """The last five tokens of every prompt are learnt, with weights of their own."""
    mask = inputs["attention_mask"]
    left = mask.flip(1).cumsum(1).flip(1)  # real tokens from here on
    learnt = (mask > 0) & (left <= 5)
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) + 0.1
    return {**inputs, "labels": torch.where(learnt, inputs["input_ids"], -100), "loss_weights": weights}


def loss_to_differentiate(out: PrunedOutput) -> Tensor:
    """The sum that `STTSModule.training_step` makes for a method that learns from use."""
    loss = out.loss
    if out.pruning is not None and out.pruning.listwise is not None:
        loss = loss + out.pruning.listwise.loss
    return loss


def two_pass_loss(handle: PruneHandle, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Task loss plus listwise loss, and the latter alone. The first pass is run in here, the second is the caller's."""
    seen: dict[str, Any] = {}

    def record(tokens_KD: Tensor, logits_TW: Tensor, *_: Any) -> tuple[Tensor, None]:
        seen.update(tokens=tokens_KD, logits=logits_TW)
        return tokens_KD, None

    with MonkeyPatch.context() as patch:
        patch.setattr(vision, "learn_from_use", record)
        out = handle.model(**inputs)
    if out.pruning is None:
        return out.loss, torch.zeros(())
    (gradient,) = torch.autograd.grad(out.loss, seen["tokens"], retain_graph=True)
    listwise, frame, token = torch.zeros(()), 0, 0
    for keep in out.pruning.keep:
        uses, logits = [], []
        for t in range(len(keep)):
            for window in range(keep.shape[1]):
                if not keep[t, window]:
                    continue
                if t > 0:
                    w = gradient[token].float().pow(2).sum().sqrt() * seen["tokens"][token].float().pow(2).sum().sqrt()
                    uses.append(w.detach())
                    logits.append(seen["logits"][frame + t, window].float())
                token += 1
        frame += len(keep)
        if uses:
            share = torch.stack(uses) / sum(uses)
            listwise = listwise - (share * torch.log_softmax(torch.stack(logits), 0)).sum()
    listwise = listwise / len(out.pruning.keep)
    return out.loss + listwise, listwise.detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Cloned, and by name; what got none is zero."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def two_pass_gradients(handle: PruneHandle, batches: list[Inputs]) -> tuple[dict[str, Tensor], list[float]]:
    """Of the mean of the batches' losses; and what the listwise losses are."""
    handle.model.zero_grad(set_to_none=True)
    listwise = []
    for batch in batches:
        loss, part = two_pass_loss(handle, batch)
        (loss / len(batches)).backward()
        listwise.append(float(part))
    expected = gradients(handle.model)
    handle.model.zero_grad(set_to_none=True)
    return expected, listwise


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor], relative: float = 1e-5) -> None:
    """Relative to the largest entry of each gradient."""
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        largest = float(gradient.abs().max())
        atol = 1e-6 if name.endswith(SHIFTS) else 1e-8 + relative * largest
        off = float((ours[name] - gradient).abs().max())
        assert off <= atol, f"{name}: off by {off:.3g}, where the largest entry is {largest:.3g}"
