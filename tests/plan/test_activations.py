"""What is counted on tensors without values is what real tensors take, and what torch's own tracker counts."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed._tools.mem_tracker import MemTracker

from stts_lightning.config import load_config
from stts_lightning.lit.module import STTSModule
from stts_lightning.molmo2.load import Backbone, tiny_molmo2
from stts_lightning.molmo2.prompt import IGNORE, SHARED_PREFIX
from stts_lightning.molmo2.shadow import as_on_a_gpu
from stts_lightning.plan import activations
from stts_lightning.plan.activations import make_batch, measure, shadow_module
from stts_lightning.plan.live import BLOCK, Autocast
from stts_lightning.plan.state import computes_in
from stts_lightning.plan.work import load_of
from stts_lightning.video.patches import window_table

SMALL = [
    "video.max_frames=6", "optim.batch_size=1", "data.packing.enabled=true", "data.packing.max_tokens=4608",
    "data.packing.max_frames=12", "backbone.tiny.vit_hidden=64", "backbone.tiny.text_hidden=96",
]  # fmt: skip

BF16 = ["trainer.precision=bf16-true"]


@pytest.fixture(scope="module", autouse=True)
def quick_tokenizer(tiny_tokenizer):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(activations, "tiny_tokenizer", lambda: tiny_tokenizer)
        yield


def configured(*overrides):
    config = load_config([*SMALL, *overrides])
    return config, load_of(config, config.prune.percent)


def real_module(config, tokenizer, dtype):
    model = tiny_molmo2(config.backbone, tokenizer).to(dtype)
    return STTSModule(config, Backbone(model, tokenizer)).to(dtype).train()


def real_batch(load, model_config):
    """The same shapes with values that a model accepts."""
    batch = {k: torch.zeros_like(x, device="cpu") if torch.is_tensor(x) else x for k, x in
             make_batch(load, model_config).items()}  # fmt: skip
    counts = batch["prompt_counts"]
    batch["input_ids"][:, : counts.placeholders[0]] = model_config.image_token_id
    batch["attention_mask"][:, : counts.lengths[0]] = 1
    batch["labels"].fill_(IGNORE)[:, counts.lengths[0] - counts.labels : counts.lengths[0]] = 1
    batch["loss_weights"].fill_(1.0)
    batch["subsegment_ids"].fill_(SHARED_PREFIX)
    side = round(batch["pixel_values_videos"].shape[1] ** 0.5)
    batch["video_token_pooling"] = window_table(load.frames, side, side, 3)
    return batch


def really_saved(module, load, autocast=False):
    """Bytes of the distinct storages that a real forward pass keeps for the backward pass, but weights and inputs."""
    batch = real_batch(load, module.model.config)
    own = [*module.parameters(), *module.buffers(), *(x for x in batch.values() if torch.is_tensor(x))]
    known = {x.untyped_storage().data_ptr() for x in own}
    sizes = {}

    def keep(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = -(-storage.nbytes() // BLOCK) * BLOCK
        return x

    module.handle.percent = load.percent
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
    with as_on_a_gpu(module.handle.model), saved_tensors_hooks(keep, lambda x: x), mixed:
        loss = activations._loss(module, batch)
    assert loss.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize(
    "strategy, precision, dtype",
    [
        ("auto", "32-true", torch.float32),
        ("auto", "bf16-true", torch.bfloat16),
        ("zero2", "bf16-mixed", torch.bfloat16),
        ("ddp", "bf16-mixed", torch.float32),
        ("fsdp2", "bf16-mixed", torch.bfloat16),
    ],
)
def test_as_much_is_kept_as_on_real_tensors(tiny_tokenizer, monkeypatch, strategy, precision, dtype):
    config, load = configured("method=none", f"trainer.strategy={strategy}", f"trainer.precision={precision}")
    # The rules are CUDA's; the CPU's autocast, which is compared with here, has none for layer_norm.
    monkeypatch.setattr(Autocast, "IN_FLOAT32", tuple(f for f in Autocast.IN_FLOAT32 if f is not F.layer_norm))
    autocast = strategy in ("ddp", "fsdp2")
    real = really_saved(real_module(config, tiny_tokenizer, dtype), load, autocast)
    found = measure(shadow_module(config), load, computes_in(config.trainer)).saved
    assert found == pytest.approx(real, rel=0.005)


def test_pruned_as_much_is_kept_as_on_real_tensors(tiny_tokenizer):
    config, load = configured("prune.percent=50", *BF16)
    real = really_saved(real_module(config, tiny_tokenizer, torch.bfloat16), load)
    found = measure(shadow_module(config), load, computes_in(config.trainer)).saved
    assert found == pytest.approx(real, rel=0.005)
    unpruned = load_of(config, 0.0)
    assert found < measure(shadow_module(config), unpruned, computes_in(config.trainer)).saved


@pytest.mark.parametrize("checkpointing", ["none", "all"])
def test_the_peak_is_what_torch_s_own_tracker_counts(checkpointing):
    config, load = configured("prune.percent=50", *BF16, f"backbone.activation_checkpointing={checkpointing}")
    module = shadow_module(config)
    found = measure(module, load, computes_in(config.trainer))

    tracker = MemTracker()
    tracker.track_external(module.model)
    hooks = [p.register_post_accumulate_grad_hook(activations._drop_gradient) for p in module.parameters()]
    with as_on_a_gpu(module.handle.model), tracker:
        activations._loss(module, make_batch(load, module.model.config)).backward()
    for hook in hooks:
        hook.remove()
    peak = next(iter(tracker.get_tracker_snapshot("peak").values()))
    weights = sum(-(-x.nbytes // BLOCK) * BLOCK for x in (*module.parameters(), *module.buffers()))
    assert found.total == pytest.approx(peak["Total"] - weights, rel=0.02)
