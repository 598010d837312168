"""Batch normalization has Flax's parameters, statistics and results, derivatives of every order, and keeps only its
input."""

import contextlib
import io
import re

import flax.linen
import flax.nnx
import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.experimental import jet

import convlab.linen
import convlab.nnx

DRAWN = np.random.default_rng(0)
X = DRAWN.normal(1, 2, size=(4, 5, 6, 3)).astype(np.float32)
W = DRAWN.normal(size=X.shape).astype(np.float32)
SCALE, BIAS = np.array([1, 2, 0.5], np.float32), np.array([0.1, -0.2, 0.3], np.float32)
MASK = (np.arange(4) < 3).reshape(4, 1, 1, 1)
CASES = {
    "plain": {},
    "slow variance": dict(use_fast_variance=False),
    "first axis": dict(axis=0),
    "no scale": dict(use_scale=False, momentum=0.5, epsilon=0.1),
    "no parameters": dict(use_scale=False, use_bias=False),
    "bfloat16": dict(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16),
}


def weighted(y):
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    return jnp.sum(y * W + y**3)


def parameters_like(shapes):
    drawn = {"scale": SCALE, "bias": BIAS}
    return {name: jnp.asarray(np.resize(drawn[name], p.shape).astype(p.dtype)) for name, p in shapes.items()}


def of_nnx(cls, options, x, mask=None):
    """Return the result and the statistics, the gradients of the parameters, and the gradient of `x`."""
    layer = cls(x.shape[options.get("axis", -1)], **options, rngs=flax.nnx.Rngs(0))
    given = parameters_like({n: p for n in ("scale", "bias") if (p := getattr(layer, n)) is not None})

    @jax.jit
    def gradients(given, x):
        def loss(given, x):
            layer = cls(x.shape[options.get("axis", -1)], **options, rngs=flax.nnx.Rngs(0))
            for name, value in given.items():
                getattr(layer, name)[...] = value
            y = layer(x, mask=mask)
            return weighted(y), (y, layer.mean[...], layer.var[...])

        return jax.grad(loss, (0, 1), has_aux=True)(given, x)

    (of_parameters, dx), outputs = gradients(given, x)
    return outputs, of_parameters, dx


def of_linen(cls, options, x, mask=None):
    layer = cls(use_running_average=False, **options)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    given = parameters_like(variables.get("params", {}))

    @jax.jit
    def gradients(given, x):
        def loss(given, x):
            y, kept = layer.apply(variables | {"params": given}, x, mask=mask, mutable=["batch_stats"])
            return weighted(y), (y, kept["batch_stats"]["mean"], kept["batch_stats"]["var"])

        return jax.grad(loss, (0, 1), has_aux=True)(given, x)

    (of_parameters, dx), outputs = gradients(given, x)
    return outputs, of_parameters, dx


SYSTEMS = {
    "nnx": (of_nnx, convlab.nnx.BatchNorm, flax.nnx.BatchNorm),
    "linen": (of_linen, convlab.linen.BatchNorm, flax.linen.BatchNorm),
}


@pytest.mark.parametrize(
    ("system", "name"),
    [("nnx", name) for name in CASES] + [("linen", name) for name in ("slow variance", "no scale", "bfloat16")],
)
def test_results_statistics_and_gradients_are_flaxs(system, name):
    (compute, ours, flaxs), options = SYSTEMS[system], CASES[name]
    for mask in (None, MASK) if "axis" not in options else (None,):
        got, expected = (compute(cls, options, X, mask) for cls in (ours, flaxs))
        for a, b in zip(jax.tree.leaves(got[0]), jax.tree.leaves(expected[0]), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=1e-6, atol=1e-6)
        tolerance = 2e-2 if "dtype" in options else 1e-5
        for a, b in zip(jax.tree.leaves(got[1:]), jax.tree.leaves(expected[1:]), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("offset", [0, 300])
@pytest.mark.parametrize("system", SYSTEMS)
def test_values_and_gradients_by_hand(system, offset):
    """In float64; where the mean is large beside the deviation, `use_fast_variance=False` loses little."""
    compute, ours, _ = SYSTEMS[system]
    x, axes = X + np.float32(offset), (0, 1, 2)
    (y, mean, var), parameters, dx = compute(ours, dict(use_fast_variance=not offset, momentum=0.9), x)
    exact = np.float64(x)
    centered = exact - exact.mean(axes)
    root = np.sqrt((centered**2).mean(axes) + 1e-5)
    normal = centered / root
    expected = normal * SCALE + BIAS
    dy = W + 3 * expected**2
    means = dy.mean(axes), (dy * normal).mean(axes)
    unit = 1e-4 if offset else 2e-6
    np.testing.assert_allclose(mean, 0.1 * exact.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(var, 0.9 + 0.1 * (centered**2).mean(axes), rtol=1e-5)
    np.testing.assert_allclose(y, expected, atol=unit * 5)
    np.testing.assert_allclose(parameters["bias"] / dy[..., 0].size, means[0], atol=unit * np.abs(dy).max())
    np.testing.assert_allclose(parameters["scale"] / dy[..., 0].size, means[1], atol=unit * np.abs(dy).max())
    np.testing.assert_allclose(dx, SCALE / root * (dy - means[0] - normal * means[1]), atol=unit * np.abs(dy).max() * 2)


def trained(x, scale, bias, mask=None, **options):
    layer = convlab.nnx.BatchNorm(3, rngs=flax.nnx.Rngs(0), param_dtype=x.dtype, **options)
    layer.scale[...], layer.bias[...] = scale, bias
    return layer(x, mask=mask)


@pytest.mark.parametrize("fast", [True, False])
def test_derivatives_of_every_order_and_mode(x64, fast):
    operands = np.float64(X[:2, :2, :3]), np.float64(SCALE), np.float64(BIAS)
    function = jax.jit(lambda x, scale, bias: trained(x, scale, bias, MASK[:2], use_fast_variance=fast) ** 2)
    jax.test_util.check_grads(function, operands, 2 if fast else 1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


def test_strict_promotion_takes_any_float():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
            layer = convlab.linen.BatchNorm(use_running_average=False, dtype=dtype)
            x, key = jnp.asarray(X, dtype), jax.random.key(0)
            y, _ = jax.eval_shape(convlab.linen.BatchNorm(use_running_average=False).init_with_output, key, x)
            assert y.dtype == jnp.float32
            y, kept = jax.jit(lambda x: layer.apply(layer.init(key, x), x, mutable=["batch_stats"]))(x)
            assert y.dtype == dtype and kept["batch_stats"]["mean"].dtype == jnp.float32
            np.testing.assert_allclose(np.float64(y).mean((0, 1, 2)), 0, atol=1e-2)


def test_vmap_and_the_mean_over_a_named_axis():
    def shared(x):
        return jax.vmap(lambda x: trained(x, SCALE, BIAS, axis_name="batch"), axis_name="batch")(x)

    @jax.jit
    def both(halves):
        whole = halves.reshape(X.shape)
        values = shared(halves), trained(whole, SCALE, BIAS)
        cubes = (jax.grad(lambda x: jnp.sum(f(x) ** 3)) for f in (shared, lambda x: trained(x, SCALE, BIAS)))
        gradients = [gradient(x) for gradient, x in zip(cubes, (halves, whole))]
        alone = jax.vmap(lambda x: trained(x, SCALE, BIAS))(halves), trained(halves[1], SCALE, BIAS)
        return values, gradients, alone

    values, gradients, alone = both(X.reshape(2, 2, *X.shape[1:]))
    np.testing.assert_allclose(values[0].reshape(X.shape), values[1], atol=1e-5)
    np.testing.assert_allclose(gradients[0].reshape(X.shape), gradients[1], atol=1e-4)
    np.testing.assert_allclose(alone[0][1], alone[1], atol=1e-5)


def kept(norm, x):
    """Return the arrays of the image's size that a backward pass reads, by dtype, as `print_saved_residuals` prints."""
    conv = convlab.nnx.Conv(3, 3, (3, 3), rngs=flax.nnx.Rngs(0))
    graph, state = flax.nnx.split((conv, norm))

    def block(state, x):
        conv, norm = flax.nnx.merge(graph, state, copy=True)
        return jnp.sum(jax.nn.relu(norm(conv(x))))

    with contextlib.redirect_stdout(io.StringIO()) as text:
        jax.ad_checkpoint.print_saved_residuals(block, state, x)
    lines = [line for line in text.getvalue().splitlines() if "from the argument" not in line]
    return [line for line in lines if re.match(r"(f32|f16|bf16)\[4,5,6,3\]", line)]


def test_conv_norm_and_relu_keep_one_array_of_the_images_size():
    """The block's input, an argument, is kept too. Flax's normalization keeps two more."""
    make = dict(num_features=3, rngs=flax.nnx.Rngs(0))
    ours = [line for line in kept(convlab.nnx.BatchNorm(**make), X) if "broadcast_in_dim" not in line]
    assert len(ours) == 1, ours
    assert len(kept(flax.nnx.BatchNorm(**make), X)) > 1


def test_the_program_that_uses_kept_statistics_is_flaxs():
    def nnx_text(cls, x):
        graph, state = flax.nnx.split(cls(3, use_running_average=True, rngs=flax.nnx.Rngs(0)))
        return str(jax.make_jaxpr(lambda state, x: flax.nnx.merge(graph, state)(x))(state, x))

    def linen_text(cls, x):
        layer = cls(use_running_average=True)
        return str(jax.make_jaxpr(layer.apply)(layer.init(jax.random.key(0), x), x))

    assert nnx_text(convlab.nnx.BatchNorm, X) == nnx_text(flax.nnx.BatchNorm, X)
    assert linen_text(convlab.linen.BatchNorm, X) == linen_text(flax.linen.BatchNorm, X)


def test_complex_input_is_flaxs():
    classes = convlab.nnx.BatchNorm, flax.nnx.BatchNorm
    ours, flaxs = jax.jit(lambda x: [cls(3, rngs=flax.nnx.Rngs(0))(x) for cls in classes])(X + 1j)
    np.testing.assert_array_equal(ours, flaxs)


def test_a_call_that_does_not_say_which_statistics_is_refused_as_flax_does():
    for layer in (convlab.nnx.BatchNorm, flax.nnx.BatchNorm):
        with pytest.raises(ValueError, match="No `use_running_average` argument was provided to BatchNorm"):
            layer(3, use_running_average=None, rngs=flax.nnx.Rngs(0))(X)
    for layer in (convlab.linen.BatchNorm, flax.linen.BatchNorm):
        with pytest.raises(ValueError, match="use_running_average"):
            layer().init(jax.random.key(0), X)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm", "GroupNorm"])
def test_taylor_series_are_flaxs(name, fast):
    """`jax.experimental.jet` knows neither checkpoints nor custom derivatives, which the layers otherwise use."""
    series = ((W[:2, :2], X[2:, :2]),)
    groups = dict(num_groups=3) if name == "GroupNorm" else {}

    def nnx_layer(system):
        return lambda x: getattr(system, name)(3, **groups, use_fast_variance=fast, rngs=flax.nnx.Rngs(0))(x)

    def linen_layer(system):
        training = dict(use_running_average=False) if name == "BatchNorm" else {}
        layer = getattr(system, name)(use_fast_variance=fast, **groups, **training)
        return lambda x: layer.init_with_output(jax.random.key(0), x)[0]

    @jax.jit
    def all_series(x):
        layers = (nnx_layer(convlab.nnx), nnx_layer(flax.nnx)), (linen_layer(convlab.linen), linen_layer(flax.linen))
        return [[jet.jet(layer, (x,), series) for layer in pair] for pair in layers]

    for ours, flaxs in all_series(X[:2, :2]):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(flaxs), strict=True):
            assert np.abs(b).max() > 0.1
            np.testing.assert_array_equal(a, b)


def test_a_training_step_of_nnx_moves_the_statistics():
    layer = convlab.nnx.BatchNorm(3, rngs=flax.nnx.Rngs(0))

    @flax.nnx.jit
    def step(layer, x):
        return flax.nnx.value_and_grad(lambda layer: (layer(x) ** 2).sum())(layer)

    step(layer, X)
    np.testing.assert_allclose(layer.mean[...], 0.01 * X.mean((0, 1, 2)), rtol=1e-5)
    layer.eval()
    before = layer.mean[...]
    layer(X)
    np.testing.assert_array_equal(layer.mean[...], before)


def test_tracing_a_step_asks_for_no_tracers_sharding(monkeypatch):
    """JAX looks through all of the program traced so far to say that a tracer has none."""
    asked = []
    monkeypatch.setattr(jax.core.Tracer, "sharding", property(asked.append))
    graph, state = flax.nnx.split(convlab.nnx.BatchNorm(3, rngs=flax.nnx.Rngs(0)))

    def step(state, x):
        layer = flax.nnx.merge(graph, state, copy=True)
        return layer(x), layer.mean[...], layer.var[...]

    shapes = jax.eval_shape(step, state, X)
    assert [a.shape for a in shapes] == [X.shape, (3,), (3,)] and not asked


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU's program")
def test_the_loops_of_a_dense_block_do_not_grow_with_its_depth():
    """The derivative of each layer's input adds to that of the layers before it."""

    def longest_loop(depth):
        norms = flax.nnx.List([convlab.nnx.BatchNorm(2 + i, rngs=flax.nnx.Rngs(0)) for i in range(depth)])
        graph, parameters, rest = flax.nnx.split(norms, flax.nnx.Param, ...)

        def loss(parameters, x):
            for norm in flax.nnx.merge(graph, parameters, rest, copy=True):
                y = jnp.tanh(norm(x)) @ jnp.ones((x.shape[-1], 1))
                x = jnp.concatenate([x, y], -1)
            return x.sum()

        x = jax.ShapeDtypeStruct((2, 16, 16, 2), jnp.float32)
        text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(parameters, x).compile().as_text()
        return max(len(loop.splitlines()) for loop in text.split("\n\n") if loop.startswith("%"))

    assert longest_loop(8) - longest_loop(4) <= 32  # lines of the program
