"""XLA's programs of whole networks on the CPU have no layout changes between the engine's convolutions."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from convlab import models
from convlab._backend import engine


@pytest.mark.parametrize(("name", "convolutions"), [("mobilenet_v2", 52), ("resnet50", 53)])
def test_nothing_is_copied_transposed_or_padded_between_convolutions(name, convolutions):
    if engine.unavailable_reason():
        pytest.skip("XLA's own convolutions pad")
    model = nnx.eval_shape(lambda: models.get_model(name, rngs=nnx.Rngs(0)))
    model.eval()
    graph, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    text = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, x).compile().as_text()
    assert text.count('custom_call_target="__onednn$convolution"') == convolutions
    images = r"f32\[1,\d+,\d+,\d+\]"
    assert not re.findall(rf" = {images}\S* (?:copy|transpose|pad)\(", text)
    assert not re.findall(rf"%(?:\w*_)?(?:copy|transpose|pad)\w*(?:\.\d+)? = {images}\S* fusion", text)
