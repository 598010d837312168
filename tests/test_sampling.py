"""Interpolation: the gathers of the platforms agree, and an element with weight 0 has no effect on the result."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convlab
from convlab import Window, _conv_local
from convlab._backend import gather, interpolate, local


@pytest.mark.parametrize("spatial", [(5,), (4, 5), (3, 2, 4)], ids=str)
def test_the_formulations_agree_in_values_and_derivatives(spatial):
    rng, rank = np.random.default_rng(0), len(spatial)
    x = jnp.asarray(rng.standard_normal((2, *spatial, 2, 3)), jnp.float32)
    shape = (4, 2, 2, 50)  # (taps, parts, n, positions)
    cell = [jnp.asarray(rng.integers(interpolate.FIRST, n, shape, endpoint=True), jnp.int32) for n in spatial]
    within = [jnp.asarray(rng.uniform(0, 1, shape), jnp.float32) for _ in range(rank)]
    moved = [jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32) for _ in range(rank)]

    def everything(x, within):
        results = []
        for formulation in (interpolate.gather_corners, interpolate.gather_cells):
            f = lambda x, within: formulation(x, cell, within)
            gradient = jax.grad(lambda *a: (f(*a) ** 2).sum(), (0, 1))
            results.append((f(x, within), jax.jvp(gradient, (x, within), (x, moved))))
        return results

    one, other = jax.jit(everything)(x, within)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, other)


@pytest.mark.parametrize("formulation", [interpolate.gather_corners, interpolate.gather_cells])
def test_an_infinity_with_weight_0_has_no_effect(formulation, monkeypatch):
    """At an element the neighbours have weight 0; the derivative there is the right one, or 0 if that is not finite."""
    by_platform = lambda *args, **_: formulation(*args) if len(args) == 3 else args[0]
    monkeypatch.setattr(interpolate.lax, "platform_dependent", by_platform)
    x, kernel = np.array([1, 3, np.inf, 5], np.float32).reshape(4, 1), np.ones((1, 1, 1), np.float32)

    def f(offset):
        return convlab.deform_conv(x, offset[:, None], kernel)[:, 0]

    values, slopes = jax.jit(f), jax.jit(lambda offset: jax.jacobian(f)(offset).diagonal())

    nan, inf = np.nan, np.inf
    for offset, expected in [
        ([0, 0, 0, 0], [1, 3, inf, 5]),
        ([9, -9, 1, 0.5], [0, 0, 5, 2.5]),
        ([nan, 0, 1, 0], [nan, 3, 5, 5]),
    ]:
        np.testing.assert_array_equal(values(np.array(offset, np.float32)), np.array(expected, np.float32))
    slope = np.asarray(slopes(np.zeros(4, np.float32)))
    np.testing.assert_array_equal(slope[[0, 1, 3]], [2, -3, -5])


@pytest.mark.parametrize("shape, window", [
    ((2, 5, 6, 3), Window((3, 2), (2, 1), "VALID", (1, 2))),
    ((3, 9, 2), Window((3,), (2,), "VALID", (1,))),
    ((1, 4, 5, 4, 2), Window((2, 2, 3), (1, 1, 1), "VALID", (1, 1, 1))),
])  # fmt: skip
def test_local_products_of_a_tpu_are_those_of_other_platforms(shape, window):
    """Both ways to extract the window of a position have the same values, gradients and tangents."""
    rng = np.random.default_rng(0)
    out = window.out(shape[1:-1])
    arrays = [rng.normal(size=s).astype(np.float32) for s in (shape, (*out, shape[-1] * math.prod(window.size), 5))]
    stacked = functools.partial(_conv_local._stack_windows, window=window)
    ways = (
        functools.partial(local.multiply_slices, precision=None),
        functools.partial(local.multiply_patches, window=window),
    )

    def derivatives(way, x, kernel):
        products = functools.partial(way, stacked=stacked)
        value, pull = jax.vjp(products, x, kernel)
        return value, *pull(jnp.cos(value)), jax.jvp(products, (x, kernel), (kernel.sum() * x, kernel))[1]

    found = jax.jit(lambda x, kernel: [derivatives(way, x, kernel) for way in ways])(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *found)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_derivatives_of_groups_of_images_are_those_of_all(method, monkeypatch):
    """Where gathers are large, derivatives are computed for a few images at a time; of one argument alone too."""
    rng = np.random.default_rng(0)
    size, rank = ((20,), 1) if method == "linear" else ((5, 4), 2)
    x, grid, dx, dgrid = (rng.normal(size=(6, *size, c)).astype(np.float32) for c in (3, rank, 3, rank))
    sample = lambda x, grid: convlab.grid_sample(x, grid, method=method, padding_mode="reflection")

    def derivatives(x, grid):
        loss = lambda *a: (sample(*a) ** 2).sum()
        of_all = jax.grad(loss, (0, 1)) if method == "linear" else sample  # second derivatives
        alone = [jax.grad(loss, i)(x, grid) for i in (0, 1)]
        return alone, jax.jvp(of_all, (x, grid), (dx, dgrid))

    whole = jax.jit(derivatives)(x, grid)
    monkeypatch.setattr(gather, "MAX_ELEMENTS", 2 * 20 * 3 * (2 if method == "linear" else 16))
    jax.clear_caches()
    text = str(jax.make_jaxpr(lambda x: jax.vjp(lambda x: sample(x, grid), x)[1](x))(x))
    assert "scan[" in text and "length=3" in text
    groups = jax.jit(derivatives)(x, grid)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), groups, whole)
    jax.clear_caches()
