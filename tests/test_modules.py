"""Every layer is in both module systems and has the options, the results and the messages of its function."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bad_calls import BAD_CALLS

import convlab
import convlab.linen
import convlab.nnx

SYSTEMS = {"nnx": convlab.nnx, "linen": convlab.linen}
X = np.random.default_rng(0).normal(size=(2, 7, 6, 4)).astype(np.float32)
KEY = jax.random.key(3)
PATCHES = np.random.default_rng(1).normal(size=(2, 6, 5, 2, 2, 3)).astype(np.float32)
POOLED, INDICES = convlab.max_pool(X, (2, 2), strides=2, return_indices=True)
BOXES = np.array([[1, 0.5, 1, 4, 5]], np.float32)
SAMPLES = np.random.default_rng(2).uniform(size=(2, 4, 2)).astype(np.float32)

# layer, function, the arguments of the constructor, the arguments of the call.
OPERATIONS = [
    ("MaxPool", "max_pool", ((3, 2),), dict(strides=2, ceil_mode=True, return_indices=True), (X,), {}),
    ("MinPool", "min_pool", (2,), dict(window_dilation=2), (X,), {}),
    ("AvgPool", "avg_pool", ((2, 3), (2, 1), "SAME", False), {}, (X,), {}),
    ("SumPool", "sum_pool", (2,), dict(padding=[(1, 0), (0, 1)]), (X,), {}),
    ("LPPool", "lp_pool", (2,), dict(norm_type=3.0), (X,), {}),
    ("GeMPool", "gem_pool", (2,), dict(p=2.5), (X,), {}),
    ("SoftmaxPool", "softmax_pool", (2,), dict(temperature=0.5), (X,), {}),
    ("TopKPool", "top_k_pool", (2,), dict(k=3), (X,), {}),
    ("MixedPool", "mixed_pool", (2,), dict(alpha=0.3), (X,), {}),
    ("StochasticPool", "stochastic_pool", (2,), {}, (X,), dict(key=KEY)),
    ("BlurPool", "blur_pool", (), dict(padding_mode="replicate"), (X,), {}),
    ("FractionalMaxPool", "fractional_max_pool", (2,), dict(output_shape=(4, 3)), (X,), dict(samples=SAMPLES)),
    ("FractionalMaxPool", "fractional_max_pool", (2,), dict(output_ratio=0.7), (X,), dict(key=KEY)),
    ("GlobalAvgPool", "global_avg_pool", (), {}, (X,), {}),
    ("GlobalMaxPool", "global_max_pool", (), dict(keepdims=True), (X,), {}),
    ("AdaptiveAvgPool", "adaptive_avg_pool", (3,), {}, (X,), {}),
    ("AdaptiveMaxPool", "adaptive_max_pool", ((3, None),), dict(return_indices=True), (X,), {}),
    ("SpatialPyramidPool", "spatial_pyramid_pool", ([1, 2],), dict(reduce="avg"), (X,), {}),
    ("MaxUnpool", "max_unpool", ((7, 6),), {}, (POOLED, INDICES), {}),
    ("Unfold", "unfold", ((2, 2),), dict(strides=2), (X,), {}),
    ("Fold", "fold", ([7, 6],), {}, (PATCHES,), {}),
    ("Pad", "pad", (((1, 2), -1), "reflect"), {}, (X,), {}),
    ("Resize", "resize", ((9, 4),), dict(align_corners=True), (X,), {}),
    ("Upsample", "resize", (), dict(scale=[2, 2], method="nearest"), (X,), {}),
    ("PixelShuffle", "pixel_shuffle", (2,), {}, (X,), {}),
    ("PixelUnshuffle", "pixel_unshuffle", ((7, 2),), {}, (X,), {}),
    ("LocalResponseNorm", "local_response_norm", (3,), dict(alpha=0.1), (X,), {}),
    ("RoIAlign", "roi_align", (2,), dict(sampling_ratio=2), (X, BOXES), {}),
    ("RoIPool", "roi_pool", ((2, 1),), {}, (X, BOXES), {}),
]
CONVOLUTIONS = {
    "Conv", "ConvTranspose", "ConvLocal", "DepthwiseConv", "SeparableConv", "DeformConv", "WSConv", "CausalConv",
}  # fmt: skip


def names(system):
    classes = {n for n, v in vars(system).items() if inspect.isclass(v) and v.__module__.startswith(system.__name__)}
    return {n for n in classes if n[0].isupper()}


def test_both_systems_have_the_same_layers():
    assert names(convlab.nnx) == names(convlab.linen)
    normalizations = {"BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"}
    assert {row[0] for row in OPERATIONS} | CONVOLUTIONS | {"Flatten"} | normalizations == names(convlab.nnx)


@pytest.mark.parametrize("name", ["pool", "max_pool", "min_pool", "avg_pool"])
def test_pool_functions_have_flaxs_names(name):
    ours, options = getattr(convlab.nnx, name), dict(window_shape=(2, 3), strides=(2, 1), padding="SAME")
    assert ours is getattr(convlab.linen, name)
    options |= dict(init=-np.inf, reduce_fn=jax.lax.max) if name == "pool" else {}
    with (
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):  # Flax's own average divides by an int
        expected = jax.jit(lambda x: getattr(flax.nnx, name)(inputs=x, **options))(X)
    spelt = jax.jit(lambda x: (ours(inputs=x, **options), ours(x, **options), getattr(convlab, name)(x=x, **options)))
    for actual in spelt(X):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    rest = list(inspect.signature(getattr(convlab, name)).parameters.values())[1:]
    assert list(inspect.signature(ours).parameters.values())[1:] == rest


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row[0])
def test_an_operation_is_its_function(row):
    name, function, made, options, arrays, called = row
    in_nnx, in_linen = (getattr(system, name)(*made, **options) for system in SYSTEMS.values())

    @jax.jit
    def results(arrays, called):
        expected = getattr(convlab, function)(*arrays, *made, **options, **called)
        of_nnx, of_linen = ({key if n == "key" else n: v for n, v in called.items()} for key in ("rngs", "rng"))
        return expected, in_nnx(*arrays, **of_nnx), in_linen.apply({}, *arrays, **of_linen)

    expected, *actual = results(arrays, called)
    for result in actual:
        jax.tree.map(np.testing.assert_array_equal, result, expected)


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row[0])
def test_an_operation_has_the_options_of_its_function(row):
    name, function, *_ = row
    own = {"deterministic", "rng_collection", "rngs", "parent", "name"}
    for system in SYSTEMS.values():
        fields = {f.name: f for f in dataclasses.fields(getattr(system, name)) if f.name not in own}
        options = inspect.signature(getattr(convlab, function)).parameters
        assert fields.keys() == options.keys() - {"x", "patches", "indices", "key", "samples", "boxes", "valid"}
        for option, field in fields.items():
            parameter = options[option]
            default = dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
            assert type(field.default) is type(default) and field.default == default
            assert field.kw_only == (parameter.kind is parameter.KEYWORD_ONLY)
            assert field.type == parameter.annotation


def test_flatten():
    assert convlab.nnx.Flatten()(X).shape == (2, 168)
    np.testing.assert_array_equal(convlab.linen.Flatten().apply({}, X), X.reshape(2, -1))
    with pytest.raises(ValueError, match="`x` must have one batch axis"):
        convlab.nnx.Flatten()(X[0, 0, 0])


@pytest.mark.parametrize("system", SYSTEMS)
def test_layers_with_equal_options_hash_alike(system):
    make = SYSTEMS[system].MaxPool
    if system == "linen":
        assert hash(make([2, 2], padding=[[0, 1], [1, 0]])) == hash(make((2, 2), padding=((0, 1), (1, 0))))
    graphs = {flax.nnx.graphdef(convlab.nnx.MaxPool(size)) for size in ([2, 2], (2, 2))}
    assert len(graphs) == 1


# --- messages -----------------------------------------------------------------------------------------------------

LAYERS = {row[1]: row[0] for row in reversed(OPERATIONS)} | {
    "conv": "Conv", "conv_transpose": "ConvTranspose", "conv_local": "ConvLocal", "deform_conv": "DeformConv",
}  # fmt: skip
KERNEL = {"conv": 1, "conv_transpose": 1, "conv_local": 1, "deform_conv": 2}
CALLED = {"mask", "output_shape", "key", "samples", "kernel_size", "segment_ids", "valid"}


def told_by_options(row):
    """Return whether an option is wrong, and not an array."""
    arrays = {"kernel", "x", "bias", "offset", "mask", "patches", "boxes", "segment_ids", "valid"} & set(
        row.argument.split("|")
    )
    one = row.function in KERNEL and row.shown == "None"  # layers take None for 1, as Flax's do
    return row.function in LAYERS and not arrays and not one


def message(call, *arguments):
    try:
        call(*arguments)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def by_layer(system, row):
    make, arrays, options = getattr(SYSTEMS[system], LAYERS[row.function]), list(row.arrays), dict(row.options)
    called = {
        n: options.pop(n)
        for n in CALLED & options.keys()
        if n not in ("output_shape",) or row.function == "conv_transpose"
    }
    first = []
    if row.function in KERNEL:
        kernel = arrays.pop(KERNEL[row.function])
        size = called.pop("kernel_size", kernel.shape[:-2])
        first = [kernel.shape[-1], size]
        if system == "nnx":
            first, options = [arrays[0].shape[-1], *first], options | {"rngs": flax.nnx.Rngs(0)}
        if row.function == "conv_local":
            options = {"padding": "VALID"} | options
    if "key" in called:
        called["rngs" if system == "nnx" else "rng"] = called.pop("key")
    if row.function == "stochastic_pool":
        called["deterministic"] = True
    layer = make(*first, **options)
    return layer(*arrays, **called) if system == "nnx" else layer.init_with_output(jax.random.key(0), *arrays, **called)


@pytest.mark.parametrize("row", [row for row in BAD_CALLS if told_by_options(row)], ids=str)
def test_layers_raise_the_messages_of_the_function(row):
    expected = message(lambda: getattr(convlab, row.function)(*row.arrays, **row.options))
    if row.function == "fractional_max_pool" and not {"key", "samples"} & row.options.keys():
        pytest.skip("the layer draws its own key")
    for system in SYSTEMS:
        assert message(by_layer, system, row) == expected


RNGS = flax.nnx.Rngs(0)
AT_CONSTRUCTION = [
    (lambda s: s["Conv"](4, (3, 3), padding="SMAE"), "`padding` must be one of"),
    (lambda s: s["Conv"](4, (3, 3), padding=[1]), "`padding` must be one of"),
    (
        lambda s: s["Conv"](4, (3, 0)),
        "`kernel_size` must be an int >= 1 or one int >= 1 per axis for 2 spatial axes, got (3, 0)",
    ),
    (lambda s: s["Conv"](4, (3, 3), strides=1.0), "`strides` must be an int >= 1 or one int"),
    (lambda s: s["Conv"](4, (3, 3), padding_mode="mirror"), "`padding_mode` must be one of"),
    (
        lambda s: s["Conv"](5, (3, 3), feature_group_count=3),
        "`feature_group_count` must divide the output channels for 5 output",
    ),
    (lambda s: s["Conv"](4, (3, 3), feature_group_count=0), "`feature_group_count` must be an int >= 1, got 0."),
    (lambda s: s["Conv"](4, (3, 3), method="quick"), "`method` must be"),
    (lambda s: s["Conv"](0, (3, 3)), "features` must be an int >= 1, got 0."),
    (lambda s: s["ConvTranspose"](4, (3, 3), output_padding=1), "`output_padding` must be smaller than the larger of"),
    (
        lambda s: s["ConvLocal"](4, (3, 3), feature_group_count=2),
        "`feature_group_count` must be 1 for a kernel for every place, got 2.",
    ),
    (
        lambda s: s["CausalConv"](4, 3, padding="SAME"),
        "`padding` must be 'CAUSAL' for a causal convolution, got 'SAME'.",
    ),
    (lambda s: s["CausalConv"](4, 3, input_dilation=2), "`input_dilation` must be 1 for a causal convolution, got 2."),
    (lambda s: s["WSConv"](4, (3, 3), epsilon=0), "`epsilon` must be a number > 0, got 0."),
    (lambda s: s["WSConv"](4, (3, 3), epsilon="1e-5"), "`epsilon` must be a number > 0, got '1e-5'."),
    (lambda s: s["SeparableConv"](4, (3, 3), multiplier=0), "`multiplier` must be an int >= 1, got 0."),
    (lambda s: s["MaxPool"]((2, 2), padding="SMAE"), "`padding` must be one of"),
    (lambda s: s["TopKPool"]((2, 2), k=5), "`k` must be"),
    (lambda s: s["AvgPool"](2, divisor_override=0), "`divisor_override` must be an int other than 0, got 0."),
    (lambda s: s["Fold"]((4, 4), padding="SMAE"), "`padding` must be one of"),
    (lambda s: s["MaxUnpool"]((4, 0)), "`output_shape` must be"),
]


class Lazy:
    """Constructors of NNX's layers with the arguments of Linen's."""

    def __getitem__(self, name):
        layer = getattr(convlab.nnx, name)
        return (lambda *made, **options: layer(None, *made, rngs=RNGS, **options)) if name in CONVOLUTIONS else layer


@pytest.mark.parametrize("make, text", AT_CONSTRUCTION, ids=[text for _, text in AT_CONSTRUCTION])
def test_bad_options_are_refused_at_construction(make, text):
    messages = [message(make, system) for system in (Lazy(), vars(convlab.linen))]
    assert all(text in m for m in messages), messages
    assert messages[0].replace("out_features", "features") == messages[1]


def test_any_false_use_bias_means_no_bias():
    """Any false value means no bias, as in Linen."""
    assert convlab.nnx.Conv(4, 5, (3,), use_bias=None, rngs=RNGS).bias is None


def test_an_ambiguous_int_is_refused_with_the_image():
    layer = convlab.nnx.MaxPool(2, padding="SMAE")
    with pytest.raises(ValueError, match="for 2 spatial axes, got 'SMAE'"):
        layer(X)


def test_an_int_is_one_spatial_axis():
    text = r"`kernel_size` must be one int per axis for 2 spatial axes, got 3\. Write \(3, 3\)\."
    with pytest.raises(ValueError, match=text):
        convlab.nnx.Conv(4, 5, 3, rngs=RNGS)(X)
    with pytest.raises(ValueError, match=text):
        convlab.linen.Conv(5, 3).init(KEY, X)
    assert convlab.nnx.Conv(4, 5, 3, rngs=RNGS)(X[0]).shape == (7, 6, 5)
    assert convlab.nnx.Conv(4, 5, (3,), rngs=RNGS)(X).shape == (2, 7, 6, 5)


# --- layers with parameters ---------------------------------------------------------------------------------------

OFFSET = np.random.default_rng(3).normal(size=(2, 7, 6, 18)).astype(np.float32)
PARAMETRISED = [
    ("Conv", (3, (3, 2)), dict(padding_mode="reflect", flip_kernel=True, feature_group_count=1), (X,)),
    ("Conv", (6, (3, 2)), dict(strides=2, padding="FULL", feature_group_count=2, method="lax"), (X,)),
    (
        "ConvTranspose",
        (6, (3, 2)),
        dict(strides=2, output_padding=1, feature_group_count=2, padding_mode="circular"),
        (X,),
    ),
    (
        "ConvTranspose",
        (6, (3, 2)),
        dict(transpose_kernel=True, use_consistent_padding=True, feature_group_count=2),
        (X,),
    ),
    ("ConvLocal", (3, (3, 2)), dict(strides=2), (X,)),
    ("DepthwiseConv", ((3, 2),), dict(multiplier=2), (X,)),
    ("DepthwiseConv", (3,), {}, (X[0],)),
    ("SeparableConv", (5, (3, 2)), dict(multiplier=2, strides=2), (X,)),
    ("SeparableConv", (5, 3), {}, (X[0],)),
    ("SeparableConv", (5, (2, 2, 1)), {}, (X[None],)),
    ("DeformConv", (5, (3, 3)), dict(feature_group_count=1), (X, OFFSET)),
    ("WSConv", (5, (3, 2)), dict(epsilon=1e-3), (X,)),
    ("CausalConv", (5, (3, 2)), dict(strides=(2, 1)), (X,)),
    ("CausalConv", (6, 3), dict(feature_group_count=2, weight_norm=True), (X[0],)),
]


@pytest.mark.parametrize(
    "name, made, options, arrays", PARAMETRISED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_nnx_and_linen_agree(name, made, options, arrays):
    """NNX layers, with lazy shapes or not, give a Linen layer's results with its parameters."""
    layer = getattr(convlab.linen, name)(*made, **options)
    expected, variables = jax.jit(layer.init_with_output)(KEY, *arrays)
    for channels in (arrays[0].shape[-1], None)[: 1 + (name == "SeparableConv")]:

        @jax.jit
        def parameters_and_result(given, *arrays):
            other = getattr(convlab.nnx, name)(channels, *made, **options, rngs=flax.nnx.Rngs(0))
            other(*arrays)
            state = flax.nnx.to_pure_dict(flax.nnx.state(other, flax.nnx.Param))
            flax.nnx.update(other, given)
            return state, other(*arrays)

        state, actual = parameters_and_result(variables["params"], *arrays)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, variables["params"])
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_weight_standardisation():
    """Qiao et al., equation 6: subtract the mean of each output channel's kernel and divide by its deviation."""
    layer = convlab.nnx.WSConv(4, 6, (3, 2), feature_group_count=2, rngs=flax.nnx.Rngs(0))
    kernel = np.asarray(layer.kernel[...], np.float64)
    standard = (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-5)
    expected = convlab.conv(X, standard.astype(np.float32), feature_group_count=2)
    np.testing.assert_allclose(layer(X), expected, rtol=1e-4, atol=1e-4)


def test_weight_normalisation():
    """Salimans and Kingma, equation 2: a direction and a length; at first the kernel as it was drawn, and what is 0
    stays 0."""
    options = dict(feature_group_count=2, rngs=flax.nnx.Rngs(0))
    layer = convlab.nnx.CausalConv(4, 6, 3, weight_norm=True, **options)
    kernel = np.asarray(layer.kernel[...], np.float64)
    np.testing.assert_allclose(
        layer(X[0]), convlab.conv(X[0], kernel, padding="CAUSAL", feature_group_count=2), atol=1e-5
    )
    layer.scale.set_value(jnp.arange(6.0))
    layer.kernel.set_value(7 * layer.kernel[...])
    norms = np.sqrt((kernel**2).sum((0, 1)))
    expected = convlab.conv(X[0], np.arange(6.0) * kernel / norms, padding="CAUSAL", feature_group_count=2)
    np.testing.assert_allclose(layer(X[0]), expected, atol=1e-5)
    layer.init_cache((7, 1, 4))
    streamed = np.concatenate([layer.step(X[0][:, :2]), layer.step(X[0][:, 2:])], 1)
    np.testing.assert_allclose(streamed, expected, atol=1e-5)
    layer.kernel.set_value(jnp.zeros_like(layer.kernel[...]))
    slope = flax.nnx.jit(flax.nnx.grad(lambda layer: layer(X[0]).sum()))(layer)
    assert not np.any(layer(X[0])) and np.all(np.isfinite(slope["kernel"][...]))


def test_a_depthwise_convolution_keeps_channels_apart():
    layer = convlab.nnx.DepthwiseConv(4, (3, 2), multiplier=2, rngs=flax.nnx.Rngs(0))
    alone = [convlab.conv(X[..., c : c + 1], layer.kernel[..., 2 * c : 2 * c + 2]) for c in range(4)]
    np.testing.assert_allclose(layer(X), np.concatenate(alone, -1), rtol=1e-5, atol=1e-5)
    assert layer.out_features == 8 and layer.feature_group_count == 4


STREAMS = [
    (rank, strides, dilation, groups, chunks)
    for rank, strides, dilation, groups in (
        (1, 1, 1, 1),
        (1, 2, 2, 1),
        (1, 3, 1, 2),
        (1, 5, 1, 1),
        (2, 2, 1, 2),
        (2, 1, 2, 1),
    )
    for chunks in ((1,) * 8, (3, 1, 4), (8,), (0, 2, 6))
]


@pytest.mark.parametrize("rank, strides, dilation, groups, chunks", STREAMS)
def test_steps_over_any_chunks_are_the_whole_sequence(rank, strides, dilation, groups, chunks):
    x = np.random.default_rng(4).normal(size=(2, 8, *(5,) * (rank - 1), 4)).astype(np.float32)
    made, options = ((3, 2)[:rank], strides), dict(kernel_dilation=dilation, feature_group_count=groups)
    parts = np.split(x, np.cumsum(chunks)[:-1], 1)
    other = convlab.linen.CausalConv(6, *made, **options)

    @jax.jit
    def results(x, parts):
        layer = convlab.nnx.CausalConv(4, 6, *made, **options, rngs=flax.nnx.Rngs(0))
        layer.init_cache(x.shape)
        in_nnx, in_linen = [layer.step(part) for part in parts], []
        params = flax.nnx.to_pure_dict(flax.nnx.state(layer, flax.nnx.Param))
        variables = {"params": params, "cache": other.init_cache(x.shape)}
        for part in parts:
            y, cache = other.apply(variables, part, method="step", mutable=["cache"])
            variables, in_linen = variables | cache, [*in_linen, y]
        return layer(x), jnp.concatenate(in_nnx, 1), jnp.concatenate(in_linen, 1)

    whole, in_nnx, in_linen = results(x, parts)
    np.testing.assert_allclose(in_nnx, whole, atol=1e-5)
    np.testing.assert_allclose(in_linen, whole, atol=1e-5)


def test_steps_and_caches_of_other_shapes_are_refused():
    layer = convlab.nnx.CausalConv(4, 6, 3, rngs=RNGS)
    for shape, error in (((4,), ValueError), (5, TypeError), ((2, 8.0, 4), TypeError)):
        for make in (layer.init_cache, convlab.linen.CausalConv(6, 3).init_cache):
            with pytest.raises(error, match=r"`input_shape` must be 2 ints or more, \(\*batch, \*spatial, c\), got "):
                make(shape)
    layer.init_cache((2, 8, 4))
    for x in (X[:1, :, 0], X[0, :, 0]):
        with pytest.raises(ValueError, match=r"`inputs` must have the shape \(2, any, 4\) for the cache, got \("):
            layer.step(x)


# --- examples -----------------------------------------------------------------------------------------------------


def modules():
    for system in SYSTEMS.values():
        yield system
        yield from (
            importlib.import_module(f"{system.__name__}.{m.name}") for m in pkgutil.iter_modules(system.__path__)
        )


def examples():
    for module in modules():
        names = vars(module) | {"jax": jax, "jnp": jnp, "nnx": flax.nnx, "linen": flax.linen}
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs=names):
            if test.examples:
                yield pytest.param(test, id=f"{module.__name__}.{test.name}")


@pytest.mark.parametrize("test", list(examples()))
def test_examples_run(test):
    output = []
    doctest.DocTestRunner().run(test, out=output.append)
    assert not output, "".join(output)


def test_there_are_examples():
    assert len(list(examples())) >= 6


@pytest.mark.parametrize("name", sorted(CONVOLUTIONS))
def test_layers_with_a_kernel_say_arguments_parameters_errors_and_an_example(name):
    text = inspect.cleandoc(getattr(convlab.nnx, name).__doc__)
    assert [title for title in ("Args:", "Attributes:", "Raises:", "Example:") if f"\n{title}\n" not in text] == []
    own = (
        [f.name for f in dataclasses.fields(getattr(convlab.nnx, name)) if f.init]
        if name != "SeparableConv"
        else ["multiplier"]
    )
    inherited = {f.name for f in dataclasses.fields(convlab.nnx.Conv)} if name != "Conv" else set()
    assert [field for field in own if field not in text.split("Attributes:")[0] and field not in inherited] == []
    assert "\nExample:\n" in inspect.cleandoc(getattr(convlab.linen, name).__doc__)
