"""The pool functions with Flax's name for the image: `max_pool(inputs=x, ...)`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from .. import _pool

Function = TypeVar("Function", bound=Callable[..., Any])


def with_inputs(function: Function) -> Function:
    """Rename the first parameter of `function` to `inputs`, as in Flax."""
    first, *others = inspect.signature(function).parameters.values()
    shown = [first.replace(name="inputs"), *others]

    @functools.wraps(function)
    def pool(inputs: Any, *args: Any, **options: Any) -> Any:
        return function(inputs, *args, **options)

    pool.__signature__ = inspect.signature(function).replace(parameters=shown)  # type: ignore[attr-defined]
    pool.__annotations__ = {
        "inputs" if name == first.name else name: of for name, of in function.__annotations__.items()
    }
    return pool  # type: ignore[return-value]


max_pool, min_pool = with_inputs(_pool.max_pool), with_inputs(_pool.min_pool)
avg_pool, pool = with_inputs(_pool.avg_pool), with_inputs(_pool.pool)
