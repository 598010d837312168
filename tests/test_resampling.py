"""Resampling and regions beyond the table of cases: coordinates that are not finite, NMS, long axes, random options."""

import functools
import importlib.util
import random

import jax
import numpy as np
import pytest
import reference_resampling

import convlab

F32 = np.float32
METHODS = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


@pytest.mark.parametrize("method", ["linear", "nearest", "cubic"])
def test_a_coordinate_that_is_not_finite_or_huge_harms_no_other(method):
    x = np.arange(1, 13, dtype=F32).reshape(1, 3, 4, 1)
    rest = np.array([[0.2, 0.1], [-0.3, 0.4]], F32)
    odd = np.array([[np.inf, 0], [-np.inf, 0], [1e30, 0], [0, -1e30], [np.nan, 0]], F32)

    @jax.jit
    def both(grid):
        f = lambda mode, grid, x=x: convlab.grid_sample(x, grid, method=method, padding_mode=mode)
        modes = ("zeros", "border", "reflection")
        images = [jax.grad(lambda x: (f(mode, grid, x)[0, 6] ** 2).sum())(x) for mode in modes]
        return [(f(mode, grid), jax.grad(lambda g: f(mode, g)[0, :2].sum())(grid), i) for mode, i in zip(modes, images)]

    grids = [np.concatenate([rest, more])[None] for more in (odd, np.zeros_like(odd))]
    for mode, (actual, gradient, image), (plain, expected, _) in zip(
        ("zeros", "border", "reflection"), *map(both, grids)
    ):
        assert not np.any(image)  # the gradient of a loss that is NaN reaches no position of the image
        values = np.asarray(actual)[0, :, 0]
        np.testing.assert_array_equal(values[:2], plain[0, :2, 0])
        np.testing.assert_array_equal(gradient[0, :2], expected[0, :2])
        assert np.isfinite(gradient).all() and np.isnan(values[6])
        if mode == "zeros":
            assert (values[2:6] == 0).all()
        assert np.isfinite(values[2:6]).all()


@pytest.mark.parametrize("method", ["linear", "nearest", "cubic"])
def test_an_infinite_coordinate_lies_outside_an_axis_of_one_position(method):
    grid = np.array([[[np.inf, 0], [-np.inf, 0], [0, 0]]], F32)
    f = lambda mode: convlab.grid_sample(np.full((1, 3, 1, 1), 2, F32), grid, method=method, padding_mode=mode,
                                         align_corners=True)  # fmt: skip
    values = jax.jit(lambda: [f(mode) for mode in ("zeros", "border", "reflection")])()
    np.testing.assert_array_equal(np.squeeze(values), [[0, 0, 2], [2, 2, 2], [0, 0, 2]])


def test_a_long_axis_is_no_larger_a_program():
    """The program does not list the positions of a result, and its values are the oracle's."""

    def equations(n, m):
        f = lambda x: convlab.resize(x, (m,))
        return len(jax.make_jaxpr(lambda x: jax.vjp(f, x)[1](f(x)))(np.zeros((1, n, 1), F32)).eqns)

    assert equations(300, 431) == equations(1200, 1723)
    x = np.random.default_rng(0).normal(size=(1, 300, 1)).astype(F32)
    actual = jax.jit(lambda x: convlab.resize(x, (431,)))(x)
    np.testing.assert_allclose(actual, reference_resampling.resize(x, (431,)), atol=1e-5)


def test_a_factor_that_keeps_or_doubles_a_size_is_pytorchs():
    """For "nearest" it chooses positions in 1-D and 3-D, but not in 2-D (PyTorch issues 62237 and 121390)."""
    line = jax.numpy.arange(4.0).reshape(1, 4, 1)
    double, same = dict(scale=2.05, method="nearest"), dict(scale=1.001, method="nearest")
    assert convlab.resize(line, **double).ravel().tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert convlab.resize(line, **same).ravel().tolist() == [0, 0, 1, 2]
    image = jax.numpy.broadcast_to(line[..., None], (1, 4, 4, 1))
    assert convlab.resize(image, **double)[0, :, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert convlab.resize(image, **same)[0, :, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("m", [17, 4])
def test_jaxs_resize_is_ours_with_antialias(m):
    """As the docstring of `resize` says."""
    x = np.random.default_rng(0).normal(size=(1, 7, 2)).astype(F32)
    jaxs = lambda method, **options: jax.image.resize(x, (1, m, 2), method, **options)
    ours = lambda method, **options: convlab.resize(x, (m,), method=method, **options)

    @jax.jit
    def pairs():
        filtered = [(jaxs(method), ours(method, antialias=True)) for method in ("linear", "cubic")]
        plain = jaxs("linear", antialias=False), ours("linear")
        cubics = jaxs("cubic", antialias=False), ours("cubic")
        return [*filtered, plain, (jaxs("nearest"), ours("nearest-exact")), cubics]

    *equal, cubics = pairs()
    for a, b in equal:
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)
    assert np.abs(cubics[0] - cubics[1]).max() > 1e-2


@pytest.mark.parametrize("options", [dict(scale=2), dict(scale=0.5, antialias=True), dict(scale=1.5, method="nearest"),
                                     dict(output_shape=17), dict(output_shape=17, method="cubic")],
                                         ids=str)  # fmt: skip
def test_geometry_that_is_static_needs_no_gather_on_a_tpu(options):
    """On a CPU, where a gather is the fastest, its transpose is not a scatter."""
    x = np.zeros((1, 12, 14, 3), F32)
    f = lambda x: convlab.resize(x, **options)
    both = jax.jit(lambda x: (f(x), jax.vjp(f, x)[1](f(x)))).trace(x)
    tpu, cpu = (both.lower(lowering_platforms=(name,)).as_text() for name in ("tpu", "cpu"))
    assert "gather" not in tpu and "scatter" not in tpu and "scatter" not in cpu


# --- PyTorch and torchvision --------------------------------------------------------------------------------------


BATCH = 20  # drawn calls in one program, because compilation takes most of the time
SETS = {"grid_sample": 5, "roi_align": 5, "roi_pool": 5}  # drawn arrays for each call whose positions are data


def differing(drawn, sets):
    """Return those of several calls, `(theirs, ours, arrays, what)`, whose values or gradients, for `sets` drawn
    arrays each, differ by more than 1e-5 of the largest."""
    torch = pytest.importorskip("torch")
    operands = [jax.tree.map(lambda *a: np.stack(a), *(arrays() for _ in range(sets))) for _, _, arrays, _ in drawn]
    expected, weights = [], []
    for (theirs, *_), several in zip(drawn, operands):
        results = []
        for arrays in zip(*several):
            tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
            y = theirs(*tensors)
            weight = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)
            gradients = torch.autograd.grad((y * weight).sum(), tensors, allow_unused=True, materialize_grads=True)
            results.append([tensor.numpy() for tensor in (y.detach(), *gradients)])
        expected.append([np.stack(parts) for parts in zip(*results)])
        weights.append(weight.numpy())

    @jax.jit
    def results(operands, weights):
        def pulled(ours, weight, arrays):
            y, pull = jax.vjp(ours, *arrays)
            return y, *pull(weight)

        return [
            jax.lax.map(functools.partial(pulled, ours, weight), arrays)
            for (_, ours, *_), arrays, weight in zip(drawn, operands, weights)
        ]

    wrong = []
    for actual, wanted, arrays, (*_, what) in zip(results(operands, weights), expected, operands, drawn):
        for number, (a, e) in enumerate(zip(actual, wanted, strict=True)):
            assert a.shape == e.shape, what
            for one, other, x in zip(np.asarray(a), e, arrays[0]):
                largest = max(abs(other).max(initial=0), abs(x).max())  # sums of the image's values may cancel
                off = abs(one - other).max(initial=0)
                if not off <= 1e-5 * largest:
                    wrong.append((number, off, largest, what))
    return wrong


def normal(arrays, *shape):
    return arrays.normal(size=shape).astype(F32)


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
    # PyTorch's gradient does not belong to its values for an antialiased axis that keeps its size, and for "nearest"
    # with a factor by which an axis keeps or doubles its size.
    odd = any(b == a or (b == 2 * a and not antialias) for a, b in zip(spatial, sizes)) and (
        antialias or method == "nearest"
    )
    if rng.random() < 0.5 or min(sizes) < 1 or odd:
        ours["output_shape"] = theirs["size"] = tuple(
            rng.choice([rng.randint(1, 20), 2 * n, max(1, n // 2)]) for n in spatial
        )
    else:
        ours["scale"] = theirs["scale_factor"] = tuple(scales)
    return (
        channels_first(lambda x: F.interpolate(x, **theirs)),
        lambda x: convlab.resize(x, **ours),
        lambda: [normal(arrays, 2, *spatial, 2)],
        (spatial, ours),
    )


def drawn_grid_sample(rng, arrays):
    import torch.nn.functional as F

    rank = rng.choice([2, 3])
    method = rng.choice(["linear", "nearest", "cubic"][: 5 - rank])
    options = dict(padding_mode=rng.choice(["zeros", "border", "reflection"]), align_corners=rng.random() < 0.5)
    spatial, out = ([rng.randint(1, 6) for _ in range(rank)] for _ in range(2))
    draw = lambda: [normal(arrays, 2, *spatial, 2), 1.2 * normal(arrays, 2, *out, rank)]
    theirs = channels_first(lambda x, g: F.grid_sample(x, g, METHODS[method], **options))
    ours = lambda x, g: convlab.grid_sample(x, g, method=method, **options)
    return theirs, ours, draw, (spatial, out, method, options)


def drawn_affine_grid(rng, arrays):
    import torch.nn.functional as F

    rank, corners = rng.choice([2, 3]), rng.random() < 0.5
    out = tuple(rng.randint(2, 6) for _ in range(rank))
    theirs = lambda t: F.affine_grid(t, (2, 1, *out), align_corners=corners)
    ours = lambda t: convlab.affine_grid(t, out, align_corners=corners)
    return theirs, ours, lambda: [normal(arrays, 2, rank, rank + 1)], (out, corners)


def drawn_local_response_norm(rng, arrays):
    import torch.nn.functional as F

    size, options = (
        rng.randint(1, 8),
        dict(alpha=rng.uniform(0.1, 2), beta=rng.choice([0.5, 0.75, 1.0, 0.6]), k=rng.uniform(0.5, 2)),
    )
    channels = rng.randint(1, 9)
    theirs = channels_first(lambda x: F.local_response_norm(x, size, **options))
    ours = lambda x: convlab.local_response_norm(x, size, **options)
    return theirs, ours, lambda: [normal(arrays, 2, 3, channels)], (size, options)


def drawn_regions(rng, arrays, aligned=False):
    height, width, count = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 3)

    def draw():
        corners, sizes = arrays.uniform(-3, 8, (count, 2)), arrays.uniform(-1 + aligned, 12, (count, 2))
        boxes = np.concatenate([arrays.integers(0, 2, (count, 1)), corners, corners + sizes], 1).astype(F32)
        return [normal(arrays, 2, height, width, 2), boxes]

    return draw, (rng.randint(1, 4), rng.randint(1, 4)), rng.choice([1.0, 0.5, 0.37])


def drawn_roi_align(rng, arrays):
    import torchvision.ops

    ratio, aligned = rng.choice([-1, -1, 1, 2, 3]), rng.random() < 0.5
    draw, out, scale = drawn_regions(rng, arrays, aligned)
    theirs = channels_first(lambda x, boxes: torchvision.ops.roi_align(x, boxes, out, scale, ratio, aligned))
    options = dict(spatial_scale=scale, sampling_ratio=ratio, aligned=aligned)
    return theirs, lambda x, boxes: convlab.roi_align(x, boxes, out, **options), draw, (out, options)


def drawn_roi_pool(rng, arrays):
    import torchvision.ops

    draw, out, scale = drawn_regions(rng, arrays)
    theirs = channels_first(lambda x, boxes: torchvision.ops.roi_pool(x, boxes, out, scale))
    return theirs, lambda x, boxes: convlab.roi_pool(x, boxes, out, spatial_scale=scale), draw, (out, scale)


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
    sets = SETS.get(name, 1) if examples > BATCH else 1
    wrong, calls = [], examples // sets
    for begin in range(0, calls, BATCH):
        wrong += differing([DRAWN[name](rng, arrays) for _ in range(begin, min(begin + BATCH, calls))], sets)
        jax.clear_caches()
    assert not wrong, f"{len(wrong)} of {examples}: {wrong[:5]}"


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
