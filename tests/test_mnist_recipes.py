"""The LeNet trainer's recipes: their files, the held-out images for the choice of one, and the results over seeds."""

# ruff: noqa: F811  (an argument that is named like an imported fixture is that fixture)

import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys

import jax
import numpy as np
import pytest
from mnist_program import FOLDER, cache, program  # noqa: F401  fixtures among them
from test_mnist_errors import contents, idx, refused, write_idx  # noqa: F401

from lenet import data, training, workdir  # isort: skip  found by way of mnist_program
from lenet.checkpoint import Checkpoints  # isort: skip
from lenet.errors import UserError  # isort: skip

spec = importlib.util.spec_from_file_location("mnist_seeds", FOLDER / "seeds.py")
seeds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(seeds)

pytestmark = pytest.mark.program

WHOLE = {"data": '"digits"', "epochs": 1, "batch_size": 32, "lr": 3e-3, "decay": 0.9, "weight_decay": 0.3}


def written(path, **changes):
    """Write a recipe file with `changes`; None leaves a line out."""
    lines = (f"{key} = {value}\n" for key, value in (WHOLE | changes).items() if value is not None)
    path.write_text("".join(lines))
    return path


# Recipe files


@pytest.mark.parametrize("name", [path.stem for path in program.RECIPES.glob("*.toml")])
def test_every_recipe_is_a_configuration(name):
    given = program.parser().parse_args(["train", "--recipe", name, "--epochs", "3", "--smoothing", "0.5"])
    config, said = program.configuration(given), program.read_recipe(name)
    assert (config.epochs, config.smoothing) == (3, 0.5)  # an option overrides the recipe
    rest = said.keys() - {"epochs", "smoothing"}
    assert {key: getattr(config, key) for key in rest} == {key: said[key] for key in rest}


FAULTS = {
    "an unknown key": (dict(wings=2), "must hold data, epochs, batch_size, lr,"),
    "a word for a number": (dict(epochs='"many"'), "epochs in the recipe {} must be a positive integer, got 'many'"),
    "a fraction for an integer": (dict(epochs=2.5), "epochs in the recipe {} must be a positive integer, got '2.5'"),
    "a truth value": (dict(lr="true"), "lr in the recipe {} must be a positive number, got 'True'"),
    "a list": (dict(batch_size="[32]"), "batch_size in the recipe {} must be a positive integer, got '[32]'"),
    "out of range": (dict(decay=2), "decay in the recipe {} must be above 0 and at most 1, got '2'"),
    "not finite": (dict(shift="inf"), "shift in the recipe {} must be a number from 0 up, got 'inf'"),
    "no data": (dict(data=None), "data in the recipe {} must be one of digits, mnist, fashion-mnist, idx, got None"),
    "other data": (dict(data='"letters"'), "must be one of digits, mnist, fashion-mnist, idx, got 'letters'"),
    "data of another type": (dict(data="[1]"), "must be one of digits, mnist, fashion-mnist, idx, got [1]"),
    "too little": (dict(lr=None), "must say epochs, batch_size, lr, decay and weight_decay"),
    "no TOML": (dict(lr=""), "the recipe {} is no TOML"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_recipe(tmp_path, monkeypatch, capsys, fault):
    monkeypatch.chdir(tmp_path)
    changes, message = FAULTS[fault]
    path = written(tmp_path / "mine.toml", **changes)
    before = contents(tmp_path)
    assert message.format(path) in refused(capsys, "train", "--recipe", path)
    assert contents(tmp_path) == before


def test_a_recipe_that_is_no_text(tmp_path, capsys):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    assert "mine.toml is no TOML" in refused(capsys, "train", "--recipe", tmp_path / "mine.toml")


@pytest.mark.parametrize("name", ["nowhere.toml", "mnist-with-wings", "../recipes"])
def test_a_missing_recipe(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, "train", "--recipe", name)
    assert "cannot read the recipe" in error and "No such file" in error and name in error
    assert not contents(tmp_path)


def test_a_recipe_of_other_data(tmp_path, capsys):
    error = refused(capsys, "train", "--recipe", "mnist", "--data", "digits", "--workdir", tmp_path / "run")
    assert "`--data` must be mnist for the recipe mnist, got digits" in error


# Images held out


def test_held_out_images_are_the_last_ones_and_no_others():
    samples = data.digits()
    held = data.hold_out(samples, 300)
    for whole, train, test in zip(samples[:2], held[:2], held[2:], strict=True):
        assert len(test) == 300
        np.testing.assert_array_equal(np.concatenate([train, test]), whole)
    assert data.hold_out(samples, 0) is samples


def test_something_must_be_left_to_train_on():
    with pytest.raises(UserError, match="`--hold-out` must be less than 1,438, the training images, got 1,438"):
        data.hold_out(data.digits(), 1438)


def test_held_out_images_and_test_images_are_not_trained_on(cache, idx, tmp_path):
    def run(name):
        folder = tmp_path / name
        arguments = "train", "--data", "idx", "--data-dir", idx, "--hold-out", 60, "--epochs", 1, "--batch-size", 20
        assert program.main([*map(str, arguments), "--workdir", str(folder)]) == 0
        like = training.like(workdir.read_config(folder))
        return Checkpoints(folder / "checkpoints").restore(1, like)

    params, history = run("before")
    images = data.read_idx(idx / "train-images-idx3-ubyte.gz").copy()
    images[-60:] = 255 - images[-60:]
    write_idx(idx / "train-images-idx3-ubyte.gz", images)
    write_idx(idx / "t10k-images-idx3-ubyte.gz", np.zeros((50, 28, 28)))
    other, later = run("after")
    jax.tree.map(np.testing.assert_array_equal, params, other)
    assert history[0]["train_loss"] == later[0]["train_loss"]
    assert history[0]["test_loss"] != later[0]["test_loss"]


# The results over seeds


def test_summary():
    rows = [
        [{"test_accuracy": 0.5, "seconds": 9.0}, {"test_accuracy": share, "seconds": 1.0}] for share in (0.98, 0.99)
    ]
    expected = "98.500 % (standard deviation 0.707): 98.00, 99.00; 2 epochs, 10 s of training each"
    assert seeds.summary(rows) == expected
    assert seeds.summary(rows[:1]) == "98.000 %: 98.00; 2 epochs, 10 s of training each"


@pytest.fixture
def in_this_process(monkeypatch):
    """Call train.py in this process, and yield the list of its arguments in each call."""
    calls = []

    def finished(command):
        calls.append(command[2:])
        return program.main(command[2:])

    monkeypatch.setattr(seeds, "finished", finished)
    return calls


def test_ctrl_c_waits_for_the_run_at_hand_to_save(tmp_path):
    saving = """
import signal, sys, time

def save(*_):
    time.sleep(1)
    print("saved", flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, save)
print("ready", flush=True)
time.sleep(60)
"""
    (tmp_path / "saving.py").write_text(saving)
    series = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import seeds; "
    series += f"sys.exit(seeds.finished([sys.executable, {str(tmp_path / 'saving.py')!r}]))"
    command = [sys.executable, "-c", series]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout.readline() == "ready\n"
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        assert running.communicate(timeout=60) == ("saved\n", "")
    assert running.returncode == 130


def test_seeds_train_what_is_missing_and_print_the_mean(cache, idx, tmp_path, capsys, in_this_process):
    recipe = written(tmp_path / "rows.toml", data='"idx"', batch_size=20)
    arguments = [str(recipe), "--runs", str(tmp_path / "runs"), "--data-dir", str(idx)]

    def table():
        return [json.loads((tmp_path / "runs" / f"rows-seed-{seed}" / "metrics.jsonl").read_text()) for seed in (0, 1)]

    assert seeds.main([*arguments, "--seeds", "1"]) == 0
    one = (tmp_path / "runs" / "rows-seed-0" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert seeds.main([*arguments, "--seeds", "2"]) == 0
    assert (tmp_path / "runs" / "rows-seed-0" / "metrics.jsonl").read_bytes() == one
    assert [arguments[arguments.index("--seed") + 1] for arguments in in_this_process] == ["0", "0", "1"]
    shares = [100 * row["test_accuracy"] for row in table()]
    assert table()[0]["train_loss"] != table()[1]["train_loss"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        f"{recipe}: {statistics.mean(shares):.3f} % (standard deviation {statistics.stdev(shares):.3f}): "
    )
    assert f"{shares[0]:.2f}, {shares[1]:.2f}; 1 epochs" in last


def test_seeds_end_where_a_run_ends(tmp_path, capsys, in_this_process):
    assert seeds.main(["mnist-with-wings", "--runs", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert len(in_this_process) == 1 and captured.out == "" and captured.err.count("\n") == 1


@pytest.mark.parametrize("count", ["0", "-1", "some"])
def test_seeds_must_be_some(capsys, count, in_this_process):
    assert seeds.main(["mnist", "--seeds", count]) == 2
    assert "--seeds: must be a positive integer, got" in capsys.readouterr().err
    assert not in_this_process
