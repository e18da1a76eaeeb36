"""The decoding process: what it answers, and what happens when it hangs, dies or is left behind."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from stts_lightning.video import ClipReader, VideoError
from stts_lightning.video.decode import RESIZERS, decode_clip

ASK = {"size": 32, "max_frames": 64, "max_fps": 2}


@pytest.fixture(scope="module")
def reader():
    with ClipReader(timeout_s=60) as reader:
        yield reader


def pid_of(reader: ClipReader) -> int:
    return reader.child_pid


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (reached := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return reached


def open_files(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_child_returns_what_decoding_here_returns(reader, video):
    for name, options in (("h264.mp4", {}), ("stream.ts", {})):
        path = video(name, **options)
        clip, expected = reader.read(path, **ASK), decode_clip(path, **ASK)
        for got, wanted in zip(clip, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert clip.frames.flags.writeable and clip.frames.flags.c_contiguous


def test_child_resizes_as_it_is_told(reader, video):
    path = video("h264.mp4")
    clips = [reader.read(path, **ASK, resize=resize).frames for resize in RESIZERS]
    assert (clips[0] != clips[1]).any()
    np.testing.assert_array_equal(clips[1], decode_clip(path, **ASK, resize="decoder").frames)


def test_one_child_serves_many_reads_without_leaking_files(reader, video):
    path = video("h264.mp4")
    reader.read(path, **ASK)
    reader.read(video("stream.ts"), **ASK)
    pid, ours, its = pid_of(reader), open_files(), open_files(pid_of(reader))
    for number in range(100):
        reader.read(path if number % 5 else video("stream.ts"), **ASK)
        if number % 20 == 0:
            with pytest.raises(VideoError):
                reader.read(path.parent, **ASK)
    assert pid_of(reader) == pid
    assert open_files() == ours and open_files(pid) == its


def test_errors_come_through_with_kind_and_path(reader, tmp_path):
    with pytest.raises(VideoError, match="no such file") as caught:
        reader.read(tmp_path / "none.mp4", **ASK)
    assert caught.value.kind == "missing" and caught.value.path == str(tmp_path / "none.mp4")


def test_wrong_arguments_stay_plain_value_errors(reader, video):
    with pytest.raises(ValueError, match="max_frames") as caught:
        reader.read(video("h264.mp4"), **ASK | {"max_frames": 0})
    assert not isinstance(caught.value, VideoError)


def test_relative_path_follows_the_callers_folder(reader, video, monkeypatch):
    path = video("h264.mp4")
    reader.read(path, **ASK)
    monkeypatch.chdir(path.parent)  # the child stays in the folder where it was started
    assert reader.read(path.name, **ASK).duration_s == 2.0


def test_killed_child_is_replaced_before_the_next_read(reader, video):
    reader.read(video("h264.mp4"), **ASK)
    os.kill(pid_of(reader), signal.SIGKILL)
    assert wait_until(reader._child.has_ended)
    assert reader.read(video("h264.mp4"), **ASK).note == ""


@pytest.fixture(scope="module")
def slow_video(video):
    return video("slow.mp4", frames=2500, size=(64, 64), gop=250, options={"preset": "ultrafast"})


SLOW = {"size": 224, "max_frames": 2500, "max_fps": None, "decoder": "pyav"}  # a second of work or more


def during_read(reader: ClipReader, action: signal.Signals) -> threading.Thread:
    """Send a signal to the child while it decodes."""
    pid = pid_of(reader)

    def act() -> None:
        time.sleep(0.2)
        os.kill(pid, action)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_stuck_child_is_killed_at_the_deadline(video, slow_video):
    with ClipReader(timeout_s=60) as reader:
        reader.read(video("h264.mp4"), **ASK)
        pid, ours = pid_of(reader), open_files()
        reader.timeout_s = 1.0
        thread, began = during_read(reader, signal.SIGSTOP), time.monotonic()
        with pytest.raises(VideoError, match="1 s") as caught:
            reader.read(slow_video, **SLOW)
        assert 0.9 < time.monotonic() - began < 4.0
        thread.join()
        assert caught.value.kind == "timeout" and caught.value.path == str(slow_video)
        assert not is_running(pid)
        reader.timeout_s = 60
        assert reader.read(video("h264.mp4"), **ASK).frame_indices[-1] == 59
        assert pid_of(reader) != pid and open_files() == ours


def test_crashed_child_is_named_and_replaced(reader, video, slow_video):
    reader.read(video("h264.mp4"), **ASK)
    thread = during_read(reader, signal.SIGSEGV)
    with pytest.raises(VideoError, match="SIGSEGV") as caught:
        reader.read(slow_video, **SLOW)
    thread.join()
    assert caught.value.kind == "decoder_crash"
    assert reader.read(video("h264.mp4"), **ASK).note == ""


def test_hang_is_retried_without_decord(video):
    with ClipReader(timeout_s=60) as reader:
        reader.read(video("h264.mp4"), **ASK)
        os.kill(pid_of(reader), signal.SIGSTOP)
        reader.timeout_s = 3.0  # long enough for the second attempt, in a child of its own
        clip = reader.read(video("h264.mp4"), **ASK)
        assert clip.decoder == "pyav" and clip.note == "first attempt: timeout"
        assert clip.frame_indices.tolist() == [0, 15, 30, 45, 59]


def test_interrupted_read_leaves_no_answer_behind(reader, video, slow_video):
    """Ctrl-C during a read: the next read must not get the late frames of the last."""
    reader.read(video("h264.mp4"), **ASK)
    pid = pid_of(reader)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            reader.read(slow_video, **SLOW)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not is_running(pid)
    assert reader.read(video("h264.mp4"), **ASK).frames.shape[0] == 5


def test_threads_take_turns(reader, video):
    names, results = ["h264.mp4", "stream.ts"] * 4, {}
    paths = [video(name) for name in names]

    def work(number: int) -> None:
        results[number] = reader.read(paths[number], **ASK).decoder

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[number] for number in range(len(paths))] == ["decord", "pyav"] * 4


class OneVideo(Dataset):
    def __init__(self, reader: ClipReader, path):
        self.reader, self.path = reader, path

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[int, int, list[int]]:
        clip = self.reader.read(self.path, **ASK)
        return os.getpid(), pid_of(self.reader), clip.frame_indices.tolist()


def test_dataloader_worker_starts_its_own_child(reader, video):
    path = video("h264.mp4")
    reader.read(path, **ASK)
    ours = pid_of(reader)
    loader = DataLoader(OneVideo(reader, path), batch_size=None, num_workers=1, multiprocessing_context="fork")
    items = list(loader)
    assert [indices for _, _, indices in items] == [[0, 15, 30, 45, 59]] * 2
    assert len({pid for pid, _, _ in items} | {os.getpid()}) == 2
    (its,) = {child for _, child, _ in items}
    assert its != ours and wait_until(lambda: not is_running(its)), "the worker's child outlived the worker"
    assert reader.read(path, **ASK).note == "" and pid_of(reader) == ours


def test_pickled_copy_keeps_the_limits_only(reader, video):
    reader.read(video("h264.mp4"), **ASK)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.timeout_s == reader.timeout_s and copy._child is None


def test_child_ends_with_a_killed_parent(video):
    code = (
        "import sys, time; from stts_lightning.video import ClipReader\n"
        "reader = ClipReader(); reader.read(sys.argv[1], size=32, max_frames=4, max_fps=2)\n"
        "print(reader._child.process.pid, flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(video("h264.mp4"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    ended = wait_until(lambda: not is_running(pid))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert ended


def test_busy_child_ends_when_its_pipe_closes(video, slow_video):
    """The parent may die while a decoder hangs: the child must not wait for the decoder."""
    reader = ClipReader()
    reader.read(video("h264.mp4"), **ASK)
    child = reader._child
    child.send({"path": str(slow_video), **SLOW, "max_frames": 2499})
    time.sleep(0.1)
    child.stdin.close()
    began = time.monotonic()
    assert child.process.wait(timeout=10) == 0 and time.monotonic() - began < 0.5
    reader.close()


def test_closed_reader_may_read_again(video):
    reader = ClipReader()
    reader.close()
    ours = open_files()
    for _ in range(2):
        reader.read(video("h264.mp4"), **ASK)
        pid = pid_of(reader)
        reader.close()
        reader.close()
        assert reader.child_pid is None and not is_running(pid) and open_files() == ours


def test_wrong_limits_are_refused():
    with pytest.raises(ValueError, match="timeout_s"):
        ClipReader(timeout_s=0)


def test_child_that_cannot_start_says_why(tmp_path, monkeypatch, video):
    (tmp_path / "torch.py").write_text("raise ImportError('this torch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ClipReader() as reader, pytest.raises(RuntimeError, match="this torch is broken"):
        reader.read(video("h264.mp4"), **ASK)
