"""The lowering rules of lax's convolution and window primitives, and of convlab's few own primitives.

`entry` and `pooling.maxima` bind these primitives. If an equation carries convlab's mark, its rule asks the platform's
table (`tables` by way of `dispatch`, or `pooling.operations`) for a formulation and lowers that. Without a mark, and
where the table chooses lax, it calls JAX's original rule. `accelerate()` uses the same rules with the mark implied.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from . import accelerate, compat, dispatch, stored
from .engine import calls_engine, supports, warn_uncached
from .fusion import call
from .pooling import maxima, operations
from .tables import FORMULATIONS, REQUESTED, Choice, Target, choose
from .tuning import active

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Plan:
    """How an equation is computed: by the function `body`, or if that is None by JAX's original rule."""

    operation: str  # "forward", "kernel gradient", or the kind of window reduction
    formulation: str
    reason: str
    body: Callable[..., Array] | None = None
    parts: tuple[str, ...] = ()


class Convolution:
    """The operation of `lax.conv_general_dilated_p`."""

    own = False

    def plan(self, operands: Sequence[Any], params: dict, method: str, target: Target) -> Plan:
        """Return how the equation is computed if its mark is `method`."""
        lhs, rhs = operands
        if method == "lax":
            kind, _ = dispatch.read(lhs, rhs, params, "auto", target)
            return Plan(kind.replace("_", " "), "lax", REQUESTED)
        kind, p = dispatch.read(lhs, rhs, params, method, target)
        choice = choose(kind, p, method, target)
        name, operation = choice.formulation.name, kind.replace("_", " ")
        if name == "lax" and target.platform != "cpu":
            return Plan(operation, name, choice.reason)

        def body(lhs: Array, rhs: Array, choice: Choice = choice) -> Array:
            return dispatch.convolution(lhs, rhs, kind, p, choice, target, params)

        return Plan(operation, name, choice.reason, body, tuple(dispatch.parts(kind, p, choice, target)))

    def plan_by_name(self, operands: Sequence[Any], params: dict, name: str, target: Target) -> Plan | None:
        """Return the plan that uses the named formulation; None if it is not supported."""
        plan = self.plan(operands, params, name, target)
        return plan if plan.formulation == name and plan.reason == REQUESTED else None

    def candidates(self, operands: Sequence[Any], params: dict, target: Target) -> list[str]:
        """Return the names of the supported formulations."""
        return [name for name in FORMULATIONS if self.plan_by_name(operands, params, name, target)]

    @staticmethod
    def name_of(plan: Plan) -> str:
        """Return the name for which `plan_by_name` returns that plan."""
        return "channels_last" if plan.formulation == "lax" and plan.body is not None else plan.formulation

    def split(self, avals: Sequence[Any], params: dict) -> tuple[Any, tuple[str, ...]] | None:
        """Return the result's spec and the mesh axes to sum over, if each device can convolve its part; else None.

        That holds if an explicit mesh splits the batch, or the channels that a convolution without groups sums over.
        """
        spec = params["dimension_numbers"]
        lhs, rhs = (tuple(aval.sharding.spec) for aval in avals)
        if params["batch_group_count"] > 1:
            return None
        batch, contracted = lhs[spec.lhs_spec[0]], lhs[spec.lhs_spec[1]]
        if any(lhs[a] is not None for a in spec.lhs_spec[2:]):
            return None
        if any(name is not None for a, name in enumerate(rhs) if a != spec.rhs_spec[1]):
            return None
        if contracted != rhs[spec.rhs_spec[1]] or contracted is not None and params["feature_group_count"] > 1:
            return None
        out = [None] * len(lhs)
        out[spec.out_spec[0]] = batch
        return PartitionSpec(*out), _mesh_axes(contracted)


@dataclasses.dataclass(frozen=True)
class WindowReduction:
    """The operation of a window primitive of lax, or of convlab (`own`); `name` is a function of `pooling.windows`."""

    name: str
    kind: str
    own: bool = False
    reducer: str | None = None
    swapped: bool = False  # the primitive takes the tangent or cotangent before x, as lax's derivatives of maxima do

    def plan(self, operands: Sequence[Any], params: dict, method: str, target: Target) -> Plan:
        """Return how the equation is computed; a window reduction has no methods."""
        shape, window, options, kind = self._read(operands, params)
        return self._plan(kind, *operations.choose(self.name, self.own, shape, window, target, **options))

    def plan_by_name(self, operands: Sequence[Any], params: dict, name: str, target: Target) -> Plan | None:
        """Return the plan that uses the named formulation; None if it is not supported."""
        shape, window, options, kind = self._read(operands, params)
        bodies = operations.candidates(self.name, self.own, shape, window, target, **options)
        return self._plan(kind, name, REQUESTED, bodies[name]) if name in bodies else None

    def candidates(self, operands: Sequence[Any], params: dict, target: Target) -> list[str]:
        """Return the names of the supported formulations."""
        shape, window, options, _ = self._read(operands, params)
        return list(operations.candidates(self.name, self.own, shape, window, target, **options))

    @staticmethod
    def name_of(plan: Plan) -> str:
        """Return the name for which `plan_by_name` returns that plan."""
        return "instruction" if plan.formulation == "lax" and plan.body is not None else plan.formulation

    def _read(self, operands: Sequence[Any], params: dict) -> tuple[tuple[int, ...], dict, dict[str, Any], str]:
        """Return the shape of the reduced array, the window's parameters, the reduction's options and its kind."""
        x = operands[-1 if self.swapped else 0]
        options: dict[str, Any] = {"reducer": self.reducer} if self.reducer else {}
        kind = self.kind
        if "select_prim" in params:
            options["reducer"] = "max" if params["select_prim"] is compat.SELECT_MAX else "min"
            kind = kind.replace("max", options["reducer"])
        window = {key: value for key, value in params.items() if key in _WINDOW}
        ones = (1,) * len(x.shape)
        return tuple(x.shape), {"base_dilation": ones, "window_dilation": ones} | window, options, kind

    def _plan(self, kind: str, name: str, reason: str, body: Callable[..., Array] | None) -> Plan:
        if body is not None and self.swapped:
            return Plan(kind, name, reason, lambda v, x: body(x, v))
        return Plan(kind, name, reason, body)

    def split(self, avals: Sequence[Any], params: dict) -> tuple[Any, tuple[str, ...]] | None:
        """Return the result's spec and no axes to sum over, if no window is on a split axis; else None."""
        specs = {tuple(aval.sharding.spec) for aval in avals}
        spec = next(iter(specs))
        axes = zip(spec, params["window_dimensions"], params["window_strides"], params["padding"])
        if len(specs) > 1 or any(name is not None and (k, s, tuple(p)) != (1, 1, (0, 0)) for name, k, s, p in axes):
            return None
        return PartitionSpec(*spec), ()


_WINDOW = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
OPERATIONS: dict[Any, Convolution | WindowReduction] = {}


def plan_of(primitive: Any, operands: Sequence[Any], params: dict, method: str, target: Target) -> Plan:
    """Return how an equation with the mark `method` is computed."""
    operation = OPERATIONS[primitive]
    if not operation.own and not all(isinstance(n, int) for a in operands for n in a.shape):
        return Plan("", "lax", "a size is symbolic: no formulation can be chosen")
    if target.measured and method in ("auto", "measured"):
        for name, reason in active.ranked(primitive, operands, params):
            plan = operation.plan_by_name(operands, params, name, target)
            if plan is not None:
                return dataclasses.replace(plan, reason=reason)
    if method == "measured":
        return dataclasses.replace(operation.plan(operands, params, "lax", target), formulation="lax", body=None)
    return operation.plan(operands, params, method, target)


def _target(ctx: Any, platform: str) -> Target:
    partitioned = compat.is_partitioned(ctx)
    is_local = not partitioned and not compat.is_export(ctx)
    engine = is_local and supports(platform)
    measured = is_local and len(compat.platforms_of(ctx)) == 1 and active.applies_to(platform)
    return Target(platform, engine, partitioned, measured)


def _cpu_target(ctx: Any) -> Target:
    return Target("cpu", engine=False) if getattr(_counting, "on", False) else _target(ctx, "cpu")


def _mesh_axes(entry: Any) -> tuple[str, ...]:
    """Return the mesh axes that an entry of a PartitionSpec names."""
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


_counting = threading.local()  # `on` is True while `Lowered.cost_analysis` lowers a program as lax's


def _method(ctx: Any, own: bool) -> str | None:
    """Return the method to lower an equation by; None for JAX's original rule."""
    if getattr(_counting, "on", False):
        return "auto" if own else None
    method = compat.method_of(ctx)
    if method is None and own:
        return "auto"
    if method is None and accelerate.is_active() and compat.is_cpu_only(ctx):
        return "auto"
    if method is None and accelerate.is_active() and any(map(active.applies_to, compat.platforms_of(ctx))):
        return "measured"
    return None if method == "lax" else method


def _rule(primitive: Any, original_rule: Callable) -> Callable:
    """Return a primitive's lowering rule, which falls back on the original one."""
    own = OPERATIONS[primitive].own

    def rule(ctx: Any, *args: Any, **params: Any) -> Any:
        try:
            method = _method(ctx, own)
            if method is not None:
                return _lower(primitive, original_rule, method, ctx, *args, **params)
        except compat.API_ERRORS as error:
            compat.warn_once(error)
        return original_rule(ctx, *args, **params)

    return rule


def _lower(primitive: Any, original_rule: Callable, method: str, ctx: Any, *args: Any, **params: Any) -> Any:
    """Lower an equation by a method: on each platform by its plan, or on each device's part of a split batch."""
    if compat.has_explicit_axes(ctx):
        split = OPERATIONS[primitive].split(ctx.avals_in, params) if compat.is_explicit(ctx) else None
        if split is None or compat.spec_of(ctx.avals_out[0]) != tuple(split[0]):
            return original_rule(ctx, *args, **params)
        return compat.lower_in_mesh(ctx, _per_device(primitive, method, params, split, ctx), *args)
    platforms = compat.platforms_of(ctx)
    if primitive is compat.WINDOW_SUM and platforms == ("cpu",):
        ctx, args, params = _absorb_pad(ctx, args, params)
    plans = {p: plan_of(primitive, ctx.avals_in, params, method, _target(ctx, p)) for p in platforms}
    bodies = {p: plan.body for p, plan in plans.items() if plan.body is not None}
    if not bodies:
        return original_rule(ctx, *args, **params)
    if len(platforms) == 1:
        return compat.lower(ctx, bodies[platforms[0]], *args)

    def as_written(*operands: Array) -> Array:
        with compat.marked("lax"):
            return primitive.bind(*operands, **params)

    per_platform = {name: body for p, body in bodies.items() for name in (("cuda", "rocm") if p == "gpu" else (p,))}
    return compat.lower(
        ctx, lambda *operands: lax.platform_dependent(*operands, **per_platform, default=as_written), *args
    )


def _absorb_pad(ctx: Any, args: tuple, params: dict) -> tuple[Any, tuple, dict]:
    """Turn a pad with zeros that produces a window sum's operand into the sum's own padding and base dilation.

    lax's derivative of a window sum pads the cotangent and sums with strides of 1, which reads mostly zeros.
    """
    dtype, unpadded = ctx.avals_in[0].dtype, all(tuple(pair) == (0, 0) for pair in params["padding"])
    if not unpadded or max(params["base_dilation"]) > 1 or not jnp.issubdtype(dtype, jnp.floating):
        return ctx, args, params
    found = compat.zero_pad_of(args[0])
    if found is None or 0 in found[0].type.shape:
        return ctx, args, params
    operand, pads = found
    shape = tuple(operand.type.shape)
    padding = tuple((low, high) for low, high, _ in pads)
    dilation = tuple(between + 1 for *_, between in pads)
    ctx = ctx.replace(avals_in=(compat.ShapedArray(shape, dtype),))
    return ctx, (operand,), params | {"padding": padding, "base_dilation": dilation}


def _per_device(primitive: Any, method: str, params: dict, split: tuple[Any, tuple[str, ...]], ctx: Any) -> Callable:
    """Return a function that binds the equation on each device's part of arrays that an explicit mesh splits."""
    out, reduced = split
    local = params | ({"out_sharding": None} if "out_sharding" in params else {})

    def body(*operands: Array) -> Array:
        with compat.marked(method):
            y = primitive.bind(*operands, **local)
        return lax.psum(y, reduced) if reduced else y

    specs = tuple(PartitionSpec(*compat.spec_of(aval)) for aval in ctx.avals_in)
    mesh = ctx.avals_in[0].sharding.mesh
    return jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)


# --- registration -------------------------------------------------------------------------------------------------


def install() -> None:
    """Register the lowering rules; raises one of `compat.API_ERRORS` if this JAX has moved what they hook into."""
    OPERATIONS.update(
        {
            compat.CONVOLUTION: Convolution(),
            compat.WINDOW_SUM: WindowReduction("window_sum", "sum"),
            compat.WINDOW_MAX: WindowReduction("window_max", "max", reducer="max"),
            compat.WINDOW_MIN: WindowReduction("window_max", "min", reducer="min"),
            compat.GATHER_ADD: WindowReduction("max_tangent", "max tangent", swapped=True),
            compat.SCATTER_ADD: WindowReduction("max_cotangent", "max gradient", swapped=True),
        }
    )
    for primitive in list(OPERATIONS):
        cacheable = primitive is not compat.WINDOW_SUM
        compat.replace_rules(primitive, functools.partial(_rule, primitive), cacheable)
    if compat.jit_primitive() is not None:
        compat.replace_rules(compat.jit_primitive(), lambda original_rule: call.rule(original_rule, _cpu_target))
    compat.replace_rules(lax.optimization_barrier_p, stored.rule)
    with contextlib.suppress(*compat.API_ERRORS):
        compat.count_operations_as_lax(_counting)
    with contextlib.suppress(*compat.API_ERRORS):
        compat.exclude_from_cache(calls_engine, warn_uncached)
    kinds = {"window_argmax": "argmax", "max_tangent": "tangent", "max_cotangent": "gradient"}
    for (reducer, name), primitive in maxima.OWN.items():
        OPERATIONS[primitive] = WindowReduction(name, f"{reducer} {kinds[name]}", own=True, reducer=reducer)
        compat.add_rule(primitive, _rule(primitive, functools.partial(_lower_own, primitive)))


def _lower_own(primitive: Any, ctx: Any, *args: Any, **params: Any) -> Any:
    """Lower one of convlab's own primitives if an explicit mesh splits a window: by slices, which XLA can split."""
    body = plan_of(primitive, ctx.avals_in, params, "auto", Target("gpu", engine=False, partitioned=True)).body
    assert body is not None
    return compat.lower(ctx, body, *args)
