"""What FFmpeg says while it decodes: damage in a picture is painted over, and the standard error alone is told.

decord hands on neither the damage nor the words. Only the decoding process listens: its standard error is its own,
and nobody else's words get into it.
"""

import os
import tempfile

_listening = False


def listen() -> None:
    """From now on the standard error of this process, libraries included, goes where `said` reads it."""
    global _listening
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
    _listening = True


def said() -> str:
    """The first line since the last call, at most 160 characters; "" if nothing was said or nobody listens."""
    if not _listening:
        return ""
    os.lseek(2, 0, os.SEEK_SET)
    words = os.read(2, 160)
    os.lseek(2, 0, os.SEEK_SET)
    os.ftruncate(2, 0)
    return words.decode(errors="replace").partition("\n")[0]
