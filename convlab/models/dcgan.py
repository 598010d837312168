"""The generator of DCGAN: Radford, Metz, Chintala, "Unsupervised representation learning with DCGANs", arXiv
1511.06434, figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
from flax import nnx

from .. import nnx as cn
from ._registry import network

Array = jax.Array
normal = nnx.initializers.normal(0.02)  # section 4


def doubling(in_features: int, out_features: int, rngs: nnx.Rngs) -> cn.ConvTranspose:
    """Create a transposed 5 x 5 convolution that doubles the size: the adjoint of one with strides 2 and padding 2."""
    options: dict[str, Any] = dict(
        strides=2, padding=((2, 3), (2, 3)), transpose_kernel=True, use_bias=False, kernel_init=normal
    )
    return cn.ConvTranspose(in_features, out_features, (5, 5), rngs=rngs, **options)


@network
class DCGAN(nnx.Module):
    """DCGAN generator. Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional GANs",
    arXiv 1511.06434, figure 1.

    Input: 1 x 100
    Output: 1 x 64 x 64 x 3
    Parameters: 18,885,760 (the authors' code, gen_params of Newmu/dcgan_code faces/train_uncond_dcgan.py: 100 * 16384,
        25 (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3), and 2 for each of 16384 + 512 + 256 + 128 normalised)
    Multiply-adds: 640.6 million (figure 1: 100 * 16384, and 25 c_in c_out for each of 16, 64, 256 and 1024 positions of
    the inputs)

    It maps noise `(n, noise)` to images `(n, 64, 64, colours)` between -1 and 1.
    """

    def __init__(
        self, noise: int = 100, colours: int = 3, *, channels: Sequence[int] = (1024, 512, 256, 128), rngs: nnx.Rngs
    ):
        size = 4 * 4 * channels[0]
        self.project = nnx.Linear(noise, size, use_bias=False, kernel_init=normal, rngs=rngs)
        self.norms = nnx.List(cn.BatchNorm(n, momentum=0.9, rngs=rngs) for n in (size, *channels[1:]))
        self.ups = nnx.List(doubling(a, b, rngs) for a, b in pairwise((*channels, colours)))

    def __call__(self, z: Array) -> Array:
        x = nnx.relu(self.norms[0](self.project(z))).reshape(len(z), 4, 4, -1)
        for up, norm in zip(self.ups, self.norms[1:]):
            x = nnx.relu(norm(up(x)))
        return nnx.tanh(self.ups[-1](x))
