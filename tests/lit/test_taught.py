"""What a training does for scorers that are taught: progress, a drawn k, a frozen scorer, what is kept of what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from mixed_data import write_mixed_data
from test_module import changed, config_for, fit

from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.data.scene import CONTENTS
from stts_lightning.lit.callbacks import DrawnPercent, KeptShares, MethodProgress
from stts_lightning.lit.module import STTSModule
from stts_lightning.lit.schedule import percent_at
from stts_lightning.molmo2.load import load_backbone


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("set")


class Watcher(pl.Callback):
    """Remembers what ``look`` sees after every step, and the scorer's weights after the warm-up."""

    def __init__(self, look: Any = None) -> None:
        self.look, self.seen, self.after_warmup = look, [], {}

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        if self.look is not None:
            self.seen.append(self.look(module, outputs))
        if trainer.global_step == module.warmup_steps:
            self.after_warmup = {name: value.clone() for name, value in module.state_dict().items()}


def test_saliency_trains_the_scorer_without_bias_or_auxiliary_loss(root: Path) -> None:
    watcher = Watcher(lambda module, out: out["pruning"].listwise.value.item())
    config = config_for(root, "method=stts_saliency", "aux.scorer_warmup_steps=0", "prune.percent=50")
    module, before = fit(config, MethodProgress(), watcher)
    assert any("token_scorer" in name for name in changed(module, before))
    assert all(value > 0 for value in watcher.seen)  # a cross-entropy, known once the backward pass is over


def test_progress_reaches_the_scorer_before_every_step(root: Path) -> None:
    watcher = Watcher(lambda module, _: module.handle.scorer.eta)
    options = ["prune.options.noise_floor=0.0", "prune.options.noise_share=1.0", "aux.scorer_warmup_steps=1"]
    fit(config_for(root, "method=stts_saliency", *options), MethodProgress(), watcher)
    assert watcher.seen == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3])  # the warm-up's step is before the first


def test_frozen_distillation_learns_in_the_warmup_alone(root: Path) -> None:
    watcher = Watcher()
    module, before = fit(config_for(root, "method=stts_distill", "aux.scorer_warmup_steps=2"), watcher)
    learnt = changed(module, before)
    assert any("token_scorer" in name for name in learnt) and any("language_model" in name for name in learnt)
    assert all("token_scorer" in name for name in watcher.after_warmup if not torch.equal(
        watcher.after_warmup[name], before[name]))  # fmt: skip
    since = changed(module, watcher.after_warmup)
    assert since and not any("token_scorer" in name for name in since)


def test_online_distillation_asks_the_teacher_every_so_often(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stts_lightning.lit import module as lit_module

    asked = []
    real = lit_module.window_use
    monkeypatch.setattr(lit_module, "window_use", lambda *args: asked.append(args[3]) or real(*args))
    options = ["prune.options.frozen=false", "prune.options.every=2", "prune.options.teacher=saliency"]
    module, before = fit(
        config_for(root, "method=stts_distill", "aux.scorer_warmup_steps=1", "optim.steps=5", *options)
    )
    assert asked == ["saliency"] * 3  # steps 0, 2 and 4
    assert any("token_scorer" in name for name in changed(module, before))


@pytest.mark.parametrize("teacher", ["attention", "saliency"])
def test_a_teacher_makes_nothing_of_texts(root: Path, monkeypatch: pytest.MonkeyPatch, teacher: str) -> None:
    taught: dict[bool, list[float]] = {True: [], False: []}
    real = STTSModule._taught_loss

    def watched(self: STTSModule, batch: dict[str, Any]) -> torch.Tensor:
        loss = real(self, batch)
        taught["blank_video" in batch].append(loss.item())
        return loss

    monkeypatch.setattr(STTSModule, "_taught_loss", watched)
    data = write_mixed_data(root / "mixed")
    files = ["data=files", f"data.train={data}", f"data.eval={data}", "data.image_share=0", "optim.batch_size=1"]
    options = ["prune.options.frozen=false", f"prune.options.teacher={teacher}", "prune.options.every=1"]
    steps = ["aux.scorer_warmup_steps=0", "optim.steps=8"]
    fit(config_for(root, "method=stts_distill", *files, *options, *steps))
    assert len(taught[True]) + len(taught[False]) == 8
    assert taught[True] and not any(taught[True]) and all(loss > 0 for loss in taught[False])


def test_drawn_k_is_of_the_range_again_after_a_resume_and_not_in_evaluation(root: Path) -> None:
    config = config_for(
        root, "method=stts_saliency", "prune.percent=70", "prune.percent_range=[30,60]", "aux.scorer_warmup_steps=0"
    )
    watcher = Watcher(lambda module, out: (module.handle.percent, sum(map(int, out["pruning"].kept_tokens))))
    module, _ = fit(config, DrawnPercent(config.prune, config.seed), watcher)
    percents = [percent for percent, _ in watcher.seen]
    assert percents == [percent_at(step, [30, 60], config.seed) for step in range(3)] and len(set(percents)) > 1
    assert [kept for _, kept in watcher.seen] == [2 * (128 - 128 * percent // 100) for percent in percents]
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[DrawnPercent(config.prune, 0)],
                         enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    trainer.validate(module, datamodule=VideoQuestionData(config, load_backbone(config.backbone).tokenizer))
    assert float(trainer.callback_metrics["prune/kept_tokens"]) == 128 - 128 * 70 // 100
    drawn = [percent_at(step, [30, 60], 0) for step in range(3000)]
    assert set(drawn) == set(range(30, 61)) and sum(drawn) / 3000 == pytest.approx(45, abs=0.7)
    with pytest.raises(ValueError, match=r"percent_range=\[60.0, 30.0\]"):
        config_for(root, "prune.percent_range=[60,30]")


def test_kept_shares_count_what_the_oracle_keeps(root: Path) -> None:
    config = config_for(root, "method=oracle", "prune.percent=80", "domain=decoy")
    backbone = load_backbone(config.backbone)
    module, shares, data = STTSModule(config, backbone), KeptShares(), VideoQuestionData(config, backbone.tokenizer)
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[shares], enable_progress_bar=False,
                         enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    trainer.validate(module, datamodule=data, verbose=False)
    assert shares.shares["event"] == 1 and set(shares.shares) == set(CONTENTS)
    rest = sum(share * n for share, n in zip(shares.shares.values(), shares.counts[1].tolist(), strict=True))
    assert rest == pytest.approx(3 * (26 - 16))  # of three clips, what is kept beside frame 0
    trainer.validate(module, datamodule=data, verbose=False)
    assert shares.counts[1].sum() == 3 * 7 * 16  # counted anew, not on top
