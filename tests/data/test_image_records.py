"""Lines about pictures: read with those about videos, and as strictly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stts_lightning.data.records import read_records
from stts_lightning.data.split import hold_out_images, split_records

GOOD = {"images": ["a.png", "b.png"], "question": "Which?", "options": ["x", "y"], "answer": 1}
VIDEO = {"video": "v.mp4", "question": "When?", "options": ["x", "y"], "answer": 0}


def write(folder: Path, *lines: object) -> Path:
    for name in ("a.png", "b.png", "c.png", "v.mp4"):
        (folder / name).write_bytes(b"not empty")
    (folder / "qa.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return folder / "qa.jsonl"


def test_questions_on_the_same_pictures_are_gathered(tmp_path: Path) -> None:
    turned = {**GOOD, "images": ["b.png", "a.png"]}
    records = read_records(write(tmp_path, GOOD, VIDEO, turned, {**GOOD, "question": "Where?"}))
    assert [([p.name for p in r.images], len(r.questions)) for r in records.images] == [
        (["a.png", "b.png"], 2),
        (["b.png", "a.png"], 1),  # another order is another prompt
    ]
    assert len(records.clips) == 1 and records.num_questions == 4


def test_a_file_of_pictures_alone_will_do(tmp_path: Path) -> None:
    records = read_records(write(tmp_path, {**GOOD, "images": ["a.png"]}))
    assert not records.clips and records.images[0].name == str(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({**GOOD, "video": "v.mp4"}, "either video or images"),
        ({**GOOD, "images": []}, "one or more"),
        ({**GOOD, "images": "a.png"}, "type list"),
        ({**GOOD, "images": ["a.png", 3]}, "file names"),
        ({**GOOD, "images": ["a.png", "gone.png"]}, "gone.png"),
        ({**GOOD, "images": ["empty.png"]}, "zero bytes"),
        ({**GOOD, "start": 1.0}, "no times"),
        ({k: v for k, v in GOOD.items() if k != "images"}, "video or images"),
    ],
)
def test_bad_line_is_named_with_its_number(tmp_path: Path, bad: object, said: str) -> None:
    (tmp_path / "empty.png").touch()
    path = write(tmp_path, GOOD, bad)
    (problem,) = read_records(path).problems
    assert problem.where == f"{path}:2" and said in problem.what


def test_no_picture_is_on_both_sides(tmp_path: Path) -> None:
    """Chains too: ab, bc and cd are one group."""
    names = [f"{i}.png" for i in range(40)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    chains = [names[i : i + 4] for i in range(0, 40, 4)]
    lines = [{**GOOD, "images": [*pair]} for c in chains for pair in (c[0:2], c[2:4], c[1:3])]
    records = read_records(write(tmp_path, *lines))
    train, held = hold_out_images(records, 0.2)
    sides = [{path for record in side for path in record.images} for side in (train, held)]
    assert not sides[0] & sides[1] and len(sides[1]) == 2 * 4
    assert sorted(train + held, key=str) == sorted(records.images, key=str)
    assert hold_out_images(records, 0.2) == (train, held)


def test_both_kinds_are_split(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(b"x")
        (tmp_path / f"{i}.mp4").write_bytes(b"x")
    lines = [{**VIDEO, "video": f"{i}.mp4"} for i in range(10)] + [{**GOOD, "images": [f"{i}.png"]} for i in range(10)]
    train, held = split_records(read_records(write(tmp_path, *lines, {})), 0.2)
    assert [len(side) for side in (train.clips, train.images, held.clips, held.images)] == [8, 8, 2, 2]
    assert len(train.problems) == 1 and not held.problems
