"""The embedded set's scenes: what happens in a clip, the questions about it and its dense labels.

A clip is a grey textured background with static objects and patches of irrelevant flicker, and a few short
events: a coloured shape that shows in one window for about half a second. The questions ask where, when, in
which shape and in which order. Frame 0 shows no event, so a model that sees frame 0 alone can only guess.

Two more knobs make a clip harder and change no answer. Decoys are things in colours of their own that flash as
events do, or wander slowly. A moving camera lets the whole world (background, static objects, flicker, decoys)
drift through the frame, and out of it. Events alone belong to the frame: each appears in one of its windows, in
front of everything else, and drifts along only as far as its window allows. So "where" is the quadrant of the
frame, not of the world, in which the whole shape shows from its first picture to its last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stts_lightning.config import GeneratedConfig

GRID = 4  # windows on one side of a frame
EVENT_COLOURS = {"red": (0.9, 0.15, 0.15), "green": (0.15, 0.8, 0.2), "blue": (0.2, 0.3, 0.95)}
STATIC_COLOURS = {"yellow": (0.9, 0.85, 0.1), "purple": (0.65, 0.2, 0.8), "orange": (0.95, 0.55, 0.1)}
DECOY_COLOURS = {"cyan": (0.1, 0.8, 0.85), "white": (0.95, 0.95, 0.95), "black": (0.08, 0.08, 0.08)}
SHAPES = ("square", "ring", "cross")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
THIRDS = ("early", "middle", "late")
CONTENTS = ("background", "static", "flicker", "decoy", "event")  # of a window; what is in front wins, the last here
SLOTS_A_STEP = 2  # sampled frames that a wandering decoy takes from one window to the next


class Thing(NamedTuple):
    """A coloured shape in a window (row * GRID + column); ``slot`` is the sampled frame, -1 for always."""

    colour: str
    shape: str
    window: int
    slot: int
    jitter: tuple[int, int]


class Wanderer(NamedTuple):
    """A decoy that moves; ``stops`` are the windows that it is in at slots 0, SLOTS_A_STEP, ..., each a neighbour of
    the one before or the same."""

    colour: str
    shape: str
    stops: tuple[int, ...]
    jitter: tuple[int, int]


class Scene(NamedTuple):
    events: list[Thing]
    static: list[Thing]
    flicker: list[int]
    flashes: tuple[Thing, ...] = ()  # decoys, once for each slot that they show in
    wanderers: tuple[Wanderer, ...] = ()
    drift: tuple[float, float] = (0.0, 0.0)  # pixels a second, down and to the right, of the world


def draw_scene(rng: np.random.Generator, config: GeneratedConfig) -> Scene:
    """Choose what happens: events, static objects, decoys and flicker in windows of their own.

    A knob at its default draws nothing from ``rng``: clips without it are the same to the byte as before it was.
    """
    needed = config.num_events + config.num_static + config.num_decoys + config.num_flicker
    event_colours = [*EVENT_COLOURS, *STATIC_COLOURS][: config.num_events]
    static_colours = [colour for colour in STATIC_COLOURS if colour not in event_colours]
    most_events = min(len(EVENT_COLOURS | STATIC_COLOURS), config.num_slots - 2)
    if needed > GRID * GRID or config.num_slots < 6:
        raise ValueError(
            f"data.generated: {needed} things do not fit into {GRID * GRID} windows, or num_slots="
            f"{config.num_slots} < 6."
        )
    if config.num_events > most_events or config.num_static > len(static_colours):
        raise ValueError(
            f"data.generated: num_events={config.num_events} and num_static={config.num_static}, but {most_events} "
            f"events have a colour and a sampled frame, and {len(static_colours)} colours are left for static things."
        )
    windows = rng.permutation(GRID * GRID)[:needed].tolist()
    # Slots 1..n-2, two or more a third: frame 0 always survives pruning, and the last frame is a repeat.
    slots = rng.permutation(np.arange(1, config.num_slots - 1))[: config.num_events].tolist()
    jitter = config.frame_size // 48

    def thing(colour: str, slot: int) -> Thing:
        offset = rng.integers(-jitter, jitter + 1, 2)
        return Thing(colour, str(rng.choice(SHAPES)), windows.pop(), slot, (int(offset[0]), int(offset[1])))

    events = [thing(colour, slot) for colour, slot in zip(event_colours, slots, strict=True)]
    colours = rng.permutation(static_colours)[: config.num_static]
    static = [thing(str(colour), -1) for colour in colours]
    decoys = [thing(str(rng.choice(list(DECOY_COLOURS))), -1) for _ in range(config.num_decoys)]
    flashes, wanderers = [], []
    if config.decoy == "flash":
        for decoy in decoys:
            shown = rng.permutation(np.arange(1, config.num_slots - 1))[: config.decoy_slots]
            flashes += [decoy._replace(slot=int(slot)) for slot in sorted(shown)]
    else:
        blocked = {thing.window for thing in events + static}
        wanderers = [_wander(rng, decoy, blocked, config.num_slots) for decoy in decoys]
    return Scene(events, static, windows, tuple(flashes), tuple(wanderers), _direction(rng, config.camera_pixels))


def _wander(rng: np.random.Generator, decoy: Thing, blocked: set[int], num_slots: int) -> Wanderer:
    """A walk from the decoy's window that enters no window of an event or a static object."""
    stops = [decoy.window]
    for _ in range(-(-(num_slots - 1) // SLOTS_A_STEP)):
        row, column = divmod(stops[-1], GRID)
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        free = [y * GRID + x for y, x in around if 0 <= y < GRID and 0 <= x < GRID and y * GRID + x not in blocked]
        stops.append(int(rng.choice(free)) if free else stops[-1])
    return Wanderer(decoy.colour, decoy.shape, tuple(stops), decoy.jitter)


def _direction(rng: np.random.Generator, pixels: float) -> tuple[float, float]:
    if not pixels:
        return (0.0, 0.0)
    angle = rng.uniform(0, 2 * np.pi)
    return (pixels * float(np.sin(angle)), pixels * float(np.cos(angle)))


def drift_at(scene: Scene, frame: int, fps: int) -> tuple[int, int]:
    """By how many whole pixels, down and to the right, the world has drifted in a frame of the file."""
    return round(scene.drift[0] * frame / fps), round(scene.drift[1] * frame / fps)


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


def dense_labels(scene: Scene, config: GeneratedConfig) -> list[list[int]]:
    """The class of every window of every sampled frame, [num_slots][windows]: a stand-in for captions.

    Decoys count as nothing. With a moving camera a static object is named by the window that holds its middle,
    unless an event is in front of it, and not at all once its middle has left the frame.
    """
    content = [["nothing"] * (GRID * GRID) for _ in range(config.num_slots)]
    for slot, windows in enumerate(content):
        for thing in scene.static:
            window = _window_of_middle(thing.window, thing.jitter, scene, slot, config)
            if window is not None:
                windows[window] = f"{thing.colour} {thing.shape}"
        for thing in scene.events:
            if thing.slot == slot:
                windows[thing.window] = f"{thing.colour} {thing.shape}"
    index = {name: i for i, name in enumerate(DENSE_CLASSES)}
    return [[index[f"{name} {QUADRANTS[quadrant_of(w)]}"] for w, name in enumerate(row)] for row in content]


def window_contents(scene: Scene, config: GeneratedConfig) -> list[list[int]]:
    """What each window of each sampled frame shows, as an index into CONTENTS, [num_slots][windows].

    What drifts with the camera is counted where its middle is. The questions are about the events.
    """
    table = [[0] * (GRID * GRID) for _ in range(config.num_slots)]
    for slot, windows in enumerate(table):
        wandering = [(w.stops[slot // SLOTS_A_STEP], w.jitter) for w in scene.wanderers]
        flashing = [(thing.window, thing.jitter) for thing in scene.flashes if thing.slot == slot]
        lasting = [(thing.window, thing.jitter) for thing in scene.static]
        flickering = [(window, (0, 0)) for window in scene.flicker]
        for kind, things in (("static", lasting), ("flicker", flickering), ("decoy", flashing + wandering)):
            for home, jitter in things:
                window = _window_of_middle(home, jitter, scene, slot, config)
                if window is not None:
                    windows[window] = CONTENTS.index(kind)
        for thing in scene.events:
            if thing.slot == slot:
                windows[thing.window] = CONTENTS.index("event")
    return table


def _window_of_middle(
    home: int, jitter: tuple[int, int], scene: Scene, slot: int, config: GeneratedConfig
) -> int | None:
    """The window that holds, in a sampled frame, the middle of what belongs to window ``home`` of the world; None
    outside the frame."""
    per_slot, cell = config.fps // 2, config.frame_size // GRID
    frame = min(slot * per_slot, (config.num_slots - 1) * per_slot - 1)  # the last sample is the last frame
    drift = drift_at(scene, frame, config.fps)
    middle = [
        (at * cell + cell / 2 + aside + moved) // cell
        for at, aside, moved in zip(divmod(home, GRID), jitter, drift, strict=True)
    ]
    return int(middle[0] * GRID + middle[1]) if all(0 <= at < GRID for at in middle) else None


def quadrant_of(window: int) -> int:
    """Index into QUADRANTS of a window, row * GRID + column."""
    return window // GRID * 2 // GRID * 2 + window % GRID * 2 // GRID
