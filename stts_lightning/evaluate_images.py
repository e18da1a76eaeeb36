"""Image questions through a model that a run left (paper, appendix A): the pruned model must not have changed them,
and it must answer them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from stts_lightning.config import Config
from stts_lightning.data.collate import Collate
from stts_lightning.data.datamodule import evaluation_images
from stts_lightning.data.dataset import ImageQuestions
from stts_lightning.data.encode import Asked, Encoder, ImageSample
from stts_lightning.data.records import ImageRecord
from stts_lightning.metrics.accuracy import Accuracy, by_category, clustered_accuracy
from stts_lightning.metrics.answers import Prediction, read_answers
from stts_lightning.molmo2.checkpoint import load_pruned
from stts_lightning.video.patches import frames_to_patches

KINDS = ("image", "multi_image")
NEW_TOKENS = 3  # a letter, the end, and one that says whether both would go on alike


@dataclass(frozen=True)
class ImageResults:
    """Accuracy by kind, and on how many questions the pruned model and the stock one agree to the last bit.

    ``stock_same_*`` count the questions whose logits, all of them, and whose greedy answer are those of
    `handle.as_stock()`. The clusters of the standard errors are the pictures that questions share.
    """

    model: str
    method: str
    prune_percent: float  # at which it was compared, 0-100
    num_questions: int
    stock_same_logits: int
    stock_same_tokens: int
    by_kind: dict[str, Accuracy]
    questions_by_kind: dict[str, int]
    by_category: dict[str, float] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()

    @property
    def unpruned_path_identical(self) -> bool:
        return self.stock_same_logits == self.stock_same_tokens == self.num_questions


class _Answered(NamedTuple):
    logits: str  # a digest of all logits of the question's prompt
    tokens: list[int]
    prediction: Prediction


def evaluate_images(config: Config, model_folder: str | Path, percent: float = 50.0) -> ImageResults:
    """Ask the held-out image questions of ``config`` (see `evaluation_images`) one by one, pruned and stock.

    ``percent`` is what the model would prune of videos meanwhile; a method with a percentage of its own keeps it.

    Raises:
        ValueError: no model that `save_pruned` wrote in ``model_folder``, or no image questions.
    """
    torch.set_num_threads(config.trainer.num_threads)
    records = evaluation_images(config)
    pruned = load_pruned(model_folder, dtype=getattr(torch, config.backbone.dtype), attention=config.backbone.attention)
    pruned.model.to(_device(config)).eval()
    pruned.handle.percent = percent
    ours = _answer_all(pruned.model, pruned.tokenizer, records, config)
    with pruned.handle.as_stock() as stock:
        theirs = _answer_all(stock, pruned.tokenizer, records, config)
    pairs = list(zip(ours, theirs, strict=True))
    predictions = tuple(answered.prediction for answered in ours)
    accuracy, counts = _by_kind(predictions, records)
    return ImageResults(
        model=str(model_folder),
        method=pruned.handle.config.method,
        prune_percent=pruned.handle.percent,
        num_questions=len(ours),
        stock_same_logits=sum(one.logits == other.logits for one, other in pairs),
        stock_same_tokens=sum(one.tokens == other.tokens for one, other in pairs),
        by_kind=accuracy,
        questions_by_kind=counts,
        by_category=by_category([p.correct for p in predictions], [p.category for p in predictions]),
        predictions=predictions,
    )


@torch.no_grad()
def _answer_all(
    model: Any, tokenizer: PreTrainedTokenizerBase, records: list[ImageRecord], config: Config
) -> list[_Answered]:
    answered = []
    for inputs, asked, sources in _batches(tokenizer, records, config):
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
        logits = model(**inputs, use_cache=False).logits
        length = inputs["input_ids"].shape[1]
        tokens = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[:, length:].tolist()
        last = [[question._replace(predicted_at=length - 1)] for question in asked]  # prompts are padded on the left
        predictions = read_answers(logits, None, last, sources)
        for row, prediction in enumerate(predictions):
            answered.append(_Answered(_digest(logits[row]), tokens[row], prediction))
    return answered


def _batches(
    tokenizer: PreTrainedTokenizerBase, records: list[ImageRecord], config: Config
) -> Iterator[tuple[dict[str, Tensor], list[Asked], list[str]]]:
    """Prompts up to where the answer begins, one question each: stock Molmo2 knows no branches."""
    backbone = config.backbone
    encoder = Encoder(tokenizer, 1, config.data.max_text_tokens)  # its frames' windows are not used
    dataset = ImageQuestions(records, encoder, config.image, backbone, 1, may_lose=None)
    collate = Collate(tokenizer.pad_token_id or 0, encoder.placeholder_id, backbone)
    size = config.optim.batch_size
    for start in range(0, len(dataset), size):
        samples: list[ImageSample] = [dataset[i] for i in range(start, min(start + size, len(dataset)))]
        batch = collate(samples)
        asked = [sample.asked[0] for sample in samples]
        inputs = {name: value for name, value in batch.items() if name.startswith("image_")}
        inputs["pixel_values"] = frames_to_patches(batch["crops"], backbone.patch_size)
        for name in ("input_ids", "mm_token_type_ids"):
            prompts = [s.tokens[name][: a.predicted_at + 1] for s, a in zip(samples, asked, strict=True)]
            fill = collate.pad_id if name == "input_ids" else 0
            inputs[name] = pad_sequence(prompts, batch_first=True, padding_value=fill, padding_side="left")
        ones = [torch.ones(a.predicted_at + 1, dtype=torch.long) for a in asked]
        inputs["attention_mask"] = pad_sequence(ones, batch_first=True, padding_side="left")
        yield inputs, asked, batch["sources"]


def _by_kind(
    predictions: tuple[Prediction, ...], records: list[ImageRecord]
) -> tuple[dict[str, Accuracy], dict[str, int]]:
    pictures = {record.name: len(record.images) for record in records}
    kinds: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        kinds[KINDS[pictures[prediction.video] > 1]].append(prediction)
    accuracy = {
        kind: clustered_accuracy([p.correct for p in kinds[kind]], [p.video for p in kinds[kind]])
        for kind in KINDS
        if kinds[kind]
    }
    return accuracy, {kind: len(kinds[kind]) for kind in accuracy}


def _digest(logits: Tensor) -> str:
    return hashlib.sha256(logits.contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest()


def _device(config: Config) -> str:
    return "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
