"""Regions of images: properties of boxes and of their suppression that the table of cases does not cover."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import reference_resampling

import convlab
from convlab import _region_masks, _regions

F32 = np.float32
POOLS = {
    "one sample": lambda x, boxes: convlab.roi_align(x, boxes, (2, 2), sampling_ratio=1),
    "samples by size": lambda x, boxes: convlab.roi_align(x, boxes, (2, 2)),
    "maxima": lambda x, boxes: convlab.roi_pool(x, boxes, (2, 2)),
}


def test_indices_of_nms_are_those_of_the_oracle_under_jit_and_vmap():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 5, (4, 15, 4)).astype(F32)
    boxes[..., 2:] += boxes[..., :2]
    scores = rng.integers(0, 6, (4, 15)).astype(F32)
    for size in (3, 15):
        options = dict(iou_threshold=0.3, max_outputs=size)
        actual = jax.jit(jax.vmap(lambda b, s: convlab.nms(b, s, **options)))(boxes, scores)
        for b, s, indices, count in zip(boxes, scores, *actual):
            expected, kept = reference_resampling.nms(b, s, **options)
            assert int(count) == kept
            np.testing.assert_array_equal(indices, expected)


def test_nms_of_no_boxes_and_of_boxes_without_an_area():
    indices, count = convlab.nms(np.zeros((0, 4), F32), np.zeros(0, F32), iou_threshold=0.5, max_outputs=2)
    assert indices.tolist() == [-1, -1] and count == 0
    indices, count = convlab.nms(np.zeros((2, 4), F32), np.full(2, -np.inf, F32), iou_threshold=0.5, max_outputs=3)
    assert indices.tolist() == [0, 1, -1] and count == 2


def test_a_large_box_has_samples_without_bound():
    """The box is far larger than the image, and its size determines the number of samples."""
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 1)).astype(F32)
    boxes = np.array([[0, -40, -30, 60, 70]], F32)
    actual = jax.jit(lambda x, b: convlab.roi_align(x, b, 3))(x, boxes)
    np.testing.assert_allclose(actual, reference_resampling.roi_align(x, boxes, 3), rtol=1e-4, atol=1e-6)


def test_bins_end_with_their_box():
    """There are 6 positions in 7 bins, and 7 times the length of a bin rounds to 6: the next value, the largest, is in
    no bin."""
    x, boxes = np.zeros((1, 1, 9, 1), F32), np.array([[0, 1, 0, 6, 0]], F32)
    x[:, :, 7:] = 5
    pool, align = (jax.jit(f) for f in (lambda x, b: convlab.roi_pool(x, b, (1, 7)),
                                        lambda x, b: convlab.roi_align(x, b, (1, 7), spatial_scale=7 / 5)))  # fmt: skip
    assert not np.any(pool(x, boxes))
    np.testing.assert_allclose(align(x, boxes), reference_resampling.roi_align(x, boxes, (1, 7), spatial_scale=7 / 5),
                               rtol=1e-5, atol=1e-5)  # fmt: skip


def test_gradients_of_boxes_with_samples_by_their_size_are_finite_where_another_image_is_not():
    """Products compute them: no box stores the arrays that a branch for images that are not finite would need."""
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(F32)
    boxes = np.array([[0, 0, 0, 4, 3], [1, 1, 1, 5, 4]], F32)
    x[1, 0, 0] = np.nan

    @jax.jit
    def pulled(x):
        y, pull = jax.vjp(lambda x: convlab.roi_align(x, boxes, 2), x)
        return y, pull(y.at[1].set(0))[0]

    (y, slope), (expected, expected_slope) = pulled(x), pulled(np.nan_to_num(x))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-5, atol=1e-5)
    stored = jax.eval_shape(lambda x: jax.vjp(lambda x: convlab.roi_align(x, boxes, 2), x)[1], x)
    assert max(leaf.size for leaf in jax.tree.leaves(stored)) <= x.size


@pytest.mark.parametrize("name", POOLS)
def test_a_box_that_is_not_finite_or_of_no_image_harms_no_other(name):
    """torchvision reads out of bounds in this case (vision issue 9273, pull request 9629)."""
    x, good = jnp.arange(120.0).reshape(2, 4, 5, 3), [0, 0, 0, 2, 2]
    nan, inf = np.nan, np.inf
    nothing = [[0, nan, 0, nan, 1], [0, inf, 0, inf, 2], [0, 1e30, 1e30, 2e30, 2e30], [0, -inf, 0, inf, 2]]
    no_image = [[number, 0, 0, 2, 2] for number in (nan, -1, 7, inf, 1e30)]

    @jax.jit
    def pulled(x, boxes):
        y, pull = jax.vjp(lambda x: POOLS[name](x, boxes), x)
        return y, pull(jnp.zeros_like(y).at[0].set(1))[0]

    y, gradient = pulled(x, np.array([good, *nothing, *no_image], F32))
    alone, gradient_alone = pulled(x, np.array([good] * len(y), F32))
    np.testing.assert_allclose(y[:1], alone[:1])
    np.testing.assert_array_equal(y[1:5], 0)
    np.testing.assert_array_equal(y[5:], 0 if name == "maxima" else nan)
    np.testing.assert_allclose(gradient, gradient_alone, rtol=1e-6)


@pytest.mark.parametrize("name", POOLS)
def test_many_boxes_are_those_alone(name):
    """There are more boxes than are computed at a time, of all sizes in random order; under vmap too."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 9, 8, 700)), jnp.float32)
    low = rng.uniform(-3, 8, (41, 2))
    boxes = np.concatenate([rng.integers(0, 2, (41, 1)), low, low + rng.uniform(0, 12, (41, 2))], 1).astype(F32)

    def pulled(x, boxes):
        y, pull = jax.vjp(lambda x: POOLS[name](x, boxes), x)
        return y, pull(jnp.cos(y))[0]

    few = jax.jit(jax.vmap(pulled, (None, 0)))(x, boxes.reshape(41, 1, 5))
    y, gradient = jax.jit(pulled)(x, boxes)
    np.testing.assert_allclose(y, few[0].reshape(y.shape), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, few[1].sum(0), rtol=1e-4, atol=1e-4)


def test_a_maximum_of_regions_has_the_gradient_of_the_first_and_a_nan_its_own():
    @jax.jit
    def pulled(x, weights):
        boxes = jnp.array([[0.0, 0, 0, 0, 2], [0, 0, 0, 2, 2]])
        y, pull = jax.vjp(lambda x: convlab.roi_pool(x, boxes, 1), x)
        return y.ravel(), pull(weights.reshape(y.shape))[0].ravel()

    x, weights = np.zeros((1, 3, 3, 1), F32), np.array([2, 3], F32)
    x[0, 1, 1] = np.nan
    y, gradient = pulled(x, weights)
    np.testing.assert_array_equal(y, [0, np.nan])
    np.testing.assert_array_equal(gradient, [2, 0, 0, 0, 3, 0, 0, 0, 0])
    y, gradient = pulled(np.full_like(x, -np.inf), weights)
    np.testing.assert_array_equal(gradient, [5, 0, 0, 0, 0, 0, 0, 0, 0])
    assert convlab.roi_pool(jnp.array([[[[-3], [-7]]]]), jnp.array([[0.0, 0, 0, 2, 2]]), 1).item() == -3


@pytest.mark.parametrize("name", POOLS)
def test_boxes_in_64_bits_need_no_jit(name, x64):
    """The bounds of a loop are known numbers here, whose dtype is JAX's default."""
    x, boxes = np.random.default_rng(0).normal(size=(1, 5, 6, 2)), np.array([[0, 1, 1, 4, 4.5]])
    np.testing.assert_allclose(POOLS[name](x, boxes), jax.jit(POOLS[name])(x, boxes), rtol=1e-12)


def test_a_box_far_smaller_than_a_position_has_its_sample():
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(F32)
    boxes = np.array([[0, 3.2, 1.1, 3.201, 1.5], [0, 4.7, 3.9, 4.7001, 3.90001]], F32)
    actual = jax.jit(lambda x, b: convlab.roi_align(x, b, 2, aligned=True))(x, boxes)
    np.testing.assert_allclose(actual, reference_resampling.roi_align(x, boxes, 2, aligned=True), rtol=1e-4, atol=1e-5)


def test_a_box_that_is_not_finite_suppresses_none():
    """Their unions are NaN; such a box is kept, as in torchvision."""
    nan, inf = np.nan, np.inf
    good = [[0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]]
    boxes = np.array([[nan, 0, 2, 2], [0, 0, inf, inf], [-inf, 0, inf, 3], *good], F32)
    indices, count = convlab.nms(boxes, np.array([9, 8, 7, 6, 5, 4], F32), iou_threshold=0.5, max_outputs=6)
    assert indices.tolist() == [0, 1, 2, 3, 5, -1] and count == 5
    scores = np.array([1, nan, 3], F32)
    assert convlab.nms(np.array(good, F32), scores, iou_threshold=0.5, max_outputs=3)[0].tolist() == [1, 2, -1]


@pytest.mark.parametrize("name", POOLS)
def test_the_numbers_of_images_and_boxes_may_be_symbolic(name):
    shapes = jax.export.symbolic_shape("n, k")
    f = jax.jit(jax.value_and_grad(lambda x, boxes: jnp.cos(POOLS[name](x, boxes)).sum()))
    images, regions = (jax.ShapeDtypeStruct((n, *rest), jnp.float32) for n, rest in zip(shapes, ((5, 6, 2), (5,))))
    exported = jax.export.export(f)(images, regions)
    x = np.random.default_rng(0).normal(size=(3, 5, 6, 2)).astype(F32)
    boxes = np.array([[0, 1, 1, 4, 4], [2, 0, 0, 3, 5]], F32)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), exported.call(x, boxes), f(x, boxes)
    )


@pytest.mark.parametrize("is_single", [False, True])
def test_maxima_by_masks_are_those_of_positions(is_single, monkeypatch):
    """What a GPU and a TPU compute: values, gradients and tangents, with -inf, NaN and empty bins."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 3, (2, 6, 7, 4)).astype(F32)
    x[0, 2, 3, 1], x[1, :, :, 2], x[1, 1:5, 1:5, 3] = np.nan, -np.inf, np.nan
    low = rng.uniform(-3, 8, (9, 2))
    boxes = np.concatenate([rng.integers(0, 3, (9, 1)), low, low + rng.uniform(0, 9, (9, 2))], 1).astype(F32)

    def both(x, dx):
        pool = lambda x: convlab.roi_pool(x, boxes, (3, 2))
        y, pull = jax.vjp(pool, x)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))[0], jax.jvp(pool, (x,), (dx,))[1]

    dx = rng.normal(size=x.shape).astype(F32)
    expected = jax.jit(both)(x, dx)
    monkeypatch.setattr(_regions._backend, "by_platform", lambda *given, default, **_: (
        functools.partial(default, is_single=is_single)(*given)))  # fmt: skip
    monkeypatch.setattr(_region_masks, "MAX_IMAGES", 4 * x[0].size)
    actual = jax.jit(lambda x, dx: both(x, dx))(x, dx)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-6), actual, expected)
