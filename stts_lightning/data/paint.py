"""The pictures of a scene of the embedded set."""

from __future__ import annotations

import math

import numpy as np

from stts_lightning.config import GeneratedConfig
from stts_lightning.data.scene import (
    DECOY_COLOURS,
    EVENT_COLOURS,
    GRID,
    SLOTS_A_STEP,
    STATIC_COLOURS,
    Scene,
    Thing,
    Wanderer,
    drift_at,
)

COLOURS = EVENT_COLOURS | STATIC_COLOURS | DECOY_COLOURS


def paint(scene: Scene, rng: np.random.Generator, config: GeneratedConfig) -> np.ndarray:
    """All frames of the clip, (frames, size, size, 3) uint8."""
    size, per_slot = config.frame_size, config.fps // 2
    num_frames = (config.num_slots - 1) * per_slot
    cell = size // GRID
    margin = _margin(scene, num_frames, config.fps)
    world = _still_world(scene, rng, config, margin)
    frames = np.empty((num_frames, size, size, 3), dtype=np.uint8)
    for i in range(num_frames):
        slot = i // per_slot if i < num_frames - 1 else -1  # the last frame is a sample of its own, without news
        picture = world.copy()
        for window in scene.flicker:
            y, x = window // GRID * cell + margin, window % GRID * cell + margin
            grain = config.flicker_grain
            blocks = rng.normal(0, config.flicker_amplitude, (cell // grain, cell // grain, 1))
            noise = blocks.repeat(grain, 0).repeat(grain, 1)
            picture[y : y + cell, x : x + cell] += noise
        for flash in scene.flashes:
            if flash.slot == slot:
                _stamp(picture, flash, *_box(flash, cell, margin), cell)
        for wanderer in scene.wanderers:
            _stamp(picture, wanderer, *_between_stops(wanderer, i / per_slot, cell, margin), cell)
        down, right = drift_at(scene, i, config.fps)
        top, left = margin - down, margin - right  # the world moves one way, what is seen of it the other
        picture = picture[top : top + size, left : left + size]
        for event in scene.events:
            if event.slot == slot:
                before = drift_at(scene, slot * per_slot, config.fps)
                _stamp(picture, event, *_held_in_window(event, (down - before[0], right - before[1]), cell), cell)
        picture += config.noise * rng.standard_normal(picture.shape, dtype=np.float32)
        frames[i] = (picture.clip(0, 1) * 255).round()
    return frames


def _margin(scene: Scene, num_frames: int, fps: int) -> int:
    """Pixels of world around the first frame, an even number, so that the camera never sees its edge."""
    return 2 * math.ceil(max(map(abs, drift_at(scene, num_frames - 1, fps))) / 2)


def _still_world(scene: Scene, rng: np.random.Generator, config: GeneratedConfig, margin: int) -> np.ndarray:
    size, cell = config.frame_size + 2 * margin, config.frame_size // GRID
    background = 0.5 + rng.normal(0, config.texture, (size // 2, size // 2, 1)).repeat(2, 0).repeat(2, 1)
    world = np.broadcast_to(background, (size, size, 3)).copy()
    for thing in scene.static:
        _stamp(world, thing, *_box(thing, cell, margin), cell)
    return world


def _box(thing: Thing, cell: int, margin: int) -> tuple[int, int]:
    """Top left corner, in the world, of the cell-sized box around a thing."""
    row, column = divmod(thing.window, GRID)
    return row * cell + thing.jitter[0] + margin, column * cell + thing.jitter[1] + margin


def _between_stops(wanderer: Wanderer, slot: float, cell: int, margin: int) -> tuple[int, int]:
    """The same of a wandering decoy at a time in slots."""
    stop, share = divmod(slot / SLOTS_A_STEP, 1)
    here, there = (divmod(wanderer.stops[int(stop) + step], GRID) for step in (0, 1))
    y, x = (round((a + (b - a) * share) * cell) for a, b in zip(here, there, strict=True))
    return y + wanderer.jitter[0] + margin, x + wanderer.jitter[1] + margin


def _held_in_window(event: Thing, moved: tuple[int, int], cell: int) -> tuple[int, int]:
    """Top left corner, in the frame, of the box around an event: it drifts, and stays at its window's border."""
    spare = (cell - _side(cell)) // 2
    offset = [
        max(-spare, min(spare, jitter + pixels)) if pixels else jitter
        for jitter, pixels in zip(event.jitter, moved, strict=True)
    ]
    return event.window // GRID * cell + offset[0], event.window % GRID * cell + offset[1]


def _stamp(picture: np.ndarray, thing: Thing | Wanderer, y: int, x: int, cell: int) -> None:
    """Draw a shape into the middle of the cell-sized box at (y, x)."""
    side = _side(cell)
    y, x = y + (cell - side) // 2, x + (cell - side) // 2
    picture[y : y + side, x : x + side][_shape_mask(thing.shape, side)] = COLOURS[thing.colour]


def _side(cell: int) -> int:
    return cell * 2 // 3


def _shape_mask(shape: str, side: int) -> np.ndarray:
    mask = np.ones((side, side), dtype=bool)
    if shape == "ring":
        mask[side // 4 : -(side // 4), side // 4 : -(side // 4)] = False
    elif shape == "cross":
        arm = np.zeros(side, dtype=bool)
        arm[side // 3 : side - side // 3] = True
        mask = arm[:, None] | arm[None, :]
    return mask
