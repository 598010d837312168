"""`Tuning`: the measured choices of a program, as a table, a file, and a context in which `lowering` uses them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from ..._arguments import argument_error
from .. import compat
from . import active, device

_FORMAT = "convlab tuning 1"
_COLUMNS = ("problem", "calls", "by the tables", "ms", "measured choice", "ms", "gain", "the others, ms")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One convolution, kernel gradient or window reduction of a program, and its measurements.

    Attributes:
        key: the equation, as text; equal problems have equal keys.
        operation: "forward", "kernel gradient" or the kind of pool.
        problem: the operands' shapes, the dtype and the window, in a line.
        count: how often the program runs it.
        static: the formulation that the tables choose.
        choice: the formulation that the tuning chooses.
        seconds: of a call, by formulation, the fastest first; "lax" is JAX's own lowering.
        refused: why a formulation was not timed, by formulation.
        whole: whether the time of the whole program decided the choice, against the problem's own times.
    """

    key: str
    operation: str
    problem: str
    count: int
    static: str
    choice: str
    seconds: dict[str, float]
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    whole: bool = False

    @property
    def gain(self) -> float:
        """How many times as fast the choice is as the tables'."""
        return self.seconds[self.static] / self.seconds[self.choice]

    def ranked(self) -> list[tuple[str, str]]:
        """Return the formulations and reasons, the choice first, then by time; the first supported one is used."""
        others = sorted((name for name in self.seconds if name != self.choice), key=lambda name: self.seconds[name])
        if self.whole:
            return [(self.choice, "measured here: the whole program is faster by it")] + [
                (name, "measured here") for name in others
            ]
        if self.choice == self.static:
            return [(self.choice, "measured here, as the table says")] + [(n, "measured here") for n in others]
        reason = f"measured here: {self.gain:.2f} times as fast as {self.static}"
        return [(self.choice, reason)] + [(name, "measured here") for name in others]

    def row(self) -> tuple[str, ...]:
        """Return the entry's row of the table."""
        ms = {name: f"{1e3 * seconds:.3g}" for name, seconds in self.seconds.items()}
        rest = [f"{name} {ms[name]}" for name in self.seconds if name not in (self.static, self.choice)]
        return (
            f"{self.operation} {self.problem}",
            str(self.count),
            self.static,
            ms[self.static],
            self.choice,
            ms[self.choice],
            f"{self.gain:.2f}",
            ", ".join(rest + [f"{name}: {why}" for name, why in self.refused.items()]),
        )


class Tuning:
    """Choices of formulations that were measured on a device, for the convolutions and pools of a program.

    `with tuning:` uses them until the block ends, `tuning.use()` from then on: for convlab's own functions, and under
    `accelerate()` for every convolution and pool, on a GPU or TPU too. They are used for equal problems only, on the
    same kind of device with the same number of threads and versions of jaxlib and convlab; `explain` says why if they
    are not used. Of several tunings the one entered last is in force.

    Args:
        entries: the measurements of each problem.
        device: the device that they were measured on, as `autotune` describes it.
        stopped: why not all problems were measured, if so.
        path: the file that it was loaded from, if any.
        program: seconds of the whole program by the tables, by the measured choices and by lax throughout, if
            `autotune` timed it.

    Raises:
        ValueError: `load` was given a file that `save` did not write.

    Example:
        >>> from convlab import Tuning, autotune, conv
        >>> tuning = autotune(conv, jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)), repeats=1)
        >>> with tuning:
        ...     y = conv(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)))
        >>> len(tuning.entries)
        1

    Made by `autotune`; see also `explain`.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        device: dict[str, Any],
        *,
        stopped: str | None = None,
        path: str | None = None,
        program: dict[str, float] | None = None,
    ):
        self.entries, self.device, self.stopped, self.path = tuple(entries), dict(device), stopped, path
        self.program = dict(program or {})
        self._entries = {entry.key: entry for entry in self.entries}
        self._contexts: list[Any] = []

    def entry(self, key: str) -> Entry | None:
        """Return the entry of the problem with that key; None if it was not measured."""
        return self._entries.get(key)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash that is equal for tunings with the same choices."""
        text = json.dumps([self.device, sorted((e.key, [n for n, _ in e.ranked()]) for e in self.entries)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __or__(self, other: Tuning) -> Tuning:
        """Combine the choices of both; for a problem that both have, those of `other`."""
        if not isinstance(other, Tuning):
            return NotImplemented
        if other.device != self.device:
            raise argument_error("other", "be measured on the same device", other.device)
        return Tuning((self._entries | other._entries).values(), self.device, stopped=self.stopped or other.stopped)

    # --- use ------------------------------------------------------------------------------------------------------

    def use(self) -> Tuning:
        """Use the choices from now on, until the process ends or a `with` block of the result ends."""
        if not compat.has_hooks:
            compat.warn_once(compat.missing or "")
            return self
        active.enter(self)
        self._contexts.append(compat.set_cache_key("tuning", active.fingerprint()))
        return self

    def __enter__(self) -> Tuning:
        return self.use()

    def __exit__(self, *exception: object) -> None:
        if self._contexts:
            active.leave(self)
            self._contexts.pop()()

    # --- files ----------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as values of JSON."""
        return {
            "format": _FORMAT,
            "device": self.device,
            "stopped": self.stopped,
            "program": self.program,
            "problems": [dataclasses.asdict(entry) for entry in self.entries],
        }

    def to_json(self) -> str:
        """Return the text of a file that `load` reads."""
        return json.dumps(self.as_dict(), indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `load` reads."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tuning:
        """Read the tuning that `save` wrote to a file."""
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
            if found["format"] != _FORMAT:
                raise ValueError(f"its format is {found['format']!r}")
            missing = {*device.FACTS, "engine"} - set(found["device"])
            if missing:
                raise ValueError(f"its device lacks {', '.join(sorted(missing))}")
            entries = [Entry(**entry) for entry in found["problems"]]
            for entry in entries:
                if not isinstance(entry.key, str) or not all(isinstance(s, float) for s in entry.seconds.values()):
                    raise ValueError(f"a problem or a time is not what it should be: {entry.key!r}")
                if not {entry.static, entry.choice} <= set(entry.seconds):
                    raise ValueError(f"a choice was not measured: {entry.choice!r}")
            program = found.get("program")
            return cls(entries, found["device"], stopped=found.get("stopped"), path=os.fspath(path), program=program)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            hint = f"{why}."
        raise argument_error("path", "be a file that Tuning.save wrote", os.fspath(path), hint=hint)

    # --- tables ---------------------------------------------------------------------------------------------------

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table, the greatest savings first."""
        saved = lambda e: e.count * (e.seconds[e.static] - e.seconds[e.choice])
        return [entry.row() for entry in sorted(self.entries, key=saved, reverse=True)]

    def heading(self) -> str:
        """Describe the measurements and their device in a line."""
        d = self.device
        threads = f", {d['threads']} threads" if d["platform"] == "cpu" else ""
        engine = ", without jaxlib's engine" if d["platform"] == "cpu" and not d["engine"] else ""
        faster = sum(entry.choice != entry.static for entry in self.entries)
        text = f"{len(self.entries)} problems, {faster} with another choice than the tables'; "
        if self.program:
            times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in self.program.items())
            text += f"the whole program: {times}; "
        text += f"{d['device']} ({d['platform']}{threads}{engine})"
        return f"{text}, jaxlib {d['jaxlib']}, convlab {d['convlab']}" + (
            f"; {self.stopped}: not all was measured" if self.stopped else ""
        )

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [_COLUMNS, ["---"] * len(_COLUMNS), *self.rows()]
        return "\n".join([self.heading() + "\n", *("| " + " | ".join(line) + " |" for line in lines)])

    _repr_markdown_ = to_markdown

    def __repr__(self) -> str:
        rows = [_COLUMNS[:-1], *(row[:-1] for row in self.rows())]
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join([self.heading(), *(_align(row, widths) for row in rows)])

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=self.heading())
        for name in _COLUMNS[:-1]:
            table.add_column(name, justify="right" if name in ("calls", "ms", "gain") else "left")
        for row in self.rows():
            table.add_row(*row[:-1])
        return table


def _align(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def use_environment() -> None:
    """Use the tuning file that the environment variable CONVLAB_TUNING names; warn if it cannot be loaded."""
    path = os.environ.get("CONVLAB_TUNING")
    if path:
        try:
            Tuning.load(path).use()
        except ValueError as error:
            warnings.warn(f"CONVLAB_TUNING is not used: {error}", stacklevel=2)
