"""The backend: how convolutions and pools are computed, and the only platform-dependent code of the library."""

from . import compat as _compat
from . import lowering as _lowering
from .adjoint import linear_map as linear_map
from .buffers import materialize as materialize
from .compat import is_in_jet as is_in_jet
from .entry import conv_general_dilated as conv_general_dilated
from .entry import convolve as convolve
from .entry import window_sum as window_sum
from .gather import stored_apart as stored_apart
from .gather import weighted_rows as weighted_rows
from .platforms import by_platform as by_platform
from .pooling.maxima import window_argmax as window_argmax
from .pooling.maxima import window_max as window_max
from .split import is_split as is_split
from .split import map_over_batch as map_over_batch
from .stored import distinct as distinct
from .stored import with_stored_derivative as with_stored_derivative

_compat.guard(_lowering.install)
