"""The page, made from a database that was written through the project's own functions."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from shutil import copy
from xml.etree import ElementTree

import pytest
from recorded import Fake, bench_body, record_bench, record_sweep, tracking_in

from stts_lightning.cli import main
from stts_lightning.config import Config, TrackingConfig
from stts_lightning.report.mlflow_runs import tracking_client
from stts_lightning.report.page.experiments import EXPERIMENTS
from stts_lightning.report.page.main import write_page
from stts_lightning.report.published import LONG, SHORT
from stts_lightning.report.tables import QUICK_WARNING

PNG = b"\x89PNG not really"
MS = {("2 x 64", "0"): 1000.0, ("2 x 64", "30"): 800.0, ("1 x 256", "0"): 3000.0, ("1 x 256", "50"): 1200.0}
BENCHMARKS = {"next_qa": 0.5, "perception_test": 0.6, "mvbench": 0.7, "tomato": 0.2, "motion_bench": 0.4}
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags that must close, tables as text by caption, every address, and the text of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tables: list[tuple[str, str, list[list[str]]]] = []
        self.sections: dict[str, str] = {"": ""}
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [str(values[name]) for name in ("src", "href", "action", "data") if name in values]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self.section = str(values["id"])
            self.sections[self.section] = ""
        elif tag == "table":
            self.tables.append((self.section, "", []))
        elif tag == "tr":
            self.tables[-1][2].append([])
        elif tag in ("td", "th"):
            self.tables[-1][2][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.sections[self.section] += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][2][-1][-1] += data
        elif self.open and self.open[-1] == "caption":
            section, _, rows = self.tables[-1]
            self.tables[-1] = (section, data, rows)

    def rows(self, section: str, caption: str) -> list[dict[str, str]]:
        """A table's rows by column; the columns on our side have no doubles on the paper's."""
        body = next(rows for s, c, rows in self.tables if s == section and caption in c)
        return [dict(zip(body[0], row, strict=True)) for row in body[1:]]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without a run, to be copied: its migrations take seconds."""
    tracking = tracking_in(tmp_path_factory.mktemp("empty"))
    tracking_client(tracking)
    return Path(tracking.uri.removeprefix("sqlite:///"))


def fresh(empty: Path, folder: Path) -> TrackingConfig:
    copy(empty, folder / empty.name)
    return tracking_in(folder)


@pytest.fixture(scope="module")
def recorded(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    out = tmp_path_factory.mktemp("outputs")
    tracking = fresh(empty, out)
    runs = [Fake("none", 0, s, a) for s, a in ((0, 0.9), (1, 0.92))]
    runs += [Fake("stts", 50, 0, 0.11), Fake("stts", 50, 0, 0.80), Fake("stts", 50, 1, 0.84)]
    runs += [Fake("stts", 30, 0, 0.8765, benchmarks=BENCHMARKS), Fake("tome", 50, 0, 0.7)]
    folders = iter(range(10))
    for run in runs:  # a sweep each: the two runs of one key have folders of their own
        record_sweep(tracking, out / f"s{next(folders)}", "pruning_strength", [run])
    record_sweep(tracking, out / "quick", "methods", [Fake("stts", 50, 0, 0.5)], quick=True)
    layers = [Fake("stts", 50, 0, 0.6 + 0.05 * layer, layer) for layer in (0, 3)]
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


@pytest.fixture(scope="module")
def text(recorded: TrackingConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    return write_page(Config(tracking=recorded), out).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_two_seeds_give_mean_and_both_errors_by_hand(page: Page) -> None:
    rows = page.rows("pruning_strength", "table 1 beside ours")
    stts = next(row for row in rows if (row[""], row["k %"]) == ("STTS", "50"))
    # 0.80 and 0.84: mean 0.82, deviation 0.02828, over the root of two seeds 0.02; each run's own error is 0.02.
    assert (stts["accuracy %"], stts["± seeds"], stts["± questions"], stts["seeds"]) == ("82.00", "2.00", "2.00", "2")
    assert (stts["vision tokens"], stts["clips/s"], stts["GiB"]) == ("64", "12.5", "0.90")
    alone = next(row for row in rows if (row[""], row["k %"]) == ("STTS", "30"))
    assert (alone["accuracy %"], alone["± seeds"]) == ("87.65", "–")


def test_the_newest_run_of_a_key_counts_and_the_older_one_is_mentioned(page: Page) -> None:
    assert "11.00" not in {cell for row in page.rows("pruning_strength", "beside ours") for cell in row.values()}
    assert "6 finished runs, the newest of each row and seed; 1 older one with" in page.sections["pruning_strength"]


def test_printed_and_recomputed_averages_stand_side_by_side(page: Page) -> None:
    rows = {(row[""], row["k %"]): row for row in page.rows("pruning_strength", "table 1 beside ours")}
    assert rows["STTS", "50"]["Long, printed"] == "58.4" and rows["STTS", "50"]["Long, from cells"] == "57.94"
    for section, number in (("pruning_strength", 1), ("methods", 2), ("test_time_scaling", 3), ("degradation", 8)):
        assert re.search(rf"Table {number}, .*?long average is printed as 58.4, its cells", page.sections[section])
    assert "Table 6, 40% with 256 frames: the speed-up is printed as 1.88" in page.sections["train_throughput"]


def test_a_run_that_the_paper_has_not_stands_below(page: Page) -> None:
    last = page.rows("pruning_strength", "table 1 beside ours")[-1]
    assert (last[""], last["accuracy %"], last["Long, printed"]) == ("ToMe", "70.00", "–")


def test_cells_of_the_benchmarks_stand_below_the_papers(page: Page) -> None:
    rows = page.rows("pruning_strength", "The benchmarks of table 1")
    index = next(i for i, row in enumerate(rows) if row["whose"] == "ours")
    assert rows[index - 1]["whose"] == "paper" and rows[index - 1]["next_qa"] == "84.1"
    assert (
        rows[index]["next_qa"] == "50.0 ± 1.2" and rows[index]["tomato"] == "20.0 ± 1.2" and rows[index]["mlvu"] == "–"
    )
    assert rows[index]["Short"] == "–"  # five of its six benchmarks are no short average


def test_averages_of_ours_are_the_papers_where_the_paper_prints_no_cells(page: Page) -> None:
    rows = page.rows("tome", "The benchmarks of table 5")
    (ours,) = [row for row in rows if row["whose"] == "ours"]
    # Short 40; long (6 x 20 + 90) / 7 = 30; the mean of the two, not of the thirteen cells (34.6).
    assert (ours[""], ours["Short"], ours["Long"], ours["Average"]) == (
        "ToMe, inference only, 50 %", "40.00", "30.00", "35.00",
    )  # fmt: skip
    assert [row["Average"] for row in rows if row["whose"] == "paper"] == ["59.1", "59.2", "61.1", "62.3"]


def test_variants_stand_in_their_own_rows(page: Page) -> None:
    tome = {row[""]: row["accuracy %"] for row in page.rows("tome", "table 5 beside ours")}
    assert tome == {
        "Heuristic, inference only": "–", "ToMe, inference only": "66.00", "ToMe": "–", "STTS": "77.00",
    }  # fmt: skip
    scaled = [row for row in page.rows("test_time_scaling", "table 3") if row["k %"] == "50"]
    assert [(row[""], row["accuracy %"], row["frames"]) for row in scaled] == [
        ("STTS", "50.00", "8"), ("STTS, test-time scaling", "55.00", "16"),
    ]  # fmt: skip


def test_the_embedded_images_and_their_proof_are_shown(page: Page) -> None:
    (row,) = page.rows("image_results", "Ours alone")
    assert (row["image"], row["num questions"], row["stock same logits"]) == ("61.0 ± 1.2", "60", "60")
    assert "none of these runs" not in page.sections["image_results"]


def test_what_has_not_been_run_is_said_with_the_line_that_runs_it(page: Page) -> None:
    strength = page.sections["pruning_strength"]
    assert "Not run: STTS at 40 %. make experiment NAME=pruning_strength PRUNE=40 runs it." in strength
    assert "STTS at 50 %." not in strength and "Not run: Qwen3-VL-4B, PLM-8B, InternVL3.5-8B" in strength
    assert "Not run: Random at 50 %. make experiment NAME=methods METHODS=random runs it." in page.sections["methods"]
    assert "make experiment NAME=degradation METHODS=random PRUNE=60 runs it" in page.sections["degradation"]
    layers = page.sections["layer_depth"]
    assert "STTS at 50 %, l = 1. make experiment NAME=layer_depth ARGS='sweep.layers=[1]' runs it." in layers
    assert "l = 3. make" not in layers
    assert "Not run: our side. make experiment NAME=inference_throughput" in page.sections["inference_throughput"]


def test_a_quick_run_is_marked_and_fills_no_cell(page: Page) -> None:
    methods = page.sections["methods"]
    assert QUICK_WARNING in methods and "Not run: STTS at 50 %" in methods
    assert QUICK_WARNING not in page.sections["pruning_strength"]


def test_the_newest_bench_stands_beside_table_6(page: Page) -> None:
    rows = {(row["batch"], row["k %"]): row for row in page.rows("train_throughput", "table 6 beside ours")}
    mine = rows["1 x 256", "50"]
    assert (mine["ms"], mine["speed-up over k = 0"], mine["batches/s"]) == ("1200", "2.50x", "0.8333")
    assert (mine["speed-up, printed"], mine["speed-up, from cells"]) == ("2.25x", "2.25x")
    assert mine["tokens, by its formula"] == "14939" and rows["2 x 64", "40"]["ms"] == "–"
    assert "1 older one" in page.sections["train_throughput"]


def test_layers_have_rows_of_their_own_and_the_sheet_of_their_sweep(page: Page, text: str) -> None:
    rows = page.rows("layer_depth", "Ours")
    found = {row["l"]: row["accuracy %"] for row in rows if row[""] == "STTS"}
    assert found == {"0": "60.00", "1": "–", "2": "–", "3": "75.00"}
    assert (
        text.count("data:image/png;base64,") == 1
        and "contact_sheet.png of sweep layers" in page.sections["layer_depth"]
    )


def test_other_sweeps_have_a_section(page: Page) -> None:
    assert page.rows("others", "Ours")[0]["accuracy %"] == "43.21"


def test_configuration_and_commit_of_each_run_are_there(page: Page, recorded: TrackingConfig) -> None:
    strength = page.sections["pruning_strength"]
    assert strength.count("MLflow run: ") == 6 and "prune.layer: 0" in strength and "commit: " in strength
    assert recorded.uri in page.sections[""]


def test_nothing_outside_the_page_is_referenced(page: Page, text: str) -> None:
    assert page.addresses and all(re.match(r"#|data:(image|video)/", address) for address in page.addresses)
    assert not re.search(r"https?://|url\((?!#)|@import|<script|<link", text)
    assert set(page.sections) - {"", "others"} == {experiment.name for experiment in EXPERIMENTS}


def test_drawings_are_well_formed_and_take_the_pages_colour(text: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 5  # strength, training, inference, degradation, layers
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("viewBox") and "currentColor" in drawing and root[0].tag == "title"
    words = [unescape("".join(ElementTree.fromstring(drawing).itertext())) for drawing in drawings]
    assert "2.50" in words[1] and "ours, 256 frames" in words[1] and "ours" not in words[2]


def test_text_from_the_database_is_escaped(empty: Path, tmp_path: Path) -> None:
    tracking = fresh(empty, tmp_path)
    record_sweep(tracking, tmp_path / "a<b>&c", "methods", [Fake("stts")], pictures={"sheet.png": PNG})
    text = write_page(Config(tracking=tracking), tmp_path / "report.html").read_text()
    assert "a&lt;b&gt;&amp;c" in text and "a<b>" not in text and Page(text)


def test_paired_differences_are_asked_of_the_seeds_that_both_have(empty: Path, tmp_path: Path) -> None:
    tracking = fresh(empty, tmp_path)
    runs = [Fake("stts", seed=0), Fake("stts", seed=1), Fake("random", seed=1), Fake("random", 30), Fake("none", 0)]
    record_sweep(tracking, tmp_path / "s", "methods", runs)
    asked = []

    def compare(one: list[Path], other: list[Path]) -> str:
        asked.append([[len(path.read_text().splitlines()) for path in paths] for paths in (one, other)])
        return "no difference"

    text = write_page(Config(tracking=tracking), tmp_path / "report.html", compare).read_text()
    assert asked == [[[40], [40]]]
    assert "STTS 50 % against Random 50 %: no difference" in Page(text).sections["methods"]


def test_the_command_writes_the_page_and_refuses_a_database_that_is_not_there(
    recorded: TrackingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    assert main(["report", "--out", str(out), f"tracking.uri={recorded.uri}"]) == 0 and out.is_file()
    assert main(["report", "--out", str(out), f"tracking.uri=sqlite:///{tmp_path}/none.db"]) == 2
    assert "no such database" in capsys.readouterr().err and not (tmp_path / "none.db").exists()


def test_decisions_are_kept_with_a_run(recorded: TrackingConfig) -> None:
    from stts_lightning.report.collect import artifacts, children, newest_sweep, open_database

    client = open_database(recorded)
    (run, _) = children(client, newest_sweep(client, "layer_depth"))
    assert "decisions.npz" in artifacts(client, run)
    assert json.loads(run.params["prune.percent"]) == 50.0
