"""Which formulation serves a convolution on the CPU: a table read from top to bottom, static facts only.

A row is (formulation, reason, condition). The first row wins whose condition holds, whose formulation does not refuse the
problem, and which is direct summation if the precision is "highest".
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from types import ModuleType

import jax.numpy as jnp
from jax import lax

from . import band, fft, gemm, lax_direct, onednn, phases, taps, winograd
from .problem import Problem

FORMULATIONS: dict[str, ModuleType] = {
    "lax": lax_direct,
    "onednn": onednn,
    "taps": taps,
    "gemm": gemm,
    "band": band,
    "winograd": winograd,
    "fft": fft,
    "phases": phases,
}


def _pointwise(p: Problem) -> bool:
    return math.prod(p.window) == 1


def _strided_gradient(p: Problem) -> bool:
    return any(d > 1 for d in p.lhs_dilation)


def _lone(p: Problem) -> bool:
    """One channel in, one out: nothing for a vector unit to hold."""
    return p.channels == p.features == 1


FORWARD = (
    ("taps", "depthwise, dilated input: each place adds up what reaches it", lambda p: _strided_gradient(p) and p.depthwise),
    ("phases", "a dilated input: no tap meets a stuffed zero", _strided_gradient),
    ("taps", "one channel in and out: one fused loop", _lone),
    ("onednn", "jaxlib's own engine", lambda p: True),
    ("gemm", "one tap: a matrix product", lambda p: _pointwise(p) and p.groups == 1),
    ("taps", "depthwise: one fused loop", lambda p: p.depthwise),
    ("gemm", "grouped: products batched over the groups", lambda p: p.groups > 1),
    ("lax", "dense: XLA's own loop nest", lambda p: True),
)
KERNEL_GRADIENT = (
    ("phases", "a dilated input: the mirrored strided convolution", _strided_gradient),
    ("lax", "one channel in and out: XLA's own loop nest", _lone),
    ("taps", "depthwise, strided: fused sums", lambda p: p.depthwise and max(p.strides) > 1 and math.prod(p.window) <= 32),
    ("onednn", "jaxlib's own engine, the batch in the place of the channels", lambda p: True),
    ("taps", "depthwise: banded products", lambda p: p.depthwise),
    ("gemm", "one tap: a matrix product", lambda p: _pointwise(p) and p.groups == 1),
    ("gemm", "wide channels: one product a tap", lambda p: p.groups == 1 and min(p.channels, p.features) >= 128),
    ("taps", "grouped: banded products", lambda p: p.groups > 1),
    ("lax", "dense: XLA's own loop nest", lambda p: True),
)


def is_highest(precision) -> bool:
    return precision is not None and lax.Precision.HIGHEST in tuple(precision)


def refusal(name: str, kind: str, p: Problem) -> str | None:
    """Why the formulation cannot serve the problem, None if it can. `kind` is "forward" or "kernel_gradient"."""
    formulation = FORMULATIONS[name]
    if not hasattr(formulation, kind):
        return f"{name} has no {kind.replace('_', ' ')}"
    if is_highest(p.precision) and not formulation.direct(p):
        return f"{name} is not direct summation, as precision 'highest' asks"
    return getattr(formulation, f"refusal_{kind}")(p)


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[str, str]]]:
    """Collects what `choose` answers in this thread meanwhile."""
    former, _choices.made = getattr(_choices, "made", None), []
    try:
        yield _choices.made
    finally:
        _choices.made = former


_choices = threading.local()


def choose(kind: str, p: Problem, method: str = "auto", without: frozenset[str] = frozenset()) -> tuple[str, str]:
    """The formulation's name and the reason: `method` if it can serve, otherwise the table's first row that can."""
    choice = _choose(kind, p, method, without)
    if getattr(_choices, "made", None) is not None:
        _choices.made.append(choice)
    return choice


def _choose(kind: str, p: Problem, method: str, without: frozenset[str]) -> tuple[str, str]:
    if method != "auto" and method not in without and refusal(method, kind, p) is None:
        return method, "asked for"
    if not jnp.issubdtype(p.dtype, jnp.floating):
        return "lax", "not a real floating dtype"
    for name, reason, condition in FORWARD if kind == "forward" else KERNEL_GRADIENT:
        if name not in without and condition(p) and refusal(name, kind, p) is None:
            return name, reason
    return "lax", "serves everything"
