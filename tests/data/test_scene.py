from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from stts_lightning.config import GeneratedConfig
from stts_lightning.data.paint import paint
from stts_lightning.data.scene import (
    DENSE_CLASSES,
    EVENT_COLOURS,
    GRID,
    ask,
    dense_labels,
    draw_scene,
    third_of,
)

CONFIG = GeneratedConfig()


def scene_of(seed: int):
    return draw_scene(np.random.default_rng(seed), CONFIG)


def test_things_have_windows_of_their_own_and_events_moments_of_their_own() -> None:
    for seed in range(50):
        scene = scene_of(seed)
        windows = [thing.window for thing in scene.events + scene.static] + scene.flicker
        assert len(windows) == len(set(windows))
        slots = [event.slot for event in scene.events]
        assert len(slots) == len(set(slots))
        assert 0 not in slots and CONFIG.num_slots - 1 not in slots


def test_event_shows_where_and_when_the_answer_says() -> None:
    """Looks for the event's colour in the pictures, knowing nothing of how they were painted."""
    for seed in range(10):
        scene = scene_of(seed)
        frames = paint(scene, np.random.default_rng(seed), CONFIG).astype(float)
        answers = {(q["category"], q["question"].split()[3]): q for q in ask(scene, CONFIG.num_slots)}
        for channel, colour in enumerate(EVENT_COLOURS):
            others = [c for c in range(3) if c != channel]
            strength = frames[..., channel] - frames[..., others].max(-1)
            near = strength > 60
            if colour == "red":  # orange and yellow static things are reddish; green tells them apart
                near &= frames[..., 1] < 80
            counts = near.sum((1, 2))
            shown = np.flatnonzero(counts > 40)
            slot = shown[0] // (CONFIG.fps // 2)
            where, when = answers["where", colour], answers["when", colour]
            assert when["answer"] == third_of(slot, CONFIG.num_slots)
            y, x = (axis.mean() for axis in np.nonzero(near[shown[0]]))
            half = CONFIG.frame_size / 2
            assert where["answer"] == int(y > half) * 2 + int(x > half)


def test_answers_are_balanced_enough_that_guessing_stays_at_chance() -> None:
    counts: dict[str, Counter] = {}
    chances: dict[str, float] = {}
    for seed in range(600):
        for question in ask(scene_of(seed), CONFIG.num_slots):
            counts.setdefault(question["category"], Counter())[question["answer"]] += 1
            chances[question["category"]] = 1 / len(question["options"])
    for category, counter in counts.items():
        commonest = max(counter.values()) / sum(counter.values())
        assert commonest < chances[category] + 0.04, (category, counter)


def test_dense_labels_name_the_events() -> None:
    scene = scene_of(0)
    labels = dense_labels(scene, CONFIG)
    assert len(labels) == CONFIG.num_slots and all(len(row) == GRID * GRID for row in labels)
    for event in scene.events:
        assert DENSE_CLASSES[labels[event.slot][event.window]].startswith(f"{event.colour} {event.shape}")
        assert DENSE_CLASSES[labels[0][event.window]].startswith("nothing")


def test_too_many_things_are_refused() -> None:
    with pytest.raises(ValueError, match="18 things do not fit"):
        draw_scene(np.random.default_rng(0), GeneratedConfig(num_flicker=13))
