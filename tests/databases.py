"""A tracking database that is there already: MLflow takes ten seconds to make one, and a copy is as good."""

from __future__ import annotations

import functools
import os
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
    """One for all processes of a test run; the client locks it while it is made."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    path = Path(tempfile.gettempdir()) / f"stts-tests-{run}" / "mlflow.db"
    path.parent.mkdir(exist_ok=True)
    tracking_client(TrackingConfig(uri=f"sqlite:///{path}"))
    return path
