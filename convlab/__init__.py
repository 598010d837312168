"""convlab: convolution and pooling for JAX."""

from ._conv import conv as conv
from ._conv import conv_general_dilated as conv_general_dilated
from ._conv import conv_transpose as conv_transpose
from ._patches import pad as pad
from ._pool import avg_pool as avg_pool
from ._pool import global_avg_pool as global_avg_pool
from ._pool import global_max_pool as global_max_pool
from ._pool import max_pool as max_pool
from ._pool import min_pool as min_pool
from ._pool import pool as pool
from ._pool import sum_pool as sum_pool
from ._window import Window as Window
