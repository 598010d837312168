"""The random distortions of the LeNet trainer: known ones exactly, random ones by their mean and deviation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mnist_program import program  # noqa: F401  finds the package lenet

from lenet import distort, engine  # isort: skip  found by way of mnist_program
from lenet.distort import Distortion  # isort: skip

COUNT = 6
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), np.uint8)
EVERYTHING = Distortion(shift=1.5, rotate=20.0, scale=0.2, elastic=1.5, flip=0.5)
distorted = jax.jit(distort.distort, static_argnums=2)


def draws(**columns):
    """Return draws of 0, except the named ones: angle, size, row, column, mirror."""
    result = np.zeros((COUNT, distort.DRAWS), np.float32)
    for name, value in columns.items():
        result[:, ("angle", "size", "row", "column", "mirror").index(name)] = value
    return result


def random_draws(count, seed=0):
    return distort.draw(engine.random_key(seed), count)


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, atol=0.02)  # of 255: positions are rounded to some 1e-5 of a pixel


def test_no_strength_changes_nothing():
    np.testing.assert_array_equal(distorted(IMAGES, random_draws(COUNT), Distortion()), IMAGES)


def test_draws_of_zero_change_nothing():
    by = EVERYTHING._replace(flip=0.4)  # a draw of 0 is above that share
    assert_near(distorted(IMAGES, draws(), by), IMAGES)


@pytest.mark.parametrize("rows, columns", [(2, 0), (0, -3), (-1, 4), (40, 0)])
def test_whole_pixels_move_and_black_comes_in(rows, columns):
    found = distorted(IMAGES, draws(row=rows, column=columns), Distortion(shift=1.0))
    frame = np.pad(IMAGES, ((0, 0), (40, 40), (40, 40)))
    assert_near(found, np.roll(frame, (-rows, -columns), (1, 2))[:, 40:68, 40:68])


def test_half_a_pixel_is_the_mean_of_two():
    found = distorted(IMAGES, draws(column=0.5), Distortion(shift=1.0))
    assert_near(found, (IMAGES + np.pad(IMAGES, ((0, 0), (0, 0), (0, 1)))[:, :, 1:].astype(np.float32)) / 2)


@pytest.mark.parametrize("turns", [1, 2, -1])
def test_quarter_turns(turns):
    """The turns are clockwise; those of np.rot90 are counterclockwise."""
    assert_near(distorted(IMAGES, draws(angle=turns), Distortion(rotate=90.0)), np.rot90(IMAGES, -turns, (1, 2)))


def test_twice_as_small():
    """A pixel has exp(log 2) times as many pixels of the source: the positions 13.5 +- 1, 3, ... are between pixels."""
    found = np.asarray(distorted(IMAGES, draws(size=1), Distortion(scale=np.log(2))))
    halves = IMAGES.reshape(COUNT, 14, 2, 14, 2).mean((2, 4))
    assert_near(found[:, 7:21, 7:21], halves)
    assert not found[:, :6].any() and not found[:, :, 22:].any()


def test_a_mirror_image():
    np.testing.assert_allclose(
        distorted(IMAGES, random_draws(COUNT), Distortion(flip=1.0)), IMAGES[:, :, ::-1], atol=0.02
    )


def test_half_of_the_images_are_mirrored():
    where = np.asarray(jax.jit(lambda: distort.source_positions(random_draws(2000), Distortion(flip=0.5)))())
    mirrored = where[1, :, 0, 0] > where[1, :, 0, 27]
    assert 0.45 < mirrored.mean() < 0.55
    np.testing.assert_allclose(
        where[1, ~mirrored, 5], np.broadcast_to(np.arange(28.0), (sum(~mirrored), 28)), atol=1e-4
    )


def test_deviations_are_those_requested():
    distortion = Distortion(shift=1.5, rotate=10.0, scale=0.1)
    where = np.asarray(jax.jit(lambda: distort.source_positions(random_draws(4000), distortion))())
    middle = where[:, :, 13:15, 13:15].mean((2, 3)) - 13.5
    across = (where[..., 0, :] - where[..., 27, :]).mean(-1) / -27  # one pixel down, on average
    angle, size = np.rad2deg(np.arctan2(across[1], across[0])), np.log(np.hypot(*across))
    for found, deviation in ((middle[0], 1.5), (middle[1], 1.5), (angle, 10.0), (size, 0.1)):
        assert abs(found.mean()) < 0.08 * deviation
        np.testing.assert_allclose(found.std(), deviation, rtol=0.05)


def test_elastic_is_random_at_the_knots_and_linear_between():
    still = np.indices((28, 28))[:, None]
    moved = np.asarray(distort.source_positions(random_draws(2000), Distortion(elastic=0.7))) - still
    corners = moved[:, :, ::27, ::27]
    assert abs(corners.mean()) < 0.03
    np.testing.assert_allclose(corners.std(), 0.7, rtol=0.05)
    assert abs(np.corrcoef(corners[0, :, 0, 0], corners[1, :, 0, 0])[0, 1]) < 0.1
    # Knots are 6.75 pixels apart: within the first seven pixels nothing bends.
    assert abs(np.diff(moved[:, :, :, :7], 2, axis=3)).max() < 1e-4
    assert abs(np.diff(moved, 2, axis=3)).max() > 0.1


def test_a_key_decides_and_an_image_does_not_know_its_neighbours():
    one = np.asarray(distorted(IMAGES, random_draws(COUNT), EVERYTHING))
    np.testing.assert_array_equal(one, distorted(IMAGES, random_draws(COUNT), EVERYTHING))
    assert (one != np.asarray(distorted(IMAGES, random_draws(COUNT, 1), EVERYTHING))).any((1, 2)).all()
    back = distorted(IMAGES[::-1], random_draws(COUNT)[::-1], EVERYTHING)
    np.testing.assert_array_equal(one, back[::-1])


def test_bytes_become_float32_between_black_and_white():
    for by in (Distortion(), EVERYTHING):
        found = distorted(IMAGES, random_draws(COUNT), by)
        assert found.dtype == jnp.float32 and found.shape == IMAGES.shape
        assert found.min() >= 0 and found.max() <= 255 and found.max() > 200


def test_interpolation_against_scipy():
    scipy = pytest.importorskip("scipy.ndimage")
    where = np.asarray(distort.source_positions(random_draws(COUNT), EVERYTHING))
    expected = [
        scipy.map_coordinates(np.pad(image.astype(np.float64), 40), place + 40, order=1)
        for image, place in zip(IMAGES, where.swapaxes(0, 1), strict=True)
    ]
    assert_near(distorted(IMAGES, random_draws(COUNT), EVERYTHING), np.stack(expected))
