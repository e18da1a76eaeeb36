"""What every notebook begins with: the database, a sweep of it, and where its numbers come from."""

from __future__ import annotations

import os
from collections.abc import Sequence

from stts_lightning.config import REPOSITORY, TrackingConfig
from stts_lightning.report.collect import Run
from stts_lightning.report.means import Mean
from stts_lightning.report.tables import QUICK_WARNING

URI_VARIABLE = "STTS_TRACKING_URI"


def notebook_tracking() -> TrackingConfig:
    """The database that STTS_TRACKING_URI names, or the repository's own."""
    return TrackingConfig(uri=os.environ.get(URI_VARIABLE, f"sqlite:///{REPOSITORY / 'outputs' / 'mlflow.db'}"))


def origin(uri: str, sweep: Run) -> str:
    """A Markdown table that says where a sweep's numbers come from, with a warning below it where they mean nothing."""
    cores, gpu = (sweep.tags.get(f"env.{name}", "unknown") for name in ("cpu_cores", "gpu"))
    told = {
        "database": uri,
        "experiment": sweep.folder,
        "sweep": sweep.name,
        "parent run": sweep.id,
        "started": sweep.started,
        "status": sweep.status,
        "commit": sweep.commit,
        "backbone": sweep.setting.backbone,
        "data": sweep.setting.data,
        "machine": f"{cores} CPU cores, GPU: {gpu}",
    }
    lines = ["| | |", "| --- | --- |", *(f"| {key} | `{value}` |" for key, value in told.items())]
    return "\n".join(lines) + (f"\n\n**{QUICK_WARNING}**" if sweep.setting.quick else "")


def means_table(means: Sequence[Mean]) -> str:
    """A Markdown table, a line a method, k, variant and layer; accuracies in %."""
    head = "| method | k % | variant | l | accuracy | ± questions | ± seeds | seeds | vision tokens |"
    lines = [head, "|---|---:|---|---:|---:|---:|---:|---:|---:|"]
    for mean in means:
        key = mean.key
        numbers = [mean.accuracy, mean.stderr_questions, mean.stderr_seeds]
        cells = ["" if value is None else f"{100 * value:.2f}" for value in numbers]
        tokens = mean.metric("prune/kept_tokens")
        cells += [str(len(mean.runs)), "" if tokens is None else f"{tokens:.0f}"]
        lines.append(f"| {key.method} | {key.percent:g} | {key.variant} | {key.layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
