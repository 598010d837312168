"""Random pools for `fuzz.py`, with their tangents and gradients."""

from __future__ import annotations

import fuzz_problems as maps
import jax
import numpy as np
import reference_pools
from fuzz_calls import Call
from fuzz_problems import below, pick

import convlab

SIZES = {1: (1, 5, 40, 700), 2: (1, 3, 5, 9, 33), 3: (1, 2, 3, 5, 8)}


def _options(rng, rank):
    """Return spatial sizes and the arguments of a pool with a nonempty result."""
    while True:
        each = lambda draw: tuple(draw() for _ in range(rank))
        spatial, size = each(lambda: below(rng, SIZES[rank])), each(lambda: below(rng, (1, 2, 3, 3, 5, 12)))
        dilation = each(lambda: pick(rng, (1, 1, 2, 3))) if rng.random() < 0.4 else (1,) * rank
        padding = tuple(maps.pads(rng, n, (k - 1) * d + 1) for n, k, d in zip(spatial, size, dilation))
        options = dict(window_shape=size, strides=each(lambda: pick(rng, (1, 1, 2, 3, 5))), padding=padding)
        options |= dict(window_dilation=dilation, ceil_mode=bool(rng.random() < 0.4))
        out = reference_pools.geometry(np.empty((1, *spatial, 1)), **options)[-1]
        left = [n + min(lo, 0) + min(hi, 0) for n, (lo, hi) in zip(spatial, padding)]
        if min(out) > 0 and min(left) > 0 and np.prod(out) * np.prod(size) < 50_000:
            return spatial, out, options


def pool(seed: int) -> Call:
    rng = np.random.default_rng(seed)
    rank, name = pick(rng, (1, 2, 2, 3)), pick(rng, ("max_pool", "max_pool", "min_pool", "avg_pool", "sum_pool"))
    spatial, out, options = _options(rng, rank)
    batch, c = pick(rng, (1, 2, 15, 16, 17, 32)), pick(rng, (1, 1, 2, 3, 15, 16, 17))
    if batch * c * np.prod(out) * np.prod(options["window_shape"]) > 2_000_000:
        batch = 1
    if name == "avg_pool":
        options["count_include_pad"] = bool(rng.random() < 0.5)
    picks = name in ("max_pool", "min_pool")
    dtype = pick(rng, (np.float32, np.float64))
    x, v = (rng.standard_normal((batch, *spatial, c)).astype(dtype) for _ in range(2))
    dy = rng.standard_normal((batch, *out, c)).astype(dtype)
    if picks and rng.random() < 0.3:
        x = np.round(x)  # ties
    ours, theirs = getattr(convlab, name), getattr(reference_pools, name)

    def positions(y, indices):
        """Return the positions of the maxima; a window of padding only has none."""
        return jax.numpy.where(jax.numpy.isfinite(y), indices, -1)

    def program(x, v, dy):
        function = lambda x: ours(x, **options)
        y, tangent = jax.jvp(function, (x,), (v,))
        dx = jax.vjp(function, x)[1](dy)[0]
        product = (dx * v).sum()
        return [y, tangent, product, *([positions(*ours(x, return_indices=True, **options))] if picks else [])]

    def oracle(x, v, dy):
        if not picks:
            y, tangent = theirs(x, **options), theirs(v, **options)
            return [y, tangent, (dy * tangent).sum()]
        y, indices = theirs(x, return_indices=True, **options)
        flat = indices.reshape(batch, -1, c)
        picked = np.take_along_axis(v.reshape(batch, -1, c), np.maximum(flat, 0), 1)
        tangent = np.where(flat >= 0, picked, 0).reshape(indices.shape)
        return [y, tangent, (dy * tangent).sum(), indices]

    def magnitudes(x, v, dy):
        if picks:
            y, tangent, _, *rest = oracle(x, v, dy)
        else:
            y, tangent, rest = theirs(abs(x), **options), theirs(abs(v), **options), []
        return [np.nan_to_num(abs(y)), abs(tangent), (abs(dy) * abs(tangent)).sum() + np.prod(dy.shape) ** 0.5, *rest]

    facts = " ".join(f"{key}={value}".replace(" ", "") for key, value in options.items())
    return Call(
        text=f"{name} x={x.shape} {x.dtype} {facts}",
        program=program,
        operands=[x, v, dy],
        oracle=oracle,
        bound=16 + 2 * np.prod(options["window_shape"]) ** 0.5,
        magnitudes=magnitudes,
        default=seed % 4 == 0,
    )
