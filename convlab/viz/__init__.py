"""Pictures of convolution: sliding kernels, filters, feature maps, receptive fields, matrices and networks.

Every function returns a `Picture` (a `matplotlib.figure.Figure` that notebooks display) or a `Slideshow` (which
notebooks play). convlab computes the numbers; `picture.savefig(path)` saves a picture. In colours for numbers, blue is
positive, red negative and white 0; violet marks an input, amber a kernel, green an output and grey the padding.
"""

from .._extras import missing

try:
    from ._cells import Picture, Slideshow
except ModuleNotFoundError as error:
    raise missing("matplotlib", extra="viz", by=__name__) from error

from ._diagrams import channels, connections
from ._knobs import knobs
from ._networks import feature_maps, receptive_field, shapes
from ._pictures import filters, images, matrix
from ._slide import slide
from ._slide_pool import slide_pool
from ._slide_transpose import slide_transpose

__all__ = [
    "Picture",
    "Slideshow",
    "channels",
    "connections",
    "feature_maps",
    "filters",
    "images",
    "knobs",
    "matrix",
    "receptive_field",
    "shapes",
    "slide",
    "slide_pool",
    "slide_transpose",
]
