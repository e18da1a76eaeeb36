"""What is missing, where it is looked for, and what a declaration may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from layout import PICTURE, VIDEO, cell, picture, write
from layouts import LAYOUTS

from stts_lightning.benchmark.declare import load_benchmark
from stts_lightning.benchmark.load import load_items
from stts_lightning.config import CONF_DIR, benchmark_names


@pytest.fixture()
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of the hub, each refused."""
    import huggingface_hub

    calls: list[dict[str, Any]] = []

    def refuse(repo_id: str, **how: Any) -> str:
        calls.append({"repo_id": repo_id, **how})
        raise OSError("403 Client Error: you are not in the authorized list")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    return calls


@pytest.mark.parametrize("name", benchmark_names())
def test_a_missing_source_is_one_message(name, tmp_path, no_hub):
    benchmark = load_benchmark(name)
    with pytest.raises(ValueError) as raised:
        load_items(benchmark, tmp_path)
    said = str(raised.value)
    for part in (name, benchmark.title, benchmark.source.address, str(tmp_path / benchmark.source.folder)):
        assert part in said
    assert all(pattern in said for pattern in benchmark.source.files)
    assert ("gated" in said) == benchmark.source.gated
    assert len(no_hub) == (benchmark.source.hub is not None)
    assert "\n" not in said


def test_a_gated_source_says_how_to_get_in(tmp_path, no_hub):
    with pytest.raises(ValueError, match="accept its terms.*hf auth login"):
        load_items(load_benchmark("mlvu"), tmp_path)
    assert no_hub[0]["repo_id"] == "MLVU/MVLU" and no_hub[0]["repo_type"] == "dataset"


def test_questions_come_from_the_hub_where_the_folder_lacks_them(lay_out, tmp_path, monkeypatch):
    import huggingface_hub

    root = lay_out("ai2d")
    (root / "ai2d").rename(tmp_path / "hub")
    asked: dict[str, Any] = {}

    def fetch(repo_id: str, **how: Any) -> str:
        asked.update(how, repo_id=repo_id)
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    items = load_items(load_benchmark("ai2d"), root).items
    assert [item.answer for item in items] == [0] and items[0].images[0].read() == picture()
    assert asked == {
        "repo_id": "lmms-lab/ai2d", "repo_type": "dataset", "revision": None, "allow_patterns": ["data/test-*.parquet"],
    }  # fmt: skip


def test_local_files_come_before_the_hub(lay_out, no_hub):
    assert load_items(load_benchmark("next_qa"), lay_out("next_qa")).items and not no_hub


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if VIDEO in layout.files.values()])
def test_a_missing_video_is_named(name, lay_out):
    root = lay_out(name)
    video = next(path for path, content in LAYOUTS[name].files.items() if content is VIDEO)
    gone = root / LAYOUTS[name].folder / video
    gone.unlink()
    with pytest.raises(ValueError, match=r"1 of \d+ videos are not there, as .*Get it from http") as raised:
        load_items(load_benchmark(name), root)
    assert gone.name.split(".")[0] in str(raised.value)


@pytest.mark.parametrize("name", ["pixmo_count", "mmiu"])
def test_a_missing_picture_is_named(name, lay_out):
    root = lay_out(name)
    picture = next(path for path, content in LAYOUTS[name].files.items() if content is PICTURE)
    (root / name / picture).unlink()
    with pytest.raises(ValueError, match=f"pictures are not there, as .*{picture}"):
        load_items(load_benchmark(name), root)


def test_half_of_a_layout_is_missing_too(lay_out, no_hub):
    root = lay_out("temp_compass")
    (root / "temp_compass/yes_no/test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="temp_compass.*yes_no"):
        load_items(load_benchmark("temp_compass"), root)


def test_csv_of_the_authors_reads_as_the_parquet_of_the_hub(lay_out, tmp_path):
    root = lay_out("next_qa")
    expected = load_items(load_benchmark("next_qa"), root).items
    rows = LAYOUTS["next_qa"].files["MC/test-00000-of-00001.parquet"]
    other = LAYOUTS["next_qa"].__class__("next_qa", {"test.csv": rows, "NExTVideo/4010069381.mp4": VIDEO}, [], [])
    write(other, tmp_path / "csv", (root / "next_qa/NExTVideo/4010069381.mp4").read_bytes())
    found = load_items(load_benchmark("next_qa"), tmp_path / "csv").items
    assert [(i.id, i.prompt, i.options, i.answer) for i in found] == [
        (i.id, i.prompt, i.options, i.answer) for i in expected
    ]


def test_a_row_that_makes_no_sense_is_named_with_its_file(lay_out):
    root = lay_out("mlvu")
    path = root / "mlvu/json/3_ego.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{**rows[0], "answer": "Eve"}]))
    with pytest.raises(ValueError, match=r"mlvu.*3_ego\.json, row 0.*'Eve' is none of the 2 options"):
        load_items(load_benchmark("mlvu"), root)
    del rows[0]["candidates"]
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="no column 'candidates'"):
        load_items(load_benchmark("mlvu"), root)


def test_limit_takes_the_first_questions(root):
    assert [item.id for item in load_items(load_benchmark("mvbench"), root, limit=3).items] == [
        "action_sequence_0", "action_prediction_0", "action_antonym_0",
    ]  # fmt: skip


def test_clips_are_where_the_records_have_times(root):
    items = {item.category: item for item in load_items(load_benchmark("mvbench"), root).items}
    clipped = {task for task, item in items.items() if item.start is not None}
    assert clipped == {
        "action_sequence", "action_prediction", "object_interaction", "action_localization", "episodic_reasoning",
    }  # fmt: skip
    assert (items["action_sequence"].start, items["action_sequence"].end) == (1.0, 2.5)
    assert items["action_prediction"].video.parts[-4:-1] == ("data0613", "star", "Charades_v1_480")
    assert (
        items["fine_grained_pose"].video.name == "fine_grained_pose.mp4"
    )  # the file says .avi; the converted one is there
    others = [n for n in benchmark_names() if load_benchmark(n).has_video and n != "mvbench"]
    assert all(i.start is None and i.end is None for n in others for i in load_items(load_benchmark(n), root).items)


def test_known_trouble_with_decord_is_avoided(root):
    tomato = {item.id: item.decoder for item in load_items(load_benchmark("tomato"), root).items}
    assert tomato == {"count_0": "auto", "direction_0": "pyav"}
    assert {item.decoder for item in load_items(load_benchmark("motion_bench"), root).items} == {"pyav"}


def test_pictures_come_whole_and_in_order(root):
    muir = load_items(load_benchmark("muir_bench"), root).items[0]
    assert [image.read() for image in muir.images] == [picture(1), picture(2), picture(3)]
    mmiu = load_items(load_benchmark("mmiu"), root).items[0]
    assert [Path(image.path).name for image in mmiu.images] == ["0.png", "1.png"]
    assert cell()["bytes"] == load_items(load_benchmark("mmmu"), root).items[0].images[0].read()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("titel: x", "'titel'.*'title'"),
        ("source: {adress: x}", "adress.*'address'"),
        ("ask: {all: {promt: verbatim}}", "promt.*'prompt'"),
        ("ask: {all: {prompt: verbatm}}", "'verbatm'.*'verbatim'"),
        ("ask: {all: {extract: em_stat}}", "'em_stat'.*'em_start'"),
        ("ask: {all: {metric: anl}}", "'anl'.*'anls'"),
        ("group: shrt", "'shrt'.*'short'"),
        ("version: new", "version.*new"),
        ("controls: [no_eyes]", "'no_eyes'"),
        ("ask: {}", "`ask` is empty"),
    ],
)
def test_a_wrong_declaration_is_named_with_its_neighbour(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    body = {"name": "name: mine\n", "ask": "ask: {all: {}}\n"}
    path.write_text("".join(line for key, line in body.items() if not text.startswith(key)) + text + "\n")
    with pytest.raises(ValueError, match=f"(?s)mine.yaml.*{said}"):
        load_benchmark(path)


def test_an_unknown_benchmark_names_the_nearest():
    with pytest.raises(ValueError, match="'nextqa'.*Did you mean 'next_qa'"):
        load_benchmark("nextqa")


def test_every_declaration_says_what_it_is():
    for name in benchmark_names():
        benchmark = load_benchmark(name)
        assert (CONF_DIR / "benchmark" / f"{name}.yaml").read_text().startswith("# "), name
        assert benchmark.title and benchmark.split and benchmark.source.files and benchmark.source.address
        assert set(benchmark.controls) == {"no_vision", "random_choice"}
