"""Tests of the backend: every formulation against the oracle, the choice, `accelerate` and `explain`."""

import dataclasses
import functools
import itertools
import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import lax

import convlab
from convlab._backend import accelerate, compat, dispatch, engine, tables
from convlab._backend.formulations import taps
from convlab._backend.problem import Problem

NHWC = ("NHWC", "HWIO", "NHWC")
LOOSE = {"fft": 2e-5}
OF_FLOATS = [name for name in tables.FORMULATIONS if name != "floats"]


def problem(rng, **fixed) -> Problem:
    """Draw a convolution of small arrays: odd and even windows, size 1, strides beyond the window, crops, groups."""
    rank = fixed.pop("rank", int(rng.integers(1, 4)))
    each = lambda low, high: tuple(int(v) for v in rng.integers(low, high, rank))
    groups = int(rng.choice([1, 1, 2, 3]))
    shape = dict(
        batch=int(rng.integers(1, 4)),
        spatial=each(4, 9),
        channels=groups * int(rng.integers(1, 4)),
        window=each(1, 4),
        features=groups * int(rng.integers(1, 4)),
        strides=each(1, 4),
        pads=tuple((int(a), int(b)) for a, b in rng.integers(-1, 4, (rank, 2))),
        input_dilation=(1,) * rank,
        kernel_dilation=each(1, 3),
        groups=groups,
        dtype=jnp.dtype(np.float32),
        out_dtype=jnp.dtype(np.float32),
    )
    return Problem(**{**shape, **fixed})


def typical(name) -> dict:
    """Return the facts of the problems that a formulation is for."""
    depthwise = dict(channels=6, groups=6, features=12)
    plain = dict(strides=(1, 1), kernel_dilation=(1, 1), rank=2)
    return {
        "subpixel": dict(input_dilation=(2, 3), rank=2),
        "winograd": dict(
            window=(3, 3), spatial=(13, 9), channels=5, groups=1, features=7, pads=((1, 1), (0, 2)), **plain
        ),
        "toeplitz": dict(
            window=(5, 3), spatial=(12, 11), channels=2, groups=1, features=4, pads=((2, 2), (1, 0)), **plain
        ),
        "taps": depthwise,
        "batch_vectorized": dict(batch=32, channels=2, groups=1, features=3, window=(3, 2), rank=2),
        "swapped_operands": dict(batch=16, groups=1, channels=5, features=3, pads=((2, 2), (1, 3)), **plain),
        "output_blocking": dict(channels=5, groups=1, features=3, window=(3, 2), pads=((1, 1), (0, 2)), **plain),
        "block_diagonal": dict(channels=6, groups=3, features=12),
        "planes": dict(rank=3),
        "extra_axis": dict(rank=1),
        "explicit_zeros": dict(input_dilation=(2, 3), rank=2),
        "groups": dict(channels=6, groups=3, features=12),
        "floats": dict(dtype=jnp.dtype("int8"), out_dtype=jnp.dtype("int32")),
        "fft": dict(window=(9, 7), spatial=(20, 17), pads=((4, 4), (3, 3)), **depthwise, **plain),
    }.get(name, {})


def problems(name):
    for seed in range(6):
        yield problem(np.random.default_rng(seed))
        if typical(name):
            yield problem(np.random.default_rng(seed), **typical(name))


def operands(p: Problem, seed=0):
    rng = np.random.default_rng(seed)
    kernel = (*p.window, p.channels // p.groups, p.features)
    shapes = (p.batch, *p.spatial, p.channels), kernel, (p.batch, *p.out, p.features)
    return [rng.normal(size=s).astype(p.dtype) for s in shapes]


def oracle(p: Problem, x, kernel):
    options = dict(
        padding=p.pads, input_dilation=p.input_dilation, kernel_dilation=p.kernel_dilation, feature_group_count=p.groups
    )
    return reference.conv(x, kernel, strides=p.strides, **options)


def oracle_gradient(p: Problem, x, dy):
    """Compute the kernel gradient tap by tap: the product of the values that a tap reads with dy."""
    image = reference.pad(reference.dilate(reference.wide(x), p.input_dilation), p.pads)
    patches = reference.windows(image, p.window, p.strides, p.kernel_dilation, p.out)  # (n, *out, *window, c)
    patches = patches.reshape(-1, *p.window, p.groups, p.channels // p.groups)
    cotangents = reference.wide(dy).reshape(len(patches), p.groups, p.features // p.groups)
    return np.einsum("m...gc,mgo->...cgo", patches, cotangents).reshape(*p.window, p.channels // p.groups, p.features)


def assert_near(name, actual, expected, dtype=np.float32):
    assert actual.shape == expected.shape
    rounding = float(jnp.finfo(dtype).eps)
    bound = LOOSE.get(name, 2e-6) if dtype == np.float32 else rounding * (200 if name in LOOSE else 4)
    assert np.linalg.norm(reference.wide(actual) - expected) <= bound * np.linalg.norm(expected) + 1e-30


def forced(name, kind, p):
    choice = tables.choose(kind, p, name, tables.Target())
    assert name == "auto" or choice.formulation.name == name
    return lambda a, b: dispatch.compute(kind, a, b, p, choice, tables.Target())


@pytest.mark.parametrize("name, kind", list(itertools.product(tables.FORMULATIONS, ("forward", "kernel_gradient"))))
def test_formulations_sum_as_the_oracle_does(name, kind):
    supports = lambda p: not tables.FORMULATIONS[name].unsupported_reason(kind, p) and 0 not in p.out
    served = list(filter(supports, problems(name)))
    arrays = [operands(p) for p in served]
    together = lambda pairs: [forced(name, kind, p)(*pair) for p, pair in zip(served, pairs)]
    results = jax.jit(together)([(x, kernel if kind == "forward" else dy) for x, kernel, dy in arrays])
    for p, (x, kernel, dy), actual in zip(served, arrays, results, strict=True):
        assert actual.dtype == p.out_dtype
        assert_near(name, actual, oracle(p, x, kernel) if kind == "forward" else oracle_gradient(p, x, dy))
    why = engine.unavailable_reason() if tables.FORMULATIONS[name].needs_engine else None
    has = getattr(tables.FORMULATIONS[name], kind)
    assert len(served) >= 2 or not has or why or name in ("toeplitz", "fft") and kind == "kernel_gradient"


@pytest.mark.parametrize("seed", range(8))
def test_depthwise_sums_with_dilated_input(seed, monkeypatch):
    """`taps` sums for each tap, and dilates inputs, for large images; here it does so for small ones."""
    monkeypatch.setattr(taps, "_MANY", 0)
    channels = dict.fromkeys(("channels", "features", "groups"), 3)
    rng = np.random.default_rng(seed)
    p = problem(rng, **channels, batch=int(rng.choice([1, 4, 11])), rank=2)
    x, _, dy = operands(p)
    if 0 not in p.out:
        actual = jax.jit(forced("taps", "kernel_gradient", p))(x, dy)
        assert_near("taps", actual, oracle_gradient(p, x, dy))
    p = problem(rng, **channels, rank=2, input_dilation=(2, 3), strides=(1, 1))
    x, kernel, _ = operands(p)
    assert tables.choose("forward", p, "auto", tables.Target()).formulation.name == "taps"
    forward = jax.jit(forced("taps", "forward", p))
    assert_near("taps", forward(x, kernel), oracle(p, x, kernel))
    if 0 not in x.shape:
        x = np.array(x)
        x[0, 0, 0, 0] = np.inf
        actual = np.asarray(forward(x, kernel))
        assert not np.isfinite(oracle(p, x, kernel)[~np.isfinite(actual)]).any()


def supported_kinds(name, p):
    """Return the kinds of problem that a formulation computes for these sizes; skip the test if there are none."""
    reasons = {kind: tables.FORMULATIONS[name].unsupported_reason(kind, p) for kind in ("forward", "kernel_gradient")}
    kinds = [kind for kind, reason in reasons.items() if not reason]
    if not kinds:
        pytest.skip(str(reasons["forward"]))
    return kinds


def results(name, p, x, kernel, dy):
    """Compute each kind of problem that a formulation supports, in one program."""
    kinds, seconds = supported_kinds(name, p), {"forward": kernel, "kernel_gradient": dy}
    return jax.jit(lambda x, seconds: {kind: forced(name, kind, p)(x, seconds[kind]) for kind in kinds})(x, seconds)


@pytest.mark.parametrize("name", tables.FORMULATIONS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_formulations_in_other_dtypes(name, dtype, x64):
    dtypes = dict(dtype=jnp.dtype(dtype), out_dtype=jnp.dtype(dtype))
    p = problem(np.random.default_rng(3), **{**dict(rank=2), **typical(name), **dtypes})
    x, kernel, dy = operands(p)
    for kind, actual in results(name, p, x, kernel, dy).items():
        assert actual.dtype == p.out_dtype
        assert_near(name, actual, oracle(p, x, kernel) if kind == "forward" else oracle_gradient(p, x, dy), p.dtype)


@pytest.mark.parametrize("name", tables.FORMULATIONS)
def test_an_empty_batch_computes(name):
    p = problem(np.random.default_rng(0), **{**typical(name), "batch": 0})
    x, kernel, dy = operands(p)
    for kind, y in results(name, p, x, kernel, dy).items():
        assert y.shape == (dy if kind == "forward" else kernel).shape
        assert not np.asarray(y).any()


@pytest.mark.parametrize("name", [name for name in OF_FLOATS if tables.FORMULATIONS[name].sums_directly])
def test_direct_formulations_keep_an_inf_in_its_windows(name):
    reason = tables.FORMULATIONS[name].unsupported_reason
    cases = [p for p in problems(name) if not reason("forward", p) and 0 not in p.out]
    if not cases:
        pytest.skip(str(reason("forward", problem(np.random.default_rng(0), **typical(name)))))
    arrays = [[*map(np.array, operands(p)[:2])] for p in cases]
    for p, (x, _) in zip(cases, arrays):
        x[(0, *(n // 2 for n in p.spatial), 0)] = np.inf
    results = jax.jit(lambda pairs: [forced(name, "forward", p)(*pair) for p, pair in zip(cases, pairs)])(arrays)
    for p, (x, kernel), actual in zip(cases, arrays, results, strict=True):
        with np.errstate(invalid="ignore"):
            touched = ~np.isfinite(oracle(p, x, kernel))
        np.testing.assert_array_equal(~np.isfinite(actual), touched)


@pytest.mark.parametrize("groups", [1, 2])
def test_large_strides_make_no_large_program(groups):
    """The gradient of a patch embedding has a phase for each of 16 x 16 positions, with windows that tile or
    overlap."""
    rng = np.random.default_rng(0)
    for window in (16, 19):
        x = np.ones((1, 64, 48, 4), np.float32)
        k = rng.normal(size=(window, window, 4 // groups, 6)).astype(np.float32)
        f = lambda x, method: convlab.conv(x, k, strides=16, feature_group_count=groups, method=method)
        back = lambda dy: [jax.linear_transpose(lambda x: f(x, m), x)(dy)[0] for m in ("auto", "lax")]
        dy = rng.normal(size=jax.eval_shape(lambda x: f(x, "auto"), x).shape).astype(np.float32)
        if window == 16:  # else the phases of several geometries are interleaved one by one
            assert len(jax.jit(lambda dy: back(dy)[0]).lower(dy).as_text().splitlines()) < 100
        actual, expected = jax.jit(back)(dy)
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("window, pads", [((7, 7), ((3, 3), (3, 2))), ((3, 4), ((0, 1), (1, 2)))])
def test_kernel_gradients_of_first_layers_are_accurate(window, pads):
    """A strided first layer of a large image sums over all positions of its result."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 200, 182, 3)).astype(np.float32), rng.normal(size=(2, 100, 91, 5)).astype(np.float32)
    conv = lambda kernel: convlab.conv(x, kernel, strides=2, padding=pads)
    actual = jax.jit(lambda dy: jax.linear_transpose(conv, jnp.ones((*window, 3, 5)))(dy)[0])(dy)
    wide = np.pad(x.astype(np.float64), ((0, 0), *pads, (0, 0)))
    expected = np.empty((*window, 3, 5))
    for i, j in np.ndindex(window):
        inputs = wide[:, i : i + 199 : 2, j : j + 181 : 2]
        expected[i, j] = np.tensordot(inputs, dy.astype(np.float64), ((0, 1, 2), (0, 1, 2)))
    assert np.linalg.norm(actual - expected) <= 2e-6 * np.linalg.norm(expected)


def test_one_long_dilated_sequence_has_a_gradient():
    """The engine crashes for an image of one channel and a kernel that is a column of some 400 positions."""
    p = problem(
        np.random.default_rng(0), rank=1, batch=1, spatial=(700,), window=(3,), kernel_dilation=(2,), strides=(1,),
            groups=1,
        channels=16, features=16,
    )  # fmt: skip
    x, _, dy = operands(p)
    assert_near("onednn", jax.jit(forced("auto", "kernel_gradient", p))(x, dy), oracle_gradient(p, x, dy))


@pytest.mark.parametrize("pads", [((1, 1), (0, 2)), ((4, 3), (5, 0)), ((-1, 2), (1, -1))], ids=str)
def test_the_engine_exchanges_few_features_with_the_channels(pads):
    size = dict(rank=2, batch=3, spatial=(9, 11), channels=20, features=3, groups=1, window=(3, 2))
    p = problem(np.random.default_rng(0), **size, strides=(1, 1), kernel_dilation=(1, 1), pads=pads)
    if why := tables.FORMULATIONS["onednn"].unsupported_reason("kernel_gradient", p):
        pytest.skip(why)
    x, _, dy = operands(p)
    gradient = jax.jit(forced("onednn", "kernel_gradient", p))
    assert_near("onednn", gradient(x, dy), oracle_gradient(p, x, dy))
    (call,) = (line for line in gradient.lower(x, dy).as_text().splitlines() if "__onednn$" in line)
    assert "tensor<3x9x11x20xf32>" in call  # the images are its kernel


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("strides", [1, 2])
def test_loops_over_the_features_of_groups(rank, strides):
    size = dict(rank=rank, batch=2, spatial=(7, 6)[:rank], channels=9, features=24, groups=3, window=(3, 2)[:rank])
    pads = ((1, 2), (-1, 1))[:rank]
    p = problem(np.random.default_rng(0), **size, strides=(strides,) * rank, kernel_dilation=(2, 1)[:rank], pads=pads)
    assert taps.features_fill_vectors(p)
    x, kernel, _ = operands(p)
    assert_near("taps", jax.jit(forced("taps", "forward", p))(x, kernel), oracle(p, x, kernel))


@pytest.mark.parametrize("kind", ["forward", "kernel_gradient"])
def test_a_long_column_sums_right(kind):
    """The engine's sums over 362 rows of one column are wrong if the channels are not a multiple of the vector
    width."""
    size = dict(window=(400, 1), channels=17) if kind == "forward" else dict(window=(3, 1), channels=1)
    rest = dict(
        spatial=(402, 1), batch=17, groups=1, features=3, strides=(1, 1), kernel_dilation=(1, 1), pads=((0, 0),) * 2
    )
    p = problem(np.random.default_rng(0), rank=2, **size, **rest)
    x, kernel, dy = operands(p)
    actual = jax.jit(forced("auto", kind, p))(x, kernel if kind == "forward" else dy)
    assert_near("onednn", actual, oracle(p, x, kernel) if kind == "forward" else oracle_gradient(p, x, dy))


def test_the_engine_gets_no_pads_as_wide_as_the_window():
    """For such pads it may have only a program of products in parallel loops, which has hung."""
    three = dict(rank=3, batch=1, spatial=(2, 3, 9), channels=9, window=(2, 4, 3), features=3, groups=3)
    p = problem(
        np.random.default_rng(0), **three, strides=(4, 1, 1), kernel_dilation=(1,) * 3, pads=((0, 1), (0, 1), (0, 0))
    )
    wide = problem(
        np.random.default_rng(0), rank=1, batch=2, channels=4, features=4, groups=1, window=(3,), pads=((4, 5),)
    )
    for problem_, kind in ((p, "kernel_gradient"), (wide, "forward")):
        if why := tables.FORMULATIONS["onednn"].unsupported_reason(kind, problem_):
            pytest.skip(why)
        x, kernel, dy = operands(problem_)
        text = jax.jit(forced("onednn", kind, problem_)).lower(x, kernel if kind == "forward" else dy).as_text()
        (config,) = (
            json.loads(found.replace(r"\22", '"')) for found in re.findall(r'backend_config = "(.*?)", operand', text)
        )
        window = config["onednn_conv_config"]["window"]
        assert not any(window["pad_left"] + window["pad_right"])


BFLOAT16 = {  # problem, and the maps that the engine computes in bfloat16; it computes the others in float32
    "block_diagonal": (dict(channels=20, features=24, groups=1), "forward kernel_gradient"),
    "one tap": (dict(channels=20, features=24, groups=1, window=(1, 1), pads=((0, 0),) * 2), "forward kernel_gradient"),
    "depthwise": (dict(channels=32, features=32, groups=32), "forward"),
    "a wide window": (dict(channels=6, features=6, groups=6, window=(3, 9), pads=((1, 1), (4, 4))), ""),
    "with a multiplier": (dict(channels=20, features=40, groups=20), ""),
    "groups of four": (dict(channels=16, features=32, groups=4), "forward"),
    "on a sequence": (dict(channels=16, features=32, groups=4, rank=1), ""),
    "groups of five": (dict(channels=20, features=12, groups=4), "forward kernel_gradient"),
    "a volume": (dict(channels=5, features=6, groups=1, rank=3), "forward kernel_gradient"),
}


@pytest.mark.parametrize("name", BFLOAT16)
def test_the_engine_multiplies_bfloat16_where_that_is_safe(name, monkeypatch):
    fixed, narrow = BFLOAT16[name]
    narrow_dtypes = dict(dtype=jnp.dtype("bfloat16"), out_dtype=jnp.dtype("bfloat16"))
    rank = fixed.get("rank", 2)
    plain = dict(rank=2, batch=4, spatial=(9,) * rank, window=(3,) * rank, pads=((1, 1),) * rank, **narrow_dtypes)
    p = problem(np.random.default_rng(1), **{**plain, "strides": (1,) * rank, "kernel_dilation": (1,) * rank, **fixed})
    x, kernel, dy = operands(p)
    for kind in ("forward", "kernel_gradient"):
        if why := tables.FORMULATIONS["onednn"].unsupported_reason(kind, p):
            pytest.skip(why)
        second = kernel if kind == "forward" else dy
        actual = jax.jit(forced("onednn", kind, p))(x, second)
        assert actual.dtype == p.out_dtype
        expected = oracle(p, x, kernel) if kind == "forward" else oracle_gradient(p, x, dy)
        np.testing.assert_allclose(reference.wide(actual), expected, rtol=2**-8, atol=1e-5 * np.abs(expected).max())
        for native in (True, False):
            monkeypatch.setattr(engine, "_multiplies_bfloat16", lambda: native)
            text = jax.jit(lambda a, b: forced("onednn", kind, p)(a, b)).lower(x, second).as_text()
            calls = [line for line in text.splitlines() if "__onednn$" in line]
            assert calls and all(("xbf16>, tensor" in call) == (native and kind in narrow.split()) for call in calls)
            monkeypatch.undo()


def test_highest_precision_is_direct():
    highest = (lax.Precision.HIGHEST,) * 2
    for name, kind in itertools.product(tables.FORMULATIONS, ("forward", "kernel_gradient")):
        for p in problems(name):
            highly = dataclasses.replace(p, precision=highest)
            assert tables.choose(kind, highly, "auto", tables.Target()).formulation.sums_directly


# --- the choice ---------------------------------------------------------------------------------------------------


def test_an_unsupported_method_raises_the_reason():
    x, k = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    with pytest.raises(
        ValueError, match="^`method` must name a formulation that supports this call, got 'subpixel'. Subpixel"
    ):
        convlab.conv(x, k, method="subpixel")
    with pytest.raises(ValueError, match=r"^`method` must be one of 'auto', 'lax', .*, got 'fast'\.$"):
        convlab.conv(x, k, method="fast")
    with pytest.raises(ValueError, match="`method` must name a formulation that supports this call, got 'winograd'"):
        convlab.conv(x, k, method="winograd", precision="highest")


@pytest.mark.parametrize("spatial", [(2, 2), (2, 11), (11, 2)])
def test_winograd_computes_results_smaller_than_the_window_and_long_ones(spatial):
    x, k = jnp.ones((1, *spatial, 8)), jnp.ones((3, 3, 8, 8))
    steps = convlab.explain(lambda: convlab.conv(x, k, method="winograd"), platform="cpu")
    assert [step.formulation for step in steps] == ["winograd"]
    methods = jax.jit(lambda x, k: [convlab.conv(x, k, method=method) for method in ("winograd", "lax")])
    np.testing.assert_allclose(*methods(x, k), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_winograd_keeps_what_is_not_finite_in_its_windows(bad):
    rng = np.random.default_rng(0)
    x, k, dy = (rng.normal(size=s).astype(np.float32) for s in ((1, 9, 8, 5), (3, 3, 5, 4), (1, 9, 8, 4)))
    x[0, 0, 5, 2] = bad  # the kernel's last row does not read it

    def results(method):
        y, pullback = jax.vjp(lambda x, k: convlab.conv(x, k, method=method), x, k)
        return y, *pullback(dy)

    for actual, expected in zip(jax.jit(lambda: results("winograd"))(), jax.jit(lambda: results("lax"))(), strict=True):
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(actual), finite)
        np.testing.assert_allclose(np.asarray(actual)[finite], np.asarray(expected)[finite], atol=1e-5)


PLAIN = dict(batch=8, spatial=(64, 64), window=(3, 3), pads=((1, 1),) * 2, strides=(1, 1), kernel_dilation=(1, 1))
PATCHES = dict(window=(4, 4), strides=(4, 4), pads=((0, 0),) * 2, features=96, groups=1)
CHOICES = {  # the map, facts beside `PLAIN`, and the formulations with and without the engine
    "few of several": ("forward", dict(channels=8, features=2, groups=1), "output_blocking", "taps"),
    "few": ("forward", dict(channels=16, features=3, groups=1), "output_blocking", "output_blocking"),
    "few of many": ("forward", dict(channels=64, features=3, groups=1), "output_blocking", "lax"),
    "groups of eight": ("forward", dict(channels=256, features=256, groups=32), "onednn", "taps"),
    "groups of sixteen": ("forward", dict(channels=512, features=512, groups=32), "onednn", "gemm"),
    "patches": ("kernel_gradient", PATCHES | dict(channels=3), "gemm", "gemm"),
    "patches of features": ("kernel_gradient", PATCHES | dict(channels=16), "onednn", "gemm"),
    "one image": ("kernel_gradient", dict(batch=1, channels=1, features=1, groups=1), "taps", "taps"),
    "images": ("kernel_gradient", dict(channels=1, features=1, groups=1), "lax", "lax"),
    "to one": ("kernel_gradient", dict(channels=3, features=1, groups=1), "lax", "lax"),
    "depthwise": ("kernel_gradient", dict(channels=96, features=96, groups=96), "taps", "taps"),
    "small depthwise": (
        "kernel_gradient",
        dict(spatial=(14, 14), channels=96, features=96, groups=96),
        "onednn",
        "taps",
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_measured_choices(name):
    kind, facts, with_engine, without = CHOICES[name]
    p = problem(np.random.default_rng(0), rank=2, **PLAIN | facts)
    assert tables.choose(kind, p, "auto", tables.Target(engine=False)).formulation.name == without
    if engine.unavailable_reason() is None:
        assert tables.choose(kind, p, "auto", tables.Target()).formulation.name == with_engine


def test_without_the_engine_winograd_is_chosen_for_many_channels_only():
    off = tables.Target(engine=False)
    many = problem(np.random.default_rng(0), **typical("winograd") | dict(batch=8, channels=64, features=64))
    for kind in ("forward", "kernel_gradient"):
        assert tables.choose(kind, many, "auto", off).formulation.name == "winograd"
        assert dispatch.parts(kind, many, tables.choose(kind, many, "auto", off), off) == ["lax"]
        for change in (
            dict(channels=8),
            dict(dtype=jnp.dtype("float64")),
            dict(precision=(jax.lax.Precision.HIGHEST,) * 2),
        ):
            other = tables.choose(kind, dataclasses.replace(many, **change), "auto", off)
            assert other.formulation.name != "winograd"
        assert (
            tables.choose(kind, many, "auto", tables.Target(engine=False, partitioned=True)).formulation.name == "lax"
        )


@functools.cache  # lax's are those of several methods
def derivatives(method, rank, batch, depthwise, transposed):
    """Gradients, their derivative along the arguments, those of each half of the batch, and those of a derivative."""
    x = np.random.default_rng(0).normal(size=(2 * batch, 9, 8, 4)).astype(np.float32)
    k = np.broadcast_to(np.arange(36, dtype=np.float32).reshape(3, 3, 1, 4) / 36, (3, 3, 1 if depthwise else 4, 4))
    if rank == 1:
        x, k = x.reshape(x.shape[0], 72, 4), k.reshape(9, 4, 4)
    if rank == 3:
        x, k = x.reshape(x.shape[0], 3, 3, 8, 4), np.stack([k, 2 * k])

    def f(x, k):
        if transposed:
            return (convlab.conv_transpose(x, k, strides=2, method=method) ** 2).sum()
        return (convlab.conv(x, k, method=method, feature_group_count=4 if depthwise else 1) ** 2).sum()

    @jax.jit
    def program(x, k):
        return (
            jax.grad(f, (0, 1))(x, k),
            jax.jvp(jax.grad(f, (0, 1)), (x, k), (x, k))[1],
            jax.vmap(jax.grad(f, 1), (0, None))(x.reshape(2, batch, *x.shape[1:]), k),
            jax.grad(lambda x, k: jax.jvp(f, (x, k), (x, k))[1], (0, 1))(x, k),
        )

    return jax.device_get(program(x, k))


@pytest.mark.parametrize("method", OF_FLOATS)
def test_a_method_has_every_derivative(method):
    if tables.FORMULATIONS[method].needs_engine and (why := engine.unavailable_reason()):
        pytest.skip(why)
    problem = (
        {"extra_axis": 1, "planes": 3}.get(method, 2),
        16 if method in ("batch_vectorized", "swapped_operands") else 1,
        method in ("fft", "block_diagonal", "groups"),
        method in ("subpixel", "explicit_zeros"),
    )
    got, expected = derivatives(method, *problem), derivatives("lax", *problem)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)


@pytest.mark.parametrize("stride, convolutions, planes, features", [(1, 1, 6, 18), (2, 2, 3, 12), (3, 3, 2, 6)])
def test_planes_are_neither_copied_nor_padded(stride, convolutions, planes, features):
    """Taps that read the same planes are features of one convolution, and no plane of zeros is computed."""
    each = dict(spatial=(6, 5, 5), window=(3, 3, 3), pads=((1, 1),) * 3, kernel_dilation=(1,) * 3)
    sizes = dict(batch=2, channels=4, features=6, groups=1, strides=(stride, 1, 1))
    p = problem(np.random.default_rng(0), rank=3, **each, **sizes)
    problems_ = [part for _, part in tables.FORMULATIONS["planes"].parts("forward", p)]
    assert max(q.features for q in problems_) == features and len(problems_) == convolutions
    assert max(q.batch for q in problems_) == 2 * planes


def test_the_engine_can_be_switched_off():
    former = engine.switch(False)
    try:
        assert engine.unavailable_reason() == "the engine is switched off"
        x, k = jnp.ones((2, 14, 14, 16)), jnp.ones((3, 3, 16, 16))
        (step,) = convlab.explain(convlab.conv, x, k, platform="cpu")
        assert step.formulation != "onednn"
        np.testing.assert_allclose(convlab.conv(x, k, padding="VALID"), 144.0)
    finally:
        engine.switch(former)


def test_symbolic_sizes_and_other_platforms_export():
    (n,) = jax.export.symbolic_shape("n")
    gradient = jax.jit(jax.grad(lambda k, x: (convlab.max_pool(convlab.conv(x, k), 2) ** 2).sum()))
    k, x = jnp.ones((3, 3, 2, 4)), jax.ShapeDtypeStruct((n, 6, 6, 2), jnp.float32)
    exported = jax.export.export(gradient, platforms=("cpu", "cuda", "tpu"))(k, x)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 6, 2)), jnp.float32)
    np.testing.assert_allclose(exported.call(k, image), gradient(k, image), rtol=1e-4)


# --- accelerate ---------------------------------------------------------------------------------------------------


def plain(x, k):
    y = lax.conv_general_dilated(x, k, (2, 1), "SAME", dimension_numbers=NHWC, feature_group_count=4)
    y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 1, 1), "SAME")
    return (lax.reduce_window(y, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 2, 1), "VALID") ** 2).sum()


X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 11, 9, 4)), "float32")
K = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 1, 8)), "float32")
DERIVATIVES = {
    "value": plain,
    "gradient": jax.grad(plain, (0, 1)),
    "second": lambda x, k: jax.jvp(jax.grad(plain, (0, 1)), (x, k), (x, k)),
    "vmap": lambda x, k: jax.vmap(jax.grad(plain, (0, 1)), (0, None))(jnp.stack([x, x + 1]), k),
    "scan": lambda x, k: lax.scan(lambda k, _: (k - 1e-3 * jax.grad(plain, 1)(x, k), plain(x, k)), k, None, 3),
}


CLOSE = {jnp.float32: dict(rtol=1e-6, atol=1e-5), jnp.bfloat16: dict(rtol=2e-2, atol=2e-2)}

WINDOWS_THAT_OVERLAP_OR_NOT = [
    # size, window, strides, pads, dilation
    ((8, 9), (2, 3), (2, 3), ((0, 0), (0, 0)), (1, 1)),
    ((9, 8), (3, 2), (2, 3), ((1, 2), (0, -1)), (1, 2)),
    ((7, 7), (7, 7), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    ((5, 1), (2, 4), (5, 2), ((6, 1), (3, 3)), (2, 1)),
    ((30, 9), (12, 1), (12, 2), ((0, 6), (-1, 0)), (1, 1)),
]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gradient_of_a_sum_reads_no_zeros_between_its_elements(dtype):
    """lax inserts zeros into the cotangent and sums; convlab does not, and the values are equal."""

    def gradients(vs):
        for v, (size, window, strides, pads, dilation) in zip(vs, WINDOWS_THAT_OVERLAP_OR_NOT):
            full = dict(zip(("window_dimensions", "window_strides"), ((1, *window, 1), (1, *strides, 1))))
            full |= dict(padding=((0, 0), *pads, (0, 0)), window_dilation=(1, *dilation, 1))
            x = jax.ShapeDtypeStruct((2, *size, 3), dtype)
            summed = lambda x: lax.reduce_window(x, np.zeros((), dtype), lax.add, **full)
            yield jax.linear_transpose(summed, x)(v)[0] if v is not None else jax.eval_shape(summed, x)

    rng, outputs = np.random.default_rng(0), gradients([None] * len(WINDOWS_THAT_OVERLAP_OR_NOT))
    vs = [rng.normal(size=output.shape).astype(dtype) for output in outputs]
    plain = jax.jit(lambda vs: list(gradients(vs))).lower(vs).compile()
    with convlab.accelerate():
        ours = jax.jit(lambda vs: list(gradients(vs))).lower(vs).compile()
    has_interior_pads = [bool(re.search(r"padding=\S*\d_\d+_[1-9]", p.as_text())) for p in (plain, ours)]
    assert has_interior_pads == [True, False]
    for y, wanted in zip(ours(vs), plain(vs)):
        np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in (y, wanted)), **CLOSE[dtype])


@pytest.mark.parametrize("name", DERIVATIVES)
def test_accelerate_changes_no_result(name):
    f = jax.jit(DERIVATIVES[name])
    before = f(X, K)
    with convlab.accelerate():
        during = f(X, K)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(during)):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * np.abs(np.asarray(b)).max())


def test_accelerate_is_undone():
    f = jax.jit(jax.grad(plain, (0, 1)))
    lowered = lambda: f.lower(X, K).as_text()
    before, formulations = lowered(), convlab.explain(f, X, K, platform="cpu")
    assert {step.formulation for step in formulations} == {"lax"}
    with convlab.accelerate():
        assert lowered() != before
        assert {step.formulation for step in convlab.explain(f, X, K, platform="cpu")}.isdisjoint({"lax"})
        with convlab.accelerate():
            pass
        assert accelerate.is_active()
        assert lowered() != before
    assert not accelerate.is_active()
    assert lowered() == before


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerate_leaves_other_platforms_alone(platform):
    text = lambda: jax.jit(jax.grad(plain, (0, 1))).trace(X, K).lower(lowering_platforms=(platform,)).as_text()
    before = text()
    with convlab.accelerate():
        assert text() == before


def test_accelerate_survives_another_jax(monkeypatch):
    monkeypatch.setattr(compat, "has_hooks", False)
    monkeypatch.setattr(compat, "_warned", False)
    with pytest.warns(UserWarning, match="no faster than lax"), convlab.accelerate():
        assert not accelerate.is_active()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convlab.accelerate().__exit__()


# --- explain ------------------------------------------------------------------------------------------------------


def test_explain_names_each_step():
    def net(k, x):
        return convlab.max_pool(convlab.conv(x, k, strides=2), 2, strides=2).sum()

    steps = convlab.explain(jax.grad(net, (0, 1)), jnp.ones((3, 3, 16, 16)), jnp.ones((2, 16, 16, 16)), platform="cpu")
    assert [s.operation for s in steps] == ["forward", "max", "max gradient", "kernel gradient", "forward"]
    assert steps[-1].formulation == "subpixel"
    assert steps[-1].parts
    assert all(s.reason and s.formulation in str(s) for s in steps)
    assert repr(steps).count("\n") >= 4
    elsewhere = convlab.explain(net, jnp.ones((3, 3, 16, 16)), jnp.ones((2, 16, 16, 16)), platform="tpu")
    assert {step.formulation for step in elsewhere} == {"lax"}


def test_explain_names_the_formulations_of_a_tpu():
    """The formulations follow the compiler's estimates, for convlab's convolutions and not for lax's."""

    def taken(x, *kernel, **options):
        convolution = lambda k, x: convlab.conv(x, k, **options).sum()
        args = jax.ShapeDtypeStruct(kernel, "float32"), jax.ShapeDtypeStruct(x, "float32")
        return [step.formulation for step in convlab.explain(jax.grad(convolution, (0, 1)), *args, platform="tpu")]

    assert taken((8, 512, 512, 1), 3, 3, 1, 1) == ["gemm"] * 3
    assert taken((256, 28, 28, 1), 5, 5, 1, 6) == ["lax"] * 3
    assert taken((8, 224, 224, 3), 4, 4, 3, 96, strides=4) == ["gemm", "gemm", "lax"]
    assert taken((64, 32, 32, 3), 4, 4, 3, 192, strides=4) == ["lax"] * 3
    assert taken((8, 224, 224, 3), 16, 16, 3, 192, strides=16)[0] == "gemm"
    assert taken((8, 56, 56, 128), 3, 3, 4, 128, feature_group_count=32) == ["block_diagonal"] * 3
    assert taken((8, 28, 28, 256), 3, 3, 8, 256, feature_group_count=32, strides=2) == ["block_diagonal"] * 3
    assert taken((8, 28, 28, 168), 3, 3, 24, 168, feature_group_count=7) == ["lax"] * 3
    assert taken((8, 28, 28, 384), 1, 1, 48, 384, feature_group_count=8) == ["lax"] * 3
    assert taken((8, 56, 56, 32), 3, 3, 1, 64, feature_group_count=32) == ["lax", "block_diagonal", "block_diagonal"]
    assert taken((8, 56, 56, 32), 3, 3, 1, 32, feature_group_count=32) == ["lax"] * 3
    grouped = (8, 56, 56, 128), 3, 3, 4, 128
    assert taken(*grouped, feature_group_count=32, precision="highest") == ["lax"] * 3
    assert convlab.explain(plain, X, K, platform="tpu")[0].formulation == "lax"


def test_explain_looks_into_loops():
    def loop(x, k):
        return lax.scan(lambda c, _: (convlab.conv(c, k), None), x, None, 2)

    assert len(convlab.explain(jax.jit(loop), X, jnp.ones((3, 3, 4, 4)))) == 1
    assert repr(convlab.explain(jnp.sin, 1.0)) == "no convolution and no pool"
