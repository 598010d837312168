"""Short trainings of examples/architectures: they learn, are reproducible, stream, draw pictures, and report bad
options."""

import io
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("flax")

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "architectures"
sys.path.insert(0, str(FOLDER))
sys.path.append(str(FOLDER.parent / "mnist"))

from flax import nnx  # noqa: E402  after it is known to be here
from lenet.data import Data  # noqa: E402  from the folder
from PIL import Image  # noqa: E402
from trainings import audio, fashion, loop, shapes  # noqa: E402

pytestmark = pytest.mark.program

SILENT = lambda line: None


def looks_drawn(content):
    """Return the size of a PNG, and check that it is not an empty page."""
    image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert 0.01 < (image < 250).any(-1).mean() < 1 and len(np.unique(image.reshape(-1, 3), axis=0)) > 8
    assert len(content) < 200_000
    return image.shape


# Shapes


@pytest.fixture(scope="module")
def short_shapes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "STEPS", 80)
        patch.setattr(shapes, "SIZE", 32)
        patch.setattr(shapes, "CHANNELS", (8, 16))
        return shapes.run(0, 2, SILENT, tested=20)


def test_unet_learns_to_tell_shapes_from_the_background(short_shapes):
    found = short_shapes.figures
    assert found["last epoch's loss"] < 0.8 * found["first epoch's loss"]
    assert found["intersection over union, background"] > found["pixel accuracy if all were background"] + 0.05


def test_unets_picture(short_shapes):
    assert looks_drawn(short_shapes.draw())


def test_shapes_are_what_their_labels_say():
    images, labels = jax.tree.map(np.asarray, shapes.draw(loop.random_key(3), 40))
    assert images.shape == (40, 64, 64, 1) and set(np.unique(labels)) == {0, 1, 2, 3}
    assert images[labels > 0].mean() > images[labels == 0].mean() + 0.8  # shapes are brighter than the background
    # A circle's box is as high as wide, and it fills pi / 4 of it.
    alone = [np.argwhere(one == 1) for one in labels if set(np.unique(one)) == {0, 1}]
    inner = [at for at in alone if at.min() > 0 and at.max() < shapes.SIZE - 1]
    assert any(abs(len(at) / np.prod(np.ptp(at, 0) + 1) - np.pi / 4) < 0.04 for at in inner)


def test_overlaps():
    truth, found = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 1, 1, 3, 3])
    np.testing.assert_allclose(shapes.overlaps(shapes.confusion(truth, found)), [1 / 2, 2 / 3, 0, 1 / 2])


# Audio


@pytest.fixture(scope="module")
def listener():
    """Return a network all of whose parameters are used."""
    network = audio.Listener(features=8, levels=3, rngs=nnx.Rngs(0))
    graph, params, rest = loop.taken_apart(network)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(loop.random_key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    return nnx.merge(graph, tree.unflatten(noisy), rest)


@pytest.mark.parametrize("block", [8, 64, 20])
def test_a_streamed_sound_has_the_probabilities_of_the_whole(listener, block):
    sounds = np.asarray(audio.draw(loop.random_key(0), 3)[0])[:, : 20 * 8]
    streamed, seconds = audio.stream(listener, sounds, block)
    whole = jax.nn.softmax(loop.outputs(listener, sounds))
    assert streamed.shape == whole.shape and seconds > 0
    assert np.ptp(whole, 1).max() > 0.05  # it responds to the sound
    np.testing.assert_allclose(streamed, whole, atol=1e-5)


def test_sounds_come_in_both_directions():
    """A reversed chirp up is a chirp down: the middle of the spectrum moves in the direction of the class's name."""
    sounds, labels = jax.tree.map(np.asarray, audio.draw(loop.random_key(0), 400))
    halves = abs(np.fft.rfft(sounds[..., 0].reshape(400, 2, -1) * np.hanning(1024))) ** 2
    peaks = halves[..., :500].argmax(-1)
    rises = np.log(1 + peaks[:, 1]) - np.log(1 + peaks[:, 0])
    for name, sign in (("chirp up", 1), ("chirp down", -1), ("low, then high", 1), ("high, then low", -1)):
        of = labels == audio.NAMES.index(name)
        assert (sign * rises[of] > 0.02).mean() > 0.8, name
    assert (abs(rises[labels == 0]) < 0.02).mean() > 0.9


def test_the_tcn_learns_and_streams(monkeypatch):
    for name, value in (("STEPS", 20), ("BATCH", 8), ("RATE", 2e-2)):
        monkeypatch.setattr(audio, name, value)
    found = audio.run(5, 3, SILENT, tested=40)
    assert found.figures["last epoch's loss"] < 0.85 * found.figures["first epoch's loss"]
    assert found.figures["largest difference of a streamed probability"] < 1e-5
    assert looks_drawn(found.draw())


# Fashion-MNIST


@pytest.fixture(scope="module")
def samples():
    """Return samples in which each class is a bright row."""
    labels = np.arange(640) % 10
    images = np.zeros((640, 28, 28), np.uint8)
    images[np.arange(640), 2 * labels + 4] = 255
    return Data(images[:512], labels[:512], images[512:], labels[512:])


def test_both_networks_learn_and_the_picture_shows_their_mistakes(samples, monkeypatch):
    monkeypatch.setattr(fashion, "BATCH", 32)
    monkeypatch.setattr(fashion, "DISTORTION", fashion.Distortion(shift=0.2))
    found = fashion.run(0, 3, SILENT, samples)
    for name in fashion.NETWORKS:
        assert found.figures[f"last epoch's loss, {name}"] < 0.5 * found.figures[f"first epoch's loss, {name}"]
        assert found.figures[f"accuracy, {name}"] > 0.5
    assert looks_drawn(found.draw())


def test_equal_seeds_give_equal_bits(samples):
    figures = [fashion.run(seed, 2, SILENT, samples, ("LeNet-5",)).figures for seed in (0, 0, 1)]
    same, again, other = [{name: one for name, one in found.items() if "seconds" not in name} for found in figures]
    assert same == again and same != other


def test_an_epoch_takes_every_sample_once():
    (first, _), (second, _) = fashion.rows(seed=0, count=100, epochs=2, batch=20)
    assert first.shape == (5, 20) and sorted(first.ravel().tolist()) == list(range(100))
    assert not np.array_equal(first, second)


# The program


def program():
    import importlib.util

    spec = importlib.util.spec_from_file_location("architectures_train", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OPTIONS = {
    (): "required: shapes|audio|fashion-mnist",
    ("fly",): "invalid choice: 'fly'",
    ("shapes", "--epochs", "0"): "--epochs: must be an integer from 1 to 2**31 - 1, got '0'",
    ("audio", "--seeds", "-1"): "--seeds: must be an integer from 0 to 2**31 - 1, got '-1'",
    ("audio", "--seeds", "1", "1"): "`--seeds` must differ, got 1 1",
    ("audio", "--data-dir", "x"): "unrecognized arguments: --data-dir x",
    ("fashion-mnist", "--data-dir", "nowhere"): "No such file",
    ("shapes", "--out", "taken"): "`--out` must be a new or empty folder, got taken",
    ("shapes", "--out", "taken/file"): "`--out` must be a new or empty folder, got taken/file",
    ("shapes", "--out", "taken/file/below"): "cannot make taken/file/below: Not a directory",
}


@pytest.mark.parametrize("arguments", OPTIONS, ids=" ".join)
def test_errors_are_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    assert program().main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("train.py: ") and said.err.count("\n") == 1 and OPTIONS[arguments] in said.err
    assert (tmp_path / "taken" / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_program_itself_exits_with_2():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "train.py"), "shapes", "--epochs", "many"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_the_program_writes_what_it_found(short_shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shapes, "run", lambda seed, epochs, say: short_shapes)
    assert program().main(["shapes", "--seeds", "0", "1", "--out", str(tmp_path / "new")]) == 0
    result = json.loads((tmp_path / "new" / "result.json").read_text())
    assert result["seeds"] == [0, 1] and result["epochs"] == shapes.EPOCHS
    assert result["figures"]["pixel accuracy"] == 2 * [short_shapes.figures["pixel accuracy"]]
    assert looks_drawn((tmp_path / "new" / "picture.png").read_bytes())
    assert f"pixel accuracy: {100 * short_shapes.figures['pixel accuracy']:.2f} % (standard" in capsys.readouterr().out
