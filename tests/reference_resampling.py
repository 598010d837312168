"""The oracle of resampling, regions and normalisation of neighbours: loops over the positions of the result."""

import itertools
import math

import numpy as np
from reference import broadcast_to_rank, rank_of, spatial_of, wide


def keys(d, a):
    d = abs(d)
    return ((a + 2) * d - (a + 3)) * d * d + 1 if d < 1 else a * (((d - 5) * d + 8) * d - 4) if d < 2 else 0.0


def axis_weights(n, m, step, method, align_corners, antialias):
    """Return for each position of the result a list of (position, weight) that it sums."""
    for i in range(m):
        center = i * step if align_corners else (i + 0.5) * step - 0.5
        if method == "nearest":
            yield [(min(math.floor(np.float32(i) * np.float32(step)), n - 1), 1.0)]
        elif method == "nearest-exact":
            yield [(min(math.floor(np.float32(i + 0.5) * np.float32(step)), n - 1), 1.0)]
        elif antialias:
            middle, stretch = (i + 0.5) * step, max(step, 1)
            hat = lambda d: max(1 - abs(d), 0) if method == "linear" else keys(d, -0.5)
            raw = [(j, hat((j + 0.5 - middle) / stretch)) for j in range(n)]
            total = sum(w for _, w in raw)
            yield [(j, w / total) for j, w in raw if w]
        else:
            low = math.floor(center)
            taps = range(low, low + 2) if method == "linear" else range(low - 1, low + 3)
            hat = lambda d: 1 - abs(d) if method == "linear" else keys(d, -0.75)
            yield [(min(max(j, 0), n - 1), hat(center - j)) for j in taps]


def resize(x, output_shape=None, *, scale=None, method="linear", align_corners=False, antialias=False):
    method = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(method, method)
    x = wide(x) if not method.startswith("nearest") else np.asarray(x)
    rank = rank_of(x, output_shape if scale is None else scale)
    spatial, first = spatial_of(x, rank), x.ndim - 1 - rank
    scales = broadcast_to_rank(scale, rank)
    out = (
        tuple(math.floor(n * s) for n, s in zip(spatial, scales))
        if scale is not None
        else broadcast_to_rank(output_shape, rank)
    )
    if method == "area":
        import reference_pools

        return reference_pools.adaptive_avg_pool(x, out)
    for axis, (n, m) in enumerate(zip(spatial, out)):
        step = (
            ((n - 1) / (m - 1) if m > 1 else 0) if align_corners else 1 / scales[axis] if scale is not None else n / m
        )
        moved = np.moveaxis(x, first + axis, 0)
        if method == "nearest" and rank == 2 and m in (n, 2 * n):
            step = n / m
        if n == m and (antialias or method == "linear"):
            continue
        taps = axis_weights(n, m, step, method, align_corners, antialias)
        rows = [sum(moved[j] * (w if x.dtype.kind in "fc" else int(w)) for j, w in row if w) for row in taps]
        x = np.moveaxis(np.stack(rows), 0, first + axis)
    return x


def pixel_shuffle(x, factor):
    x = np.asarray(x)
    rank = rank_of(x, factor)
    factors, spatial = broadcast_to_rank(factor, rank), spatial_of(x, rank)
    y = np.zeros(
        (*x.shape[: -1 - rank], *(n * f for n, f in zip(spatial, factors)), x.shape[-1] // math.prod(factors)), x.dtype
    )
    for number, at in enumerate(np.ndindex(*factors)):
        y[(..., *(slice(a, None, f) for a, f in zip(at, factors)), slice(None))] = x[..., number :: math.prod(factors)]
    return y


def pixel_unshuffle(x, factor):
    x = np.asarray(x)
    rank = rank_of(x, factor)
    factors = broadcast_to_rank(factor, rank)
    parts = [x[(..., *(slice(a, None, f) for a, f in zip(at, factors)), slice(None))] for at in np.ndindex(*factors)]
    return np.stack(parts, -1).reshape(*parts[0].shape[:-1], x.shape[-1] * math.prod(factors))


def local_response_norm(x, size, *, alpha=1e-4, beta=0.75, k=1.0):
    x = wide(x).astype(float)
    squares = [(x[..., max(0, c - size // 2) : c + (size - 1) // 2 + 1] ** 2).sum(-1) for c in range(x.shape[-1])]
    return x / (k + alpha * np.stack(squares, -1) / size) ** beta


def bent(i, n, padding_mode, align_corners):
    """Map a position beyond the border, or its index, to one inside, by the padding mode."""
    if padding_mode == "reflection":
        low, high = (0, n - 1) if align_corners else (-0.5, n - 0.5)
        i = abs(i - low) % (2 * (high - low)) if high > low else 0
        i = low + min(i, 2 * (high - low) - i)
    return min(max(i, 0), n - 1) if padding_mode != "zeros" else i


def grid_sample(x, grid, *, method="linear", padding_mode="zeros", align_corners=False):
    x, grid = wide(x), wide(grid)
    rank = grid.shape[-1]
    batch, spatial, positions = x.shape[: -1 - rank], spatial_of(x, rank), grid.shape[x.ndim - 1 - rank : -1]
    images, grids = x.reshape(-1, *spatial, x.shape[-1]), grid.reshape(-1, math.prod(positions), rank)[..., ::-1]
    y = np.zeros((len(images), math.prod(positions), x.shape[-1]))
    for n, p in np.ndindex(*y.shape[:2]):
        taps = []
        for g, size in zip(grids[n, p], spatial):
            at = (g + 1) / 2 * (size - 1) if align_corners else ((g + 1) * size - 1) / 2
            if method != "cubic":
                at = bent(at, size, padding_mode, align_corners)
            low = math.floor(at)
            if method == "nearest":
                taps.append([(round(at), 1.0)])
            elif method == "linear":
                taps.append([(low, low + 1 - at), (low + 1, at - low)])
            else:
                taps.append(
                    [
                        (bent(low + t, size, padding_mode, align_corners), keys(at - low - t, -0.75))
                        for t in (-1, 0, 1, 2)
                    ]
                )
        for corner in itertools.product(*taps):
            at, weights = zip(*corner)
            if all(0 <= i < size for i, size in zip(at, spatial)):
                y[n, p] += math.prod(weights) * images[n][tuple(map(int, at))]
    return y.reshape(*batch, *positions, x.shape[-1])


def affine_grid(theta, output_shape, *, align_corners=False):
    theta = wide(theta)
    rank = theta.shape[-2]
    shape = broadcast_to_rank(output_shape, rank)
    y = np.zeros((*theta.shape[:-2], *shape, rank))
    for position in np.ndindex(*shape):
        at = [
            0 if n == 1 else (2 * i / (n - 1) - 1) * (1 if align_corners else (n - 1) / n)
            for i, n in zip(position, shape)
        ]
        y[(..., *position, slice(None))] = theta @ np.array([*at[::-1], 1.0])
    return y


def roi_align(x, boxes, output_shape, *, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    x, out = wide(x), broadcast_to_rank(output_shape, 2)
    y = np.zeros((len(boxes), *out, x.shape[-1]))
    for k, (number, *corners) in enumerate(np.asarray(boxes, float)):
        x1, y1, x2, y2 = (c * spatial_scale - 0.5 * aligned for c in corners)
        sizes = [(y2 - y1), (x2 - x1)] if aligned else [max(y2 - y1, 1), max(x2 - x1, 1)]
        bins = [s / o for s, o in zip(sizes, out)]
        counts = [sampling_ratio if sampling_ratio > 0 else max(math.ceil(b), 0) for b in bins]
        for p in np.ndindex(*out):
            for sample in np.ndindex(*counts):
                at = [s + (i + (t + 0.5) / c) * b for s, i, t, c, b in zip((y1, x1), p, sample, counts, bins)]
                if all(-1 <= a <= n for a, n in zip(at, x.shape[1:3])):
                    at = [min(max(a, 0), n - 1) for a, n in zip(at, x.shape[1:3])]
                    low = [min(math.floor(a), max(n - 2, 0)) for a, n in zip(at, x.shape[1:3])]
                    for corner in itertools.product((0, 1), repeat=2):
                        weight = math.prod(1 - abs(a - i - c) for a, i, c in zip(at, low, corner))
                        if weight > 0:
                            y[(k, *p)] += (
                                weight
                                * x[(int(number), low[0] + corner[0], low[1] + corner[1])]
                                / max(math.prod(counts), 1)
                            )
    return y


def roi_pool(x, boxes, output_shape, *, spatial_scale=1.0):
    x, out = np.asarray(x), broadcast_to_rank(output_shape, 2)
    y = np.zeros((len(boxes), *out, x.shape[-1]))
    for k, (number, *corners) in enumerate(np.asarray(boxes, float)):
        x1, y1, x2, y2 = (math.copysign(math.floor(abs(c * spatial_scale) + 0.5), c) for c in corners)
        for p in np.ndindex(*out):
            part = x[int(number)]
            for axis, (start, end) in enumerate(((y1, y2), (x1, x2))):
                size = max(end - start + 1, 1) / out[axis]
                low, high = start + math.floor(p[axis] * size), start + math.ceil((p[axis] + 1) * size)
                part = part.take(range(max(int(low), 0), max(min(int(high), x.shape[1 + axis]), 0)), axis)
            y[(k, *p)] = part.max((0, 1)) if part.size else 0
    return y


def nms(boxes, scores, *, iou_threshold, max_outputs):
    boxes, kept = wide(boxes), []
    area = lambda b: (b[2] - b[0]) * (b[3] - b[1])
    for i in np.argsort(-wide(scores), kind="stable"):
        common = [
            np.maximum(np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2]), 0).prod()
            for j in kept
        ]
        if all(c / (area(boxes[i]) + area(boxes[j]) - c) <= iou_threshold for c, j in zip(common, kept)):
            kept.append(int(i))
    kept = kept[:max_outputs]
    return np.array(kept + [-1] * (max_outputs - len(kept)), np.int32), np.int32(len(kept))
