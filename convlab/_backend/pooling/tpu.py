"""Window reductions on a TPU, which has one instruction for the gradient of a maximum over undilated windows.

`pooling.operations` chooses these functions. Other windows are brought to the instruction's form: positions that no
window reads are removed, and an axis with a dilated window is split into blocks and phases, with the phases outside of
the window. The result is a `select_and_scatter_add` with its own padding, which unlike a padded copy never wins a tie.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import compat
from . import windows
from .axis import Axis, axes_of
from .windows import Reducer, identity

_MAX_COMPARED = 64  # most taps to compare with the maximum at once; for more, axis after axis is faster


@dataclasses.dataclass(frozen=True)
class _Span:
    """One axis in the instruction's form.

    `kept` input positions remain, every `step`-th from `first` on; they and the outputs are split into `phases`. The
    outputs get `front` zeros before and `spacing - 1` between them.
    """

    size: int
    first: int
    step: int
    kept: int
    window: int
    stride: int
    low: int
    high: int
    phases: int
    front: int
    spacing: int
    out: int

    @property
    def blocks(self) -> int:
        return -(-self.kept // self.phases)

    @property
    def out_blocks(self) -> int:
        return self.blocks + self.low + self.high - self.window + 1 if self.phases > 1 else self.out


def _span(size: int, window: int, stride: int, pads: tuple[int, int], dilation: int) -> _Span:
    """Bring one axis of a window to the instruction's form."""
    low, high = pads
    out = (size + low + high - (window - 1) * dilation - 1) // stride + 1
    step = math.gcd(stride, dilation) if window > 1 else 1
    stride, dilation = stride // step, dilation // step if window > 1 else 1
    first = max(-low, 0) if low < 0 else -low % step
    first += (-low - first) % step
    low = (low + first) // step
    last = first + step * ((out - 1) * stride + (window - 1) * dilation - low)  # the last position that a window reads
    kept = (min(last, size - 1) - first) // step + 1
    facts = dict(size=size, first=first, step=step, kept=kept, window=window, out=out)
    if dilation == 1:
        high = (out - 1) * stride + window - low - kept
        return _Span(**facts, stride=stride, low=low, high=high, phases=1, front=0, spacing=1)
    before, blocks = -(-low // dilation), -(-kept // dilation)
    front = before * dilation - low
    out_blocks = max(-(-(front + (out - 1) * stride + 1) // dilation), blocks + before - window + 1)
    high = out_blocks - blocks - before + window - 1
    return _Span(**facts, stride=1, low=before, high=high, phases=dilation, front=front, spacing=stride)


def _split_phases(x: jax.Array, spans: list[_Span], counts: list[int]) -> jax.Array:
    """Split each axis that has phases into (blocks, phases)."""
    return x.reshape(
        [n for span, count in zip(spans, counts) for n in ((count, span.phases) if span.phases > 1 else (count,))]
    )


def _input_phases(x: jax.Array, spans: list[_Span], fill) -> jax.Array:
    """Bring the input to the instruction's form."""
    for axis, span in enumerate(spans):
        x = lax.slice_in_dim(x, span.first, span.first + (span.kept - 1) * span.step + 1, span.step, axis)
    x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, span.blocks * span.phases - span.kept, 0) for span in spans])
    return _split_phases(x, spans, [span.blocks for span in spans])


def _join_phases(x: jax.Array, spans: list[_Span]) -> jax.Array:
    """Undo `_input_phases`, with zeros at the positions that no window reads."""
    x = x.reshape([span.blocks * span.phases for span in spans])
    x = lax.slice(x, (0,) * x.ndim, [span.kept for span in spans])
    config = [(s.first, s.size - s.first - (s.kept - 1) * s.step - 1, s.step - 1) for s in spans]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _output_phases(y: jax.Array, spans: list[_Span]) -> jax.Array:
    """Bring the outputs to the instruction's form."""
    ends = [s.out_blocks * s.phases - s.front - (s.out - 1) * s.spacing - 1 for s in spans]
    config = [(s.front, end, s.spacing - 1) for s, end in zip(spans, ends)]
    y = lax.pad(y, jnp.zeros((), y.dtype), config)
    return _split_phases(y, spans, [span.out_blocks for span in spans])


def _select_primitive(reducer: Reducer) -> Any:
    return compat.SELECT_MAX if reducer == "max" else compat.SELECT_MIN


def has_instruction(params: dict) -> bool:
    """Return whether at least two axes are outside of the window, as the instruction for gradients of maxima
    requires."""
    return sum(size == stride == 1 for size, stride in zip(params["window_dimensions"], params["window_strides"])) >= 2


def _spans(x, v, params: dict) -> list[_Span] | None:
    """Return the axes in the instruction's form; None if it does not support them."""
    sizes, strides = params["window_dimensions"], params["window_strides"]
    if not has_instruction(params) or max(params["base_dilation"]) > 1:
        return None
    if x.dtype != v.dtype or 0 in (*x.shape, *v.shape):
        return None
    spans = [_span(*axis) for axis in zip(x.shape, sizes, strides, params["padding"], params["window_dilation"])]
    return spans if all(span.kept > 0 for span in spans) else None


def _instruction_params(spans: list[_Span], reducer: Reducer) -> dict:
    outside = (1, 1, (0, 0))
    axes = [
        fact
        for span in spans
        for fact in ([(span.window, span.stride, (span.low, span.high))] + ([outside] if span.phases > 1 else []))
    ]
    sizes, strides, padding = zip(*axes)
    return dict(
        window_dimensions=sizes, window_strides=strides, padding=padding, select_prim=_select_primitive(reducer)
    )


def max_tangent(x, dx, params: dict, *, reducer: Reducer):
    """Compute `windows.max_tangent` by `select_and_gather_add` if that supports the window."""
    spans = _spans(x, dx, params)
    if spans is None or max(params["window_dilation"]) > 1 or min(map(min, params["padding"])) < 0:
        return windows.max_tangent(x, dx, axes_of(x.shape, params), reducer=reducer)
    undilated = {name: params[name] for name in ("window_dimensions", "window_strides", "padding")}
    dilations = {name: params[name] for name in ("base_dilation", "window_dilation")}
    return compat.GATHER_ADD.bind(dx, x, select_prim=_select_primitive(reducer), **undilated, **dilations)


def max_cotangent(x, dy, params: dict, *, reducer: Reducer):
    """Compute `windows.max_cotangent` by `select_and_scatter_add`."""
    spans = _spans(x, dy, params)
    if spans is None:
        return windows.max_cotangent(x, dy, axes_of(x.shape, params), reducer=reducer)
    x, dy = _input_phases(x, spans, identity(x.dtype, reducer)), _output_phases(dy, spans)
    return _join_phases(compat.SCATTER_ADD.bind(dy, x, **_instruction_params(spans, reducer)), spans)


def window_argmax(x, params: dict, *, reducer: Reducer):
    """Compute `windows.window_argmax` by comparing every tap with lax's maximum, in one fused loop over the output."""
    elements = math.prod(params["window_dimensions"])
    if not jnp.issubdtype(x.dtype, jnp.floating) or max(params["base_dilation"]) > 1 or elements > _MAX_COMPARED:
        return windows.window_argmax(x, axes_of(x.shape, params), reducer=reducer)
    best = (compat.WINDOW_MAX if reducer == "max" else compat.WINDOW_MIN).bind(x, **params)

    def read(fill):
        padded = lax.pad(x, jnp.asarray(fill, x.dtype), [(*pair, 0) for pair in params["padding"]])
        for element in np.ndindex(*params["window_dimensions"]):
            starts = [t * d for t, d in zip(element, params["window_dilation"])]
            ends = [at + (n - 1) * s + 1 for at, n, s in zip(starts, best.shape, params["window_strides"])]
            yield lax.slice(padded, starts, ends, params["window_strides"])

    first = last = jnp.zeros(best.shape, jnp.int32)
    for index, values in reversed(list(enumerate(read(jnp.nan)))):  # padding, a NaN, equals no maximum
        first = jnp.where(values == best, index, first)
    for index, values in enumerate(read(0)):
        last = jnp.where(values != values, index, last)
    return jnp.where(best != best, last, first)


def broadcast_axes(axes: Sequence[Axis]) -> dict[int, int]:
    """Return the axes of length 1 whose element is in every window, and the sizes of the result along them.

    They occur in the gradient of a sum over a whole axis.
    """
    return {axis.index: axis.out for axis in axes if axis.size == 1 and axis.out and axis.on_input.any(1).all()}


def window_sum(x, params: dict):
    """Compute lax's sum, but broadcast along `broadcast_axes`."""
    copies = broadcast_axes(axes_of(x.shape, params))
    unused = {name: (0, 0) if name == "padding" else 1 for name in params}
    rest = {
        name: tuple(unused[name] if i in copies else v for i, v in enumerate(value)) for name, value in params.items()
    }
    y = compat.WINDOW_SUM.bind(x, **rest) if axes_of(x.shape, rest) else x
    return jnp.broadcast_to(y, [copies.get(i, n) for i, n in enumerate(y.shape)])
