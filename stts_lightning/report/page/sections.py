"""A section of the page for each experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from stts_lightning.report.collect import Run, Setting, artifacts
from stts_lightning.report.curves import curves, svg
from stts_lightning.report.means import Mean, averaged
from stts_lightning.report.page import html
from stts_lightning.report.page.experiments import Experiment, Line, label_of, lines, not_run
from stts_lightning.report.page.figures import layer_panel, speed_figure, strength_figure
from stts_lightning.report.page.holdings import PREDICTIONS, Holdings
from stts_lightning.report.page.speed import bars, machine_line, speed_grid
from stts_lightning.report.page.tables import (
    accuracy_grid,
    benchmark_cells,
    benchmark_grid,
    category_grid,
    disagreements,
    other_grid,
)
from stts_lightning.report.published import PublishedTable
from stts_lightning.report.tables import QUICK_WARNING

Tables = Mapping[int, PublishedTable]
REFERENCE = "stts"  # what the others are compared with


def section(experiment: Experiment, held: Holdings, tables: Tables) -> list[str]:
    """Heading, tables, figures, what has not been run, and the runs themselves."""
    named = f", table {experiment.tables[0]} of the paper" if experiment.tables else ""
    parts = [html.heading(f"{experiment.title}{named}", experiment.name)]
    if experiment.note:
        parts.append(html.paragraph(experiment.note))
    parts += _speed(experiment, held, tables) if experiment.figure == "speed" else _accuracy(experiment, held, tables)
    for number in experiment.tables:
        parts.append(html.bullets(disagreements(tables[number], tables)))
    return parts


def _speed(experiment: Experiment, held: Holdings, tables: Tables) -> list[str]:
    (number,) = experiment.tables
    found = held.bench(experiment.name)
    bench = found[1] if found else None
    parts = [html.table(speed_grid(tables[number], bench, tables))]
    drawn = speed_figure(bars(tables[number], bench, tables), experiment.title)
    parts.append(
        html.drawing(svg(drawn, f"Figure 5: {experiment.title}"), "Speed-ups from cells, never as printed.", True)
    )
    if found is None:
        return [*parts, html.paragraph(f"Not run: our side. `make experiment NAME={experiment.name}` runs it.")]
    run, _ = found
    if run.setting.quick:
        parts.append(html.paragraph(QUICK_WARNING, warning=True))
    parts.append(
        html.paragraph(f"Ours: {machine_line(found[1])} {_how_many([run], len(held.of(experiment.name, 'bench')) - 1)}")
    )
    return [*parts, *_origins([run])]


def _accuracy(experiment: Experiment, held: Holdings, tables: Tables) -> list[str]:
    planned = lines(experiment, tables)
    table = tables[experiment.tables[0]] if experiment.tables else None
    runs = held.of(experiment.name, "run")
    settings = held.settings(experiment.name)
    parts = []
    if not settings and table is not None:
        parts.append(html.table(accuracy_grid(planned, [], table, tables, "nothing: no run has finished")))
        parts += _benchmarks(held, planned, [], table) + _figure(experiment, [], table, tables, "")
    for setting in settings:
        mine = [run for run in runs if run.setting == setting]
        parts += _of_setting(experiment, held, setting, averaged(mine), tables)
    real = [run.key for run in runs if not run.setting.quick]
    parts.append(html.bullets(not_run(experiment, planned, real, held.hosts())))
    failed = sum(run.status != "FINISHED" for run in held.all_of(experiment.name, "run"))
    if failed:
        parts.append(html.paragraph(f"{_count(failed, 'run')} of this experiment did not finish and are not shown."))
    return parts


def _of_setting(
    experiment: Experiment, held: Holdings, setting: Setting, means: Sequence[Mean], tables: Tables
) -> list[str]:
    planned, data = lines(experiment, tables), f"{setting.data}, {setting.backbone}"
    table = tables[experiment.tables[0]] if experiment.tables else None
    parts = [f"<h3>{html.escape(data)}</h3>"]
    if setting.quick:
        parts.append(html.paragraph(QUICK_WARNING, warning=True))
    parts.append(html.table(accuracy_grid(planned, means, table, tables, data)))
    parts.append(html.paragraph(_how_many([r for mean in means for r in mean.runs], sum(m.superseded for m in means))))
    if table is not None:
        parts += _benchmarks(held, planned, means, table)
    layered = len({mean.key.layer for mean in means}) > 1
    label: dict[object, str] = {mean.key: _name(mean, layered) for mean in means}
    if table is not None and (own := other_grid(means, label, table)) is not None:
        parts.append(html.table(own))
    categories = category_grid(means, label)
    if categories is not None:
        parts.append(html.fold("By category of question", [html.table(categories)]))
    parts += _figure(experiment, means, table, tables, data)
    parts += _pictures(held, means)
    parts += _paired(held, means)
    return [*parts, *_origins([run for mean in means for run in mean.runs])]


def _benchmarks(held: Holdings, planned: Sequence[Line], means: Sequence[Mean], table: PublishedTable) -> list[str]:
    """The cells, where the paper prints them or ours have some; and the origins of other models' cells."""
    evaluated = any(benchmark_cells(mean.metrics("")) for mean in means)
    if not (table.columns or evaluated):
        return []
    hosts = held.hosts()
    parts = [html.table(benchmark_grid(planned, means, table, hosts))]
    if means and not evaluated:
        parts.append(html.paragraph("Not run: none of these runs was evaluated on the benchmarks."))
    return parts + _origins([run for line in planned for run in hosts.get(line.model or "", [])])


def _figure(
    experiment: Experiment, means: Sequence[Mean], table: PublishedTable | None, tables: Tables, data: str
) -> list[str]:
    if experiment.figure in ("curve", "degradation") and table is not None:
        drawn = strength_figure(means, table, tables, data)
        caption = "The paper's averages from its cells where it prints them; the two sides are different data."
    elif experiment.figure == "layers" and means:
        drawn, caption = curves([layer_panel(means, data)]), "Bars: the larger of the two standard errors."
    else:
        return []
    return [html.drawing(svg(drawn, experiment.title), caption, narrow=len(drawn.axes) == 1)]


def _pictures(held: Holdings, means: Sequence[Mean]) -> list[str]:
    """Of the sweeps that the runs belong to; each sweep's once."""
    parents = {run.parent for mean in means for run in mean.runs}
    parts = []
    for sweep in held.runs:
        if sweep.id in parents:
            for name, body in held.pictures(sweep):
                show = html.film if name.endswith(".mp4") else html.picture
                parts.append(show(body, f"{name} of sweep {sweep.name}, {sweep.started}"))
    return parts


def _paired(held: Holdings, means: Sequence[Mean]) -> list[str]:
    """STTS against each other method at the same k, over the seeds that both have."""
    if held.compare is None:
        return []
    sentences = []
    for mine in (mean for mean in means if mean.key.method == REFERENCE):
        for other in means:
            if other.key.method == REFERENCE or other.key[1:] != mine.key[1:]:
                continue
            seeds = {run.seed for run in mine.runs} & {run.seed for run in other.runs}
            pairs = [[run for run in mean.runs if run.seed in seeds] for mean in (mine, other)]
            if seeds and all(PREDICTIONS in artifacts(held.client, run) for runs in pairs for run in runs):
                with TemporaryDirectory() as folder:
                    files = [[_fetch(held, run, Path(folder)) for run in runs] for runs in pairs]
                    try:
                        found = held.compare(files[0], files[1])
                    except ValueError as error:  # of different questions
                        found = f"not compared, {error}"
                    sentences.append(f"{_name(mine)} against {_name(other)}: {found}")
    return [html.paragraph("Paired differences, by question:"), html.bullets(sentences)] if sentences else []


def _fetch(held: Holdings, run: Run, folder: Path) -> Path:
    (folder / run.id).mkdir()
    return Path(held.client.download_artifacts(run.id, PREDICTIONS, str(folder / run.id)))


def _name(mean: Mean, layered: bool = False) -> str:
    key = mean.key
    percent = f" {key.percent:g} %" if key.method not in ("none", "text_only") else ""
    return f"{label_of(key.method, key.variant)}{percent}" + (f", l = {key.layer}" if layered else "")


def _how_many(runs: Sequence[Run], older: int) -> str:
    """How many runs the numbers stand on, and how many were passed over."""
    text = f"{_count(len(runs), 'finished run')}, the newest of each row and seed"
    return f"{text}; {_count(older, 'older one')} with the same row and seed not shown." if older else f"{text}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _origins(runs: Sequence[Run]) -> list[str]:
    """Commit and configuration: what all runs share once, then what each has of its own."""
    if not runs:
        return []
    keys = sorted({key for run in runs for key in run.params})
    shared = {key for key in keys if len({run.params.get(key) for run in runs}) == 1}
    parts = [html.preformatted("\n".join(f"{key}: {runs[0].params[key]}" for key in keys if key in shared))]
    for run in runs:
        own = [f"{key}: {value}" for key, value in sorted(run.params.items()) if key not in shared]
        head = [f"commit: {run.commit}", f"MLflow run: {run.id}", f"started: {run.started}"]
        parts.append(html.fold(f"{run.name}, commit {run.commit[:12]}", [html.preformatted("\n".join(head + own))]))
    return [html.fold(f"Configuration and commit of {_count(len(runs), 'run')}", parts)]
