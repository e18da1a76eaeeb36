"""From picture files to answers: pruning of videos changes nothing, and the answers are those of stock Molmo2 on what
transformers' own processor makes of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from port_images import image_text, preprocess

from stts_lightning.config import Config, load_config
from stts_lightning.data.datamodule import VideoQuestionData, evaluation_images
from stts_lightning.data.images import read_image
from stts_lightning.data.prompts import question_text, user_turn
from stts_lightning.evaluate_images import evaluate_images
from stts_lightning.lit.callbacks import Decisions, KeptTokens, Throughput
from stts_lightning.lit.module import STTSModule
from stts_lightning.metrics.answers import Prediction
from stts_lightning.molmo2.checkpoint import load_pruned, save_pruned
from stts_lightning.molmo2.load import Backbone, load_backbone
from stts_lightning.molmo2.patch import PrunedMolmo2Model, apply_stts


def config_for(root: Path, *overrides: str) -> Config:
    small = [f"data.generated.root={root}", "data.generated.train_videos=2", "data.generated.eval_videos=1"]
    small += ["data.generated_images.train_sets=2", "data.generated_images.eval_sets=4", "optim.batch_size=5"]
    return load_config([*small, f"data.frame_cache_dir={root}/frames", "trainer.accelerator=cpu", *overrides])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("set")


@pytest.fixture(scope="module")
def folders(root: Path) -> dict[str, Path]:
    """Model folders as two runs leave them."""
    left = {}
    for method in ("stts", "none"):
        config = config_for(root, f"method={method}", "prune.percent=30")
        backbone = load_backbone(config.backbone)
        save_pruned(apply_stts(backbone.model, config.prune), backbone.tokenizer, root / method)
        left[method] = root / method
    return left


def scores_of(predictions: Any) -> dict[str, tuple[float, ...]]:
    return {prediction.id: prediction.letter_scores for prediction in predictions}


@pytest.mark.parametrize("method, percent", [("stts", 50.0), ("none", 0.0)])
def test_every_image_question_is_answered_as_by_the_stock_model(root, folders, method, percent) -> None:
    results = evaluate_images(config_for(root), folders[method])
    assert (results.method, results.prune_percent) == (method, percent)
    assert results.num_questions == 2 * 6 + 2 * 9 == len(results.predictions)
    assert results.stock_same_logits == results.stock_same_tokens == 30 and results.unpruned_path_identical
    assert results.questions_by_kind == {"image": 12, "multi_image": 18}
    for kind, pictures in (("image", 1), ("multi_image", 3)):
        hits = [p.correct for p in results.predictions if len(p.video.split(" + ")) == pictures]
        assert results.by_kind[kind].mean == pytest.approx(sum(hits) / len(hits)) and results.by_kind[kind].stderr > 0


def test_a_last_bit_that_differs_is_found(root, folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pictures' features alone: the letters, and most tokens, stay what they are."""
    stock = PrunedMolmo2Model.get_image_features

    def off(self: Any, pixel_values: Any, image_token_pooling: Any, image_grids: Any, **kwargs: Any) -> Any:
        out = stock(self, pixel_values, image_token_pooling, image_grids, **kwargs)
        out.pooler_output = tuple(torch.nextafter(x, torch.full_like(x, 9.0)) for x in out.pooler_output)
        return out

    monkeypatch.setattr(PrunedMolmo2Model, "get_image_features", off)
    results = evaluate_images(config_for(root), folders["stts"])
    assert results.stock_same_logits == 0 and not results.unpruned_path_identical


def test_answers_are_stock_molmo2_s_on_transformers_own_inputs(root, folders) -> None:
    """One question at a time, without padding, text and tensors from transformers' code."""
    config = config_for(root)
    ours = scores_of(evaluate_images(config, folders["stts"]).predictions)
    pruned = load_pruned(folders["stts"])
    with pruned.handle.as_stock() as stock, torch.no_grad():
        vision = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>")
        for record in evaluation_images(config):
            pictures = [torch.from_numpy(read_image(path)) for path in record.images]
            inputs = preprocess(pictures, config.backbone, config.image)
            grids = [tuple(grid) for grid in inputs["image_grids"].tolist()]
            several = len(grids) > 1
            text = "".join(
                (f"Image {i}" if several else "") + image_text(g, config.image) for i, g in enumerate(grids, 1)
            )
            for question in record.questions:
                prompt = "<|im_end|>" + text + user_turn(question_text(question.text, list(question.options)))
                input_ids = pruned.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
                types = torch.isin(input_ids, torch.tensor(pruned.tokenizer.convert_tokens_to_ids(list(vision))))
                logits = stock(input_ids=input_ids, mm_token_type_ids=types.long(), **inputs).logits[0, -1]
                letters = [pruned.tokenizer.convert_tokens_to_ids(letter) for letter in "ABCD"[: len(question.options)]]
                expected = logits[letters].log_softmax(-1)
                torch.testing.assert_close(torch.tensor(ours[question.id]), expected, atol=2e-4, rtol=0)


def validated(config: Config, folder: Path, *callbacks: pl.Callback) -> list[Prediction]:
    pruned = load_pruned(folder)
    pruned.handle.percent = 50
    module = STTSModule(config, Backbone(pruned.model, pruned.tokenizer), pruned.handle)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=list(callbacks), enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.validate(module, datamodule=VideoQuestionData(config, pruned.tokenizer), verbose=False)
    return module.predictions


def test_questions_that_share_a_sequence_get_the_answers_they_get_alone(root, folders, tmp_path) -> None:
    """Through the LightningModule, branches and padding included, on a file of images and videos."""
    config = config_for(root)
    alone = scores_of(evaluate_images(config, folders["stts"]).predictions)
    images, videos = evaluation_images(config)[0].images[0].parents[1], VideoQuestionData(config, None)
    videos.setup()
    clips = videos._eval.clips[0].video.parents[1]
    for name in (images / "test", clips / "test"):
        (tmp_path / "test").mkdir(exist_ok=True)
        for file in name.iterdir():
            (tmp_path / "test" / file.name).symlink_to(file)
    lines = (images / "test.jsonl").read_text().splitlines() + (clips / "test.jsonl").read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(line.replace('"id": "test-', '"id": "') for line in lines[:30]))
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write("\n" + "\n".join(line.replace('"id": "test-', '"id": "clip-') for line in lines[30:]))
    mixed = config_for(root, f"data.train={tmp_path}/test.jsonl", f"data.eval={tmp_path}/test.jsonl")
    decisions = Decisions()
    together = scores_of(validated(mixed, folders["stts"], decisions))
    assert len(together) == 30 + 12 and len(decisions.clips) == 1
    assert not decisions.clips[0]["keep"].all()  # while the videos beside them are pruned
    for name, scores in alone.items():
        torch.testing.assert_close(
            torch.tensor(together[name.removeprefix("test-")]), torch.tensor(scores), atol=2e-4, rtol=0
        )


@pytest.mark.parametrize("method", ["stts", "random"])
def test_training_on_both_kinds_moves_every_part(root, method) -> None:
    config = config_for(root, f"method={method}", "data.image_share=0.5", "optim.steps=4", "aux.scorer_warmup_steps=1")
    backbone = load_backbone(config.backbone)
    module = STTSModule(config, backbone)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    seen: list[tuple[bool, bool]] = []

    class Seen(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            seen.append(("crops" in batch or "pixel_values" in batch, outputs["pruning"] is None))

    throughput = Throughput(warmup=0)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=4 + module.warmup_steps, logger=False, enable_checkpointing=False,
        callbacks=[Seen(), throughput, KeptTokens()], enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, gradient_clip_val=1.0, use_distributed_sampler=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=VideoQuestionData(config, backbone.tokenizer, module.warmup_steps))
    kinds = seen[module.warmup_steps :]
    assert [images for images, _ in kinds] == [False, True, False, True]
    assert all(images == unpruned for images, unpruned in kinds)
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    for part in ("vision_tower.layers.0", "multi_modal_projector", "language_model", "lm_head"):
        assert any(part in name for name in moved), part


def test_image_step_learns_its_answers_alone(root) -> None:
    """The loss of an image batch is cross-entropy at the answers, weights and all, computed question by question."""
    config = config_for(root, "data.image_share=1", "optim.batch_size=2", "optim.steps=1")
    backbone = load_backbone(config.backbone)
    module = STTSModule(config, backbone).eval()
    data = VideoQuestionData(config, backbone.tokenizer)
    data.setup()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    with torch.no_grad():
        loss = module(batch, labels=batch["labels"], loss_weights=batch["loss_weights"]).loss
        logits = module(batch).logits
    rows, places = (batch["labels"][:, 1:] != -100).nonzero(as_tuple=True)
    losses = [
        -logits[row, place].log_softmax(-1)[batch["labels"][row, place + 1]]
        for row, place in zip(rows, places, strict=True)
    ]
    assert len(losses) == 2 * sum(map(len, batch["asked"]))  # a letter and the end for each question
    asked = [len(batch["asked"][row]) for row in rows.tolist()]
    weights = torch.tensor([2 / (n if n > 1 else 2) ** 0.5 for n in asked])  # of M answers of one letter each
    expected = (torch.stack(losses) * weights).sum() / weights.sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and len(set(asked)) > 1
