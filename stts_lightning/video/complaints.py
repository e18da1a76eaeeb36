"""What FFmpeg says while it decodes: damage in a picture is painted over, and the standard error alone is told.

decord hands on neither the damage nor the words. Only the decoding process listens: its standard error is its own.
"""

import os
import tempfile


def listen() -> None:
    """From now on the standard error of this process, libraries included, goes where `said` reads it."""
    if hasattr(os, "memfd_create"):
        aside = os.memfd_create("said")
    else:
        with tempfile.TemporaryFile() as file:
            aside = os.dup(file.fileno())
    os.dup2(aside, 2)
    os.close(aside)


def said() -> str:
    """The first line since the last call, at most 160 characters; "" where nobody listens, or nothing was said."""
    try:
        os.lseek(2, 0, os.SEEK_SET)
        words = os.read(2, 160)
        os.ftruncate(2, 0)
    except OSError:  # a terminal, a pipe, nothing at all
        return ""
    return words.decode(errors="replace").partition("\n")[0]
