"""`freeze` and `optimize` change how a program is computed, but not its results."""

import builtins
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import convlab
from convlab._backend import dispatch, engine
from convlab._backend.fusion import packing
from convlab._backend.tables import Target
from convlab._freeze.trace import Arguments

RNG = np.random.default_rng(0)
NHWC = ("NHWC", "HWIO", "NHWC")
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
X, K, K2, B = draw(2, 9, 9, 16), draw(3, 3, 16, 16) / 8, draw(3, 3, 16, 16) / 8, draw(16)
NORM = {name: jnp.asarray(RNG.uniform(0.5, 1.5, 16), jnp.float32) for name in ("scale", "bias", "mean", "var")}
PARAMS = {"k": K, "k2": K2, "b": B, "norm": NORM, "pixels": draw(1, 9, 1, 1), "w": draw(16, 16)}
has_engine = pytest.mark.skipif(engine.unavailable_reason() is not None, reason=f"{engine.unavailable_reason()}")


def conv(x, k, padding="SAME", strides=(1, 1), **options):
    return lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=NHWC, **options)


def norm(y, p):
    return (y - p["mean"][None, None, None]) * lax.rsqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]


def calls(f, *args):
    """Return the epilogues of the engine's calls in the program of `f`, in order."""
    steps = convlab.explain(f, *args, platform="cpu")
    reasons = [step.reason.partition(" as a matrix product")[0] for step in steps]
    return [reason.removeprefix("one call with ") for reason in reasons if reason.startswith("one call")]


def same(a, b, rtol=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(1, float(abs(np.asarray(y)).max())))


# --- what is folded and fused ---------------------------------------------------------------------------------------

# name: (function of parameters and x, operations folded, the engine's epilogues)
CASES = {
    "norm and relu": (lambda p, x: jax.nn.relu(norm(conv(x, p["k"]), p["norm"])), 4, ["bias + relu"]),
    "bias and norm": (lambda p, x: norm(conv(x, p["k"]) + p["b"], p["norm"]), 5, ["bias"]),
    "constant minus": (lambda p, x: 2 - conv(x, p["k"]) / p["norm"]["var"], 2, ["bias"]),
    "residual": (lambda p, x: jax.nn.relu(norm(conv(x, p["k"]), p["norm"]) + x), 4, ["bias + add + relu"]),
    "two branches": (
        lambda p, x: jax.nn.relu(norm(conv(x, p["k"]), p["norm"]) + norm(conv(x, p["k2"]), p["norm"])),
        8,
        ["bias", "bias + add + relu"],
    ),
    "a scale of pixels": (lambda p, x: conv(x, p["k"]) * p["pixels"], 0, []),
    "an argument's scale": (lambda p, x: conv(x, p["k"]) * x, 0, []),
    "read twice": (lambda p, x: (lambda y: norm(y, p["norm"]) + jnp.sin(y))(conv(x, p["k"])), 0, []),
    "read by the caller": (lambda p, x: (lambda y: (y, jax.nn.relu(norm(y, p["norm"]))))(conv(x, p["k"])), 0, []),
    "norm before": (lambda p, x: conv(norm(x, p["norm"]), p["k"]), 0, []),
    "activation between": (lambda p, x: jax.nn.relu(conv(x, p["k"])) * p["norm"]["scale"], 0, ["relu"]),
    "statistics of the batch": (
        lambda p, x: (lambda y: (y - y.mean((0, 1, 2))) * p["norm"]["scale"])(conv(x, p["k"])),
        0,
        [],
    ),
    "no activation of the engine's": (lambda p, x: jax.nn.leaky_relu(conv(x, p["k"]) + p["b"]), 1, ["bias"]),
    "twice its square": (lambda p, x: (lambda y: y * y)(conv(x, p["k"]) * 2), 1, []),
    "product": (
        lambda p, x: jax.nn.gelu((x @ p["w"] + p["b"]) * p["norm"]["scale"]) @ p["w"].T,
        2,
        ["bias + gelu_tanh"],
    ),
    "bias of an axis of space": (lambda p, x: conv(x, p["k"]) + p["pixels"], 0, []),
    "standardised kernel": (
        lambda p, x: conv(x, (p["k"] - p["k"].mean((0, 1, 2))) / p["k"].std((0, 1, 2))) + p["b"],
        1,
        ["bias"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operations_are_folded_and_fused(name):
    f, folded, fused = CASES[name]
    frozen = convlab.freeze(f, PARAMS, X)
    assert frozen.report.folded == folded, frozen.report
    assert frozen.report.difference < 1e-4
    same(frozen(X), jax.jit(f)(PARAMS, X))
    if engine.unavailable_reason() is None:
        assert calls(frozen, X) == fused


def test_the_numbers_are_those_of_numpy():
    x, k = np.float64(X[:1]), np.float64(K)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(padded[:, i : i + 9, j : j + 9] @ k[i, j] for i in range(3) for j in range(3))
    n = {name: np.float64(v) for name, v in NORM.items()}
    y = np.maximum((y - n["mean"]) / np.sqrt(n["var"] + 1e-5) * n["scale"] + n["bias"] + x, 0)
    frozen = convlab.freeze(CASES["residual"][0], PARAMS, X[:1])
    np.testing.assert_allclose(frozen(X[:1]), y, rtol=1e-5, atol=1e-5)


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu where": lambda y: jnp.where(y > 0, y, 0),
    "relu6": jax.nn.relu6,
    "relu6 clip": lambda y: jnp.clip(y, 0, 6),
    "swish": jax.nn.silu,
    "swish written": lambda y: y / (1 + jnp.exp(-y)),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu, then at most 1e6": lambda y: jnp.clip(y, 0, 1e6),
    "elu": jax.nn.elu,
    "gelu_tanh": jax.nn.gelu,
    "gelu_erf": lambda y: jax.nn.gelu(y, approximate=False),
}
OTHERS = {
    "leaky relu": jax.nn.leaky_relu,
    "hard swish": jax.nn.hard_swish,
    "at most 7": lambda y: jnp.minimum(jnp.where(y > 1e-4, y, 0), 7),
    "from -7": lambda y: jnp.maximum(y, -7),
    "softplus": jax.nn.softplus,
    "softmax": jax.nn.softmax,
}


def test_activations_whatever_their_spelling():
    every = ACTIVATIONS | OTHERS
    f = lambda k, b, x: {name: g(conv(3 * x, k) + b) for name, g in every.items()}
    optimized = convlab.optimize(f)
    same(jax.jit(optimized)(K, B, X), jax.jit(f)(K, B, X))
    if engine.unavailable_reason() is None:
        expected = [f"bias + {name.split()[0].strip(',')}" for name in ACTIVATIONS] + ["bias"] * len(OTHERS)
        assert sorted(calls(optimized, K, B, X)) == sorted(expected)


LAYOUTS = {
    "1d": (("NWC", "WIO", "NWC"), (2, 20, 16), (3, 16, 8), {}),
    "1d depthwise": (("NWC", "WIO", "NWC"), (2, 20, 16), (3, 1, 16), dict(feature_group_count=16)),
    "3d": (("NDHWC", "DHWIO", "NDHWC"), (1, 5, 6, 7, 8), (3, 3, 3, 8, 16), {}),
    "channels first": (("NCHW", "OIHW", "NCHW"), (2, 16, 9, 9), (24, 16, 3, 3), {}),
    "depthwise": (NHWC, (2, 9, 9, 16), (3, 3, 1, 16), dict(feature_group_count=16)),
    "depthwise dilated": (NHWC, (2, 9, 9, 16), (3, 3, 1, 16), dict(feature_group_count=16, rhs_dilation=(2, 2))),
    "grouped": (NHWC, (2, 9, 9, 16), (3, 3, 4, 32), dict(feature_group_count=4)),
    "strided": (NHWC, (2, 9, 9, 16), (3, 3, 16, 16), dict(window_strides=(2, 2))),
    "dilated": (NHWC, (2, 9, 9, 16), (3, 3, 16, 16), dict(rhs_dilation=(2, 3))),
    "transposed": (NHWC, (2, 9, 9, 16), (3, 3, 16, 16), dict(lhs_dilation=(2, 2))),
    "a row": (NHWC, (2, 9, 1, 16), (3, 1, 16, 16), {}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_and_shapes(name):
    numbers, image, window, options = LAYOUTS[name]
    x, k = draw(*image), draw(*window) / 8
    options = dict(window_strides=(1,) * (x.ndim - 2), padding="SAME") | options
    if "lhs_dilation" in options:
        options["padding"] = [(1, 1)] * (x.ndim - 2)
    features = k.shape[numbers[1].index("O")]
    along = [features if axis == "C" else 1 for axis in numbers[2]]

    def f(p, x):
        y = lax.conv_general_dilated(x, p["k"], dimension_numbers=numbers, **options)
        return jax.nn.relu(y * p["scale"].reshape(along) + p["b"].reshape(along) + p["residual"])

    out = jax.eval_shape(lambda x, k: lax.conv_general_dilated(x, k, dimension_numbers=numbers, **options), x, k)
    params = {"k": k, "scale": draw(features), "b": draw(features), "residual": draw(*out.shape)}
    frozen = convlab.freeze(f, params, x)
    assert frozen.report.folded == 2 and frozen.report.fused == {("bias", "add", "relu"): 1}
    same(frozen(x), jax.jit(f)(params, x))
    same(jax.jit(convlab.optimize(f))(params, x), jax.jit(f)(params, x))


# --- freeze ---------------------------------------------------------------------------------------------------------


def network(p, x, train=False, scale=1):
    x = x.astype(jnp.float32)
    y = convlab.max_pool(jax.nn.relu(norm(conv(x, p["k"]), p["norm"])), 2, 2)
    y = jax.nn.silu(norm(conv(y, p["k2"]), p["norm"]) + y) * scale
    return {"features": y, "mean": y.mean((1, 2)), "trains": train}


compiled = jax.jit(network, static_argnames=("train", "scale"))


def test_other_shapes_jit_and_vmap():
    frozen = convlab.freeze(network, PARAMS, X)
    for x in (X[:1], draw(3, 6, 12, 16).astype(jnp.bfloat16)):
        same(frozen(x), compiled(PARAMS, x))
        assert not frozen(x)["trains"]
    mean = compiled(PARAMS, X)["mean"]
    same(jax.jit(lambda x: frozen(x)["mean"] + 1)(X), mean + 1)
    same(jax.jit(jax.vmap(lambda x: frozen(x)["mean"]))(X[None]), mean[None])
    same(frozen(X, True, scale=2)["mean"], mean * 2)
    assert frozen(X, train=True)["trains"]


def test_later_changes_of_the_parameters_have_no_effect():
    params = {"written": np.array(K), "donated": K + 0}
    frozen = convlab.freeze(lambda p, x: conv(x, p["written"]) + conv(x, p["donated"]), params, X)
    expected = frozen(X)
    params["written"] *= 2
    jax.jit(lambda k: 2 * k, donate_argnums=0)(params["donated"])
    same(frozen(X), expected)
    same(frozen(X[:1]), expected[:1])


def test_the_first_call_for_a_shape_may_be_traced():
    frozen = jax.jit(lambda x: convlab.freeze(lambda k, x: conv(x, k), K, jax.ShapeDtypeStruct(X.shape, X.dtype))(x))
    same(frozen(X), conv(X, K))
    eager = convlab.freeze(lambda k, x: conv(x, k), K, X)
    same(jax.lax.map(eager, X[:, None])[:, 0], conv(X, K))
    same(eager(X[:1]), conv(X[:1], K))


def test_rounding_to_bfloat16_is_not_taken_for_a_difference():
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), {"k": K, "norm": NORM})
    frozen = convlab.freeze(lambda p, x: norm(conv(x, p["k"]), p["norm"]), half, X.astype(jnp.bfloat16))
    assert frozen.report.tolerance == 4 * 2**-7 > frozen.report.difference and not frozen.report.notes


def test_it_can_be_debugged():
    f = CASES["residual"][0]
    frozen = convlab.freeze(f, PARAMS, X)
    with jax.disable_jit():
        same(frozen(X), f(PARAMS, X))


def test_its_derivative_is_that_of_the_function():
    x = X.at[0].set(0.0)  # where ReLU is not differentiable
    f = lambda p, x: (jax.nn.relu(conv(x, p["k"])) ** 2 + jax.nn.relu(conv(x, p["k"]))).sum()
    frozen = convlab.freeze(f, PARAMS, x)
    same(jax.jit(jax.grad(frozen))(x), jax.jit(jax.grad(f, 1))(PARAMS, x))


def test_an_example_may_be_a_shape():
    frozen = convlab.freeze(network, PARAMS, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert frozen.report.difference is None
    same(frozen(X), compiled(PARAMS, X))


def test_it_can_be_exported():
    frozen = convlab.freeze(network, PARAMS, X)
    exported = jax.export.export(jax.jit(lambda x: frozen(x)["features"]))(X)
    assert "onednn" not in exported.mlir_module()
    loaded = jax.export.deserialize(exported.serialize())
    same(loaded.call(X), compiled(PARAMS, X)["features"])


def test_without_the_engine_and_elsewhere_the_program_is_laxs():
    former = engine.switch(False)
    try:
        frozen = convlab.freeze(network, PARAMS, X)
        assert calls(frozen, X) == []
        assert "onednn" not in jax.jit(frozen._function).lower(X).as_text()
        same(frozen(X), compiled(PARAMS, X))
    finally:
        engine.switch(former)
    program = jax.jit(lambda x: frozen(x)["mean"]).trace(X).lower(lowering_platforms=("tpu",)).as_text()
    assert "onednn" not in program and program.count("stablehlo.convolution") == 2


def test_functions_of_parameters_are_computed_once():
    f = lambda p, x: x @ jnp.linalg.qr(p["w"])[0] + jax.random.normal(jax.random.key(0), (16,)) * p["b"]
    params = {"w": draw(16, 16), "b": B}
    frozen = convlab.freeze(f, params, X)
    names = {eqn.primitive.name for eqn in jax.make_jaxpr(frozen)(X).jaxpr.eqns[0].params["jaxpr"].eqns}
    assert "random_bits" in names and not any("qr" in name or "house" in name for name in names)
    same(frozen(X), f(params, X))


def test_dropout_stays():
    def f(p, x, key):
        y = conv(x, p["k"]) + p["b"]
        return jnp.where(jax.random.bernoulli(key, 0.5, y.shape), y * 2, 0)

    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    frozen, plain = convlab.freeze(f, PARAMS, shape, jax.random.key(1)), jax.jit(f)
    for key in (jax.random.key(1), jax.random.key(2)):
        same(frozen(X, key), plain(PARAMS, X, key))


def test_effects_stay(capfd):
    def f(p, x):
        jax.debug.print("ran {}", p["b"][0] * 0)
        return conv(x, p["k"])

    frozen = convlab.freeze(f, PARAMS, X)
    jax.block_until_ready(frozen(X))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("ran") == 3  # twice for the example


def test_kernels_that_would_overflow_are_not_folded():
    f = lambda p, x: conv(x, p["k"] * 1e5) * 1e35
    frozen = convlab.freeze(f, PARAMS, X * 1e-10)
    assert frozen.report.folded == 0
    same(frozen(X * 1e-10) / 1e30, f(PARAMS, X * 1e-10) / 1e30)


def test_dtypes_are_kept():
    f = lambda p, x: jax.nn.relu(norm(conv(x, p["k"].astype(x.dtype)), p["norm"]))
    for dtype in (jnp.bfloat16, jnp.float32):
        frozen = convlab.freeze(f, PARAMS, X.astype(dtype))
        assert frozen(X.astype(dtype)).dtype == f(PARAMS, X.astype(dtype)).dtype
        same(frozen(X.astype(dtype)), f(PARAMS, X.astype(dtype)), 2e-2)


def test_bad_arguments_raise():
    with pytest.raises(TypeError, match="`fn` must be a function or a module"):
        convlab.freeze(3, X)
    with pytest.raises(TypeError, match="`params` must be given"):
        convlab.freeze(lambda p, x: x)
    with pytest.raises(TypeError, match="`fn` must be a function"):
        convlab.optimize(3)


# --- modules --------------------------------------------------------------------------------------------------------


def test_a_module_of_nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(16, 16, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(16, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(nnx.relu(self.norm(self.conv(x)) + x))

    model = Block(nnx.Rngs(0))
    model.norm.mean[...], model.norm.var[...] = NORM["mean"], NORM["var"]
    model.eval()
    frozen = convlab.freeze(model, X)
    assert frozen.report.fused == {("bias", "add", "relu"): 1} and frozen.report.folded == 4
    same(frozen(X), model(X))
    before = model(X)
    model.norm.scale[...], model.conv.kernel[...] = 2 * NORM["scale"], K2
    same(frozen(X[:1]), before[:1])
    model.train()
    trained = convlab.freeze(model.norm, X)
    assert trained.report.folded == 0
    same(trained(X), model.norm(X))
    assert not np.array_equal(model.norm.mean[...], NORM["mean"])


def test_a_linen_module():
    linen = pytest.importorskip("flax.linen")

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, train=False):
            y = linen.Conv(16, (3, 3), use_bias=False)(x)
            return linen.silu(linen.BatchNorm(use_running_average=not train)(y))

    model = Block()
    variables = model.init(jax.random.key(0), X)
    frozen = convlab.freeze(model.apply, variables, X)
    assert frozen.report.fused in ({("swish",): 1}, {("bias", "swish"): 1}) and frozen.report.folded >= 3
    same(frozen(X), model.apply(variables, X))


def test_a_module_of_equinox():
    eqx = pytest.importorskip("equinox")

    class Block(eqx.Module):
        conv: eqx.nn.Conv2d

        def __call__(self, x):
            return jax.nn.relu(jax.vmap(self.conv)(x))

    model = Block(eqx.nn.Conv2d(16, 8, 3, key=jax.random.key(0)))
    x = draw(2, 16, 9, 9)
    frozen = convlab.freeze(model, x)
    same(frozen(x), model(x))


# --- optimize -------------------------------------------------------------------------------------------------------


def block(x, k, b, residual, activation="relu"):
    return getattr(jax.nn, activation)(convlab.conv(x, k, b) + residual)


def test_the_operations_are_laxs_inside():
    jaxpr = jax.make_jaxpr(lambda *a: convlab.optimize(block)(*a, activation="silu"))(X, K, B, X)
    (call,) = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "jit"]
    assert call.params["name"] == "convlab_conv_bias_add_swish"
    inside = [eqn.primitive.name for eqn in call.params["jaxpr"].eqns]
    assert inside == ["conv_general_dilated", "add", "add", "logistic", "mul"]


@has_engine
def test_one_call_of_the_engine():
    text = jax.jit(convlab.optimize(block)).lower(X, K, B, X).as_text()
    assert text.count("__onednn$convolution") == 1
    assert "stablehlo.add" not in text and "stablehlo.maximum" not in text


def test_derivatives_are_those_of_the_function():
    x = X.at[0].set(0.0)
    for f in (block, lambda *a: block(*a, activation="gelu")):
        loss = lambda f: lambda *a: (f(*a) * jnp.cos(X)).sum()
        expected = jax.jit(jax.value_and_grad(loss(f), (0, 1, 2, 3)))(x, K, B * 0, X * 0)
        same(jax.jit(jax.value_and_grad(loss(convlab.optimize(f)), (0, 1, 2, 3)))(x, K, B * 0, X * 0), expected)
        forward = lambda f: jax.jit(lambda x, v: jax.jvp(lambda x: f(x, K, B, X), (x,), (v,)))(x, X)
        same(forward(convlab.optimize(f)), forward(f))
    twice = lambda f: jax.jit(jax.grad(lambda x: jax.grad(lambda x: f(x, K, B, X, "silu").sum())(x).sum()))(X)
    same(twice(convlab.optimize(block)), twice(block))


def test_vmap_and_loops():
    many = lambda f: jax.jit(jax.vmap(f, (0, None, None, 0)))(X[None], K, B, X[None])
    same(many(convlab.optimize(block)), many(block))

    def loop(x, k):
        step = lambda x, _: (jax.nn.relu(convlab.conv(x, k, B)) / 4, x.sum())
        x, sums = lax.scan(jax.checkpoint(step), x, None, length=3)
        x = lax.cond(x.sum() > 0, lambda x: jax.nn.silu(convlab.conv(x, k)), lambda x: x, x)
        return lax.while_loop(lambda x: x.max() > 1, lambda x: jnp.tanh(convlab.conv(x, k)) / 4, x), sums

    same(jax.jit(convlab.optimize(loop))(X, K), jax.jit(loop)(X, K))
    if engine.unavailable_reason() is None:
        assert sorted(calls(convlab.optimize(loop), X, K)) == ["bias + relu", "swish", "tanh"]


def test_a_jitted_function_stays_compiled():
    traced = []

    @jax.jit
    def f(x, k):
        traced.append(None)
        return jax.nn.relu(convlab.conv(x, k))

    optimized = convlab.optimize(f)
    for _ in range(3):
        same(optimized(X, K), np.maximum(convlab.conv(X, K), 0))
    assert len(traced) == 1
    same(optimized(X[:1], K), np.maximum(convlab.conv(X[:1], K), 0))


def test_closed_over_values_may_change():
    kernel = [K]
    optimized = convlab.optimize(lambda x: jax.nn.relu(convlab.conv(x, kernel[0])))
    same(optimized(X), np.maximum(convlab.conv(X, K), 0))
    kernel[0] = K2
    same(optimized(X), np.maximum(convlab.conv(X, K2), 0))


def test_nothing_to_fuse_is_nothing_changed():
    f = lambda x: {"y": x.sum(), "z": None, "n": 3}
    assert convlab.optimize(f)(X)["n"] == 3
    same(convlab.optimize(f)(X)["y"], X.sum())


@has_engine
@pytest.mark.parametrize("positions, products", [(9, 2), (32, 0)])
def test_pointwise_layers_of_few_positions_are_matrix_products(positions, products):
    k, k2, x = draw(1, 1, 16, 24) / 4, draw(1, 1, 24, 16) / 4, draw(2, positions, positions, 16)

    def f(p, x):
        k, k2, b = p
        y = jax.nn.relu(conv(x, k) + b)
        return conv(y, k2) + x

    p = k, k2, draw(24)
    for function, args, expected in ((convlab.optimize(f), (p, x), products), (convlab.freeze(f, p, x), (x,), 2)):
        text = jax.jit(function).lower(*args).as_text()
        assert text.count("__onednn$matmul") == (expected if HAS_AVX512 else 0)
        assert text.count("__onednn$matmul") + text.count("__onednn$convolution") == 2
        same(jax.jit(function)(*args), f(p, x))


HAS_AVX512 = "avx512bw" in engine.instructions()
# name: (image, kernel, options of the convolution, whether the kernel is packed where the processor has AVX-512)
KERNELS = {
    "pointwise": ((2, 9, 9, 24), (1, 1, 24, 40), {}, True),
    "pointwise, strided": ((2, 9, 9, 16), (1, 1, 16, 130), dict(strides=(2, 2), padding="VALID"), True),
    "pointwise, strided, cropped": (
        (1, 8, 9, 16),
        (1, 1, 16, 8),
        dict(strides=(2, 1), padding=[(0, -3), (0, 0)]),
        True,
    ),
    "a window of a small image": ((1, 4, 4, 71), (3, 3, 71, 130), {}, True),
    "a window, dilated": ((1, 5, 4, 90), (2, 3, 90, 130), dict(rhs_dilation=(2, 2)), True),
    "a small window of a small image": ((1, 4, 4, 16), (3, 3, 16, 80), {}, False),
    "a window of a larger image": ((2, 9, 9, 16), (3, 3, 16, 80), {}, False),
    "groups": ((2, 9, 9, 16), (1, 1, 8, 16), dict(feature_group_count=2), False),
    "a window of the whole image": (
        (2, 6, 6, 16),
        (6, 6, 16, 200),
        dict(padding="VALID"),
        False,
    ),  # refused in its trial
}


@has_engine
@pytest.mark.parametrize("name", KERNELS)
def test_constant_kernels_are_packed(name):
    image, window, options, packed = KERNELS[name]
    x, k = draw(*image), draw(*window) / np.sqrt(np.prod(window[:-1]))
    b = draw(window[-1])
    residual = draw(*jax.eval_shape(lambda x: conv(x, k, **options), x).shape)
    f = lambda p, x: jax.nn.relu(conv(x, p, **options) + b + residual * x.mean())
    g = lambda p, x: jax.nn.silu(conv(x, p, **options) + b)
    for function in (f, g):
        frozen = convlab.freeze(function, k, x)
        text = jax.jit(frozen).lower(x).as_text()
        assert text.count("weights_prepacked") == (packed and HAS_AVX512)
        assert "stablehlo.convolution" not in text and not (packed and "stablehlo.transpose" in text)
        same(frozen(x), function(k, x))
    gradient = jax.jit(jax.grad(lambda x: (frozen(x) ** 2).sum()))(x)
    same(gradient, jax.grad(lambda x: (g(k, x) ** 2).sum())(x), 1e-4)
    same(jax.jit(jax.vmap(frozen))(x[None]), g(k, x)[None])
    exported = jax.export.export(jax.jit(frozen))(x)
    assert "onednn" not in exported.mlir_module()
    same(exported.call(x), g(k, x))


# image, kernel, calls of the engine's product
UNBLOCKED = {
    "pointwise": ((1, 7, 7, 24), (1, 1, 24, 40), 1),
    "more positions": ((2, 7, 7, 24), (1, 1, 24, 40), 0),
    "a window": ((1, 4, 4, 71), (3, 3, 71, 130), 1),
}


@has_engine
@pytest.mark.parametrize("name", UNBLOCKED)
def test_without_avx512_kernels_of_very_few_positions_are_matrices(name, monkeypatch):
    image, window, products = UNBLOCKED[name]
    monkeypatch.setattr(engine, "instructions", lambda: frozenset(["avx2"]))
    x, k, b = draw(*image), draw(*window) / np.sqrt(np.prod(window[:-1])), draw(window[-1])
    f = lambda p, x: jax.nn.relu(conv(x, p) + b)
    frozen = convlab.freeze(f, k, x)
    text = jax.jit(frozen).lower(x).as_text()
    assert text.count("__onednn$matmul") == products and "weights_prepacked" not in text
    same(frozen(x), f(k, x))


LIMITS = {None: True, "AVX2": False, "avx2": False, "AVX512_CORE": True, "ALL": True}


@pytest.mark.parametrize("limit", LIMITS)
def test_the_instructions_are_those_that_onednn_may_use(limit, monkeypatch):
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    else:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(builtins, "open", lambda path: io.StringIO("flags : fma avx2 avx512f avx512bw avx512_bf16\n"))
    found = engine.instructions.__wrapped__()
    assert {"fma", "avx2"} <= found
    assert ("avx512bw" in found) == LIMITS[limit]
    assert ("avx512_bf16" in found) == (limit in (None, "ALL"))


@has_engine
def test_products_are_packed_in_either_order():
    x, w = draw(2, 5, 7, 16), draw(16, 70) / 4
    f = lambda p, x: jax.nn.gelu(x @ p + 1)
    transposed = lambda p, x: jax.nn.gelu(jnp.einsum("bijc,oc->bijo", x, p) + 1)
    for function, p in ((f, w), (transposed, w.T)):
        frozen = convlab.freeze(function, p, x)
        assert jax.jit(frozen).lower(x).as_text().count("weights_prepacked") == HAS_AVX512
        same(frozen(x), f(w, x))


@has_engine
def test_a_layout_that_the_engine_does_not_read_is_not_used(monkeypatch):
    k, x = draw(1, 1, 16, 24) / 4, draw(2, 9, 9, 16)
    frozen = convlab.freeze(lambda p, x: jax.nn.relu(conv(x, p)), k, x)
    monkeypatch.setattr(packing, "is_known", lambda p, ops: False)
    text = jax.jit(lambda x: frozen(x) + 1).lower(x).as_text()
    assert "weights_prepacked" not in text
    same(jax.jit(lambda x: frozen(x) + 1)(x), jax.nn.relu(conv(x, k)) + 1)
    frozen = convlab.freeze(lambda p, x: jax.nn.relu(conv(x, p)), k, x)
    assert "weights_prepacked" not in jax.jit(frozen).lower(x).as_text()
    same(frozen(x), jax.nn.relu(conv(x, k)))


def product(positions, channels, features):
    x, k = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, positions, 6, channels), (1, 1, channels, features)))
    equation = jax.make_jaxpr(conv)(x, k).jaxpr.eqns[0]
    return dispatch.read(x, k, equation.params, "auto", Target("cpu", True))[1]


@has_engine
def test_a_wrong_layout_fails_its_trial(monkeypatch):
    p = product(6, 20, 70)
    for ops in (("BIAS",), ("BIAS", "BINARY_ADD", "SWISH")):
        assert packing.is_known(p, ops) or not HAS_AVX512
    pack, trial = packing._pack_matrix, (packing.product_of(p), ("BIAS",))
    monkeypatch.setattr(packing, "_pack_matrix", lambda matrix: pack(matrix)[:, ::-1])
    assert packing._results([trial]) == [False]


@has_engine
def test_a_product_that_the_engine_refuses_does_not_stop_the_others_trials(monkeypatch):
    p, refused, tried = product(7, 20, 70), product(8, 20, 70), []

    def _try_group(group):
        tried.append(len(group))
        assert (packing.product_of(refused), ()) not in group
        return [True] * len(group)

    monkeypatch.setattr(packing, "has_blocks", lambda: True)
    monkeypatch.setattr(packing, "_known", {})
    monkeypatch.setattr(packing, "_try_group", _try_group)
    packing.try_products([(p, ()), (refused, ()), (p, ())])
    assert [packing.is_known(q, ()) for q in (p, refused)] == [True, False]
    assert tried == [2, 1, 1]


def test_a_call_after_an_example_of_shapes_freezes_nothing_again(monkeypatch):
    frozen = convlab.freeze(network, PARAMS, jax.ShapeDtypeStruct(X.shape, X.dtype))
    monkeypatch.setattr(Arguments, "trace", None)
    same(frozen(X), compiled(PARAMS, X))
    same(frozen(np.asarray(X)), compiled(PARAMS, X))


def test_large_constants_are_arguments_of_the_compiled_program():
    kernel, b = draw(3, 3, 16, 40), draw(40)
    frozen = convlab.freeze(lambda p, x: jax.nn.relu(conv(x, p[0]) + p[1]), (kernel, b), X)
    (call,) = jax.make_jaxpr(frozen)(X).jaxpr.eqns
    assert [v.aval.size for v in call.invars] == [kernel.size, X.size]
    assert jax.make_jaxpr(frozen)(X).consts[0].size == kernel.size


def test_parameters_may_be_deleted_and_overwritten():
    kernel, b, w = draw(3, 3, 16, 24) / 8, draw(24), np.array(draw(24, 40))
    f = lambda p, x: jax.nn.relu(conv(x, p[0]) + p[1]) @ p[2]
    expected = jax.jit(f)((kernel, b, w), X)
    frozen = convlab.freeze(f, (kernel, b, w), X)
    kernel.delete(), b.delete()
    w[...] = 0
    same(frozen(X), expected)
    same(jax.jit(lambda x: frozen(x) + 1)(X), expected + 1)


def test_chains_of_concatenations_are_written_into_one_array():
    k = draw(3, 3, 16, 8) / 48

    def f(p, x):
        y, sums = x, []
        for step in range(4):
            sums.append(y.sum())
            y = jnp.concatenate([y, jnp.cos(conv(y[..., -16:] * (step + 1), p)), x[..., :3]], -1)
        short = jnp.concatenate([jnp.concatenate([x, y], -1), x], -1)
        return y, short, jnp.concatenate([y, y], 1), sums

    frozen = convlab.freeze(f, k, X)
    same(frozen(X), jax.jit(f)(k, X))
    gradient = lambda f: jax.jit(jax.grad(lambda x: sum((y**2).sum() for y in jax.tree.leaves(f(x)))))(X)
    same(gradient(frozen), gradient(lambda x: f(k, x)), 1e-4)
    names = [eqn.primitive.name for eqn in jax.make_jaxpr(frozen)(X).jaxpr.eqns[0].params["jaxpr"].eqns]
    assert names.count("dynamic_update_slice") == 8 and names.count("concatenate") == 3


def test_concatenations_whose_results_are_read_later_stay():
    def f(p, x):
        results = [x]
        for _ in range(4):
            results.append(jnp.concatenate([results[-1], x * p], -1))
        return results

    frozen = convlab.freeze(f, draw(16), X)
    names = [eqn.primitive.name for eqn in jax.make_jaxpr(frozen)(X).jaxpr.eqns[0].params["jaxpr"].eqns]
    assert names.count("concatenate") == 4
