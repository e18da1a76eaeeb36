"""The paper's curves and bars beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from stts_lightning.report.curves import Panel, Series, bar_chart, curves
from stts_lightning.report.figures import style
from stts_lightning.report.means import Mean
from stts_lightning.report.page.speed import Bar
from stts_lightning.report.published import PublishedTable, recomputed

BAR_COLOURS = {"paper, 128 frames": "#56B4E9", "paper, 256 frames": "#0072B2",
               "ours, 128 frames": "#F0C064", "ours, 256 frames": "#D55E00"}  # fmt: skip
K = "pruned windows, k (%)"


def strength_figure(
    means: Sequence[Mean], table: PublishedTable, tables: Mapping[int, PublishedTable], data: str
) -> Figure:
    """Accuracy against k: the paper's average left, ours on ``data`` right, each on its own axis."""
    panels = [paper_panel(table, tables)]
    if any(mean.key.method not in ("none", "text_only") for mean in means):
        panels.append(own_panel(means, data))
    return curves(panels)


def paper_panel(table: PublishedTable, tables: Mapping[int, PublishedTable]) -> Panel:
    """Figure 1, right: averages from the cells, where the paper prints the cells."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in table.rows:
        value = recomputed(table, row, tables)["average"]
        if row.method is not None and row.percent is not None and value is not None:
            points.setdefault(row.method, []).append((row.percent, value))
    levels = {}
    for method, label in (("none", "unpruned"), ("text_only", "text only")):
        if method in points:
            levels[label] = points.pop(method)[0][1]
    series = [_series(method, sorted(found), []) for method, found in points.items()]
    return Panel(f"Paper, table {table.number}", K, "average accuracy (%)", series, levels)


def own_panel(means: Sequence[Mean], data: str) -> Panel:
    """Ours against k, with the larger of the two standard errors."""
    trained = [mean for mean in means if mean.key.variant == "trained"]
    levels = {}
    for method, label in (("none", "unpruned"), ("text_only", "text only")):
        found = [mean for mean in trained if mean.key.method == method]
        if found:
            levels[label] = 100 * found[0].accuracy
    methods = dict.fromkeys(mean.key.method for mean in trained if mean.key.method not in ("none", "text_only"))
    series = []
    for method in methods:
        mine = [mean for mean in trained if mean.key.method == method]
        series.append(
            _series(method, [(m.key.percent, 100 * m.accuracy) for m in mine], [larger_error(m) for m in mine])
        )
    return Panel(f"Ours, {data}", K, "accuracy (%)", series, levels)


def layer_panel(means: Sequence[Mean], data: str) -> Panel:
    """Figure 6: accuracy against l."""
    pruned = [mean for mean in means if mean.key.method not in ("none", "text_only")]
    series = []
    for method, percent in dict.fromkeys((mean.key.method, mean.key.percent) for mean in pruned):
        mine = [mean for mean in pruned if (mean.key.method, mean.key.percent) == (method, percent)]
        points = [(mean.key.layer, 100 * mean.accuracy) for mean in mine]
        series.append(_series(method, points, [larger_error(mean) for mean in mine], f", k = {percent:g} %"))
    unpruned = [100 * mean.accuracy for mean in means if mean.key.method == "none"]
    levels = {"unpruned": unpruned[0]} if unpruned else {}
    return Panel(f"Ours, {data}", "pruning layer, l", "accuracy (%)", series, levels)


def speed_figure(bars: Sequence[Bar], title: str) -> Figure:
    """One half of figure 5."""
    series = []
    for frames in sorted({bar.frames for bar in bars}):
        mine = [bar for bar in bars if bar.frames == frames]
        for whose, values in (("paper", [bar.paper for bar in mine]), ("ours", [bar.ours for bar in mine])):
            label = f"{whose}, {frames} frames"
            if any(value is not None for value in values):
                series.append(Series(label, BAR_COLOURS[label], "", [bar.percent for bar in mine], values))
    return bar_chart([Panel(title, K, "speed-up over k = 0", series, {"no speed-up": 1.0})])


def larger_error(mean: Mean) -> float | None:
    """Of the errors over questions and over seeds, in %."""
    errors = [error for error in (mean.stderr_questions, mean.stderr_seeds) if error is not None]
    return 100 * max(errors) if errors else None


def _series(
    method: str, points: Sequence[tuple[float, float]], errors: Sequence[float | None], more: str = ""
) -> Series:
    colour, marker, label = style(method)
    return Series(label + more, colour, marker, [x for x, _ in points], [y for _, y in points], errors)
