"""Samples that share a sequence: the same losses and gradients as apart, and blind to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stts_lightning.config import load_config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.lit.module import STTSModule
from stts_lightning.molmo2.load import load_backbone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("set")


def made(folder: Path, *overrides: str) -> tuple[STTSModule, VideoQuestionData, list[Any]]:
    """A module, its data, and samples of three clips with 5, 5 and 2 questions."""
    config = load_config(
        ["data.generated.train_videos=4", "data.generated.eval_videos=1", f"data.generated.root={folder}",
         f"data.frame_cache_dir={folder}/frames", "prune.percent=50", "data.questions_per_clip=5", *overrides]
    )  # fmt: skip
    backbone = load_backbone(config.backbone)
    module, data = STTSModule(config, backbone).train(), VideoQuestionData(config, backbone.tokenizer)
    data.setup()
    dataset = data.train_dataloader().loader.dataset
    return module, data, [dataset[i] for i in (0, 4, 8)]


def batch_of(data: VideoQuestionData, rows: list[Any]) -> dict[str, Any]:
    return data.on_after_batch_transfer(data.train_dataloader().loader.collate_fn(rows), 0)


def gradients(module: STTSModule, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", ["stts", "stts_saliency", "random", "none"])
@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_a_packed_batch_has_the_loss_and_the_gradients_of_its_samples_apart(folder, method, positions):
    options = ["prune.options.noise=0", "prune.options.noise_floor=0"] if method == "stts_saliency" else []
    module, data, samples = made(folder, f"method={method}", f"prune.positions={positions}", *options)
    if method == "random":
        module.handle.scorer.eval()  # the same mask for all, packed or apart

    def losses(rows: list[Any]) -> tuple[torch.Tensor, torch.Tensor, float]:
        batch = batch_of(data, rows)
        out = module(batch, labels=batch["labels"], loss_weights=batch["loss_weights"])
        videos = len(batch["sources"])
        beside = out.loss.new_zeros(())
        if out.pruning.aux_loss is not None:
            beside = beside + out.pruning.aux_loss * videos
        if out.pruning.listwise is not None:
            beside = beside + out.pruning.listwise.loss * videos
        return out.loss * batch["loss_weight"], beside, batch["loss_weight"]

    def whole(batches: list[list[Any]]) -> torch.Tensor:
        """The weighted mean over all answers, and the mean over all videos of what each of them adds."""
        parts = [losses(rows) for rows in batches]
        weight = sum(weight for _, _, weight in parts)
        return sum(task for task, _, _ in parts) / weight + sum(beside for _, beside, _ in parts) / len(samples)

    packed, apart = whole([[samples[:2], samples[2:]]]), whole([[sample] for sample in samples])
    torch.testing.assert_close(packed, apart, rtol=1e-5, atol=1e-6)
    found, expected = gradients(module, packed), gradients(module, apart)
    assert set(found) == set(expected) and len(found) > 50
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()) + 1e-6)


@pytest.mark.parametrize("changed", [0, 1])
def test_no_logit_of_a_sample_moves_with_its_neighbours_pixels(folder, changed):
    """To the bit, in both directions. What is kept must not move either: a budget is a video's own."""
    module, data, samples = made(folder)
    module.eval()
    other = samples[changed]._replace(frames=255 - samples[changed].frames)
    replaced = [other if i == changed else sample for i, sample in enumerate(samples[:2])]
    with torch.no_grad():
        before, after = (module(batch_of(data, [row])) for row in (samples[:2], replaced))
    places = before.pruning.token_index[0]
    assert not torch.equal(before.pruning.keep[changed], after.pruning.keep[changed])
    end = len(samples[0].tokens["input_ids"])
    for out in (before, after):
        place = out.pruning.token_index[0]
        mine = (place >= end) if changed == 0 else (place < end)
        kept = out.logits[0][mine & (place >= 0)]
        assert len(kept) > 50
        if out is before:
            expected = kept
    assert torch.equal(kept, expected) and len(places) > len(kept)
    theirs = [o.logits[0][(o.pruning.token_index[0] < end) == (changed == 0)] for o in (before, after)]
    assert not torch.equal(*theirs)
