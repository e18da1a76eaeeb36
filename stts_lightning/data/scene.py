"""The embedded set's scenes: what happens in a clip, its pictures, and the questions about it.

A clip is a grey textured background with static objects and patches of irrelevant flicker, and a few short
events: a coloured shape that shows in one window for about half a second. The questions ask where, when, in
which shape and in which order. Frame 0 shows no event, so a model that sees frame 0 alone can only guess.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stts_lightning.config import GeneratedConfig

GRID = 4  # windows on one side of a frame
EVENT_COLOURS = {"red": (0.9, 0.15, 0.15), "green": (0.15, 0.8, 0.2), "blue": (0.2, 0.3, 0.95)}
STATIC_COLOURS = {"yellow": (0.9, 0.85, 0.1), "purple": (0.65, 0.2, 0.8), "orange": (0.95, 0.55, 0.1)}
SHAPES = ("square", "ring", "cross")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
THIRDS = ("early", "middle", "late")


class Thing(NamedTuple):
    """A coloured shape in a window (row * GRID + column); ``slot`` is the sampled frame, -1 for always."""

    colour: str
    shape: str
    window: int
    slot: int
    jitter: tuple[int, int]


class Scene(NamedTuple):
    events: list[Thing]
    static: list[Thing]
    flicker: list[int]


def draw_scene(rng: np.random.Generator, config: GeneratedConfig) -> Scene:
    """Choose what happens: events, static objects and flicker in windows of their own."""
    needed = config.num_events + config.num_static + config.num_flicker
    if needed > GRID * GRID or config.num_events > len(EVENT_COLOURS) or config.num_slots < 6:
        raise ValueError(
            f"data.generated: {needed} things do not fit into {GRID * GRID} windows, or num_events > "
            f"{len(EVENT_COLOURS)}, or num_slots={config.num_slots} < 6."
        )
    windows = rng.permutation(GRID * GRID)[:needed].tolist()
    # Slots 1..n-2, two or more a third: frame 0 always survives pruning, and the last frame is a repeat.
    slots = rng.permutation(np.arange(1, config.num_slots - 1))[: config.num_events].tolist()
    jitter = config.frame_size // 48

    def thing(colour: str, slot: int) -> Thing:
        offset = rng.integers(-jitter, jitter + 1, 2)
        return Thing(colour, str(rng.choice(SHAPES)), windows.pop(), slot, (int(offset[0]), int(offset[1])))

    events = [thing(colour, slot) for colour, slot in zip(EVENT_COLOURS, slots, strict=False)]
    colours = rng.permutation(list(STATIC_COLOURS))[: config.num_static]
    static = [thing(str(colour), -1) for colour in colours]
    return Scene(events, static, windows)


def paint(scene: Scene, rng: np.random.Generator, config: GeneratedConfig) -> np.ndarray:
    """All frames of the clip, (frames, size, size, 3) uint8."""
    size, per_slot = config.frame_size, config.fps // 2
    num_frames = (config.num_slots - 1) * per_slot
    cell = size // GRID
    background = 0.5 + rng.normal(0, config.texture, (size // 2, size // 2, 1)).repeat(2, 0).repeat(2, 1)
    still = np.broadcast_to(background, (size, size, 3)).copy()
    for thing in scene.static:
        _stamp(still, thing, cell)
    frames = np.empty((num_frames, size, size, 3), dtype=np.uint8)
    for i in range(num_frames):
        picture = still.copy()
        for window in scene.flicker:
            y, x = window // GRID * cell, window % GRID * cell
            noise = rng.normal(0, config.flicker_amplitude, (cell // 4, cell // 4, 1)).repeat(4, 0).repeat(4, 1)
            picture[y : y + cell, x : x + cell] += noise
        for thing in scene.events:
            if i // per_slot == thing.slot and i < num_frames - 1:
                _stamp(picture, thing, cell)
        picture += config.noise * rng.standard_normal(picture.shape, dtype=np.float32)
        frames[i] = (picture.clip(0, 1) * 255).round()
    return frames


def _stamp(picture: np.ndarray, thing: Thing, cell: int) -> None:
    side = cell * 2 // 3
    y = thing.window // GRID * cell + (cell - side) // 2 + thing.jitter[0]
    x = thing.window % GRID * cell + (cell - side) // 2 + thing.jitter[1]
    picture[y : y + side, x : x + side][_shape_mask(thing.shape, side)] = (EVENT_COLOURS | STATIC_COLOURS)[thing.colour]


def _shape_mask(shape: str, side: int) -> np.ndarray:
    mask = np.ones((side, side), dtype=bool)
    if shape == "ring":
        mask[side // 4 : -(side // 4), side // 4 : -(side // 4)] = False
    elif shape == "cross":
        arm = np.zeros(side, dtype=bool)
        arm[side // 3 : side - side // 3] = True
        mask = arm[:, None] | arm[None, :]
    return mask


def third_of(slot: int, num_slots: int) -> int:
    """0 early, 1 middle, 2 late, over the slots in which events happen."""
    return (slot - 1) * 3 // (num_slots - 2)


def ask(scene: Scene, num_slots: int) -> list[dict[str, Any]]:
    """The questions of a clip: where, when and shape of every event, order of every pair."""
    questions = []

    def add(category: str, question: str, options: tuple[str, ...], answer: int) -> None:
        questions.append({"question": question, "options": list(options), "answer": answer, "category": category})

    for event in scene.events:
        add("where", f"Where does the {event.colour} shape appear?", QUADRANTS, quadrant_of(event.window))
        add("when", f"When does the {event.colour} shape appear?", THIRDS, third_of(event.slot, num_slots))
        add("shape", f"Which shape does the {event.colour} thing have?", SHAPES, SHAPES.index(event.shape))
    for i, first in enumerate(scene.events):
        for second in scene.events[i + 1 :]:
            text = f"Does the {first.colour} shape appear before the {second.colour} one?"
            add("order", text, ("yes", "no"), 0 if first.slot < second.slot else 1)
    return questions


# Classes of the dense labels: what a vision token shows and in which quadrant, like the shortest caption.
DENSE_CONTENTS = ["nothing"] + [f"{c} {s}" for c in EVENT_COLOURS | STATIC_COLOURS for s in SHAPES]
DENSE_CLASSES = [f"{content} {quadrant}" for content in DENSE_CONTENTS for quadrant in QUADRANTS]


def dense_labels(scene: Scene, num_slots: int) -> list[list[int]]:
    """The class of every window of every sampled frame, [num_slots][windows]: a stand-in for captions."""
    content = [["nothing"] * (GRID * GRID) for _ in range(num_slots)]
    for thing in scene.static + scene.events:
        slots = range(num_slots) if thing.slot < 0 else [thing.slot]
        for slot in slots:
            content[slot][thing.window] = f"{thing.colour} {thing.shape}"
    index = {name: i for i, name in enumerate(DENSE_CLASSES)}
    return [[index[f"{name} {QUADRANTS[quadrant_of(w)]}"] for w, name in enumerate(row)] for row in content]


def quadrant_of(window: int) -> int:
    """Index into QUADRANTS of a window, row * GRID + column."""
    return window // GRID * 2 // GRID * 2 + window % GRID * 2 // GRID
