"""The LeNet trainer end to end: the files of a run, its continuation, and the two LeNets."""

# ruff: noqa: F811  (an argument that is named like an imported fixture is that fixture)

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mnist_program import EPOCHS, FOLDER, cache, copy, program, resume, trained, wait_for  # noqa: F401  fixtures among them

# mnist_program adds the folder of `lenet` to the path.
from lenet import data, engine, model, picture, tensorboard, training, workdir  # isort: skip
from lenet.checkpoint import Checkpoints  # isort: skip

pytestmark = pytest.mark.program

KEYS = {"epoch", "seconds", "train_loss", "test_loss", "test_accuracy", "samples_per_second"}


def parameters(folder, epoch=EPOCHS):
    like = training.like(workdir.read_config(folder))
    return Checkpoints(folder / "checkpoints").restore(epoch, like)[0]


def assert_identical(one, other):
    jax.tree.map(np.testing.assert_array_equal, parameters(one), parameters(other))


def history(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def start(*arguments):
    command = [sys.executable, str(FOLDER / "train.py"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# The files of a run


def test_metrics_are_a_line_of_json_per_epoch(trained):
    rows = history(trained)
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert all(row.keys() == KEYS for row in rows)
    assert all(row["seconds"] > 0 and row["samples_per_second"] > 0 for row in rows)
    losses = [row["train_loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert rows[-1]["test_accuracy"] > 0.85


def test_there_is_a_checkpoint_per_epoch(trained):
    assert Checkpoints(trained / "checkpoints").epochs() == list(range(1, EPOCHS + 1))


def test_the_picture_shows_something(trained):
    image = pytest.importorskip("PIL.Image").open(trained / "report.png")
    pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) >= 800
    height, width = (size // 2 for size in pixels.shape[:2])
    for quarter in (pixels[:height, :width], pixels[height:, :width], pixels[:height, width:]):
        assert len(np.unique(quarter.reshape(-1, 3), axis=0)) > 50


def test_a_run_leaves_only_what_it_says(trained):
    names = {entry.name for entry in trained.iterdir()}
    assert names == {"config.json", "checkpoints", "metrics.jsonl", "report.png", "tensorboard", ".lenet-lock"}


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_the_metrics(trained):
    found = events(trained)
    for name, tag in tensorboard.TAGS.items():
        assert found[tag] == [(row["epoch"], pytest.approx(row[name])) for row in history(trained)]


def test_eval_repeats_the_accuracy(trained, capsys):
    capsys.readouterr()
    assert program.main(["eval", "--workdir", str(trained)]) == 0
    found = re.search(r"test accuracy +([\d.]+) %", capsys.readouterr().out)
    assert float(found[1]) == pytest.approx(100 * history(trained)[-1]["test_accuracy"], abs=0.006)


def test_eval_reads_an_earlier_epoch(trained, capsys):
    capsys.readouterr()
    assert program.main(["eval", "--workdir", str(trained), "--epoch", "1"]) == 0
    assert f"{100 * history(trained)[0]['test_accuracy']:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["as it is", "large, dark on light"])
def test_predict_names_the_digit(trained, tmp_path, capsys, form):
    image = pytest.importorskip("PIL.Image")
    digits = data.digits()
    pixels = digits.test_images[0]
    if form != "as it is":
        pixels = 255 - np.pad(pixels.repeat(8, 0).repeat(8, 1), ((30, 200), (90, 10)))
    image.fromarray(pixels).save(tmp_path / "digit.png")
    capsys.readouterr()
    assert program.main(["predict", str(tmp_path / "digit.png"), "--workdir", str(trained)]) == 0
    assert f"digit.png: {digits.test_labels[0]} (" in capsys.readouterr().out


# Continuing a run


def test_a_prolonged_run_is_identical(trained, tmp_path, capsys):
    folder = tmp_path / "new"
    assert resume(folder, capsys, "--epochs", 1) == (0, "")
    assert resume(folder, capsys, "--epochs", EPOCHS) == (0, "")
    assert_identical(trained, folder)


def test_a_finished_run_is_reported_again(copy, capsys):
    (copy / "report.png").unlink()
    assert resume(copy, capsys) == (0, "")
    assert (copy / "report.png").exists()


def newest_largest_file(folder):
    files = [path for path in (folder / "checkpoints" / str(EPOCHS)).rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_an_altered_checkpoint_falls_back_and_the_run_ends_identical(trained, copy, capsys):
    path = newest_largest_file(copy)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, error = resume(copy, capsys)
    assert code == 0
    assert len(error.splitlines()) == 1 and "falling back" in error
    assert_identical(trained, copy)
    assert [row["test_loss"] for row in history(copy)] == [row["test_loss"] for row in history(trained)]
    # TensorBoard's reader leaves out the epoch that was trained twice.
    assert [step for step, _ in events(copy)["loss/test"]] == list(range(1, EPOCHS + 1))


def test_a_cut_off_checkpoint_falls_back(copy, capsys):
    path = newest_largest_file(copy)
    path.write_bytes(path.read_bytes()[:1000])
    capsys.readouterr()
    assert program.main(["eval", "--workdir", str(copy)]) == 0
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and "falling back" in captured.err
    assert f"after epoch {EPOCHS - 1}" in captured.out


def test_interrupted_at_any_moment_a_run_ends_identical(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = "train", "--workdir", folder, "--epochs", EPOCHS, "--resume"
    for moment in (folder / "config.json", folder / "checkpoints"):
        process = start(*arguments)
        wait_for(moment, process)
        process.kill()
        process.communicate()
    process = start(*arguments)
    wait_for(folder / "checkpoints" / "1", process)
    process.terminate()
    out, error = process.communicate()
    assert process.returncode == 143, error
    assert "interrupted; saved after epoch" in out
    assert resume(folder, capsys)[0] == 0
    assert_identical(trained, folder)


# The two LeNets


def test_lenet_has_61706_parameters():
    shapes = jax.eval_shape(model.nnx_network().init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 61_706


def test_nnx_and_linen_are_one_network():
    nnx, linen = model.nnx_network(), model.linen_network()
    key = jax.random.key(3)
    params = nnx.init(key)
    jax.tree.map(np.testing.assert_array_equal, params, linen.init(key))
    own = jax.eval_shape(model.LinenLeNet().init, key, jnp.zeros((1, 28, 28, 1)))["params"]
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, params)
    images = jax.random.normal(key, (3, 28, 28, 1))
    np.testing.assert_array_equal(jax.jit(nnx.apply)(params, images), jax.jit(linen.apply)(params, images))


def test_a_linen_run_equals_an_nnx_run(trained, tmp_path):
    folder = tmp_path / "linen"
    assert program.main(["train", "--workdir", str(folder), "--epochs", "1", "--api", "linen"]) == 0
    jax.tree.map(np.testing.assert_array_equal, parameters(folder, 1), parameters(trained, 1))


# The engine


def test_an_epoch_visits_every_sample_once():
    images = np.zeros((12, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(12) * 20
    labels = np.arange(12) % 10

    def apply(params, x):  # logits that depend on the sample, so that each sample has a different loss
        return params * jax.nn.one_hot(jnp.zeros(len(x), int), 10) * x[:, 0, 0, 0, None]

    optimizer = optax.sgd(0.0)
    state = engine.State(jnp.float32(1), optimizer.init(jnp.float32(1)), jnp.float32(1))
    logits = apply(1, engine.normalise(images))
    each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    epoch = engine.epoch_function(apply, optimizer, engine.Recipe(batch_size=3))
    orders = [epoch(jax.tree.map(jnp.copy, state), images, labels, seed, 1)[1] for seed in (0, 1)]
    for losses in orders:
        np.testing.assert_allclose(losses.mean(), each.mean(), rtol=1e-6)
    assert not np.allclose(*orders)


def test_logits_do_not_depend_on_the_chunk():
    network = model.nnx_network()
    params = network.init(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
    whole = network.apply(params, engine.normalise(images))
    for chunk in (1, 3, 7, 500):
        np.testing.assert_allclose(engine.logits_function(network.apply, chunk)(params, images), whole, atol=1e-5)


def test_the_rate_rises_for_an_epoch_and_falls_after():
    optimizer = engine.optimizer(lr=0.5, decay=0.25, weight_decay=0.0, steps=4)
    state, sizes = optimizer.init(jnp.float32(0)), []
    for _ in range(9):
        update, state = optimizer.update(jnp.float32(1), state, jnp.float32(0))
        sizes.append(-float(update))
    expected = [0.5 * min(1, (step + 1) / 4) * 0.25 ** (step / 4) for step in range(9)]
    np.testing.assert_allclose(sizes, expected, rtol=1e-3)


def test_confusion_counts_truth_by_row():
    matrix = picture.confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    np.testing.assert_array_equal(matrix, [[1, 0, 1], [0, 1, 0], [0, 0, 1]])


# Real data


@pytest.mark.skipif("CONVLAB_DATA" not in os.environ, reason="CONVLAB_DATA names no folder with mnist/")
def test_one_epoch_of_mnist(cache, tmp_path):
    folder = tmp_path / "mnist"
    source = os.path.join(os.environ["CONVLAB_DATA"], "mnist")
    options = "--data", "mnist", "--data-dir", source, "--epochs", "1", "--workdir", str(folder)
    assert program.main(["train", *options]) == 0
    assert history(folder)[0]["test_accuracy"] > 0.96
