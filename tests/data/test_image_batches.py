"""Real picture files through the real loader, beside videos and without them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from port_images import preprocess

from stts_lightning.config import Config, GeneratedConfig, GeneratedImagesConfig, load_config
from stts_lightning.data.datamodule import VideoQuestionData, evaluation_images
from stts_lightning.data.generate import generated_set
from stts_lightning.data.generate_images import generated_images
from stts_lightning.data.images import ImageError, read_image
from stts_lightning.molmo2.load import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_decoding_process")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three clips and four sets of pictures to train on, and two of each to evaluate on."""
    folder = tmp_path_factory.mktemp("both")
    videos = generated_set(GeneratedConfig(root=str(folder / "v"), train_videos=3, eval_videos=2)).train.parent
    images = generated_images(GeneratedImagesConfig(train_sets=4, eval_sets=2), str(folder / "i")).train.parent
    both = folder / "set"
    for split in ("train", "test"):
        shutil.copytree(videos / split, both / split)
        shutil.copytree(images / split, both / split, dirs_exist_ok=True)
        lines = (videos / f"{split}.jsonl").read_text() + (images / f"{split}.jsonl").read_text()
        (both / f"{split}.jsonl").write_text(lines)
    return both


@pytest.fixture()
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(made, tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def config_for(folder: Path, *overrides: str) -> Config:
    files = ["data=files", f"data.train={folder}/train.jsonl", f"data.eval={folder}/test.jsonl"]
    return load_config([*files, "optim.batch_size=2", "optim.steps=12", "data.frame_cache_dir=null", *overrides])


def loaded(config: Config, tokenizer: Any, **how: Any) -> VideoQuestionData:
    data = VideoQuestionData(config, tokenizer, **how)
    data.setup()
    return data


def images_alone(folder: Path) -> list[str]:
    for split in ("train", "test"):
        lines = (folder / f"{split}.jsonl").read_text().splitlines()
        (folder / f"{split}.jsonl").write_text("\n".join(line for line in lines if "images" in json.loads(line)))
    return ["aux.scorer_warmup_steps=0"]


def test_batch_holds_what_the_model_takes(folder: Path, tokenizer: Any) -> None:
    config = config_for(folder, *images_alone(folder))
    data = loaded(config, tokenizer)
    batch = next(iter(data.val_dataloader()))
    paths = [path for record in evaluation_images(config) for path in record.images]
    expected = preprocess([torch.from_numpy(read_image(path)) for path in paths], config.backbone, config.image)
    batch = data.on_after_batch_transfer(batch, 0)
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name
    assert batch["prompt_counts"].placeholders == [
        sum(int(a * b + c * d) for a, b, c, d in grids) for grids in expected["image_grids"].split([1, 3])
    ]
    assert [len(asked) for asked in batch["asked"]] == [6, 9]
    assert [len(name.split(" + ")) for name in batch["sources"]] == [1, 3]


@pytest.mark.parametrize("share, of_images", [("null", 12 * 4 // 7), ("0.25", 3), ("0", 0), ("1", 12)])
def test_batches_are_of_one_kind(folder: Path, tokenizer: Any, share: str, of_images: int) -> None:
    data = loaded(config_for(folder, f"data.image_share={share}"), tokenizer)
    kinds = [("crops" in batch, "frames" in batch) for batch in data.train_dataloader()]
    assert set(kinds) <= {(True, False), (False, True)}
    assert sum(crops for crops, _ in kinds) == of_images and len(kinds) == 12


def test_a_mixed_batch_is_refused(folder: Path, tokenizer: Any) -> None:
    loader = loaded(config_for(folder), tokenizer).train_dataloader().loader
    with pytest.raises(ValueError, match="cannot share a batch"):
        loader.collate_fn([loader.dataset[0], loader.dataset[3]])


def test_evaluation_asks_everything_once(folder: Path, tokenizer: Any) -> None:
    batches = list(loaded(config_for(folder, "optim.batch_size=3"), tokenizer).val_dataloader())
    asked = [question.question.id for batch in batches for sample in batch["asked"] for question in sample]
    lines = (folder / "test.jsonl").read_text().splitlines()
    assert sorted(asked) == sorted(json.loads(line)["id"] for line in lines)
    assert [("crops" in batch) for batch in batches] == [False, True]


def test_generated_images_come_at_their_share(tmp_path: Path, tokenizer: Any) -> None:
    small = [f"data.generated.root={tmp_path}", "data.generated.train_videos=2", "data.generated.eval_videos=1"]
    small += ["data.generated_images.train_sets=2", "data.generated_images.eval_sets=1", "data.frame_cache_dir=null"]
    config = load_config([*small, "data.image_share=0.5", "optim.batch_size=1", "optim.steps=4"])
    data = loaded(config, tokenizer)
    assert ["crops" in batch for batch in data.train_dataloader()] == [False, True, False, True]
    assert all("frames" in batch for batch in data.val_dataloader())
    assert len(evaluation_images(config)) == 1
    folders = len(list(tmp_path.iterdir()))
    loaded(load_config(small), tokenizer)
    assert len(list(tmp_path.iterdir())) == folders == 2
    assert not loaded(load_config(small), tokenizer)._train.images


def test_unreadable_picture_is_skipped_and_named(folder: Path, tokenizer: Any) -> None:
    """The next set of pictures stands in, not a clip."""
    (folder / "train/00003-1.png").write_text("not a picture")  # of the last set
    data = loaded(config_for(folder, "data.bad_sample_budget=0.5", "data.image_share=1"), tokenizer)
    batches = list(data.train_dataloader())
    assert all("crops" in batch and len(batch["sources"]) == 2 for batch in batches)
    for batch in batches:
        data.count_problems(batch["skipped"])
    (problem,) = data.problems
    assert "00003-1.png" in problem.what and problem.questions == 9


def test_unreadable_picture_in_evaluation_is_an_error(folder: Path, tokenizer: Any) -> None:
    (folder / "test/00000-0.png").write_text("not a picture")
    with pytest.raises(ImageError, match=r"00000-0\.png"):
        list(loaded(config_for(folder), tokenizer).val_dataloader())


def test_what_cannot_be_trained_is_refused(folder: Path, tokenizer: Any) -> None:
    videos = "\n".join(line for line in (folder / "train.jsonl").read_text().splitlines() if "video" in line)
    (folder / "videos.jsonl").write_text(videos)
    with pytest.raises(ValueError, match=r"image_share=0.5, but .*videos\.jsonl has no line"):
        loaded(config_for(folder, f"data.train={folder}/videos.jsonl", "data.image_share=0.5"), tokenizer)
    with pytest.raises(ValueError, match=r"videos\.jsonl has no image questions"):
        evaluation_images(config_for(folder, f"data.eval={folder}/videos.jsonl"))
    images_alone(folder)
    with pytest.raises(ValueError, match="warm-up needs videos"):
        loaded(config_for(folder), tokenizer, warmup_steps=3).train_dataloader()
    with pytest.raises(ValueError, match="image_share=0.5, but the training data have images alone"):
        loaded(config_for(folder, "data.image_share=0.5"), tokenizer).train_dataloader()
