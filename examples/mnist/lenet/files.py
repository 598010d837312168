"""Writes files atomically: a reader, or a restart after a kill, finds the whole old file or the whole new one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile

TEMPORARY = ".lenet-"


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Write `content` to `path`, through a link if `path` is one.

    Raises:
        OSError: the disk is full or read-only; the file at `path` is unchanged.
    """
    path = path.resolve()
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read; others should be able to read results.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
