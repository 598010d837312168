"""Rules for spans and multiply-adds of JAX's primitives and convlab's.

Windows (convolutions, pools, pads) and contractions have separate rules. Primitives that only move elements are
applied to the ends of the intervals; elementwise ones join the intervals of their operands. The result of any other
primitive (a gather by computed indices, a sort, a loop) depends on everything that its operands depend on, which is
never too little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ._spans import EMPTY, AxisWindow, Span, apply_window, hull, move_elements, reduce_axes

Spans = tuple[Span, ...]  # one per spatial axis of the input
Operands = Sequence[Spans | None]  # None: no dependence on the input

MOVES = {
    "broadcast_in_dim", "concatenate", "copy", "dynamic_slice", "dynamic_update_slice", "expand_dims", "gather",
        "reshape", "rev",
    "slice", "squeeze", "stack", "transpose",
}  # fmt: skip
MIXES = {
    "cumsum",
    "cumprod",
    "cummax",
    "cummin",
    "cumlogsumexp",
    "sort",
    "fft",
    "cholesky",
    "triangular_solve",
    "scan",
    "while",
    "cond",
}
WINDOWS = {"max": "max_pool", "min": "min_pool", "sum": "sum_pool"}


def kind_of(eqn: Any) -> str | None:
    """Return the usual name of an operation: "conv", "conv_transpose", "dot", a pool, or None."""
    name = eqn.primitive.name
    if is_conv(name):
        return "conv_transpose" if max(eqn.params["lhs_dilation"], default=1) > 1 else "conv"
    if is_window(name):
        return WINDOWS.get(name.rpartition("_")[2], "pool")
    return "dot" if name == "dot_general" else None


def is_conv(name: str) -> bool:
    return name.startswith("convlab_conv") or name == "conv_general_dilated"


def is_window(name: str) -> bool:
    return name.startswith(("convlab_window_", "reduce_window"))


# --- windows ------------------------------------------------------------------------------------------------------


def conv_windows(eqn: Any) -> list[tuple[int, AxisWindow]]:
    """Return (axis of the operand, window) for each spatial axis of a convolution."""
    p = eqn.params
    numbers, (lhs, rhs), out = p["dimension_numbers"], (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape
    rows = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:])
    return [
        (
            i,
            AxisWindow(
                lhs[i],
                rhs[k],
                p["window_strides"][n],
                p["padding"][n][0],
                out[o],
                p["lhs_dilation"][n],
                p["rhs_dilation"][n],
            ),
        )
        for n, (i, k, o) in enumerate(rows)
    ]


def conv_spans(eqn: Any, operands: Operands) -> Spans:
    x, kernel = operands
    numbers, rank = eqn.params["dimension_numbers"], eqn.outvars[0].aval.ndim
    if x is None or kernel is not None:
        return everything(operands, rank)
    back = [numbers.lhs_spec[numbers.out_spec.index(a)] for a in range(rank)]
    found = []
    for span in x:
        span = reduce_axes(span, (numbers.lhs_spec[1],), keep=True)
        for axis, window in conv_windows(eqn):
            span = apply_window(span, axis, window)
        position = None if span.axis is None else back.index(span.axis)
        found.append(Span(span.first.transpose(back), span.last.transpose(back), position, span.stride))
    return tuple(found)


def window_spans(eqn: Any, operands: Operands) -> Spans:
    p, shape, out = eqn.params, eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    ones = (1,) * len(shape)
    base, dilation = p.get("base_dilation", ones), p.get("window_dilation", ones)
    found = []
    for span in join_operands(operands, len(shape)):
        for a in range(len(shape)):
            taps = AxisWindow(
                shape[a],
                p["window_dimensions"][a],
                p["window_strides"][a],
                p["padding"][a][0],
                out[a],
                base[a],
                dilation[a],
            )
            span = apply_window(span, a, taps)
        found.append(span)
    return tuple(found)


def pad_spans(eqn: Any, operands: Operands) -> Spans:
    shape, out, found = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape, []
    for span in join_operands(operands, len(shape)):
        for a, (low, _, interior) in enumerate(eqn.params["padding_config"]):
            span = apply_window(span, a, AxisWindow(shape[a], 1, 1, low, out[a], interior + 1))
        found.append(span)
    return tuple(found)


# --- contractions -------------------------------------------------------------------------------------------------


def dot_spans(eqn: Any, operands: Operands) -> Spans:
    contracting, batch = eqn.params["dimension_numbers"]
    ranks, parts = [v.aval.ndim for v in eqn.invars], []
    batches = len(batch[0])
    free = [rank - len(c) - batches for rank, c in zip(ranks, contracting)]
    for side, spans in enumerate(operands):
        if spans is None:
            continue
        kept = [a for a in range(ranks[side]) if a not in contracting[side]]
        order = [kept.index(a) for a in batch[side]] + [i for i, a in enumerate(kept) if a not in batch[side]]
        parts.append([_place_axes(reduce_axes(span, contracting[side]), order, batches, free, side) for span in spans])
    return tuple(hull(pair) for pair in zip(*parts))


def _place_axes(span: Span, order: list[int], batches: int, free: list[int], side: int) -> Span:
    """Move an operand's free axes to their position among those of the result."""

    def position(ends):
        ends = ends.transpose(order)
        new = range(batches, batches + free[0]) if side else range(ends.ndim, ends.ndim + free[1])
        return np.expand_dims(ends, tuple(new))

    axis = None if span.axis is None else order.index(span.axis)
    axis = axis + free[0] if axis is not None and side and axis >= batches else axis
    return Span(position(span.first), position(span.last), axis, span.stride)


def reduce_spans(eqn: Any, operands: Operands) -> Spans:
    return tuple(reduce_axes(span, eqn.params["axes"]) for span in join_operands(operands[:1], eqn.invars[0].aval.ndim))


# --- the rest -----------------------------------------------------------------------------------------------------


def join_operands(operands: Operands, rank: int) -> Spans:
    """Join the spans of operands, for a result of `rank` axes; a scalar operand counts for every element."""
    dependent = [spans for spans in operands if spans is not None]

    def expanded(span: Span) -> Span:
        return span if span.first.ndim == rank else Span.everything([span], rank)

    return tuple(hull([expanded(s) for s in group]) for group in zip(*dependent))


def everything(operands: Operands, rank: int) -> Spans:
    dependent = [spans for spans in operands if spans is not None]
    return tuple(Span.everything(group, rank) for group in zip(*dependent))


def move_spans(eqn: Any, operands: Operands, known: Sequence[Any]) -> Spans:
    """Apply the primitive itself to the ends of the intervals; operands that do not depend on the input have none."""
    name, shapes = eqn.primitive.name, [v.aval.shape for v in eqn.invars]
    count = len(shapes) if name in ("concatenate", "stack") else 2 if name == "dynamic_update_slice" else 1
    if any(k is None for k in known[count:]):
        return everything(operands, eqn.outvars[0].aval.ndim)
    dependent = [i for i in range(count) if operands[i] is not None]
    leading = max(dependent, key=lambda i: math.prod(shapes[i]))

    def apply(*arrays: np.ndarray) -> np.ndarray:
        return _evaluate(eqn, [*arrays, *known[count:]])

    if count == 1:
        return tuple(move_elements(span, shapes[0], apply) for span in operands[0] or ())
    found = []
    for n, main in enumerate(operands[leading] or ()):
        ends = []
        for end, empty in (("first", EMPTY), ("last", -EMPTY)):
            rows = [
                np.full(s, empty) if o is None else np.broadcast_to(getattr(o[n], end), s)
                for o, s in zip(operands, shapes[:count])
            ]
            ends.append(apply(*rows))
        axis = main.axis if main.axis is None or name != "stack" else main.axis + (eqn.params["axis"] <= main.axis)
        first, last = ends
        found.append(Span.of(first, last, axis, main.stride))
    return tuple(found)


def _evaluate(eqn: Any, arrays: Sequence[Any]) -> np.ndarray:
    name, p = eqn.primitive.name, eqn.params
    if name in NUMPY:  # frequent primitives run in NumPy, without a compilation for every shape
        return NUMPY[name](p, *arrays)
    import jax.numpy as jnp
    from jax.lax import GatherScatterMode

    params = eqn.primitive.get_bind_params(p)
    if name == "gather":  # an index out of range depends on the border at most
        params |= {"mode": GatherScatterMode.CLIP, "fill_value": None}
    operands = [jnp.asarray(a, jnp.int32) if isinstance(a, np.ndarray) and a.dtype == np.int64 else a for a in arrays]
    result = eqn.primitive.bind(*operands, **params)
    return np.asarray(result[0] if eqn.primitive.multiple_results else result, np.int64)


def _slice(p: dict, x: np.ndarray) -> np.ndarray:
    return x[tuple(map(slice, p["start_indices"], p["limit_indices"], p["strides"] or (1,) * x.ndim))]


def _broadcast(p: dict, x: np.ndarray, *_: Any) -> np.ndarray:
    new = [a for a in range(len(p["shape"])) if a not in p["broadcast_dimensions"]]
    return np.broadcast_to(np.expand_dims(x, tuple(new)), p["shape"])


NUMPY: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "copy": lambda p, x: x,
    "reshape": lambda p, x, *_: x.reshape(p["new_sizes"]),
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "slice": _slice,
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "stack": lambda p, *xs: np.stack(xs, p["axis"]),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
}


OWN: dict[str, Callable] = {"pad": pad_spans, "dot_general": dot_spans}


def spans_of(eqn: Any, operands: Operands, known: Sequence[Any]) -> Spans | None:
    """Return the spans of the first result of an equation, None if it does not depend on the input."""
    if all(spans is None for spans in operands):
        return None
    name, result = eqn.primitive.name, eqn.outvars[0].aval
    if is_conv(name):
        return conv_spans(eqn, operands)
    if is_window(name):
        return window_spans(eqn, operands[:1])
    if name in OWN:
        return OWN[name](eqn, operands)
    if name in MOVES:
        return move_spans(eqn, operands, known)
    if name.startswith(("reduce_", "argm")) and "axes" in eqn.params and name != "reduce_precision":
        return reduce_spans(eqn, operands)
    shapes = [v.aval.shape for v, spans in zip(eqn.invars, operands) if spans is not None]
    if name in MIXES or not all(_broadcasts(shape, result.shape) for shape in shapes):
        return everything(operands, result.ndim)
    return join_operands(operands, result.ndim)


def _broadcasts(shape: tuple[int, ...], result: tuple[int, ...]) -> bool:
    return not shape or (len(shape) == len(result) and all(a in (1, b) for a, b in zip(shape, result)))


# --- multiply-adds ------------------------------------------------------------------------------------------------


def macs_of(eqn: Any) -> tuple[int, int]:
    """Return the multiply-adds of a convolution or matrix product, without and with the taps that read padding."""
    out, name = eqn.outvars[0].aval.shape if eqn.outvars else (), eqn.primitive.name
    if is_conv(name):
        kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
        windows = [window for _, window in conv_windows(eqn)]
        others = math.prod(out[a] for a in numbers.out_spec[:2]) * kernel[numbers.rhs_spec[1]]
        return others * math.prod(s.real() for s in windows), others * math.prod(s.nominal() for s in windows)
    if name == "dot_general":
        (contracting, _), _ = eqn.params["dimension_numbers"]
        count = math.prod(out) * math.prod(eqn.invars[0].aval.shape[a] for a in contracting)
        return count, count
    return _inner_macs(eqn)


def _inner_macs(eqn: Any) -> tuple[int, int]:
    """Return the multiply-adds inside an equation: of every step of a scan, the costliest branch, one round of a while
    loop."""
    from jax.extend import core

    inner = [getattr(j, "jaxpr", j) for j in core.jaxprs_in_params(eqn.params)]
    counts = [sum_counts(map(macs_of, jaxpr.eqns)) for jaxpr in inner]
    if eqn.primitive.name == "cond":
        return max(counts, default=(0, 0))
    times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    without, with_padding = sum_counts(counts)
    return times * without, times * with_padding


def sum_counts(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    pairs = list(counts)
    return sum(a for a, _ in pairs), sum(b for _, b in pairs)
