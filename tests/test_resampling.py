"""What the table of cases cannot say of resampling and regions: coordinates that are not finite, NMS, long axes, the
table's options drawn at random."""

import importlib.util
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_resampling
from quick import quick

import convlab

F32 = np.float32
METHODS = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


@pytest.mark.parametrize("method", ["linear", "nearest", "cubic"])
def test_a_coordinate_that_is_not_finite_or_huge_harms_no_other(method):
    x = np.arange(1, 13, dtype=F32).reshape(1, 3, 4, 1)
    rest = np.array([[0.2, 0.1], [-0.3, 0.4]], F32)
    odd = np.array([[np.inf, 0], [-np.inf, 0], [1e30, 0], [0, -1e30], [np.nan, 0]], F32)

    @quick
    def both(grid):
        f = lambda mode, grid: convlab.grid_sample(x, grid, method=method, padding_mode=mode)
        modes = ("zeros", "border", "reflection")
        return [(f(mode, grid), jax.grad(lambda g: f(mode, g)[0, :2].sum())(grid)) for mode in modes]

    grids = [np.concatenate([rest, more])[None] for more in (odd, np.zeros_like(odd))]
    for mode, (actual, gradient), (plain, expected) in zip(("zeros", "border", "reflection"), *map(both, grids)):
        values = np.asarray(actual)[0, :, 0]
        np.testing.assert_array_equal(values[:2], plain[0, :2, 0])
        np.testing.assert_array_equal(gradient[0, :2], expected[0, :2])
        assert np.isnan(values[6])
        if mode == "zeros":
            assert (values[2:6] == 0).all()
        assert np.isfinite(values[2:6]).all()


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
    """Far larger than the image, with the count that its size gives."""
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 1)).astype(F32)
    boxes = np.array([[0, -40, -30, 60, 70]], F32)
    actual = jax.jit(lambda x, b: convlab.roi_align(x, b, 3))(x, boxes)
    np.testing.assert_allclose(actual, reference_resampling.roi_align(x, boxes, 3), rtol=1e-4, atol=1e-6)


def test_bins_end_with_their_box():
    """6 positions in 7 bins, whose length times 7 is rounded to 6: the value beyond is the largest and in none of
    them."""
    x, boxes = np.zeros((1, 1, 9, 1), F32), np.array([[0, 1, 0, 6, 0]], F32)
    x[:, :, 7:] = 5
    pool, align = (jax.jit(f) for f in (lambda x, b: convlab.roi_pool(x, b, (1, 7)),
                                        lambda x, b: convlab.roi_align(x, b, (1, 7), spatial_scale=7 / 5)))  # fmt: skip
    assert not np.any(pool(x, boxes))
    np.testing.assert_allclose(align(x, boxes), reference_resampling.roi_align(x, boxes, (1, 7), spatial_scale=7 / 5),
                               rtol=1e-5, atol=1e-5)  # fmt: skip


def test_gradients_of_boxes_with_samples_by_their_size_are_finite_where_another_image_is_not():
    """By products: what a branch for images that are not finite would need is stored for no box."""
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(F32)
    boxes = np.array([[0, 0, 0, 4, 3], [1, 1, 1, 5, 4]], F32)
    x[1, 0, 0] = np.nan

    def pulled(x):
        y, pull = jax.vjp(lambda x: convlab.roi_align(x, boxes, 2), x)
        return y, pull(y.at[1].set(0))[0]

    (y, slope), (expected, expected_slope) = pulled(x), pulled(np.nan_to_num(x))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-5, atol=1e-5)
    stored = jax.eval_shape(lambda x: jax.vjp(lambda x: convlab.roi_align(x, boxes, 2), x)[1], x)
    assert max(leaf.size for leaf in jax.tree.leaves(stored)) <= x.size


def test_a_long_axis_is_no_larger_a_program():
    """The positions of a result are not written out one by one, and its values are the oracle's."""

    def equations(n, m):
        f = lambda x: convlab.resize(x, (m,))
        return len(jax.make_jaxpr(lambda x: jax.vjp(f, x)[1](f(x)))(np.zeros((1, n, 1), F32)).eqns)

    assert equations(300, 431) == equations(1200, 1723)
    x = np.random.default_rng(0).normal(size=(1, 300, 1)).astype(F32)
    actual = jax.jit(lambda x: convlab.resize(x, (431,)))(x)
    np.testing.assert_allclose(actual, reference_resampling.resize(x, (431,)), atol=1e-5)


@pytest.mark.parametrize("options", [dict(scale=2), dict(scale=0.5, antialias=True), dict(scale=1.5, method="nearest"),
                                     dict(output_shape=17), dict(output_shape=17, method="cubic")],
                                         ids=str)  # fmt: skip
def test_geometry_that_is_static_needs_no_gather_on_a_tpu(options):
    """On a CPU, where a gather is the fastest, it has no scatter for a transpose."""
    x = np.zeros((1, 12, 14, 3), F32)
    f = lambda x: convlab.resize(x, **options)
    both = jax.jit(lambda x: (f(x), jax.vjp(f, x)[1](f(x)))).trace(x)
    tpu, cpu = (both.lower(lowering_platforms=(name,)).as_text() for name in ("tpu", "cpu"))
    assert "gather" not in tpu and "scatter" not in tpu and "scatter" not in cpu


# --- PyTorch and torchvision --------------------------------------------------------------------------------------


BATCH = 20  # drawn calls in one program: compiling takes most of the time


def agree(drawn):
    """Values and gradients of several calls, `(theirs, ours, arrays, what)`, are within 1e-5 of the largest."""
    torch = pytest.importorskip("torch")
    expected, weights = [], []
    for theirs, _, arrays, _ in drawn:
        tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
        y = theirs(*tensors)
        weight = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)
        gradients = torch.autograd.grad((y * weight).sum(), tensors)
        expected.append([tensor.numpy() for tensor in (y.detach(), *gradients)])
        weights.append(weight.numpy())

    @quick
    def results(operands, weights):
        pulled = [(jax.vjp(ours, *arrays), w) for (_, ours, _, _), arrays, w in zip(drawn, operands, weights)]
        return [(y, *pull(w)) for (y, pull), w in pulled]

    for actual, wanted, (*_, what) in zip(results([arrays for _, _, arrays, _ in drawn], weights), expected, drawn):
        for a, e in zip(actual, wanted, strict=True):
            assert a.shape == e.shape, what
            assert abs(np.asarray(a) - e).max(initial=0) <= 1e-5 * max(abs(e).max(initial=0), 0.1), (
                what
            )  # sums may cancel


def channels_first(function):
    return lambda x, *rest: function(x.movedim(-1, 1), *rest).movedim(1, -1)


def drawn_resize(rng, arrays):
    import torch.nn.functional as F

    method = rng.choice(["nearest", "nearest-exact", "linear", "cubic", "area"])
    smooth = method in ("linear", "cubic")
    antialias = smooth and rng.random() < 0.3
    rank = 2 if method == "cubic" or antialias else rng.choice([1, 2, 3])
    spatial = [rng.randint(1, 12) for _ in range(rank)]
    mode = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}[rank], "cubic": "bicubic"}.get(method, method)
    ours, theirs = dict(method=method, antialias=antialias), dict(mode=mode, antialias=antialias)
    if smooth:
        ours["align_corners"] = theirs["align_corners"] = rng.random() < 0.5
    scales = [rng.choice([2.0, 0.5, 1.5, 3.0, rng.uniform(0.4, 3)]) for _ in spatial]
    sizes = [int(n * s) for n, s in zip(spatial, scales)]
    # PyTorch's gradient is that of another map than its values for an antialiased axis that keeps its size, and for
    # "nearest" with a factor by which an axis keeps or doubles its size.
    odd = any(b == a or (b == 2 * a and not antialias) for a, b in zip(spatial, sizes)) and (
        antialias or method == "nearest"
    )
    if rng.random() < 0.5 or min(sizes) < 1 or odd:
        ours["output_shape"] = theirs["size"] = tuple(
            rng.choice([rng.randint(1, 20), 2 * n, max(1, n // 2)]) for n in spatial
        )
    else:
        ours["scale"] = theirs["scale_factor"] = tuple(scales)
    x = arrays.normal(size=(2, *spatial, 2)).astype(F32)
    return (
        channels_first(lambda x: F.interpolate(x, **theirs)),
        lambda x: convlab.resize(x, **ours),
        [x],
        (spatial, ours),
    )


def drawn_grid_sample(rng, arrays):
    import torch.nn.functional as F

    rank = rng.choice([2, 3])
    method = rng.choice(["linear", "nearest", "cubic"][: 5 - rank])
    options = dict(padding_mode=rng.choice(["zeros", "border", "reflection"]), align_corners=rng.random() < 0.5)
    spatial, out = ([rng.randint(1, 6) for _ in range(rank)] for _ in range(2))
    x, grid = arrays.normal(size=(2, *spatial, 2)), arrays.normal(size=(2, *out, rank)) * 1.2
    theirs = channels_first(lambda x, g: F.grid_sample(x, g, METHODS[method], **options))
    ours = lambda x, g: convlab.grid_sample(x, g, method=method, **options)
    return theirs, ours, [x.astype(F32), grid.astype(F32)], (spatial, out, method, options)


def drawn_affine_grid(rng, arrays):
    import torch.nn.functional as F

    rank, corners = rng.choice([2, 3]), rng.random() < 0.5
    out = tuple(rng.randint(2, 6) for _ in range(rank))
    theta = arrays.normal(size=(2, rank, rank + 1)).astype(F32)
    theirs = lambda t: F.affine_grid(t, (2, 1, *out), align_corners=corners)
    return theirs, lambda t: convlab.affine_grid(t, out, align_corners=corners), [theta], (out, corners)


def drawn_local_response_norm(rng, arrays):
    import torch.nn.functional as F

    size, options = (
        rng.randint(1, 8),
        dict(alpha=rng.uniform(0.1, 2), beta=rng.choice([0.5, 0.75, 1.0, 0.6]), k=rng.uniform(0.5, 2)),
    )
    x = arrays.normal(size=(2, 3, rng.randint(1, 9))).astype(F32)
    theirs = channels_first(lambda x: F.local_response_norm(x, size, **options))
    return theirs, lambda x: convlab.local_response_norm(x, size, **options), [x], (size, options)


def drawn_regions(rng, arrays, aligned=False):
    height, width, count = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 3)
    corners, sizes = arrays.uniform(-3, 8, (count, 2)), arrays.uniform(-1 + aligned, 12, (count, 2))
    boxes = np.concatenate([arrays.integers(0, 2, (count, 1)), corners, corners + sizes], 1).astype(F32)
    x = arrays.normal(size=(2, height, width, 2)).astype(F32)
    return x, boxes, (rng.randint(1, 4), rng.randint(1, 4)), rng.choice([1.0, 0.5, 0.37])


def drawn_roi_align(rng, arrays):
    import torch
    import torchvision.ops

    ratio, aligned = rng.choice([-1, -1, 1, 2, 3]), rng.random() < 0.5
    x, boxes, out, scale = drawn_regions(rng, arrays, aligned)
    theirs = channels_first(lambda x: torchvision.ops.roi_align(x, torch.tensor(boxes), out, scale, ratio, aligned))
    options = dict(spatial_scale=scale, sampling_ratio=ratio, aligned=aligned)
    return theirs, lambda x: convlab.roi_align(x, boxes, out, **options), [x], (x.shape, boxes.tolist(), out, options)


def drawn_roi_pool(rng, arrays):
    import torch
    import torchvision.ops

    x, boxes, out, scale = drawn_regions(rng, arrays)
    theirs = channels_first(lambda x: torchvision.ops.roi_pool(x, torch.tensor(boxes), out, scale))
    ours = lambda x: convlab.roi_pool(x, boxes, out, spatial_scale=scale)
    return theirs, ours, [x], (x.shape, boxes.tolist(), out, scale)


DRAWN = {name.removeprefix("drawn_"): f for name, f in list(globals().items()) if name.startswith("drawn_")}
del DRAWN["regions"]


def has_torchvision():
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        import torchvision.ops  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("examples", [4, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DRAWN)
def test_values_and_gradients_are_pytorchs(name, examples):
    pytest.importorskip("torch")
    if name.startswith("roi") and not has_torchvision():
        pytest.skip("torchvision is not installed, or lacks its operators")
    rng, arrays = random.Random(0), np.random.default_rng(0)
    for begin in range(0, examples, BATCH):
        agree([DRAWN[name](rng, arrays) for _ in range(begin, min(begin + BATCH, examples))])
        jax.clear_caches()


@pytest.mark.slow
def test_nms_is_torchvisions():
    if not has_torchvision():
        pytest.skip("torchvision is not installed, or lacks its operators")
    import torch
    import torchvision.ops

    rng = np.random.default_rng(0)
    f = jax.jit(lambda b, s, t: convlab.nms(b, s, iou_threshold=t, max_outputs=12))
    for _ in range(500):
        boxes, scores = rng.uniform(0, 5, (12, 4)).astype(F32), rng.permutation(12).astype(F32)
        boxes[:, 2:] += boxes[:, :2]
        threshold = float(rng.uniform(0.05, 0.8))
        indices, count = f(boxes, scores, threshold)
        expected = torchvision.ops.nms(torch.tensor(boxes), torch.tensor(scores), threshold).numpy()
        np.testing.assert_array_equal(np.asarray(indices)[: int(count)], expected)


@pytest.mark.parametrize("ratio", [1, -1])
def test_a_box_that_is_not_finite_or_of_no_image_harms_no_other(ratio):
    """torchvision reads out of bounds there (vision issue 9273, pull request 9629)."""
    x, good = jnp.arange(120.0).reshape(2, 4, 5, 3), [0, 0, 0, 2, 2]
    nothing = [[0, np.nan, 0, np.nan, 1], [0, np.inf, 0, np.inf, 2], [0, 1e30, 1e30, 2e30, 2e30]]
    no_image = [[number, 0, 0, 2, 2] for number in (np.nan, -1, 7, np.inf, 1e30)]
    pooled = lambda x, boxes: convlab.roi_align(x, jnp.array(boxes, jnp.float32), (2, 2), sampling_ratio=ratio)
    y, pull = jax.vjp(lambda x: pooled(x, [good, *nothing, *no_image]), x)
    alone, pull_alone = jax.vjp(lambda x: pooled(x, [good]), x)
    np.testing.assert_allclose(y[:1], alone)
    np.testing.assert_array_equal(y[1:4], 0)
    assert jnp.isnan(y[4:]).all()
    (gradient,) = pull(jnp.zeros_like(y).at[0].set(1))
    np.testing.assert_allclose(gradient, pull_alone(jnp.ones_like(alone))[0], rtol=1e-6)
