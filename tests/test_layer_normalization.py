"""Layer, root mean square, group and instance normalization have Flax's parameters and results, derivatives of every
order, and keep only their input."""

import contextlib
import io

import flax.linen
import flax.nnx
import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

import convlab.linen
import convlab.nnx

DRAWN = np.random.default_rng(0)
GROUPS = dict(GroupNorm=dict(num_groups=2))
HALF = dict(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
CASES = {
    "layer": ("LayerNorm", {}),
    "layer, slow variance, mask": ("LayerNorm", dict(use_fast_variance=False)),
    "layer over the image": ("LayerNorm", dict(reduction_axes=(1, 2, 3))),
    "layer, channel by channel": ("LayerNorm", dict(reduction_axes=(1, 2))),
    "layer, first features": ("LayerNorm", dict(feature_axes=0, reduction_axes=(0, 2))),
    "layer, no scale": ("LayerNorm", dict(use_scale=False, epsilon=0.1)),
    "layer, no parameters": ("LayerNorm", dict(use_scale=False, use_bias=False)),
    "layer, bfloat16": ("LayerNorm", HALF),
    "root mean square": ("RMSNorm", {}),
    "root mean square over the image, no scale": ("RMSNorm", dict(reduction_axes=(1, 2, 3), use_scale=False)),
    "root mean square, bfloat16": ("RMSNorm", HALF),
    "groups": ("GroupNorm", dict(num_groups=2)),
    "groups, mask": ("GroupNorm", dict(num_groups=None, group_size=2, use_bias=False)),
    "groups, slow variance, mask": ("GroupNorm", dict(num_groups=4, use_fast_variance=False)),
    "groups, bfloat16": ("GroupNorm", dict(num_groups=2, **HALF)),
    "instances": ("InstanceNorm", {}),
}
LINEN = ("layer", "layer, first features", "layer, bfloat16", "root mean square", "groups", "groups, mask", "instances")
X = DRAWN.normal(1, 2, size=(4, 5, 6, 8)).astype(np.float32)
W = DRAWN.normal(size=X.shape).astype(np.float32)
MASK = np.broadcast_to((np.arange(8) != 5).reshape(1, 1, 1, 8), (1, 1, 6, 8))


def gradients_of(system, cls, options, x, mask):
    """Return the result, and the gradients of the parameters and of `x`."""
    options = dict(options)
    if system == "nnx":
        layer = cls(x.shape[options.get("feature_axes", -1)], **options, rngs=flax.nnx.Rngs(0))
        graph, variables = flax.nnx.split(layer)
        call = lambda variables, x: flax.nnx.merge(graph, variables, copy=True)(x, mask=mask)  # noqa: E731
    else:
        layer = cls(**options)
        variables = layer.init(jax.random.key(0), x)
        call = lambda variables, x: layer.apply(variables, x, mask=mask)  # noqa: E731
    variables = jax.tree.map(lambda p: (p + jnp.linspace(-0.5, 1, p.size)).astype(p.dtype), variables)

    @jax.jit
    def gradients(variables, x):
        def loss(variables, x):
            y = call(variables, x)
            wide = y.astype(jnp.promote_types(y.dtype, jnp.float32))
            return jnp.sum(wide * W + wide**3), y

        return jax.grad(loss, (0, 1), has_aux=True)(variables, x)

    (of_variables, dx), y = gradients(variables, x)
    return y, jax.tree.leaves(of_variables), dx


@pytest.mark.parametrize(("system", "name"), [*(("nnx", n) for n in CASES), *(("linen", n) for n in LINEN)])
def test_results_and_gradients_are_flaxs(system, name):
    cls, options = CASES[name]
    systems = {"nnx": (convlab.nnx, flax.nnx), "linen": (convlab.linen, flax.linen)}[system]
    mask = MASK if "mask" in name else None
    got, expected = (gradients_of(system, getattr(module, cls), options, X, mask) for module in systems)
    for a, b, tolerance in zip(jax.tree.leaves(got), jax.tree.leaves(expected), (1e-6, *(1e-4,) * 9)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        tolerance = 2e-2 if "dtype" in options else tolerance
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=0, atol=tolerance * np.abs(b).max())


def normalized(x, scale, bias, cls="LayerNorm", **options):
    layer = getattr(convlab.nnx, cls)(8, rngs=flax.nnx.Rngs(0), param_dtype=x.dtype, **options)
    layer.scale[...] = scale
    if cls != "RMSNorm":
        layer.bias[...] = bias
    return layer(x)


@pytest.mark.parametrize("offset", [0, 300])
def test_values_and_gradients_of_layer_normalization_by_hand(offset):
    """In float64; where the mean is large beside the deviation, `use_fast_variance=False` loses little."""
    scale, bias, x = np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8), np.float64(X + np.float32(offset))
    centered = x - x.mean(-1, keepdims=True)
    root = np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    normal, g = centered / root, W * scale
    expected = (g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True)) / root
    operands = (np.float32(a) for a in (x, scale, bias))
    y, vjp = jax.vjp(lambda *operands: normalized(*operands, use_fast_variance=not offset), *operands)
    unit = 1e-4 if offset else 5e-6
    for got, want in zip(
        (y, *vjp(W)), (normal * scale + bias, expected, (W * normal).sum((0, 1, 2)), W.sum((0, 1, 2)))
    ):
        np.testing.assert_allclose(got, want, atol=unit * np.abs(want).max())


@pytest.mark.parametrize(
    ("cls", "fast"),
    [
        ("LayerNorm", True),
        ("LayerNorm", False),
        pytest.param("RMSNorm", True, marks=pytest.mark.slow),
        ("GroupNorm", True),
    ],
)
def test_derivatives_of_every_order_and_mode(x64, cls, fast):
    operands = np.float64(X[:2, :2, :3]), np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8)
    options = dict(cls=cls, use_fast_variance=fast, **(dict(num_groups=2) if cls == "GroupNorm" else {}))
    function = jax.jit(lambda *operands: normalized(*operands, **options) ** 2)
    jax.test_util.check_grads(function, operands, 2 if fast else 1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


def test_vmap_and_strict_promotion():
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)

    @jax.jit
    def both(x):
        options = dict(LayerNorm={}, RMSNorm={}, GroupNorm=dict(num_groups=4))
        each = [jax.vmap(lambda x: normalized(x[None], ones, zeros, c, **o)[0])(x) for c, o in options.items()]
        half = [
            getattr(convlab.linen, c)(dtype=jnp.float16, **o).init_with_output(jax.random.key(0), x)[0]
            for c, o in options.items()
        ]
        return each, half

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        each, half = both(X)
    for a, b in zip(each, half, strict=True):
        assert b.dtype == jnp.float16
        np.testing.assert_allclose(a, b, atol=5e-3)


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_infinities_and_nans_reach_what_they_reach_in_flax(number):
    x = X.copy()
    x[0, 1, 2, 3] = number

    @jax.jit
    def results(x):
        make = dict(num_features=8, rngs=flax.nnx.Rngs(0))
        return [[s.RMSNorm(**make)(x), s.GroupNorm(num_groups=4, **make)(x)] for s in (convlab.nnx, flax.nnx)]

    ours, flaxs = results(x)
    for a, b in zip(ours, flaxs, strict=True):
        assert not np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_groups_that_flax_refuses_are_refused_with_its_error():
    for options in (dict(num_groups=3), dict(num_groups=2, group_size=4), dict(num_groups=None, group_size=3)):
        messages = []
        for nnx, linen in ((convlab.nnx, convlab.linen), (flax.nnx, flax.linen)):
            with pytest.raises(ValueError) as of_nnx:
                nnx.GroupNorm(8, **options, rngs=flax.nnx.Rngs(0))
            with pytest.raises(ValueError) as of_linen:
                jax.eval_shape(linen.GroupNorm(**options).init, jax.random.key(0), X)
            messages.append((str(of_nnx.value), str(of_linen.value)))
        assert messages[0] == messages[1]


@pytest.mark.parametrize("cls", ["RMSNorm", "GroupNorm"])
def test_the_derivative_keeps_one_array_of_the_images_size(cls):
    graph, state = flax.nnx.split(getattr(convlab.nnx, cls)(8, rngs=flax.nnx.Rngs(0), **GROUPS.get(cls, {})))

    def loss(state, x):
        return jnp.sum(jnp.sin(flax.nnx.merge(graph, state, copy=True)(2 * x)))

    with contextlib.redirect_stdout(io.StringIO()) as text:
        jax.ad_checkpoint.print_saved_residuals(loss, state, X)
    saved = [line for line in text.getvalue().splitlines() if line.startswith("f32[4,5,6,8]")]
    assert len([line for line in saved if "cos" not in line and "argument" not in line]) == 1, saved


def test_complex_input_is_flaxs():
    ours, flaxs = (cls(8, rngs=flax.nnx.Rngs(0))(X + 1j) for cls in (convlab.nnx.LayerNorm, flax.nnx.LayerNorm))
    np.testing.assert_array_equal(ours, flaxs)
