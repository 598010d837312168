"""Errors of the command line: one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable, Collection
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(2)


def positive(text: str) -> float:
    """Convert an option's text to a positive number."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return number


def output(text: str) -> pathlib.Path:
    """Convert an option's text to the path of a file in a folder that exists, so that no measurement is lost."""
    path = pathlib.Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder that exists, got {text!r}")
    return path


def interpreter(text: str) -> tuple[str, str]:
    """Convert an option's text `NAME=PATH` to a name and an interpreter."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"must be NAME=PATH, got {text!r}")
    return name, path


def some_of(names: Collection[str]) -> Callable[[str], str]:
    """Return an argparse type for some of `names`, comma separated."""

    def parse(text: str) -> str:
        if not set(text.split(",")) <= set(names):
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(names)}, comma separated, got {text!r}")
        return text

    return parse
