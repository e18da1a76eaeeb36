"""A database with sweeps and benches, and the page made from it."""

from __future__ import annotations

import pytest
from page_parser import Page
from recorded import Fake, bench_body, fresh, record_bench, record_sweep

from stts_lightning.benchmark.averages import LONG, SHORT
from stts_lightning.config import Config, TrackingConfig
from stts_lightning.report.page.main import write_page

PNG = b"\x89PNG not really"
MS = {("2 x 64", "0"): 1000.0, ("2 x 64", "30"): 800.0, ("1 x 256", "0"): 3000.0, ("1 x 256", "50"): 1200.0}
BENCHMARKS = {"next_qa": 0.5, "perception_test": 0.6, "mvbench": 0.7, "tomato": 0.2, "motion_bench": 0.4}


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    out = tmp_path_factory.mktemp("outputs")
    tracking = fresh(out)
    runs = [Fake("none", 0, s, a) for s, a in ((0, 0.9), (1, 0.92))]
    runs += [Fake("tome", 50, 0, 0.11), Fake("stts", 50, 0, 0.80), Fake("stts", 50, 1, 0.84)]
    runs += [Fake("stts", 30, 0, 0.8765, benchmarks=BENCHMARKS), Fake("tome", 50, 0, 0.7)]
    folders = iter(range(10))
    for run in runs:  # a sweep each: the two runs of one key have folders of their own
        record_sweep(tracking, out / f"s{next(folders)}", "pruning_strength", [run])
    record_sweep(tracking, out / "quick", "methods", [Fake("stts", 50, 0, 0.5)], quick=True)
    layers = [Fake("stts", 50, 0, 0.6 + 0.05 * layer, layer, decisions=True) for layer in (0, 3)]
    record_sweep(tracking, out / "layers", "layer_depth", layers, pictures={"contact_sheet.png": PNG})
    asked = {"images/num_questions": 60.0, "images/stock_same_logits": 60.0}
    record_sweep(tracking, out / "images", "image_results", [Fake("stts", benchmarks={"image": 0.61}, more=asked)])
    whole = {name: 0.4 for name in SHORT} | {name: 0.2 for name in LONG} | {"mlvu": 0.9}
    only = Fake("tome", accuracy=0.66, variant="inference_only", benchmarks=whole)
    record_sweep(tracking, out / "tome", "tome", [only, Fake("stts", accuracy=0.77)])
    scaled = Fake("stts", accuracy=0.55, variant="test_time_scaling", frames=16)
    record_sweep(tracking, out / "scaled", "test_time_scaling", [scaled, Fake("stts", accuracy=0.5, frames=8)])
    record_bench(tracking, out / "old", "train_throughput", bench_body("train", {("2 x 64", "0"): 7.0}))
    record_bench(tracking, out / "bench", "train_throughput", bench_body("train", MS))
    record_sweep(tracking, out / "mine", "", [Fake("random", 20, 0, 0.4321)])
    return tracking


@pytest.fixture(scope="session")
def text(recorded: TrackingConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    return write_page(Config(tracking=recorded), out).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(text: str) -> Page:
    return Page(text)
