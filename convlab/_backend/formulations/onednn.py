"""The maps that jaxlib's oneDNN computes (`engine`), which has forward convolutions only. A kernel gradient is one too:
x is the image with the batch as its features, dy the kernel, and the window's taps come out as the space.
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

from ..buffers import pad_spatial
from ..engine import available, convolution, gram, instructions
from ..problem import Problem
from .base import Array, Formulation, Solve

LONGEST_SUM = 8192  # terms in float32 that keep the relative error below 2e-6


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
    return available()


def forward_unsupported(p: Problem) -> str | None:
    if _plain(p) and any(d > 1 and (s > 1 or p.rank == 3) for d, s in zip(_gaps(p), p.strides)):
        # For these oneDNN falls back on products in parallel loops, which wait for each other for ever in XLA's pool.
        return "oneDNN's depthwise convolution has no dilated window, and this one does not reshape into one without"
    return _unsupported(p)


def kernel_gradient_unsupported(p: Problem) -> str | None:
    if _pointwise(p) and "avx512bw" not in instructions():
        return "oneDNN's matrix product is used with AVX-512 only"
    return _unsupported(p)


def _plain(p: Problem) -> bool:
    """Depthwise with one feature a channel."""
    return p.depthwise and p.features == p.channels


def _pointwise(p: Problem) -> bool:
    return p.groups == 1 and math.prod(p.window) == 1 and not any(map(any, p.pads))


def _gaps(p: Problem) -> tuple[int, ...]:
    """`kernel_dilation` without what means nothing."""
    return tuple(d if w > 1 else 1 for w, d in zip(p.window, p.kernel_dilation))


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    gaps = _gaps(p)
    if _plain(p) and max(gaps) > 1:
        return _without_gaps(x, kernel, p, solve)
    if _plain(p) and p.rank == 1:  # oneDNN's fast depthwise convolutions have two axes or three
        pads, strides = ((0, 0), *p.pads), (1, *p.strides)
        return convolution(x[:, None], kernel[None], (1, *p.out), strides, pads, (1, 1), p.groups, p.out_dtype)[:, 0]
    return convolution(x, kernel, p.out, p.strides, p.pads, gaps, p.groups, p.out_dtype)


def takes_epilogues(p: Problem) -> bool:
    """Whether one call of the engine is the whole of `forward`."""
    return not (_plain(p) and max(_gaps(p)) > 1)


def with_epilogues(x: Array, kernel: Array, p: Problem, order: tuple[int, ...], ops: list, extras: list) -> Array:
    """`forward`, and what the engine does to its result (`engine.convolution`). `order`: the kernel's axes as (*window,
    in, out)."""
    if _plain(p) and p.rank == 1:
        x, kernel, order = x[:, None], kernel[None], (0, *(axis + 1 for axis in order))
        extras = [extra if extra.ndim == 1 else extra[:, None] for extra in extras]
        p = dataclasses.replace(
            p,
            spatial=(1, *p.spatial),
            window=(1, *p.window),
            strides=(1, *p.strides),
            pads=((0, 0), *p.pads),
            input_dilation=(1, 1),
            kernel_dilation=(1, *p.kernel_dilation),
        )
        return with_epilogues(x, kernel, p, order, ops, extras)[:, 0]
    return convolution(x, kernel, p.out, p.strides, p.pads, _gaps(p), p.groups, p.out_dtype, order, ops, extras)


def _without_gaps(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    """A depthwise convolution of one or two axes and a dilated window, by one whose window has no gaps.

    Along an axis with gaps of d the image splits into one axis of every d-th place, on which the window has none, and
    one of d places; the last axis gives its d places to the channels, all of them with the same taps.
    """
    gaps = _gaps(p)
    counts = [-(-out // d) for out, d in zip(p.out, gaps)]
    # Without gaps the axis keeps its stride; with them its stride is 1.
    rows = [(count - 1) * s + w for count, w, s in zip(counts, p.window, p.strides)]
    x = pad_spatial(x, [(lo, row * d - n - lo) for (lo, _), row, d, n in zip(p.pads, rows, gaps, p.spatial)])
    channels, split = gaps[-1] * p.channels, p.rank == 2 and gaps[0] > 1
    problem = dataclasses.replace(
        p,
        spatial=(rows[0], gaps[0], rows[1]) if split else tuple(rows),
        window=(p.window[0], 1, p.window[1]) if split else p.window,
        strides=(1, 1, p.strides[1]) if split else p.strides,
        pads=((0, 0),) * (p.rank + split),
        input_dilation=(1,) * (p.rank + split),
        kernel_dilation=(1,) * (p.rank + split),
        **dict.fromkeys(("channels", "features", "groups"), channels),
    )
    image = x.reshape(p.batch, *problem.spatial, channels)
    y = forward(image, jnp.tile(kernel, gaps[-1]).reshape(*problem.window, 1, channels), problem, solve)
    y = y.reshape(p.batch, *(count * d for count, d in zip(counts, gaps)), p.features)
    return y[(slice(None), *map(slice, p.out))]


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    if _pointwise(p):
        seen = x[(slice(None), *(slice(None, None, s) for s in p.strides))]
        dkernel = gram(seen.reshape(-1, p.channels), dy.reshape(-1, p.features))
    else:
        rows = np.linspace(0, p.out[0], _pieces(p) + 1).astype(int).tolist()
        parts = [_from_rows(x, dy, first, last, p) for first, last in itertools.pairwise(rows)]
        dkernel = functools.reduce(operator.add, parts)
    return dkernel.reshape(*p.window, p.channels // p.groups, p.features)


def _few_features(p: Problem) -> bool:
    """Depthwise, with so few features a channel that the channels may as well be repeated for each of them."""
    return p.depthwise and p.features // p.groups <= 8


def _pieces(p: Problem) -> int:
    """Into how many to split the sum over batch and space: the longer one in float32, the less accurate it is."""
    if _few_features(p):
        together = p.batch * math.prod(p.out)
    elif p.rank == 1:
        together = p.batch * p.out[0]
    else:  # oneDNN begins another sum with every row
        return 1
    return min(p.out[0], -(-together // LONGEST_SUM))


def _from_rows(x, dy, first: int, last: int, p: Problem):
    """The gradient from the outputs `first` to `last` of the first axis."""
    lo, stride = p.pads[0][0] - first * p.strides[0], p.strides[0]
    hi = (last - 1 - first) * stride + p.effective_size[0] - p.spatial[0] - lo
    p, dy = dataclasses.replace(p, pads=((lo, hi), *p.pads[1:])), dy[:, first:last]
    if not _few_features(p):
        return _grouped_gradient(x, dy, p)
    plain = dataclasses.replace(p, channels=p.features, groups=p.features)
    return _depthwise_gradient(jnp.repeat(x, p.features // p.groups, -1), dy, plain)


def _ends(p: Problem):
    """The pads that let the window reach exactly what the outputs see."""
    facts = zip(p.pads, p.out, p.strides, p.effective_size, p.spatial)
    return [(lo, (out - 1) * s + reach - n - lo) for (lo, _), out, s, reach, n in facts]


def _depthwise_gradient(x, dy, p: Problem):
    """(*window, c): the batch is one more axis of space, which dy covers as a window."""
    if any(s > 1 for s in p.strides):
        return _strided_gradient(x, dy, p)
    ends, gaps = _ends(p), _gaps(p)
    if p.rank < 3:
        image, taps, ends = x[None], dy, [(0, 0), *ends]
        out, strides = (1, *p.window), (1, *gaps)
    else:  # no axis is left: the images stand in a row along the first, with zeros in dy where a window would see two
        rest = p.effective_size[0] - 1
        image = pad_spatial(x, [ends[0], (0, 0), (0, 0)]).reshape(1, -1, *p.spatial[1:], p.channels)
        taps = pad_spatial(dy, [(0, rest), (0, 0), (0, 0)]).reshape(-1, *p.out[1:], p.channels)
        ends, out, strides = [(0, rest), *ends[1:]], p.window, gaps
    y = convolution(image, taps[..., None, :], out, strides, ends, (1,) * len(out), p.channels)
    return y.reshape(*p.window, p.channels)


def _strided_gradient(x, dy, p: Problem):
    """Places of the input in classes of their residue by the stride, within which the taps are at stride 1.

    The classes of the last axis become channels, those of the others are taken one by one.
    """
    offsets = [np.arange(w) * d - lo for w, d, (lo, _) in zip(p.window, p.kernel_dilation, p.pads)]
    residues = [o % s for o, s in zip(offsets, p.strides)]
    places = [o // s for o, s in zip(offsets, p.strides)]
    firsts, counts = [int(q.min()) for q in places], tuple(int(np.ptp(q)) + 1 for q in places)
    last, ones = p.strides[-1], (1,) * p.rank
    whole = [(0, max(0, s - n)) for s, n in zip(p.strides[:-1], p.spatial)]  # no class is empty
    x = pad_spatial(x, [*whole, (0, -p.spatial[-1] % last)])
    x, dy = x.reshape(*x.shape[:-2], -1, last * p.channels), jnp.tile(dy, last)
    wide = last * p.channels
    merged = dataclasses.replace(
        p, window=counts, strides=ones, kernel_dilation=ones, channels=wide, features=wide, groups=wide
    )

    def of_class(residue):
        seen = x[(slice(None), *(slice(r, None, s) for r, s in zip(residue, p.strides)))]
        sizes = zip(firsts, counts, seen.shape[1:], p.out)
        pads = tuple((-first, out - 1 + count - n + first) for first, count, n, out in sizes)
        return _depthwise_gradient(seen, dy, dataclasses.replace(merged, spatial=seen.shape[1:-1], pads=pads))

    classes = [of_class(residue) for residue in itertools.product(*map(range, p.strides[:-1]))]
    taps = jnp.stack(classes).reshape(*p.strides[:-1], *counts, last, p.channels)
    index = [*residues[:-1], *(q - first for q, first in zip(places, firsts)), residues[-1]]
    axes = [*range(p.rank - 1), *range(p.rank), p.rank - 1]
    return taps[tuple(i.reshape([-1 if a == axis else 1 for a in range(p.rank)]) for i, axis in zip(index, axes))]


def _grouped_gradient(x, dy, p: Problem):
    """(*window, c / groups, features); groups too thin for the vector units are computed a few as one."""
    per_group, multiplier = p.channels // p.groups, p.features // p.groups
    merged = math.gcd(p.groups, max(1, 8 // max(per_group, multiplier)))
    if merged == 1:
        return _dense_gradient(x, dy, p)
    dkernel = _dense_gradient(x, dy, dataclasses.replace(p, groups=p.groups // merged))
    dkernel = dkernel.reshape(*p.window, merged, per_group, p.groups // merged, merged, multiplier)
    return jnp.stack([dkernel[..., i, :, :, i, :] for i in range(merged)], -2)


def _dense_gradient(x, dy, p: Problem):
    """(*window, c / groups, features): the batch becomes the image's features, its channels a part of its last axis.

    So the taps of that axis and the channels are one long row of outputs, which is what keeps the vector units busy.
    """
    per_group = p.channels // p.groups
    if p.batch == 1 and (p.rank == 1 and _gaps(p)[0] > 1 or p.features == p.groups > 1):
        # A group of one channel under one of dy is a depthwise convolution, which oneDNN has no fast program for where
        # it is dilated; and an image of one channel under a long dilated column ends the process (it cannot create the
        # primitive). Those of two do not.
        x, dy = (jnp.concatenate([a, jnp.zeros_like(a)]) for a in (x, dy))
        p = dataclasses.replace(p, batch=2)
    if p.rank == 3 and _gaps(p)[-1] > 1:  # the channels cannot share the last axis, and there is no fourth
        return jnp.stack([_dense_gradient(x, dy, _one_tap(p, t)) for t in range(p.window[-1])], 2).squeeze(3)
    pads, strides, gaps = _ends(p), p.strides, _gaps(p)
    if p.groups == 1:
        x = lax.transpose(x, (*range(1, x.ndim), 0))
    else:
        x = x.reshape(*x.shape[:-1], p.groups, per_group)
        x = jnp.moveaxis(x, (0, -2), (-1, -2))  # (*spatial, c / groups, groups, n)
    if gaps[-1] == 1:
        pads = [*pads[:-1], tuple(per_group * end for end in pads[-1])]
        strides, out = (*strides[:-1], per_group * strides[-1]), (*p.window[:-1], per_group * p.window[-1])
        spatial = (*p.spatial[:-1], per_group * p.spatial[-1])
    else:
        pads, strides, out, gaps = [*pads, (0, 0)], (*strides, 1), (*p.window, per_group), (*gaps, 1)
        spatial, dy = (*p.spatial, per_group), dy[..., None, :]
    order = (*range(1, dy.ndim - 1), 0, dy.ndim - 1)
    y = convolution(x.reshape(1, *spatial, -1), dy, out, gaps, pads, strides, p.groups, order=order)
    return y.reshape(*p.window, per_group, p.features)


def _one_tap(p: Problem, t: int) -> Problem:
    """The same outputs from the t-th tap of the last axis alone."""
    (lo, hi), d, w = p.pads[-1], p.kernel_dilation[-1], p.window[-1]
    return dataclasses.replace(p, window=(*p.window[:-1], 1), pads=(*p.pads[:-1], (lo - t * d, hi - (w - 1 - t) * d)))


ONEDNN = Formulation(
    "onednn", forward, kernel_gradient, forward_unsupported, kernel_gradient_unsupported, needs_engine=True
)
