"""From a file to a score with a real, tiny, pruned Molmo2."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from databases import empty_database

from stts_lightning import apply_stts
from stts_lightning.benchmark.answer import molmo2_answerer
from stts_lightning.benchmark.declare import load_benchmark
from stts_lightning.benchmark.evaluate import benchmark_model, cells, evaluate_benchmarks, molmo2_answers, stderrs
from stts_lightning.benchmark.load import load_items
from stts_lightning.benchmark.run import run_benchmark
from stts_lightning.config import (
    BackboneConfig,
    BenchmarkConfig,
    Config,
    ImageConfig,
    PruneConfig,
    TrainerConfig,
    VideoConfig,
)
from stts_lightning.runs import Result, RunDir, hashed, read_result, write_result
from stts_lightning.video import ClipReader
from stts_lightning.video.write import playable

SIDE, PATCH = 6, 4  # patches of a frame, pixels of a patch: 4 windows of 3 x 3


@pytest.fixture()
def config(root: Path) -> Config:
    return Config(
        backbone=BackboneConfig(image_size=SIDE * PATCH, patch_size=PATCH),
        prune=PruneConfig(layer=0, percent=50),
        video=VideoConfig(max_frames=4),
        trainer=TrainerConfig(accelerator="cpu"),
        benchmark=BenchmarkConfig(root=str(root), batch_size=2),
    )


@pytest.fixture()
def pruned(build_model: Any, config: Config) -> Any:
    model = build_model(side=SIDE)
    apply_stts(model, config.prune)
    return model


def answerer(name: str, pruned: Any, tokenizer: Any, config: Config) -> Any:
    return molmo2_answerer(pruned, tokenizer, config, load_benchmark(name))


def text_of(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False).replace("<im_patch>", ".")


def test_a_prompt_is_laid_out_as_molmo2_does(loaded, pruned, tiny_tokenizer, config):
    benchmark, items, _ = loaded("video_mme_sub")
    with (answer := answerer("video_mme_sub", pruned, tiny_tokenizer, config)).reader:
        shown = text_of(tiny_tokenizer, answer.ask(items[0]).ids)
        without = text_of(tiny_tokenizer, answer.ask(items[1]).ids)
    # 4 s at no more than 4 frames: 0, 4/3, 8/3 and 4 s; both subtitles are within a second of one of them
    times = ["0.0", "1.3", "2.7", "4.0"]
    frames = " ".join(f"{t} <frame_start>....<frame_end>" for t in times)
    subtitles = "subtitle\n0.2 - 0.9 Look at the berries.\n3.0 - 4.0 They are ripe.\n"
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    assert shown == f"<|im_end|>{frames}{subtitles}{turn.format(items[0].prompt)}"
    assert without == f"<|im_end|>{frames}{turn.format(items[1].prompt)}"  # the file has none of this video


def test_which_subtitles_are_shown_depends_on_the_frames(loaded, pruned, tiny_tokenizer, config):
    _, items, _ = loaded("video_mme_sub")
    middle = replace(items[0], subtitles=(items[0].subtitles[0]._replace(start=1.5, end=2.5, text="in between"),))
    shown = []
    for frames in (2, 4):
        few = replace(config, video=VideoConfig(max_frames=frames))
        with (answer := answerer("video_mme_sub", pruned, tiny_tokenizer, few)).reader:
            shown.append("in between" in text_of(tiny_tokenizer, answer.ask(middle).ids))
    assert shown == [False, True]


def test_a_clip_shows_its_own_seconds(loaded, pruned, tiny_tokenizer, config):
    _, items, _ = loaded("mvbench")
    clipped, whole = items[0], next(item for item in items if item.start is None)
    with (answer := answerer("mvbench", pruned, tiny_tokenizer, config)).reader:
        one, other = answer.ask(clipped).clip, answer.ask(whole).clip
    assert one.duration_s == pytest.approx(1.5) and other.duration_s == pytest.approx(4.0, abs=0.01)
    assert one.times[-1] == pytest.approx(1.5) and one.frame_indices[0] == 4  # 1.0 s at 4 frames a second


@pytest.mark.parametrize("name", ["next_qa", "mvbench", "video_mme_sub", "long_video_sub", "motion_bench"])
def test_from_files_to_score(name, loaded, pruned, tiny_tokenizer, config):
    """The tiny model writes nonsense, so the first question is answered for it: one is right for certain."""
    benchmark, items, _ = loaded(name)
    benchmark = replace(benchmark, max_new_tokens=3)
    answer = molmo2_answerer(pruned, tiny_tokenizer, config, benchmark)
    asked = items[:2]
    texts = answer.many(asked)

    class Lettered:
        def __call__(self, item: Any) -> str:
            raise AssertionError("asked one by one")

        def many(self, items: Any) -> list[str]:
            assert list(items) == asked
            return ["ABCDEF"[items[0].answer], *texts[1:]]

    result = run_benchmark(benchmark, asked, Lettered())
    assert [p.text for p in result.predictions][1:] == texts[1:]
    assert result.predictions[0].correct and result.num_questions == len(asked)
    assert result.accuracy == pytest.approx(sum(p.score for p in result.predictions if p.counted) / result.num_counted)


def test_a_batch_answers_as_one_question_at_a_time(loaded, pruned, tiny_tokenizer, config, decoding):
    """Also against a loop over forward, which builds its inputs by hand."""
    benchmark, items, _ = loaded("next_qa")
    benchmark = replace(benchmark, max_new_tokens=4)
    answer = molmo2_answerer(pruned, tiny_tokenizer, config, benchmark)
    together = answer.many(items)
    assert together == [answer(item) for item in items]
    assert together == [by_hand(pruned, tiny_tokenizer, item, benchmark.max_new_tokens, decoding) for item in items]


def by_hand(model: Any, tokenizer: Any, item: Any, steps: int, reader: ClipReader) -> str:
    clip = reader.read(item.video, size=SIDE * PATCH, max_frames=4, max_fps=2.0)
    windows = (SIDE // 3) ** 2
    text = "<|im_end|>"
    for i, time in enumerate(clip.times):
        text += f"{' ' if i else ''}{time:.1f} <frame_start>{'<im_patch>' * windows}<frame_end>"
    text += f"<|im_start|>user\n{item.prompt}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    n, s = SIDE, PATCH
    pixels = torch.from_numpy(clip.frames).float() / 127.5 - 1
    patches = pixels.view(-1, n, s, n, s, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, n * n, s * s * 3)
    rows = np.arange(len(patches) * n * n).reshape(-1, n // 3, 3, n // 3, 3).swapaxes(2, 3).reshape(-1, 9)
    vision = torch.tensor([tokenizer.convert_tokens_to_ids(t) for t in ("<frame_start>", "<im_patch>", "<frame_end>")])
    grids = torch.tensor([[len(patches), n // 3, n // 3]])
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + steps:
            input_ids = torch.tensor([ids])
            out = model(
                input_ids=input_ids, mm_token_type_ids=torch.isin(input_ids, vision).long(),
                pixel_values_videos=patches, video_token_pooling=torch.from_numpy(rows), video_grids=grids,
            )  # fmt: skip
            ids = [*ids, int(out.logits[0, -1].argmax())]
            if ids[-1] == tokenizer.eos_token_id:
                break
    return tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_without_vision_the_model_sees_the_prompt_alone(loaded, pruned, tiny_tokenizer, config, monkeypatch):
    benchmark, items, _ = loaded("next_qa")
    seen: list[dict[str, Any]] = []
    generate = pruned.generate

    def spy(**inputs: Any) -> Any:
        seen.append(inputs)
        return generate(**inputs)

    monkeypatch.setattr(pruned, "generate", spy)
    answer = molmo2_answerer(pruned, tiny_tokenizer, config, benchmark)
    run_benchmark(benchmark, items, answer, control="no_vision")
    assert len(seen) == 1 and "pixel_values_videos" not in seen[0]
    shown = text_of(tiny_tokenizer, seen[0]["input_ids"][0].tolist())
    assert items[0].prompt in shown and "frame_start" not in shown and "0.0" not in shown


@pytest.mark.parametrize("name", ["ai2d", "muir_bench"])  # one picture, and several
def test_questions_about_pictures_are_stock_molmo2_s_own(loaded, pruned, tiny_tokenizer, config, name):
    """Pictures cut and written into the prompt by transformers' own processors, answered by the stock model."""
    from port_images import image_text, preprocess

    from stts_lightning.data.images import read_image
    from stts_lightning.molmo2.patch import PruneHandle

    config.image = ImageConfig(max_crops=4, overlap_margins=[1, 1], window=3)
    benchmark, items, _ = loaded(name)
    item = max(items, key=lambda item: len(item.images))
    assert (len(item.images) > 1) == (name == "muir_bench")
    answer = molmo2_answerer(pruned, tiny_tokenizer, config, benchmark)
    text = answer(item)
    inputs = answer.picture_inputs(item)

    pictures = [torch.from_numpy(read_image("", ref.read())) for ref in item.images]
    ported = preprocess(pictures, config.backbone, config.image)
    for key in ("pixel_values", "image_token_pooling", "image_grids", "image_num_crops"):
        torch.testing.assert_close(inputs[key].float(), ported[key].float(), rtol=0, atol=1e-5)
    written = [image_text(tuple(grid.tolist()), config.image) for grid in ported["image_grids"]]
    if len(written) > 1:
        written = [f"Image {number}{picture}" for number, picture in enumerate(written, start=1)]
    prompt = f"<|im_end|>{''.join(written)}<|im_start|>user\n{item.prompt}<|im_end|>\n<|im_start|>assistant\n"
    ids = tiny_tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    assert torch.equal(inputs["input_ids"], ids)
    PruneHandle(pruned).remove()
    given = {**ported, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    given["mm_token_type_ids"] = inputs["mm_token_type_ids"]
    out = pruned.generate(**given, max_new_tokens=benchmark.max_new_tokens, do_sample=False)[0, ids.shape[1] :]
    assert text == tiny_tokenizer.decode(out, skip_special_tokens=True).strip()


def test_a_picture_that_cannot_be_read_is_named(loaded, pruned, tiny_tokenizer, config):
    benchmark, items, _ = loaded("ai2d")
    broken = replace(items[0], images=(SimpleNamespace(read=lambda: b"no picture"),))
    with pytest.raises(ValueError, match=f"{items[0].id}, picture 1"):
        molmo2_answerer(pruned, tiny_tokenizer, config, benchmark)(broken)


def test_a_folder_of_pictures_plays_as_a_video(lay_out, decoding):
    root = lay_out("mvbench")
    item = next(i for i in load_items(load_benchmark("mvbench"), root).items if i.category == "episodic_reasoning")
    video = playable(item.video, 3)
    assert video.suffix == ".mp4" and playable(item.video, 3) == video
    clip = decoding.read(video, size=24, max_frames=8, max_fps=2.0)
    assert clip.duration_s == pytest.approx(3.0, abs=0.01)  # 9 pictures at 3 a second
    with pytest.raises(ValueError, match="frames_fps"):
        playable(item.video, None)


def test_a_configurations_benchmarks_are_asked_printed_and_saved(pruned, tiny_tokenizer, config, tmp_path, capsys):
    config.benchmark.names = ["next_qa", "mlvu"]
    config.benchmark.limit = 2
    results = evaluate_benchmarks(config, molmo2_answers(pruned, tiny_tokenizer, config), tmp_path)
    assert list(results) == ["next_qa", "mlvu"]
    for name, result in results.items():
        lines = [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        assert len(lines) == 2
        assert np.mean([line["correct"] for line in lines]) == pytest.approx(result.accuracy)
    printed = capsys.readouterr().out
    assert "NextQA test: " in printed and "m_avg" in printed
    assert "video benchmarks: short" in printed and "without perception_test" in printed


def test_no_benchmarks_no_work(config, tmp_path, capsys):
    assert evaluate_benchmarks(config, None, tmp_path) == {}
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_guessing_needs_no_model(config, tmp_path):
    config.benchmark.names = ["temp_compass"]
    with pytest.raises(ValueError, match="--model"):
        benchmark_model(config, None, None, tmp_path)
    config.benchmark.control = "random_choice"
    result = benchmark_model(config, None, None, tmp_path)["temp_compass"]
    assert result.control == "random_choice" and (tmp_path / "temp_compass.random_choice/predictions.jsonl").is_file()


def test_what_is_missing_is_found_before_the_first_question(config, tmp_path, pruned, tiny_tokenizer, monkeypatch):
    config.benchmark.names, config.benchmark.root = ["next_qa", "tomato"], str(tmp_path)
    monkeypatch.setattr(pruned, "generate", lambda **_: pytest.fail("asked"))
    with pytest.raises(ValueError, match="benchmark next_qa"):
        evaluate_benchmarks(config, molmo2_answers(pruned, tiny_tokenizer, config), tmp_path)


def test_runs_that_ask_nothing_keep_their_hash(config):
    from stts_lightning.runs import config_hash
    from stts_lightning.sweep.plan import pretrain_config

    asked = replace(config, benchmark=BenchmarkConfig(names=["next_qa"]))
    elsewhere = replace(asked, benchmark=BenchmarkConfig(names=["next_qa"], root="elsewhere", batch_size=8))
    assert config_hash(config) == config_hash(replace(config, benchmark=BenchmarkConfig(limit=3)))
    assert config_hash(asked) == config_hash(elsewhere) != config_hash(config)
    assert not any(key.startswith("benchmark.") for key in hashed(config))
    assert pretrain_config(asked).benchmark.names == []


def test_mlflow_gets_a_number_a_benchmark_and_the_predictions(config, tmp_path):
    from stts_lightning.config import TrackingConfig, save_config
    from stts_lightning.report.mlflow_runs import finish_run, start_run, tracking_client

    config.tracking = TrackingConfig(uri=empty_database(tmp_path / "mlflow.db"), artifacts=str(tmp_path / "artifacts"))
    config.benchmark.names, config.benchmark.control = ["next_qa", "mvbench"], "random_choice"
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    save_config(config, run.config)
    asked = evaluate_benchmarks(config, None, run.benchmarks)
    result = Result("stts", 50, 0, 0.5, None, 8, None, None, None, 0, 0, 2, benchmarks=cells(asked),
                    benchmarks_stderr=stderrs(asked))  # fmt: skip
    run_id = start_run(config, run.path, name="run")
    finish_run(run_id, result, run.path)
    client = tracking_client(config.tracking)
    metrics = client.get_run(run_id).data.metrics
    # A control has a name of its own: it must not pass for the benchmark's number.
    assert metrics["eval/benchmark/mvbench.random_choice"] == asked["mvbench"].accuracy
    assert metrics["eval/benchmark_stderr/mvbench.random_choice"] == pytest.approx(asked["mvbench"].stderr)
    assert "eval/benchmark/mvbench" not in metrics
    assert "eval/benchmark_stderr/next_qa.random_choice" not in metrics  # one video alone
    artifacts = {a.path for a in client.list_artifacts(run_id, "benchmarks/mvbench.random_choice")}
    assert artifacts == {"benchmarks/mvbench.random_choice/predictions.jsonl"}


def test_results_of_before_there_were_benchmarks_still_read(tmp_path):
    old = Result("stts", 50, 0, 0.5, None, 8, None, None, None, 0, 0, 2)
    write_result(tmp_path, old)
    body = json.loads((tmp_path / "result.json").read_text())
    del body["benchmarks"], body["benchmarks_stderr"]
    (tmp_path / "result.json").write_text(json.dumps(body))
    assert read_result(tmp_path) == old
