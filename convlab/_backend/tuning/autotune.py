"""`autotune()`: time every formulation of every convolution and pool of a program, on the device at hand.

It collects the program's equations (`equation`), measures each (`measure`), if asked the whole program too (`whole`),
and returns a `Tuning`, which `lowering` asks by way of `active`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ..._arguments import argument_error
from .. import compat, engine, lowering
from ..tables import Target
from . import device, whole
from .equation import collect
from .measure import Comparison
from .tuning import Entry, Tuning

INTERRUPTED, SPENT = "interrupted", "the budget is spent"


class _BudgetSpent(Exception):
    """The budget is used up."""


def autotune(
    fn: Callable,
    *args: Any,
    repeats: int = 5,
    budget: float | None = None,
    progress: bool | None = None,
    whole_program: bool = False,
) -> Tuning:
    """Measure which formulation is the fastest for each convolution and pool of a program, on the device at hand.

    It traces the program but, without `whole_program`, does not run it. Each distinct convolution, kernel gradient and
    window reduction, from convlab or from lax, is compiled with every formulation that supports it, lax's own included,
    and called on random arrays of its shapes. A formulation whose result differs from lax's by more than rounding is
    excluded. The fastest becomes the choice if it is faster than the tables' choice by 5 %, in most rounds, and in
    three of four comparisons of the two alone. Calls with a `method` keep it. Ctrl-C stops the measurement and keeps
    the results so far.

    Args:
        fn: a function of arrays, jitted or not; pass `jax.grad(f)` or a whole training step to tune the gradients.
        *args: its arguments, or `jax.ShapeDtypeStruct`s in the place of arrays. Arguments without arrays may be
            static ones of a jitted function.
        repeats: rounds in which the promising formulations are timed in turns.
        budget: seconds to spend, on the most expensive problems first; None to measure all. Of the problem at which
            they end, the formulations measured by then are compared.
        progress: whether to show the progress on stderr; by default if that is a terminal.
        whole_program: whether to run the program on its arguments afterwards, beyond the budget: by the tables, by the
            choices and by lax for all problems. Choices that do not make the program faster are dropped.

    Returns:
        The choices. They print as a table; `with tuning:` uses them.

    Raises:
        TypeError, ValueError: `repeats` or `budget` is not positive; `whole_program` is wanted of arguments that are
            not arrays; the error that `fn` raises when it is traced.

    Example:
        >>> from convlab import autotune, conv
        >>> x, k = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
        >>> tuning = autotune(conv, x, k, repeats=1)
        >>> tuning.entries[0].operation
        'forward'

    Source: measured choice among algorithms, as in Frigo and Johnson 1998, "FFTW: an adaptive software architecture for
        the FFT".
    """
    if not callable(fn):
        raise argument_error("fn", "be a function of arrays", fn, kind=TypeError)
    for name, value, kinds in (("repeats", repeats, int), ("budget", budget, (int, float))):
        if value is None and name == "budget":
            continue
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise argument_error(name, "be a number" if name == "budget" else "be an integer", value, kind=TypeError)
        if not value > 0:
            raise argument_error(name, "be positive", value)
    if whole_program and any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(args)):
        raise argument_error("args", "be arrays for `whole_program`", jax.ShapeDtypeStruct, kind=TypeError)
    platform = device.canonical(jax.default_backend())
    here = device.here(platform)
    assert here is not None
    if not compat.has_hooks:
        compat.warn_once(compat.missing or "")
        return Tuning([], here)
    fn, args, closed = _trace(fn, args)
    target = Target(platform, engine.supports(platform), measured=True)
    comparisons = [Comparison(equation, target) for equation in collect(closed.jaxpr, lowering.OPERATIONS)]
    comparisons.sort(key=lambda comparison: comparison.equation.work, reverse=True)
    entries, stopped = _run(comparisons, repeats, budget, progress)
    tuning = Tuning(entries, here, stopped=stopped)
    if whole_program and stopped != INTERRUPTED:
        try:
            rest = _unfinished(comparisons, {entry.key for entry in entries})
            tuning = whole.compare(fn, args, Tuning([*entries, *rest], here, stopped=stopped), repeats)
        except KeyboardInterrupt:
            tuning.stopped = INTERRUPTED
    return tuning


def _trace(fn: Callable, args: tuple[Any, ...]) -> tuple[Callable, tuple[Any, ...], Any]:
    """Return the program as a function of arguments with arrays, these arguments, and its jaxpr.

    Numbers are traced as `jit` does; where the program does not take a tracer for them, they and other objects are
    constants.
    """
    try:
        return fn, args, jax.make_jaxpr(lambda *a: fn(*a))(*args)
    except Exception:
        arrays = [i for i, arg in enumerate(args) if any(map(_is_array, jax.tree.leaves(arg)))]
        if len(arrays) == len(args):
            raise

    def of_arrays(*chosen: Any) -> Any:
        values = dict(zip(arrays, chosen))
        return fn(*(values.get(i, arg) for i, arg in enumerate(args)))

    with_arrays = tuple(args[i] for i in arrays)
    return of_arrays, with_arrays, jax.make_jaxpr(of_arrays)(*with_arrays)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def _run(
    comparisons: list[Comparison], repeats: int, budget: float | None, progress: bool | None
) -> tuple[list[Entry], str | None]:
    """Run the comparisons; return their entries, and why not all were measured or None."""
    entries: list[Entry] = []
    began = time.monotonic()

    def check(share: float = 1.0) -> None:
        if budget is not None and time.monotonic() - began > share * budget:
            raise _BudgetSpent

    try:
        with _bar(sum(len(c.candidates) for c in comparisons), progress) as step:
            if budget is not None:  # find the most expensive by a first call of each, with at most half of the budget
                with contextlib.suppress(_BudgetSpent):
                    for comparison in comparisons:
                        check(0.5)
                        comparison.prepare()
                        comparison.measure(comparison.static)
                        comparison.release()
                comparisons.sort(key=lambda comparison: comparison.cost, reverse=True)
            for comparison in comparisons:
                check()
                comparison.prepare()
                spent = None
                try:
                    for name in comparison.candidates:
                        step(f"{comparison.kind} {comparison.equation.text()}: {name}")
                        comparison.measure(name)
                        check()
                except _BudgetSpent as reason:
                    spent = reason
                if spent is None or comparison.has_alternative:
                    comparison.time_in_turns(repeats)
                    entries.append(comparison.entry())
                comparison.release()
                if spent is not None:
                    raise spent
    except KeyboardInterrupt:
        return entries, INTERRUPTED
    except _BudgetSpent:
        return entries, SPENT
    return entries, None


def _unfinished(comparisons: list[Comparison], finished: set[str]) -> list[Entry]:
    """Return entries by which lax can compute the problems that the budget left out, in the whole program."""
    entries = []
    for comparison in comparisons:
        if comparison.equation.key not in finished and "lax" in comparison.candidates:
            comparison.prepare()
            for name in dict.fromkeys((comparison.static, "lax")):
                comparison.measure(name)
            entries.append(comparison.entry())
            comparison.release()
    return entries


@contextlib.contextmanager
def _bar(total: int, wanted: bool | None) -> Iterator[Callable[[str], None]]:
    """Show a progress bar; yield the function to call when a step begins."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda text: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        done = 0

        def show_line(text: str) -> None:
            nonlocal done
            done += 1
            print(f"{done} of {total}: {text}", file=sys.stderr)

        yield show_line
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)

        def show(text: str) -> None:
            bar.update(task, advance=1, description=text[-70:])

        yield show
