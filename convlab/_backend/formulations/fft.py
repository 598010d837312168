"""The formulation `fft`: multiply Fourier transforms, for large windows; the time hardly depends on the window.

The transform of a correlation is the product of the transforms, one of them conjugated (the convolution theorem;
Mathieu, Henaff, LeCun 2014, arXiv:1312.5851).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from ..problem import Problem
from .base import Array, Formulation, Solve, pad_image


def forward_unsupported(p: Problem) -> str | None:
    if not 1 <= p.rank <= 3 or p.dilates_input:
        return "fft takes one to three undilated axes"
    return None if jnp.issubdtype(p.out_dtype, jnp.floating) else "fft takes real floats"


def _smooth_size(size: int) -> int:
    """Return the smallest length of at least `size` whose only prime factors are 2, 3 and 5."""
    odd = [3**i * 5**j for i in range(12) for j in range(8)]
    return min(o << (-(-size // o) - 1).bit_length() for o in odd)


def _spectrum(image, sizes, dtype):
    """Transform (n, *spatial, c) to (n, c, *frequencies)."""
    return jnp.fft.rfftn(jnp.moveaxis(image, -1, 1).astype(dtype), sizes, tuple(range(-len(sizes), 0)))


def _split_groups(spectrum, p: Problem):
    return spectrum.reshape(spectrum.shape[0], p.groups, -1, *spectrum.shape[2:])


def _dilate(a, dilation):
    """Put zeros between the pixels of (n, *spatial, c)."""
    return lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), *((0, 0, d - 1) for d in dilation), (0, 0, 0)])


def _inverse_transform(spectrum, sizes, steps, counts):
    """Transform (a, b, *frequencies) back and return every `steps`-th pixel, `counts` of them: (a, b, *counts)."""
    image = jnp.fft.irfftn(spectrum, sizes, tuple(range(-len(sizes), 0)))
    return image[(..., *(slice(0, (count - 1) * step + 1, step) for step, count in zip(steps, counts)))]


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    image, acc = pad_image(x, p), p.accumulator
    sizes = tuple(map(_smooth_size, image.shape[1:-1]))
    # (c / g, *window, g * o) -> (c / g, g, o, *frequencies)
    taps = _split_groups(_spectrum(_dilate(jnp.moveaxis(kernel, -2, 0), p.kernel_dilation), sizes, acc), p)
    image = _split_groups(_spectrum(image, sizes, acc), p)
    y = jnp.einsum("ngi...,igo...->ngo...", image, jnp.conj(taps), precision=p.precision)
    y = _inverse_transform(y.reshape(p.batch, p.features, *y.shape[3:]), sizes, p.strides, p.out)
    return jnp.moveaxis(y, 1, -1)


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    image, acc = pad_image(x, p), p.accumulator
    sizes = tuple(map(_smooth_size, image.shape[1:-1]))
    cotangent = _split_groups(_spectrum(_dilate(dy, p.strides), sizes, acc), p)
    image = _split_groups(_spectrum(image, sizes, acc), p)
    dkernel = jnp.einsum("ngi...,ngo...->igo...", image, jnp.conj(cotangent), precision=p.precision)
    dkernel = dkernel.reshape(p.channels // p.groups, p.features, *dkernel.shape[3:])
    dkernel = _inverse_transform(dkernel, sizes, p.kernel_dilation, p.window)
    return jnp.moveaxis(dkernel, (0, 1), (-2, -1))


# A spectrum mixes all pixels.
FFT = Formulation("fft", forward, kernel_gradient, forward_unsupported, forward_unsupported, sums_directly=False)
