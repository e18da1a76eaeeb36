"""The benchmark runs, and its rows say what they claim."""

import json

import pytest
import torch

from stts_lightning.bench import case, main, measure
from stts_lightning.bench.case import Shape
from stts_lightning.bench.steps import Bench
from stts_lightning.bench.write import markdown_table, page

CPU = torch.device("cpu")
TEXT = 40  # tokens of a prompt beside its video's


@pytest.fixture(scope="module", autouse=True)
def short_prompts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(case.TEXT_TOKENS, "small", TEXT)
        yield


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    said = []
    tables = ("train", "methods", "overhead")
    found = main.bench(folder, size="small", rounds=1, only=tables, shapes=[(2, 3)], say=said.append)
    assert said
    return folder, found


def test_writes_json_with_machine_versions_and_commit(results):
    folder, found = results
    saved = json.loads((folder / "bench.json").read_text())
    assert saved["versions"]["torch"] == torch.__version__ and saved["commit"] == found["commit"]
    assert saved["machine"]["peak_tflops"] > 0 and saved["machine"]["processor"]
    assert (folder / "bench.png").stat().st_size > 5000
    text = (folder / "bench.md").read_text()
    assert text == page(found) and "nan" not in text


def test_every_run_stands_beside_the_others(results):
    check_runs(results[1]["tables"]["train"])


@pytest.mark.slow
def test_prefill_has_the_same_rows_and_decodes(tmp_path):
    only = ("prefill", "overhead")
    tables = main.bench(tmp_path, size="small", rounds=1, only=only, shapes=[(2, 3)], say=lambda _: None)["tables"]
    check_runs(tables["prefill"])
    assert all(row["decode_ms_per_token"] >= 0 for row in tables["prefill"])
    assert [row["step"] for row in tables["overhead"]] == ["prefill"]


def check_runs(table):
    rows = {row["run"]: row for row in table}
    assert list(rows) == ["stock", "0", "30", "40", "50"]
    assert rows["stock"]["tokens"] == rows["0"]["tokens"] == 2 * (3 * 18 + TEXT)
    assert rows["50"]["tokens"] == rows["0"]["tokens"] - 2 * 24
    assert rows["0"]["over_own_0"] == 1.0 and rows["stock"]["over_stock"] == 1.0
    for row in rows.values():
        assert row["low"] <= row["ms"] <= row["high"] and row["peak_mib"] > 0 and 0 < row["mfu"] < 1.5
        assert row["over_own_0"] == pytest.approx(rows["0"]["ms"] / row["ms"])
        assert row["of_bound"] == pytest.approx(row["over_own_0"] / row["flop_bound"])
    assert rows["50"]["flop_bound"] > rows["30"]["flop_bound"] > 1


def test_methods_are_compared_with_stts(results):
    rows = {row["method"]: row for row in results[1]["tables"]["methods"]}
    assert set(rows) == {"random", "heuristic", "stts", "stts_saliency"} and rows["stts"]["over_stts"] == 1.0
    assert all(row["over_stts"] == pytest.approx(rows["stts"]["ms"] / row["ms"]) for row in rows.values())


def test_a_method_by_name_is_that_method_and_learns():
    bench, shape = Bench("small", CPU), Shape("small", 1, 3)
    for method in ("stts", "stts_saliency", "heuristic"):
        before = {name: p.clone() for name, p in bench.scorers.named_parameters()}
        bench.train_step("50", shape, method=method)()
        moved = {name.split(".")[0] for name, p in bench.scorers.named_parameters() if not torch.equal(p, before[name])}
        assert moved == ({method} if method.startswith("stts") else set())
        assert bench.model.model.prune_config.method == method


def test_overhead_is_a_share_of_its_step(results):
    tables = results[1]["tables"]
    assert [row["step"] for row in tables["overhead"]] == ["train"]
    for row in tables["overhead"]:
        assert row["share"] == pytest.approx((row["score"] + row["select"] + row["pack"]) / row["step_ms"])


@pytest.mark.slow
def test_slopes_are_since_the_row_before_and_layouts_are_compared(tmp_path):
    only = ("layouts", "growth")
    tables = main.bench(tmp_path, size="small", rounds=1, only=only, shapes=[(2, 3)], growth=(2, 4))["tables"]
    assert [row["run"] for row in tables["layouts"]] == ["10", "30", "50", "70", "90"]
    rows = tables["growth"]
    assert [(row["run"], row["frames"]) for row in rows] == [("0", 2), ("0", 4), ("50", 2), ("50", 4)]
    assert 2 ** rows[1]["time_slope"] == pytest.approx(rows[1]["ms"] / rows[0]["ms"])
    assert "time_slope" not in rows[2]


def test_a_run_by_name_is_that_run():
    """`stock` is transformers' own class, and the others prune what their name says; the model learns nothing of it."""
    bench, shape, seen = Bench("small", CPU), Shape("small", 1, 3), []
    forward = type(bench.model).__mro__[1].forward

    def spy(self, *args, **kwargs):
        seen.append((type(self).__name__, kwargs["inputs_embeds"].shape[1] if "inputs_embeds" in kwargs else None))
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bench.model).__mro__[1], "forward", spy)
        for name in ("stock", "0", "50", "stock"):
            bench.prefill(name, shape)()
    length = 3 * 18 + TEXT
    stock = ("Molmo2ForConditionalGeneration", None)
    assert seen == [stock, ("PrunedMolmo2", length), ("PrunedMolmo2", length - 24), stock]


def test_memory_of_a_call_is_what_it_took():
    peak = measure.peak_memory_mib(lambda: torch.ones(64, 2**18).sum(), CPU)
    assert peak is None or 60 < peak < 90  # 64 MiB
    assert peak is not None or not measure.CLEAR.exists()


def test_ratios_are_of_the_same_round():
    slow_machine_in_round_two = measure.Spread([2.0, 20.0, 2.0]), measure.Spread([1.0, 10.0, 4.0])
    assert slow_machine_in_round_two[1].times_as_fast_as(slow_machine_in_round_two[0]) == 2.0
    assert slow_machine_in_round_two[0].later_than(slow_machine_in_round_two[1]) == 1.0
    assert slow_machine_in_round_two[0].median == 2.0 and slow_machine_in_round_two[0].high == 20.0


def test_side_by_side_takes_turns():
    seen = []
    runs = {name: lambda name=name: seen.append(name) for name in "ab"}
    spread = measure.side_by_side(runs, CPU, rounds=2)
    assert seen == list("ab") * 3 and set(spread) == {"a", "b"}


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="--only names speed"):
        main.bench(tmp_path, only=["speed"])


def test_columns_keep_their_order_and_gaps_are_shown():
    text = markdown_table([{"run": "0", "ms": 1234.5}, {"run": "50", "ms": 0.123, "share": 0.5}])
    assert text.splitlines() == [
        "| run | ms | share |", "|---|---:|---:|", "| 0 | 1234 | - |", "| 50 | 0.123 | 50.0% |",
    ]  # fmt: skip
