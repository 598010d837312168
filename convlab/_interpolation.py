"""Interpolation along one axis: NumPy computes positions and weights, JAX the weighted sums."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _backend
from ._padding import pad_axis
from ._promotion import promoting

Array = jax.Array
Part = tuple[np.ndarray, int, int]  # a block of rows of a matrix, and the range of columns that it reads

# Limits: beyond the first an axis is summed by a matrix, beyond the second positions are gathered.
MAX_PHASES = 8
MAX_TAPS = 20
MAX_ENTRIES = 2**24
MAX_SMALL = 2**13  # up to so many entries a matrix multiplies tangents: the transpose of overlapping slices is slower
BLOCKS = 8


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis of `n` positions to be resampled to `m`; neighbouring centres of the result are `step` positions
    apart."""

    n: int
    m: int
    step: Fraction
    align_corners: bool

    def positions(self, centered: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return for each position of the result the position before it and the distance beyond.

        `centered` measures from the edge of the axis instead of its first centre."""
        p, q = self.step.numerator, self.step.denominator
        i: np.ndarray = np.arange(self.m)
        if max(p, q) > 2**20:  # the step is no simple fraction
            at = i * float(self.step) if self.align_corners and not centered else (i + 0.5) * float(self.step)
            at = at if centered or self.align_corners else at - 0.5
            return np.floor(at).astype(int), at - np.floor(at)
        if centered:
            above, below = (2 * i + 1) * p, 2 * q
        else:
            above, below = (i * p, q) if self.align_corners else ((2 * i + 1) * p - q, 2 * q)
        return above // below, above % below / below


@dataclasses.dataclass(frozen=True)
class Taps:
    """Weights: position `i` of the result is the sum of `weights[i, t]` times position `first[i] + t`.

    Beyond the ends the border is repeated or, if `inside`, omitted."""

    axis: Axis
    first: np.ndarray
    weights: np.ndarray
    inside: bool = False

    def sources(self) -> np.ndarray:
        return np.clip(self.first[:, None] + np.arange(self.weights.shape[1]), 0, self.axis.n - 1)

    def used(self) -> np.ndarray:
        """Return the weights, with 0 for positions beyond the ends."""
        at = self.first[:, None] + np.arange(self.weights.shape[1])
        return np.where((at >= 0) & (at < self.axis.n), self.weights, 0) if self.inside else self.weights


# --- weights ------------------------------------------------------------------------------------------------------


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Evaluate Keys' cubic convolution kernel."""
    x = abs(distance)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def linear_taps(axis: Axis) -> Taps:
    before, beyond = axis.positions(False)
    return Taps(axis, before, np.stack([1 - beyond, beyond], 1))


def cubic_taps(axis: Axis) -> Taps:
    before, beyond = axis.positions(False)
    return Taps(axis, before - 1, cubic(beyond[:, None] - np.arange(-1, 3), -0.75))


def antialiased_taps(axis: Axis, method: str) -> Taps:
    """Return a filter as wide as the step, truncated at the ends and normalized there to a sum of 1."""
    stretch = max(float(axis.step), 1.0)
    support = stretch * (1 if method == "linear" else 2)
    before, beyond = axis.positions(True)
    first = np.floor(before + beyond - support + 0.5).astype(int)
    count = math.floor(2 * support) + 1
    away = (first[:, None] + np.arange(count) + 0.5 - before[:, None] - beyond[:, None]) / stretch
    weights = np.maximum(1 - abs(away), 0) if method == "linear" else cubic(away, -0.5)
    return Taps(axis, first, weights, inside=True)


def nearest_positions(axis: Axis, exact: bool, dtype: type) -> np.ndarray:
    """Return the nearest positions, computed in PyTorch's arithmetic: rounding decides between two neighbours."""
    i: np.ndarray = np.arange(axis.m).astype(dtype)
    step = dtype(float(axis.step))
    at = (i + dtype(0.5)) * step if exact else i * step
    return np.minimum(np.floor(at).astype(int), axis.n - 1)


# --- sums ---------------------------------------------------------------------------------------------------------


def interpolate(x: Array, number: int, taps: Taps) -> Array:
    """Interpolate along axis `number`."""
    n, m, step = taps.axis.n, taps.axis.m, taps.axis.step
    weights = taps.used()
    if taps.inside:
        weights = weights / weights.sum(1, keepdims=True)
    if (
        m == n
        and np.array_equal(taps.first + weights.argmax(1), np.arange(n))
        and np.array_equal(np.sort(weights)[:, -1], np.ones(n))
    ):
        return x
    sources = taps.sources()
    if step > 0 and step.denominator <= min(MAX_PHASES, m) and taps.weights.shape[1] + step.numerator <= MAX_TAPS:
        phases = promoting(functools.partial(by_phase, number=number, taps=taps))
        linear: Callable[[Array], Array] = phases
        if step.denominator > 1 and n * m <= MAX_SMALL:  # if q is 1, the image shrinks and its slices overlap little
            parts = _blocks(n, sources, weights)
            linear = lambda dx: _product(parts, dx, number)
        return _by_gather_on_cpu(x, number, sources, weights, phases, linear)
    if n * m <= MAX_ENTRIES:
        return by_matrix(x, number, sources, weights)
    gathered = functools.partial(_by_gather, number, sources, weights)
    return _by_gather_on_cpu(x, number, sources, weights, gathered, gathered)


def _along(values: np.ndarray, x: Array, number: int) -> Array:
    return jnp.asarray(values, _real(x)).reshape(-1, *(1,) * (x.ndim - 1 - number))


def _real(x: Array) -> jnp.dtype:
    return jnp.finfo(x.dtype).dtype if jnp.issubdtype(x.dtype, jnp.inexact) else x.dtype


def by_phase(x: Array, number: int, taps: Taps) -> Array:
    """Interpolate phase by phase: every q-th position has the same weights and reads slices of `x` with stride p."""
    n, m, p, q = taps.axis.n, taps.axis.m, taps.axis.step.numerator, taps.axis.step.denominator
    first, weights, repeats = taps.first[:q], taps.weights[:q], -(-m // q)
    low, high = int(first.min()), int(first.max()) + weights.shape[1]
    pair = max(0, -low), max(0, (repeats - 1) * p + high - n)
    x = pad_axis(x, number, pair, "zeros" if taps.inside else "replicate")
    terms = []
    for place in range(low, high):
        tap = place - first
        factor = np.where(
            (tap >= 0) & (tap < weights.shape[1]), weights[np.arange(q), tap.clip(0, weights.shape[1] - 1)], 0
        )
        if not factor.any():
            continue
        start = pair[0] + place
        part = lax.slice_in_dim(x, start, start + (repeats - 1) * p + 1, max(p, 1), number)
        if q == 1:
            term = part * jnp.asarray(factor[0], _real(x))
        else:
            part = jnp.expand_dims(part, number + 1)
            term = part * _along(factor, x, number)
            if not factor.all():  # a weight of 0 adds no 0 * inf
                term = jnp.where(_along(factor, x, number) != 0, term, 0)
        terms.append(term)
    y = functools.reduce(operator.add, terms).reshape(*x.shape[:number], repeats * q, *x.shape[number + 1 :])
    y = lax.slice_in_dim(y, 0, m, axis=number)
    sums = taps.used().sum(1)
    if taps.inside:
        y = y * _along(1 / sums, y, number)
    return y


def _blocks(n: int, sources: np.ndarray, weights: np.ndarray) -> list[Part]:
    """Return the nonzero blocks of a banded matrix."""
    m, parts = len(sources), []
    for rows in np.array_split(np.arange(m), min(BLOCKS, max(1, min(n, m) // 32))):
        low, high = int(sources[rows].min()), int(sources[rows].max()) + 1
        matrix = np.zeros((len(rows), high - low))
        np.add.at(matrix, (np.arange(len(rows))[:, None], sources[rows] - low), weights[rows])
        parts.append((matrix, low, high))
    return parts


def by_matrix(x: Array, number: int, sources: np.ndarray, weights: np.ndarray) -> Array:
    """Multiply by the nonzero blocks of a banded matrix; an inf or NaN affects only the windows that contain it."""
    parts = _blocks(x.shape[number], sources, weights)

    @promoting
    def multiplied(x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return _product(parts, x, number)
        y, fixed = _product(parts, finite(x), number), lax.stop_gradient(x)
        return lax.cond(
            jnp.isfinite(fixed).all(), lambda y, x: y, functools.partial(_restore_non_finite, parts, number), y, fixed
        )

    return _by_gather_on_cpu(x, number, sources, weights, multiplied, lambda dx: _product(parts, dx, number))


def _by_gather_on_cpu(
    x: Array, number: int, sources: np.ndarray, weights: np.ndarray, elsewhere: Callable, linear: Callable
) -> Array:
    """Interpolate by a gather on the CPU and by `elsewhere` on other platforms; `linear` is the map of tangents.

    On a CPU the transpose is a gather too, by the transposed table: a scatter is slow, and so are padded slices.
    """
    platforms: dict[str, Callable] = {}
    if weights.shape[1] <= MAX_TAPS:
        platforms["cpu"] = functools.partial(_by_gather, number, sources, weights)
    forward = functools.partial(_backend.by_platform, **platforms, default=elsewhere)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return forward(x)
    n, m = x.shape[number], len(sources)
    tangent = functools.partial(_backend.by_platform, **platforms, default=linear)
    cotangent = functools.partial(_transposed_map, linear, number, n)
    back, back_weights = _transposed(n, sources, weights)
    if back.shape[1] <= MAX_TAPS:
        gathered = functools.partial(_by_gather, number, back, back_weights)
        cotangent = functools.partial(_backend.by_platform, cpu=gathered, default=cotangent)
    interpolated = jax.custom_jvp(forward)
    interpolated.defjvp(lambda x, dx: (interpolated(*x), _backend.linear_map(dx[0], number, m, tangent, cotangent)))
    return interpolated(x)


def _transposed_map(linear: Callable, number: int, n: int, dy: Array) -> Array:
    """Apply the transpose that JAX derives of `linear`, a map along an axis of `n` positions."""
    x = lax.full_like(dy, 0, shape=(*dy.shape[:number], n, *dy.shape[number + 1 :]))
    return jax.linear_transpose(linear, x)(dy)[0]


def _transposed(n: int, sources: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sources and weights of the transposed matrix of `n` rows; repeated positions are merged."""
    m = len(sources)
    number, weight = np.broadcast_to(np.arange(m)[:, None], sources.shape)[weights != 0], weights[weights != 0]
    entries, which = np.unique(sources[weights != 0] * m + number, return_inverse=True)
    totals = np.bincount(which.ravel(), weight, len(entries))
    rows, columns = entries // m, entries % m
    counts = np.bincount(rows, minlength=n)
    place = np.arange(len(entries)) - np.repeat(counts.cumsum() - counts, counts)
    back, back_weights = np.zeros((n, counts.max(initial=1)), int), np.zeros((n, counts.max(initial=1)))
    back[rows, place], back_weights[rows, place] = columns, totals
    return back, back_weights


@promoting
def _by_gather(number: int, sources: np.ndarray, weights: np.ndarray, x: Array) -> Array:
    """Sum the weighted values that the taps read; a weight of 0 adds no 0 * inf."""
    terms = []
    for at, weight in zip(sources.T, weights.T):
        part = x.at[(slice(None),) * number + (jnp.asarray(at, jnp.int32),)].get(mode="promise_in_bounds")
        if not np.array_equal(weight, np.ones(len(weight))):
            part = part * _along(weight, x, number)
        if not weight.all():
            part = jnp.where(_along(weight != 0, x, number) != 0, part, jnp.zeros((), x.dtype))
        terms.append(part)
    return functools.reduce(operator.add, terms)


def _product(parts: Sequence[Part], x: Array, number: int, entry: Callable = lambda matrix: matrix) -> Array:
    products = []
    for matrix, low, high in parts:
        block, dims = lax.slice_in_dim(x, low, high, axis=number), (((1,), (number,)), ((), ()))
        products.append(lax.dot_general(jnp.asarray(entry(matrix), x.dtype), block, dims, lax.Precision.HIGHEST))
    return jnp.moveaxis(jnp.concatenate(products), 0, number)


@jax.custom_jvp
def finite(x: Array) -> Array:
    """Replace non-finite values by 0, with a derivative of 1 everywhere."""
    return jnp.where(jnp.isfinite(x), x, 0)


@finite.defjvp
@promoting
def _finite_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return finite(*primals), tangents[0]


def _restore_non_finite(parts: Sequence[Part], number: int, y: Array, x: Array) -> Array:
    """Set `y`, computed of the finite values, to inf or NaN where its window contains another value."""

    def has_in_window(is_odd: Array, entry: Callable) -> Array:
        return _product(parts, is_odd.astype(_real(x)), number, entry) > 0

    above, below, any_ = (lambda matrix: matrix > 0), (lambda matrix: matrix < 0), (lambda matrix: matrix != 0)
    if jnp.iscomplexobj(x):
        return jnp.where(has_in_window(~jnp.isfinite(x), any_), jnp.asarray(complex(math.nan, math.nan), y.dtype), y)
    up = has_in_window(x == math.inf, above) | has_in_window(x == -math.inf, below)
    down = has_in_window(x == -math.inf, above) | has_in_window(x == math.inf, below)
    is_nan = has_in_window(jnp.isnan(x), any_) | (up & down)
    return jnp.where(is_nan, math.nan, jnp.where(up, math.inf, jnp.where(down, -math.inf, y))).astype(y.dtype)


# --- choices ------------------------------------------------------------------------------------------------------


def choose(x: Array, number: int, axis: Axis, sources: np.ndarray) -> Array:
    """Select positions along an axis by repetition, strided slices, a gather or a matrix."""
    n, m = axis.n, axis.m
    if np.array_equal(sources, np.arange(n)):
        return x
    if m % n == 0 and np.array_equal(sources, np.arange(m) // (m // n)):

        def repeated(x: Array) -> Array:
            shape = (*x.shape[: number + 1], m // n, *x.shape[number + 1 :])
            y = jnp.broadcast_to(jnp.expand_dims(x, number + 1), shape)
            return y.reshape(*x.shape[:number], m, *x.shape[number + 1 :])

        return _by_gather_on_cpu(x, number, sources[:, None], np.ones((m, 1)), repeated, repeated)
    p, q = axis.step.numerator, axis.step.denominator
    if q <= min(MAX_PHASES, m) and np.array_equal(sources, np.arange(m) // q * p + sources[np.arange(m) % q]):
        counts = [len(range(phase, m, q)) for phase in range(q)]
        phases = [
            lax.slice_in_dim(x, int(sources[r]), int(sources[r]) + (count - 1) * p + 1, p, number)
            for r, count in enumerate(counts)
        ]
        return _interleaved(phases, number, m)
    if n * m > MAX_ENTRIES:
        return jnp.take(x, sources, number, mode="clip")
    if x.dtype == bool:
        return by_matrix(x.astype(jnp.int8), number, sources[:, None], np.ones((m, 1))).astype(bool)
    return by_matrix(x, number, sources[:, None], np.ones((m, 1)))


def _interleaved(parts: list[Array], number: int, m: int) -> Array:
    if len(parts) == 1:
        return parts[0]
    longest = parts[0].shape[number]
    padded = [pad_axis(part, number, (0, longest - part.shape[number]), "zeros") for part in parts]
    y = jnp.stack(padded, number + 1).reshape(
        *parts[0].shape[:number], longest * len(parts), *parts[0].shape[number + 1 :]
    )
    return lax.slice_in_dim(y, 0, m, axis=number)
