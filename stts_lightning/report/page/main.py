"""`make report`: what MLflow holds as one HTML file that needs nothing beside it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from stts_lightning.config import Config
from stts_lightning.report.collect import open_database
from stts_lightning.report.means import averaged
from stts_lightning.report.page import html
from stts_lightning.report.page.experiments import EXPERIMENTS
from stts_lightning.report.page.holdings import Compare, Holdings, read_holdings
from stts_lightning.report.page.sections import section
from stts_lightning.report.page.tables import accuracy_grid
from stts_lightning.report.published import published_tables
from stts_lightning.report.tables import QUICK_WARNING
from stts_lightning.runs import git_commit

TITLE = "STTS: the paper's tables and ours"
INTRODUCTION = (
    "Left of the line in each table stands what the paper prints, on its own benchmarks, with Molmo2-4B; right of it "
    "stands what the runs in this database came to, on the data that the table names. These are different things: "
    "the embedded set is a made-up world for a tiny model, and a number on it says nothing about a benchmark. "
    "What can be compared is the order of methods and the shape of curves.",
    "Averages and ratios of the paper are computed from its cells and shown beside the printed ones; where they "
    "differ, a sentence says so. `± questions` is a run's standard error clustered by video, `± seeds` the standard "
    "error of the mean over the seeds. Of several finished runs of the same row and seed the newest counts.",
)


def write_page(config: Config, out: Path, compare: Compare | None = None) -> Path:
    """Read the database of ``config.tracking`` and write the page.

    Args:
        compare: makes the paired differences from predictions; None leaves them out.

    Raises:
        ValueError: there is no database.
    """
    held = read_holdings(open_database(config.tracking), config.tracking.uri, compare)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f"{out.name}.part")
    aside.write_text(page(held), encoding="utf-8")
    os.replace(aside, out)
    return out


def page(held: Holdings) -> str:
    """The ten experiments in the paper's order, then the sweeps that belong to none of them."""
    tables = published_tables()
    links = {experiment.name: experiment.title for experiment in EXPERIMENTS}
    others = _others(held)
    if others:
        links["others"] = "Other sweeps"
    made = f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC at commit {git_commit()} from {held.uri}."
    parts = [html.paragraph(text) for text in (*INTRODUCTION, made)] + [html.contents(links)]
    for experiment in EXPERIMENTS:
        parts += section(experiment, held, tables)
    return html.page(TITLE, parts + others)


def _others(held: Holdings) -> list[str]:
    """One table a setting of the runs that no experiment asked for."""
    known = {experiment.name for experiment in EXPERIMENTS}
    parts = []
    for name in sorted({run.experiment for run in held.runs if run.kind == "run"} - known):
        for setting in held.settings(name):
            runs = [run for run in held.of(name, "run") if run.setting == setting]
            data = f"{setting.data}, {setting.backbone}"
            parts.append(f"<h3>{html.escape(name or 'sweep')}: {html.escape(data)}</h3>")
            if setting.quick:
                parts.append(html.paragraph(QUICK_WARNING, warning=True))
            parts.append(html.table(accuracy_grid([], averaged(runs), None, {}, data)))
    return [html.heading("Other sweeps", "others"), *parts] if parts else []
