"""Every experiment of the paper is there and plans the rows that its table needs; what the kinds leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from databases import empty_database

from stts_lightning.bench.case import TEXT_TOKENS
from stts_lightning.config import EXPERIMENTS_DIR, Config, load_config, save_config
from stts_lightning.experiment import run_experiment
from stts_lightning.experiment.models import models_left
from stts_lightning.experiment.pruned import kept_windows, show_pruned
from stts_lightning.molmo2.checkpoint import Pruned, load_pruned
from stts_lightning.molmo2.load import load_backbone
from stts_lightning.molmo2.patch import apply_stts
from stts_lightning.report.film import CAPTION, GAP, side_by_side
from stts_lightning.report.mlflow_runs import EXPERIMENT_TAG, KIND_TAG, tracking_client
from stts_lightning.runs import RunDir
from stts_lightning.sweep.plan import plan, pretrain_job
from stts_lightning.train import train
from stts_lightning.video import Clip

NAMES = (
    "pruning_strength", "methods", "test_time_scaling", "image_results", "tome", "train_throughput",
    "inference_throughput", "degradation", "layer_depth", "what_is_pruned",
)  # fmt: skip
KINDS = {"image_results": "images", "train_throughput": "bench", "inference_throughput": "bench"}
KINDS |= {"what_is_pruned": "pruned"}
AT_HALF = {"none-seed0", "stts-k50-seed0"}
ROWS = {
    "pruning_strength": AT_HALF | {"stts-k30-seed0", "stts-k40-seed0"},
    "methods": {
        *(f"{m}-k50-seed{s}" for m in ("random", "heuristic", "stts_no_aux", "stts") for s in (0, 1, 2)),
        *(f"none-seed{s}" for s in (0, 1, 2)),
    },
    "test_time_scaling": {"none-seed0"}
    | {f"stts-k{k}{way}-seed0" for k in (30, 40, 50) for way in ("", "-test_time_scaling")},
    "tome": AT_HALF | {"tome-k50-seed0", "tome-k50-inference_only-seed0", "heuristic-k50-inference_only-seed0"},
    "degradation": {"none-seed0", "text_only-k100-seed0"}
    | {f"{m}-k{k}-seed0" for m in ("stts", "random") for k in (50, 60, 70, 80, 90)},
    "layer_depth": AT_HALF | {f"stts-k50-l{layer}-seed0" for layer in (1, 2, 3)},
    "what_is_pruned": AT_HALF | {"heuristic-k50-seed0"},
    "image_results": AT_HALF,
}


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_opens_with_its_line_and_says_its_kind(name: str) -> None:
    text = (EXPERIMENTS_DIR / f"{name}.yaml").read_text()
    assert text.splitlines()[0].split(" [")[0] == f"# make experiment NAME={name}"
    config = load_config(experiment=name)
    assert (config.experiment.name, config.experiment.kind) == (name, KINDS.get(name, "sweep"))
    assert load_config(["size=quick", "sweep.seeds=[7]"], name).sweep.quick


@pytest.mark.parametrize("name", ROWS)
def test_an_experiment_plans_what_its_table_needs(name: str) -> None:
    assert {job.name for job in plan(load_config(experiment=name), Path("x"))} == ROWS[name]


def test_experiments_start_from_the_same_checkpoint_but_a_deeper_vit_and_one_that_sees_images() -> None:
    folders = {name: pretrain_job(load_config(experiment=name)).folder.path for name in ROWS}
    own = {folders.pop("layer_depth"), folders.pop("image_results")}
    assert len(set(folders.values())) == 1 and len(own | set(folders.values())) == 3


def test_the_deeper_vit_prunes_after_every_layer_and_differently() -> None:
    config = load_config(experiment="layer_depth")
    noise = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), np.uint8)
    clip, kept = Clip(noise, np.arange(8) / 2, np.arange(8), 3.5, "", ""), []
    for job in plan(config, Path("x")):
        backbone = load_backbone(config.backbone)
        model = Pruned(backbone.model, apply_stts(backbone.model, job.config.prune), backbone.tokenizer)
        assert len(model.model.model.vision_tower.layers) == 6
        kept.append(kept_windows(model, clip, config))
    assert kept[0].all() and [keep.sum() for keep in kept[1:]] == [64] * 4
    assert len({keep.tobytes() for keep in kept}) == 5  # each scorer reads other features


def test_scaled_frames_are_more_than_the_unpruned_model_sees_of_the_same_clips() -> None:
    jobs = plan(load_config(experiment="test_time_scaling"), Path("x"))
    assert {job.config.video.max_frames for job in jobs if job.after is None} == {8}
    assert [job.config.video.max_frames for job in jobs if job.after is not None] == [12, 14, 16]
    own = plan(load_config(["data=files", "data.train=qa.jsonl", "backbone=molmo2_4b"], "test_time_scaling"), Path("x"))
    assert sorted({job.config.video.max_frames for job in own}) == [64, 92, 107, 128]


def test_a_bench_is_a_run_with_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEXT_TOKENS, "small", 40)
    config = load_config(
        [f"output_dir={tmp_path}", f"tracking.uri={empty_database(tmp_path / 'm.db')}",
         f"tracking.artifacts={tmp_path}/files", "experiment.rounds=1", "experiment.shapes=[[2,3]]"],
        "inference_throughput",
    )  # fmt: skip
    assert run_experiment(config) == 0
    client = tracking_client(config.tracking)
    [run] = client.search_runs([client.get_experiment_by_name("stts-lightning").experiment_id])
    assert (run.data.tags[KIND_TAG], run.data.tags[EXPERIMENT_TAG]) == ("bench", "inference_throughput")
    saved = json.loads(Path(client.download_artifacts(run.info.run_id, "bench.json", str(tmp_path))).read_text())
    assert set(saved["tables"]) == {"prefill"} and {row["shape"] for row in saved["tables"]["prefill"]} == {"2 x 3"}
    with pytest.raises(ValueError, match="experiment.tables is empty"):
        run_experiment(replace(config, experiment=replace(config.experiment, tables=[])))


def test_a_film_shows_every_methods_pruned_windows_dark_beside_the_frame() -> None:
    frames = np.full((3, 48, 48, 3), 200, np.uint8)
    keep = np.ones((3, 16), bool)
    keep[1, 5] = False
    pictures = list(side_by_side(frames, {"stts": keep, "heuristic": np.ones((3, 16), bool)}))
    assert [picture.shape for picture in pictures] == [(CAPTION + 48, 3 * (48 + GAP), 3)] * 3
    left = 48 + GAP
    for t, picture in enumerate(pictures):
        panels = [picture[CAPTION:, i * left : i * left + 48] for i in range(3)]
        dark = [(panel.max(axis=2) < 60) for panel in panels]
        assert not dark[0].any() and not dark[2].any()
        assert dark[1].sum() == (144 if t == 1 else 0) and (t != 1 or dark[1][12:24, 12:24].all())


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two tiny trained models and what `what_is_pruned` makes of them, with a video of its own."""
    root = tmp_path_factory.mktemp("pruned")
    small = ["data.generated.train_videos=4", "data.generated.eval_videos=2", "tracking.enabled=false",
             "optim.batch_size=2", "aux.scorer_warmup_steps=1", "trainer.accelerator=cpu", "trainer.progress=false",
             "pretrain.enabled=false", f"data.frame_cache_dir={root / 'frames'}", "optim.steps=1", f"output_dir={root}",
             f"data.generated.root={root / 'set'}", "experiment.clips=1"]  # fmt: skip
    config = load_config(small, "what_is_pruned")
    left = models_left(config)
    for job in plan(config, left.folder):
        job.folder.path.mkdir(parents=True)
        save_config(job.config, job.folder.config)
        train(job.config, job.folder.path)
    [video] = (root / "set").glob("*/train/00001.mp4")
    config = replace(config, experiment=replace(config.experiment, video=str(video)))
    assert show_pruned(config) == 0
    return config


def test_pictures_and_films_of_the_same_clips_and_of_a_video_of_ones_own(shown: Config) -> None:
    folder = models_left(shown).out / "pruned"
    assert {path.name for path in folder.glob("*.png")} == {"00-00000.png", "01-00001.png"}
    for stem in ("00-00000", "01-00001"):
        with av.open(str(folder / f"{stem}.mp4")) as film:
            frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
            assert film.streams.video[0].average_rate == 2  # as the frames were sampled
        assert len(frames) == 8 and frames[0].shape[1] == 3 * (192 + GAP)
        keeps = {m: np.load(folder / f"{stem}-{m}.npz")["keep"][0] for m in ("stts", "heuristic")}
        for number, keep in enumerate(keeps.values(), start=1):
            assert keep[0].all() and keep.sum() == 64
            panel = [frame[CAPTION:, number * (192 + GAP) :][:, :192].mean() for frame in frames]
            whole = [frame[CAPTION:, :192].mean() for frame in frames]
            assert panel[0] == pytest.approx(whole[0], rel=0.05)
            assert sum(panel[1:]) < 0.75 * sum(whole[1:])


def test_what_is_shown_is_what_the_run_itself_decided(shown: Config) -> None:
    left = models_left(shown)
    for name in ("stts-k50-seed0", "heuristic-k50-seed0"):
        with np.load(RunDir(left.folder / name).decisions) as decided:
            clip = Clip(decided["frames"][0], decided["times"][0], np.arange(8), 3.5, "", "")
            assert (kept_windows(load_pruned(left.models[name]), clip, shown) == decided["keep"][0]).all()
