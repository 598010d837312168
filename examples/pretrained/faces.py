#!/usr/bin/env python3
"""MTCNN, a face detector with pretrained weights: `pip install --no-deps facenet-pytorch`, of which only the weights'
files are read.

    python faces.py                  scikit-image's astronaut, with the faces that the three networks find
    python faces.py --image FILE     another image; --out FOLDER for faces.png (default: runs)

Zhang, Zhang, Li, Qiao, "Joint face detection and alignment using multitask cascaded convolutional networks", arXiv
1604.02878. The first network finds faces of 12 pixels in smaller and smaller copies of the image; the second and the
third check its candidates at 24 and 48 pixels. PyTorch is not needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import convlab
from convlab import nnx as cn
from convlab import weights

# A network: its convolutions (channels, window), each with the pool (window, strides) after it, the dense layer, and
# the heads: whether it is a face, the corrections of the box, and five positions in it.
ROWS = {
    "pnet": ([(10, 3, (2, 2)), (16, 3, None), (32, 3, None)], None, {"conv4_1": 2, "conv4_2": 4}),
    "rnet": ([(28, 3, (3, 2)), (48, 3, (3, 2)), (64, 2, None)], (576, 128), {"dense5_1": 2, "dense5_2": 4}),
    "onet": (
        [(32, 3, (3, 2)), (64, 3, (3, 2)), (64, 3, (2, 2)), (128, 2, None)],
        (1152, 256),
        {"dense6_1": 2, "dense6_2": 4, "dense6_3": 10},
    ),
}
SIZES = {"rnet": 24, "onet": 48}
THRESHOLDS = {"pnet": 0.6, "rnet": 0.7, "onet": 0.7}
SMALLEST, FACTOR, CELL = (
    20,
    0.709,
    12,
)  # of a face in pixels, from a copy to the next, pixels that the first network reads


class PReLU(nnx.Module):
    """A ReLU with a learnt slope for negative inputs, one for each channel."""

    def __init__(self, features: int):
        self.negative_slope = nnx.Param(jnp.full(features, 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x >= 0, x, x * self.negative_slope[...].reshape((1,) * (x.ndim - 1) + (-1,)))


class Network(nnx.Module):
    """One of the three networks, with the attribute names of its file.

    A call maps `(n, height, width, 3)` to the results of its heads, by their names."""

    def __init__(self, name: str, *, rngs: nnx.Rngs):
        convolutions, dense, heads = ROWS[name]
        self.pools, self.dense, self.heads, inputs = tuple(pool for *_, pool in convolutions), None, tuple(heads), 3
        for nth, (features, window, _) in enumerate(convolutions, 1):
            setattr(self, f"conv{nth}", cn.Conv(inputs, features, (window, window), padding="VALID", rngs=rngs))
            setattr(self, f"prelu{nth}", PReLU(features))
            inputs = features
        if dense:
            self.dense = len(convolutions) + 1
            setattr(self, f"dense{self.dense}", nnx.Linear(*dense, rngs=rngs))
            setattr(self, f"prelu{self.dense}", PReLU(dense[1]))
        for head, features in heads.items():
            made = nnx.Linear(dense[1], features, rngs=rngs) if dense else cn.Conv(inputs, features, (1, 1), rngs=rngs)
            setattr(self, head, made)

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        for nth, pool in enumerate(self.pools, 1):
            x = getattr(self, f"prelu{nth}")(getattr(self, f"conv{nth}")(x))
            x = x if pool is None else convlab.max_pool(x, *pool, ceil_mode=True)
        if self.dense:
            x = x.swapaxes(1, 2).reshape(len(x), -1)  # the authors' order: columns, rows, channels
            x = getattr(self, f"prelu{self.dense}")(getattr(self, f"dense{self.dense}")(x))
        face, *others = (getattr(self, head)(x) for head in self.heads)
        return [nnx.softmax(face)[..., 1], *others]


def load(folder: pathlib.Path, name: str) -> Network:
    said = {f"dense{len(ROWS[name][0]) + 1}": None} if ROWS[name][1] else {}
    abstract = nnx.eval_shape(lambda: Network(name, rngs=nnx.Rngs(0)))
    return weights.from_torch(weights.load(folder / f"{name}.pt"), abstract, flattened=said)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by means over areas, to numbers between -1 and 1.

    NumPy computes them, because JAX would compile a program for the size of every box."""
    small = image.astype(np.float64)
    for axis, size in enumerate((height, width)):
        length = small.shape[axis]
        first, last = np.arange(size) * length // size, -(-np.arange(1, size + 1) * length // size)
        sums = np.cumsum(np.insert(small, 0, 0, axis), axis)
        counts = (last - first).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        small = (np.take(sums, last, axis) - np.take(sums, first, axis)) / counts
    return ((small - 127.5) / 128).astype(np.float32)


def kept(boxes: np.ndarray, scores: np.ndarray, overlap: float, of_smaller: bool = False) -> np.ndarray:
    """Return the indices of the boxes that no better box overlaps by more than `overlap`.

    The overlap is a fraction of the union, or of the smaller box if `of_smaller`."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    order, found = list(np.argsort(-scores)), []
    while order:
        best, *order = order
        found.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
        common = np.prod(np.maximum(high - low, 0), 1)
        whole = np.minimum(areas[best], areas[order]) if of_smaller else areas[best] + areas[order] - common
        order = [box for box, share in zip(order, common / whole) if share <= overlap]
    return np.array(found, int)


def corrected(boxes: np.ndarray, offsets: np.ndarray, more: int = 0) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2] + more
    return boxes + offsets * np.concatenate([sides, sides], 1)


def squares(boxes: np.ndarray) -> np.ndarray:
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate([middle - half, middle + half], 1)


def candidates(image: np.ndarray, network: Network) -> np.ndarray:
    """Return the boxes that the first network finds in all copies of the image: `(n, 4)`, left, top, right, bottom."""
    scale, boxes, scores = CELL / SMALLEST, [np.zeros((0, 4))], [np.zeros(0)]
    while min(image.shape[:2]) * scale >= CELL:
        height, width = (int(n * scale + 1) for n in image.shape[:2])
        face, offsets = map(np.asarray, jax.jit(lambda x: network(x))(resized(image, height, width)[None]))
        rows, columns = np.nonzero(face[0] >= THRESHOLDS["pnet"])
        corner = np.stack([columns, rows], 1) * 2
        found = np.floor(np.concatenate([corner + 1, corner + CELL], 1) / scale)
        picked = kept(found, face[0, rows, columns], 0.5)
        boxes.append(corrected(found, offsets[0, rows, columns])[picked])
        scores.append(face[0, rows, columns][picked])
        scale *= FACTOR
    every, score = np.concatenate(boxes), np.concatenate(scores)
    return squares(every[kept(every, score, 0.7)])


def patches(image: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Cut out the boxes, whose coordinates begin at 1, and resize them to one size."""
    clipped = np.clip(boxes.astype(int), 1, np.array(image.shape[1::-1] * 2))
    return np.stack([resized(image[y - 1 : v, x - 1 : u], size, size) for x, y, u, v in clipped])


def detect(image: np.ndarray, networks: dict[str, Network]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find faces in an image of bytes `(height, width, 3)`.

    Return boxes `(n, 4)`, scores `(n,)` and positions `(n, 5, 2)` of eyes, nose and mouth."""
    boxes, positions = candidates(image, networks["pnet"]), np.zeros((0, 5, 2))
    scores = np.zeros(len(boxes))
    for name, size in SIZES.items():
        inside = np.clip(boxes, 0, np.array(image.shape[1::-1] * 2))
        boxes = boxes[((inside[:, 2:] - inside[:, :2]) >= 1).all(1)]
        if not len(boxes):
            return boxes, np.zeros(0), positions
        scores, offsets, *more = map(np.asarray, jax.jit(lambda x: networks[name](x))(patches(image, boxes, size)))  # noqa: B023
        good = scores >= THRESHOLDS[name]
        scores, sides = scores[good], (boxes[:, 2:] - boxes[:, :2])[good] + 1
        if more:
            positions = boxes[good, None, :2] + more[0][good].reshape(-1, 2, 5).swapaxes(1, 2) * sides[:, None]
        boxes = corrected(boxes[good], offsets[good], more=1)
        picked = kept(boxes, scores, 0.7, of_smaller=name == "onet")
        boxes, scores, positions = boxes[picked], scores[picked], positions[picked] if more else positions
        boxes = squares(boxes) if name == "rnet" else boxes
    return boxes, scores, positions


def picture(
    image: np.ndarray, boxes: np.ndarray, scores: np.ndarray, positions: np.ndarray, path: pathlib.Path
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = 6 / max(image.shape[:2])
    figure = pyplot.figure(figsize=(image.shape[1] * size, image.shape[0] * size))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image)
    for (x, y, u, v), score, points in zip(boxes, scores, positions):
        axes.add_patch(pyplot.Rectangle((x, y), u - x, v - y, fill=False, color="lime", lw=2))
        axes.text(x, y - 4, f"{score:.3f}", color="lime")
        axes.plot(*points.T, ".", color="yellow")
    axes.set_axis_off()
    figure.savefig(path, dpi=90)


def installed() -> pathlib.Path | None:
    found = importlib.util.find_spec("facenet_pytorch")
    return pathlib.Path(found.submodule_search_locations[0]) / "data" if found else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs"))
    args = parser.parse_args(argv)
    folder = installed()
    if folder is None:
        print("faces.py: the weights must be installed: pip install --no-deps facenet-pytorch", file=sys.stderr)
        return 2
    if args.image is None:
        from skimage import data

        image = data.astronaut()
    else:
        from PIL import Image

        image = np.asarray(Image.open(args.image).convert("RGB"))
    boxes, scores, positions = detect(image, {name: load(folder, name) for name in ROWS})
    args.out.mkdir(parents=True, exist_ok=True)
    picture(image, boxes, scores, positions, args.out / "faces.png")
    for box, score in zip(boxes, scores):
        print(f"a face with score {score:.4f} at left, top, right, bottom {', '.join(f'{n:.0f}' for n in box)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
