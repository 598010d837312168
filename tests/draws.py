"""Calls drawn by hypothesis, `name -> (arrays, options)`, that PyTorch supports too.

They have symmetric pads, at most one padding mode and ranks 1 to 3, with odd and even sizes, single pixels, windows
that extend over the border, strides larger than the window, dilation, groups and any batch axes.
"""

import math

import numpy as np
from hypothesis import strategies as st

BATCHES = st.sampled_from([(), (1,), (2,), (1, 2)])


def per_axis(draw, rank, low, high):
    return tuple(draw(st.integers(low, high)) for _ in range(rank))


def numbers(draw, shape):
    """Draw distinct numbers of both signs, so that every maximum is differentiable."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    count = int(np.prod(shape))
    return (rng.permutation(count).reshape(shape) - count / 2 + 0.3) / max(count, 1) * 4


def odd(draw, x, kinds=("distinct", "ties", "nan", "-inf")):
    """Sometimes add ties, NaN or infinities, where a maximum has a gradient too."""
    kind = draw(st.sampled_from(["distinct", *kinds]))
    some = np.random.default_rng(draw(st.integers(0, 99))).uniform(size=x.shape) < 0.4
    return {"distinct": x, "ties": np.round(x), "nan": np.where(some, np.nan, x), "-inf": np.where(some, -np.inf, x)}[
        kind
    ]


def effective_size(size, dilation):
    return tuple((k - 1) * d + 1 for k, d in zip(size, dilation))


@st.composite
def conv(draw):
    rank = draw(st.integers(1, 3))
    size, dilation, strides = per_axis(draw, rank, 1, 3), per_axis(draw, rank, 1, 2), per_axis(draw, rank, 1, 3)
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    if draw(st.integers(0, 4)) == 0:
        padding, mode, least = "SAME", "zeros", (1,) * rank
        strides = (1,) * rank
    else:
        padding = per_axis(draw, rank, 0, 2)
        least = tuple(
            max(1, r - 2 * p, p + (mode == "reflect")) for r, p in zip(effective_size(size, dilation), padding)
        )
    spatial = tuple(n + draw(st.integers(0, 4 - rank)) for n in least)
    groups, c, features = per_axis(draw, 3, 1, 2)
    x = numbers(draw, (*draw(BATCHES), *spatial, groups * c))
    kernel = numbers(draw, (*size, c, groups * features))
    bias = numbers(draw, (groups * features,))
    options = dict(strides=strides, padding=padding, kernel_dilation=dilation, feature_group_count=groups)
    return (x, kernel, bias), options if mode == "zeros" else options | dict(padding_mode=mode)


@st.composite
def conv_transpose(draw):
    rank = draw(st.integers(1, 3))
    size, dilation, strides = per_axis(draw, rank, 1, 3), per_axis(draw, rank, 1, 2), per_axis(draw, rank, 1, 3)
    padding = per_axis(draw, rank, 0, 2)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilation))
    least = tuple(
        max(1, -(-(2 * p + 1 - e - r) // s) + 1)
        for p, e, r, s in zip(padding, extra, effective_size(size, dilation), strides)
    )
    spatial = tuple(n + draw(st.integers(0, 3 - rank)) for n in least)
    groups, c, features = per_axis(draw, 3, 1, 2)
    x = numbers(draw, (*draw(BATCHES), *spatial, groups * c))
    kernel = numbers(draw, (*size, features, groups * c))
    options = dict(
        strides=strides, padding=padding, kernel_dilation=dilation, feature_group_count=groups, output_padding=extra,
        transpose_kernel=True, use_consistent_padding=True,
    )  # fmt: skip
    return (x, kernel, numbers(draw, (groups * features,))), options


def pooled(draw, rank, dilated=False, padded=True):
    """Draw x, window, strides, padding and dilation."""
    size, strides = per_axis(draw, rank, 1, 4), per_axis(draw, rank, 1, 5)
    dilation = per_axis(draw, rank, 1, 3) if dilated else (1,) * rank
    padding = tuple(draw(st.integers(0, k // 2 if padded else 0)) for k in size)
    # PyTorch writes outside its memory if a dilated window steps over the whole input
    least = tuple(max(r - 2 * p, d) for r, p, d in zip(effective_size(size, dilation), padding, dilation))
    if not dilated:  # PyTorch's 3-D average requires it
        least = size
    spatial = tuple(n + draw(st.integers(0, 7 - 2 * rank)) for n in least)
    return numbers(draw, (*draw(BATCHES), *spatial, draw(st.integers(1, 2)))), size, strides, padding, dilation


@st.composite
def max_pool(draw):
    x, size, strides, padding, dilation = pooled(draw, draw(st.integers(1, 3)), dilated=True)
    options = dict(window_shape=size, strides=strides, padding=padding, window_dilation=dilation)
    # for a 3-D window of -inf, PyTorch's index is outside of the window
    kinds = ("distinct", "ties", "nan", "-inf")[: 3 if len(size) == 3 else 4]
    return (odd(draw, x, kinds),), options | dict(ceil_mode=draw(st.booleans()), return_indices=True)


@st.composite
def avg_pool(draw):
    rank = draw(st.integers(1, 3))
    x, size, strides, padding, _ = pooled(draw, rank)
    options = dict(window_shape=size, strides=strides, padding=padding, ceil_mode=draw(st.booleans()))
    options["count_include_pad"] = draw(st.booleans())
    if rank > 1 and draw(st.booleans()):
        options["divisor_override"] = draw(st.sampled_from([1, 3, -2]))
    return (x,), options


@st.composite
def lp_pool(draw):
    x, size, strides, _, _ = pooled(draw, draw(st.integers(1, 3)), padded=False)
    options = dict(
        window_shape=size,
        strides=strides,
        norm_type=draw(st.sampled_from([1.0, 2.0, 3.0, 2.5, math.inf, -2.0, -1.5, -math.inf])),
    )
    return (x,), options | dict(ceil_mode=draw(st.booleans()))


@st.composite
def adaptive_avg_pool(draw):
    rank = draw(st.integers(1, 3))
    x = numbers(draw, (*draw(BATCHES), *per_axis(draw, rank, 1, 7 - rank), draw(st.integers(1, 2))))
    kept = st.one_of(st.none(), st.integers(1, 5)) if rank > 1 else st.integers(1, 7)
    return (x,), dict(output_shape=tuple(draw(kept) for _ in range(rank)))


@st.composite
def adaptive_max_pool(draw):
    (x,), options = draw(adaptive_avg_pool())
    return (odd(draw, x),), options | dict(return_indices=True)


@st.composite
def fractional_max_pool(draw):
    rank = draw(st.integers(2, 3))
    size, out = per_axis(draw, rank, 1, 3), per_axis(draw, rank, 1, 3)
    spatial = tuple(k + o + draw(st.integers(0, 3)) for k, o in zip(size, out))
    batch, c = draw(BATCHES), draw(st.integers(1, 2))
    samples = np.random.default_rng(draw(st.integers(0, 99))).uniform(size=(*batch, c, rank))
    options = dict(window_shape=size, output_shape=out, return_indices=True)
    return (odd(draw, numbers(draw, (*batch, *spatial, c))),), options | dict(samples=samples)


@st.composite
def max_unpool(draw):
    rank = draw(st.integers(1, 3))
    spatial, strides = per_axis(draw, rank, 1, 3), per_axis(draw, rank, 1, 2)
    out = tuple(n * s + draw(st.integers(0, s - 1)) for n, s in zip(spatial, strides))
    batch, c = draw(BATCHES), draw(st.integers(1, 2))
    x = numbers(draw, (*batch, *spatial, c))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    positions = np.broadcast_to(np.arange(np.prod(out))[:, None], (*batch, int(np.prod(out)), c))
    indices = rng.permuted(positions, axis=-2)[..., : int(np.prod(spatial)), :].reshape(x.shape)
    return (x, indices), dict(output_shape=out)


@st.composite
def unfold(draw):
    x, size, strides, padding, dilation = pooled(draw, 2, dilated=True)
    return (x,), dict(window_shape=size, strides=strides, padding=padding, window_dilation=dilation)


@st.composite
def fold(draw):
    (x,), options = draw(unfold())
    spatial, size = x.shape[-3:-1], options.pop("window_shape")
    out = tuple(
        (n + 2 * p - r) // s + 1
        for n, p, r, s in zip(
            spatial, options["padding"], effective_size(size, options["window_dilation"]), options["strides"]
        )
    )
    return (numbers(draw, (*x.shape[:-3], *out, *size, x.shape[-1])),), options | dict(output_shape=spatial)


@st.composite
def pad(draw):
    rank = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(["zeros", "constant", "reflect", "replicate", "circular"]))
    spatial = per_axis(draw, rank, 1, 4)
    most = [n - 1 if mode == "reflect" else n for n in spatial]
    lowest = 0 if mode in ("reflect", "circular") else -1
    pads = tuple(
        (draw(st.integers(lowest if n > 2 else 0, m)), draw(st.integers(lowest if n > 2 else 0, m)))
        for n, m in zip(spatial, most)
    )
    options = dict(padding=pads, mode=mode) | (dict(value=1.5) if mode == "constant" else {})
    return (numbers(draw, (*draw(BATCHES), *spatial, 2)),), options


CALLS = {
    strategy.__name__: strategy
    for strategy in (
        conv, conv_transpose, max_pool, avg_pool, lp_pool, adaptive_avg_pool, adaptive_max_pool, fractional_max_pool,
        max_unpool, unfold, fold, pad,
    )
}  # fmt: skip
CALLS["min_pool"] = max_pool
