"""Calls of a layer in JAX, convlab's or Flax's: forward, with gradients, in a loop, mapped over images and over an
ensemble."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from conditions import DTYPE, QUEUE
from suite import boxes, segments

STEPS = 3  # of the loop
RATE = 1e-6
MEMBERS = 2  # of the ensemble

Layer = Callable[[Any, jax.Array], jax.Array]


def linen_of(contestant: str) -> Any:
    """Return the module with the contestant's Linen layers and pools."""
    return importlib.import_module("convlab.linen" if contestant == "convlab" else "flax.linen")


def layer(contestant: str, case: dict[str, Any]) -> tuple[Layer, Any]:
    """Return the layer as a function of parameters and input, and its parameters' shapes."""
    if "call" in case:
        return operation(contestant, case)
    linen = linen_of(contestant)
    window, strides, pads = tuple(case["window"]), tuple(case["strides"]), [tuple(pair) for pair in case["padding"]]
    if case["op"].endswith("pool"):
        pool = getattr(linen, case["op"])
        return lambda _, x: pool(x, window, strides=strides, padding=pads), {}
    dilation = tuple(case["dilation"])
    kwargs: dict[str, Any] = {"strides": strides, "kernel_dilation": dilation, "use_bias": False, "param_dtype": DTYPE}
    if "method" in case:  # only convlab has it
        if contestant != "convlab":
            raise ValueError(f"no method but its own, not {case['method']}")
        kwargs["method"] = case["method"]
    if case["op"] == "conv":
        module = linen.Conv(case["features"], window, padding=pads, feature_group_count=case["groups"], **kwargs)
    else:  # PyTorch's padding crops the output, lax's pads the dilated input
        margins = [(size - 1) * step for size, step in zip(window, dilation)]
        gained = [(r - before, r - after) for r, (before, after) in zip(margins, pads)]
        groups = {} if case["groups"] == 1 else {"feature_group_count": case["groups"]}  # Flax's layer does not take it
        module = linen.ConvTranspose(
            case["features"], window, padding=gained, transpose_kernel=True, **groups, **kwargs
        )
    parameters = jax.eval_shape(module.init, jax.random.key(0), images(case))
    return module.apply, parameters


def operation(contestant: str, case: dict[str, Any]) -> tuple[Layer, Any]:
    """Return a function of the image, and of a grid as its parameter, with its options; only `jax.image.resize` is a
    counterpart in Flax or JAX."""
    if case["op"] == "conv":
        return integer_conv(contestant, case) if "dtype" in case["call"] else packed_conv(contestant, case)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in case["call"].items()}
    if contestant == "convlab":
        function = getattr(importlib.import_module("convlab"), case["op"])
        if case["op"] == "grid_sample":
            rank = len(case["spatial"])
            return lambda grid, x: function(x, grid, **options), jax.ShapeDtypeStruct(
                (*images(case).shape[:-1], rank), DTYPE
            )
        if case["op"].startswith("roi_"):
            regions = jnp.asarray(boxes(case), DTYPE)
            return lambda _, x: function(x, regions, **options), {}
        return lambda _, x: function(x, **options), {}
    if case["op"] != "resize" or options.get("align_corners") or options.get("method") == "area":
        raise ValueError(f"neither JAX nor Flax has {case['op']} with {case['call']}")
    sizes = tuple(int(n * options["scale"]) for n in case["spatial"]) if "scale" in options else options["output_shape"]
    shape, method = (case["batch"], *sizes, case["channels"]), options.get("method", "linear")
    return lambda _, x: jax.image.resize(x, shape, method, antialias=options.get("antialias", False)), {}


def packed_conv(contestant: str, case: dict[str, Any]) -> tuple[Layer, Any]:
    """Return a convolution of several sequences that are packed in each row, and its kernel's shape."""
    if contestant != "convlab":
        raise ValueError("neither JAX nor Flax has convolutions of packed sequences")
    ids = np.stack([np.repeat(np.arange(len(lengths)), lengths) for lengths in segments(case)]).astype(np.int32)
    conv, kernel, options = convolution(contestant, case)
    return lambda kernel, x: conv(x, kernel, segment_ids=jnp.asarray(ids), **options), kernel


def integer_conv(contestant: str, case: dict[str, Any]) -> tuple[Layer, Any]:
    """Return a convolution of int8 that is exact in int32, and its kernel's shape."""
    conv, kernel, options = convolution(contestant, case)
    return lambda kernel, x: conv(x, kernel, preferred_element_type=jnp.int32, **options), kernel


def convolution(contestant: str, case: dict[str, Any]) -> tuple[Callable, jax.ShapeDtypeStruct, dict[str, Any]]:
    """Return convlab's function or JAX's, the kernel's shape, and the function's options."""
    kernel = (*case["window"], case["channels"] // case["groups"], case["features"])
    options = {"padding": [tuple(pair) for pair in case["padding"]], "feature_group_count": case["groups"]}
    if contestant == "convlab":
        conv, strides, dilation = importlib.import_module("convlab").conv, "strides", "kernel_dilation"
    else:
        spatial = "DHW"[-len(case["spatial"]) :]
        options["dimension_numbers"] = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
        conv, strides, dilation = jax.lax.conv_general_dilated, "window_strides", "rhs_dilation"
    options |= {strides: tuple(case["strides"]), dilation: tuple(case["dilation"])}
    return conv, jax.ShapeDtypeStruct(kernel, dtype(case)), options


def dtype(case: dict[str, Any]) -> str:
    return case.get("call", {}).get("dtype", DTYPE)


def images(case: dict[str, Any]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((case["batch"], *case["spatial"], case["channels"]), dtype(case))


def draw(shapes: Any, scale: float = 0.1) -> Any:
    rng = np.random.default_rng(0)

    def drawn(of: jax.ShapeDtypeStruct) -> jax.Array:
        unit = 100 if jnp.issubdtype(of.dtype, jnp.integer) else 1
        return jnp.asarray(unit * scale * rng.standard_normal(of.shape, np.float32), of.dtype)

    return jax.tree.map(drawn, shapes)


def members(shapes: Any) -> Any:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct((MEMBERS, *s.shape), s.dtype), shapes)


def with_gradients(f: Layer) -> Callable:
    return lambda parameters, x, dy: jax.vjp(f, parameters, x)[1](dy)


def loop(f: Layer) -> Callable:
    """Run `STEPS` steps of gradient descent on all operands in one `lax.scan`."""

    def descend(parameters, x, dy):
        def step(operands, _):
            return jax.tree.map(lambda a, da: a - RATE * da, operands, with_gradients(f)(*operands, dy)), None

        return jax.lax.scan(step, (parameters, x), None, STEPS)[0]

    return descend


def image_by_image(f: Layer) -> Layer:
    return lambda parameters, x: jax.vmap(lambda image: f(parameters, image[None])[0])(x)


def programs(f: Layer, operands: tuple[Any, Any]) -> dict[str, tuple[Callable, tuple, int]]:
    """Return for each mode the function, its arguments' shapes and the number of layer calls in it."""
    out = jax.eval_shape(f, *operands)
    if not jnp.issubdtype(out.dtype, jnp.inexact):
        return {"forward": (f, operands, 1)}
    both = (*operands, out)
    return {
        "forward": (f, operands, 1),
        "gradients": (with_gradients(f), both, 1),
        "scan": (loop(f), both, STEPS),
        "vmap": (with_gradients(image_by_image(f)), both, 1),
        "ensemble": (with_gradients(jax.vmap(f)), members(both), MEMBERS),
    }


class Call:
    """A compiled program with its arguments; the first call creates both."""

    def __init__(self, function: Callable, make: Callable[[], tuple], **options: Any):
        self.compiled, self.make = jax.jit(function, **options), make

    @functools.cached_property
    def arguments(self) -> tuple:
        return self.make()

    def __call__(self) -> None:
        jax.block_until_ready([self.compiled(*self.arguments) for _ in range(QUEUE)])


def calls(contestant: str, case: dict[str, Any]) -> dict[str, tuple[list[Call], int]]:
    f, parameters = layer(contestant, case)
    return {
        mode: ([Call(function, functools.partial(draw, shapes))], work * QUEUE)
        for mode, (function, shapes, work) in programs(f, (parameters, images(case))).items()
    }
