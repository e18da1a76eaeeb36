"""What a sweep leaves: results.csv, results.md, accuracy.png, contact_sheet.png; of several seeds paired.csv."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from stts_lightning.report.figures import accuracy_figure, contact_sheet
from stts_lightning.report.paired import Pair, paired_markdown, sweep_pairs, write_paired
from stts_lightning.report.tables import (
    QUICK_WARNING,
    Row,
    average,
    csv_text,
    markdown,
    method_rank,
    row,
    series_names,
    sort_rows,
)
from stts_lightning.runs import Result, RunDir

SHEET_PERCENT = 50.0  # of the contact sheet, or the nearest that there is


def write_report(
    folder: Path,
    results: Mapping[str, Result],
    failed: Mapping[str, str],
    *,
    quick: bool = False,
    out: Path | None = None,
) -> list[Path]:
    """Write a sweep's tables and figures.

    Args:
        folder: the sweep's; a run's folder is ``folder / name``.
        out: where the files go, if not into ``folder``.
        results: of the finished runs, by name.
        failed: the last line of the log of each run that failed, by name.

    Returns:
        the files written.
    """
    rows = sort_rows(row(result) for result in results.values())
    pairs = sweep_pairs(folder, results) if len({r.seed for r in rows}) > 1 else []
    out = out or folder
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "results.csv", out / "results.md"]
    _write(files[0], csv_text(rows))
    _write(files[1], _markdown_page(out.name, rows, pairs, results, failed, quick))
    if not rows:
        return files
    if pairs:
        files.append(out / "paired.csv")
        write_paired(pairs, files[-1])
    text_only = [r.accuracy for r in rows if r.prune_percent == 100]
    files.append(out / "accuracy.png")
    accuracy_figure(
        rows,
        files[-1],
        chance=_chance(folder, results),
        text_only=sum(text_only) / len(text_only) if text_only else None,
        note=QUICK_WARNING if quick else "",
    )
    decisions = _sheet_runs(folder, results)
    if decisions:
        files.append(out / "contact_sheet.png")
        contact_sheet(decisions, files[-1])
    return files


def point_latest(folder: Path, name: str = "latest") -> None:
    """Make ``name`` beside the folder of a report lead to it."""
    link = folder.parent / name
    aside = folder.parent / f".{name}-{os.getpid()}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder.name, target_is_directory=True)
    os.replace(aside, link)


def _markdown_page(
    name: str,
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    results: Mapping[str, Result],
    failed: Mapping[str, str],
    quick: bool,
) -> str:
    parts = [f"# Sweep {name}"]
    if quick:
        parts.append(f"**{QUICK_WARNING}**")
    parts.append(markdown(rows) if rows else "No run has finished.")
    if len({r.seed for r in rows}) > 1:
        parts.append("## Averaged over the seeds\n\n" + markdown(average(rows)))
    if pairs:
        parts.append(
            "## Paired differences\n\nOf accuracy, by question, averaged over the seeds. The intervals are clustered "
            "by video and do not cover other seeds.\n\n" + paired_markdown(pairs)
        )
    if failed:
        parts.append("## Failed\n\n" + "\n".join(f"- `{run}`: `{line}`" for run, line in failed.items()))
    if rows:
        questions = sorted({result.num_questions for result in results.values()})
        commits = sorted({str(result.git_commit) for result in results.values()})
        parts.append(
            f"Accuracy is over {' or '.join(map(str, questions))} questions, its standard error clustered by video; "
            "kept_tokens is the mean number of vision tokens of a clip that reach the language model; "
            f"samples_per_second counts clips in training. Commit {', '.join(commits)}."
        )
        parts.append("![Accuracy against the pruned share](accuracy.png)")
    return "\n\n".join(parts) + "\n"


def _chance(folder: Path, results: Mapping[str, Result]) -> float | None:
    """Accuracy of a guess: the mean of 1 / options over the questions of the first run that lists them."""
    for name in results:
        path = RunDir(folder / name).predictions
        if path.is_file():
            with path.open(encoding="utf-8") as lines:
                shares = [1 / len(json.loads(line)["options"]) for line in lines if line.strip()]
            return sum(shares) / len(shares) if shares else None
    return None


def _sheet_runs(folder: Path, results: Mapping[str, Result]) -> dict[str, Path]:
    """decisions.npz by method, at the percentage that most methods have, the nearest to one half."""
    found: dict[float, dict[str, Path]] = {}
    names = series_names(row(result) for result in results.values())
    for name, result in sorted(results.items(), key=lambda item: (method_rank(item[1].method), item[1].seed)):
        path = RunDir(folder / name).decisions
        shown = (
            result.method != "none" and result.prune_percent < 100 and result.variant in ("trained", "inference_only")
        )
        if shown and path.is_file():
            found.setdefault(result.prune_percent, {}).setdefault(names[row(result).series], path)
    if not found:
        return {}
    best = max(found, key=lambda percent: (len(found[percent]), -abs(percent - SHEET_PERCENT)))
    return found[best]


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
