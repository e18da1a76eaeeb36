"""Bad lines are named with their number, counted and skipped; never silently used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stts_lightning.data.records import read_records
from stts_lightning.data.split import hold_out

GOOD = {"video": "a.mp4", "question": "What?", "options": ["x", "y"], "answer": 1}


def write(folder: Path, *lines: object) -> Path:
    (folder / "a.mp4").write_bytes(b"not empty")
    path = folder / "qa.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_questions_on_one_clip_are_gathered(tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"x")
    path = write(tmp_path, GOOD, {**GOOD, "video": "b.mp4"}, {**GOOD, "question": "Where?", "category": "place"})
    records = read_records(path)
    assert [(clip.video.name, len(clip.questions)) for clip in records.clips] == [("a.mp4", 2), ("b.mp4", 1)]
    assert records.clips[0].questions[1].category == "place"
    assert records.num_questions == 3


def test_clips_of_one_video_with_other_times_are_apart(tmp_path: Path) -> None:
    records = read_records(write(tmp_path, GOOD, {**GOOD, "start": 1, "end": 2.5}))
    assert [(clip.start, clip.end) for clip in records.clips] == [(None, None), (1.0, 2.5)]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{not json", "Expecting"),
        ("[1, 2]", "JSON object"),
        ({k: v for k, v in GOOD.items() if k != "answer"}, "'answer' is missing"),
        ({**GOOD, "answer": 2}, "answer=2 is out of range"),
        ({**GOOD, "answer": -1}, "answer=-1 is out of range"),
        ({**GOOD, "answer": "1"}, "must be of type int"),
        ({**GOOD, "answer": True}, "must be of type int"),
        ({**GOOD, "options": ["only one"]}, "1 options"),
        ({**GOOD, "video": "gone.mp4"}, "gone.mp4"),
        ({**GOOD, "video": "empty.mp4"}, "zero bytes"),
        ({**GOOD, "video": "folder"}, "directory"),
        ({**GOOD, "start": 3, "end": 2}, "not before"),
        ({**GOOD, "start": "soon"}, "seconds"),
    ],
)
def test_bad_line_is_named_with_its_number(tmp_path: Path, bad: object, said: str) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    path = write(tmp_path, GOOD, bad)
    records = read_records(path)
    assert len(records.clips) == 1
    (problem,) = records.problems
    assert problem.where == f"{path}:2"
    assert said in problem.what


def test_file_without_a_usable_line_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)no usable question.*:1: "):
        read_records(write(tmp_path, "{"))
    with pytest.raises(ValueError, match="no such file"):
        read_records(tmp_path / "nothing.jsonl")


def test_held_out_videos_are_on_one_side_only(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / f"{i}.mp4").write_bytes(b"x")
    lines = [{**GOOD, "video": f"{i}.mp4", "question": str(q)} for i in range(10) for q in range(3)]
    records = read_records(write(tmp_path, *lines))
    train, held = hold_out(records, 0.2)
    assert len({clip.video for clip in held}) == 2
    assert not {clip.video for clip in train} & {clip.video for clip in held}
    assert hold_out(records, 0.2) == (train, held)
