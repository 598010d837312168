"""Pictures show convlab's results: the tests read the numbers from the drawn texts."""

import base64
import doctest
import io
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import convlab
from convlab import viz

X = jnp.arange(1.0, 7.0)[:, None]
TWOS = jnp.full((3, 1, 1), 2.0)


def texts(picture):
    return [text.get_text() for axes in picture.axes for text in axes.texts if text.get_text()]


def numbers(values):
    return {viz._cells.format_number(v) for v in np.ravel(values)}


@pytest.mark.parametrize(
    "options",
    [
        dict(strides=3),
        dict(padding=2),
        dict(padding="SAME", padding_mode="reflect"),
        dict(padding=1, padding_mode="replicate"),
        dict(padding="CIRCULAR"),
        dict(padding="CAUSAL", kernel_dilation=2),
        dict(padding=((-1, 2),)),
        dict(flip_kernel=True),
    ],
    ids=str,
)
def test_a_slide_ends_with_the_result(options):
    kernel = jnp.array([1.0, 2.0, -4.0])[:, None, None]
    show, y = viz.slide(X, kernel, **options), convlab.conv(X, kernel, **{"padding": "VALID"} | options)
    assert show.frames == y.size
    last = texts(show.at(-1))
    assert numbers(y) <= set(last)
    assert f" = {viz._cells.format_number(y[-1, 0])}" in last[-1]


def test_the_sum_of_a_frame_is_its_number():
    for frame, number in enumerate([12, 18, 24, 30]):
        terms, _, result = texts(viz.slide(X, TWOS).at(frame))[-1].partition(" = ")
        assert sum(int(a) * int(b) for a, b in (t.split("·") for t in terms.split(" + "))) == int(result) == number


def test_padding_modes_are_told_apart():
    def shown(mode):
        return tuple(texts(viz.slide(X, jnp.ones((5, 1, 1)), padding=2, padding_mode=mode).at(0)))

    modes = ["zeros", "reflect", "replicate", "circular"]
    assert len({shown(mode) for mode in modes}) == 4
    assert all(f"padding: {mode}" in shown(mode) for mode in modes)
    assert shown("reflect").count("x2") == 2  # the position itself, and the padding that repeats it


@pytest.mark.parametrize("name", ["REFLECT", "circular"])
def test_a_padding_that_names_its_border_shows_it(name):
    named = viz.slide(X, jnp.ones((5, 1, 1)), padding=name)
    assert texts(named.at(0)) == texts(viz.slide(X, jnp.ones((5, 1, 1)), padding=2, padding_mode=name.lower()).at(0))


def test_the_frames_of_an_animation_are_the_pictures():
    show = viz.slide(X, TWOS, padding=1)
    with Image.open(io.BytesIO(show._repr_png_()[0])) as image:
        for frame in range(show.frames):
            image.seek(frame)
            drawn = np.asarray(show.at(frame)._image(), np.int32)
            assert abs(np.asarray(image.convert("RGB"), np.int32) - drawn).mean() < 1


def test_a_bias_is_drawn_and_added():
    for bias, number in ((jnp.array([10.0]), 22), (jnp.array([-0.5]), 11.5)):
        last = texts(viz.slide(X, TWOS, bias).at(0))
        assert {"bias", viz._cells.format_number(bias[0])} <= set(last)
        assert last[-1] == f"2·1 + 2·2 + 2·3 + {'10' if number == 22 else '(-0.5)'} = {number}"
    image = jnp.arange(16.0).reshape(4, 4, 1)
    show = viz.slide(image, jnp.ones((3, 3, 1, 2)), jnp.array([1.0, 2.0]))
    assert {"bias 1", "2"} <= set(texts(show.at(-1)))
    assert numbers(convlab.conv(image, jnp.ones((3, 3, 1, 2)), jnp.array([1.0, 2.0]), padding="VALID")) <= set(
        texts(show.at(-1))
    )


@pytest.mark.parametrize(
    "reduce, window, strides, padding, options",
    [
        ("max", (3, 3), (3, 3), "VALID", {}),
        ("max", 2, 2, 1, {}),
        ("avg", (2, 3), (2, 2), "SAME", dict(count_include_pad=False)),
        ("min", 2, 1, "VALID", dict(window_dilation=2)),
        ("sum", 3, 2, "VALID", dict(ceil_mode=True)),
    ],
)
def test_a_pool_ends_with_its_result(reduce, window, strides, padding, options):
    table = jax.random.permutation(jax.random.key(3), jnp.arange(54.0)).reshape(6, 9, 1)
    show = viz.slide_pool(table, window, strides, padding, reduce=reduce, **options)
    y = getattr(convlab, f"{reduce}_pool")(table[None], window, strides, padding, **options)[0, ..., 0]
    assert show.frames == y.size
    last = texts(show.at(-1))
    assert last[-1].endswith(f" = {viz._cells.format_number(y[-1, -1])}")
    assert [t for t in last[:-1] if t.lstrip("-").replace(".", "").isdigit()][-y.size :] == [
        viz._cells.format_number(v) for v in y.ravel()
    ]


def test_connections_are_those_of_the_matrix():
    picture = viz.connections(jnp.array([1.0, 2.0, 3.0])[:, None, None], X, strides=2, padding=1, kernel_dilation=2)
    (axes,) = picture.axes
    entries = convlab.conv_matrix(jnp.ones((3, 1, 1)), (6, 1), strides=2, padding=1, kernel_dilation=2)
    assert axes.get_title() == f"6 inputs, {len(entries)} outputs, {int(entries.sum())} connections, 3 weights"
    y = convlab.conv(X, jnp.array([1.0, 2.0, 3.0])[:, None, None], strides=2, padding=1, kernel_dilation=2)
    assert numbers(y) <= set(texts(picture))
    assert viz.connections(jnp.ones((6, 4)), 6).axes[0].get_title() == "6 inputs, 4 outputs, 24 connections, 24 weights"


def test_channels_show_parameters_and_results():
    image, kernel = jnp.linspace(0, 1, 300).reshape(10, 10, 3), jnp.ones((5, 5, 3, 2))
    found = texts(viz.channels(image, kernel, jnp.array([0.5, -2.0]), position=(1, 2), names=("red", "green", "blue")))
    y = convlab.conv(image, kernel, jnp.array([0.5, -2.0]), padding="VALID")
    assert any(text.startswith("152 parameters") for text in found)
    assert f"map 1\n{viz._cells.format_number(y[1, 2, 1])} here" in found
    assert {"red", "green", "blue", "filter 0", "filter 1", "0.5", "-2"} <= set(found)


def test_knobs_have_a_picture_for_every_setting():
    show = viz.knobs(lambda n, s: viz.connections(jnp.ones((n, 1, 1)), 6, strides=s), {"s": 2}, n=(1, 3), s=(1, 2))
    assert (show.frames, show.start) == (4, 1)
    assert show.at(3).axes[0].get_title() == "6 inputs, 2 outputs, 6 connections, 3 weights"
    page = show._repr_html_()
    assert page.count('type="range"') == 2 and "http" not in page
    with pytest.raises(ValueError, match="`start` must be values of the knobs n, got"):
        viz.knobs(lambda n: None, {"n": 2}, n=(1, 3))


def test_values_of_knobs_stay_text_in_the_page():
    page = viz.knobs(lambda name: viz.connections(jnp.ones((1, 1, 1)), 2), name=("</script>", "'"))._repr_html_()
    assert page.count("</script>") == 1


def test_knobs_are_a_widget_where_ipywidgets_is():
    pytest.importorskip("ipywidgets")
    widget = viz.knobs(lambda n: viz.connections(jnp.ones((n, 1, 1)), 6), {"n": 3}, n=(1, 3)).widget()
    assert widget.children[0].value == 3


def test_numbers_are_written_without_powers_of_ten():
    written = [viz._cells.format_number(v) for v in (1110.4, 12345.0, 0.5, 1 / 3, -0.001, 99.95, 0, 1e-9, 2e7)]
    assert written == ["1110", "12345", "0.5", "0.33", "-0.001", "99.95", "0", "1e-9", "2e7"]


def test_a_weaker_filter_looks_weaker_unless_asked():
    kernel = jnp.stack([jnp.eye(3), 0.01 * jnp.eye(3)], -1)[:, :, None]
    for shared, limit in ((True, 1.0), (False, 0.01)):
        axes = viz.filters(kernel, shared_scale=shared).axes
        assert axes[1].images[0].get_clim() == pytest.approx((-limit, limit))
    colours = {axes.images[0].get_cmap().name for axes in viz.filters(kernel).axes[:2]}
    assert colours == {viz._cells.SIGNS} == {"RdBu"}  # blue is above 0, everywhere


def test_groups_and_channels_of_an_image():
    image = jnp.arange(32.0).reshape(4, 4, 2)
    kernel = jnp.arange(16.0).reshape(2, 2, 1, 4)
    show = viz.slide(image, kernel, feature_group_count=2, padding=1)
    assert show.frames == 5 * 5 * 4
    assert numbers(convlab.conv(image, kernel, padding=1, feature_group_count=2)) <= set(texts(show.at(-1)))
    assert "kernel 3" in texts(show.at(-1))


@pytest.mark.parametrize(
    "options", [dict(strides=2, padding="VALID"), dict(strides=3, padding="SAME"), dict(kernel_dilation=2)], ids=str
)
def test_stamps_add_up_to_the_transposed_convolution(options):
    kernel = jnp.array([1.0, 2.0, 3.0])[:, None, None]
    show, y = viz.slide_transpose(X, kernel, **options), convlab.conv_transpose(X, kernel, **options)
    assert show.frames == 6
    last = [t for t in texts(show.at(-1)) if t.lstrip("-").isdigit()]
    assert last[-np.count_nonzero(y) :] == [viz._cells.format_number(v) for v in np.ravel(y) if v]


def test_a_slideshow_becomes_a_page_a_gif_and_a_still(tmp_path):
    show = viz.slide(X, TWOS)
    page = show._repr_html_()
    assert page.count("data:image/png") == 1
    assert "http" not in page
    data, size = show._repr_png_()
    assert data.startswith(b"\x89PNG") and len(data) < 100_000
    assert base64.b64encode(data).decode() in page
    for name, kind in (("slide.gif", "GIF"), ("slide.png", "PNG")):
        show.save(tmp_path / name, seconds=0.5)
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.n_frames) == (kind, show.frames)
    with pytest.raises(ValueError, match="`frame` must be smaller than 4"):
        show.at(4)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(4 * 8 * 8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.conv(x)).reshape(len(x), -1))


IMAGE = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))


def test_feature_maps_are_the_activations():
    net = Net(nnx.Rngs(0))
    picture = viz.feature_maps(net, IMAGE)
    assert len(picture.axes) == 4 + 1  # with the colour bar
    for channel, axes in enumerate(picture.axes[:4]):
        np.testing.assert_allclose(axes.images[0].get_array(), net.conv(IMAGE)[0, ..., channel], atol=1e-5)
    with pytest.raises(ValueError, match="`layers` must be among conv"):
        viz.feature_maps(net, IMAGE, layers=["head"])


def test_the_receptive_field_is_framed_where_the_gradient_is():
    image, place = viz.receptive_field(Net(nnx.Rngs(0)), IMAGE, "conv", (3, 5)).axes[1::-1]
    (box,) = image.patches
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (9.5, 5.5, 3, 3)
    heat = image.images[1].get_array()
    assert np.argwhere(heat > 0).min(0).tolist() == [6, 10] and np.argwhere(heat > 0).max(0).tolist() == [8, 12]
    assert (place.patches[0].get_x(), place.patches[0].get_y()) == (4.5, 2.5)


def test_shapes_name_every_layer():
    found = texts(viz.shapes(Net(nnx.Rngs(0)), IMAGE))
    assert found == ["input", "16×16×1", "conv", "8×8×4", "40 parameters", "head", "3", "771 parameters"]


def test_a_matrix_and_its_numbers():
    picture = viz.matrix(TWOS, (6, 1), padding="VALID")
    np.testing.assert_array_equal(
        picture.axes[0].images[0].get_array(), convlab.conv_matrix(TWOS, (6, 1), padding="VALID")
    )
    assert texts(picture) == ["2"] * 12


@pytest.mark.parametrize(
    "shape, pictures", [((5, 5, 1, 6), 6), ((5, 5, 3, 40), 32), ((3, 3, 6, 16), 16), ((5, 2, 4), 4)]
)
def test_filters(shape, pictures):
    kernel = jax.random.normal(jax.random.key(1), shape)
    assert sum(bool(axes.get_title()) for axes in viz.filters(kernel).axes) == pictures
    viz.filters(kernel).savefig(io.BytesIO())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: viz.slide(X, jnp.ones((3, 3, 3, 1, 1))), "`kernel` must have the axes"),
        (lambda: viz.slide(jnp.ones((2, 6, 1)), TWOS), "`x` must be one image"),
        (lambda: viz.slide(jnp.ones((30, 30, 1)), jnp.ones((3, 3, 1, 1))), "`x` must have at most 600 numbers"),
        (lambda: viz.slide_transpose(X, jnp.ones((3, 1, 2))), "`kernel` must have one input and one output channel"),
        (lambda: viz.slide_pool(jnp.ones((6, 6, 2)), 2), "`x` must be one image of one channel"),
        (lambda: viz.slide_pool(jnp.ones((6, 6, 1)), 2, reduce="median"), "`reduce` must be one of max, min, avg, sum"),
        (lambda: viz.connections(jnp.ones((5, 4)), 6), "`kernel` must be "),
        (lambda: viz.channels(jnp.ones((8, 8, 3)), jnp.ones((3, 3, 1, 2))), "`kernel` must be "),
        (lambda: viz.knobs(lambda n: None, n=range(99)), "`values` must make 1 to 64 settings"),
        (lambda: viz.images([]), "`arrays` must be images"),
        (lambda: viz.filters(jnp.ones(3)), "`kernel` must have the axes"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", [n for n in viz.__all__ if n not in ("Picture", "Slideshow")])
def test_examples_run(name):
    output = []
    for test in doctest.DocTestFinder(recurse=False).find(getattr(viz, name), globs={"jnp": jnp, **vars(viz)}):
        assert test.examples
        doctest.DocTestRunner().run(test, out=output.append)
    assert not output, "".join(output)


def test_importing_convlab_imports_no_matplotlib_and_viz_no_flax():
    program = (
        "import sys, convlab; a = 'matplotlib' in sys.modules; import convlab.viz; print(a, 'flax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
