"""Every benchmark, from its files in the published layout to its score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layouts import LAYOUTS

from stts_lightning.benchmark.averages import IMAGE, LONG, MULTI_IMAGE, SHORT
from stts_lightning.benchmark.declare import load_benchmark
from stts_lightning.benchmark.load import load_items
from stts_lightning.benchmark.run import run_benchmark, save_result
from stts_lightning.config import benchmark_names

SNAPSHOTS = Path(__file__).parent / "snapshots"
NAMES = SHORT + LONG + IMAGE + MULTI_IMAGE


def scripted(items, answers):
    said = dict(zip([item.id for item in items], answers, strict=True))
    return lambda item: said[item.id]


def test_there_are_thirteen_of_videos_and_thirteen_of_images():
    assert (len(SHORT), len(LONG), len(IMAGE), len(MULTI_IMAGE)) == (6, 7, 11, 2)
    assert sorted(NAMES) == list(benchmark_names()) == sorted(LAYOUTS)
    for group, members in (("short", SHORT), ("long", LONG), ("image", IMAGE), ("multi_image", MULTI_IMAGE)):
        assert {load_benchmark(name).group for name in members} == {group}


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_score_one_and_wrong_ones_nothing(name, loaded):
    benchmark, items, layout = loaded(name)
    assert len({item.id for item in items}) == len(items)
    right = run_benchmark(benchmark, items, scripted(items, layout.right))
    assert right.accuracy == 1 and right.num_questions == len(layout.right)
    wrong = run_benchmark(benchmark, items, scripted(items, layout.wrong))
    assert wrong.accuracy == 0


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_frozen(name, loaded):
    """Reviewed by hand against Molmo2's evaluation; a text that changes changes numbers."""
    _, items, _ = loaded(name)
    shown = "".join(f"=== {item.id}\n{item.prompt}\n" for item in items)
    assert shown == (SNAPSHOTS / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_a_benchmark_leaves_out_are_counted(name, root):
    assert load_items(load_benchmark(name), root).dropped == LAYOUTS[name].dropped


@pytest.mark.parametrize("name", NAMES)
def test_both_controls_run_without_any_video_or_picture(name, loaded, lay_out):
    benchmark, _, layout = loaded(name)
    folder = lay_out(name)
    for path in folder.rglob("*"):
        if path.suffix in (".mp4", ".jpg", ".png"):
            path.unlink()
    items = load_items(benchmark, folder, need_media=False).items
    seen = []

    def nobody(item):
        seen.append(item)
        return "A"

    blind = run_benchmark(benchmark, items, nobody, control="no_vision")
    assert blind.control == "no_vision" and len(seen) == len(layout.right)
    assert all(item.video is None and not item.images and not item.subtitles for item in seen)
    assert [item.prompt for item in seen] == [item.prompt for item in items]
    guessed = run_benchmark(benchmark, items, nobody, control="random_choice")
    assert len(seen) == len(layout.right), "random choice asks nobody"
    assert guessed.num_unparsed == 0
    again = run_benchmark(benchmark, items, nobody, control="random_choice")
    assert again == guessed


def test_predictions_are_saved_by_question(loaded, tmp_path):
    benchmark, items, layout = loaded("next_qa")
    result = run_benchmark(benchmark, items, scripted(items, ["E", "B"]))
    save_result(result, tmp_path / "next_qa")
    lines = [json.loads(line) for line in (tmp_path / "next_qa/predictions.jsonl").read_text().splitlines()]
    assert [line["correct"] for line in lines] == [True, False]
    assert lines[0] | {"kind": 0, "text": 0, "score": 0, "parsed": 0, "counted": 0, "correct": 0} == {
        "id": "4010069381_7", "video": "NExTVideo/4010069381.mp4", "category": "CW",
        "question": "why did the boy clap", "options": ["to dance", "cold", "to wave", "angry", "happy"],
        "answer": 4, "predicted": 4, "kind": 0, "text": 0, "score": 0, "parsed": 0, "counted": 0, "correct": 0,
    }  # fmt: skip
    body = json.loads((tmp_path / "next_qa/result.json").read_text())
    assert body["accuracy"] == 0.5 and body["num_questions"] == 2 and "predictions" not in body


def test_mlvu_shows_both_means(loaded):
    """Tasks of one, one and two questions: (1 + 0 + 1/2) / 3 is not (1 + 0 + 1) / 4."""
    benchmark, items, _ = loaded("mlvu")
    by_task = {item.category: item for item in items}
    asked = [by_task["plotQA"], by_task["needle"], by_task["ego"], by_task["ego"]]
    said = iter(["B", "B", "B", "A"])
    result = run_benchmark(benchmark, asked, lambda item: next(said))
    assert result.metrics["micro"] == pytest.approx(2 / 4) == result.accuracy
    assert result.metrics["m_avg"] == pytest.approx((1 + 0 + 1 / 2) / 3)


def test_mmiu_keeps_a_right_answer_that_is_no_option(lay_out):
    import pyarrow.parquet as pq
    from layout import write_parquet

    folder = lay_out("mmiu")
    path = folder / "mmiu/data/test-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[1]["output"] = "G"
    write_parquet(path, rows)
    benchmark = load_benchmark("mmiu")
    items = load_items(benchmark, folder).items
    assert run_benchmark(benchmark, items, lambda item: "B").accuracy == 0.5
