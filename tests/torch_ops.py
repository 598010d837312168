"""PyTorch's operations with convlab's names, layout and options; channels first, symmetric pads and per-rank functions
are hidden here.

Every function takes torch tensors in convlab's layout and returns them in it. Options are drawn by `draws.py`.
"""

import math

import torch.nn.functional as F


def broadcast_to_rank(value, rank):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank


def batch_of(x, rank):
    return x.shape[: x.ndim - 1 - rank]


def first(x, rank):
    """Convert `(*batch, *spatial, c)` to `(n, c, *spatial)`."""
    batch = batch_of(x, rank)
    return x.reshape(math.prod(batch), *x.shape[len(batch) :]).movedim(-1, 1)


def last(y, batch):
    """Convert `(n, c, *spatial)` to `(*batch, *spatial, c)`."""
    return y.movedim(1, -1).reshape(*batch, *y.shape[2:], y.shape[1])


def weight(kernel):
    """Convert `(*k, a, b)` to `(b, a, *k)`."""
    return kernel.movedim((-1, -2), (0, 1)).contiguous()


def op(name, rank):
    return getattr(F, f"{name}{rank}d")


def flat_pads(padding, rank):
    return [p for pair in reversed([broadcast_to_rank(p, 2) for p in broadcast_to_rank(padding, rank)]) for p in pair]


def torch_mode(mode):
    return "constant" if mode == "zeros" else mode


def pad(x, padding, mode="zeros", value=0):
    rank = len(padding)
    fill = {"value": value} if mode == "constant" else {}
    return last(F.pad(first(x, rank), flat_pads(padding, rank), torch_mode(mode), **fill), batch_of(x, rank))


def conv(x, kernel, bias=None, *, strides, padding, padding_mode="zeros", kernel_dilation, feature_group_count):
    rank = kernel.ndim - 2
    images = first(x, rank)
    if not isinstance(padding, str):
        images = F.pad(images, flat_pads(padding, rank), torch_mode(padding_mode))
    amount = padding.lower() if isinstance(padding, str) else 0
    y = op("conv", rank)(images, weight(kernel), bias, strides, amount, kernel_dilation, feature_group_count)
    return last(y, batch_of(x, rank))


def conv_transpose(
    x, kernel, bias=None, *, strides, padding, kernel_dilation, feature_group_count, output_padding, transpose_kernel,
    use_consistent_padding,
):  # fmt: skip
    assert transpose_kernel and use_consistent_padding
    rank = kernel.ndim - 2
    y = op("conv_transpose", rank)(
        first(x, rank), weight(kernel), bias, strides, padding, output_padding, feature_group_count, kernel_dilation
    )
    return last(y, batch_of(x, rank))


def max_pool(x, window_shape, strides, padding, *, window_dilation, ceil_mode, return_indices=True):
    rank = len(window_shape)
    y, at = op("max_pool", rank)(
        first(x, rank), window_shape, strides, padding, window_dilation, ceil_mode, return_indices=True
    )
    return last(y, batch_of(x, rank)), last(at, batch_of(x, rank))


def min_pool(x, *args, **options):
    y, at = max_pool(-x, *args, **options)
    return -y, at


def avg_pool(x, window_shape, strides, padding, count_include_pad, *, ceil_mode, divisor_override=None):
    rank = len(window_shape)
    more = (divisor_override,) if rank > 1 else ()
    y = op("avg_pool", rank)(first(x, rank), window_shape, strides, padding, ceil_mode, count_include_pad, *more)
    return last(y, batch_of(x, rank))


def lp_pool(x, window_shape, strides, *, norm_type, ceil_mode):
    rank = len(window_shape)
    size, strides = (window_shape, strides) if rank > 1 else (window_shape[0], strides[0])
    y = op("lp_pool", rank)(first(x, rank).abs(), norm_type, size, strides, ceil_mode)
    return last(y, batch_of(x, rank))


def adaptive_avg_pool(x, output_shape):
    rank = len(output_shape)
    return last(op("adaptive_avg_pool", rank)(first(x, rank), output_shape), batch_of(x, rank))


def adaptive_max_pool(x, output_shape, return_indices=True):
    rank = len(output_shape)
    y, at = op("adaptive_max_pool", rank)(first(x, rank), output_shape, return_indices=True)
    return last(y, batch_of(x, rank)), last(at, batch_of(x, rank))


def fractional_max_pool(x, window_shape, *, output_shape=None, output_ratio=None, samples, return_indices=True):
    rank = len(window_shape)
    samples = samples.reshape(-1, *samples.shape[-2:])
    y, at = op("fractional_max_pool", rank)(
        first(x, rank), window_shape, output_shape, output_ratio, return_indices=True,
        _random_samples=samples.flip(-1) if rank == 2 else samples,
    )  # fmt: skip
    return last(y, batch_of(x, rank)), last(at, batch_of(x, rank))


def max_unpool(x, indices, output_shape):
    rank = len(output_shape)
    images, at = first(x, rank), first(indices, rank).contiguous()
    strides = tuple(o // n for o, n in zip(output_shape, images.shape[2:]))
    y = op("max_unpool", rank)(images, at, strides, output_size=output_shape)
    return last(y, batch_of(x, rank))


def unfold(x, window_shape, strides, padding, *, window_dilation):
    images = first(x, 2)
    y = F.unfold(images, window_shape, window_dilation, padding, strides)
    out = [
        (n + 2 * p - (k - 1) * d - 1) // s + 1
        for n, k, s, p, d in zip(images.shape[2:], window_shape, strides, padding, window_dilation)
    ]
    y = y.reshape(len(images), images.shape[1], *window_shape, *out).permute(0, 4, 5, 2, 3, 1)
    return y.reshape(*batch_of(x, 2), *y.shape[1:])


def fold(patches, output_shape, strides, padding, *, window_dilation):
    *batch, oh, ow, kh, kw, c = patches.shape
    columns = patches.reshape(-1, oh, ow, kh, kw, c).permute(0, 5, 3, 4, 1, 2)
    columns = columns.reshape(math.prod(batch), c * kh * kw, oh * ow)
    return last(F.fold(columns, output_shape, (kh, kw), window_dilation, padding, strides), batch)
