"""The seam: one convolution, the window reductions, and the only platform-dependent code of the library."""

import functools as _functools
import warnings as _warnings

from . import entry as _calls
from .tpu import window_argmax as window_argmax
from .windows import materialize as materialize

try:
    from .accelerate import accelerate as accelerate
    from .explain import explain as explain
    from .primitives import conv_general_dilated as conv_general_dilated
    from .primitives import window_max_p as window_max_p
    from .primitives import window_min_p as window_min_p
    from .primitives import window_sum_p as window_sum_p
except (AttributeError, ImportError, KeyError, TypeError) as _error:
    _warnings.warn(
        f"convlab works with this version of JAX, but no faster than lax: {type(_error).__name__}: {_error}", stacklevel=2
    )
    from .fallback import accelerate as accelerate  # type: ignore[assignment, no-redef]
    from .fallback import conv_general_dilated as conv_general_dilated  # type: ignore[assignment, no-redef]
    from .fallback import explain as explain  # type: ignore[assignment, no-redef]
    from .fallback import window_max_p as window_max_p  # type: ignore[assignment, no-redef]
    from .fallback import window_min_p as window_min_p  # type: ignore[assignment, no-redef]
    from .fallback import window_sum_p as window_sum_p  # type: ignore[assignment, no-redef]

convolve = _functools.partial(_calls.convolve, conv_general_dilated)
