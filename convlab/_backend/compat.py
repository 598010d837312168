"""Every access to JAX's undocumented interfaces; no other file may use them.

The names are looked up once, when convlab is imported. If this version of JAX lacks one, `missing` says which, convlab
warns once, and lax computes every convolution and pool: correct, at lax's speed. Failures that appear only while a
program is lowered are caught in `lowering` and give the same warning.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

KEY = "convlab"  # the mark's name; XLA calls it a frontend attribute
# The exceptions that follow if JAX has moved, removed or changed an interface.
API_ERRORS = (AttributeError, ImportError, KeyError, NameError, NotImplementedError, TypeError)

missing: str | None = None
_warned = False


def warn_once(error: BaseException | str) -> None:
    """Warn that JAX lacks an interface that convlab needs, once in a process, and record which one."""
    global missing, _warned
    missing = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    if not _warned:
        _warned = True
        warnings.warn(f"convlab works with this version of JAX, but no faster than lax ({missing}).", stacklevel=2)


try:
    from jax._src.dispatch import apply_primitive as apply_primitive
    from jax._src.interpreters import ad, batching, mlir
    from jax.experimental.xla_metadata import set_xla_metadata
    from jax.sharding import AbstractMesh, use_abstract_mesh

    Primitive: Any = type(lax.add_p)
    ShapedArray = jax.core.ShapedArray
    NO_MESH = AbstractMesh((), ())
    CONVOLUTION = lax.conv_general_dilated_p
    WINDOW_SUM, WINDOW_MAX, WINDOW_MIN = lax.reduce_window_sum_p, lax.reduce_window_max_p, lax.reduce_window_min_p
    SCATTER_ADD, GATHER_ADD = lax.select_and_scatter_add_p, lax.select_and_gather_add_p
    SELECT_MAX, SELECT_MIN = lax.ge_p, lax.le_p
    _default_rules, _platform_rules = mlir._lowerings, mlir._platform_specific_lowerings
    _register, _lower_fun, _constrain = mlir.register_lowering, mlir.lower_fun, mlir.lower_with_sharding_in_types
    JVPS, TRANSPOSES, BATCHERS = ad.primitive_jvps, ad.primitive_transposes, batching.primitive_batchers
    Zero = ad.Zero
    has_hooks = True
except API_ERRORS as error:
    has_hooks = False
    warn_once(error)


# --- marks --------------------------------------------------------------------------------------------------------


def marked(method: str | None, *operands: Any) -> contextlib.AbstractContextManager:
    """Mark the primitives that are bound inside the context with a method; None removes a mark.

    Operands with a symbolic size stay unmarked: no formulation can be chosen for them, and XLA does not refine marked
    arithmetic of sizes.
    """
    if not has_hooks or not all(isinstance(n, int) for a in operands for n in a.shape):
        return contextlib.nullcontext()
    return set_xla_metadata(**{KEY: method})


def no_inline(on: bool = True) -> contextlib.AbstractContextManager:
    """Keep XLA from fusing functions that are called inside the context into their consumers; False allows it again."""
    return set_xla_metadata(inlineable="false" if on else None) if has_hooks else contextlib.nullcontext()


def mark_of(equation_context: Any) -> str | None:
    """Return the method that the `ctx` of a jaxpr's equation is marked with."""
    return (getattr(equation_context, "xla_metadata", None) or {}).get(KEY)


# --- lowering -----------------------------------------------------------------------------------------------------


_replaced: list[tuple[dict, Any, Any]] = []


def replace_rules(primitive: Any, make: Callable[[Callable], Callable], cacheable: bool = True) -> None:
    """Replace each registered lowering rule of a primitive by `make(rule)`, and add none.

    A rule that reads the operations which produce its operands is not cacheable: JAX lowers cacheable rules in a
    function of their own.
    """
    tables = [(None, _default_rules), *_platform_rules.items()]
    for platform, table in tables:
        if primitive in table:
            entry = table[primitive]
            _replaced.append((table, primitive, entry))
            original_rule: Any = getattr(entry, "rule", entry)
            options = {"inline": entry.inline} if hasattr(entry, "inline") else {}
            _register(primitive, make(original_rule), platform=platform, cacheable=cacheable, **options)


def restore_rules() -> None:
    """Undo every `replace_rules`."""
    while _replaced:
        table, primitive, entry = _replaced.pop()
        table[primitive] = entry


def add_rule(primitive: Any, rule: Callable) -> None:
    """Register a lowering rule for all platforms."""
    _register(primitive, rule, platform=None)


def method_of(ctx: Any) -> str | None:
    """Return the mark of the equation that is being lowered."""
    return mark_of(ctx.jaxpr_eqn_ctx)


def platforms_of(ctx: Any) -> tuple[str, ...]:
    """Return the platforms that the equation is lowered for; "gpu" stands for CUDA and ROCm."""
    platforms = ctx.platforms or ctx.module_context.platforms
    if getattr(ctx.jaxpr_eqn_ctx, "compute_type", None) == "device_host":
        platforms = ("cpu",)
    return tuple(dict.fromkeys("gpu" if p in ("cuda", "rocm", "gpu") else p for p in platforms))


def is_cpu_only(ctx: Any) -> bool:
    """Return whether the whole program is lowered for the CPU and for no other platform."""
    return platforms_of(ctx) == ("cpu",) and tuple(ctx.module_context.platforms) == ("cpu",)


def is_partitioned(ctx: Any) -> bool:
    """Return whether XLA will split the equation over devices."""
    axes = ctx.module_context.axis_context
    if hasattr(axes, "manual_axes"):
        return axes.mesh.size > 1 and axes.manual_axes != set(axes.mesh.axis_names)
    return getattr(axes, "num_devices", None) not in (None, 1)


def _mesh_of(ctx: Any) -> Any:
    """Return the mesh of the first operand or result that has one."""
    return next((a.sharding.mesh for a in (*ctx.avals_in, *ctx.avals_out) if not a.sharding.mesh.empty), NO_MESH)


def has_explicit_axes(ctx: Any) -> bool:
    """Return whether shardings are part of the operands' types."""
    return len(_mesh_of(ctx).explicit_axes) > 0


def is_explicit(ctx: Any) -> bool:
    """Return whether every axis of the mesh is explicit."""
    mesh = _mesh_of(ctx)
    return len(mesh.explicit_axes) == len(mesh.axis_names)


def spec_of(aval: Any) -> tuple:
    """Return how an explicit mesh splits each axis of an array, and the mesh axes over which it is not yet reduced."""
    spec = aval.sharding.spec
    return (*spec, *([frozenset(spec.unreduced)] if getattr(spec, "unreduced", None) else ()))


def is_export(ctx: Any) -> bool:
    """Return whether `jax.export` lowers the program."""
    return ctx.module_context.lowering_parameters.for_export


def lower(ctx: Any, function: Callable, *args: Any) -> Sequence[Any]:
    """Lower `function` without the caller's mesh, mark and promotion settings."""
    with _plain_context():
        bare = tuple(ShapedArray(aval.shape, aval.dtype) for aval in ctx.avals_in)
        (out,) = _lower_fun(function, multiple_results=False)(ctx.replace(avals_in=bare), *args)
    return [_constrain(ctx, out, ctx.avals_out[0])]


def lower_in_mesh(ctx: Any, function: Callable, *args: Any) -> Sequence[Any]:
    """Lower `function` in the equation's own mesh."""
    with marked(None):
        return _lower_fun(function, multiple_results=False)(ctx, *args)


def zero_pad_of(x: Any) -> tuple[Any, Sequence[tuple[int, int, int]]] | None:
    """Return the array that a pad with zeros turned into `x`, and each axis's (low, high, interior) pads.

    `x` is an operand of the equation that is being lowered. None if no such pad produces it.
    """
    pad: Any = getattr(x, "owner", None)
    if getattr(pad, "name", None) != "stablehlo.pad":
        return None
    operand, fill = pad.operands
    constant: Any = getattr(fill, "owner", None)
    if getattr(constant, "name", None) != "stablehlo.constant" or constant.attributes["value"].get_splat_value().value:
        return None
    names = ("edge_padding_low", "edge_padding_high", "interior_padding")
    return operand, list(zip(*(map(int, pad.attributes[name]) for name in names)))


@contextlib.contextmanager
def _plain_context() -> Iterator[None]:
    with (
        marked(None),
        use_abstract_mesh(NO_MESH),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


# --- primitives ---------------------------------------------------------------------------------------------------


def abstract_of(primitive: Any, *avals: Any, **params: Any) -> Any:
    """Return the abstract result of a primitive."""
    return primitive.abstract_eval(*avals, **params)[0]


def canonicalize_precision(precision: Any) -> Any:
    """Return an argument `precision` in lax's canonical form: None or a pair of `lax.Precision`s."""
    precision = getattr(jax.config, "jax_default_matmul_precision", None) if precision is None else precision
    if precision is None:
        return None
    pair = precision if isinstance(precision, (tuple, list)) else (precision, precision)
    return tuple(map(lax.Precision, pair)) if all(isinstance(p, (str, lax.Precision)) for p in pair) else None


# --- programs -----------------------------------------------------------------------------------------------------


def bind(equation: Any, operands: Sequence[Any]) -> list[Any]:
    """Bind an equation of a jaxpr to operands, in the equation's own context, and return the results."""
    primitive = equation.primitive
    with equation.ctx.manager:
        results = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return list(results) if primitive.multiple_results else [results]


def without_unread(jaxpr: Any) -> Any:
    """Return a jaxpr without the equations whose results nobody reads; the same if this JAX has moved the function."""
    try:
        from jax.interpreters.partial_eval import dce_jaxpr

        return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]
    except API_ERRORS:
        return jaxpr


def ensure_compile_time_eval() -> contextlib.AbstractContextManager:
    """Compute operations inside the context, rather than trace them, if they depend on no traced argument."""
    return jax.ensure_compile_time_eval()


def jit_primitive() -> Any:
    """Return the primitive of `jax.jit`'s equations; None if this JAX has moved it."""
    try:
        from jax._src.pjit import jit_p
    except API_ERRORS:
        return None
    return jit_p


def is_in_jet(x: Any) -> bool:
    """Return whether `jax.experimental.jet` computes a Taylor series of `x`; False if this JAX has moved its tracer."""
    tracer = getattr(sys.modules.get("jax.experimental.jet"), "JetTracer", None)
    return tracer is not None and isinstance(x, tracer)


# --- caches -------------------------------------------------------------------------------------------------------


@functools.cache
def cache_key(concern: str = "") -> Callable | None:
    """Return a context that is part of the keys of `jit`'s caches, one for each concern; None if JAX has none."""
    return jax.make_user_context(None) if hasattr(jax, "make_user_context") else None


def set_cache_key(concern: str, value: Any) -> Callable[[], None]:
    """Make `value` part of the keys of `jit`'s caches from now on; return a function that ends it."""
    key = cache_key(concern)
    if key is None:
        jax.clear_caches()
        return jax.clear_caches
    context = key(value)
    context.__enter__()
    return lambda: context.__exit__(None, None, None)


def exclude_from_cache(is_excluded: Callable[[str], bool], notify: Callable[[], None]) -> None:
    """Keep the programs whose text `is_excluded` out of JAX's persistent cache, and call `notify` for each of them."""
    from jax._src import compilation_cache

    put = compilation_cache.put_executable_and_time

    @functools.wraps(put)
    def put_unless_excluded(cache_key: Any, module_name: Any, executable: Any, *args: Any, **kwargs: Any) -> Any:
        if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
            return put(cache_key, module_name, executable, *args, **kwargs)
        try:
            excluded = any(is_excluded(module.to_string()) for module in executable.hlo_modules())
        except (*API_ERRORS, RuntimeError):
            excluded = False
        return notify() if excluded else put(cache_key, module_name, executable, *args, **kwargs)

    compilation_cache.put_executable_and_time = put_unless_excluded


# --- cost analysis ------------------------------------------------------------------------------------------------


def count_operations_as_lax(counting: threading.local) -> None:
    """Make `Lowered.cost_analysis` count lax's operations instead of a formulation's.

    XLA cannot count the operations of the engine's calls. So the analysis lowers the program once more as if no
    equation was marked; meanwhile `counting.on` is True.
    """
    traced, lowered = jax.stages.Traced, jax.stages.Lowered
    lower, analyse = traced.lower, lowered.cost_analysis

    @functools.wraps(lower)
    def lower_and_remember(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = lower(self, *args, **kwargs)
        with contextlib.suppress(AttributeError):
            result._lowering.convlab_origin = (self, args, kwargs)
        return result

    @functools.wraps(analyse)
    def analyse_as_lax(self: Any) -> Any:
        origin, key = getattr(self._lowering, "convlab_origin", None), cache_key()
        if origin is None or key is None:
            return analyse(self)
        program, args, kwargs = origin
        counting.on = True
        try:
            with key("lax"):
                return analyse(lower(program, *args, **kwargs))
        finally:
            counting.on = False

    setattr(traced, "lower", lower_and_remember)  # noqa: B010  a plain assignment is an error to type checkers
    setattr(lowered, "cost_analysis", analyse_as_lax)  # noqa: B010


# --- the guard ----------------------------------------------------------------------------------------------------


def guard(install: Callable[[], None]) -> None:
    """Register the lowering rules and test them; if that fails, restore JAX's own rules and warn.

    The test only traces: importing convlab must not initialise JAX's devices. A rule that fails when it first lowers a
    program warns then.
    """
    global has_hooks
    if not has_hooks:
        return
    try:
        install()
        _test()
    except API_ERRORS as error:
        has_hooks = False
        restore_rules()
        warn_once(error)


def _test() -> None:
    """Raise NotImplementedError if a mark does not reach an equation and its derivatives."""

    def convolution(x: Any) -> Any:
        with marked("test"):
            return lax.conv_general_dilated(x, x, (1,), "VALID")

    traced = jax.make_jaxpr(jax.grad(lambda x: convolution(x).sum()))(jax.ShapeDtypeStruct((1, 1, 1), jnp.float32))
    marks = {mark_of(eqn.ctx) for eqn in traced.jaxpr.eqns if eqn.primitive is CONVOLUTION}
    if marks != {"test"}:
        raise NotImplementedError("a mark does not reach the equations that are bound under it")
    if not callable(getattr(mlir.LoweringRuleContext, "replace", None)):
        raise NotImplementedError("LoweringRuleContext has no replace")
