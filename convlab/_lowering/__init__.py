"""The seam: one convolution, the window reductions, and the only platform-dependent code of the library."""

from .everywhere import accelerate as accelerate
from .explanation import explain as explain
from .primitives import conv_general_dilated as conv_general_dilated
from .primitives import convolve as convolve
from .primitives import window_max_p as window_max_p
from .primitives import window_min_p as window_min_p
from .primitives import window_sum_p as window_sum_p
from .windows import window_argmax as window_argmax
