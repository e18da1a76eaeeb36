"""The embedded image-question set: PNG files of the video set's world and their questions, made once from a seed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stts_lightning.config import GeneratedConfig, GeneratedImagesConfig
from stts_lightning.data.paint import paint
from stts_lightning.data.scene import (
    EVENT_COLOURS,
    GRID,
    QUADRANTS,
    SHAPES,
    STATIC_COLOURS,
    Scene,
    Thing,
    quadrant_of,
)

FORMAT = 2  # raise it when pictures or questions change: old sets are then made anew
PAINTED_SIDE = 96  # pixels, before a picture takes its own width and height
SPLIT_SEEDS = {"train": 0, "test": 1}


class GeneratedImages(NamedTuple):
    """JSON Lines files; no picture is in both."""

    train: Path
    test: Path


def generated_images(config: GeneratedImagesConfig, root: str, say: Callable[[str], None] = print) -> GeneratedImages:
    """The JSON Lines files of the set, made if they are not there yet; whole or not at all, as the videos'."""
    key = json.dumps({**asdict(config), "kind": "images", "format": FORMAT}, sort_keys=True)
    folder = Path(root) / hashlib.sha256(key.encode()).hexdigest()[:8]
    if not folder.is_dir():
        say(f"Making {config.train_sets} + {config.eval_sets} sets of pictures in {folder}, once.")
        building = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        for split, count in (("train", config.train_sets), ("test", config.eval_sets)):
            (building / split).mkdir(parents=True)
            lines = [json.dumps(row) for index in range(count) for row in make_set(building, split, index, config)]
            (building / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        try:
            building.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(building)
    return GeneratedImages(folder / "train.jsonl", folder / "test.jsonl")


def make_set(folder: Path, split: str, index: int, config: GeneratedImagesConfig) -> list[dict[str, Any]]:
    """Write the pictures of set ``index`` below ``folder`` and return its lines. A set follows from its seed alone;
    those with an even index are of one picture."""
    from PIL import Image

    rng = np.random.default_rng([config.seed, SPLIT_SEEDS[split], index, 1])
    pictures = draw_pictures(rng, 1 if index % 2 == 0 else config.pictures, config)
    names = []
    for number, things in enumerate(pictures):
        names.append(f"{split}/{index:05d}-{number}.png")
        width, height = (int(side) for side in rng.choice(config.sides, 2))
        picture = Image.fromarray(_paint(things, rng, config))
        picture.resize((width, height), Image.Resampling.BILINEAR).save(folder / names[-1])
    return [
        {"id": f"{split}-{index:05d}-{number:02d}", "images": names, **question}
        for number, question in enumerate(ask_images(pictures))
    ]


def draw_pictures(rng: np.random.Generator, count: int, config: GeneratedImagesConfig) -> list[list[Thing]]:
    """What each picture shows: every colour that is asked about in one of them alone, and things that never are."""
    if config.num_shapes + config.num_static > GRID * GRID or config.num_shapes > len(EVENT_COLOURS):
        raise ValueError(
            f"data.generated_images: {config.num_shapes} + {config.num_static} things do not fit into {GRID * GRID} "
            f"windows, or num_shapes > {len(EVENT_COLOURS)}."
        )
    windows = [rng.permutation(GRID * GRID).tolist() for _ in range(count)]
    jitter = PAINTED_SIDE // 48

    def thing(colour: str, picture: int) -> Thing:
        y, x = rng.integers(-jitter, jitter + 1, 2)
        return Thing(colour, str(rng.choice(SHAPES)), windows[picture].pop(), -1, (int(y), int(x)))

    pictures: list[list[Thing]] = [[] for _ in range(count)]
    for colour in list(EVENT_COLOURS)[: config.num_shapes]:
        where = int(rng.integers(count))
        pictures[where].append(thing(colour, where))
    for number, things in enumerate(pictures):
        colours = rng.permutation(list(STATIC_COLOURS))[: config.num_static]
        things += [thing(str(colour), number) for colour in colours]
    return pictures


def _paint(things: list[Thing], rng: np.random.Generator, config: GeneratedImagesConfig) -> np.ndarray:
    one_frame = GeneratedConfig(frame_size=PAINTED_SIDE, fps=2, num_slots=2, texture=config.texture, noise=config.noise)
    (picture,) = paint(Scene(events=[], static=things, flicker=[]), rng, one_frame)
    return picture


def ask_images(pictures: list[list[Thing]]) -> list[dict[str, Any]]:
    """Where and in which shape every asked-about colour shows, as the videos' questions word it, and of several
    pictures in which one."""
    questions = []

    def add(category: str, question: str, options: tuple[str, ...], answer: int) -> None:
        questions.append({"question": question, "options": list(options), "answer": answer, "category": category})

    for number, things in enumerate(pictures):
        for thing in things:
            if thing.colour not in EVENT_COLOURS:
                continue
            add("where", f"Where does the {thing.colour} shape appear?", QUADRANTS, quadrant_of(thing.window))
            add("shape", f"Which shape does the {thing.colour} thing have?", SHAPES, SHAPES.index(thing.shape))
            if len(pictures) > 1:
                images = tuple(f"image {i + 1}" for i in range(len(pictures)))
                add("which image", f"In which image does the {thing.colour} shape appear?", images, number)
    return questions
