"""Pictures of convolution: a kernel on its way, filters, feature maps, receptive fields, matrices and networks.

Every function returns a `Picture` (a `matplotlib.figure.Figure` that notebooks show) or a `Slideshow` of them (which notebooks
play). What they show is computed by convlab; `picture.savefig(path)` keeps it.
"""

from .._extras import missing

try:
    from ._cells import Picture, Slideshow
except ModuleNotFoundError as error:
    raise missing("matplotlib", extra="viz", by=__name__) from error

from ._networks import feature_maps, receptive_field, shapes
from ._pictures import filters, images, matrix
from ._slide import slide, slide_transpose

__all__ = [
    "Picture",
    "Slideshow",
    "feature_maps",
    "filters",
    "images",
    "matrix",
    "receptive_field",
    "shapes",
    "slide",
    "slide_transpose",
]
