"""convlab's layers in place of Flax's: the same arguments, parameters, values, gradients, states and hooks."""

import inspect
import itertools

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import convlab.linen
import convlab.nnx

X = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype(np.float32)
KEY = jax.random.key(7)


def rngs():
    return flax.nnx.Rngs(5)


def kinds(layer):
    """Return the name and position, or the name and keyword, of each argument."""
    parameters = list(inspect.signature(layer.__init__).parameters.values())[1:]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("parent", "name")]
    return positional, {p.name: p.default for p in parameters if p.name not in ("parent", "name")}


def same(ours, theirs):
    """Return whether defaults are equal: functions of Flax are identical, and initializers make the same values."""
    if hasattr(theirs, "keys"):
        return dict(ours) == dict(theirs)
    if callable(theirs) and not isinstance(theirs, type):
        return ours is theirs or ours.__qualname__ == theirs.__qualname__ or theirs is lax.conv_general_dilated
    return ours is theirs or ours == theirs


@pytest.mark.parametrize("name", ["Conv", "ConvTranspose", "ConvLocal"])
@pytest.mark.parametrize("system", ["nnx", "linen"])
def test_arguments_are_flaxs(system, name):
    if system == "nnx" and name == "ConvLocal":
        pytest.skip("Flax has none for NNX")
    positional, options = kinds(getattr(getattr(convlab, system), name))
    expected, defaults = kinds(getattr(getattr(flax, system), name))
    assert positional[: len(expected)] == expected
    assert options.keys() >= defaults.keys()
    assert not [n for n, default in defaults.items() if not same(options[n], default)]


@pytest.mark.parametrize("function", ["max_pool", "min_pool", "avg_pool", "pool"])
def test_arguments_of_pools_are_flaxs(function):
    ours, theirs = (list(inspect.signature(getattr(m, function)).parameters.values()) for m in (convlab.nnx, flax.nnx))
    assert [p.name for p in ours][: len(theirs)] == [p.name for p in theirs]
    assert all(p.default in (p.empty, q.default) for p, q in zip(theirs, ours))


def product(**options):
    return [dict(zip(options, values)) for values in itertools.product(*options.values())]


CONV = product(
    strides=[1, (2, 1)],
    padding=["SAME", "VALID", "CIRCULAR", "REFLECT", 1, ((2, 0), (1, 1))],
    kernel_dilation=[1, (1, 2)],
)
CONV += product(strides=[None, 2], padding=["SAME_LOWER", (1, 2)], kernel_dilation=[None], feature_group_count=[2])
CONV += product(padding=[0, ((2, 0), (1, 1))], input_dilation=[(2, 1)], use_bias=[False])
CONV += product(mask=[np.tril(np.ones((3, 2, 4, 6), np.float32))], param_dtype=[jnp.float32, jnp.bfloat16])
CONV += product(dtype=[jnp.bfloat16], precision=["highest", lax.Precision.HIGH])
TRANSPOSED = product(
    strides=[None, (2, 1), 3],
    padding=["SAME", "VALID", "CIRCULAR", 1, ((2, 0), (1, 1))],
    transpose_kernel=[False, True],
)
TRANSPOSED += product(kernel_dilation=[(2, 1)], padding=["SAME", "VALID"], preferred_element_type=[None, jnp.float32])
TRANSPOSED += product(mask=[np.tril(np.ones((3, 2, 4, 6), np.float32))], use_bias=[True, False])
LOCAL = product(strides=[1, 2], padding=["SAME", "VALID", "CIRCULAR", ((2, 0), (1, 1))], kernel_dilation=[1, (1, 2)])
LOCAL += product(input_dilation=[2], padding=[1], use_bias=[False])


def mostly_slow(rows, every):
    """Mark the rows as slow, except one of `every`."""
    return [row if i % every == 0 else pytest.param(row, marks=pytest.mark.slow) for i, row in enumerate(rows)]


def shown(options):
    return ",".join(f"{k}={getattr(v, 'shape', getattr(v, '__name__', v))}" for k, v in options.items())


def value_and_gradients(function, parameters, x):
    """Return the result, and the gradients of its sum with fixed weights."""

    def weighted(parameters, x):
        y = function(parameters, x)
        weight = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (y.astype(jnp.float32) * weight).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True))(parameters, x)
    return y, gradients


def assert_close(actual, expected, tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=tolerance)


def tolerance(options):
    narrow = jnp.bfloat16 in (options.get("dtype"), options.get("param_dtype"))
    return 0.1 if narrow else 2e-4


def assert_alike_in_nnx(name, options):
    ours, theirs = (getattr(m, name)(4, 6, (3, 2), **options, rngs=rngs()) for m in (convlab.nnx, flax.nnx))
    states = [flax.nnx.split(layer, flax.nnx.Param, ...) for layer in (ours, theirs)]
    pure = [flax.nnx.to_pure_dict(state) for _, state, _ in states]
    jax.tree.map(np.testing.assert_array_equal, *pure)
    for (graph, _, rest), parameters in zip(states, reversed(pure)):
        flax.nnx.merge(graph, flax.nnx.State(parameters), rest)

    def apply(graph, rest):
        return lambda parameters, x: flax.nnx.merge(graph, flax.nnx.State(parameters), rest)(x)

    results = [value_and_gradients(apply(graph, rest), p, X) for (graph, _, rest), p in zip(states, pure)]
    assert_close(*results, tolerance(options))


def assert_alike_in_linen(name, options):
    ours, theirs = (getattr(m, name)(6, (3, 2), **options) for m in (convlab.linen, flax.linen))
    variables, expected = ours.init(KEY, X), theirs.init(KEY, X)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert_close(
        value_and_gradients(ours.apply, expected, X),
        value_and_gradients(theirs.apply, variables, X),
        tolerance(options),
    )


@pytest.mark.parametrize("options", mostly_slow(CONV, 5), ids=shown)
def test_conv(options):
    assert_alike_in_nnx("Conv", options)


@pytest.mark.parametrize("options", mostly_slow(CONV, 9), ids=shown)
def test_conv_in_linen(options):
    assert_alike_in_linen("Conv", options)


@pytest.mark.parametrize("options", mostly_slow(TRANSPOSED, 5), ids=shown)
def test_conv_transpose(options):
    assert_alike_in_nnx("ConvTranspose", options)


@pytest.mark.parametrize("options", mostly_slow(TRANSPOSED, 9), ids=shown)
def test_conv_transpose_in_linen(options):
    assert_alike_in_linen("ConvTranspose", options)


@pytest.mark.parametrize("options", mostly_slow(LOCAL, 8), ids=shown)
def test_conv_local(options):
    assert_alike_in_linen("ConvLocal", options)


@pytest.mark.parametrize(
    "kernel_size, shape", [(3, (2, 7, 4)), (3, (7, 4)), ((3, 3), (2, 3, 6, 5, 4)), ((2, 2, 2), (4, 4, 4, 4))]
)
def test_any_number_of_batch_axes(kernel_size, shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    for name in ("Conv", "ConvTranspose"):
        ours, theirs = (getattr(m, name)(4, 6, kernel_size, rngs=rngs()) for m in (convlab.nnx, flax.nnx))
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_bytes_and_half_floats_are_promoted_as_flax_does():
    for x in (np.arange(40, dtype=np.uint8).reshape(1, 10, 4), np.ones((1, 10, 4), np.float16)):
        ours, theirs = (m.Conv(4, 6, 3, rngs=rngs())(x) for m in (convlab.nnx, flax.nnx))
        assert ours.dtype == theirs.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


# --- hooks --------------------------------------------------------------------------------------------------------


def recorder(calls, **more):
    """Return a hook that records its arguments; without `more` it has the signature of hooks before `out_sharding`."""

    def hook(
        lhs, rhs, window_strides, padding, lhs_dilation=None, rhs_dilation=None, dimension_numbers=None,
            feature_group_count=1,
        precision=None,
    ):  # fmt: skip
        shapes = lhs.shape, rhs.shape
        numbers = tuple(map(tuple, dimension_numbers))
        padding = padding if isinstance(padding, str) else [tuple(pair) for pair in padding]
        calls.append(
            (shapes, window_strides, padding, lhs_dilation, rhs_dilation, numbers, feature_group_count, precision)
        )
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
        )

    if not more:
        return hook
    return lambda *args, out_sharding, **options: hook(*args, **options)


HOOKED = [
    {},
    dict(strides=2, padding="CIRCULAR", precision="highest"),
    dict(padding=(1, (2, 0)), kernel_dilation=2, feature_group_count=2),
    dict(padding="REFLECT", strides=None),
    dict(input_dilation=(2, 1), padding=1),
]


@pytest.mark.parametrize("options", HOOKED, ids=shown)
@pytest.mark.parametrize("x", [X, X[0], X[:, None]], ids=["batch", "example", "batches"])
def test_a_hook_is_called_as_flax_calls_it(options, x):
    calls, expected = [], []
    ours = convlab.nnx.Conv(4, 6, (3, 2), **options, conv_general_dilated=recorder(calls, sharded=True), rngs=rngs())
    theirs = flax.nnx.Conv(4, 6, (3, 2), **options, conv_general_dilated=recorder(expected, sharded=True), rngs=rngs())
    np.testing.assert_array_equal(ours(x), theirs(x))
    ours = convlab.linen.Conv(6, (3, 2), **options, conv_general_dilated=recorder(calls))
    theirs = flax.linen.Conv(6, (3, 2), **options, conv_general_dilated_cls=lambda: recorder(expected))
    np.testing.assert_array_equal(*(m.init_with_output(KEY, x)[0] for m in (ours, theirs)))
    assert calls == expected and len(calls) == 2


def test_a_causal_hook():
    x, calls, expected = X[0], [], []
    ours = convlab.nnx.Conv(4, 6, 3, padding="CAUSAL", conv_general_dilated=recorder(calls, sharded=True), rngs=rngs())
    theirs = flax.nnx.Conv(
        4, 6, 3, padding="CAUSAL", conv_general_dilated=recorder(expected, sharded=True), rngs=rngs()
    )
    np.testing.assert_array_equal(ours(x), theirs(x))
    assert calls == expected


def test_a_hook_without_out_sharding():
    calls = []
    layer = convlab.nnx.Conv(4, 6, (3, 2), conv_general_dilated=recorder(calls), rngs=rngs())
    np.testing.assert_allclose(layer(X), flax.nnx.Conv(4, 6, (3, 2), rngs=rngs())(X), rtol=1e-5, atol=1e-5)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        dict(padding="FULL", input_dilation=2),
        dict(padding="CAUSAL", input_dilation=2),
        dict(padding_mode=("reflect", "circular"), padding=1, flip_kernel=True),
        dict(padding_mode="constant", padding_value=2.0),
    ],
    ids=shown,
)
def test_hooks_work_with_options_that_flax_lacks(options):
    expected = convlab.nnx.Conv(4, 6, (3, 2), **options, rngs=rngs())(X)
    hooked = convlab.nnx.Conv(4, 6, (3, 2), **options, conv_general_dilated=lax.conv_general_dilated, rngs=rngs())(X)
    np.testing.assert_allclose(hooked, expected, rtol=1e-5, atol=1e-5)


def test_a_hook_leaves_no_choice_of_method():
    layer = convlab.linen.Conv(6, (3, 2), conv_general_dilated=lax.conv_general_dilated, method="lax")
    with pytest.raises(ValueError, match="`method` must be 'auto' for a `conv_general_dilated` hook, got 'lax'"):
        layer.init(KEY, X)


def test_promote_dtype_hooks():
    def in_nnx(arrays, /, *, dtype):
        return tuple(None if a is None else jnp.asarray(a, jnp.bfloat16) for a in arrays)

    def in_linen(*arrays, dtype):
        return in_nnx(arrays, dtype=dtype)

    assert convlab.nnx.Conv(4, 6, (3, 2), promote_dtype=in_nnx, rngs=rngs())(X).dtype == jnp.bfloat16
    assert (
        convlab.linen.ConvTranspose(6, (3, 2), promote_dtype=in_linen).init_with_output(KEY, X)[0].dtype == jnp.bfloat16
    )


def test_preferred_element_type():
    x = X.astype(jnp.bfloat16)
    made = dict(dtype=jnp.bfloat16, preferred_element_type=jnp.float32)
    ours, theirs = (m.Conv(4, 6, (3, 2), **made, rngs=rngs())(x) for m in (convlab.nnx, flax.nnx))
    assert ours.dtype == theirs.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)
    assert convlab.linen.Conv(6, (3, 2), **made).init_with_output(KEY, x)[0].dtype == jnp.float32


def test_metadata_reaches_the_parameters():
    made = dict(kernel_metadata={"note": "a"}, bias_metadata={"note": "b"})
    for channels in (4, None):
        layer = convlab.nnx.Conv(channels, 6, (3, 2), **made, rngs=rngs())
        layer(X)
        assert (layer.kernel.note, layer.bias.note) == ("a", "b")


def test_checkpoints_of_either_load_into_the_other():
    for name in ("Conv", "ConvTranspose"):
        layers = [
            getattr(m, name)(4, 6, (3, 2), rngs=flax.nnx.Rngs(seed)) for seed, m in ((0, convlab.nnx), (1, flax.nnx))
        ]
        for one, other in (layers, layers[::-1]):
            flax.nnx.update(other, flax.nnx.state(flax.nnx.clone(one)))
            np.testing.assert_array_equal(one.kernel[...], other.kernel[...])
            np.testing.assert_allclose(one(X), other(X), rtol=1e-4, atol=1e-4)


# --- in programs that know Flax's layers --------------------------------------------------------------------------


def test_layers_are_flaxs():
    """LoRA, quantisation and counters of operations rely on this; the computation is convlab's, not Flax's."""
    for system, name in [
        ("nnx", "Conv"),
        ("nnx", "ConvTranspose"),
        ("linen", "Conv"),
        ("linen", "ConvTranspose"),
        ("linen", "ConvLocal"),
    ]:
        ours, theirs = (getattr(getattr(m, system), name) for m in (convlab, flax))
        assert issubclass(ours, theirs) and not issubclass(theirs, ours)
        own = [c for c in theirs.__mro__ if c.__module__.endswith(".linear")]
        fields = {name for c in own for name in vars(c).get("__annotations__", {})}
        bodies = {name for c in own for name, value in vars(c).items() if inspect.isfunction(value)} - fields
        assert "__call__" in bodies
        for body in bodies - {"__eq__", "__hash__", "__repr__"}:
            assert getattr(ours, body) is not getattr(theirs, body), body
    layer = convlab.nnx.Conv(4, 6, (3, 2), rngs=rngs())
    assert isinstance(layer, flax.nnx.Conv) and not isinstance(layer, flax.nnx.ConvTranspose)
    assert isinstance(convlab.linen.ConvLocal(6, (3, 2)), flax.linen.ConvLocal)
    assert isinstance(flax.nnx.merge(*flax.nnx.split(layer)), flax.nnx.Conv)
    assert isinstance(flax.nnx.eval_shape(lambda: convlab.nnx.Conv(4, 6, (3, 2), rngs=rngs())), convlab.nnx.Conv)


class LowRank(flax.nnx.Module):
    """A layer with which a user's program replaces layers that it finds by their class."""

    def __init__(self, inner):
        self.inner, self.down, self.up = (
            inner,
            flax.nnx.Param(jnp.zeros((inner.in_features, 2))),
            flax.nnx.Param(jnp.ones((2, inner.out_features))),
        )

    def __call__(self, x):
        return self.inner(x) + jnp.einsum("...c,cr,rf->...f", x, self.down[...], self.up[...])


def test_programs_that_dispatch_on_flaxs_classes_find_convlabs_layers():
    model = flax.nnx.Sequential(
        convlab.nnx.Conv(4, 4, (3, 2), rngs=rngs()), flax.nnx.relu, convlab.nnx.Conv(4, 4, 1, rngs=rngs())
    )
    expected = model(X)
    model.layers = flax.nnx.List([LowRank(l) if isinstance(l, flax.nnx.Conv) else l for l in model.layers])
    assert [isinstance(l, LowRank) for l in model.layers] == [True, False, True]
    y, gradient = flax.nnx.jit(flax.nnx.value_and_grad(lambda m, x: (m(x) ** 2).sum()))(model, X)
    np.testing.assert_allclose(y, (expected**2).sum(), rtol=1e-5)
    assert gradient["layers"][0]["down"][...].shape == (4, 2)


# A kernel of one tap, whose size is an int


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", "CAUSAL", "REFLECT", 0, ((0, 0),)], ids=str)
@pytest.mark.parametrize("name", ["Conv", "ConvTranspose"])
def test_a_kernel_of_one_tap_serves_images_of_any_rank(name, padding):
    """Its kernel is Flax's, `(1, in, out)`, and so are results and checkpoints."""
    if name == "ConvTranspose" and padding == "REFLECT":
        pytest.skip("Flax has none")
    options = {} if name == "ConvTranspose" or padding == "CAUSAL" else dict(feature_group_count=2)
    ours, theirs = (
        getattr(m, name)(4, 6, 1, padding=padding, **options, rngs=flax.nnx.Rngs(seed))
        for seed, m in enumerate((convlab.nnx, flax.nnx))
    )
    assert ours.kernel.shape == theirs.kernel.shape == (1, 4 // options.get("feature_group_count", 1), 6)
    flax.nnx.update(ours, flax.nnx.state(theirs))
    wide = convlab.conv(X, theirs.kernel[...][None], theirs.bias[...], **options)
    np.testing.assert_allclose(ours(X), wide, rtol=1e-5, atol=1e-5)
    if padding != "CAUSAL":  # which Flax takes for one axis only
        np.testing.assert_allclose(ours(X), theirs(X), rtol=1e-5, atol=1e-5)
    variables = {"params": {"kernel": theirs.kernel[...], "bias": theirs.bias[...]}}
    layer = getattr(convlab.linen, name)(6, 1, padding=padding, **options)
    np.testing.assert_allclose(layer.apply(variables, X), wide, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [dict(strides=2), dict(strides=(2,)), dict(padding=1), dict(padding=((0, 1),)), dict(input_dilation=2)],
    ids=shown,
)
def test_a_kernel_of_one_tap_that_skips_or_adds_positions_needs_its_axes(options):
    text = r"`kernel_size` must be one int per axis for 2 spatial axes, got 1\. Write \(1, 1\)\."
    with pytest.raises(ValueError, match=text):
        convlab.nnx.Conv(4, 6, 1, **options, rngs=rngs())(X)
    with pytest.raises(ValueError, match=text):
        convlab.linen.Conv(6, 1, **options).init(KEY, X)
    for name in ("ConvLocal", "CausalConv"):
        with pytest.raises(ValueError, match=text):
            getattr(convlab.nnx, name)(4, 6, 1, rngs=rngs())(X)
