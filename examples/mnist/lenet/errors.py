"""Errors that a user can fix: a `UserError` prints one line on stderr, without a traceback, and exits with code 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """An error in the options, the files or the machine; its text is the whole message."""


@contextlib.contextmanager
def explained(action: str) -> Iterator[None]:
    """Convert a failing file operation to a `UserError` that begins with `action` ("cannot read x.png")."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{action}: {error.strerror or error}") from error
