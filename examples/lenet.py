"""LeNet-5 on scikit-learn's digits: a whole training with convlab, Flax NNX and optax. `python examples/lenet.py`"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from convlab.nnx import Conv, MaxPool


class LeNet(nnx.Module):
    """Images `(n, 28, 28, 1)` to logits `(n, 10)`."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = Conv(1, 6, (5, 5), padding="SAME", rngs=rngs)
        self.conv2 = Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.pool = MaxPool(2, strides=2)
        self.dense1 = nnx.Linear(400, 120, rngs=rngs)
        self.dense2 = nnx.Linear(120, 84, rngs=rngs)
        self.dense3 = nnx.Linear(84, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.pool(self.conv1(x)))  # (n, 14, 14, 6)
        x = nnx.relu(self.pool(self.conv2(x)))  # (n, 5, 5, 16)
        x = nnx.relu(self.dense1(x.reshape(len(x), -1)))
        return self.dense3(nnx.relu(self.dense2(x)))


def data() -> list[jax.Array]:
    """Training images, test images, training labels, test labels: 1,797 digits of 8 x 8 pixels, enlarged to 28 x 28."""
    images, labels = load_digits(return_X_y=True)
    images = jax.image.resize(images.reshape(-1, 8, 8, 1) / 16.0, (len(images), 28, 28, 1), "linear")
    return [
        jnp.asarray(part) for part in train_test_split(images.astype("float32"), labels, test_size=360, random_state=0)
    ]


@nnx.jit(donate_argnums=(0, 1))  # the new state reuses the memory of the old
def train_step(model: LeNet, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
    def loss(model: LeNet) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def main(epochs: int = 20, batch: int = 64) -> float:
    train_images, test_images, train_labels, test_labels = data()
    model = LeNet(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(2e-3), wrt=nnx.Param)
    for epoch in range(epochs):
        order = jax.random.permutation(jax.random.key(epoch), len(train_labels))
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            train_step(model, optimizer, train_images[chosen], train_labels[chosen])
    accuracy = float((model(test_images).argmax(-1) == test_labels).mean())
    print(f"accuracy on {len(test_labels)} test images after {epochs} epochs: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
