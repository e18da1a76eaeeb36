"""What Linux tells of running processes."""

import ctypes
import gc
import os
from pathlib import Path


def open_files(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int | str) -> int:
    """Of this process after it gave back what it had freed: a leak would hide in there."""
    if pid == "self":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children() -> set[int]:
    """Of this process, the dead ones that nobody waited for included."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def processes_with(mark: str) -> set[int]:
    """Those that were started with this name in their environment; forks that run no other program do not count."""
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{mark}=".encode() in environment.read_bytes():
                found.add(int(environment.parent.name))
        except OSError:  # it has ended
            continue
    return found
