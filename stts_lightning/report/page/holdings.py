"""What the page is made of: everything that the database holds, read once and sorted by experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stts_lightning.report.collect import Run, Setting, artifacts, read_bytes, read_json, read_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILM_LIMIT_BYTES = 8 * 2**20  # a longer film would make the page a burden
PREDICTIONS = "predictions.jsonl"

# The predictions of one method's seeds and of another's, in the same order: a sentence on their difference.
Compare = Callable[[Sequence[Path], Sequence[Path]], str]


@dataclass(frozen=True)
class Holdings:
    """All runs of the database; nothing is read again but the files of those that are shown."""

    client: MlflowClient
    uri: str
    runs: tuple[Run, ...]  # oldest first
    compare: Compare | None = None  # None: no paired differences on the page

    def of(self, experiment: str, kind: str) -> list[Run]:
        """Finished runs of one kind."""
        return [run for run in self.all_of(experiment, kind) if run.status == "FINISHED"]

    def all_of(self, experiment: str, kind: str) -> list[Run]:
        return [run for run in self.runs if run.kind == kind and run.experiment == experiment]

    def hosts(self) -> dict[str, list[Run]]:
        """The evaluations of each other model, oldest first, by its name in conf/host/."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            if run.kind == "host" and run.status == "FINISHED":
                found.setdefault(run.host, []).append(run)
        return found

    def settings(self, experiment: str) -> list[Setting]:
        """Real ones first."""
        found = dict.fromkeys(run.setting for run in self.of(experiment, "run"))
        return sorted(found, key=lambda setting: (setting.quick, setting.backbone, setting.data))

    def bench(self, experiment: str) -> tuple[Run, dict[str, Any]] | None:
        """The newest bench that has its artifact, a quick one only where there is no other."""
        found = self.of(experiment, "bench")
        for run in sorted(found, key=lambda run: (not run.setting.quick, run.started_ms), reverse=True):
            body = read_json(self.client, run, "bench.json")
            if body is not None:
                return run, body
        return None

    def pictures(self, sweep: Run) -> list[tuple[str, bytes]]:
        """The contact sheets of a sweep, and its films that are small enough, by file name."""
        found = []
        for name in artifacts(self.client, sweep):
            if name.endswith((".png", ".mp4")) and name != "accuracy.png":
                body = read_bytes(self.client, sweep, name)
                if body is not None and (name.endswith(".png") or len(body) <= FILM_LIMIT_BYTES):
                    found.append((name, body))
        return found


def read_holdings(client: MlflowClient, uri: str, compare: Compare | None = None) -> Holdings:
    return Holdings(client, uri, tuple(read_runs(client)), compare)
