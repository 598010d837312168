"""The oracle of the pools. An operation reduces the taps of `view`."""

import functools
import itertools
import math

import numpy as np
from reference import (
    broadcast_to_rank,
    conv,
    out_shape,
    pad_modes,
    pad_pairs,
    rank_of,
    source,
    spatial_of,
    take,
    wide,
    windows,
)


def geometry(x, window_shape, strides, padding, window_dilation, ceil_mode):
    rank = rank_of(x, window_shape)
    size, dilation = broadcast_to_rank(window_shape, rank), broadcast_to_rank(window_dilation, rank)
    strides = broadcast_to_rank(1 if strides is None else strides, rank)
    pads = pad_pairs(padding, spatial_of(x, rank), size, strides, dilation)
    return size, strides, dilation, pads, out_shape(spatial_of(x, rank), size, strides, pads, dilation, ceil_mode)


def view(x, window_shape, strides=None, padding="VALID", window_dilation=1, ceil_mode=False, fill=(0, 0)):
    """Return the windows, `(*batch, *out, taps, c)`; outside `x` `fill[0]` in the padding and `fill[1]` in the
    overhang."""
    size, strides, dilation, pads, out = geometry(x, window_shape, strides, padding, window_dilation, ceil_mode)
    first = x.ndim - 1 - len(size)
    modes = pad_modes(padding, "zeros", len(size))
    for axis, ((lo, hi), mode) in enumerate(zip(pads, modes), start=first):
        x = take(x, source(x.shape[axis], lo, hi, mode), axis, fill[0])
    for axis, (k, s, d, count) in enumerate(zip(size, strides, dilation, out), start=first):
        over = max(0, (count - 1) * s + (k - 1) * d + 1 - x.shape[axis])
        x = take(x, source(x.shape[axis], 0, over, "zeros"), axis, fill[1])
    w = windows(x, size, strides, dilation, out)
    return w.reshape(w.shape[: first + len(size)] + (math.prod(size), w.shape[-1]))


def positions(x, rank):
    """Return the flat index of every element over the spatial axes, in the shape of one channel of one example."""
    spatial = spatial_of(x, rank)
    return np.arange(math.prod(spatial)).reshape(*spatial, 1)


def lowest(dtype, sign=1):
    """Return the value that is never the maximum (`sign=1`) or the minimum (`sign=-1`), times `sign`."""
    if dtype.kind in "iu":
        return sign * (np.iinfo(dtype).min if sign > 0 else np.iinfo(dtype).max)
    return (0 if sign > 0 else -1) if dtype.kind == "b" else -np.inf


def argmax_tap(w, real=True):
    """Return the argmax over the taps: the last NaN or, without a NaN, the first of the largest that are `real`."""
    first = (real & (w == w.max(-2, keepdims=True))).argmax(-2)
    last_nan = w.shape[-2] - 1 - (w != w)[..., ::-1, :].argmax(-2)
    return np.where((w != w).any(-2), last_nan, first)


def extreme(sign, x, geometry, return_indices):
    """Return the largest of `sign * x`."""
    x = np.asarray(x)
    low = lowest(x.dtype, sign)
    w = view(sign * wide(x), *geometry, fill=(low, low))
    y = sign * w.max(-2)
    if not return_indices:
        return y
    origin = view(positions(x, rank_of(x, geometry[0])), *geometry, fill=(-1, -1))
    tap = argmax_tap(w, origin >= 0)[..., None, :]
    return y, np.take_along_axis(np.broadcast_to(origin, w.shape), tap, -2)[..., 0, :]


def padded_batch(of_elements, nothing=0.0):
    """Return the pool with `valid`: window by window over the valid elements only, `nothing` where there are none."""

    def decorate(function):
        @functools.wraps(function)
        def pool(x, window_shape, strides=None, padding="VALID", *args, valid=None, **options):
            if valid is None:
                return function(x, window_shape, strides, padding, *args, **options)
            shape = (window_shape, strides, padding)
            w, real = view(wide(x) * 1.0, *shape), view(valid[..., None].astype(int), *shape)
            w, real = (np.moveaxis(a, -2, -1) for a in (w, np.broadcast_to(real, w.shape)))
            y = np.full(w.shape[:-1], nothing)
            for at in zip(*np.nonzero(real.any(-1))):
                y[at] = of_elements(w[at][real[at] > 0], **options)
            return y

        return pool

    return decorate


def softmax_mean(elements, temperature=1.0):
    weight = np.exp((elements - elements.max()) / temperature)
    return (weight * elements).sum() / weight.sum()


@padded_batch(np.max, -np.inf)
def max_pool(
    x, window_shape, strides=None, padding="VALID", *, window_dilation=1, ceil_mode=False, return_indices=False
):  # fmt: skip
    return extreme(1, x, (window_shape, strides, padding, window_dilation, ceil_mode), return_indices)


@padded_batch(np.min, np.inf)
def min_pool(
    x, window_shape, strides=None, padding="VALID", *, window_dilation=1, ceil_mode=False, return_indices=False
):  # fmt: skip
    return extreme(-1, x, (window_shape, strides, padding, window_dilation, ceil_mode), return_indices)


def counts(x, geometry, count_include_pad):
    """Return the number of counted elements of each window: those of `x`, with or without those of the padding."""
    ones = np.ones(spatial_of(x, rank_of(x, geometry[0])) + (1,), np.int64)
    return view(ones, *explicit(x, geometry), fill=(int(count_include_pad), 0)).sum(-2)


def explicit(x, geometry):
    """Return the arguments with tuples: an array without batch axes does not allow an int window."""
    window_shape, *rest = geometry
    return (broadcast_to_rank(window_shape, rank_of(x, window_shape)), *rest)


def divide(total, count):
    """Divide; an empty window has the average 0."""
    return np.where(count == 0, 0, total / np.where(count == 0, 1, count))


@padded_batch(np.sum)
def sum_pool(x, window_shape, strides=None, padding="VALID", *, window_dilation=1, ceil_mode=False):
    return view(wide(x), window_shape, strides, padding, window_dilation, ceil_mode).sum(-2)


@padded_batch(lambda e, count_include_pad=True: e.mean())
def avg_pool(
    x, window_shape, strides=None, padding="VALID", count_include_pad=True, *, window_dilation=1, ceil_mode=False,
    divisor_override=None,
):  # fmt: skip
    geometry = (window_shape, strides, padding, window_dilation, ceil_mode)
    total = view(wide(x), *geometry).sum(-2)
    return divide(total, counts(x, geometry, count_include_pad) if divisor_override is None else divisor_override)


@padded_batch(lambda e, norm_type=2.0: np.linalg.norm(e, norm_type))
def lp_pool(x, window_shape, strides=None, padding="VALID", *, norm_type=2.0, window_dilation=1, ceil_mode=False):
    geometry = (window_shape, strides, padding, window_dilation, ceil_mode)
    padding = 0 if norm_type > 0 else np.inf
    w = np.abs(view(wide(x) * 1.0, *geometry, fill=(padding, padding)))
    if abs(norm_type) == math.inf:
        y = w.max(-2) if norm_type > 0 else w.min(-2)
    else:
        with np.errstate(divide="ignore"):
            y = (divide((w**norm_type).sum(-2), counts(x, geometry, True)) * w.shape[-2]) ** (1 / norm_type)
    return np.where(np.isposinf(w).all(-2), 0, y) if norm_type < 0 else y


@padded_batch(lambda e, p=3.0: (np.abs(e) ** p).mean() ** (1 / p))
def gem_pool(x, window_shape, strides=None, padding="VALID", *, p=3.0):
    return avg_pool(np.abs(wide(x)) ** p, window_shape, strides, padding) ** (1 / p)


@padded_batch(softmax_mean)
def softmax_pool(x, window_shape, strides=None, padding="VALID", *, temperature=1.0):
    w = view(wide(x) * 1.0, window_shape, strides, padding, fill=(-np.inf, -np.inf))
    with np.errstate(invalid="ignore"):
        most = w.max(-2, keepdims=True)
        weight = np.where(np.isinf(w), 0, np.exp((w - most) / temperature))
        y = divide((weight * np.where(np.isinf(w), 0, w)).sum(-2), weight.sum(-2))
    return np.where(most[..., 0, :] == np.inf, np.inf, y)


@padded_batch(lambda e, k=2: np.sort(e)[-k:].mean())
def top_k_pool(x, window_shape, strides=None, padding="VALID", *, k=2):
    w = view(wide(x) * 1.0, window_shape, strides, padding, fill=(-np.inf, -np.inf))
    return np.sort(w, -2)[..., -k:, :].mean(-2)


@padded_batch(lambda e, alpha=0.5: alpha * e.max() + (1 - alpha) * e.mean(), -np.inf)
def mixed_pool(x, window_shape, strides=None, padding="VALID", *, alpha=0.5):
    geometry = (window_shape, strides, padding)
    return alpha * max_pool(x, *geometry) + (1 - alpha) * avg_pool(x, *geometry)


@padded_batch(lambda e: (e * e).sum() / e.sum())
def stochastic_pool(x, window_shape, strides=None, padding="VALID"):
    """Return the expectation: each nonnegative activation is drawn in proportion to itself."""
    w = view(wide(x), window_shape, strides, padding)
    return divide((w * w).sum(-2), w.sum(-2))


def pool(x, init, reduce_fn, window_shape, strides=None, padding="VALID"):
    """Reduce by `reduce_fn`, a function of two NumPy arrays."""
    w, y = view(wide(x), window_shape, strides, padding, fill=(init, init)), init
    for tap in range(w.shape[-2]):
        y = reduce_fn(y, w[..., tap, :])
    return y


def blur_pool(x, window_shape=3, strides=2, padding="SAME", *, padding_mode="reflect"):
    x = np.asarray(x)
    rank = rank_of(x, window_shape)
    kernel = np.ones(1)
    for k in broadcast_to_rank(window_shape, rank):
        kernel = np.multiply.outer(kernel, [math.comb(k - 1, i) / 2 ** (k - 1) for i in range(k)])
    kernel = np.repeat(kernel[0][..., None, None], x.shape[-1], -1)
    return conv(
        x, kernel, strides=strides, padding=padding, padding_mode=padding_mode, feature_group_count=x.shape[-1]
    )  # fmt: skip


# Windows that depend on the size of the input


def adaptive_windows(x, output_shape):
    """Return the output's sizes, and for every position of it the elements of its window, `(*batch, taps, c)`, and
    their flat indices."""
    rank = rank_of(x, output_shape)
    spatial = spatial_of(x, rank)
    out = tuple(n if o is None else o for n, o in zip(spatial, broadcast_to_rank(output_shape, rank)))
    origin, first = positions(x, rank)[..., 0], x.ndim - 1 - rank
    flat = x.reshape(x.shape[:first] + (origin.size, x.shape[-1]))
    boxes = (
        tuple(slice(i * n // o, -(-(i + 1) * n // o)) for i, n, o in zip(at, spatial, out)) for at in np.ndindex(*out)
    )
    return out, [(flat[..., origin[box].ravel(), :], origin[box].ravel()) for box in boxes]


def adaptive(x, output_shape, reduce):
    out, bins = adaptive_windows(wide(x), output_shape)
    y = np.stack([reduce(elements, inside) for elements, inside in bins], -2)
    return y.reshape(y.shape[:-2] + out + y.shape[-1:])


def adaptive_avg_pool(x, output_shape):
    return adaptive(x, output_shape, lambda elements, inside: elements.mean(-2))


def first_max(elements, inside):
    return inside[argmax_tap(elements)]


def adaptive_max_pool(x, output_shape, *, return_indices=False):
    y = adaptive(x, output_shape, lambda elements, inside: elements.max(-2))
    return (y, adaptive(x, output_shape, first_max)) if return_indices else y


def spatial_pyramid_pool(x, levels=(1, 2, 4), *, reduce="max"):
    x = np.asarray(x)
    one = {"max": adaptive_max_pool, "avg": adaptive_avg_pool}[reduce]
    return np.concatenate([one(x, level).reshape(len(x), -1) for level in levels], -1)


def global_avg_pool(x, *, keepdims=False, valid=None):
    if valid is not None:
        one = [a[v].mean(0) if v.any() else np.zeros(a.shape[-1]) for a, v in zip(wide(x) * 1.0, valid)]
        return np.reshape(one, (len(x), *(1,) * (np.ndim(x) - 2) * keepdims, -1))
    return wide(x).mean(tuple(range(1, np.ndim(x) - 1)), keepdims=keepdims)


def global_max_pool(x, *, keepdims=False, valid=None):
    x = wide(x) if valid is None else np.where(valid[..., None], wide(x), -np.inf)
    return x.max(tuple(range(1, np.ndim(x) - 1)), keepdims=keepdims)


def fractional_starts(n, k, count, u):
    """Return Graham's sequence as PyTorch draws it: `count` windows of `k` in `n` from one sample `u`, the last at the
    end."""
    step = (n - k) / (count - 1) if count > 1 else 0
    return [int((i + u) * step) - int(u * step) for i in range(count - 1)] + [n - k]


def fractional_max_pool(x, window_shape, *, output_shape=None, output_ratio=None, samples, return_indices=False):
    x, samples = wide(x), wide(samples)
    rank = rank_of(x, window_shape)
    spatial, size = spatial_of(x, rank), broadcast_to_rank(window_shape, rank)
    if output_shape is None:
        output_shape = tuple(int(n * r) for n, r in zip(spatial, broadcast_to_rank(output_ratio, rank)))
    out = broadcast_to_rank(output_shape, rank)
    first = x.ndim - 1 - rank
    y, at = np.zeros(x.shape[:first] + out + x.shape[-1:]), np.zeros(x.shape[:first] + out + x.shape[-1:], int)
    origin = positions(x, rank)[..., 0]
    for b, c in itertools.product(np.ndindex(*x.shape[:first]), range(x.shape[-1])):
        starts = [fractional_starts(*axis) for axis in zip(spatial, size, out, samples[(*b, c)])]
        for o in np.ndindex(*out):
            box = tuple(slice(s[i], s[i] + k) for s, i, k in zip(starts, o, size))
            elements, inside = x[b][(*box, c)].ravel()[:, None], origin[box].ravel()
            y[(*b, *o, c)], at[(*b, *o, c)] = elements.max(), first_max(elements, inside)[0]
    return (y, at) if return_indices else y


def max_unpool(x, indices, output_shape):
    x, indices, rank = wide(x), np.asarray(indices), len(output_shape)
    batch = x.shape[: x.ndim - 1 - rank]
    y = np.zeros((*batch, math.prod(output_shape), x.shape[-1]), x.dtype)
    flat = (*batch, -1, x.shape[-1])
    np.put_along_axis(y, indices.reshape(flat), x.reshape(flat), -2)
    return y.reshape(*batch, *output_shape, -1)
