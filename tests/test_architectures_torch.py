"""The networks that torchvision does not have give the results of PyTorch modules whose random weights they load."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("flax")

from test_architectures import FASTEST_COMPILATION, catalogue, measure, small, worst  # noqa: E402  after they are known to be here
from torch_networks import randomise, torch_networks  # noqa: E402

from convlab import weights  # noqa: E402

TORCH_NETWORKS = torch_networks()


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_pytorch_gives_the_same(name):
    torch.manual_seed(0)
    torch_network, model = TORCH_NETWORKS[name], measure.drawn(name, **catalogue.NETWORKS[name].narrow)
    theirs = randomise(torch_network.build())
    loaded = weights.from_torch(theirs.state_dict(), model)  # some pad by functions, not modules
    x = measure.draw(small(name), seed=3)
    apply, state = measure.forward(loaded)
    y = jax.jit(apply).lower(state, x).compile(FASTEST_COMPILATION)(state, x)
    with torch.no_grad():
        given = torch.tensor(np.moveaxis(np.asarray(x), -1, 1))
        expected = jax.tree.map(lambda t: jnp.asarray(np.moveaxis(t.numpy(), 1, -1)), theirs(given))
    assert worst(y, expected) < 1e-4
