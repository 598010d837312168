"""The data sets, as uint8 images of 28x28 pixels, white ink on black, and labels 0 to 9.

`digits` is scikit-learn's copy of the UCI handwritten digits and needs no network. `mnist` and `fashion-mnist` are read
from a folder with the four published files, or downloaded once into the user's cache. `idx` reads any other four files
of that format, without knowing their checksums.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import pathlib
import zlib
from typing import NamedTuple

import numpy as np

from .errors import UserError, explained

SIZE = 28
CLASSES = 10
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
ADDRESSES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
SHA256 = {
    "mnist": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion-mnist": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}
NAMES = ("digits", *SHA256, "idx")


class Data(NamedTuple):
    """Images `(n, 28, 28)` uint8 and labels `(n,)` int32, for training and for testing."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load(name: str, folder: pathlib.Path | None = None) -> Data:
    """Read the data set `name`, one of `NAMES`.

    Raises:
        UserError: a file is missing, truncated, damaged or another file, or cannot be downloaded.
    """
    if name == "digits":
        return digits()
    if folder is None:
        if name not in ADDRESSES:
            raise UserError(f"`--data-dir` must name the folder of the four files for --data {name}, got nothing")
        folder = download(name)
    known = SHA256.get(name, (None,) * 4)
    arrays = [read_idx(folder / f"{part}-ubyte.gz", sha256) for part, sha256 in zip(PARTS, known, strict=True)]
    return Data(*_matched(*arrays[:2], folder), *_matched(*arrays[2:], folder))


def hold_out(samples: Data, count: int) -> Data:
    """Use the last `count` training images in place of the test set, for the choice of a recipe.

    Raises:
        UserError: no training images are left.
    """
    if count >= len(samples.train_images):
        most = len(samples.train_images)
        raise UserError(f"`--hold-out` must be less than {most:,}, the training images, got {count:,}")
    images, labels = samples[:2]
    return Data(images[:-count], labels[:-count], images[-count:], labels[-count:]) if count else samples


def digits() -> Data:
    """Return 1,438 training and 359 test digits: every fifth is for testing, so that both have the same writers."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images, labels = enlarge(source.images / 16), source.target.astype(np.int32)
    test = np.arange(len(images)) % 5 == 4
    return Data(images[~test], labels[~test], images[test], labels[test])


def enlarge(images: np.ndarray) -> np.ndarray:
    """Enlarge images `(n, 8, 8)` in [0, 1] to `(n, 28, 28)` uint8: interpolated to 20x20, with MNIST's border of 4."""
    small, large = images.shape[1], 20
    place = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(small)))
    bigger = np.rint(255 * (weights @ images @ weights.T)).astype(np.uint8)
    frame = (SIZE - large) // 2
    return np.pad(bigger, ((0, 0), (frame, frame), (frame, frame)))


def read_idx(path: pathlib.Path, sha256: str | None = None) -> np.ndarray:
    """Read the array of bytes in a gzip IDX file: two zero bytes, type 8, the rank, big-endian sizes, the values."""
    with explained(f"cannot read {path}"):
        packed = path.read_bytes()
    try:
        raw = gzip.decompress(packed)
    except EOFError as error:
        raise UserError(f"{path} is cut off: the gzip stream ends after {len(packed):,} bytes") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged or no gzip file: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise UserError(f"{path} is no IDX file of bytes: it begins with {raw[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw, ">u4", raw[3], 4).tolist())
    if len(raw) - start != math.prod(shape):
        raise UserError(f"{path} is damaged: its header says {shape}, but {len(raw) - start:,} values follow")
    if sha256 and hashlib.sha256(packed).hexdigest() != sha256:
        raise UserError(f"{path} is not the published file: its SHA-256 differs. For files of your own use --data idx")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _matched(images: np.ndarray, labels: np.ndarray, folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    if images.ndim != 3 or images.shape[1:] != (SIZE, SIZE) or len(images) == 0:
        raise UserError(f"the images in {folder} must be 28x28 and at least one, got an array of {images.shape}")
    if labels.shape != (len(images),):
        raise UserError(f"the labels in {folder} must be one for each of {len(images):,} images, got {labels.shape}")
    if labels.max() >= CLASSES:
        raise UserError(f"the labels in {folder} must be 0 to 9, got {labels.max()}")
    return images, labels.astype(np.int32)


def download(name: str) -> pathlib.Path:
    """Return the cache folder with the four files of `name`; download those that are missing or differ."""
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    folder = pathlib.Path(pooch.os_cache("convlab")) / name
    try:
        for part, known in zip(PARTS, SHA256[name], strict=True):
            file = f"{part}-ubyte.gz"
            pooch.retrieve(ADDRESSES[name] + file, f"sha256:{known}", file, folder, progressbar=RichBar(file))
    except Exception as error:  # the libraries below pooch share no base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot download {name} into {folder}: {reason}. `--data-dir` reads files you have") from error
    return folder


class RichBar:
    """A progress bar by rich, with the four attributes that pooch requires."""

    def __init__(self, file: str):
        from rich import progress

        columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn()
        self._progress = progress.Progress(*columns, progress.TransferSpeedColumn())
        self._task = self._progress.add_task(file, total=None)

    @property
    def total(self) -> int | None:
        return self._size

    @total.setter
    def total(self, size: int) -> None:
        self._size = size
        self._progress.update(self._task, total=size)
        self._progress.start()

    def update(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()
