"""Curves and bars of the page and the notebooks, as matplotlib's figures or as text to stand inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#123454"  # text and axes: a colour that nothing else has, for `svg` to put the page's own in its place
GREY = "#8A8A8A"
DASHES = ((0, (6, 2)), (0, (1, 2)))  # of levels


@dataclass(frozen=True)
class Series:
    """One line, or one colour of bars. A value of None is not drawn."""

    label: str
    colour: str
    marker: str
    x: Sequence[float]
    y: Sequence[float | None]
    errors: Sequence[float | None] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes; ``levels`` are horizontal lines by label."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    levels: dict[str, float] = field(default_factory=dict)


def curves(panels: Sequence[Panel]) -> Figure:
    """Panels side by side, each with its own axis: their numbers are of different worlds."""
    figure, axes = _figure(panels)
    for axis, panel in zip(axes, panels, strict=True):
        ticks = sorted({x for line in panel.series for x in line.x})
        for line in panel.series:
            points = [
                (x, y, e or 0.0)
                for x, y, e in zip(line.x, line.y, line.errors or [0.0] * len(line.x), strict=True)
                if y is not None
            ]
            if points:
                x, y, e = zip(*points, strict=True)
                axis.errorbar(x, y, yerr=e, color=line.colour, marker=line.marker, label=line.label, capsize=3)
        for index, (label, level) in enumerate(panel.levels.items()):
            axis.axhline(level, color=GREY, linestyle=DASHES[index % 2], linewidth=1.3, label=label)
        axis.set_xticks(ticks)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _dress(axis, panel)
    return figure


def bar_chart(panels: Sequence[Panel]) -> Figure:
    """Groups of bars, a group an x, with the numbers on top."""
    figure, axes = _figure(panels)
    for axis, panel in zip(axes, panels, strict=True):
        groups = sorted({x for line in panel.series for x in line.x})
        width = 0.8 / max(1, len(panel.series))
        for index, line in enumerate(panel.series):
            points = [(groups.index(x), y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
            places = [place + (index - (len(panel.series) - 1) / 2) * width for place, _ in points]
            drawn = axis.bar(places, [y for _, y in points], width * 0.92, color=line.colour, label=line.label)
            axis.bar_label(drawn, fmt="%.2f", fontsize=7, color=INK, padding=1)
        axis.set_xticks(range(len(groups)), [f"{x:g}" for x in groups])
        axis.margins(y=0.12)
        for label, level in panel.levels.items():
            axis.axhline(level, color=GREY, linewidth=1.0, label=label)
        _dress(axis, panel)
    return figure


def png(figure: Figure) -> bytes:
    """On white."""
    out = io.BytesIO()
    figure.set_facecolor("white")
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def svg(figure: Figure, title: str) -> str:
    """An <svg> element that takes the text colour of the page around it, and refers to nothing outside itself."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stts"}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\sxmlns(:\w+)?=\"[^\"]*\"", "", text).replace("xlink:href", "href")  # HTML knows both
    text = re.sub(r"(?<=<svg) [^>]*?(viewBox=\"[^\"]*\")[^>]*", r' role="img" \1', text, count=1)
    text = re.sub(r"\s*<style.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every figure
    text = text.replace(INK.lower(), "currentColor").replace(INK, "currentColor")
    return text.replace(">", f"><title>{title}</title>", 1).strip()


def _figure(panels: Sequence[Panel]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.6 * len(panels), 3.8), dpi=110, layout="constrained")
    figure.patch.set_alpha(0.0)
    return figure, list(figure.subplots(1, len(panels), squeeze=False)[0])


def _dress(axis: Axes, panel: Panel) -> None:
    axis.set_title(panel.title, fontsize=10, color=INK)
    axis.set_xlabel(panel.x_label, color=INK)
    axis.set_ylabel(panel.y_label, color=INK)
    axis.tick_params(colors=INK)
    axis.patch.set_alpha(0.0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["bottom", "left"]].set_color(INK)
    axis.grid(axis="y", color=GREY, alpha=0.35, linewidth=0.7)
    axis.set_axisbelow(True)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(
            frameon=False, fontsize=8, labelcolor=INK, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17)
        )  # below: no line crosses it
