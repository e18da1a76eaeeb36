"""The ten experiments: which tables of the paper they regenerate, and which rows those need."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from stts_lightning.report.collect import Key
from stts_lightning.report.figures import style
from stts_lightning.report.means import Mean
from stts_lightning.report.published import PublishedRow, PublishedTable

HOST_COMMAND = "python -m stts_lightning benchmark NAME,.. --root ROOT --host"
VARIANTS = {
    "trained": "",
    "inference_only": "inference only",
    "test_time_scaling": "test-time scaling",
    "other_percent": "trained at another k",
}


@dataclass(frozen=True)
class Experiment:
    """A section of the page."""

    name: str  # of experiments/<name>.yaml
    title: str
    tables: tuple[int, ...] = ()  # of the paper
    figure: str = ""  # degradation, layers, speed or pictures
    layers: tuple[int, ...] = ()  # l of its rows, where it varies
    note: str = ""


EXPERIMENTS = (
    Experiment("pruning_strength", "Pruning strength", (1,), "curve"),
    Experiment("methods", "Pruning methods", (2,)),
    Experiment("test_time_scaling", "Test-time scaling", (3,)),
    Experiment("image_results", "Images", (4,)),
    Experiment("tome", "Pruning in the ViT alone", (5,)),
    Experiment("train_throughput", "Training speed", (6,), "speed"),
    Experiment("inference_throughput", "Inference speed", (7,), "speed"),
    Experiment("degradation", "Degradation", (8,), "degradation"),
    Experiment(
        "layer_depth",
        "Depth of the pruning layer",
        figure="layers",
        layers=(0, 1, 2, 3),
        note="Figure 6 prints no numbers. Section 5.2 says that l = 0 loses 1 % against l = 3 and l = 1 loses 0.5 %, "
        "and that l = 2 is only marginally below l = 3.",
    ),
    Experiment(
        "what_is_pruned",
        "What is pruned",
        figure="pictures",
        note="Figures 1 (left) and 7 print pictures alone, of captioned videos of Molmo2's own set.",
    ),
)


@dataclass(frozen=True)
class Line:
    """A row of an experiment's table: what the paper has, and which runs of ours belong there."""

    label: str
    method: str | None
    percent: float | None
    variant: str = "trained"
    layer: int | None = None  # None: whatever ours has
    published: PublishedRow | None = None

    @property
    def model(self) -> str | None:
        """Another model than ours, by its name in conf/host/."""
        return self.published.model if self.published else None

    def matches(self, key: Key) -> bool:
        same = (self.method, self.percent, self.variant) == (key.method, key.percent, key.variant)
        return same and self.layer in (None, key.layer)


def lines(experiment: Experiment, tables: Mapping[int, PublishedTable]) -> list[Line]:
    """The rows that the experiment should have, in the paper's order."""
    found = []
    for number in experiment.tables:
        for row in tables[number].rows:
            label = row.name if row.method is None else label_of(row.method, row.variant)
            found.append(Line(label, row.method, row.percent, row.variant, published=row))
    if experiment.name == "layer_depth":
        found = [Line(label_of("none"), "none", 0.0)]
        found += [Line(label_of("stts"), "stts", 50.0, layer=layer) for layer in experiment.layers]
    if experiment.name == "what_is_pruned":
        found = [Line(label_of(method), method, 50.0) for method in ("stts", "heuristic")]
    return found


def with_ours(planned: Iterable[Line], means: Iterable[Mean]) -> list[tuple[Line, Mean | None]]:
    """Each planned row with what we have for it, then what we have besides.

    A row that the paper has twice with other frame counts alone stands beside the same runs both times.
    """
    planned, means = list(planned), list(means)
    found: list[tuple[Line, Mean | None]] = []
    used = set()
    for line in planned:
        ours = [mean for mean in means if line.matches(mean.key)]
        used |= {mean.key for mean in ours}
        found += [(line, mean) for mean in ours] or [(line, None)]
    for mean in means:
        if mean.key not in used:
            key = mean.key
            found.append(
                (Line(label_of(key.method, key.variant), key.method, key.percent, key.variant, key.layer), mean)
            )
    return found


def label_of(method: str, variant: str = "trained") -> str:
    """As a reader should see it."""
    name = style(method)[2] if method != "none" else "Unpruned"
    return f"{name}, {VARIANTS.get(variant, variant)}" if variant != "trained" else name


def not_run(
    experiment: Experiment, planned: Iterable[Line], keys: Iterable[Key], hosts: Container[str | None]
) -> list[str]:
    """A sentence, with the line that would run it, for each planned row that neither a key nor a host fills."""
    planned, keys = list(planned), list(keys)
    sentences = []
    for line in planned:
        if line.model is not None:
            if line.model not in hosts:
                sentences.append(f"Not run: {line.label}, another model. `{HOST_COMMAND} {line.model}` runs it.")
            continue
        if any(line.matches(key) for key in keys):
            continue
        where = f" at {line.percent:g} %" if line.percent and line.method != "text_only" else ""
        where += f", l = {line.layer}" if line.layer is not None else ""
        sentences.append(f"Not run: {line.label}{where}. `{_command(experiment, line, planned)}` runs it.")
    return list(dict.fromkeys(sentences))


def _command(experiment: Experiment, line: Line, planned: list[Line]) -> str:
    """The shortest line: a choice is named where the experiment has one."""
    parts = [f"make experiment NAME={experiment.name}"]
    pruned = [other for other in planned if other.method not in (None, "none", "text_only")]
    if line.method not in ("none", "text_only"):
        if line.variant == "trained" and len({other.method for other in pruned}) > 1:
            parts.append(f"METHODS={line.method}")
        if len({other.percent for other in pruned}) > 1:
            parts.append(f"PRUNE={line.percent:g}")
    elif line.method == "text_only":
        parts.append("METHODS=text_only")
    if line.layer is not None:
        parts.append(f"ARGS='sweep.layers=[{line.layer}]'")
    return " ".join(parts)
