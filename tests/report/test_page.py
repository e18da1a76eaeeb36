"""What the page says, from a database that was written through the project's own functions."""

from __future__ import annotations

import re

from page_parser import Page

from stts_lightning.config import TrackingConfig
from stts_lightning.report.collect import artifacts, children, newest_sweep, open_database
from stts_lightning.report.tables import QUICK_WARNING


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
    assert "STTS at 50 %." not in strength and "Not run: Qwen3-VL-4B, another model" in strength
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


def test_decisions_are_kept_with_a_run(recorded: TrackingConfig) -> None:
    client = open_database(recorded)
    runs = children(client, newest_sweep(client, "layer_depth"))
    assert len(runs) == 2 and all("decisions.npz" in artifacts(client, run) for run in runs)
