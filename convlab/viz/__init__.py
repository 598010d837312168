"""Pictures of convolution: a kernel on its way, filters, feature maps, receptive fields, matrices and networks.

Every function returns a `Picture` (a `matplotlib.figure.Figure` that notebooks show) or a `Slideshow` of them (which
notebooks play). What they show is computed by convlab; `picture.savefig(path)` keeps it. Where colours mean numbers, blue is
above 0, red below and white 0; violet is an input, amber a kernel, green an output and grey the padding.
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
