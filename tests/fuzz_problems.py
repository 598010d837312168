"""Random convolutions, of more kinds than in the tests: long sequences, pads larger than the window, every kind of
groups, batch sizes around the width of vectors.

The three maps (`forward`, `input_gradient`, `kernel_gradient`) are NumPy's, tap by tap, in the operands' dtype.
"""

import itertools
import math

import jax.numpy as jnp
import numpy as np

from convlab._backend.problem import Problem

BATCHES = (1, 1, 1, 2, 2, 3, 15, 16, 17, 32)
CHANNELS = (1, 1, 1, 2, 2, 3, 4, 5, 7, 8, 15, 16, 17)
SIZES = {1: (1, 5, 40, 200, 700, 1500, 5000), 2: (1, 3, 5, 9, 17, 33, 130), 3: (1, 2, 3, 5, 8, 13)}
WINDOWS = {1: (1, 2, 3, 5, 9, 31, 100), 2: (1, 2, 3, 3, 5, 7, 11, 31), 3: (1, 2, 3, 3, 5)}
MOST_NUMBERS, MOST_SUMS = 1_000_000, 20_000_000


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def below(rng, values):
    """Draw a size up to one of some sizes, so that small ones are frequent."""
    return int(rng.integers(1, pick(rng, values) + 1))


def channels(rng):
    """Draw (channels, features, groups)."""
    kind = pick(rng, ("block_diagonal", "block_diagonal", "depthwise", "multiplied", "grouped"))
    some = lambda: pick(rng, (*CHANNELS, int(rng.integers(1, 65)), int(rng.integers(1, 301))))
    if kind == "block_diagonal":
        return some(), some(), 1
    if kind == "depthwise":
        return (some(),) * 3
    groups = int(rng.integers(2, 20))
    if kind == "multiplied":
        return groups, groups * int(rng.integers(1, 10)), groups
    return groups * pick(rng, (1, 2, 3, 4, 5, 8)), groups * pick(rng, (1, 2, 3, 4, 5, 8)), groups


def pads(rng, size, effective):
    """Draw the pads of one axis: none, SAME, causal, crops, or more than the window."""
    kind = pick(rng, ("none", "same", "same", "causal", "any", "far"))
    if kind in ("any", "far"):
        low, high = (-2, effective) if kind == "any" else (-3, 3 * effective + 1)
        return int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))
    return {"none": (0, 0), "same": ((effective - 1) // 2, effective // 2), "causal": (effective - 1, 0)}[kind]


def problem(rng, dtype=np.float32, most_sums=MOST_SUMS) -> Problem:
    while True:
        rank = pick(rng, (1, 1, 1, 2, 2, 3))
        c, f, groups = channels(rng)
        each = lambda draw: tuple(draw() for _ in range(rank))
        strides = each(lambda: pick(rng, (1, 1, 1, 2, 2, 3, 4, 5)))
        kernel_dilation = each(lambda: pick(rng, (1, 1, 1, 2, 3, 4, below(rng, (64,)) if rank == 1 else 2)))
        input_dilation = each(lambda: pick(rng, (1, 2, 2, 3)))
        p = Problem(
            batch=pick(rng, (*BATCHES, int(rng.integers(1, 131)))),
            spatial=each(lambda: below(rng, SIZES[rank])),
            channels=c,
            window=each(lambda: below(rng, WINDOWS[rank])),
            features=f,
            strides=strides if rng.random() < 0.6 else (1,) * rank,
            pads=((0, 0),) * rank,
            input_dilation=input_dilation if rng.random() < 0.2 else (1,) * rank,
            kernel_dilation=kernel_dilation if rng.random() < 0.5 else (1,) * rank,
            groups=groups,
            dtype=jnp.dtype(dtype),
            out_dtype=jnp.dtype(dtype),
        )
        p.__dict__["pads"] = tuple(pads(rng, n, r) for n, r in zip(p.spatial, p.effective_size))
        numbers = max(map(math.prod, shapes(p)))
        if 0 not in p.out and numbers <= MOST_NUMBERS and p.macs <= most_sums:
            return p


def shapes(p: Problem):
    """Return the shapes of the image, the kernel and the result."""
    return (
        (p.batch, *p.spatial, p.channels),
        (*p.window, p.channels // p.groups, p.features),
        (p.batch, *p.out, p.features),
    )


def numbers(rng, shape, dtype):
    if jnp.issubdtype(dtype, jnp.integer):
        return rng.integers(-9, 10, shape).astype(dtype)
    values = rng.standard_normal(shape, np.float32)
    return (values + 1j * rng.standard_normal(shape, np.float32) if dtype == np.complex64 else values).astype(dtype)


def operands(rng, p: Problem):
    """Draw x, kernel and dy."""
    return [numbers(rng, shape, p.dtype) for shape in shapes(p)]


# --- the maps -----------------------------------------------------------------------------------------------------


def _image(p: Problem, dtype):
    """Return the padded image, zero, and the slices of it and of x that have the same pixels."""
    sizes = [n + lo + hi for n, (lo, hi) in zip(p.dilated, p.pads)]
    image = np.zeros((p.batch, *(max(0, n) for n in sizes), p.channels), dtype)
    at, kept = [slice(None)], [slice(None)]
    for n, (lo, _), d, size in zip(p.spatial, p.pads, p.input_dilation, sizes):
        positions = lo + d * np.arange(n)
        inside = np.flatnonzero((positions >= 0) & (positions < size))
        first, last = (inside[0], inside[-1]) if inside.size else (0, -1)
        at.append(slice(positions[first], positions[last] + 1, d) if inside.size else slice(0, 0))
        kept.append(slice(first, last + 1))
    return image, tuple(at), tuple(kept)


def _taps(p: Problem):
    for tap in itertools.product(*map(range, p.window)):
        facts = zip(tap, p.kernel_dilation, p.out, p.strides)
        yield tap, (slice(None), *(slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in facts))


def _by_group(a, p: Problem):
    """Reshape `(..., channels)` to `(groups, positions, channels / groups)`."""
    return a.reshape(-1, p.groups, a.shape[-1] // p.groups).transpose(1, 0, 2)


def forward(x, kernel, p: Problem):
    image, at, kept = _image(p, x.dtype)
    image[at] = x[kept]
    y = sum(_by_group(image[pixels], p) @ _by_group(kernel[tap], p) for tap, pixels in _taps(p))
    return y.transpose(1, 0, 2).reshape(p.batch, *p.out, p.features)


def input_gradient(kernel, dy, p: Problem):
    image, at, kept = _image(p, dy.dtype)
    for tap, pixels in _taps(p):
        sent = _by_group(dy, p) @ _by_group(kernel[tap], p).transpose(0, 2, 1)
        image[pixels] += sent.transpose(1, 0, 2).reshape(p.batch, *p.out, p.channels)
    dx = np.zeros((p.batch, *p.spatial, p.channels), dy.dtype)
    dx[kept] = image[at]
    return dx


def kernel_gradient(x, dy, p: Problem):
    image, at, kept = _image(p, x.dtype)
    image[at] = x[kept]
    taps = [_by_group(image[pixels], p).transpose(0, 2, 1) @ _by_group(dy, p) for _, pixels in _taps(p)]
    return np.stack(taps).transpose(0, 2, 1, 3).reshape(*p.window, p.channels // p.groups, p.features)
