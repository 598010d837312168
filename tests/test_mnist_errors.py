"""The LeNet trainer with unusable input: one line on stderr, exit code 2, and the user's files stay unchanged."""

# ruff: noqa: F811  (an argument that is named like an imported fixture is that fixture)

import functools
import gzip
import hashlib
import http.server
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
from mnist_program import FOLDER, cache, copy, program, resume, trained  # noqa: F401  fixtures among them

from lenet import data, image, workdir  # isort: skip  found by way of mnist_program
from lenet.errors import UserError  # isort: skip


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *arguments):
    """Run the program, check that it ends with one line on stderr, and return the line."""
    capsys.readouterr()
    assert program.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("train.py: ") and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def idx(tmp_path):
    """Return a folder with a small data set: each class is a bright row."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, count in (("train", 200), ("t10k", 50)):
        labels = np.arange(count) % 10
        images = np.zeros((count, 28, 28))
        images[np.arange(count), 2 * labels + 3] = 255
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels)
    return folder


OPTIONS = {
    (): "required: train|eval|predict",
    ("fly",): "invalid choice: 'fly'",
    ("train", "--wings", "2"): "unrecognized arguments: --wings 2",
    ("train", "--data", "letters"): "--data: invalid choice: 'letters'",
    ("train", "--epochs", "0"): "--epochs: must be a positive integer, got '0'",
    ("train", "--epochs", "2.5"): "--epochs: must be a positive integer, got '2.5'",
    ("train", "--batch-size", "-1"): "--batch-size: must be a positive integer, got '-1'",
    ("train", "--lr", "nan"): "--lr: must be a positive number, got 'nan'",
    ("train", "--lr", "fast"): "--lr: must be a positive number, got 'fast'",
    ("train", "--decay", "2"): "--decay: must be above 0 and at most 1, got '2'",
    ("train", "--weight-decay", "-1"): "--weight-decay: must be a number from 0 up, got '-1'",
    ("train", "--seed", "-1"): "--seed: must be an integer from 0 to 2**31 - 1, got '-1'",
    ("train", "--seed", "9999999999"): "--seed: must be an integer from 0 to 2**31 - 1, got '9999999999'",
    ("train", "--batch-size", "5000"): "`--batch-size` must be at most 1,438, the training images, got 5,000",
    ("train", "--data", "idx"): "`--data-dir` must name the folder of the four files",
    ("train", "--data", "mnist", "--data-dir", "nowhere"): "No such file",
    ("train", "--metrics-file", "nowhere/m.jsonl"): "`--metrics-file` must lie in an existing folder",
    ("train", "--metrics-file", "/dev/null"): "`--metrics-file` must be an ordinary file, got /dev/null",
    ("eval",): "`--workdir` must name a run's folder: there is none in",
    ("eval", "--workdir", "nowhere"): "cannot read the run in nowhere: No such file or directory",
    ("eval", "--epoch", "0"): "--epoch: must be a positive integer",
    ("predict",): "required: IMAGE.png",
}


@pytest.mark.parametrize("arguments", OPTIONS, ids=" ".join)
def test_nonsense_options(cache, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert OPTIONS[arguments] in refused(capsys, *arguments)
    assert not contents(tmp_path)


def test_the_program_itself_exits_with_2_and_one_line():
    command = [sys.executable, str(FOLDER / "train.py"), "train", "--epochs", "many"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "must be a positive integer, got 'many'" in done.stderr


# Data files


@pytest.mark.program
def test_files_of_ones_own_are_learned_from(cache, idx, tmp_path):
    folder = tmp_path / "run"
    arguments = ["train", "--data", "idx", "--data-dir", str(idx), "--workdir", str(folder), "--epochs", "4"]
    assert program.main([*arguments, "--batch-size", "20"]) == 0
    assert '"test_accuracy": 1.0' in (folder / "metrics.jsonl").read_text().splitlines()[-1]


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-6] ^= 255
    path.write_bytes(content)


def replaced(array):
    return functools.partial(write_idx, array=array)


DAMAGES = {
    "missing": ("train-labels-idx1", pathlib.Path.unlink, "No such file or directory"),
    "cut off": ("train-images-idx3", cut, "is cut off"),
    "flipped": ("t10k-labels-idx1", flip, "is damaged or no gzip file"),
    "no gzip": ("train-images-idx3", lambda path: path.write_bytes(b"hello"), "is damaged or no gzip file"),
    "empty": ("train-images-idx3", lambda path: path.write_bytes(b""), "is no IDX file of bytes"),
    "no idx": ("train-images-idx3", lambda path: path.write_bytes(gzip.compress(b"hello")), "is no IDX file of bytes"),
    "short": (
        "t10k-images-idx3",
        lambda path: path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]))),
        "its header says (9,), but 1 values follow",
    ),
    "small images": ("train-images-idx3", replaced(np.zeros((200, 8, 8))), "must be 28x28 and at least one"),
    "no images": ("t10k-images-idx3", replaced(np.zeros((0, 28, 28))), "must be 28x28 and at least one"),
    "fewer labels": ("train-labels-idx1", replaced(np.zeros(199)), "one for each of 200 images, got (199,)"),
    "label 10": ("t10k-labels-idx1", replaced(np.full(50, 10)), "must be 0 to 9, got 10"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_files(idx, tmp_path, capsys, damage):
    part, spoil, message = DAMAGES[damage]
    spoil(idx / f"{part}-ubyte.gz")
    before = contents(idx)
    error = refused(capsys, "train", "--data", "idx", "--data-dir", idx, "--workdir", tmp_path / "run")
    assert message in error
    assert contents(idx) == before and not (tmp_path / "run").exists()


def test_a_named_set_must_be_the_published_one(idx):
    with pytest.raises(UserError, match="not the published file: its SHA-256 differs"):
        data.load("mnist", idx)


@pytest.fixture
def server(idx, cache, tmp_path, monkeypatch):
    """Serve the small data set under the name of mnist, and yield the list of requests."""
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "downloads"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=idx)) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        known = tuple(hashlib.sha256((idx / f"{part}-ubyte.gz").read_bytes()).hexdigest() for part in data.PARTS)
        monkeypatch.setitem(data.ADDRESSES, "mnist", f"http://127.0.0.1:{one.server_port}/")
        monkeypatch.setitem(data.SHA256, "mnist", known)
        yield requests
        one.shutdown()


def test_a_download_happens_once(server):
    assert len(data.load("mnist").train_images) == 200
    assert len(server) == 4
    assert len(data.load("mnist").test_images) == 50
    assert len(server) == 4


def test_a_damaged_download_is_refused(server, idx):
    flip(idx / "train-images-idx3-ubyte.gz")
    with pytest.raises(UserError, match="cannot download mnist .* hash"):
        data.load("mnist")


def test_a_download_from_nowhere_is_refused(server, monkeypatch):
    monkeypatch.setitem(data.ADDRESSES, "mnist", "http://127.0.0.1:9/")
    with pytest.raises(UserError, match="cannot download mnist into .*`--data-dir` reads files you have"):
        data.load("mnist")


# Images


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_unreadable_images(trained, tmp_path, capsys, content):
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refused(capsys, "predict", path, "--workdir", trained)


def test_a_blank_picture_is_refused(tmp_path):
    pytest.importorskip("PIL.Image").new("L", (50, 50), "white").save(tmp_path / "blank.png")
    with pytest.raises(UserError, match="shows no digit"):
        image.read(tmp_path / "blank.png", written=True)


def test_a_cut_off_picture_is_refused(tmp_path):
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    pytest.importorskip("PIL.Image").fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UserError, match="is no readable image"):
        image.read(path, written=True)


def test_a_picture_is_centred_as_mnist_is(tmp_path):
    drawn = np.full((90, 200), 255, np.uint8)
    drawn[10:80, 150:160] = 0
    pytest.importorskip("PIL.Image").fromarray(drawn).save(tmp_path / "one.png")
    pixels = image.read(tmp_path / "one.png", written=True)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    assert (rows[0], rows[-1]) == (4, 23)
    assert abs(columns.mean() - 13.5) <= 0.5


# Runs


def test_a_workdir_with_a_run_is_not_overwritten(copy, capsys):
    before = contents(copy)
    assert "--resume continues" in refused(capsys, "train", "--workdir", copy)
    assert contents(copy) == before


def test_a_workdir_with_other_files_is_not_used(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    for extra in ((), ("--resume",)):
        assert "which holds other files" in refused(capsys, "train", "--workdir", tmp_path, *extra)
    assert contents(tmp_path).keys() - {pathlib.Path(".lenet-lock")} == {pathlib.Path("thesis.txt")}


def test_a_workdir_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "cannot write in" in refused(capsys, "train", "--workdir", place)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_workdir(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "Permission denied" in refused(capsys, "train", "--workdir", tmp_path / "run")
    tmp_path.chmod(0o700)


@pytest.mark.program
def test_a_full_disk(copy):
    """A limit on the size of files simulates the full disk: the write fails in the middle of a checkpoint."""
    before = contents(copy / "checkpoints")
    command = [sys.executable, str(FOLDER / "train.py"), "train", "--workdir", str(copy), "--resume", "--epochs", "9"]
    limited = ["sh", "-c", 'ulimit -f 40; exec "$@"', "sh", *command]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot write checkpoint" in done.stderr and done.stderr.count("\n") == 1
    assert before.items() <= contents(copy / "checkpoints").items()


def test_two_runs_in_one_workdir(copy, capsys):
    pytest.importorskip("fcntl")
    with workdir.held(copy):
        assert "another run uses" in refused(capsys, "train", "--workdir", copy, "--resume")


OTHER = ("--lr", "0.5"), ("--seed", "7"), ("--api", "linen"), ("--data", "idx"), ("--batch-size", "5")


@pytest.mark.parametrize("option", OTHER, ids=" ".join)
def test_an_incompatible_resume(copy, capsys, option):
    before = contents(copy)
    error = refused(capsys, "train", "--workdir", copy, "--resume", *option)
    assert f"`{option[0]}` must be" in error and f"got {option[1]}" in error
    assert contents(copy) == before


def test_fewer_epochs_than_are_done(copy, capsys):
    assert "must be at least 3" in refused(capsys, "train", "--workdir", copy, "--resume", "--epochs", "2")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"data": "digits"}', '{"wings": 2}'])
def test_a_damaged_configuration(copy, capsys, content):
    (copy / "config.json").write_text(content)
    assert "config.json is damaged" in refused(capsys, "eval", "--workdir", copy)


def test_no_readable_checkpoint(copy, capsys):
    for path in (copy / "checkpoints").rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    capsys.readouterr()
    code, error = resume(copy, capsys)
    assert code == 2
    assert "none of the 3 checkpoints" in error.splitlines()[-1] and "Traceback" not in error


def test_a_missing_checkpoint(copy, capsys):
    assert "cannot read checkpoint" in refused(capsys, "eval", "--workdir", copy, "--epoch", "77")


def test_a_metrics_file_with_something_else_is_kept(copy, tmp_path, capsys):
    precious = tmp_path / "precious.txt"
    precious.write_text("years of work\n")
    for arguments in (("--workdir", tmp_path / "new"), ("--workdir", copy, "--resume")):
        assert "`--metrics-file` must" in refused(capsys, "train", *arguments, "--metrics-file", precious)
    assert precious.read_text() == "years of work\n"


def test_a_loss_that_is_not_finite(copy, tmp_path, capsys):
    error = refused(capsys, "train", "--workdir", tmp_path / "wild", "--lr", "1e30")
    assert "at step " in error and "in epoch 1; there is no good checkpoint" in error
