"""Every case under every transform, in float64, is compared with differences of the oracle.

There is one compiled program for each case: values, jvp, vjp, and for the first case of each function (the slow tests
cover the others) second derivatives, vmap of each argument and of all, and gradients of single examples by vmap and,
checkpointed, by scan. The gradients are those of half the weighted sum of squares, so that second derivatives of linear
operations are not zero.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALIKE, CASES, FILLS
from jax import lax

import convlab

SMOOTH = [c for c in CASES if c.smooth and c.dtype.itemsize >= 4]


FIRST = {case.function: case for case in reversed(SMOOTH)}.values()


def new_cases():
    """Yield the cases of each function that differ from those of earlier functions, at least two for each."""
    of_function, of_what = collections.Counter(), set()
    for case in SMOOTH:
        if case not in ALIKE and (of_function[case.function] < 2 or case.what not in of_what):
            yield case
        of_function.update([case.function])
        of_what.add(case.what)


def output(result):
    return result[0] if isinstance(result, tuple) else result


class Problem:
    """A case as a function of its differentiable arrays, with a point and directions for its derivatives."""

    def __init__(self, case):
        self.case, self.rng = case, np.random.default_rng(0)
        wide = np.complex128 if case.dtype.kind == "c" else np.float64
        drawn = [a if a.dtype.kind in "ib" else a.astype(wide) for a in case.draw(wide)]
        specs = (*case.arrays, *case.named.values())
        self.moves = [spec.fill not in ("indices", "samples", "boxes", "segments", "valid") for spec in specs]
        self.fixed = [a for a, moves in zip(drawn, self.moves) if not moves]
        self.point = tuple(a for a, moves in zip(drawn, self.moves) if moves)
        self.t, self.u = self.along(), self.along()
        self.batch = [self.point, tuple(p + 0.001 * d for p, d in zip(self.point, self.along()))]
        self.weight = self.rng.uniform(-1, 1, output(case.oracle(*self.arrays(self.point))).shape)

    def along(self):
        return tuple(self.rng.uniform(-1, 1, p.shape).astype(p.dtype) for p in self.point)

    def arrays(self, point):
        moving, fixed = iter(point), iter(self.fixed)
        return [next(moving) if moves else next(fixed) for moves in self.moves]

    def value(self, *point):
        return output(self.case.convlab(*self.arrays(point)))

    def scalar(self, *point):
        y = self.value(*point)
        return (self.weight.astype(y.dtype) * y * y).sum().real / 2

    def true_value(self, point):
        return output(self.case.oracle(*self.arrays(point)))

    def true_scalar(self, point):
        y = self.true_value(point)
        return (self.weight * y * y).sum().real / 2


def moved(point, *steps):
    """Return `point` moved by each (length, direction)."""
    return tuple(p + sum(h * d[i] for h, d in steps) for i, p in enumerate(point))


def difference(f, point, t, h=1e-6):
    return (f(moved(point, (h, t))) - f(moved(point, (-h, t)))) / (2 * h)


def second_difference(f, point, t, u, h=1e-4):
    corners = [(a * b, f(moved(point, (a * h, t), (b * h, u)))) for a in (1, -1) for b in (1, -1)]
    return sum(sign * value for sign, value in corners) / (4 * h * h)


def paired(gradients, directions):
    return sum((g * d).sum().real for g, d in zip(gradients, directions))


def stacked(examples, axes):
    return [
        np.stack([e[i] for e in examples], axis) if axis is not None else examples[0][i] for i, axis in enumerate(axes)
    ]


def everything(p):
    """Return the results of all transforms of `p`, as one function of its arrays."""
    count = len(p.point)
    everywhere = tuple(range(count))
    gradient = jax.grad(p.scalar, everywhere)

    def slope(*point):
        return jax.jvp(p.scalar, point, p.t)[1]

    def slope_by_gradient(*point):
        return paired(gradient(*point), p.t)

    alone = [tuple(-1 if i == moving else None for i in range(count)) for moving in everywhere]

    def program(point, batches, examples):
        y, tangent = jax.jvp(p.value, point, p.t)
        pulled = jax.vjp(p.value, *point)[1](jnp.asarray(p.weight, y.dtype))
        second = (
            paired(jax.jvp(gradient, point, p.u)[1], p.t),
            paired(jax.grad(slope, everywhere)(*point), p.u),
            jax.jvp(slope, point, p.u)[1],
            *([paired(jax.grad(slope_by_gradient, everywhere)(*point), p.u)] if p.case in FIRST else []),
        )
        vmapped = [jax.vmap(p.value, axes)(*batch) for axes, batch in zip([*alone, (0,) * count], batches)]
        checkpointed = jax.grad(jax.checkpoint(p.scalar), everywhere)
        by_scan = lax.scan(lambda carry, example: (carry, checkpointed(*example)), None, examples)[1]
        return y, tangent, pulled, second, vmapped, jax.vmap(gradient)(*examples), by_scan

    batches = [stacked(p.batch, axes) for axes in [*alone, (0,) * count]]
    examples = tuple(stacked(p.batch, (0,) * count))
    return jax.jit(program)(p.point, batches, examples)


def close(actual, expected, tolerance):
    expected = np.asarray(expected)
    scale = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("case", [case for case in new_cases() if case not in FIRST], ids=str)
def test_first_derivatives(case, x64):
    p = Problem(case)

    def program(*point):
        y, tangent = jax.jvp(p.value, point, p.t)
        return y, tangent, jax.vjp(p.value, *point)[1](jnp.asarray(p.weight, y.dtype))

    y, tangent, pulled = jax.device_get(jax.jit(program)(*p.point))
    close(y, p.true_value(p.point), 1e-12)
    close(tangent, difference(p.true_value, p.point, p.t), 1e-7)
    close(paired(pulled, p.t), (p.weight * tangent).sum().real, 1e-11)


@pytest.mark.parametrize(
    "case", [case if case in FIRST else pytest.param(case, marks=pytest.mark.slow) for case in SMOOTH], ids=str
)
def test_derivatives(case, x64):
    p = Problem(case)
    y, tangent, pulled, second, vmapped, by_vmap, by_scan = jax.device_get(everything(p))

    close(y, p.true_value(p.point), 1e-12)
    close(tangent, difference(p.true_value, p.point, p.t), 1e-7)
    close(paired(pulled, p.t), (p.weight * tangent).sum().real, 1e-11)
    expected = second_difference(p.true_scalar, p.point, p.t, p.u)
    for value, order in zip(second, ("jvp of grad", "grad of jvp", "jvp of jvp", "grad of grad")):
        np.testing.assert_allclose(value, second[0], rtol=1e-9, atol=1e-9, err_msg=order)
    close(second[0], expected, 1e-4)

    for moving, actual in enumerate(vmapped):
        one, other = p.batch
        mixed = other if moving == len(p.point) else tuple(other[i] if i == moving else v for i, v in enumerate(one))
        close(actual, np.stack([p.true_value(one), p.true_value(mixed)]), 1e-12)
    for ours, theirs in zip(by_vmap, by_scan):
        close(ours, theirs, 1e-11)
    for i, example in enumerate(p.batch):
        slope = difference(p.true_scalar, example, p.t)
        close(paired([g[i] for g in by_vmap], p.t), slope, 1e-6)


# Cases in which differences give no derivative: ties, infinities, windows of padding only


def gradient(f, x):
    """Return the gradient of the sum of the outputs by reverse mode, and check that forward mode agrees."""
    direction = np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    backward, forward = jax.jit(lambda x: (jax.grad(lambda x: f(x).sum())(x), jax.jvp(f, (x,), (direction,))[1].sum()))(
        x
    )
    np.testing.assert_allclose((backward * direction).sum(), forward, rtol=1e-5, atol=1e-6)
    return np.asarray(backward)


@pytest.mark.parametrize("name", ["max_pool", "min_pool"])
@pytest.mark.parametrize(
    "options", [{}, {"window_dilation": 2}, {"padding": ((-1, 1), (0, 2))}, {"ceil_mode": True}], ids=str
)
def test_the_first_of_equals_gets_the_gradient(name, options):
    function = getattr(convlab, name)
    x = jnp.ones((1, 6, 5, 2))
    _, indices = jax.jit(lambda x: function(x, (2, 2), 3, return_indices=True, **options))(x)
    expected = np.zeros((30, 2))
    for channel in range(2):
        np.add.at(expected[:, channel], np.asarray(indices)[..., channel].ravel(), 1)
    actual = gradient(lambda x: function(x, (2, 2), 3, **options), x)
    np.testing.assert_array_equal(actual.reshape(30, 2), expected)


@pytest.mark.parametrize("name", ["max_pool", "min_pool"])
def test_a_nan_gets_the_gradient(name):
    function = getattr(convlab, name)
    x = jnp.array([jnp.nan, 1.0, jnp.nan, 3.0, 2.0, 1.0]).reshape(1, 6, 1)
    slopes = jax.jit(lambda x: [jax.grad(lambda x: function(x, size, size).sum())(x) for size in (3, 6)])
    for size, backward in zip((3, 6), map(np.asarray, slopes(x))):
        np.testing.assert_array_equal(backward[0, :3, 0], [0, 0, 1])
        assert backward.sum() == 6 // size


@pytest.mark.parametrize(
    "name, options",
    [("max_pool", {}), ("min_pool", {}), ("avg_pool", {"count_include_pad": False}), ("sum_pool", {}), ("lp_pool", {})],
    ids=str,
)
def test_a_window_of_padding_only_has_no_gradient(name, options):
    function = getattr(convlab, name)
    x = jnp.arange(1.0, 3.0).reshape(1, 2, 1)
    actual = gradient(lambda x: function(x, 2, 2, padding=((4, 4),), **options)[:, jnp.array([0, 1, 3, 4])], x)
    np.testing.assert_array_equal(actual, np.zeros_like(x))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, np.inf, -1.0, -1.5, -2.0, -np.inf])
def test_lp_and_gem_have_finite_gradients_of_any_sign_and_at_zero(p):
    x = jnp.array([0.0, 0.0, 0.0, -2.0, 1.0, 0.0]).reshape(1, 6, 1)
    assert np.isfinite(gradient(lambda x: convlab.lp_pool(x, 2, 2, norm_type=p), x)).all()
    if 0 < p < np.inf:
        assert np.isfinite(gradient(lambda x: convlab.gem_pool(x, 2, 2, p=p), x)).all()


def test_unpooling_twice_to_one_position_pulls_back_to_both():
    x, indices = jnp.array([1.0, 1.0]).reshape(1, 2, 1), jnp.array([2, 2]).reshape(1, 2, 1)

    @jax.jit
    def unpooled(x, dy):
        y, pull = jax.vjp(lambda x: convlab.max_unpool(x, indices, (4,)), x)
        return y, pull(dy)[0]

    y, slope = map(np.asarray, unpooled(x, np.arange(4, dtype=np.float32).reshape(1, 4, 1)))
    np.testing.assert_array_equal(y[0, :, 0], [0, 0, 1, 0])
    np.testing.assert_array_equal(slope, [[[2], [2]]])


@pytest.mark.parametrize("name, options", [("stochastic_pool", {}), ("fractional_max_pool", {"output_shape": 4})])
def test_pools_that_draw_are_selections_under_every_transform(name, options):
    """`y = S x`: the gradient of half its square is `S' S x`, and so is that gradient's derivative along `x`."""
    x = jnp.abs(jnp.asarray(FILLS["distinct"](np.random.default_rng(0), 72))).reshape(1, 6, 6, 2)
    keys = jax.random.split(jax.random.key(0), 3)

    def everything(x, key):
        f = lambda x: getattr(convlab, name)(x, (2, 2), **options, key=key)
        gradient = jax.grad(lambda x: (f(x) ** 2).sum() / 2)
        y, tangent = jax.jvp(f, (x,), (x,))
        return (y, tangent), (
            gradient(x),
            jax.jvp(gradient, (x,), (x,))[1],
            jax.grad(lambda x: (gradient(x) * x).sum() / 2)(x),
        )

    mapped = jax.jit(jax.vmap(everything, (None, 0)))(x, keys)
    scanned = jax.jit(lambda x: lax.scan(lambda _, key: (None, jax.checkpoint(everything)(x, key)), None, keys)[1])(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mapped, scanned)
    for same in mapped:
        for one in same[1:]:
            np.testing.assert_allclose(one, same[0], rtol=1e-6)
    (y, _), (pulled, *_) = mapped
    assert np.isin(y, x).all() and (y[0] != y[1]).any()
    np.testing.assert_allclose((pulled * x[None]).sum((1, 2, 3, 4)), (y * y).sum((1, 2, 3, 4)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_of_averages_are_summed_in_float32(dtype):
    x = np.ones((1, 63, 63, 1), dtype)
    backward = jax.jit(jax.grad(lambda x: convlab.avg_pool(x, (32, 32)).astype(jnp.float32).sum()))(x)
    assert backward.dtype == dtype
    assert abs(float(np.asarray(backward)[0, 31, 31, 0]) - 1) < 0.01


@pytest.mark.parametrize("function", ["conv", "conv_transpose", "max_pool", "avg_pool", "unfold"])
def test_gradients_have_the_dtype_of_their_arguments(function):
    case = next(c for c in CASES if c.function == function and c.smooth and not {"valid", "segment_ids"} & {*c.named})
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in case.draw()]
    total = lambda *a: output(case.convlab(*a)).astype(jnp.float32).sum()
    gradients = jax.jit(jax.grad(total, range(len(arrays))))(*arrays)
    assert {g.dtype for g in gradients} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_gradients_of_a_wider_result_have_the_dtype_of_the_arguments(name):
    x, kernel = np.ones((2, 5, 5, 3), jnp.bfloat16), np.ones((3, 3, 3, 3), jnp.bfloat16)
    f = lambda x, kernel: getattr(convlab, name)(x, kernel, strides=2, preferred_element_type=jnp.float32)

    @jax.jit
    def derivatives(*arrays):
        y, pull = jax.vjp(f, *arrays)
        gradient = jax.grad(lambda x, kernel: (f(x, kernel) ** 2).sum(), (0, 1))
        return y, pull(y), jax.jvp(gradient, arrays, arrays)[1]

    y, gradients, tangents = derivatives(x, kernel)
    assert y.dtype == jnp.float32
    assert [g.dtype for g in gradients] == [jnp.bfloat16] * 2
    assert [t.dtype for t in tangents] == [jnp.bfloat16] * 2
