"""The formulation `onednn`: convolve by jaxlib's oneDNN (`engine`).

The engine has forward convolutions only. A kernel gradient is computed as one: x is the image with the batch in the
role of the channels, dy is the kernel, and the taps are the output positions.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..buffers import no_inline, pad_spatial
from ..engine import convolution, instructions, transposed_matmul, unavailable_reason
from ..problem import Problem
from .base import VECTOR, Array, Formulation, Solve

LONGEST_SUM = 8192  # most terms of a float32 sum with a relative error below 2e-6


def _unsupported(p: Problem) -> str | None:
    if not 1 <= p.rank <= 3:
        return "oneDNN convolves 1 to 3 spatial axes"
    if p.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16) or p.out_dtype not in (jnp.float32, p.dtype):
        return "oneDNN is used for float32 and narrower floats"
    if p.dilates_input:
        return "oneDNN has no dilated input"
    if 0 in (p.batch, p.channels, p.features, *p.spatial, *p.window, *p.out):
        return "oneDNN refuses empty arrays"
    images = p.batch * max(math.prod(p.spatial) * p.channels, math.prod(p.out) * p.features)
    if max(images, math.prod(p.window) * p.channels // p.groups * p.features) >= 2**29:
        return "arrays of 2 GiB and more stay with XLA"
    return unavailable_reason()


def forward_unsupported(p: Problem) -> str | None:
    if p.plain_depthwise and any(d > 1 and (s > 1 or p.rank == 3) for d, s in zip(_effective_dilation(p), p.strides)):
        # For these oneDNN falls back on products in nested parallel loops, which deadlock in XLA's thread pool.
        return "oneDNN's depthwise convolution has no dilated window, and this one does not reshape into one without"
    return _unsupported(p)


def kernel_gradient_unsupported(p: Problem) -> str | None:
    if _is_pointwise(p) and "avx512bw" not in instructions():
        return "oneDNN's matrix product is used with AVX-512 only"
    return _unsupported(p)


def _is_pointwise(p: Problem) -> bool:
    """Return whether each output reads one position, none of them in padding."""
    inside = all(low == 0 and high <= 0 for low, high in p.exact_pads)
    return p.groups == 1 and math.prod(p.window) == 1 and inside and not p.dilates_input


def _effective_dilation(p: Problem) -> tuple[int, ...]:
    """Return `kernel_dilation`, with 1 for axes of one tap, where it has no effect."""
    return tuple(d if w > 1 else 1 for w, d in zip(p.window, p.kernel_dilation))


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    if not takes_epilogues(p):
        return _dilated_depthwise(x, kernel, p, solve)
    return with_epilogues(x, kernel, p, tuple(range(p.rank + 2)), [], [])


def forward_in_order(x: Array, kernel: Array, p: Problem, order: tuple[int, ...]) -> Array:
    """Compute `forward` without groups of a kernel in any layout, which the engine lays out anew in any case."""
    return with_epilogues(x, kernel, p, order, [], [])


def takes_epilogues(p: Problem) -> bool:
    """Return whether `forward` is a single call of the engine."""
    return not (p.plain_depthwise and max(_effective_dilation(p)) > 1)


def with_epilogues(x: Array, kernel: Array, p: Problem, order: tuple[int, ...], ops: list, extras: list) -> Array:
    """Compute `forward` and the operations `ops` on its result in one call (`engine.convolution` describes them)."""
    if p.plain_depthwise and p.rank == 1:  # oneDNN's fast depthwise convolutions have two axes or three
        order = (0, *(axis + 1 for axis in order))
        extras = [extra if extra.ndim == 1 else extra[:, None] for extra in extras]
        return with_epilogues(x[:, None], kernel[None], p.with_unit_axis(), order, ops, extras)[:, 0]
    return convolution(
        x,
        kernel,
        out=p.out,
        strides=p.strides,
        pads=p.pads,
        dilation=_effective_dilation(p),
        groups=p.groups,
        dtype=p.out_dtype,
        order=order,
        ops=ops,
        extras=extras,
    )


def _dilated_depthwise(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    """Compute a depthwise convolution of one or two axes with a dilated window by an undilated one.

    An axis with dilation d is reshaped into (size / d, d): on the first part the window is undilated. The second part
    is a batch-like axis of its own, or for the last axis joins the channels, all of them with the same taps.
    """
    dilation = _effective_dilation(p)
    counts = [-(-out // d) for out, d in zip(p.out, dilation)]
    # An undilated axis keeps its stride; a dilated one has stride 1.
    rows = [(count - 1) * s + w for count, w, s in zip(counts, p.window, p.strides)]
    # Whole periods of the padding are the engine's own; only the rest of it is written to memory.
    lows = [min(max(lo, 0) // d, row - 1) for (lo, _), row, d in zip(p.pads, rows, dilation)]
    firsts = [lo - low * d for (lo, _), low, d in zip(p.pads, lows, dilation)]
    sizes = [
        max(1, min(-(-(n + first) // d), row - low))
        for n, first, row, low, d in zip(p.spatial, firsts, rows, lows, dilation)
    ]
    x = pad_spatial(x, [(first, m * d - n - first) for first, m, d, n in zip(firsts, sizes, dilation, p.spatial)])
    pads = tuple((low, row - low - m) for low, row, m in zip(lows, rows, sizes))
    channels, split = dilation[-1] * p.channels, p.rank == 2 and dilation[0] > 1
    problem = dataclasses.replace(
        p,
        spatial=(sizes[0], dilation[0], sizes[1]) if split else tuple(sizes),
        window=(p.window[0], 1, p.window[1]) if split else p.window,
        strides=(1, 1, p.strides[1]) if split else p.strides,
        pads=(pads[0], (0, 0), pads[1]) if split else pads,
        input_dilation=(1,) * (p.rank + split),
        kernel_dilation=(1,) * (p.rank + split),
        **dict.fromkeys(("channels", "features", "groups"), channels),
    )
    image = x.reshape(p.batch, *problem.spatial, channels)
    y = forward(image, jnp.tile(kernel, dilation[-1]).reshape(*problem.window, 1, channels), problem, solve)
    y = y.reshape(p.batch, *(count * d for count, d in zip(counts, dilation)), p.features)
    return y[(slice(None), *map(slice, p.out))]


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    if _is_pointwise(p):

        def product(x: Array, dy: Array) -> Array:
            inputs = x[(slice(None), *(slice(0, (out - 1) * s + 1, s) for out, s in zip(p.out, p.strides)))]
            return transposed_matmul(inputs.reshape(-1, p.channels), dy.reshape(-1, p.features))

        # Inlined, each reshape would be fused with what computes its operand, and XLA would compute that twice: for the
        # product, and for the convolution that reads the operand in its own shape.
        dkernel = no_inline(product, x, dy)
    else:
        if _reads_blocks(p):
            return _gradient_of_blocks(x, dy, p)
        if _fills_vectors_with_channels(p):
            return _gradient_with_exchanged_operands(x, dy, p)
        rows = np.linspace(0, p.out[0], _partial_sums(p) + 1).astype(int).tolist()
        parts = [_gradient_of_rows(x, dy, first, last, p) for first, last in itertools.pairwise(rows)]
        dkernel = functools.reduce(operator.add, parts)
    return dkernel.reshape(*p.window, p.channels // p.groups, p.features)


def _reads_blocks(p: Problem) -> bool:
    """Return whether it is a strided first layer of a large image with few channels (measured with AVX-512)."""
    undilated = max(p.kernel_dilation) == 1 and all(w >= s for w, s in zip(p.window, p.strides))
    large = p.groups == 1 and p.rank == 2 and p.channels <= 4 and p.batch * math.prod(p.out) >= 2**14
    return large and undilated and min(p.strides) > 1 and math.prod(p.strides) <= 4


def _gradient_of_blocks(x: Array, dy: Array, p: Problem) -> Array:
    """Compute the gradient of a strided convolution by that of an unstrided one, whose channels are blocks of pixels.

    The engine then has fewer rows of taps, each as long as before times the stride, and reads dy once for each row.
    """
    firsts = [-lo % s for (lo, _), s in zip(p.pads, p.strides)]  # taps of zeros before the window
    window = tuple(-(-(first + w) // s) for first, w, s in zip(firsts, p.window, p.strides))
    blocks = tuple(out + w - 1 for out, w in zip(p.out, window))
    lows = [lo + first for (lo, _), first in zip(p.pads, firsts)]
    x = pad_spatial(x, [(lo, m * s - n - lo) for lo, m, s, n in zip(lows, blocks, p.strides, p.spatial)])
    x = x.reshape(p.batch, *itertools.chain(*zip(blocks, p.strides)), p.channels)
    x = lax.transpose(x, (0, *range(1, 2 * p.rank, 2), *range(2, 2 * p.rank + 1, 2), 2 * p.rank + 1))
    ones, channels = (1,) * p.rank, math.prod(p.strides) * p.channels
    problem = dataclasses.replace(
        p, spatial=blocks, window=window, channels=channels, strides=ones, pads=((0, 0),) * p.rank
    )
    dkernel = _dense_gradient(x.reshape(p.batch, *blocks, channels), dy, problem)
    dkernel = dkernel.reshape(*window, *p.strides, p.channels, p.features)
    interleaved = itertools.chain(*((axis, p.rank + axis) for axis in range(p.rank)))
    dkernel = lax.transpose(dkernel, (*interleaved, 2 * p.rank, 2 * p.rank + 1))
    dkernel = dkernel.reshape(*(w * s for w, s in zip(window, p.strides)), p.channels, p.features)
    return dkernel[tuple(slice(first, first + w) for first, w in zip(firsts, p.window))]


def _fills_vectors_with_channels(p: Problem) -> bool:
    """Return whether the features, which fill the engine's vectors, are so few that the channels fill them better."""
    plain = p.groups == 1 and p.rank == 2 and all(n == 1 for n in (*p.strides, *p.kernel_dilation))
    of_channels, of_features = (n / (-(-n // VECTOR) * VECTOR) for n in (p.channels, p.features))
    return plain and p.features < VECTOR and of_channels > of_features


def _gradient_with_exchanged_operands(x: Array, dy: Array, p: Problem) -> Array:
    """Compute the gradient as that of the mirrored kernel by which dy gives x, with channels and features exchanged."""
    pads = tuple((w - 1 - lo, n - out + lo) for w, (lo, _), n, out in zip(p.window, p.pads, p.spatial, p.out))
    problem = dataclasses.replace(p, spatial=p.out, channels=p.features, features=p.channels, pads=pads)
    dkernel = _dense_gradient(dy, x, problem)
    return jnp.swapaxes(jnp.flip(dkernel, tuple(range(p.rank))), -1, -2)


def _repeats_channels(p: Problem) -> bool:
    """Return whether it is depthwise with few features for each channel, so that the channels are repeated for each."""
    return p.depthwise and p.features // p.groups <= 8


def _partial_sums(p: Problem) -> int:
    """Return into how many sums to split the sum over batch and space, for a long float32 sum is less accurate."""
    if _repeats_channels(p):
        terms = p.batch * math.prod(p.out)
    elif p.rank == 1:
        terms = p.batch * p.out[0]
    else:  # oneDNN begins another sum with every row
        return 1
    return min(p.out[0], -(-terms // LONGEST_SUM))


def _gradient_of_rows(x, dy, first: int, last: int, p: Problem):
    """Compute the gradient from the outputs `first` to `last` of the first axis."""
    lo, stride = p.pads[0][0] - first * p.strides[0], p.strides[0]
    hi = (last - 1 - first) * stride + p.effective_size[0] - p.spatial[0] - lo
    p, dy = dataclasses.replace(p, pads=((lo, hi), *p.pads[1:])), dy[:, first:last]
    if not _repeats_channels(p):
        return _grouped_gradient(x, dy, p)
    plain = dataclasses.replace(p, channels=p.features, groups=p.features)
    return _depthwise_gradient(jnp.repeat(x, p.features // p.groups, -1), dy, plain)


def _depthwise_gradient(x, dy, p: Problem):
    """Compute (*window, c) with the batch as one more spatial axis, which dy covers as a window."""
    if any(s > 1 for s in p.strides):
        return _strided_gradient(x, dy, p)
    strides, pads = _effective_dilation(p), [*p.exact_pads]
    if p.rank < 3:
        image, taps, pads = x[None], dy, [(0, 0), *pads]
        out, strides = (1, *p.window), (1, *strides)
    else:  # oneDNN has no fourth axis: concatenate the images along the first, with zeros in dy between two of them
        rest = p.effective_size[0] - 1
        image = pad_spatial(x, [pads[0], (0, 0), (0, 0)]).reshape(1, -1, *p.spatial[1:], p.channels)
        taps = pad_spatial(dy, [(0, rest), (0, 0), (0, 0)]).reshape(-1, *p.out[1:], p.channels)
        pads, out = [(0, rest), *pads[1:]], p.window
    options = dict(out=out, strides=strides, pads=pads, dilation=(1,) * len(out), groups=p.channels)
    y = convolution(image, taps[..., None, :], **options)
    return y.reshape(*p.window, p.channels)


def _strided_gradient(x, dy, p: Problem):
    """Compute a strided depthwise gradient by unstrided ones, one for each residue class of input positions.

    The positions of a class have the same residue modulo the stride. The classes of the last axis become channels;
    those of the other axes are computed one by one.
    """
    offsets = [np.arange(w) * d - lo for w, d, (lo, _) in zip(p.window, p.kernel_dilation, p.pads)]
    residues = [o % s for o, s in zip(offsets, p.strides)]
    quotients = [o // s for o, s in zip(offsets, p.strides)]
    firsts, counts = [int(q.min()) for q in quotients], tuple(int(np.ptp(q)) + 1 for q in quotients)
    last, ones = p.strides[-1], (1,) * p.rank
    nonempty = [(0, max(0, s - n)) for s, n in zip(p.strides[:-1], p.spatial)]  # pads, so that no class is empty
    x = pad_spatial(x, [*nonempty, (0, -p.spatial[-1] % last)])
    x, dy = x.reshape(*x.shape[:-2], -1, last * p.channels), jnp.tile(dy, last)
    wide = last * p.channels
    merged = dataclasses.replace(
        p, window=counts, strides=ones, kernel_dilation=ones, channels=wide, features=wide, groups=wide
    )

    def of_class(residue):
        inputs = x[(slice(None), *(slice(r, None, s) for r, s in zip(residue, p.strides)))]
        sizes = zip(firsts, counts, inputs.shape[1:], p.out)
        pads = tuple((-first, out - 1 + count - n + first) for first, count, n, out in sizes)
        return _depthwise_gradient(inputs, dy, dataclasses.replace(merged, spatial=inputs.shape[1:-1], pads=pads))

    classes = [of_class(residue) for residue in itertools.product(*map(range, p.strides[:-1]))]
    taps = jnp.stack(classes).reshape(*p.strides[:-1], *counts, last, p.channels)
    index = [*residues[:-1], *(q - first for q, first in zip(quotients, firsts)), residues[-1]]
    axes = [*range(p.rank - 1), *range(p.rank), p.rank - 1]
    return taps[tuple(i.reshape([-1 if a == axis else 1 for a in range(p.rank)]) for i, axis in zip(index, axes))]


def _grouped_gradient(x, dy, p: Problem):
    """Compute (*window, c / groups, features), with several groups as one if they are too small for a vector."""
    per_group, multiplier = p.channels // p.groups, p.features // p.groups
    merged = math.gcd(p.groups, max(1, 8 // max(per_group, multiplier)))
    if merged == 1:
        return _dense_gradient(x, dy, p)
    dkernel = _dense_gradient(x, dy, dataclasses.replace(p, groups=p.groups // merged))
    dkernel = dkernel.reshape(*p.window, merged, per_group, p.groups // merged, merged, multiplier)
    return jnp.stack([dkernel[..., i, :, :, i, :] for i in range(merged)], -2)


def _dense_gradient(x, dy, p: Problem):
    """Compute (*window, c / groups, features): the batch becomes the channels, the channels a part of the last axis.

    The taps of that axis and the channels are then one long row of outputs, which oneDNN vectorises well.
    """
    per_group, strides, dilation, pads = p.channels // p.groups, p.strides, _effective_dilation(p), [*p.exact_pads]
    if p.batch == 1 and (p.rank == 1 and dilation[0] > 1 or p.features == p.groups > 1):
        # With a batch of 1, groups of one channel make a depthwise convolution, for which oneDNN has no fast dilated
        # kernel; and one channel with a long dilated column ends the process (it cannot create the primitive). A batch
        # of 2 has neither fault.
        x, dy = (jnp.concatenate([a, jnp.zeros_like(a)]) for a in (x, dy))
        p = dataclasses.replace(p, batch=2)
    if p.rank == 3 and dilation[-1] > 1:  # the channels cannot share the last axis, and oneDNN has no fourth
        return jnp.stack([_dense_gradient(x, dy, _tap_problem(p, t)) for t in range(p.window[-1])], 2).squeeze(3)
    if p.groups == 1:
        x = lax.transpose(x, (*range(1, x.ndim), 0))
    else:
        x = x.reshape(*x.shape[:-1], p.groups, per_group)
        x = jnp.moveaxis(x, (0, -2), (-1, -2))  # (*spatial, c / groups, groups, n)
    if dilation[-1] == 1:
        pads = [*pads[:-1], (per_group * pads[-1][0], per_group * pads[-1][1])]
        strides, out = (*strides[:-1], per_group * strides[-1]), (*p.window[:-1], per_group * p.window[-1])
        spatial = (*p.spatial[:-1], per_group * p.spatial[-1])
    else:
        pads, strides, out, dilation = [*pads, (0, 0)], (*strides, 1), (*p.window, per_group), (*dilation, 1)
        spatial, dy = (*p.spatial, per_group), dy[..., None, :]
    order = (*range(1, dy.ndim - 1), 0, dy.ndim - 1)
    options = dict(out=out, strides=dilation, pads=pads, dilation=strides, groups=p.groups, order=order)
    y = convolution(x.reshape(1, *spatial, -1), dy, **options)
    return y.reshape(*p.window, per_group, p.features)


def _tap_problem(p: Problem, t: int) -> Problem:
    """Return the problem with the t-th tap of the last axis only, and the same outputs."""
    (lo, hi), d, w = p.pads[-1], p.kernel_dilation[-1], p.window[-1]
    return dataclasses.replace(p, window=(*p.window[:-1], 1), pads=(*p.pads[:-1], (lo - t * d, hi - (w - 1 - t) * d)))


ONEDNN = Formulation(
    "onednn",
    forward,
    kernel_gradient,
    forward_unsupported,
    kernel_gradient_unsupported,
    needs_engine=True,
    forward_in_order=forward_in_order,
)
