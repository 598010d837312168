"""An independent oracle for every public function: NumPy, any rank, wide types, clarity before speed.

Floats are computed in float64, complex numbers in complex128, integers in int64, for every input dtype. Names,
arguments and layout are convlab's own: `x` is `(*batch, *spatial, c)`, kernels `(*window, c // groups, features)`.

Two gathers define every operation. *Padding is a gather*: `source` returns the position that each position of a padded
axis repeats, -1 for none, so padding, its adjoint and the indices of a pool use one table. *Windows are a gather too*:
`windows` returns `(*batch, *out, *size, c)`, and an operation reduces the taps.
"""

import itertools
import math

import numpy as np


def wide(x):
    """Return `x` in the widest type of its kind."""
    x = np.asarray(x)
    if x.dtype.kind in "bui":
        return x.astype(np.int64)
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def broadcast_to_rank(value, rank):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank


def rank_of(x, window_shape):
    """Return the number of spatial axes; an int window means every spatial axis of an array with one batch axis."""
    return len(window_shape) if isinstance(window_shape, (tuple, list)) else x.ndim - 2


def spatial_of(x, rank):
    return x.shape[x.ndim - 1 - rank : x.ndim - 1]


# Geometry


def effective_size(size, dilation):
    return tuple((k - 1) * d + 1 for k, d in zip(size, dilation))


def pad_pairs(padding, spatial, size, strides, dilation):
    """Return `padding` in any of its forms as one (before, after) pair per axis."""
    rank = len(spatial)
    if not isinstance(padding, str):
        return tuple(p if isinstance(p, (tuple, list)) else (p, p) for p in broadcast_to_rank(padding, rank))
    pairs = []
    for n, effective, s in zip(spatial, effective_size(size, dilation), strides):
        total = max((-(-n // s) - 1) * s + effective - n, 0)
        pairs.append(
            {
                "VALID": (0, 0),
                "SAME": (total // 2, total - total // 2),
                "SAME_LOWER": (total - total // 2, total // 2),
                "CAUSAL": (effective - 1, 0),
                "FULL": (effective - 1, effective - 1),
                "CIRCULAR": ((effective - 1) // 2, effective // 2),
                "REFLECT": ((effective - 1) // 2, effective // 2),
            }[padding.upper()]
        )
    return tuple(pairs)


def pad_modes(padding, padding_mode, rank):
    """Return one mode per axis; CIRCULAR and REFLECT determine both the amount and the mode."""
    if isinstance(padding, str) and padding.upper() in ("CIRCULAR", "REFLECT"):
        padding_mode = padding.lower()
    return broadcast_to_rank(padding_mode, rank)


def out_shape(spatial, size, strides, pads, dilation, ceil_mode=False):
    """Return the number of windows per axis; in `ceil_mode` also one that extends over the end, if it starts before
    it."""
    out = []
    for n, effective, s, (lo, hi) in zip(spatial, effective_size(size, dilation), strides, pads):
        span = n + lo + hi - effective
        count = span // s + 1
        out.append(max(count + (ceil_mode and span % s > 0 and count * s < n + lo + min(hi, 0)), 0))
    return tuple(out)


def source(n, lo, hi, mode):
    """Return the position that each position of an axis of `n`, padded by `lo` and `hi`, repeats; -1 for none."""
    at = np.arange(-lo, n + hi)
    if mode == "reflect":
        return (n - 1) - np.abs((n - 1) - np.abs(at))
    if mode == "replicate":
        return np.clip(at, 0, n - 1)
    if mode == "circular":
        first, last = max(0, -lo), n - max(0, -hi)
        return first + (at - first) % (last - first)
    return np.where((at >= 0) & (at < n), at, -1)


def take(x, at, axis, value):
    """Return `x` at the positions `at` of an axis, `value` where they are -1."""
    if x.shape[axis] == 0:
        x = np.full(x.shape[:axis] + (1,) + x.shape[axis + 1 :], value)
    taken = np.take(x, at, axis)
    nowhere = (at < 0).reshape(at.shape + (1,) * (x.ndim - 1 - axis))
    return np.where(nowhere, np.asarray(value, taken.dtype), taken)


def windows(x, size, strides, dilation, out):
    """Extract the windows: `(*batch, *spatial, c)` -> `(*batch, *out, *size, c)`."""
    rank = len(size)
    first = x.ndim - 1 - rank
    for axis, (k, s, d, count) in enumerate(zip(size, strides, dilation, out)):
        x = np.take(x, np.arange(count)[:, None] * s + np.arange(k) * d, first + 2 * axis)
    spatial, taps = range(first, first + 2 * rank, 2), range(first + 1, first + 2 * rank, 2)
    return x.transpose(*range(first), *spatial, *taps, x.ndim - 1)


# Padding and convolution


def pad(x, padding, mode="zeros", value=0):
    x = np.asarray(x)
    rank = len(padding) if isinstance(padding, (tuple, list)) else x.ndim - 2
    pads, first = pad_pairs(padding, spatial_of(x, rank), None, None, None), x.ndim - 1 - rank
    for axis, ((lo, hi), how) in enumerate(zip(pads, broadcast_to_rank(mode, rank)), start=first):
        x = take(x, source(x.shape[axis], lo, hi, how), axis, value if how == "constant" else 0)
    return x


def dilate(x, dilation):
    """Insert zeros between the elements of the spatial axes."""
    first = x.ndim - 1 - len(dilation)
    for axis, d in enumerate(dilation, start=first):
        at = np.arange(max(0, (x.shape[axis] - 1) * d + 1))
        x = take(x, np.where(at % d, -1, at // d), axis, 0)
    return x


def conv(
    x, kernel, bias=None, *, strides=1, padding="SAME", padding_mode="zeros", padding_value=0, input_dilation=1,
    kernel_dilation=1, feature_group_count=1, flip_kernel=False, mask=None, segment_ids=None, valid=None,
):  # fmt: skip
    if valid is not None:
        x = np.where(valid[..., None], x, np.zeros((), x.dtype))
    if segment_ids is not None:  # each segment with zeros around it; of its results those at its positions
        options = dict(strides=strides, padding=padding, kernel_dilation=kernel_dilation)
        alone = {
            number: conv(np.where(segment_ids[..., None] == number, x, np.zeros((), x.dtype)), kernel, bias,
                         feature_group_count=feature_group_count, **options)
            for number in np.unique(segment_ids)
        }  # fmt: skip
        step = broadcast_to_rank(strides, 1)[0]
        own = {number: (segment_ids == number)[..., ::step, None] for number in alone}
        return sum(np.where(own[number][..., : y.shape[-2], :], y, 0) for number, y in alone.items())
    x, kernel = wide(x), wide(kernel) if mask is None else wide(kernel) * wide(mask)
    rank, groups = kernel.ndim - 2, feature_group_count
    size, strides, dilation = (
        kernel.shape[:rank],
        broadcast_to_rank(strides, rank),
        broadcast_to_rank(kernel_dilation, rank),
    )
    x = dilate(x, broadcast_to_rank(input_dilation, rank))
    pads = pad_pairs(padding, spatial_of(x, rank), size, strides, dilation)
    out = out_shape(spatial_of(x, rank), size, strides, pads, dilation)
    view = windows(pad(x, pads, pad_modes(padding, padding_mode, rank), padding_value), size, strides, dilation, out)
    if flip_kernel:
        kernel = np.flip(kernel, range(rank))
    taps, (c, features) = math.prod(size), kernel.shape[rank:]
    view = view.reshape(view.shape[: view.ndim - 1 - rank] + (taps, groups, c))
    y = np.einsum("...tgi,tigo->...go", view, kernel.reshape(taps, c, groups, features // groups))
    y = y.reshape(y.shape[:-2] + (features,))
    return y if bias is None else y + wide(bias)


def conv_transpose(
    x, kernel, bias=None, *, strides=1, padding="SAME", padding_mode="zeros", kernel_dilation=1, feature_group_count=1,
    output_padding=0, output_shape=None, transpose_kernel=False, use_consistent_padding=False,
):  # fmt: skip
    x, kernel = wide(x), wide(kernel)
    rank, groups = kernel.ndim - 2, feature_group_count
    size, strides, dilation = (
        kernel.shape[:rank],
        broadcast_to_rank(strides, rank),
        broadcast_to_rank(kernel_dilation, rank),
    )
    spatial, effective = spatial_of(x, rank), effective_size(size, dilation)
    if transpose_kernel:  # (*k, out / groups, in): the kernel of the convolution that this one is the adjoint of
        kernel = kernel.reshape(size + (-1, groups, kernel.shape[-1] // groups)).transpose(
            *range(rank), rank + 1, rank + 2, rank
        )
    else:  # (*k, in / groups, out), not flipped: lax's
        kernel = np.flip(kernel, range(rank))
        kernel = kernel.reshape(size + (-1, groups, kernel.shape[-1] // groups)).swapaxes(rank, rank + 1)
    # kernel: (*k, groups, in / groups, out / groups). Every input element adds its multiple of it to the result.
    whole = tuple((n - 1) * s + r for n, s, r in zip(spatial, strides, effective))
    batch, features = x.shape[: x.ndim - 1 - rank], groups * kernel.shape[-1]
    x = x.reshape(x.shape[:-1] + (groups, x.shape[-1] // groups))
    y = np.zeros(batch + whole + (groups, kernel.shape[-1]), np.result_type(x, kernel))
    for tap in np.ndindex(*size):
        at = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilation, spatial, strides))
        y[(..., *at, slice(None), slice(None))] += np.einsum("...gi,gio->...go", x, kernel[tap])
    y = y.reshape(batch + whole + (features,))

    pads, natural = transposed_geometry(padding, spatial, effective, strides, use_consistent_padding)
    sizes = tuple(n + more for n, more in zip(natural, broadcast_to_rank(output_padding, rank)))
    sizes = sizes if output_shape is None else broadcast_to_rank(output_shape, rank)
    modes = pad_modes(padding, padding_mode, rank)
    for axis, (n, (lo, hi), mode) in enumerate(zip(sizes, pads, modes), start=len(batch)):
        if mode == "zeros":
            y = take(y, source(y.shape[axis], -lo, n + lo - y.shape[axis], "zeros"), axis, 0)
        else:
            y = take(y, source(y.shape[axis], 0, n + lo + hi - y.shape[axis], "zeros"), axis, 0)
            y = pad_adjoint(y, axis, n, lo, hi, mode)
    return y if bias is None else y + wide(bias)


def transposed_geometry(padding, spatial, effective, strides, consistent):
    """Return the pads of the convolution whose adjoint this is, and the size of its input; for a named padding, whole
    strides."""
    whole = tuple((n - 1) * s + r for n, s, r in zip(spatial, strides, effective))
    if not isinstance(padding, str) or padding.upper() == "FULL":
        pads = pad_pairs(padding, spatial, effective, strides, (1,) * len(effective))
        if not consistent and not isinstance(padding, str):  # lax: pads of the dilated input
            pads = tuple((r - 1 - lo, r - 1 - hi) for r, (lo, hi) in zip(effective, pads))
        return pads, tuple(w - lo - hi for w, (lo, hi) in zip(whole, pads))
    sizes = tuple(n * s for n, s in zip(spatial, strides))
    pads = pad_pairs(padding, sizes, effective, strides, (1,) * len(effective))
    if padding.upper() == "VALID":
        sizes = tuple(max(n, w) for n, w in zip(sizes, whole))
    if padding.upper() == "CAUSAL" and not consistent:  # causal itself, not the adjoint of something causal
        pads = tuple((0, r - 1) for r in effective)
    return pads, sizes


def pad_adjoint(y, axis, n, lo, hi, mode):
    """Add each padded position to the position that it repeats."""
    at, moved = source(n, lo, hi, mode), np.moveaxis(y, axis, 0)
    x = np.zeros((n,) + moved.shape[1:], y.dtype)
    np.add.at(x, at[at >= 0], moved[at >= 0])
    return np.moveaxis(x, 0, axis)


def conv_local(
    x, kernel, bias=None, *, kernel_size, strides=1, padding="VALID", padding_mode="zeros", input_dilation=1,
        kernel_dilation=1
):  # fmt: skip
    """Apply `kernel`, `(*out, c * taps, features)`, channels before taps as in Flax's ConvLocal."""
    x, kernel = wide(x), wide(kernel)
    rank = kernel.ndim - 2
    size, strides, dilation = (
        broadcast_to_rank(kernel_size, rank),
        broadcast_to_rank(strides, rank),
        broadcast_to_rank(kernel_dilation, rank),
    )
    x = dilate(x, broadcast_to_rank(input_dilation, rank))
    pads = pad_pairs(padding, spatial_of(x, rank), size, strides, dilation)
    out = out_shape(spatial_of(x, rank), size, strides, pads, dilation)
    view = windows(pad(x, pads, pad_modes(padding, padding_mode, rank)), size, strides, dilation, out)
    view = np.moveaxis(view, -1, view.ndim - 1 - rank)  # (*batch, *out, c, *size)
    view = view.reshape(view.shape[: view.ndim - 1 - rank] + (-1,))
    y = np.einsum("...p,...po->...o", view, kernel)
    return y if bias is None else y + wide(bias)


def deform_conv(
    x, offset, kernel, bias=None, *, mask=None, strides=1, padding="SAME", kernel_dilation=1, feature_group_count=1
):  # fmt: skip
    x, offset, kernel = wide(x), wide(offset), wide(kernel)
    rank, c = kernel.ndim - 2, x.shape[-1]
    size, strides, dilation = (
        kernel.shape[:rank],
        broadcast_to_rank(strides, rank),
        broadcast_to_rank(kernel_dilation, rank),
    )
    spatial, taps = spatial_of(x, rank), math.prod(kernel.shape[:rank])
    pads = pad_pairs(padding, spatial, size, strides, dilation)
    batch, out = offset.shape[: x.ndim - 1 - rank], offset.shape[x.ndim - 1 - rank : -1]
    offset = offset.reshape((math.prod(batch),) + out + (offset.shape[-1] // (taps * rank), taps, rank))
    groups = offset.shape[-3]
    weight = np.ones(offset.shape[:-1]) if mask is None else wide(mask).reshape(offset.shape[:-1])
    images = x.reshape((math.prod(batch),) + spatial + (groups, c // groups))
    view = np.zeros((len(images),) + out + (taps, groups, c // groups))
    for n, o, g, t in itertools.product(range(len(images)), np.ndindex(*out), range(groups), range(taps)):
        tap = np.unravel_index(t, size)
        corner = [i * s + k * d - lo for i, s, k, d, (lo, _) in zip(o, strides, tap, dilation, pads)]
        sample = multilinear(images[n][..., g, :], corner + offset[(n, *o, g, t)])
        view[(n, *o, t, g)] = weight[(n, *o, g, t)] * sample
    view = view.reshape((len(images),) + out + (taps, feature_group_count, c // feature_group_count))
    features = kernel.shape[-1]
    kernel = kernel.reshape(taps, kernel.shape[-2], feature_group_count, -1)
    y = np.einsum("...tgi,tigo->...go", view, kernel).reshape(batch + out + (features,))
    return y if bias is None else y + wide(bias)


def multilinear(image, position):
    """Interpolate `image`, `(*spatial, c)`, between its elements, with zeros around it."""
    base, total = np.floor(position).astype(int), 0.0
    for corner in itertools.product((0, 1), repeat=len(base)):
        at = base + corner
        if all(0 <= i < n for i, n in zip(at, image.shape)):
            total = total + np.prod(1 - np.abs(position - at)) * image[tuple(at)]
    return total


def conv_matrix(kernel, input_shape, **options):
    basis = np.eye(math.prod(input_shape)).reshape((-1, *input_shape))
    return conv(basis, kernel, **options).reshape(len(basis), -1).T


# Patches


def unfold(x, window_shape, strides=1, padding="VALID", *, window_dilation=1):
    x = np.asarray(x)
    rank = rank_of(x, window_shape)
    size, strides, dilation = (broadcast_to_rank(v, rank) for v in (window_shape, strides, window_dilation))
    pads = pad_pairs(padding, spatial_of(x, rank), size, strides, dilation)
    out = out_shape(spatial_of(x, rank), size, strides, pads, dilation)
    return windows(pad(x, pads, pad_modes(padding, "zeros", rank)), size, strides, dilation, out)


def fold(patches, output_shape, strides=1, padding="VALID", *, window_dilation=1):
    patches, output_shape = wide(patches), tuple(output_shape)
    rank = len(output_shape)
    batch, size = patches.shape[: -1 - 2 * rank], patches.shape[-1 - rank : -1]
    strides, dilation, n = (
        broadcast_to_rank(strides, rank),
        broadcast_to_rank(window_dilation, rank),
        math.prod(output_shape),
    )
    origin = np.arange(n).reshape(*output_shape, 1) + 1  # from 1, because padding is 0
    at = unfold(origin, size, strides, padding, window_dilation=dilation).ravel()
    y = np.zeros((n + 1, *batch, patches.shape[-1]), patches.dtype)
    np.add.at(y, at, np.moveaxis(patches.reshape(*batch, at.size, -1), -2, 0))
    return np.moveaxis(y[1:], 0, -2).reshape(*batch, *output_shape, -1)
