"""Large windows: products of spectra. A correlation of images is a product of their Fourier transforms, one of them
conjugated (the convolution theorem; Mathieu, Henaff, LeCun 2014, arXiv:1312.5851). Time hardly depends on the window.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from ..problem import Problem
from .base import Array, Formulation, Solve, padded


def forward_unsupported(p: Problem) -> str | None:
    if not 1 <= p.rank <= 3 or p.dilates_input:
        return "fft takes one to three undilated axes"
    return None if jnp.issubdtype(p.out_dtype, jnp.floating) else "fft takes real floats"


def _smooth(size: int) -> int:
    """The next length that factors into 2, 3 and 5."""
    odd = [3**i * 5**j for i in range(12) for j in range(8)]
    return min(o << (-(-size // o) - 1).bit_length() for o in odd)


def _spectrum(image, sizes, dtype):
    """(n, *spatial, c) -> (n, c, *frequencies): transforms run along the last axes."""
    return jnp.fft.rfftn(jnp.moveaxis(image, -1, 1).astype(dtype), sizes, tuple(range(-len(sizes), 0)))


def _grouped(spectrum, p: Problem):
    return spectrum.reshape(spectrum.shape[0], p.groups, -1, *spectrum.shape[2:])


def _dilated(a, dilation):
    """(n, *spatial, c) with zeros between the pixels."""
    return lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), *((0, 0, d - 1) for d in dilation), (0, 0, 0)])


def _inverse(spectrum, sizes, steps, counts):
    """(a, b, *frequencies) -> every `steps`-th pixel, `counts` of them: (a, b, *counts)."""
    image = jnp.fft.irfftn(spectrum, sizes, tuple(range(-len(sizes), 0)))
    return image[(..., *(slice(0, (count - 1) * step + 1, step) for step, count in zip(steps, counts)))]


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    image, acc = padded(x, p), p.accumulator
    sizes = tuple(map(_smooth, image.shape[1:-1]))
    # (c / g, *window, g * o) -> (c / g, g, o, *frequencies)
    taps = _grouped(_spectrum(_dilated(jnp.moveaxis(kernel, -2, 0), p.kernel_dilation), sizes, acc), p)
    image = _grouped(_spectrum(image, sizes, acc), p)
    y = jnp.einsum("ngi...,igo...->ngo...", image, jnp.conj(taps), precision=p.precision)
    y = _inverse(y.reshape(p.batch, p.features, *y.shape[3:]), sizes, p.strides, p.out)
    return jnp.moveaxis(y, 1, -1)


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    image, acc = padded(x, p), p.accumulator
    sizes = tuple(map(_smooth, image.shape[1:-1]))
    cotangent = _grouped(_spectrum(_dilated(dy, p.strides), sizes, acc), p)
    image = _grouped(_spectrum(image, sizes, acc), p)
    dkernel = jnp.einsum("ngi...,ngo...->igo...", image, jnp.conj(cotangent), precision=p.precision)
    dkernel = dkernel.reshape(p.channels // p.groups, p.features, *dkernel.shape[3:])
    dkernel = _inverse(dkernel, sizes, p.kernel_dilation, p.window)
    return jnp.moveaxis(dkernel, (0, 1), (-2, -1))


# A spectrum mixes all pixels.
FFT = Formulation("fft", forward, kernel_gradient, forward_unsupported, forward_unsupported, sums_directly=False)
