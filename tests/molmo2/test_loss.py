"""The loss of a shortened prompt: at the labelled places alone, weighted, equal to a loop over them."""

import pytest
import torch
from slow_reference import masked_forward, next_token_loss, split_stock_and_scorer

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig
from stts_lightning.molmo2.loss import weighted_loss


def loop_loss(logits, labels, weights):
    """Next-token cross-entropy, place by place."""
    total, norm = 0.0, 0.0
    for b in range(len(labels)):
        for place in range(1, labels.shape[1]):
            if labels[b, place] != -100:
                log_probability = torch.log_softmax(logits[b, place - 1], 0)[labels[b, place]]
                total -= weights[b, place] * log_probability
                norm += float(weights[b, place])
    return total / max(norm, 1e-9)


@pytest.mark.parametrize("most", [5, 4, 3])  # more than there are, or exactly as many as the fuller row has
def test_weighted_loss_equals_a_loop(monkeypatch, most):
    monkeypatch.setattr("stts_lightning.molmo2.loss.LOSS_CHUNK", 3)
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(7, 11, bias=False)
    hidden = torch.randn(2, 6, 7, generator=generator, requires_grad=True)
    labels = torch.randint(0, 11, (2, 6), generator=generator)
    labels[0, :3] = -100
    labels[1, 2:5] = -100 if most == 3 else labels[1, 2:5]
    labels[1, 4] = -100
    weights = torch.rand(2, 6, generator=generator)
    loss = weighted_loss(head, hidden, labels, weights, most)
    slow = loop_loss(head(hidden), labels, weights)
    torch.testing.assert_close(loss, slow)
    for ours, theirs in zip(*(torch.autograd.grad(x, [hidden, head.weight]) for x in (loss, slow)), strict=True):
        torch.testing.assert_close(ours, theirs)
    nothing = torch.full_like(labels, -100)
    assert float(weighted_loss(head, hidden, nothing, weights, most)) == 0  # and not NaN
    assert float(weighted_loss(head, hidden, nothing, weights, 0)) == 0


@pytest.mark.parametrize("weigh", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_labels_and_weights_shorten_with_the_prompt(model, build_inputs, weigh, left):
    inputs = build_inputs([4, 3], left=left)
    real = inputs["attention_mask"] > 0
    learnt = real & (real.cumsum(1) > 1)
    inputs["labels"] = torch.where(learnt, torch.arange(real.shape[1]) % 200, -100)  # tells its own place
    if weigh:
        inputs["loss_weights"] = torch.rand(real.shape, generator=torch.Generator().manual_seed(2))
    handle = apply_stts(model, PruneConfig(percent=50, layer=0))
    out = model(**inputs)
    assert (out.logits is None) == weigh
    index = out.pruning.token_index
    for b in range(2):  # the loss of labels gathered by token_index, row by row
        places = index[b][index[b] >= 0]
        assert torch.equal(places, places.sort().values) and len(places) == out.pruning.prompt_lengths[b]
    labels = torch.where(index >= 0, inputs["labels"].gather(1, index.clamp(min=0)), -100)
    logits = model(**{name: x for name, x in inputs.items() if name not in ("labels", "loss_weights")}).logits
    if weigh:
        expected = loop_loss(logits, labels, inputs["loss_weights"].gather(1, index.clamp(min=0)))
    else:
        expected = next_token_loss(logits, labels)
    torch.testing.assert_close(out.loss, expected)

    stock_inputs = {name: value for name, value in inputs.items() if name != "loss_weights" or weigh}
    logits, short = masked_forward(
        *split_stock_and_scorer(model), handle.config, stock_inputs, out.pruning.keep, left=left
    )
    slow = (
        loop_loss(logits, short["labels"], short["loss_weights"]) if weigh else next_token_loss(logits, short["labels"])
    )
    torch.testing.assert_close(out.loss, slow, atol=1e-5, rtol=1e-5)


def test_weights_of_one_give_the_plain_loss(model, build_inputs):
    inputs = build_inputs([4, 3])
    inputs["labels"] = torch.where(inputs["attention_mask"] > 0, inputs["input_ids"] % 200, -100)
    apply_stts(model, PruneConfig(percent=50, layer=0))
    weighted = model(**inputs, loss_weights=torch.ones(inputs["input_ids"].shape)).loss
    torch.testing.assert_close(weighted, model(**inputs).loss)
