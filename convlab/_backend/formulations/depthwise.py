"""Depthwise convolution in fused elementwise loops, for what `taps` would pad or stuff with zeros.

- `spread`: of a dilated input (a strided convolution's input gradient): each place of the output, told by its block and
  its phase of the dilation, adds up the inputs that reach it, with their weights laid along the phases.
- `gram`: the kernel gradient: for each tap the products of image and cotangent, summed over parts of the batch or of
  space in one loop and over the rest by a product with ones. Only what is real is read.
"""

from __future__ import annotations

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..buffers import select
from ..pooling.axis import Axis
from ..problem import Problem

_PARTS = 8  # terms of one fused loop


def _axes(p: Problem) -> list[Axis]:
    facts = zip(p.spatial, p.window, p.strides, p.pads, p.input_dilation, p.kernel_dilation)
    return [Axis(1 + i, n, w, s, lo, hi, b, d) for i, (n, w, s, (lo, hi), b, d) in enumerate(facts)]


def meetings(p: Problem) -> int:
    """How many inputs, at most, `spread` adds up for a place of the output."""
    return int(np.prod([-(-r // d) for r, d in zip(p.effective_size, p.input_dilation)]))


def input_gradient(x, kernel, p: Problem, acc):
    axes = [axis.mirrored for axis in _axes(p)]  # of the strided convolution whose outputs are x, whose places are y
    shifts = [max(0, -min(back for back, _ in axis.reached)) for axis in axes]
    ends = [max(0, axis.blocks + max(back for back, _ in axis.reached) - axis.out) for axis in axes]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in zip(shifts, ends)), (0, 0, 0)])
    kernel = jnp.flip(kernel.reshape(*p.window, p.features), tuple(range(p.rank))).astype(acc)
    phases = [1, *itertools.chain(*((1, axis.stride) for axis in axes))]

    every = kernel[np.ix_(*(np.maximum(np.concatenate([taps for _, taps in axis.reached]), 0) for axis in axes))]

    def term(reached):
        starts = [axis.reached[n][0] + shift for n, axis, shift in zip(reached, axes, shifts)]
        inputs = x[(slice(None), *(slice(start, start + axis.blocks) for start, axis in zip(starts, axes)))]
        inputs = inputs.reshape(p.batch, *itertools.chain(*((axis.blocks, 1) for axis in axes)), p.features).astype(acc)
        weights = every[tuple(slice(n * axis.stride, (n + 1) * axis.stride) for n, axis in zip(reached, axes))]
        products = inputs * weights.reshape(*phases, p.features)
        real = functools.reduce(np.logical_and.outer, [axis.reached[n][1] >= 0 for n, axis in zip(reached, axes)])
        return products if real.all() else select(real.reshape(*phases, 1), products, 0)

    y = functools.reduce(operator.add, map(term, itertools.product(*(range(len(axis.reached)) for axis in axes))))
    y = y.reshape(p.batch, *(axis.blocks * axis.stride for axis in axes), p.features)
    return y[(slice(None), *map(slice, p.out))].astype(p.out_dtype)


def _real(axis: Axis, tap: int) -> tuple[int, int]:
    """The outputs that have this tap on input: the first, and the one after the last."""
    outputs = np.flatnonzero(axis.real[:, tap])
    return (int(outputs[0]), int(outputs[-1]) + 1) if outputs.size else (0, 0)


def _parts(a: jax.Array) -> list[jax.Array]:
    """Equal parts along one of the axes, whichever gives the most, up to `_PARTS`."""
    counts = [max(k for k in range(1, _PARTS + 1) if n % k == 0) for n in a.shape[:-1]]
    axis = int(np.argmax(counts))
    return jnp.split(a, counts[axis], axis)


def gram(x, dy, p: Problem, acc):
    axes = _axes(p)

    def entry(tap):
        real = [_real(axis, t) for axis, t in zip(axes, tap)]
        if any(first == last for first, last in real):
            return jnp.zeros((1, p.channels), acc)
        spans = [(axis.start(first, t), axis.start(last - 1, t) + 1) for axis, (first, last), t in zip(axes, real, tap)]
        seen = x[(slice(None), *(slice(a, b, s) for (a, b), s in zip(spans, p.strides)))].astype(acc)
        sent = dy[(slice(None), *(slice(*r) for r in real))].astype(acc)
        products = functools.reduce(operator.add, map(operator.mul, _parts(seen), _parts(sent))).reshape(-1, p.channels)
        return lax.dot(jnp.ones((1, products.shape[0]), acc), products, precision=lax.Precision.HIGHEST)

    entries = [entry(tap) for tap in itertools.product(*map(range, p.window))]
    return jnp.concatenate(entries).reshape(*p.window, 1, p.features).astype(p.out_dtype)
