"""Programs that are exported once with symbolic sizes, and called with several sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import convlab

KERNEL = jnp.linspace(-1, 1, 3 * 3 * 4 * 4).reshape(3, 3, 4, 4)


def packed(x, kernel, **options):
    """Convolve the columns of images as packed sequences, which end at random positions."""
    ids = (x[:, :, 0, 0] > 0.5).cumsum(1)
    return convlab.conv(x[:, :, 0], kernel, segment_ids=ids, **options)


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
    "conv, reflected": lambda x: convlab.conv(x, KERNEL, padding=1, padding_mode="reflect"),
    "conv, circular": lambda x: convlab.conv(x, KERNEL, padding="CIRCULAR"),
    "conv's gradient, replicated": jax.grad(
        lambda x: (convlab.conv(x, KERNEL, padding=1, padding_mode="replicate") ** 2).sum()
    ),
    "pad": lambda x: convlab.pad(x, [(2, -1), (1, 3)], ("reflect", "circular")),
    "max_pool, ceil_mode": lambda x: convlab.max_pool(x, (3, 3), (2, 2), ceil_mode=True),
    "avg_pool, ceil_mode": lambda x: convlab.avg_pool(x, (3, 3), (2, 2), 1, ceil_mode=True),
    "avg_pool, ceil_mode, inside the image": lambda x: convlab.avg_pool(
        x, (3, 3), (2, 2), "SAME", count_include_pad=False, ceil_mode=True
    ),
    "max_pool, indices": lambda x: convlab.max_pool(x, (2, 2), (2, 2), return_indices=True),
    "max_pool, indices of padding": lambda x: convlab.max_pool(x, (3, 3), (2, 2), "SAME", return_indices=True),
    "lp_pool": lambda x: convlab.lp_pool(x, 2, (2, 2), (2, 2)),
    "softmax_pool": lambda x: convlab.softmax_pool(x, (2, 2), (2, 2)),
    "top_k_pool": lambda x: convlab.top_k_pool(x, 2, (2, 2), (2, 2)),
    "blur_pool": lambda x: convlab.blur_pool(x, (3, 3), (2, 2), 1),
    "unfold": lambda x: convlab.unfold(x, (2, 2), (2, 2)),
    "pixel_shuffle": lambda x: convlab.pixel_shuffle(x, 2),
    "local_response_norm": lambda x: convlab.local_response_norm(x, 3),
    "adaptive_avg_pool": lambda x: convlab.adaptive_avg_pool(x, (5, None)),
    "adaptive_avg_pool to half": lambda x: convlab.adaptive_avg_pool(x, (x.shape[1] // 2, 1)),
    "adaptive_max_pool": lambda x: convlab.adaptive_max_pool(x, (5, 3), return_indices=True),
    "adaptive_max_pool's gradient": jax.grad(lambda x: (convlab.adaptive_max_pool(x, (5, 3)) ** 2).sum()),
    "spatial_pyramid_pool": lambda x: convlab.spatial_pyramid_pool(x),
    "max_unpool": lambda x: convlab.max_unpool(
        *convlab.max_pool(x, (2, 2), (2, 2), return_indices=True), output_shape=x.shape[1:3]
    ),
    "resize": lambda x: convlab.resize(x, scale=(2, 0.75)),
    "resize, corners": lambda x: convlab.resize(x, (13, 10), align_corners=True),
    "resize to another's size": lambda x: convlab.resize(x[:, ::2], x.shape[1:3], method="cubic"),
    "resize, nearest": lambda x: convlab.resize(x, scale=2, method="nearest"),
    "resize, nearest-exact": lambda x: convlab.resize(x, (13, 10), method="nearest-exact"),
    "resize, area": lambda x: convlab.resize(x, scale=0.5, method="area"),
    "resize's gradient": jax.grad(lambda x: (convlab.resize(x, scale=(1.5, 2)) ** 2).sum()),
    "grid_sample": lambda x: convlab.grid_sample(x, jnp.sin(x[..., :2])),
    "grid_sample, cubic": lambda x: convlab.grid_sample(x, jnp.sin(x[..., :2]), method="cubic"),
    "grid_sample, nearest": lambda x: convlab.grid_sample(x, jnp.sin(x[..., :2]), method="nearest"),
    "packed sequences": lambda x: packed(x, KERNEL[0, :, :1], padding="CAUSAL", feature_group_count=4),
    "packed sequences, strides": lambda x: packed(x, KERNEL[0], padding="CAUSAL", strides=2),
    "packed sequences, a long window": lambda x: packed(x, jnp.ones((26, 4, 2)), padding=((20, 5),)),
    "packed sequences' gradient": jax.grad(lambda x: (packed(x, KERNEL[0]) ** 2).sum()),
    "grid_sample's gradient": jax.grad(lambda x: (convlab.grid_sample(x, jnp.sin(x[..., :2])) ** 2).sum()),
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


# One program of many functions compiles in a fraction of the time of as many programs.
PROGRAMS = {
    "forward": ({name: f for name, f in SPATIAL.items() if "gradient" not in name}, "b, h, w, 4"),
    "gradients": ({name: f for name, f in SPATIAL.items() if "gradient" in name}, "b, h, w, 4"),
    "batch": (BATCH, "b, 8, 8, 4"),
}


# One size is odd and one even, so that sizes that do not divide by the strides are covered.
SHAPES = {"forward": [(2, 9, 12, 4)], "gradients": [(2, 9, 12, 4)], "batch": [(2, 8, 8, 4), (5, 8, 8, 4)]}
OTHER = {"forward": [(3, 14, 8, 4)], "gradients": [(3, 14, 8, 4)]}


@pytest.mark.parametrize(
    "name, shapes",
    [*SHAPES.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in OTHER.items())],
    ids=str,
)
def test_a_program_with_symbolic_sizes_serves_every_size(name, shapes):
    functions, shape = PROGRAMS[name]
    program = jax.jit(lambda x: {name: function(x) for name, function in functions.items()})
    sizes = export.symbolic_shape(shape, constraints=["h >= 8", "w >= 8"] if "h" in shape else [])
    exported = export.export(program)(jax.ShapeDtypeStruct(sizes, jnp.float32))
    for shape in shapes:
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        got, want = exported.call(x), program(x)
        for name in functions:
            for a, b in zip(jax.tree.leaves(got[name]), jax.tree.leaves(want[name]), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)
