"""Tests of single networks for images, volumes and sequences; `test_architectures` tests all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")

from flax import nnx  # noqa: E402  after it is known to be here

from convlab.models import TCN, Context, UNet, UNet3D, WaveNet  # noqa: E402
from convlab.models.context import LARGE  # noqa: E402

pytestmark = pytest.mark.program


def out_shape(network, shape, **options):
    def answer(x):
        model = network(**options, rngs=nnx.Rngs(0))
        model.eval()
        return model(x)

    return jax.eval_shape(answer, jax.ShapeDtypeStruct(shape, jnp.float32)).shape


@pytest.mark.parametrize(
    "network, shape, options, expected",
    [
        (UNet, (1, 572, 572, 1), {}, (1, 388, 388, 2)),  # figure 1
        (UNet, (2, 64, 48, 3), dict(in_features=3, channels=(8, 16, 32), padding="SAME"), (2, 64, 48, 2)),
        (UNet3D, (1, 132, 132, 116, 3), {}, (1, 44, 44, 28, 3)),  # figure 2
        (UNet3D, (1, 16, 24, 32, 3), dict(channels=(8, 16), padding="SAME"), (1, 16, 24, 32, 3)),
    ],
)
def test_u_nets_have_the_output_sizes_of_the_figures(network, shape, options, expected):
    assert out_shape(network, shape, **options) == expected


STREAMED = {
    "tcn": (lambda rngs: TCN(3, 5, features=4, levels=3, kernel_size=3, rngs=rngs), 3),
    "wavenet": (lambda rngs: WaveNet(6, 5, features=4, skip_features=7, dilations=(1, 2, 4, 1, 2), rngs=rngs), 6),
}


@pytest.mark.parametrize("name", STREAMED)
def test_streaming_gives_the_results_of_the_whole_sequence(name):
    make, channels = STREAMED[name]
    model = make(nnx.Rngs(0))
    model.eval()
    x = np.random.default_rng(0).normal(size=(2, 20, channels)).astype(np.float32)
    whole = model(x)
    step = nnx.jit(lambda model, x: model.step(x))
    for lengths in ((1,) * 5, (7, 1, 12)):  # single samples, and chunks
        model.init_cache(len(x))
        parts = np.split(x[:, : sum(lengths)], np.cumsum(lengths)[:-1], 1)
        streamed = np.concatenate([step(model, part) for part in parts], 1)
        np.testing.assert_allclose(streamed, whole[:, : sum(lengths)], atol=1e-5)


@pytest.mark.parametrize("multipliers", [(1,) * 7, LARGE], ids=["basic", "large"])
def test_a_fresh_context_module_changes_nothing(multipliers):
    model = Context(3, multipliers=multipliers, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).uniform(size=(1, 9, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(model(x), x, rtol=1e-5)
