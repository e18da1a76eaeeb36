"""Where the configuration lies."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONF_DIR = REPOSITORY / "conf"
EXPERIMENTS_DIR = REPOSITORY / "experiments"


def benchmark_names() -> tuple[str, ...]:
    """The benchmarks that conf/benchmark/ has a file of."""
    return _names("benchmark")


def domain_names() -> tuple[str, ...]:
    """The generated set's domains that conf/domain/ has a file of."""
    return _names("domain")


def host_names() -> tuple[str, ...]:
    """The models that conf/host/ has a file of."""
    return _names("host")


def method_names() -> tuple[str, ...]:
    """The methods that conf/method/ has a file of."""
    return _names("method")


def _names(group: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml")))
