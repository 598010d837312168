"""The operations without a counterpart in lax, each with the usual code of a JAX user, for the estimates of the TPU's
compiler."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import compiler
import flax.linen
import jax
import jax.numpy as jnp
from jax import lax

import convlab

IMAGES = ((8, 56, 56, 64), (64, 28, 28, 4))
WINDOW, STRIDES, PADS = (3, 3), (2, 2), [(1, 1), (1, 1)]
POOL: tuple[Any, ...] = (WINDOW, STRIDES, PADS)
ON_ALL_AXES: tuple[Any, ...] = ((1, *WINDOW, 1), (1, *STRIDES, 1), [(0, 0), *PADS, (0, 0)])
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Operation:
    """A function of an image and of the arguments that `others(image)` describes, the same function in plain JAX if it
    can be written, and the reason if that has no gradient."""

    name: str
    convlab: Callable[..., Any]
    plain: Callable[..., Any] | None = None
    others: Callable[[Shape], Sequence[tuple[Shape, str]]] = lambda image: ()
    plain_has_gradient: bool = True


# --- plain JAX ----------------------------------------------------------------------------------------------------


def halved(image: Shape) -> Shape:
    n, h, w, c = image
    return n, (h - 1) // 2 + 1, (w - 1) // 2 + 1, c


def patches(x):
    """Return (n, *out, c, taps), by lax's own function."""
    taps = lax.conv_general_dilated_patches(x, WINDOW, STRIDES, PADS, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return taps.reshape(*taps.shape[:-1], x.shape[-1], math.prod(WINDOW))


def argmax(x):
    """Return each window's maximum and its flat position in the image, by a reduction of pairs."""
    place = lax.broadcasted_iota(jnp.int32, x.shape, 1) * x.shape[2] + lax.broadcasted_iota(jnp.int32, x.shape, 2)

    def better(a, b):
        take = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
        return jnp.where(take, b[0], a[0]), jnp.where(take, b[1], a[1])

    return lax.reduce_window((x, place), (-jnp.inf, jnp.int32(2**31 - 1)), better, *ON_ALL_AXES)


def stacked(x, strides, pads, dilation, reduce):
    """Reduce the window's taps, stacked along a new last axis."""
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-jnp.inf)
    out = [(n - dilation * (k - 1) - 1) // s + 1 for n, k, s in zip(x.shape[1:3], WINDOW, strides)]
    taps = [
        (slice(t * dilation, t * dilation + (o - 1) * s + 1, s) for t in range(k))
        for k, s, o in zip(WINDOW, strides, out)
    ]
    down, across = map(list, taps)
    return reduce(jnp.stack([x[:, i, j] for i in down for j in across], -1), -1)


def top_k(x):
    return lax.top_k(patches(x), 3)[0].mean(-1)


def unpool(y, indices, spatial):
    n, h, w, c = y.shape
    flat = jnp.zeros((n, math.prod(spatial), c), y.dtype)
    flat = flat.at[jnp.arange(n)[:, None, None], indices.reshape(n, h * w, c), jnp.arange(c)].set(
        y.reshape(n, h * w, c)
    )
    return flat.reshape(n, *spatial, c)


def adaptive(x, size, reduce):
    """Reduce bin by bin, one axis after another."""
    for axis in (1, 2):
        n = x.shape[axis]
        cuts = [lax.slice_in_dim(x, i * n // size, -(-(i + 1) * n // size), axis=axis) for i in range(size)]
        x = jnp.stack([reduce(cut, axis) for cut in cuts], axis)
    return x


def softmax(x):
    taps = patches(x)
    return (jax.nn.softmax(taps) * taps).sum(-1)


def drawn(x, key):
    taps = patches(jax.nn.relu(x))
    chosen = jax.random.categorical(jax.random.wrap_key_data(key), jnp.log(taps))
    return jnp.take_along_axis(taps, chosen[..., None], -1)[..., 0]


def blur(x):
    c = x.shape[-1]
    x = jnp.pad(x, [(0, 0), *PADS, (0, 0)], "reflect")
    weights = jnp.outer(jnp.array([1.0, 2, 1]), jnp.array([1.0, 2, 1])) / 16
    kernel = jnp.broadcast_to(weights[..., None, None].astype(x.dtype), (3, 3, 1, c))
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, STRIDES, "VALID", dimension_numbers=layout, feature_group_count=c)


def deformed(x, offset, kernel):
    """Sample by a gather for each corner, as a composition of `grid_sample` and a product does."""
    n, h, w, _ = x.shape
    out = halved(x.shape)[1:3]
    starts = jnp.stack(
        jnp.meshgrid(*(jnp.arange(o) * s - lo for o, s, (lo, _) in zip(out, STRIDES, PADS)), indexing="ij"), -1
    )
    taps = jnp.stack(jnp.meshgrid(*map(jnp.arange, WINDOW), indexing="ij"), -1).reshape(-1, 2)
    position = starts[:, :, None] + taps + offset.reshape(n, *out, -1, 2)
    low = jnp.floor(position)
    sampled = jnp.zeros(())
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at = (low + jnp.array(corner)).astype(jnp.int32)
        weight = (1 - jnp.abs(position - at)).prod(-1)
        inside = ((at >= 0) & (at < jnp.array((h, w)))).all(-1)
        at = jnp.where(inside[..., None], at, 0)
        values = x[jnp.arange(n)[:, None, None, None], at[..., 0], at[..., 1]]
        sampled += values * jnp.where(inside, weight, 0)[..., None]
    return jnp.einsum("nhwtc,tcf->nhwf", sampled.astype(x.dtype), kernel.reshape(-1, *kernel.shape[2:]))


# --- the list -----------------------------------------------------------------------------------------------------


def ours(name: str, *args: Any, **options: Any) -> Callable[..., Any]:
    return lambda x: getattr(convlab, name)(x, *args, **options)


def indices_of(image: Shape) -> Sequence[tuple[Shape, str]]:
    return ((halved(image), "int32"),)


def local_kernel(image: Shape) -> Sequence[tuple[Shape, str]]:
    return (((*halved(image)[1:3], math.prod(WINDOW) * image[-1], image[-1]), "float32"),)


def offset_and_kernel(image: Shape) -> Sequence[tuple[Shape, str]]:
    c = image[-1]
    return ((*halved(image)[:3], 2 * math.prod(WINDOW)), "float32"), ((*WINDOW, c, c), "float32")


CROPPED = [(-1, 1), (-1, 1)]
WIDE = [(2, 2), (2, 2)]
OPERATIONS: tuple[Operation, ...] = (
    Operation("max_pool", ours("max_pool", *POOL), lambda x: flax.linen.max_pool(x, *POOL)),
    Operation("min_pool", ours("min_pool", *POOL), lambda x: -flax.linen.max_pool(-x, *POOL)),
    Operation("max_pool with indices", ours("max_pool", *POOL, return_indices=True), argmax, plain_has_gradient=False),
    Operation(
        "max_pool dilated",
        ours("max_pool", 3, 1, WIDE, window_dilation=2),
        lambda x: stacked(x, (1, 1), WIDE, 2, jnp.max),
    ),
    Operation(
        "max_pool dilated strided",
        ours("max_pool", 3, 2, WIDE, window_dilation=3),
        lambda x: stacked(x, (2, 2), WIDE, 3, jnp.max),
    ),
    Operation(
        "max_pool cropped",
        ours("max_pool", WINDOW, STRIDES, CROPPED),
        lambda x: flax.linen.max_pool(x[:, 1:, 1:], WINDOW, STRIDES, [(0, 1), (0, 1)]),
    ),
    Operation("top_k_pool of 3", ours("top_k_pool", *POOL, k=3), top_k),
    Operation(
        "max_unpool",
        lambda x, indices: convlab.max_unpool(x, indices, tuple(2 * n for n in x.shape[1:3])),
        lambda x, indices: unpool(x, indices, tuple(2 * n for n in x.shape[1:3])),
        indices_of,
    ),
    Operation("adaptive_avg_pool to 5", ours("adaptive_avg_pool", 5), lambda x: adaptive(x, 5, jnp.mean)),
    Operation("adaptive_max_pool to 5", ours("adaptive_max_pool", 5), lambda x: adaptive(x, 5, jnp.max)),
    Operation("adaptive_max_pool to 5, indices", ours("adaptive_max_pool", 5, return_indices=True)),
    Operation("spatial_pyramid_pool", ours("spatial_pyramid_pool")),
    Operation("global_max_pool", ours("global_max_pool"), lambda x: x.max((1, 2))),
    Operation(
        "fractional_max_pool",
        lambda x, samples: convlab.fractional_max_pool(x, 2, output_ratio=0.7, samples=samples),
        others=lambda image: (((image[0], image[-1], 2), "float32"),),
    ),
    Operation(
        "stochastic_pool drawn",
        lambda x, key: convlab.stochastic_pool(x, *POOL, key=jax.random.wrap_key_data(key)),
        drawn,
        lambda image: (((2,), "uint32"),),
    ),
    Operation("stochastic_pool expected", ours("stochastic_pool", *POOL)),
    Operation("softmax_pool", ours("softmax_pool", *POOL), softmax),
    Operation("lp_pool", ours("lp_pool", *POOL), lambda x: jnp.sqrt(9 * flax.linen.avg_pool(x**2, *POOL))),
    Operation("gem_pool", ours("gem_pool", *POOL), lambda x: flax.linen.avg_pool(jnp.abs(x) ** 3, *POOL) ** (1 / 3)),
    Operation(
        "mixed_pool",
        ours("mixed_pool", *POOL),
        lambda x: (flax.linen.max_pool(x, *POOL) + flax.linen.avg_pool(x, *POOL)) / 2,
    ),
    Operation("blur_pool", ours("blur_pool", 3, 2, PADS), blur),
    Operation(
        "pool by logaddexp",
        ours("pool", -math.inf, jnp.logaddexp, *POOL),
        lambda x: lax.reduce_window(x, -jnp.inf, jnp.logaddexp, *ON_ALL_AXES),
        plain_has_gradient=False,
    ),
    Operation(
        "conv_local",
        lambda x, kernel: convlab.conv_local(x, kernel, kernel_size=WINDOW, strides=STRIDES, padding=PADS),
        lambda x, kernel: lax.conv_general_dilated_local(
            x, kernel, STRIDES, PADS, WINDOW, dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        local_kernel,
    ),
    Operation(
        "deform_conv",
        lambda x, offset, kernel: convlab.deform_conv(x, offset, kernel, strides=STRIDES, padding=PADS),
        deformed,
        offset_and_kernel,
    ),
    Operation("unfold", ours("unfold", *POOL), patches),
    Operation(
        "pad reflect", ours("pad", (3, 3), "reflect"), lambda x: jnp.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)], "reflect")
    ),
    Operation(
        "pad circular", ours("pad", (3, 3), "circular"), lambda x: jnp.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)], "wrap")
    ),
)


# --- estimates ----------------------------------------------------------------------------------------------------


def arguments(operation: Operation, image: Shape, dtype: str) -> list[jax.ShapeDtypeStruct]:
    """Return the image and the other arguments; an unpooling gets a pooled image."""
    shape = halved(image) if operation.name == "max_unpool" else image
    others = [jax.ShapeDtypeStruct(s, dtype if kind == "float32" else kind) for s, kind in operation.others(image)]
    return [jax.ShapeDtypeStruct(shape, dtype), *others]


def gradient(function: Callable[..., Any], *args: jax.ShapeDtypeStruct) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the gradient with respect to the floating arguments, as a function of arguments and cotangent, and the
    shapes of these."""
    floats = [i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating)]

    def first(*values):
        return jax.tree.leaves(function(*values))[0]

    def pulled(*given):
        *values, dy = given
        chosen = [values[i] for i in floats]
        return jax.vjp(lambda *f: first(*(dict(zip(floats, f)).get(i, v) for i, v in enumerate(values))), *chosen)[1](
            dy
        )

    return pulled, (*args, jax.eval_shape(first, *args))


def estimates(operation: Operation, image: Shape, mode: str, dtype: str) -> dict[str, compiler.Estimate]:
    """Return estimates by contestant, "convlab" and "plain JAX"; the latter only if it has a counterpart and a
    gradient."""
    found, shapes = {}, arguments(operation, image, dtype)
    for contestant, function in (("convlab", operation.convlab), ("plain JAX", operation.plain)):
        if function and (mode == "forward" or contestant == "convlab" or operation.plain_has_gradient):
            program, given = (function, shapes) if mode == "forward" else gradient(function, *shapes)
            found[contestant] = compiler.estimate(program, *given)
    return found
