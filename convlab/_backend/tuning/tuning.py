"""The measured choices of a program: a table, a file, and a context in which they serve."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from ..._window import argument_error
from .. import compat
from . import active, device

_FORMAT = "convlab tuning 1"
_COLUMNS = ("problem", "calls", "by the tables", "ms", "measured choice", "ms", "gain", "the others, ms")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One convolution, kernel gradient or window reduction of a program, and what was measured of it.

    Attributes:
        key: the equation, as text; two are the same problem if their keys are.
        operation: "forward", "kernel gradient" or the kind of pool.
        problem: operands' shapes, dtype and window, in a line.
        count: how often a run of the program comes to it.
        static: the formulation that the tables choose.
        choice: the one that serves under the tuning.
        seconds: of a call, by formulation, the fastest first; "lax" is JAX's own lowering.
        refused: why a formulation did not take part, by formulation.
    """

    key: str
    operation: str
    problem: str
    count: int
    static: str
    choice: str
    seconds: dict[str, float]
    refused: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def gain(self) -> float:
        """How many times as fast as the tables' choice."""
        return self.seconds[self.static] / self.seconds[self.choice]

    def ranked(self) -> list[tuple[str, str]]:
        """The formulations with the reasons, the choice first, then by time: where one cannot serve the next does."""
        others = sorted((name for name in self.seconds if name != self.choice), key=lambda name: self.seconds[name])
        if self.choice == self.static:
            return [(self.choice, "measured here, as the table says")] + [(n, "measured here") for n in others]
        reason = f"measured here: {self.gain:.2f} times as fast as {self.static}"
        return [(self.choice, reason)] + [(name, "measured here") for name in others]

    def row(self) -> tuple[str, ...]:
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
    `accelerate()` for every convolution and pool, on a GPU or TPU too. They serve the same problems only, on the same
    kind of device with the same number of threads and versions of jaxlib and convlab; `explain` says where they do not.
    Of several tunings the one entered last is in force.

    Args:
        entries: what was measured of each problem.
        device: what it was measured on, as `autotune` notes it.
        stopped: why not all was measured, if so.
        path: the file that it comes from, if any.

    Raises:
        ValueError: of `load`, if the file is none that `save` wrote.

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
    ):
        self.entries, self.device, self.stopped, self.path = tuple(entries), dict(device), stopped, path
        self._of = {entry.key: entry for entry in self.entries}
        self._contexts: list[Any] = []

    def entry(self, key: str) -> Entry | None:
        """What was measured of the problem with that key."""
        return self._of.get(key)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The same for tunings that give the same programs."""
        text = json.dumps([self.device, sorted((e.key, [n for n, _ in e.ranked()]) for e in self.entries)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __or__(self, other: Tuning) -> Tuning:
        """The choices of both; of a problem that both have, those of `other`."""
        if not isinstance(other, Tuning):
            return NotImplemented
        if other.device != self.device:
            raise argument_error("other", "be measured on the same device", other.device)
        return Tuning((self._of | other._of).values(), self.device, stopped=self.stopped or other.stopped)

    # --- use ------------------------------------------------------------------------------------------------------

    def use(self) -> Tuning:
        """Use the choices from now on, until the process ends or the `with` block of the result does."""
        if not compat.has_hooks:
            compat.warn_once(compat.missing or "")
            return self
        active.enter(self)
        self._contexts.append(compat.set_cache_key("tuning", active.state()))
        return self

    def __enter__(self) -> Tuning:
        return self.use()

    def __exit__(self, *exception: object) -> None:
        if self._contexts:
            active.leave(self)
            self._contexts.pop()()

    # --- files ----------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """All of it, of what JSON has."""
        return {
            "format": _FORMAT,
            "device": self.device,
            "stopped": self.stopped,
            "problems": [dataclasses.asdict(entry) for entry in self.entries],
        }

    def to_json(self) -> str:
        """The text of a file that `load` reads."""
        return json.dumps(self.as_dict(), indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `load` reads."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tuning:
        """The tuning that `save` wrote to a file."""
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
                if not {entry.static, entry.choice} <= set(entry.seconds):
                    raise ValueError(f"a choice was not measured: {entry.choice!r}")
            return cls(entries, found["device"], stopped=found.get("stopped"), path=os.fspath(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            hint = f"{why}."
        raise argument_error("path", "be a file that Tuning.save wrote", os.fspath(path), hint=hint)

    # --- tables ---------------------------------------------------------------------------------------------------

    def rows(self) -> list[tuple[str, ...]]:
        """The table without its head, the greatest savings first."""
        saved = lambda e: e.count * (e.seconds[e.static] - e.seconds[e.choice])
        return [entry.row() for entry in sorted(self.entries, key=saved, reverse=True)]

    def heading(self) -> str:
        """What was measured where, in a line."""
        d = self.device
        threads = f", {d['threads']} threads" if d["platform"] == "cpu" else ""
        engine = ", without jaxlib's engine" if d["platform"] == "cpu" and not d["engine"] else ""
        faster = sum(entry.choice != entry.static for entry in self.entries)
        text = f"{len(self.entries)} problems, {faster} with another choice than the tables'; "
        text += f"{d['device']} ({d['platform']}{threads}{engine})"
        return f"{text}, jaxlib {d['jaxlib']}, convlab {d['convlab']}" + (
            f"; {self.stopped}: not all was measured" if self.stopped else ""
        )

    def to_markdown(self) -> str:
        """The table for a document."""
        lines = [_COLUMNS, ["---"] * len(_COLUMNS), *self.rows()]
        return "\n".join([self.heading() + "\n", *("| " + " | ".join(line) + " |" for line in lines)])

    _repr_markdown_ = to_markdown

    def __repr__(self) -> str:
        rows = [_COLUMNS[:-1], *(row[:-1] for row in self.rows())]
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join([self.heading(), *(_aligned(row, widths) for row in rows)])

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=self.heading())
        for name in _COLUMNS[:-1]:
            table.add_column(name, justify="right" if name in ("calls", "ms", "gain") else "left")
        for row in self.rows():
            table.add_row(*row[:-1])
        return table


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def use_environment() -> None:
    """Use what CONVLAB_TUNING names; a file that is none is told in a warning."""
    path = os.environ.get("CONVLAB_TUNING")
    if path:
        try:
            Tuning.load(path).use()
        except ValueError as error:
            warnings.warn(f"CONVLAB_TUNING is not used: {error}", stacklevel=2)
