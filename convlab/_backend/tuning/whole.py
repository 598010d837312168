"""Time a whole program by the tables, by the measured choices and by lax, and keep the choices that pay in it.

A formulation that is the fastest alone may not be in a program, where XLA fuses its neighbours and chooses layouts for
all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from .measure import SECONDS_PER_ROUND, time_calls
from .tuning import Entry, Tuning

MARGIN = 1.02  # a program must be faster by this factor, and in three of four rounds, to replace another
TABLES, CHOICES, LAX = "by the tables", "by the choices", "by lax"


class Programs:
    """The compiled programs of a function, one for each set of choices; equal ones are compiled once."""

    def __init__(self, fn: Callable, args: Sequence[Any], device: dict[str, Any], repeats: int):
        self.fn, self.args, self.device, self.repeats = fn, args, device, repeats
        self.calls: dict[str, Callable[[], Any]] = {}
        self.seconds: dict[str, float] = {}

    def compile(self, entries: Iterable[Entry]) -> str:
        """Compile the program with the choices of these entries; return its text, which names it."""
        with Tuning(entries, self.device):
            lowered = jax.jit(lambda *a: self.fn(*a)).lower(*self.args)
        text = lowered.as_text()
        if text not in self.calls:
            compiled = lowered.compile()
            self.calls[text] = lambda: compiled(*self.args)
            self.seconds[text] = time_calls(self.calls[text], 0.0)
        return text

    def is_faster(self, one: str, other: str) -> bool:
        """Time two programs in turns; return whether the first is faster by `MARGIN` and in three of four rounds."""
        if one == other:
            return False
        wins, rounds = 0, 4 * self.repeats
        for _ in range(rounds):
            times = {text: time_calls(self.calls[text], SECONDS_PER_ROUND) for text in (one, other)}
            for text, seconds in times.items():
                self.seconds[text] = min(self.seconds[text], seconds)
            wins += times[one] < times[other]
        return 4 * wins >= 3 * rounds and self.seconds[one] * MARGIN < self.seconds[other]


def compare(fn: Callable, args: Sequence[Any], tuning: Tuning, repeats: int) -> Tuning:
    """Return the tuning with the choices by which the whole program is the fastest, and its times.

    A choice that does not change the program remains: outside of `accelerate()` those of plain convolutions do not.
    """
    programs = Programs(fn, args, tuning.device, repeats)
    plain = [_by_tables(entry) for entry in tuning.entries]
    by_lax = [_by_lax(entry) for entry in tuning.entries]
    static, tuned, lax = (programs.compile(entries) for entries in (plain, tuning.entries, by_lax))
    if programs.is_faster(tuned, static) or tuned == static:
        best, kept = tuned, list(tuning.entries)
    else:
        best, kept = _one_by_one(programs, tuning, static, plain)
    if programs.is_faster(lax, best):
        best, kept = lax, by_lax
    found = [
        dataclasses.replace(one, whole=one.choice != measured.choice) for one, measured in zip(kept, tuning.entries)
    ]
    times = {TABLES: programs.seconds[static], CHOICES: programs.seconds[best], LAX: programs.seconds[lax]}
    return Tuning(found, tuning.device, stopped=tuning.stopped, program=times)


def _one_by_one(programs: Programs, tuning: Tuning, static: str, plain: list[Entry]) -> tuple[str, list[Entry]]:
    """Add the choices that differ from the tables' to the program one by one, the greatest saving first."""
    best, kept = static, list(plain)
    saving = lambda i: -tuning.entries[i].count * _saved(tuning.entries[i])
    for i in sorted((i for i, entry in enumerate(tuning.entries) if _saved(entry) > 0), key=saving):
        tried = [*kept[:i], tuning.entries[i], *kept[i + 1 :]]
        text = programs.compile(tried)
        if text == best or programs.is_faster(text, best):
            best, kept = text, tried
    return best, kept


def _saved(entry: Entry) -> float:
    return entry.seconds[entry.static] - entry.seconds[entry.choice] if entry.choice != entry.static else -math.inf


def _by_tables(entry: Entry) -> Entry:
    return dataclasses.replace(entry, choice=entry.static)


def _by_lax(entry: Entry) -> Entry:
    return dataclasses.replace(entry, choice="lax" if "lax" in entry.seconds else entry.static)
