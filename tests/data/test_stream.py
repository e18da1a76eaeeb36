"""Packed batches through the real loader: full of samples, and taken up where they were left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stts_lightning.config import load_config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.data.stream import StreamSampler, StreamState
from stts_lightning.data.training import sample_size
from stts_lightning.molmo2.load import tiny_tokenizer

SMALL = ["data.generated.train_videos=6", "data.generated.eval_videos=1", "data.generated_images.train_sets=6",
         "data.generated_images.eval_sets=1", "data.questions_per_clip=4",
         "optim.batch_size=2", "optim.steps=4", "prune.percent=50"]  # fmt: skip
PACKED = ["data.packing.enabled=true", "data.packing.max_tokens=600", "data.packing.max_frames=64",
          "data.packing.buffer=5"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("set")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def loaded(folder: Path, tokenizer: Any, *overrides: str, warmup_steps: int = 0) -> VideoQuestionData:
    config = load_config(
        [*SMALL, *PACKED, f"data.generated.root={folder}", f"data.frame_cache_dir={folder}/frames", *overrides]
    )
    data = VideoQuestionData(config, tokenizer, warmup_steps)
    data.setup()
    return data


class At:
    """What the data module asks of a trainer."""

    def __init__(self, step: int, rank: int = 0, world_size: int = 1) -> None:
        self.global_step, self.global_rank, self.world_size = step, rank, world_size


def asked(batch: dict[str, Any]) -> list[list[str]]:
    return [[asked.question.id for asked in row] for row in batch["asked"]]


@pytest.mark.parametrize("workers, left_after", [(0, (1, 3, 4)), (2, (3,))])
def test_a_stream_that_was_left_goes_on_as_if_it_had_not_been(
    folder: Path, tokenizer: Any, workers: int, left_after: tuple[int, ...]
) -> None:
    extra = [f"data.num_workers={workers}", "data.image_share=0.5"]
    whole = list(loaded(folder, tokenizer, *extra, warmup_steps=2).train_dataloader())
    assert len(whole) == 6 and len({str(asked(batch)) for batch in whole}) == 6
    kinds = ["crops" in batch for batch in whole]
    assert kinds == [False, False, False, True, False, True]
    for done in left_after:
        data = loaded(folder, tokenizer, *extra, warmup_steps=2)
        data.trainer = At(done)
        data.load_state_dict({"streams": [whole[done - 1]["streams"]]})
        rest = list(data.train_dataloader())
        assert [asked(batch) for batch in rest] == [asked(batch) for batch in whole[done:]]
        assert [batch["streams"] for batch in rest] == [batch["streams"] for batch in whole[done:]]


def test_warmup_leaves_the_order_of_the_training_alone(folder: Path, tokenizer: Any) -> None:
    plain, warm = (list(loaded(folder, tokenizer, warmup_steps=n).train_dataloader()) for n in (0, 3))
    assert [asked(batch) for batch in warm[3:]] == [asked(batch) for batch in plain]


def test_sequences_hold_what_fits_and_say_how_full_they_are(folder: Path, tokenizer: Any) -> None:
    samples = {}
    for count in ("unpruned", "kept"):
        batches = list(loaded(folder, tokenizer, f"data.packing.count={count}").train_dataloader())
        size = sample_size(load_config([*SMALL, f"data.packing.count={count}"]))
        for batch in batches:
            assert batch["input_ids"].shape[1] >= 600 and batch["sequence_length"] == 600
            videos = (batch["subsegment_ids"].clamp(min=0) // 100_000).max(1).values + 1
            assert len(batch["sources"]) == videos.sum() == batch["packing"]["samples_per_sequence"] * 2
            tokens = batch["attention_mask"].sum(1) - (64 * videos if count == "kept" else 0)
            assert (tokens <= 600).all()
            assert batch["packing"]["padding"] == pytest.approx(1 - float(tokens.sum()) / 1200)
        samples[count] = sum(len(batch["sources"]) for batch in batches)
        assert size  # one number a sample, tested with the packer
    assert samples["kept"] > samples["unpruned"] > 4 * 2


def test_processes_share_the_stream_out() -> None:
    def first(state: StreamState, rank: int, count: int = 20) -> list[int]:
        items = iter(StreamSampler(7, 3, state, rank, world_size=2))
        return [next(items) for _ in range(count)]

    both = [item for pair in zip(first(StreamState(), 0), first(StreamState(), 1), strict=True) for item in pair]
    alone = iter(StreamSampler(7, 3, StreamState()))
    assert both == [next(alone) for _ in range(40)] and sorted(both[:7]) == list(range(7))
    ahead = first(StreamState(next=5, waiting=[1, 3]), 1, 4)
    assert ahead == [first(StreamState(), 1)[i] for i in (1, 3, 5, 6)]
    assert first(StreamState(next=-14), 0) != first(StreamState(), 0)
