"""What a user can mend is a `UserError`: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """A fault in the options, the files or the machine; its text is the whole message."""


@contextlib.contextmanager
def explained(action: str) -> Iterator[None]:
    """Turns a failing file operation into a `UserError` that begins with `action` ("cannot read x.png")."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{action}: {error.strerror or error}") from error
