"""Programs that are slow according to reports to JAX, XLA and Flax, at sizes of our own: in plain JAX or Flax, and with
convlab's functions. A program is a function of its arrays; `small` sizes are for tests of the values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import convlab

NHWC = ("NHWC", "HWIO", "NHWC")
NWC = ("NWC", "WIO", "NWC")
NDHWC = ("NDHWC", "DHWIO", "NDHWC")
Shapes = list[tuple[int, ...]]
# A program's name -> what is timed, and the shapes of its arrays: large ones, and small ones.
SIZES: dict[str, tuple[str, Shapes, Shapes]] = {
    "depthwise": ("forward", [(1, 124, 124, 256), (3, 3, 1, 256)], [(1, 9, 9, 16), (3, 3, 1, 16)]),
    "dilated depthwise": ("gradients", [(16, 1024, 64), (5, 1, 64)], [(2, 40, 8), (5, 1, 8)]),
    "grouped": ("gradients", [(8, 512, 256), (5, 1, 256)], [(2, 20, 8), (5, 1, 8)]),
    "transposed 1-D": ("forward", [(4, 256, 256), (64, 256, 64)], [(2, 6, 8), (8, 8, 4)]),
    "transposed 3-D": ("gradients", [(1, 32, 32, 16, 64), (3, 3, 3, 64, 1)], [(1, 4, 4, 2, 6), (3, 3, 3, 6, 1)]),
    "transposed 3-D, forward": (
        "forward",
        [(1, 16, 16, 16, 32), (3, 3, 3, 32, 32)],
        [(1, 4, 4, 2, 4), (3, 3, 3, 4, 4)],
    ),
    "transposed, long strides": ("forward", [(1, 8, 8, 128), (32, 32, 128, 32)], [(1, 3, 3, 4), (4, 4, 4, 3)]),
    "loop": ("forward", [(1, 512, 512), (512, 512, 1)], [(1, 8, 9), (8, 8, 1)]),
    "large kernel": ("forward", [(1, 128, 128, 1), (127, 127, 1, 1)], [(1, 12, 12, 1), (7, 7, 1, 1)]),
    "mapped filter": ("forward", [(16, 160, 224), (30, 30)], [(3, 9, 10), (4, 4)]),
    "patches of 16": ("gradients", [(4, 224, 224, 3), (16, 16, 3, 192)], [(2, 8, 8, 3), (4, 4, 3, 5)]),
    "float64": ("gradients", [(2, 28, 28, 32), (3, 3, 32, 32)], [(2, 6, 6, 4), (3, 3, 4, 4)]),
    "bytes": ("forward", [(4, 56, 56, 64), (3, 3, 64, 64)], [(2, 6, 6, 4), (3, 3, 4, 4)]),
    "gradients per example": (
        "compile",
        [(64, 16, 16, 2), (3, 3, 2, 8), (3, 3, 8, 8)],
        [(3, 6, 6, 2), (3, 3, 2, 3), (3, 3, 3, 3)],
    ),
}  # fmt: skip
DTYPES = {"float64": np.float64, "bytes": np.int8, "large kernel": np.float64}


def lax_conv(x: Any, k: Any, padding: Any = "SAME", strides: int = 1, **options: Any) -> Any:
    numbers = {3: NWC, 4: NHWC, 5: NDHWC}[x.ndim]
    return lax.conv_general_dilated(x, k, (strides,) * (x.ndim - 2), padding, dimension_numbers=numbers, **options)


def program(name: str, own: bool) -> Callable:
    """Return the program in convlab's functions (`own`) or in JAX's."""
    conv = convlab.conv if own else lax_conv
    if name in ("depthwise", "grouped"):
        return lambda x, k: conv(x, k, feature_group_count=x.shape[-1])
    if name == "dilated depthwise":
        if own:
            return lambda x, k: conv(x, k, feature_group_count=x.shape[-1], kernel_dilation=8)
        return lambda x, k: conv(x, k, feature_group_count=x.shape[-1], rhs_dilation=(8,))
    if name.startswith("transposed"):
        stride = lambda k: k.shape[0] // 2 if k.shape[0] % 2 == 0 else 2
        if own:
            return lambda x, k: convlab.conv_transpose(x, k, strides=stride(k))
        return lambda x, k: lax.conv_transpose(x, k, (stride(k),) * (x.ndim - 2), "SAME")
    if name == "loop":  # channels first, as in the report
        conv = convlab.conv_general_dilated if own else lax.conv_general_dilated
        numbers = ("NCW", "OIW", "NCW")
        step = lambda x, k: conv(x, k, (1,), "VALID", dimension_numbers=numbers) / k.shape[1] ** 0.5
        return lambda x, k: lax.fori_loop(0, 2, lambda _, x: step(x, k), x)
    if name == "large kernel":
        return lambda x, k: conv(x, k, **({"method": "fft"} if own else {}))
    if name == "mapped filter":

        def filtered(image, k):
            before, after = k.shape[0] // 2, (k.shape[0] - 1) // 2
            if own:
                padding = [(before, after)] * 2
                return conv(image[..., None], k[..., None, None], padding=padding, padding_mode="reflect")[..., 0]
            image = jnp.pad(image, [(before, after)] * 2, "reflect")
            return conv(image[None, ..., None], k[..., None, None], "VALID")[0, ..., 0]

        return lambda images, k: jax.vmap(filtered, (0, None))(images, k)
    if name == "patches of 16":
        return lambda x, k: conv(x, k, padding="VALID", strides=k.shape[0])
    if name == "bytes":
        return lambda x, k: conv(x, k, preferred_element_type=jnp.int32)
    if name == "gradients per example":

        def loss(kernels, image):
            y = conv(jnp.tanh(conv(image[None], kernels[0])), kernels[1])
            return (y**2).mean()

        return lambda x, *kernels: jax.vmap(jax.grad(loss), (None, 0))(kernels, x)
    return conv


def arrays(name: str, shapes: Shapes) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    dtype = DTYPES.get(name, np.float32)
    if dtype == np.int8:
        return [rng.integers(-128, 128, shape, dtype) for shape in shapes]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def with_gradients(f: Callable) -> Callable:
    """Return the function with all gradients, for a cotangent that is the last argument."""
    return lambda *operands: jax.vjp(f, *operands[:-1])[1](operands[-1])


def prepared(name: str, own: bool, small: bool) -> tuple[str, Callable, list[np.ndarray]]:
    """Return the mode, the function and its arguments."""
    mode, large, little = SIZES[name]
    f, operands = program(name, own), arrays(name, little if small else large)
    if mode == "gradients":
        y = jax.eval_shape(f, *operands)
        dy = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
        f, operands = with_gradients(f), [*operands, dy]
    return mode, f, operands


def calls(contestant: str, payload: dict[str, Any]) -> dict[str, tuple[list[Callable], int]]:
    with jax.enable_x64(DTYPES.get(payload["name"]) is np.float64):
        mode, f, operands = prepared(payload["name"], contestant == "convlab", payload.get("small", False))
        arguments = [jnp.asarray(array) for array in operands]
        if mode == "compile":
            return {mode: ([functools.partial(compiled, f, arguments)], 1)}
        program = jax.jit(f).lower(*arguments).compile()
    return {mode: ([lambda: jax.block_until_ready(program(*arguments))], 1)}


def compiled(f: Callable, arguments: Sequence[Any]) -> None:
    """Trace, lower and compile without a cache."""
    jax.jit(lambda *operands: f(*operands)).lower(*arguments).compile()
    jax.clear_caches()
