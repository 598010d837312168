"""Operations on arrays that an explicit mesh splits give the result, the sharding and the gradients of one device."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import convlab

mesh = jax.make_mesh((4,), ("S",), axis_types=(AxisType.Explicit,))
rng = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
x, k, d, local, offset = draw(8, 8, 8, 8), draw(3, 3, 8, 16), draw(3, 3, 1, 8), draw(6, 6, 72, 4), draw(8, 8, 8, 18) * 0.3
NHWC = ("NHWC", "HWIO", "NHWC")
of_lax = lambda groups: lambda x, k: lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=NHWC, feature_group_count=groups)
KERNELS = {
    "conv": (lambda x, k: convlab.conv(x, k, strides=2), k, of_lax(1)),
    "depthwise": (lambda x, k: convlab.conv(x, k, strides=2, feature_group_count=8), d, of_lax(8)),
    "conv_transpose": (lambda x, k: convlab.conv_transpose(x, k, strides=2), k, lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME")),
    "conv_local": (lambda x, k: convlab.conv_local(x, k, kernel_size=(3, 3)), local, None),
}
POOLS = {
    "max_pool": lambda x: convlab.max_pool(x, 2, 2),
    "dilated": lambda x: convlab.max_pool(x, 2, window_dilation=2),
    "indices": lambda x: convlab.max_pool(x, 2, 2, return_indices=True)[1].astype(jnp.float32),
    "avg_pool": lambda x: convlab.avg_pool(x, 3, 1, "SAME", False),
    "lp_pool": lambda x: convlab.lp_pool(x, 2),
    "gem_pool": lambda x: convlab.gem_pool(x, 2),
    "softmax_pool": lambda x: convlab.softmax_pool(x, 2),
    "top_k_pool": lambda x: convlab.top_k_pool(x, 2),
    "mixed_pool": lambda x: convlab.mixed_pool(x, 2),
    "stochastic_pool": lambda x: convlab.stochastic_pool(jnp.abs(x), 2),
    "blur_pool": convlab.blur_pool,
    "adaptive_avg_pool": lambda x: convlab.adaptive_avg_pool(x, 3),
    "adaptive_max_pool": lambda x: convlab.adaptive_max_pool(x, 3),
    "global_avg_pool": convlab.global_avg_pool,
    "spatial_pyramid_pool": convlab.spatial_pyramid_pool,
    "fractional_max_pool": lambda x: convlab.fractional_max_pool(x, 2, output_shape=3, key=jax.random.key(0)),
    "unfold": lambda x: convlab.unfold(x, 2),
    "pad": lambda x: convlab.pad(x, 1, "reflect"),
}
def split(a, spec):
    return jax.device_put(a, NamedSharding(mesh, spec))
def near(a, b, name):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max(), err_msg=name)
loss = lambda f: lambda *a: (f(*a) ** 2).sum()
expected = {n: jax.jit(lambda x, k, f=f: (f(x, k), jax.grad(loss(f), (0, 1))(x, k)))(x, kernel) for n, (f, kernel, _) in KERNELS.items()}
pooled = {n: jax.jit(lambda x, f=f: (f(x), jax.grad(loss(f))(x)))(x) for n, f in POOLS.items()}
deform = lambda x, offset, k: convlab.deform_conv(x, offset, k)
deformed = jax.jit(lambda *a: (deform(*a), jax.grad(loss(deform), (0, 1, 2))(*a)))(x, offset, k)
unpool = lambda y, at: convlab.max_unpool(y, at, (8, 8))
y, at = convlab.max_pool(x, 2, 2, return_indices=True)
unpooled = unpool(y, at)
with jax.set_mesh(mesh):
    for spec in (P("S"), P()):
        for name, (f, kernel, theirs) in KERNELS.items():
            args = split(x, spec), split(kernel, P())
            value, gradients = jax.jit(f)(*args), jax.jit(jax.grad(loss(f), (0, 1)))(*args)
            near(value, expected[name][0], name)
            for got, wanted in zip(gradients, expected[name][1]):
                near(got, wanted, name)
            if theirs:
                assert value.sharding == jax.jit(theirs)(*args).sharding, name
                for got, wanted in zip(gradients, jax.jit(jax.grad(loss(theirs), (0, 1)))(*args)):
                    assert got.sharding == wanted.sharding, name
        args = split(x, spec), split(offset, spec), split(k, P())
        near(jax.jit(deform)(*args), deformed[0], "deform_conv")
        for got, wanted in zip(jax.jit(jax.grad(loss(deform), (0, 1, 2)))(*args), deformed[1]):
            near(got, wanted, "deform_conv")
        near(jax.jit(unpool)(split(y, spec), split(at, spec)), unpooled, "max_unpool")
    channels = {"max_pool", "dilated", "indices", "avg_pool", "lp_pool", "unfold", "pad", "top_k_pool", "global_avg_pool"}
    for spec in (P("S"), P(), P(None, None, None, "S")):
        for name, f in POOLS.items():
            if spec and spec[0] is None and name not in channels:
                continue
            got = jax.jit(f)(split(x, spec))
            near(got, pooled[name][0], name)
            slope = jax.jit(jax.grad(loss(f)))(split(x, spec))
            near(slope, pooled[name][1], name)
            assert slope.sharding.spec == NamedSharding(mesh, P(*spec, *[None] * (4 - len(spec)))).spec, name
            assert got.sharding.spec[0] == (spec[0] if spec else None), name
    text = jax.jit(jax.grad(loss(lambda x, k: convlab.conv(x, k)), (0, 1))).lower(split(x, P("S")), split(k, P())).as_text()
    from convlab._backend import engine
    assert engine.unavailable_reason() or "onednn" in text  # each device's part is the engine's
# Data parallelism without types: no image is gathered (openxla issue 47945).
auto = jax.make_mesh((4,), ("S",), axis_types=(AxisType.Auto,))
for f, kernel in ((lambda x, k: convlab.conv(x, k, feature_group_count=8), d), (lambda x, k: convlab.conv(x, k, feature_group_count=2), draw(3, 3, 4, 16)), (convlab.conv, k)):
    args = jax.device_put(x, NamedSharding(auto, P("S"))), jax.device_put(kernel, NamedSharding(auto, P()))
    step = jax.jit(jax.grad(loss(f), (0, 1)))
    compiled = step.lower(*args).compile()
    assert "all-gather" not in compiled.as_text()
    for got, wanted in zip(compiled(*args), step(x, kernel)):
        near(got, wanted, "data parallel")
"""


@pytest.mark.program
def test_explicit_meshes_split_every_operation():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error:convlab works", "-c", PROGRAM], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
