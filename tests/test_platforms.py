"""One program for several platforms contains the formulations of each, and every formulation obeys `precision`."""

import collections
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convlab

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
PLATFORMS = ("cpu", "cuda", "tpu")


def step(x, kernel, depthwise):
    """Compute a convolution, a strided depthwise one and an overlapping maximum, with the gradients of all operands."""

    def loss(x, kernel, depthwise):
        y = convlab.conv(x, kernel)
        y = convlab.conv(y, depthwise, strides=2, feature_group_count=y.shape[-1])
        return (convlab.max_pool(y, 3, 2, "SAME") ** 2).sum()

    return jax.value_and_grad(loss, (0, 1, 2))(x, kernel, depthwise)


@pytest.fixture(scope="module")
def operands():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((2, 16, 16, 8), (3, 3, 8, 16), (3, 3, 1, 16))]


def test_one_artefact_serves_every_platform(operands):
    artefact = jax.export.export(jax.jit(step), platforms=PLATFORMS)(*operands).serialize()
    read = jax.export.deserialize(artefact)
    assert read.platforms == PLATFORMS
    for got, expected in zip(jax.tree.leaves(read.call(*operands)), jax.tree.leaves(jax.jit(step)(*operands))):
        assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("method", ["subpixel", "output_blocking", "swapped_operands"])
def test_a_method_keeps_the_engine_off_other_platforms(method, platform):
    x, kernel = jnp.ones((16, 14, 14, 8)), jnp.ones((3, 3, 8, 4))
    f = jax.jit(lambda x, k: convlab.conv_transpose(x, k, strides=2 if method == "subpixel" else 1, method=method))
    assert "onednn" not in f.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()


def text(operands, *platforms):
    return jax.export.export(jax.jit(step), platforms=platforms)(*operands).mlir_module()


def test_each_platform_has_its_own_formulations(operands):
    alone, together = {p: text(operands, p) for p in PLATFORMS}, text(operands, *PLATFORMS)
    instruction = "stablehlo.select_and_scatter"
    assert [instruction in alone[p] for p in PLATFORMS] == [False, True, True]
    assert instruction in together and "stablehlo.case" in together and "_platform_index" in together
    convolutions = {p: len(re.findall("stablehlo.convolution", alone[p])) for p in PLATFORMS}
    assert convolutions["tpu"] == convolutions["cuda"] == 6  # two layers and their two gradients each
    assert convolutions["cpu"] != convolutions["tpu"]


@pytest.mark.program
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_suite_of_layers_lowers_for_cuda(dtype):
    layers_jax, suite = pytest.importorskip("layers_jax"), pytest.importorskip("suite")
    for case in suite.cases():
        if case["op"] in ("grid_sample", "roi_align", "roi_pool") or suite.is_of_integers(case):
            continue  # positions that are data, and integers, which have no gradients
        f, parameters = layers_jax.layer("convlab", case)
        shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), (parameters, layers_jax.images(case)))
        function, shapes, _ = layers_jax.programs(f, shapes)["gradients"]
        exported = jax.export.export(jax.jit(function), platforms=("cuda",))(*shapes)
        assert "stablehlo.scatter" not in exported.mlir_module(), case["name"]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_equal_adaptive_windows_are_an_ordinary_pool(platform):
    """They have the same instructions, forward and in the gradients; averages and long windows only on a TPU."""
    x = jax.ShapeDtypeStruct((2, 56, 28, 8), jnp.float32)
    pairs = {
        "maximum": (lambda x: convlab.adaptive_max_pool(x, 7), lambda x: convlab.max_pool(x, (8, 4), (8, 4))),
        "indices": (
            lambda x: convlab.adaptive_max_pool(x, 7, return_indices=True),
            lambda x: convlab.max_pool(x, (8, 4), (8, 4), return_indices=True),
        ),
        "pyramid": (
            lambda x: convlab.spatial_pyramid_pool(x, (7,)),
            lambda x: convlab.max_pool(x, (8, 4), (8, 4)).reshape(2, -1),
        ),
    }
    if platform == "tpu":
        pairs["average"] = lambda x: convlab.adaptive_avg_pool(x, 7), lambda x: convlab.avg_pool(x, (8, 4), (8, 4))
        pairs["long"] = lambda x: convlab.adaptive_max_pool(x, 2), lambda x: convlab.max_pool(x, (28, 14), (28, 14))
    for name, functions in pairs.items():
        instructions = []
        for f in functions:
            step = jax.value_and_grad(lambda x: jax.tree.leaves(f(x))[0].sum())
            text = jax.jit(lambda x: (f(x), step(x))).trace(x).lower(lowering_platforms=(platform,)).as_text()
            found = collections.Counter(re.findall(r"stablehlo\.(\w+)", text))
            for choosing in (
                "case",
                "constant",
                "broadcast_in_dim",
                "return",
            ):  # by the platform, which the compiler knows
                found.pop(choosing, None)
            instructions.append(found)
        assert instructions[0] == instructions[1], name


def products(function, platform, *args):
    lowered = jax.export.export(jax.jit(function), platforms=(platform,))(*args).mlir_module()
    return [line for line in lowered.splitlines() if re.search(r"stablehlo\.(convolution|dot_general)", line)]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_precision_reaches_every_product(operands, precision, platform):
    """On an accelerator no product of the program, in any derivative, has the default precision."""
    gradient = jax.grad(lambda x, k: (convlab.conv(x, k, precision=precision, strides=2) ** 2).sum(), (0, 1))
    found = products(gradient, platform, *operands[:2])
    assert len(found) == 3 and not any("DEFAULT" in line or precision.upper() not in line for line in found)


@pytest.mark.parametrize("method", ["lax", "gemm", "toeplitz", "winograd", "fft"])
def test_precision_reaches_every_product_of_a_formulation(operands, method):
    gradient = jax.grad(lambda x, k: (convlab.conv(x, k, precision="high", method=method) ** 2).sum(), (0, 1))
    found = products(gradient, "tpu", *operands[:2])
    assert found and not any("DEFAULT" in line or "HIGH" not in line for line in found)


@pytest.mark.parametrize("mantissa, bound", [(10, 2.0**-11), (7, 2.0**-8)], ids=["TF32", "bfloat16"])
def test_operands_are_rounded_as_the_page_says(mantissa, bound):
    """docs/tpu.md gives a bound of the relative error of an operand on accelerators, which is nearly reached."""
    x = 1 + jnp.arange(2**16, dtype=jnp.float32) / 2**16
    error = float((jnp.abs(jax.lax.reduce_precision(x, 8, mantissa) - x) / x).max())
    assert 0.99 * bound < error <= bound
    assert f"2<sup>{int(np.log2(bound))}</sup>" in (pathlib.Path(__file__).parents[1] / "docs" / "tpu.md").read_text()


@pytest.mark.parametrize("method", ["auto", "block_diagonal"])
def test_small_groups_are_right_in_one_artefact(method):
    rng = np.random.default_rng(0)
    x, k = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((2, 8, 9, 8), (3, 3, 2, 8)))

    def gradient(x, k, method=method):
        return jax.grad(lambda *a: (convlab.conv(*a, feature_group_count=4, method=method) ** 2).sum(), (0, 1))(x, k)

    exported = jax.export.export(jax.jit(gradient), platforms=PLATFORMS)(x, k)
    for got, expected in zip(exported.call(x, k), gradient(x, k, "lax")):
        assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)
    alone = jax.export.export(jax.jit(gradient), platforms=("tpu",))(x, k).mlir_module()
    assert "feature_group_count = 4" not in alone and "batch_group_count = 4" not in alone


# --- operations that are slow or missing in XLA on CUDA according to reports; the program's text is checked -----------


def gradients(function, *args):
    """Return the text of the function and its gradients, lowered for CUDA."""
    both = lambda *a: jax.vjp(function, *a)[1](function(*a))
    return jax.jit(both).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("rank, dtype", [(3, "float32"), (2, "bfloat16"), (1, "float32"), (1, "bfloat16")])
def test_gradients_of_a_transposed_convolution_have_no_dilated_input_for_cuda(rank, dtype):
    """See jax issues 31662 and 23783. In 2-D and 3-D the forward map itself is cuDNN's backward-data convolution."""
    x, k = jnp.ones((2, *(8, 6, 4)[:rank], 8), dtype), jnp.ones((*(3,) * rank, 8, 4), dtype)
    transposed = lambda method: lambda x, k: convlab.conv_transpose(x, k, strides=2, method=method)
    dilated = re.compile(r"lhs_dilate = \[[\d, ]*2")
    assert len(dilated.findall(gradients(transposed("lax"), x, k))) == 2  # forward, kernel gradient
    assert len(dilated.findall(gradients(transposed("auto"), x, k))) == (0 if rank == 1 else 1)
    assert not dilated.findall(gradients(transposed("subpixel"), x, k))
    assert not dilated.findall(gradients(transposed("explicit_zeros"), x, k))


@pytest.mark.parametrize("groups", [1, 4])
def test_sequences_in_bfloat16_are_images_for_cuda(groups):
    """See jax issue 37922."""
    x, k = jnp.ones((2, 16, 4), jnp.bfloat16), jnp.ones((3, 4 // groups, 16), jnp.bfloat16)
    f = lambda method: lambda x, k: convlab.conv(x, k, strides=2, method=method, feature_group_count=groups)
    ranks = lambda text: {len(re.findall(r"\d+", m)) for m in re.findall(r"stride = \[([\d, ]*)\]", text)}
    assert ranks(gradients(f("auto"), x, k)) == {2}
    assert ranks(gradients(f("lax"), x, k)) == {1}
    wide = [a.astype("float32") for a in (x, k)]
    assert ranks(gradients(f("auto"), *wide)) == {1}


@pytest.mark.parametrize("method", ["channels_last", "groups", "gemm", "block_diagonal"])
def test_grouped_gradients_without_batch_groups_for_cuda(method):
    """See jax issue 13800."""
    x, k = jnp.ones((2, 9, 9, 8)), jnp.ones((3, 3, 2, 16))
    f = lambda method: lambda x, k: convlab.conv(x, k, feature_group_count=4, method=method)
    batch_groups = re.compile(r"batch_group_count = (?!1 )\d+")
    assert batch_groups.search(gradients(f("lax"), x, k))
    assert not batch_groups.search(gradients(f(method), x, k))


def close(function, reference, *args):
    """Check that the gradients of both agree on the CPU."""
    for got, expected in zip(*(jax.tree.leaves(jax.vjp(f, *args)[1](f(*args))) for f in (function, reference))):
        assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dilated_depthwise_sequences_are_no_convolutions_for_cuda(dtype):
    """jax issue 26266, and 13800 where nothing is dilated: the kernel gradient has no `batch_group_count`."""
    rng = np.random.default_rng(0)
    x, k = (jnp.asarray(rng.standard_normal(s), dtype) for s in ((16, 1024, 4), (5, 1, 4)))
    f = lambda method, dilation=8: (
        lambda x, k: convlab.conv(x, k, feature_group_count=4, kernel_dilation=dilation, method=method)
    )
    assert gradients(f("lax"), x, k).count("stablehlo.convolution") == 3  # forward and both gradients
    assert "stablehlo.convolution" not in gradients(f("auto"), x, k)
    text = gradients(f("auto", 1), x, k)
    assert text.count("stablehlo.convolution") == 2 and "batch_group_count = 4" not in text
    if dtype == "float32":
        close(f("taps"), f("lax"), x, k)


def test_large_windows_side_by_side_are_products_for_cuda():
    """jax issues 30469 and 23085: by the image and by the kernel, and the transposed convolution that inverts it."""
    rng = np.random.default_rng(0)
    x, k, y = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((1, 32, 48, 3), (16, 16, 3, 8), (1, 2, 3, 8)))
    dilated = re.compile(r"lhs_dilate = \[[\d, ]*16")
    f = lambda method: lambda x, k: convlab.conv(x, k, strides=16, padding="VALID", method=method)
    text = gradients(f("auto"), x, k)
    assert "stride = [16, 16]" not in text and not dilated.search(text)
    up = lambda method: (
        lambda y, k: convlab.conv_transpose(y, k, strides=16, padding="VALID", transpose_kernel=True, method=method)
    )
    assert dilated.search(gradients(up("lax"), y, k))
    assert not dilated.search(gradients(up("auto"), y, k))
    close(f("gemm"), f("lax"), x, k)
    close(up("subpixel"), up("lax"), y, k)


def test_large_mapped_kernels_by_fft_for_cuda():
    """jax issue 25461: one filter of 30 x 30 for every image, by `vmap`; the transform has to be asked for."""
    rng = np.random.default_rng(0)
    x, k = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((3, 40, 44), (30, 30)))
    one = lambda method: lambda x, k: convlab.conv(x[..., None], k[..., None, None], method=method)[..., 0]
    mapped = lambda method: lambda x, k: jax.vmap(lambda x: one(method)(x[None], k)[0])(x)
    assert "stablehlo.convolution" in gradients(mapped("auto"), x, k)
    text = gradients(mapped("fft"), x, k)
    assert "stablehlo.convolution" not in text and "stablehlo.fft" in text
    for got, expected in zip(*(jax.tree.leaves(jax.vjp(mapped(m), x, k)[1](x)) for m in ("fft", "lax"))):
        assert np.linalg.norm(got - expected) <= 1e-4 * np.linalg.norm(expected)
