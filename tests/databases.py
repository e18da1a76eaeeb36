"""A tracking database that is there already: MLflow takes ten seconds to make one, and a copy is as good."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from stts_lightning.config import TrackingConfig
from stts_lightning.report.mlflow_runs import tracking_client


def empty_database(path: Path) -> str:
    """Put an empty database there; its address."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_template(), path)
    return f"sqlite:///{path}"


@functools.cache
def _template() -> Path:
    path = Path(tempfile.mkdtemp(prefix="stts-tests-")) / "mlflow.db"
    tracking_client(TrackingConfig(uri=f"sqlite:///{path}")).search_experiments()
    return path
