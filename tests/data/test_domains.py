"""The knobs that make a clip harder: what a clip shows is read back from its pixels alone, slowly, colour by colour."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from stts_lightning.config import GeneratedConfig, load_config
from stts_lightning.config.paths import domain_names
from stts_lightning.data.paint import paint
from stts_lightning.data.scene import (
    CONTENTS,
    DECOY_COLOURS,
    DENSE_CLASSES,
    EVENT_COLOURS,
    STATIC_COLOURS,
    ask,
    dense_labels,
    draw_scene,
    window_contents,
)

DOMAINS = {
    "flicker": {"num_flicker": 9, "flicker_amplitude": 0.35},
    "flash": {"num_flicker": 2, "num_decoys": 5, "decoy_slots": 3},
    "move": {"num_decoys": 4, "decoy": "move"},
    "camera": {"camera_pixels": 8.0},
    "fast camera": {"camera_pixels": 40.0},
    "flash and camera": {"num_decoys": 5, "decoy_slots": 3, "camera_pixels": 8.0},
    "move and camera": {"num_decoys": 3, "decoy": "move", "camera_pixels": 8.0, "num_flicker": 5},
}
# Frames (T, S, S, 3), questions and labels of six clips, from the code as it was before there were these knobs.
BEFORE = {
    "default": ({}, "e067420ab9a0a593e430fbd42f08fcad2e86208e7092d2a5a0c8cddf5b2cda9c"),
    "flicker": (
        {"num_flicker": 6, "flicker_amplitude": 0.35},
        "f2e9048d6bed81a94d00f1f2327bbb1466e11150c46b3ff64f62d32ee6e7aece",
    ),
    "sizes": (
        {"frame_size": 48, "num_slots": 10, "fps": 4},
        "a9b1f3284c100775b4eafac41af7bdb2d73f5197f0d9515706e2bdcabcd92a04",
    ),
}
SEEDS = range(5)
SHAPE_OF_CORNER_AND_MIDDLE = {(True, True): "square", (True, False): "ring", (False, True): "cross"}
Clip = tuple[GeneratedConfig, np.ndarray, list[dict[str, Any]], list[list[int]]]


@pytest.fixture(scope="module", params=DOMAINS)
def clips(request: pytest.FixtureRequest) -> list[Clip]:
    return list(make_clips(GeneratedConfig(**DOMAINS[request.param])))


def make_clips(config: GeneratedConfig) -> Iterator[Clip]:
    for seed in SEEDS:
        rng = np.random.default_rng([7, seed])
        scene = draw_scene(rng, config)
        yield config, paint(scene, rng, config), ask(scene, config.num_slots), dense_labels(scene, config)


def close_to(frames: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """Pixels (T, S, S) that have a colour, give or take the noise."""
    return np.abs(frames.astype(float) - np.array(colour) * 255).max(-1) < 45


def sampled(config: GeneratedConfig, frames: np.ndarray) -> np.ndarray:
    """What is seen at two frames a second: 0, 0.5, ... and the last one."""
    every = config.fps // 2
    return np.concatenate([frames[::every], frames[-1:]])


def looked_up(config: GeneratedConfig, frames: np.ndarray, colour: str) -> dict[str, Any]:
    """Where, when and in which shape a colour shows, by its pixels alone."""
    near = close_to(frames, EVENT_COLOURS[colour])
    shown = np.flatnonzero(near.sum((1, 2)) > 40)
    rows, columns = np.nonzero(near[shown].any(0))
    cell, half = config.frame_size // 4, config.frame_size / 2
    windows = {(y // cell, x // cell) for y, x in zip(rows.tolist(), columns.tolist(), strict=True)}
    y, x = np.nonzero(near[shown[0]])
    box = near[shown[0], y.min() : y.max() + 1, x.min() : x.max() + 1]
    middle = box[box.shape[0] // 2 - 1 : box.shape[0] // 2 + 1, box.shape[1] // 2 - 1 : box.shape[1] // 2 + 1]
    shape = SHAPE_OF_CORNER_AND_MIDDLE[bool(box[:2, :2].mean() > 0.5), bool(middle.mean() > 0.5)]
    where = f"{'top' if rows.mean() < half else 'bottom'} {'left' if columns.mean() < half else 'right'}"
    slot = int(shown[0]) // (config.fps // 2)
    when = ("early", "middle", "late")[(slot - 1) * 3 // (config.num_slots - 2)]
    return {"where": where, "when": when, "shape": shape, "slot": slot, "windows": windows, "frames": shown}


def test_answers_follow_from_the_pixels_alone(clips: list[Clip]) -> None:
    for config, frames, questions, _ in clips:
        seen = {colour: looked_up(config, frames, colour) for colour in EVENT_COLOURS}
        assert len(questions) == 12
        for asked in questions:
            said = asked["options"][asked["answer"]]
            first, *second = [word for word in asked["question"].split() if word in EVENT_COLOURS]
            if asked["category"] == "order":
                assert said == ("yes" if seen[first]["slot"] < seen[second[0]]["slot"] else "no")
            else:
                assert said == seen[first][asked["category"]], (asked, seen[first])


def test_an_event_stays_whole_in_one_window_for_one_slot(clips: list[Clip]) -> None:
    for config, frames, _, _ in clips:
        side = config.frame_size // 4 * 2 // 3
        smallest = side * side - (side - side // 3) ** 2  # a cross covers the least
        for colour, rgb in EVENT_COLOURS.items():
            seen = looked_up(config, frames, colour)
            assert len(seen["windows"]) == 1
            start = seen["slot"] * (config.fps // 2)
            assert seen["frames"].tolist() == [i for i in range(start, start + 4) if i < len(frames) - 1]
            near = close_to(frames[seen["frames"]], rgb)
            first = [axis.mean() % (config.frame_size / 4) - config.frame_size / 8 for axis in np.nonzero(near[0])]
            assert np.abs(first).max() < config.frame_size / 48 + 1  # where it is sampled it is near the middle
            counts = near.sum((1, 2))
            assert counts.min() > 0.9 * smallest and counts.max() - counts.min() < 0.1 * counts.max()


def test_dense_labels_follow_from_the_pixels_alone(clips: list[Clip]) -> None:
    """An event's window has its label; most of a static object lies in the window that has its label."""
    quadrants = [q for row in ("top", "bottom") for q in [f"{row} left"] * 2 + [f"{row} right"] * 2 for _ in (0,)]
    for config, frames, _, labels in clips:
        cell = config.frame_size // 4
        pictures = sampled(config, frames)
        assert len(labels) == len(pictures)
        for name, rgb in (EVENT_COLOURS | STATIC_COLOURS).items():
            near = close_to(pictures, rgb)
            whole = near[0].sum() if name in STATIC_COLOURS else near.sum((1, 2)).max()
            for slot in range(len(pictures)):
                for window in range(16):
                    row, column = divmod(window, 4)
                    named = DENSE_CLASSES[labels[slot][window]]
                    part = near[slot, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell].sum()
                    assert named.endswith(quadrants[row // 2 * 4 + column])
                    if named.startswith(name):
                        assert part > (0.9 if name in EVENT_COLOURS else 0.15) * whole, (name, slot, window)
                    elif whole > 40 and named.split()[0] not in EVENT_COLOURS:
                        assert part < 0.6 * whole, (name, slot, window)


def test_decoys_show_in_colours_of_their_own_and_move_as_they_are_told() -> None:
    for kind in ("flash", "move"):
        config = GeneratedConfig(num_decoys=1, decoy=kind, decoy_slots=3, num_flicker=0)
        for _, frames, _, labels in make_clips(config):
            pictures = sampled(config, frames)
            shown = [close_to(pictures, rgb).sum((1, 2)) for rgb in DECOY_COLOURS.values()]
            counts = shown[int(np.argmax([count.max() for count in shown]))]
            if kind == "flash":
                assert (counts > 40).sum() == 3 and counts[0] < 40 and counts[-1] < 40
            else:
                assert counts.min() > 40
                near = close_to(frames, list(DECOY_COLOURS.values())[int(np.argmax([c.max() for c in shown]))])
                middles = np.array([[axis.mean() for axis in np.nonzero(picture)] for picture in near])
                steps = np.abs(np.diff(middles, axis=0)).max(1)
                assert 0 < steps.max() < 4  # a window of 24 pixels takes a second of 8 frames
            named = {DENSE_CLASSES[label].split()[0] for row in labels for label in row}
            assert named == {"nothing", *EVENT_COLOURS, *STATIC_COLOURS} & named and len(named) == 6


def shift_between(before: np.ndarray, after: np.ndarray, around: tuple[int, int], reach: int) -> tuple[int, int]:
    """By how many pixels (down, right) a picture's middle has moved, tried one by one."""
    inner, errors = before[24:-24, 24:-24], {}
    for down in range(around[0] - reach, around[0] + reach + 1):
        for right in range(around[1] - reach, around[1] + reach + 1):
            found = after[24 + down : 24 + down + len(inner), 24 + right : 24 + right + len(inner)]
            errors[down, right] = np.abs(found - inner).mean()
    return min(errors, key=errors.__getitem__)


def test_camera_moves_the_world_at_its_speed_in_one_direction() -> None:
    directions = set()
    for _, frames, _, _ in make_clips(GeneratedConfig(camera_pixels=8.0, num_events=0, num_flicker=0)):
        grey = frames.astype(float).mean(-1)
        first = shift_between(grey[0], grey[8], (0, 0), 9)  # in one second
        second = shift_between(grey[0], grey[16], (2 * first[0], 2 * first[1]), 2)
        assert abs(np.hypot(*first) - 8) < 1 and abs(np.hypot(*second) - 16) < 1
        directions.add((first[0] > 0, first[1] > 0))
    assert len(directions) > 1


@pytest.mark.parametrize("name", BEFORE)
def test_clips_without_the_knobs_are_what_they_were(name: str) -> None:
    settings, wanted = BEFORE[name]
    config, found = GeneratedConfig(**settings), hashlib.sha256()
    for seed in range(6):
        rng = np.random.default_rng([0, 1, seed])
        scene = draw_scene(rng, config)
        found.update(paint(scene, rng, config).tobytes())
        found.update(repr(ask(scene, config.num_slots)).encode())
        found.update(repr(dense_labels(scene, config)).encode())
    assert found.hexdigest() == wanted


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"decoy": "flashes"}, "'flashes'.*Did you mean 'flash'"),
        ({"num_decoys": -1}, "num_decoys=-1"),
        ({"camera_pixels": -2.0}, "camera_pixels=-2.0"),
        ({"num_decoys": 1, "decoy_slots": 7}, "decoy_slots=7 does not fit"),
    ],
)
def test_knobs_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GeneratedConfig(**settings)


def test_decoys_count_among_what_must_fit() -> None:
    with pytest.raises(ValueError, match="17 things do not fit"):
        draw_scene(np.random.default_rng(0), GeneratedConfig(num_decoys=9))


def test_domains_are_named_and_differ_from_each_other() -> None:
    assert domain_names() == ("camera", "decoy", "flicker", "main", "mixed", "strobe")
    made = [load_config([f"domain={name}"]).data.generated for name in domain_names()]
    assert load_config().data.generated == load_config(["domain=main"]).data.generated == GeneratedConfig()
    assert all(one != other for i, one in enumerate(made) for other in made[:i])


@pytest.mark.parametrize("domain", ["main", "flicker", "strobe", "decoy", "mixed"])
def test_contents_say_which_windows_a_kind_of_thing_changes(domain: str) -> None:
    """Painted with and without it, from the same numbers: where pixels differ, there it is."""
    config = load_config(
        [f"domain={domain}", "data.generated.noise=0", "data.generated.texture=0", "data.generated.flicker_amplitude=9"]
    ).data.generated
    without = {"event": {"events": []}, "static": {"static": []}, "flicker": {"flicker": []}, "decoy": {"flashes": ()}}
    seen = set()
    for seed in SEEDS:
        scene = draw_scene(np.random.default_rng(seed), config)
        contents = np.array(window_contents(scene, config))
        for kind, empty in without.items():
            whole, missing = (
                paint(s, np.random.default_rng(9), config).astype(int) for s in (scene, scene._replace(**empty))
            )
            samples = [min(slot * config.fps // 2, len(whole) - 1) for slot in range(config.num_slots)]
            changed = np.abs(whole - missing)[samples].max(-1)
            windows = changed.reshape(config.num_slots, 4, 24, 4, 24).max((2, 4)).reshape(config.num_slots, 16) > 0
            assert (windows == (contents == CONTENTS.index(kind))).all(), (kind, seed)
            seen |= {kind} if windows.any() else set()
    assert ("decoy" in seen) == (domain == "decoy") and ("static" in seen) == (domain != "mixed")


def test_contents_follow_a_moving_camera_but_events_do_not() -> None:
    config = load_config(["domain=camera"]).data.generated
    scene = draw_scene(np.random.default_rng(1), config)._replace(drift=(24.0, 0.0))  # a window down in a second
    contents = window_contents(scene, config)
    thing = scene.static[0]
    homes = [(thing.window // 4 + slot // 2) * 4 + thing.window % 4 for slot in range(config.num_slots)]
    for slot, home in enumerate(homes[:-1]):
        if slot % 2 == 0 and home < 16 and not any(e.slot == slot and e.window == home for e in scene.events):
            assert contents[slot][home] in (CONTENTS.index("static"), CONTENTS.index("flicker"))
    for event in scene.events:
        assert contents[event.slot][event.window] == CONTENTS.index("event")


def test_six_events_have_a_colour_and_a_frame_each_and_are_asked_about() -> None:
    config = load_config(["domain=mixed"]).data.generated
    scene = draw_scene(np.random.default_rng(3), config)
    assert len({event.colour for event in scene.events}) == len({event.slot for event in scene.events}) == 6
    questions = ask(scene, config.num_slots)
    assert len(questions) == 3 * 6 + 15
    assert all(any(event.colour in q["question"] for q in questions) for event in scene.events)
    with pytest.raises(ValueError, match="num_events=7"):
        draw_scene(np.random.default_rng(0), GeneratedConfig(num_events=7, num_static=0))
    with pytest.raises(ValueError, match="num_static=2.*1 colours are left"):
        draw_scene(np.random.default_rng(0), GeneratedConfig(num_events=5, num_static=2))


def test_a_coarse_grain_moves_the_mean_of_a_window_and_a_fine_one_hardly() -> None:
    moved = {}
    for name in ("flicker", "strobe"):
        config = load_config([f"domain={name}"]).data.generated
        scene = draw_scene(np.random.default_rng(0), config)
        frames = paint(scene, np.random.default_rng(0), config).astype(float).mean(-1)
        windows = frames.reshape(len(frames), 4, 24, 4, 24).mean((2, 4)).reshape(len(frames), 16)
        moved[name] = np.abs(np.diff(windows[:, scene.flicker], axis=0)).mean()
    assert moved["strobe"] > 4 * moved["flicker"]
    with pytest.raises(ValueError, match="flicker_grain=5 does not divide a window's side of 24"):
        GeneratedConfig(flicker_grain=5)
