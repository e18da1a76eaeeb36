"""More broken videos than good ones through the real loader: nothing good is lost, nothing bad is missed."""

import json
import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from broken_videos import BROKEN, NEVER_RETURNS
from numbered_videos import numbers_of
from odd_videos import ODD, Odd, plain
from procfs import children, processes_with

from stts_lightning.config import load_config
from stts_lightning.data import dataset
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.data.records import Problem, count_by_kind
from stts_lightning.video.clip import Clip
from stts_lightning.video.reader import ClipReader

VARIANTS, GOOD = 10, 100
UNOPENED = ("zero bytes", "missing", "directory", "pipe", "broken link", "ring of links", "name too long")
MARK = "A_TEST_OF_BROKEN_VIDEOS"


class Folder(NamedTuple):
    """Files by name: the good ones, and the broken ones with what is wrong with them, a key of BROKEN."""

    path: Path
    good: dict[str, Odd]
    broken: dict[str, str]

    def errors(self) -> dict[str, str]:
        return {name: BROKEN[kind].error for name, kind in self.broken.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path = tmp_path_factory.mktemp("broken")
    odd = [write(path, variant) for write in ODD.values() for variant in range(VARIANTS)]
    good = {video.path.name: video for video in [*odd, *(plain(path, number) for number in range(GOOD))]}
    broken = {kind.write(path, i).name: name for name, kind in BROKEN.items() for i in range(VARIANTS)}
    assert len(broken) >= 200 and len(BROKEN) >= 20 and len(good) == GOOD + VARIANTS * len(ODD)
    return Folder(path, good, broken)


def shuffled(folder: Folder) -> list[str]:
    names = [*folder.good, *folder.broken]
    random.Random(0).shuffle(names)
    return names


LINE = {"question": "What is it?", "options": ["a", "b"], "answer": 1}


@pytest.fixture()
def load(folder: Folder, tmp_path: Path, tiny_tokenizer: Any):
    """``load(names)``: the data module of a file with a line for each video."""

    def load(names: list[str], *overrides: str, questions: int = 1) -> VideoQuestionData:
        for file, listed in (("train", names), ("test", [next(iter(folder.good))])):
            lines = [json.dumps({**LINE, "video": str(folder.path / name)}) for name in listed]
            (tmp_path / f"{file}.jsonl").write_text("\n".join(line for line in lines for _ in range(questions)))
        files = ["data=files", f"data.train={tmp_path}/train.jsonl", f"data.eval={tmp_path}/test.jsonl"]
        sizes = ["optim.batch_size=1", "video.max_frames=8", "backbone.image_size=48", "data.bad_sample_budget=1"]
        config = load_config([*files, *sizes, "data.frame_cache_dir=null", *overrides])
        data = VideoQuestionData(config, tiny_tokenizer)
        data.setup()
        return data

    return load


def kinds_by_file(problems: list[Problem], names: list[str]) -> dict[str, str]:
    """A problem stands at its file, or at the line that names it if the file was not even opened."""

    def name(problem: Problem) -> str:
        file, _, line = problem.where.rpartition(":")
        return names[int(line) - 1] if file.endswith(".jsonl") else Path(problem.where).name

    return {name(problem): problem.kind for problem in problems}


def wait_for_the_end_of(mark: str) -> None:
    deadline = time.monotonic() + 20
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_with(mark)


def test_every_good_video_arrives_and_every_broken_one_is_counted_once(
    folder: Folder, load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers and two epochs: a worker meets what the other met, and again what it met itself."""
    log, read = tmp_path / "read", ClipReader.read

    def logged(reader: ClipReader, path: str, **how: Any) -> Clip:
        with log.open("a") as file:
            file.write(f"{Path(path).name}\n")
        return read(reader, path, **how)

    monkeypatch.setattr(ClipReader, "read", logged)
    monkeypatch.setenv(MARK, "1")
    names, family = shuffled(folder), children()
    opened = len(names) - sum(kind in UNOPENED for kind in folder.broken.values())
    data = load(names, "data.num_workers=2", f"optim.steps={2 * opened}")
    assert count_by_kind(data.problems) == Counter(BROKEN[kind].error for kind in UNOPENED for _ in range(VARIANTS))
    arrived: list[set[str]] = [set(), set()]
    batches = data.train_dataloader()
    for number, batch in enumerate(batches):
        data.count_problems(batch["skipped"])
        name = Path(batch["sources"][0]).name
        arrived[number // opened].add(name)
        video = folder.good[name]
        upright = np.rot90(batch["frames"].numpy(), -video.quarter_turns, axes=(1, 2))
        assert numbers_of(upright) == video.shown(batch["times"][0]), name
    assert arrived == [set(folder.good)] * 2 and number + 1 == 2 * opened
    assert kinds_by_file(data.problems, names) == folder.errors() and len(data.problems) == len(folder.broken)
    assert max(Counter(log.read_text().splitlines()).values()) <= 2  # once by each worker
    assert len(processes_with(MARK)) == 2
    del batches
    wait_for_the_end_of(MARK)
    assert children() == family


def test_a_decoder_that_never_returns_is_ended_and_counted(
    folder: Folder, load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = NEVER_RETURNS.write(tmp_path, 0)
    good, family = list(folder.good)[:5], children()
    monkeypatch.setenv(MARK, "1")
    data = load([*good, str(stuck)], "data.num_workers=1", "optim.steps=12", "video.decode_timeout_s=2")
    batches = data.train_dataloader()
    arrived = []
    for batch in batches:
        data.count_problems(batch["skipped"])
        arrived.append(Path(batch["sources"][0]).name)
    assert set(arrived[:6]) == set(arrived[6:]) == set(good)
    assert [(problem.where, problem.kind) for problem in data.problems] == [(str(stuck), "timeout")]
    assert len(processes_with(MARK)) == 1  # the one that took its place
    del batches
    wait_for_the_end_of(MARK)
    assert children() == family


def test_run_goes_on_within_the_budget_and_stops_past_it_with_the_list(folder: Folder, load) -> None:
    some = [name for name in folder.broken if name.endswith(("-0.mp4", "-1.mp4", "-2.mp4"))]
    names = [*some, *list(folder.good)[:20]]
    random.Random(0).shuffle(names)
    lost, share = len(some), len(some) / len(names)

    def run(budget: float) -> VideoQuestionData:
        data = load(names, "data.num_workers=0", f"optim.steps={len(names)}", f"data.bad_sample_budget={budget}")
        for batch in data.train_dataloader():
            data.count_problems(batch["skipped"])
        return data

    assert len(run(share + 1e-9).problems) == lost
    with pytest.raises(ValueError, match=rf"(?s){lost} of {len(names)} training questions .*truncated \d\d, ") as told:
        run(share - 1e-9)
    counts, *listed, last = str(told.value).splitlines()[1:]
    assert len(listed) == 50 and last == f"  and {lost - 50} more"
    assert sum(int(count.split()[1]) for count in counts.split(", ")) == lost
    unopened = sum(folder.broken[name] in UNOPENED for name in some)
    with pytest.raises(ValueError, match=rf"^{unopened} of {len(names)} "):
        run(0.1)  # these are known before anything is decoded


def test_broken_neighbours_do_not_stop_a_run_within_its_budget(folder: Folder, load) -> None:
    good = list(folder.good)[:3]
    broken = [name for name, kind in folder.broken.items() if kind not in UNOPENED][: dataset.MAX_TRIES + 10]
    names, steps = [good[0], *broken, *good[1:]], f"optim.steps={len(broken) + 3}"
    data = load(names, "data.num_workers=0", steps)
    for batch in data.train_dataloader():
        data.count_problems(batch["skipped"])
    assert len(data.problems) == len(broken)
    with pytest.raises(ValueError, match=rf"{dataset.MAX_TRIES} samples in a row cannot be read.*unreadable \d"):
        load(names, "data.num_workers=0", steps, "data.bad_sample_budget=0.5").train_dataloader().loader.dataset[1]
    with pytest.raises(ValueError, match="5 samples in a row cannot be read"):
        load(broken[:5], "data.num_workers=0", steps).train_dataloader().loader.dataset[1]


def test_a_broken_clip_costs_all_its_questions_in_however_many_groups(folder: Folder, load) -> None:
    broken = next(name for name, kind in folder.broken.items() if kind == "cut")
    names = [next(iter(folder.good)), broken]
    data = load(names, "data.num_workers=0", "optim.steps=8", "data.questions_per_clip=1", questions=4)
    for batch in data.train_dataloader():
        data.count_problems(batch["skipped"])
    assert [(problem.questions, problem.kind) for problem in data.problems] == [(4, "truncated")]


def test_clips_of_one_broken_video_are_lost_each_by_itself(folder: Folder, load, tmp_path: Path) -> None:
    good, data = next(iter(folder.good)), load([next(iter(folder.good))])
    lines = [{**LINE, "video": str(folder.path / good), "start": start, "end": start + 1} for start in (0, 1, 5, 7)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = VideoQuestionData(data.config, data.tokenizer)
    data.setup()
    clips = data.train_dataloader().loader.dataset
    lost = {str(problem): problem.kind for item in range(4) for problem in clips[item].skipped}
    assert list(lost.values()) == ["bad_clip_range"] * 2
    assert all(f"{good} from {start} s to {start + 1} s: " in text for start, text in zip((5, 7), lost, strict=True))


def test_problems_outlive_an_interruption(folder: Folder, load) -> None:
    names = list(folder.good)[:2]
    before, after = load([*names, "gone.mp4"]), load([*names, "gone.mp4"])
    before.count_problems([Problem("a.mp4", "cut short", "truncated", 2)])
    state = torch.load(saved(before.state_dict(), folder.path / "state"), weights_only=True)
    after.load_state_dict(state)
    assert after.problems == before.problems and len(after.problems) == 2
    assert load(names).state_dict() == {}


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_processes_share_what_they_found_and_all_of_them_stop(folder: Folder, load, tmp_path: Path) -> None:
    """Neither found as much as the budget forbids; both together did."""
    data = load(list(folder.good)[:10], "data.bad_sample_budget=0.3")

    def work(rank: int) -> None:
        address = f"file://{tmp_path}/meeting"
        torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
        data.note_problems([Problem("both.mp4", "cut", "truncated"), Problem(f"{rank}.mp4", "empty", "empty")])
        data.share_problems()
        told = {"shared": sorted(problem.where for problem in data.problems)}
        data.note_problems([Problem("last.mp4", "cut", "truncated")] if rank else [])
        told["saved"] = sorted(problem["where"] for problem in data.state_dict()["problems"])
        try:
            data.share_problems()
        except ValueError as error:
            told["stopped"] = str(error)
        (tmp_path / f"{rank}.json").write_text(json.dumps(told))

    processes = [multiprocessing.get_context("fork").Process(target=work, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told["shared"] == ["0.mp4", "1.mp4", "both.mp4"]
        assert told["saved"] == ["0.mp4", "1.mp4", "both.mp4", "last.mp4"]
        assert "4 of 10 training questions" in told["stopped"] and "truncated 2, empty 2" in told["stopped"]
