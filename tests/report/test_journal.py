"""The journal by itself: MLflow is a function that takes points, or raises."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
from outages import fill, on_a_small_disk

from stts_lightning.report import journal as journal_module
from stts_lightning.report.journal import Journal, Point


def some(first: int, count: int) -> list[Point]:
    return [Point("train/loss", 1 / (3 + step), 1_700_000_000_000 + step, step) for step in range(first, first + count)]


def away(points: list[Point]) -> None:
    raise OSError("nobody is there")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mlflow_pending.jsonl"


def test_points_arrive_in_order_to_the_last_bit_and_the_file_goes(path: Path) -> None:
    journal, got = Journal(path), []
    points = [*some(0, 3), Point("a b/c", math.inf, 5, -1), Point("d", -1e-300, 6, 2**40)]
    journal.add(points)
    journal.add(some(3, 2500))  # more than MLflow takes in a call
    sizes = []
    journal.send(lambda batch: (got.extend(batch), sizes.append(len(batch))))
    assert got == [*points, *some(3, 2500)] and max(sizes) == 1000
    assert path.is_file()
    journal.clear()
    assert not path.exists() and journal.empty


def test_not_a_number_arrives(path: Path) -> None:
    journal, got = Journal(path), []
    journal.add([Point("train/loss", math.nan, 1, 1)])
    journal.send(got.extend)
    assert math.isnan(got[0].value)


def test_what_was_refused_is_sent_by_the_next_process_before_what_is_new(path: Path) -> None:
    journal, got = Journal(path), []
    journal.add(some(0, 1500))

    def half(batch: list[Point]) -> None:
        if got:
            away(batch)
        got.extend(batch)

    with pytest.raises(OSError, match="nobody"):
        journal.send(half)
    assert got == some(0, 1000) and journal.count() == (500, 0)
    journal.clear()
    assert path.is_file()

    second, again = Journal(path), []  # it does not know that a part has arrived
    second.add(some(1500, 2))
    second.send(again.extend)
    assert again == some(0, 1502)


def test_what_is_added_while_a_batch_is_on_its_way_is_not_lost(path: Path) -> None:
    journal, got, done = Journal(path), [], threading.Event()

    def add() -> None:
        for step in range(300):
            journal.add(some(step, 1))
        done.set()

    adding = threading.Thread(target=add)
    adding.start()
    while not done.is_set():
        journal.send(got.extend)
        journal.clear()
    adding.join()
    journal.send(got.extend)
    journal.clear()
    assert got == some(0, 300) and not path.exists()


def test_half_a_line_of_a_crashed_machine_is_cut_and_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Journal(path).add(some(0, 2))
    whole = path.read_bytes()
    path.write_bytes(whole + b'["train/lo')
    journal, got = Journal(path), []
    assert "ended within a line" in caplog.text and "train/lo" in caplog.text
    journal.add(some(2, 1))
    journal.send(got.extend)
    assert got == some(0, 3)


def test_a_line_that_makes_no_sense_is_said_and_holds_nothing_up(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Journal(path).add(some(0, 1))
    path.write_bytes(path.read_bytes() + b"\0\0\0\n")
    journal, got = Journal(path), []
    journal.add(some(1, 1))
    journal.send(got.extend)
    assert got == some(0, 2) and "makes no sense" in caplog.text


@on_a_small_disk(megabytes=1)
def test_a_full_disk_keeps_points_in_memory_says_so_once_and_is_used_when_it_has_room(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = disk / "mlflow_pending.jsonl"
    journal, got = Journal(path), []
    journal.add(some(0, 10))
    before = path.read_bytes()
    filler = fill(disk)
    for step in range(10, 500):
        journal.add(some(step, 1))
    assert before == path.read_bytes()[: len(before)]
    on_disk, in_memory = journal.count()
    assert on_disk + in_memory == 500 and in_memory > 100  # the last block of the file had some room
    assert caplog.text.count("No space left on device") == 1
    with pytest.raises(OSError, match="nobody"):
        journal.send(away)
    filler.unlink()
    journal.add(some(500, 1))
    assert journal.count() == (501, 0)
    Journal(path).send(got.extend)
    assert got == some(0, 501)


@on_a_small_disk(megabytes=1)
def test_a_full_disk_does_not_keep_points_from_a_server_that_is_there(disk: Path) -> None:
    journal, got = Journal(disk / "mlflow_pending.jsonl"), []
    fill(disk)
    journal.add(some(0, 1200))
    journal.send(got.extend)
    assert got == some(0, 1200) and journal.count() == (0, 0)


def test_memory_is_bounded_and_what_falls_out_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MOST_IN_MEMORY", 100)
    journal, got = Journal(tmp_path / "no such folder" / "mlflow_pending.jsonl"), []
    journal.add(some(0, 130))
    assert "oldest 30 values in memory are lost" in caplog.text
    journal.send(got.extend)
    assert got == some(30, 100)


def test_points_that_come_while_those_in_memory_are_on_their_way_follow_them(tmp_path: Path) -> None:
    folder = tmp_path / "not yet"
    journal, got = Journal(folder / "mlflow_pending.jsonl"), []
    journal.add(some(0, 3))

    def write(batch: list[Point]) -> None:
        if not folder.exists():
            folder.mkdir()  # from now on the disk would take them
            journal.add(some(3, 2))
        got.extend(batch)

    journal.send(write)
    assert got == some(0, 5) and journal.count() == (0, 0)
