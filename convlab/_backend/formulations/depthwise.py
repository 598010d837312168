"""Depthwise convolution in fused elementwise loops without padding, for two cases of the formulation `taps`.

- `input_gradient` is for a dilated input, which is a strided convolution's input gradient. Each output position,
  indexed by block and phase of the dilation, sums the inputs that it reads; the weights vary along the phases.
- `kernel_gradient` sums, for each tap, the products of image and cotangent over parts of the batch or of space in one
  loop, and over the rest by a product with ones. It reads no padding.
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
    return [
        Axis(index=i, size=n, window=w, stride=s, low=lo, high=hi, base=b, dilation=d)
        for i, (n, w, s, (lo, hi), b, d) in enumerate(facts, 1)
    ]


def max_inputs_per_output(p: Problem) -> int:
    """Return how many inputs an output of `input_gradient` sums at most."""
    return int(np.prod([-(-r // d) for r, d in zip(p.effective_size, p.input_dilation)]))


def input_gradient(x, kernel, p: Problem, acc):
    """Compute the forward map of a dilated input, summed in the dtype `acc`."""
    axes = [axis.transposed for axis in _axes(p)]  # those of the strided convolution with outputs x and inputs y
    pads = [axis.reader_pads for axis in axes]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in pads), (0, 0, 0)])
    kernel = jnp.flip(kernel.reshape(*p.window, p.features), tuple(range(p.rank))).astype(acc)
    phases = [1, *itertools.chain(*((1, axis.stride) for axis in axes))]
    all_weights = kernel[np.ix_(*(np.maximum(np.concatenate([taps for _, taps in axis.readers]), 0) for axis in axes))]

    def term(readers):
        starts = [axis.readers[n][0] + low for n, axis, (low, _) in zip(readers, axes, pads)]
        inputs = x[(slice(None), *(slice(start, start + axis.blocks) for start, axis in zip(starts, axes)))]
        inputs = inputs.reshape(p.batch, *itertools.chain(*((axis.blocks, 1) for axis in axes)), p.features).astype(acc)
        weights = all_weights[tuple(slice(n * axis.stride, (n + 1) * axis.stride) for n, axis in zip(readers, axes))]
        products = inputs * weights.reshape(*phases, p.features)
        exists = functools.reduce(np.logical_and.outer, [axis.readers[n][1] >= 0 for n, axis in zip(readers, axes)])
        return products if exists.all() else select(exists.reshape(*phases, 1), products, 0)

    y = functools.reduce(operator.add, map(term, itertools.product(*(range(len(axis.readers)) for axis in axes))))
    y = y.reshape(p.batch, *(axis.blocks * axis.stride for axis in axes), p.features)
    return y[(slice(None), *map(slice, p.out))].astype(p.out_dtype)


def _outputs_on_input(axis: Axis, tap: int) -> tuple[int, int]:
    """Return the range (first, end) of the outputs whose tap at this index falls on input."""
    outputs = np.flatnonzero(axis.on_input[:, tap])
    return (int(outputs[0]), int(outputs[-1]) + 1) if outputs.size else (0, 0)


def _parts(a: jax.Array) -> list[jax.Array]:
    """Split an array into equal parts, at most `_PARTS`, along the axis that gives the most."""
    counts = [max(k for k in range(1, _PARTS + 1) if n % k == 0) for n in a.shape[:-1]]
    axis = int(np.argmax(counts))
    return jnp.split(a, counts[axis], axis)


def kernel_gradient(x, dy, p: Problem, acc):
    """Compute the kernel gradient, summed in the dtype `acc`."""
    axes = _axes(p)

    def entry(tap):
        ranges = [_outputs_on_input(axis, t) for axis, t in zip(axes, tap)]
        if any(first == end for first, end in ranges):
            return jnp.zeros((1, p.channels), acc)
        spans = [(axis.start(a, t), axis.start(b - 1, t) + 1) for axis, (a, b), t in zip(axes, ranges, tap)]
        inputs = x[(slice(None), *(slice(a, b, s) for (a, b), s in zip(spans, p.strides)))].astype(acc)
        cotangents = dy[(slice(None), *(slice(*r) for r in ranges))].astype(acc)
        products = functools.reduce(operator.add, map(operator.mul, _parts(inputs), _parts(cotangents)))
        products = products.reshape(-1, p.channels)
        return lax.dot(jnp.ones((1, products.shape[0]), acc), products, precision=lax.Precision.HIGHEST)

    entries = [entry(tap) for tap in itertools.product(*map(range, p.window))]
    return jnp.concatenate(entries).reshape(*p.window, 1, p.features).astype(p.out_dtype)
