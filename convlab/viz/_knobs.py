"""Pictures with knobs: one picture for each setting, drawn in advance, with sliders that need no running kernel."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from ._cells import SHARP, Picture, Slideshow

MANY, MOST = 16, 64  # settings


@dataclasses.dataclass(eq=False, repr=False)
class _Settings(Slideshow):
    """Frames that are separate pictures, all padded to the size of the largest."""

    make: Callable[[int], Picture] = lambda number: Picture(1, 1)

    def at(self, frame: int) -> Picture:
        if not -self.frames <= frame < self.frames:
            raise ValueError(f"`frame` must be smaller than {self.frames}, got {frame!r}.")
        return self.make(frame % self.frames)

    @functools.cached_property
    def _images(self) -> list[Any]:
        from PIL import Image

        dots = SHARP if self.frames <= MANY else 100  # these frames share no parts, so many of them need fewer dots
        images = [self.at(frame)._image(dots) for frame in range(self.frames)]
        size = max(i.width for i in images), max(i.height for i in images)
        self.picture.set_size_inches(size[0] / dots, size[1] / dots)
        canvases = [Image.new("RGB", size, "white") for _ in images]
        for canvas, image in zip(canvases, images):
            canvas.paste(image, (0, 0))
        return canvases

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        _ = self._images  # drawing them sets the size
        return super()._repr_png_()

    def html(self, seconds: float = 1.5) -> str:
        _ = self._images
        return super().html(seconds)

    def widget(self) -> Any:
        """Return the same sliders as a widget of ipywidgets, which draws each picture in a running kernel."""
        import ipywidgets

        values = [list(v) for v in self.knobs.values()]
        first = list(itertools.product(*values))[self.start]
        options = {
            name: ipywidgets.SelectionSlider(options=v, value=value)
            for name, v, value in zip(self.knobs, values, first)
        }

        def show(**setting: Any) -> Picture:
            positions = [v.index(setting[name]) for name, v in zip(self.knobs, values)]
            return self.at(functools.reduce(lambda n, pair: n * len(pair[1]) + pair[0], zip(positions, values), 0))

        return ipywidgets.interactive(show, **options)


def knobs(draw: Callable[..., Picture], start: dict[str, Any] | None = None, /, **values: Sequence[Any]) -> Slideshow:
    """Draw a picture for every setting of some knobs, with a slider for each knob.

    The pictures are drawn in advance, so that the sliders work in a page or a notebook without a running kernel. In a
    page without scripts the pictures are shown in turn. `knobs(...).widget()` makes sliders of the package ipywidgets,
    which draw on demand.

    Args:
        draw: a function of a value for each knob, by its name, that returns a `Picture`.
        start: the setting that is shown first; a knob that is not in it begins with its first value.
        **values: the values of each knob.

    Returns:
        A `Slideshow` with a frame for each setting, the last knob fastest.

    Raises:
        ValueError: more than 64 settings, a knob without values, or a start that is not one of the settings.

    Example:
        >>> show = knobs(lambda size, stride: connections(jnp.ones((size, 1, 1)), 8, strides=stride), size=(1, 3),
        ...     stride=(1, 2))
        >>> show.frames
        4
    """
    settings = [dict(zip(values, setting)) for setting in itertools.product(*values.values())]
    if not values or not 0 < len(settings) <= MOST:
        raise ValueError(f"`values` must make 1 to {MOST} settings, got {len(settings) if values else 0}.")
    first = settings[0] | (start or {})
    if first not in settings:
        raise ValueError(f"`start` must be values of the knobs {', '.join(values)}, got {start}.")
    alt = f"a picture for each setting of {' and '.join(values)}"
    return _Settings(
        Picture(1, 1),
        lambda number: None,
        len(settings),
        {name: tuple(options) for name, options in values.items()},
        settings.index(first),
        alt,
        colours=127 if len(settings) <= MANY else 39,
        make=lambda number: draw(**settings[number]),
    )
