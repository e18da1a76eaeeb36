"""What a sweep plans: names, order, configurations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stts_lightning.config import Config, GeneratedConfig, PruneConfig, SweepConfig, load_config, save_config
from stts_lightning.runs import RunDir, write_result
from stts_lightning.sweep.folders import finished_runs
from stts_lightning.sweep.plan import plan, pretrain_config, sweep_folder
from stts_lightning.sweep.run import Run, run_config, run_of, scaled_frames

RUNS = {
    "none-seed3": Run("none", 0, 3),
    "stts-k50-seed0": Run("stts", 50, 0),
    "stts-k33.3-l2-seed0": Run("stts", 33.3, 0, 2),
    "text_only-k100-seed1": Run("text_only", 100, 1),
    "tome-k50-inference_only-seed0": Run("tome", 50, 0, None, "inference_only"),
    "stts-k50-l1-test_time_scaling-seed0": Run("stts", 50, 0, 1, "test_time_scaling"),
}


def planned(**sweep: object) -> list[str]:
    config = Config(sweep=SweepConfig(**{"percents": [50.0], "methods": ["stts"], "seeds": [0], **sweep}))
    return [job.name for job in plan(config, Path("sweep"))]


@pytest.mark.parametrize("name", RUNS)
def test_a_runs_name_and_configuration_tell_what_it_is(name: str, tmp_path: Path) -> None:
    sweep, run = Config(), RUNS[name]
    config = run_config(sweep, run, tmp_path)
    assert run.name == name and run_of(config, sweep) == run
    assert (config.prune.method, config.prune.percent, config.seed) == (run.method, run.percent, run.seed)
    assert config.prune.layer == (sweep.prune.layer if run.layer is None else run.layer)


def test_the_two_ends_are_planned_once_a_seed() -> None:
    names = planned(percents=[50.0, 70.0], methods=["stts", "text_only"], layers=[1, 2], seeds=[0, 1])
    ends = [name for name in names if name.startswith(("none", "text_only"))]
    assert sorted(ends) == ["none-seed0", "none-seed1", "text_only-k100-seed0", "text_only-k100-seed1"]
    assert len(names) == len(set(names)) == 4 + 2 * 2 * 2


def test_the_sweeps_own_layer_keeps_its_plain_name() -> None:
    names = planned(layers=[2, 3, 4])  # prune.layer is 3
    assert names == ["none-seed0", "stts-k50-l2-seed0", "stts-k50-seed0", "stts-k50-l4-seed0"]


def test_what_is_evaluated_waits_for_what_is_trained(tmp_path: Path) -> None:
    sweep = SweepConfig([50.0, 100.0], ["stts"], ["tome"], seeds=[0, 1], test_time_scaling=True)
    jobs = {job.name: job for job in plan(Config(sweep=sweep), tmp_path)}
    for seed in (0, 1):
        tome, scaled = jobs[f"tome-k50-inference_only-seed{seed}"], jobs[f"stts-k50-test_time_scaling-seed{seed}"]
        assert tome.after == RunDir(tmp_path / f"none-seed{seed}")
        assert scaled.after == RunDir(tmp_path / f"stts-k50-seed{seed}")
        assert (tome.config.init_from, scaled.config.init_from) == (str(tome.after.model), str(scaled.after.model))
        assert (tome.config.video.max_frames, scaled.config.video.max_frames) == (64, 128)
    assert jobs["stts-k50-seed0"].after is None and "stts-k100-test_time_scaling-seed0" not in jobs
    order = list(jobs)
    assert all(order.index(job.after.path.name) < order.index(name) for name, job in jobs.items() if job.after)


def test_one_model_for_a_range_is_trained_once_a_seed_and_evaluated_at_the_others(tmp_path: Path) -> None:
    sweep = SweepConfig([80.0, 50.0], ["stts_saliency", "text_only"], seeds=[0, 1], unpruned=False)
    config = Config(sweep=sweep, prune=PruneConfig(percent_range=[50.0, 80.0]))
    jobs = {job.name: job for job in plan(config, tmp_path)}
    trained = {name for name, job in jobs.items() if job.after is None}
    assert trained == {f"{name}-seed{seed}" for name in ("stts_saliency-k80", "text_only-k100") for seed in (0, 1)}
    other = jobs["stts_saliency-k50-other_percent-seed1"]
    assert other.after == RunDir(tmp_path / "stts_saliency-k80-seed1") and other.config.prune.percent == 50
    assert run_of(other.config, config).name == other.name and run_of(other.config, config).source.percent == 80
    assert len(jobs) == 6


@pytest.mark.parametrize(
    "setting", ["data.eval_split=validation", "trainer.eval_every=20", "data.questions_per_clip=1"]
)
def test_a_pretraining_does_not_depend_on_how_runs_are_asked(setting: str) -> None:
    where = ["domain=flicker", "pretrain.domain=main"]
    one, other = pretrain_config(load_config(where)), pretrain_config(load_config([*where, setting]))
    assert one == other and one.data.generated == GeneratedConfig()


@pytest.mark.parametrize(("method", "why"), [("stts", "weights to learn"), ("none", "no percentage")])
def test_only_methods_without_weights_are_put_on_a_model_as_it_is(method: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        planned(inference_only=[method])


@pytest.mark.parametrize(
    ("frames", "percent", "scaled"),
    [(64, 30, 92), (64, 40, 107), (64, 50, 128), (8, 30, 12), (8, 40, 14), (8, 50, 16), (64, 20, 80), (64, 0, 64)],
)
def test_frames_are_scaled_as_the_paper_does(frames: int, percent: float, scaled: int) -> None:
    assert scaled_frames(frames, percent) == scaled  # table 3
    kept = lambda f: f * (100 - percent)  # noqa: E731, hundredths of frames that reach the language model
    assert kept(scaled) >= 100 * frames > kept(scaled - 1)


def test_runs_of_every_kind_are_found_again_and_those_of_another_configuration_are_not(tmp_path: Path) -> None:
    config = load_config([f"output_dir={tmp_path}"])
    folder = sweep_folder(config)
    for name, run in RUNS.items():
        (folder / name).mkdir(parents=True)
        save_config(run_config(config, run, folder), RunDir(folder / name).config)
        write_result(folder / name, a_result(run))
    assert set(finished_runs(config, folder)) == set(RUNS)
    other = run_config(replace(config, optim=replace(config.optim, lr_scorer=9.0)), RUNS["none-seed3"], folder)
    save_config(other, RunDir(folder / "none-seed3").config)
    (folder / "stts-k50-seed0").rename(folder / "mine")
    assert set(finished_runs(config, folder)) == set(RUNS) - {"none-seed3", "stts-k50-seed0"}


def a_result(run: Run) -> dict[str, object]:
    numbers = ("accuracy", "accuracy_stderr", "kept_tokens", "samples_per_second", "tokens_per_second")
    numbers += ("peak_memory_gib", "train_seconds", "eval_seconds", "num_questions")
    return {"method": run.method, "prune_percent": run.percent, "seed": run.seed, **dict.fromkeys(numbers, 1.0)}


def test_a_setting_that_nobody_sets_moves_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import stts_lightning.runs as runs

    before = sweep_folder(Config())
    flatten = runs.flatten
    monkeypatch.setattr(runs, "flatten", lambda config: {**flatten(config), "new.setting": 1})
    assert sweep_folder(Config()) == before
    assert sweep_folder(load_config(["video.fps=3"])) != sweep_folder(load_config(["video.fps=4"]))


def test_sampling_of_the_runs_does_not_change_what_they_start_from() -> None:
    config = load_config(["data=generated_uniform"])
    assert config.video.max_frames == 8
    assert pretrain_config(config) == pretrain_config(load_config())
