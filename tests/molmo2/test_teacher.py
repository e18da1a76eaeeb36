"""What the unpruned model makes of its windows, against transformers' own attention maps and a second backward pass."""

from __future__ import annotations

import pytest
import torch

from stts_lightning.config import load_config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.lit.module import MODEL_INPUTS, STTSModule
from stts_lightning.molmo2.load import load_backbone
from stts_lightning.molmo2.teacher import window_use


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A module that prunes, the model's inputs of two clips with questions, and where the answers are predicted."""
    root = tmp_path_factory.mktemp("set")
    small = ["data.generated.train_videos=2", "data.generated.eval_videos=1", f"data.generated.root={root}"]
    config = load_config(
        [*small, "optim.batch_size=2", f"data.frame_cache_dir={root}/frames", "method=stts_distill", "prune.percent=50",
         "backbone.attention=eager"]
    )  # fmt: skip
    backbone = load_backbone(config.backbone)
    module, data = STTSModule(config, backbone), VideoQuestionData(config, backbone.tokenizer)
    data.setup()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    inputs = {name: batch[name] for name in (*MODEL_INPUTS, "labels", "loss_weights") if name in batch}
    return module.eval(), inputs, [[asked.predicted_at for asked in row] for row in batch["asked"]]


def unpruned_pass(module, inputs, **extra):
    module.handle.percent = 0
    try:
        return module.model(**inputs, use_cache=False, **extra)
    finally:
        module.handle.percent = 50


@pytest.mark.parametrize("kind", ["attention", "value_attention"])
def test_attention_mass_is_that_of_transformers_maps(given, kind):
    module, inputs, predicted_at = given
    values = []
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, out: values.append(out.detach()))
        for layer in module.model.model.language_model.layers
    ]
    with torch.no_grad():
        asked = {name: value for name, value in inputs.items() if name not in ("labels", "loss_weights")}
        maps = unpruned_pass(module, asked, output_attentions=True).attentions  # (B, H, L, L) a layer
    for hook in hooks:
        hook.remove()
    placeholder = module.model.config.image_token_id
    expected = []
    for row, places in enumerate(predicted_at):
        for j in (inputs["input_ids"][row] == placeholder).nonzero().flatten().tolist():
            mass = 0.0
            for weights, value in zip(maps, values, strict=True):
                heads = value[row, j].view(weights.shape[1], -1).norm(dim=-1).tolist()
                for head, norm in enumerate(heads):
                    given_to_j = sum(weights[row, head, place, j].item() for place in places)
                    mass += given_to_j * (norm if kind == "value_attention" else 1.0)
            expected.append(mass)
    found = window_use(module.handle, inputs, predicted_at, kind)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert found.std() > 0


def test_saliency_is_the_gradients_norm_times_the_tokens(given):
    module, inputs, predicted_at = given
    out = unpruned_pass(module, {k: v for k, v in inputs.items() if k not in ("labels", "loss_weights")})
    tokens = out.image_hidden_states.detach()
    kept: list[torch.Tensor] = []

    def remember(_, __, out):
        out.last_hidden_state.retain_grad()
        kept.append(out.last_hidden_state)

    hook = module.model.model.multi_modal_projector.register_forward_hook(remember)
    unpruned_pass(module, inputs).loss.backward()
    hook.remove()
    expected = kept[0].grad.norm(dim=-1) * tokens.norm(dim=-1)
    module.zero_grad()
    torch.testing.assert_close(window_use(module.handle, inputs, predicted_at, "saliency"), expected, rtol=1e-4, atol=0)
    assert all(p.grad is None for p in module.parameters()), "the teacher leaves gradients"


def test_the_model_is_left_as_it_was(given):
    module, inputs, predicted_at = given
    before = module(inputs).logits
    for kind in ("attention", "value_attention", "saliency"):
        window_use(module.handle, inputs, predicted_at, kind)
    assert module.handle.percent == 50
    assert torch.equal(module(inputs).logits, before)
