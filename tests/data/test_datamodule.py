"""Real files through the real loader: what is broken is counted in training and an error in evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from stts_lightning.config import Config, GeneratedConfig, load_config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.data.generate import generated_set
from stts_lightning.molmo2.load import tiny_tokenizer
from stts_lightning.video.clip import Clip, VideoError
from stts_lightning.video.reader import ClipReader

pytestmark = pytest.mark.usefixtures("one_decoding_process")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GeneratedConfig(root=str(tmp_path_factory.mktemp("set")), train_videos=8, eval_videos=2)
    return generated_set(config).train.parent


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture()
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the set that a test may break."""
    shutil.copytree(made, tmp_path / "set")
    return tmp_path / "set"


def config_for(folder: Path, *overrides: str) -> Config:
    files = ["data=files", f"data.train={folder}/train.jsonl", f"data.eval={folder}/test.jsonl"]
    return load_config([*files, "optim.batch_size=2", "data.frame_cache_dir=null", *overrides])


def break_video(path: Path) -> None:
    path.write_text("not a video at all\n" * 50)


def test_batch_holds_what_the_model_takes(folder: Path, tokenizer) -> None:
    data = VideoQuestionData(config_for(folder), tokenizer)
    data.setup()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch["pixel_values_videos"].shape == (2 * 8, 144, 48)
    assert batch["pixel_values_videos"].abs().max() <= 1
    assert batch["video_grids"] == [(8, 4, 4)] * 2
    assert batch["video_token_pooling"].max() == 2 * 8 * 144 - 1
    assert set(batch["decoders"]) == {"decord"}
    assert all(len(asked) == 12 for asked in batch["asked"])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_clip_is_skipped_and_named(folder: Path, tokenizer, workers: int) -> None:
    for broken in (folder / "train/00001.mp4", folder / "train/00004.mp4"):
        break_video(broken)
    config = config_for(folder, "data.bad_sample_budget=0.5", "optim.steps=12", f"data.num_workers={workers}")
    data = VideoQuestionData(config, tokenizer)
    data.setup()
    batches = list(data.train_dataloader())
    assert all(len(batch["sources"]) == 2 for batch in batches)
    for batch in batches:
        data.count_problems(batch["skipped"])
    assert {Path(problem.where).name for problem in data.problems} == {"00001.mp4", "00004.mp4"}
    assert sum(problem.questions for problem in data.problems) == 24  # each counted once, however often it came


def test_run_stops_past_the_budget_and_lists_what_is_broken(folder: Path, tokenizer) -> None:
    break_video(folder / "train/00001.mp4")
    data = VideoQuestionData(config_for(folder, "optim.steps=12"), tokenizer)
    data.setup()
    with pytest.raises(ValueError, match=r"(?s)12 of 96 .*bad_sample_budget=0\.01.*00001\.mp4"):
        for batch in data.train_dataloader():
            data.count_problems(batch["skipped"])


def test_bad_lines_count_against_the_budget_at_once(folder: Path, tokenizer) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"video": "train/00000.mp4"}\n{"oops"\n')
    with pytest.raises(ValueError, match=r"(?s)2 of 98 .*train\.jsonl:97.*train\.jsonl:98"):
        VideoQuestionData(config_for(folder), tokenizer).setup()


def test_bad_line_in_evaluation_is_an_error(folder: Path, tokenizer) -> None:
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    rows[3]["answer"] = 9
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"test\.jsonl:4: answer=9 is out of range"):
        VideoQuestionData(config_for(folder), tokenizer).setup()


def test_unreadable_clip_in_evaluation_is_an_error(folder: Path, tokenizer) -> None:
    break_video(folder / "test/00001.mp4")
    data = VideoQuestionData(config_for(folder), tokenizer)
    data.setup()
    with pytest.raises(VideoError, match=r"00001\.mp4"):
        list(data.val_dataloader())


def test_loading_leaves_the_global_generator_alone(folder: Path, tokenizer) -> None:
    data = VideoQuestionData(config_for(folder, "optim.steps=2"), tokenizer)
    data.setup()
    before = torch.get_rng_state()
    list(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def ten_questions(folder: Path) -> Path:
    """Two clips of the set, the first with ten questions and the other with three."""
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    first = [row for row in rows if row["video"] == "train/00000.mp4"][:10]
    other = [row for row in rows if row["video"] == "train/00001.mp4"][:3]
    (folder / "ten.jsonl").write_text("\n".join(json.dumps(row) for row in first + other))
    return folder / "ten.jsonl"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("at_most, items", [(16, 2), (4, 4), (1, 13)])
def test_ten_questions_on_a_clip_decode_it_once(
    folder: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, workers: int, at_most: int, items: int
) -> None:
    """Over several epochs, and wherever the shuffled order puts the clip's groups."""
    log, read = folder / "decoded", ClipReader.read

    def logged(reader: ClipReader, path: str, **how: Any) -> Clip:
        with log.open("a") as file:  # a worker inherits this function, not a list to append to
            file.write(f"{Path(path).name}\n")
        return read(reader, path, **how)

    monkeypatch.setattr(ClipReader, "read", logged)
    overrides = [f"data.train={ten_questions(folder)}", f"data.questions_per_clip={at_most}", "optim.batch_size=1"]
    config = config_for(folder, *overrides, f"data.num_workers={workers}", f"optim.steps={3 * items}")
    data = VideoQuestionData(config, tokenizer)
    data.setup()
    batches = list(data.train_dataloader())
    asked = [question.question.id for batch in batches for sample in batch["asked"] for question in sample]
    assert len(batches) == 3 * items and len(asked) == 3 * 13 and len(set(asked)) == 13
    assert sorted(log.read_text().split()) == ["00000.mp4", "00001.mp4"]


def test_every_setting_of_the_frames_is_in_the_caches_key(folder: Path, tokenizer) -> None:
    def key(*overrides: str) -> Path | None:
        data = VideoQuestionData(config_for(folder, f"data.frame_cache_dir={folder}/frames", *overrides), tokenizer)
        data.setup()
        dataset = data.val_dataloader().dataset.datasets[0]
        return dataset.cache._path(dataset.items[0][0])

    changes = [
        "video.resize=decoder",
        "video.decoder=pyav",
        "video.fps=1",
        "video.max_frames=5",
        "backbone.image_size=96",
    ]
    keys = [key(), *(key(change) for change in changes)]
    assert None not in keys and len(set(keys)) == 1 + len(changes)
    assert key("video.resize=molmo2", "data.num_workers=1") == keys[0]
