"""Programs that are exported once, with symbolic sizes, and called with others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import convlab

KERNEL = jnp.linspace(-1, 1, 3 * 3 * 4 * 4).reshape(3, 3, 4, 4)
SPATIAL = {
    "max_pool": lambda x: convlab.max_pool(x, (3, 3), (2, 2), "SAME"),
    "max_pool's gradient": jax.grad(lambda x: convlab.max_pool(x, (2, 2), (2, 2)).sum()),
    "min_pool": lambda x: convlab.min_pool(x, (2, 2), (2, 2), 1),
    "sum_pool": lambda x: convlab.sum_pool(x, (2, 2), (2, 2)),
    "avg_pool": lambda x: convlab.avg_pool(x, (3, 3), (2, 2), "SAME"),
    "avg_pool, inside the image": lambda x: convlab.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False),
    "avg_pool's gradient": jax.grad(lambda x: (convlab.avg_pool(x, (2, 2), (2, 2)) ** 2).sum()),
    "conv": lambda x: convlab.conv(x, KERNEL, strides=2, padding="SAME"),
    "conv, padded": lambda x: convlab.conv(x, KERNEL, padding=1),
    "conv_transpose": lambda x: convlab.conv_transpose(x, KERNEL, strides=2),
}
BATCH = {
    "conv_local": jax.value_and_grad(
        lambda x: (convlab.conv_local(x, jnp.ones((7, 7, 16, 4)), kernel_size=2) ** 2).sum()
    ),
    "max_unpool": lambda x: convlab.max_unpool(
        *convlab.max_pool(x, (2, 2), (2, 2), return_indices=True), output_shape=(8, 8)
    ),
    "conv's gradient": jax.grad(lambda x: (convlab.conv(x, KERNEL, strides=2) ** 2).sum()),
}


@pytest.mark.parametrize("name", [*SPATIAL, *BATCH])
def test_a_program_with_symbolic_sizes_serves_every_size(name):
    function = (SPATIAL | BATCH)[name]
    symbolic = "b, h, w" if name in SPATIAL else "b, 8, 8"
    sizes = export.symbolic_shape(f"{symbolic}, 4", constraints=["h >= 8", "w >= 8"] if name in SPATIAL else [])
    exported = export.export(jax.jit(function))(jax.ShapeDtypeStruct(sizes, jnp.float32))
    for shape in ((2, 9, 12, 4), (3, 14, 8, 4)) if name in SPATIAL else ((2, 8, 8, 4), (5, 8, 8, 4)):
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        for got, want in zip(jax.tree.leaves(exported.call(x)), jax.tree.leaves(function(x))):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
