from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from stts_lightning.config import Config, load_config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.data.generate import generated_set
from stts_lightning.lit.callbacks import AuxLossSchedule, Decisions, Throughput
from stts_lightning.lit.module import STTSModule, parameter_groups
from stts_lightning.molmo2.load import load_backbone


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("set")


def config_for(root: Path, *overrides: str) -> Config:
    small = ["data.generated.train_videos=6", "data.generated.eval_videos=3", f"data.generated.root={root}"]
    return load_config(
        [*small, "optim.batch_size=2", "optim.steps=3", f"data.frame_cache_dir={root}/frames", *overrides]
    )


def fit(config: Config, *callbacks: pl.Callback) -> tuple[STTSModule, dict[str, torch.Tensor]]:
    """Train as `train.py` does, without logger and checkpoints; returns the module and its weights before."""
    backbone = load_backbone(config.backbone)
    module = STTSModule(config, backbone)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=config.optim.steps + module.warmup_steps, logger=False, callbacks=list(callbacks),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        gradient_clip_val=1.0, use_distributed_sampler=False, accumulate_grad_batches=config.optim.accumulate,
    )  # fmt: skip
    trainer.fit(module, datamodule=VideoQuestionData(config, backbone.tokenizer, module.warmup_steps))
    return module, before


def changed(module: STTSModule, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_three_named_groups_hold_every_parameter_once() -> None:
    config = load_config(["backbone=tiny"])
    module = STTSModule(config, load_backbone(config.backbone))
    groups = parameter_groups(module, 1.0, 2.0, 3.0)
    assert [(g["name"], g["lr"]) for g in groups] == [("language", 1.0), ("vision", 2.0), ("scorer", 3.0)]
    members = [id(p) for group in groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in module.model.parameters()}
    named = {id(p): name for name, p in module.model.named_parameters()}
    for group, part in zip(groups, ("language_model|lm_head", "vision_tower|projector", "token_scorer"), strict=True):
        for parameter in group["params"]:
            assert any(piece in named[id(parameter)] for piece in part.split("|"))
            assert ("token_scorer" in named[id(parameter)]) == (group["name"] == "scorer")


def test_method_without_scorer_has_two_groups() -> None:
    config = load_config(["method=random"])
    module = STTSModule(config, load_backbone(config.backbone))
    assert [g["name"] for g in parameter_groups(module, 1, 2, 3)] == ["language", "vision"]


def test_warmup_trains_the_scorer_alone(root: Path) -> None:
    class StopAfterWarmup(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step >= module.warmup_steps

    config = config_for(root, "aux.scorer_warmup_steps=2", "prune.percent=50")
    module, before = fit(config, StopAfterWarmup())
    moved = changed(module, before)
    assert moved and all("token_scorer" in name for name in moved)


def test_training_moves_every_part(root: Path) -> None:
    module, before = fit(config_for(root, "aux.scorer_warmup_steps=0", "prune.percent=50"))
    moved = changed(module, before)
    for part in ("token_scorer", "vision_tower.layers.0", "multi_modal_projector", "language_model", "lm_head"):
        assert any(part in name for name in moved), part


def test_loss_is_task_plus_weighted_auxiliary(root: Path) -> None:
    config = config_for(root, "aux.weight=0.25", "aux.scorer_warmup_steps=0")
    module = STTSModule(config, load_backbone(config.backbone))
    data = VideoQuestionData(config, load_backbone(config.backbone).tokenizer)
    data.setup()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    out = module(batch, labels=batch["labels"], loss_weights=batch["loss_weights"])
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    loss = module.training_step(batch, 0)["loss"]
    assert loss.item() == pytest.approx(out.loss.item() + 0.25 * out.pruning.aux_loss.item(), rel=1e-6)


def test_accumulated_micro_batches_are_one_large_batch(root: Path) -> None:
    """An answer weighs the same wherever it stands, also where micro-batches hold different numbers of them."""
    ends = []
    for batch_size, accumulate in ((4, 1), (1, 4)):
        config = config_for(
            root, f"optim.batch_size={batch_size}", f"optim.accumulate={accumulate}", "data.questions_per_clip=5",
            "prune.percent=50", "aux.scorer_warmup_steps=1", "optim.steps=2",
        )  # fmt: skip
        module, before = fit(config)
        ends.append(module.state_dict())
        assert len(changed(module, before)) > 50
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("layout", ["flat", "packed"])
def test_activation_checkpointing_changes_no_gradient(root: Path, layout: str) -> None:
    """Recomputed blocks must see the same bias, masks and selection."""
    gradients = []
    for whose in ("none", "all"):
        config = config_for(
            root, f"backbone.activation_checkpointing={whose}", "prune.percent=50", f"prune.layout={layout}"
        )
        backbone = load_backbone(config.backbone)
        module, data = STTSModule(config, backbone), VideoQuestionData(config, backbone.tokenizer)
        assert module.model.is_activation_checkpointing == (whose == "all")
        data.setup()
        batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        out = module.train()(batch, labels=batch["labels"], loss_weights=batch["loss_weights"])
        (out.loss + out.pruning.aux_loss).backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert set(plain) == set(recomputed) and any("token_scorer" in name for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)


def test_presets_bring_their_own_auxiliary_weight() -> None:
    for preset, weight in (("paper", 1.0), ("released", 0.5)):
        config = load_config([f"prune.preset={preset}"])
        assert STTSModule(config, load_backbone(config.backbone)).aux_weight == weight


def test_auxiliary_weight_follows_its_schedule(root: Path) -> None:
    class Seen(pl.Callback):
        weights: list[float] = []

        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            self.weights.append(module.aux_weight)

    ramp = ["aux.schedule=linear", "aux.end_weight=0", "aux.ramp_start=0", "aux.ramp_end=2"]
    config = config_for(root, "aux.scorer_warmup_steps=1", *ramp)
    seen = Seen()
    fit(config, AuxLossSchedule(config.aux), seen)
    assert seen.weights == [1.0, 1.0, 0.5, 0.0]  # one step of warm-up, then the ramp


def test_throughput_leaves_out_the_warmup(root: Path) -> None:
    throughput = Throughput(warmup=1)
    fit(config_for(root, "optim.steps=4", "aux.scorer_warmup_steps=2"), throughput)
    assert len(throughput.seconds) == 3  # gaps between the four task steps
    assert throughput.samples_per_second > 0
    assert throughput.tokens_per_second > 50 * throughput.samples_per_second


def test_validation_answers_every_question_and_keeps_decisions(root: Path, tmp_path: Path) -> None:
    import numpy as np

    config = config_for(root, "method=heuristic", "prune.percent=50")
    backbone = load_backbone(config.backbone)
    module, decisions = STTSModule(config, backbone), Decisions(num_clips=2)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[decisions], enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.validate(module, datamodule=VideoQuestionData(config, backbone.tokenizer), verbose=False)
    assert len({prediction.id for prediction in module.predictions}) == 3 * 12
    assert float(trainer.callback_metrics["prune/kept_tokens"]) == 8 * 16 / 2
    decisions.save(tmp_path / "decisions.npz")
    saved = np.load(tmp_path / "decisions.npz")
    assert saved["frames"].shape == (2, 8, 48, 48, 3) and saved["keep"].sum((1, 2)).tolist() == [64, 64]
    assert saved["frames"].std() > 5  # pictures, not a constant


def test_texts_do_not_count_among_the_clips_whose_tokens_are_kept(root: Path, tmp_path: Path) -> None:
    clips = generated_set(config_for(root).data.generated).test
    clip = json.loads(clips.read_text().splitlines()[0])
    text = {"video": None, "question": "which?", "options": ["this", "that"], "answer": 0}
    (tmp_path / "qa.jsonl").write_text(
        "\n".join(map(json.dumps, [{**clip, "video": str(clips.parent / clip["video"])}, text]))
    )
    file = f"data.train={tmp_path / 'qa.jsonl'}"
    config = config_for(root, "data=files", file, file.replace("train", "eval", 1), "prune.percent=50")
    backbone = load_backbone(config.backbone)
    module = STTSModule(config, backbone)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.validate(module, datamodule=VideoQuestionData(config, backbone.tokenizer), verbose=False)
    assert len(module.predictions) == 2
    assert float(trainer.callback_metrics["prune/kept_tokens"]) == 8 * 16 / 2
