"""convlab's primitives: convolution and the window reductions, each with a default lowering to lax's and others for CPU and TPU."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, mlir

from . import batch_vectorized, dispatch, engine, tables, tpu, windows
from .axis import axes
from .twins import Primitive, abstract_of, make_linear, make_transposes, make_twin, replay, transpose_by_replay, zero_like

# --- convolution --------------------------------------------------------------------------------------------------


def lower_static(body: Callable, fallback: Callable) -> Callable:
    """The rule that lowers by `body`, and by `fallback` where a size is symbolic and there is nothing to choose by."""

    def rule(ctx, *args, **params):
        if not dispatch.is_static(*ctx.avals_in):
            return fallback(ctx, *args, **params)
        return mlir.lower_fun(functools.partial(body, **params), multiple_results=False)(ctx, *args)

    return rule


def conv_lowering(method: str, fallback: Callable, platform: str = "cpu") -> Callable:
    """The rule that lowers a convolution by `rules`, without the engine where its custom call must not be."""

    def rule(ctx, lhs, rhs, **params):
        lacks_engine = platform != "cpu" or engine.unsupported_context(ctx)
        without = tables.OF_THE_ENGINE if lacks_engine else frozenset()
        body = functools.partial(dispatch.conv, method=method, without=without, platform=platform)
        return lower_static(body, fallback)(ctx, lhs, rhs, **params)

    return rule


@functools.cache
def conv_primitive(method: str) -> Primitive:
    """The convolution whose maps, and their derivatives, go by `method` wherever it can serve."""
    original = lax.conv_general_dilated_p
    twin = make_twin(original, "convlab_conv" if method == "auto" else f"convlab_conv_{method}")
    ad.defbilinear(twin, transpose_by_replay(original, twin, 0), transpose_by_replay(original, twin, 1))
    only = {"lax": (), "onednn": ("cpu",), "swapped_operands": ("cpu",), "auto": ("cpu", "tpu")}
    for platform in only.get(method, ("cpu", "tpu", "gpu")):
        lowering = conv_lowering(method, mlir.lower_fun(original.bind, multiple_results=False), platform)
        mlir.register_lowering(twin, lowering, platform=None if platform == "gpu" else platform)
    return twin


conv_primitive("auto")  # now, while it can still be told if this JAX has other hooks


def conv_general_dilated(lhs, rhs, *args, method: str = "auto", **kwargs) -> jax.Array:
    """`lax.conv_general_dilated`, by convlab's own primitive."""
    original = lax.conv_general_dilated_p
    return replay(original, conv_primitive(method), lambda x, k: lax.conv_general_dilated(x, k, *args, **kwargs), lhs, rhs)


# --- sums ---------------------------------------------------------------------------------------------------------


def _sum_transpose(cotangent, x, **params):
    """Strides and base dilation trade places; the pads are those that bring every place back to where it came from."""
    if type(cotangent) is ad.Zero:
        return [cotangent]
    mirrored = dict(params, window_strides=params["base_dilation"], base_dilation=params["window_strides"])
    rows = zip(*(params[k] for k in ("padding", "window_dimensions", "window_dilation", "window_strides", "base_dilation")))
    pads = []
    for (n, out), ((lo, _), window, dilation, stride, base) in zip(zip(x.aval.shape, cotangent.shape), rows):
        before = (window - 1) * dilation - lo
        pads.append((before, (n - 1) * base + lo - (out - 1) * stride))
    return [window_sum_p.bind(cotangent, **dict(mirrored, padding=tuple(pads)))]


window_sum_p = make_twin(lax.reduce_window_sum_p, "convlab_window_sum")
ad.deflinear2(window_sum_p, _sum_transpose)


def _sum_of_lax(x, **params):
    """lax's, but an axis of one place that every window holds, the gradient of a sum over a whole axis, is copied."""
    copies = {axis.index: axis.out for axis in axes(x, **params) if axis.size == 1 and axis.out and axis.real.any(1).all()}
    idle = {name: (0, 0) if name == "padding" else 1 for name in params}
    rest = {name: tuple(idle[name] if i in copies else v for i, v in enumerate(value)) for name, value in params.items()}
    y = lax.reduce_window_sum_p.bind(x, **rest) if axes(x, **rest) else x
    return jnp.broadcast_to(y, [copies.get(i, n) for i, n in enumerate(y.shape)])


mlir.register_lowering(
    window_sum_p, lower_static(_sum_of_lax, mlir.lower_fun(lax.reduce_window_sum_p.bind, multiple_results=False))
)
mlir.register_lowering(window_sum_p, mlir.lower_fun(windows.window_sum, multiple_results=False), platform="cpu")


# --- maxima -------------------------------------------------------------------------------------------------------


def _max_primitive(original: Primitive, reducer: windows.Reducer) -> Primitive:
    """The windows' winners, with the derivatives that lax lacks for dilated windows and negative pads."""
    twin = make_twin(original, f"convlab_window_{reducer}")

    def of_x(x, v, **params):
        return abstract_of(original)(x, **params).update(dtype=v.dtype, weak_type=False)

    def like_x(x, v, **params):
        return x.update(dtype=v.dtype, weak_type=False)

    tangent = make_linear(f"convlab_{reducer}_tangent", of_x)
    cotangent = make_linear(f"convlab_{reducer}_cotangent", like_x)
    make_transposes(tangent, cotangent)

    def jvp(primals, tangents, **params):
        (x,), (dx,) = primals, tangents
        y = twin.bind(x, **params)
        return y, zero_like(y) if type(dx) is ad.Zero else tangent.bind(x, dx, **params)

    ad.primitive_jvps[twin] = jvp
    for primitive, body in ((tangent, windows.max_tangent), (cotangent, windows.max_cotangent)):
        lowered = mlir.lower_fun(functools.partial(body, reducer=reducer), multiple_results=False)
        mlir.register_lowering(primitive, lowered)
        lowered = mlir.lower_fun(functools.partial(batch_vectorized.pooled(body), reducer=reducer), multiple_results=False)
        mlir.register_lowering(primitive, lowered, platform="cpu")
    for primitive, body in ((tangent, tpu.tangent), (cotangent, tpu.cotangent)):
        lowered = mlir.lower_fun(functools.partial(body, reducer=reducer), multiple_results=False)
        mlir.register_lowering(primitive, lowered, platform="tpu")
    body = functools.partial(batch_vectorized.pooled(windows.window_max), reducer=reducer)
    mlir.register_lowering(twin, mlir.lower_fun(body, multiple_results=False), platform="cpu")
    return twin


window_max_p = _max_primitive(lax.reduce_window_max_p, "max")
window_min_p = _max_primitive(lax.reduce_window_min_p, "min")
