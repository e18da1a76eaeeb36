"""The embedded image set: what its questions say is what its files show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stts_lightning.config import GeneratedImagesConfig
from stts_lightning.data.generate_images import generated_images
from stts_lightning.data.records import ImageRecord, read_records

# The channel that stands out, the others, and by how much: orange's red does so by 102, and noise adds to it.
STRONG = {"red": (0, [1, 2], 147), "green": (1, [0, 2], 90), "blue": (2, [0, 1], 90)}


@pytest.fixture(scope="module")
def config() -> GeneratedImagesConfig:
    return GeneratedImagesConfig(train_sets=30, eval_sets=20)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("set")


@pytest.fixture(scope="module")
def records(config: GeneratedImagesConfig, root: Path) -> list[ImageRecord]:
    made = generated_images(config, str(root))
    return read_records(made.train).images + read_records(made.test).images


def coloured(path: Path, colour: str) -> np.ndarray:
    """Where the picture shows the colour."""
    pixels = np.asarray(Image.open(path)).astype(int)
    strong, others, margin = STRONG[colour]
    return pixels[..., strong] - pixels[..., others].max(-1) > margin


def test_files_are_pngs_of_several_sizes(records: list[ImageRecord], config: GeneratedImagesConfig) -> None:
    counts = Counter(len(record.images) for record in records)
    assert counts == {1: 25, config.pictures: 25}
    sizes = set()
    for path in {path for record in records for path in record.images}:
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.mode == "RGB"
            sizes.add(picture.size)
    assert {side for size in sizes for side in size} == set(config.sides) and len(sizes) > 5


def test_answers_are_what_the_pixels_show(records: list[ImageRecord]) -> None:
    seen = Counter()
    for record in records:
        for question in record.questions:
            colour = question.text.split(" the ")[1].split()[0]
            masks = [coloured(path, colour) for path in record.images]
            number = int(np.argmax([mask.mean() for mask in masks]))
            ys, xs = masks[number].nonzero()
            assert len(ys) > 30 and sum(mask.mean() > 0.005 for mask in masks) == 1  # in one picture alone
            answer, (height, width) = question.options[question.answer], masks[number].shape
            box = masks[number][ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            if question.category == "where":
                middle = (ys.min() + ys.max()) / 2 / height, (xs.min() + xs.max()) / 2 / width
                shown = f"{'bottom' if middle[0] > 0.5 else 'top'} {'right' if middle[1] > 0.5 else 'left'}"
            elif question.category == "shape":
                middle, corner = (bool(box[len(box) // part, box.shape[1] // part]) for part in (2, 8))
                shown = {(True, True): "square", (False, True): "ring", (True, False): "cross"}[middle, corner]
            else:
                shown = f"image {number + 1}"
            assert shown == answer, (record.name, question)
            seen[question.category, answer] += 1
    assert len(seen) == 4 + 3 + 3 and min(seen.values()) > 5  # every answer comes up


def test_only_sets_of_several_ask_for_the_picture(records: list[ImageRecord]) -> None:
    for record in records:
        categories = Counter(question.category for question in record.questions)
        several = len(record.images) > 1
        assert categories == {"where": 3, "shape": 3} | ({"which image": 3} if several else {})


def test_second_call_makes_nothing_and_the_seed_decides(config: GeneratedImagesConfig, root: Path, records) -> None:
    said: list[str] = []
    made = generated_images(config, str(root), said.append)
    assert not said and not list(root.glob("*.partial"))
    again = generated_images(config, str(root / "elsewhere"), said.append)
    assert len(said) == 1 and again.train.read_text() == made.train.read_text()
    first = made.train.parent / "train/00000-0.png"
    assert first.read_bytes() == (again.train.parent / "train/00000-0.png").read_bytes()
    other = generated_images(GeneratedImagesConfig(train_sets=1, eval_sets=1, seed=1), str(root), said.append)
    assert (other.train.parent / "train/00000-0.png").read_bytes() != first.read_bytes()


def test_splits_differ(config: GeneratedImagesConfig, root: Path) -> None:
    made = generated_images(config, str(root))
    train, held = (read_records(path).images[0].images[0].read_bytes() for path in made)
    assert train != held
