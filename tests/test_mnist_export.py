"""Exported files give the logits of the run, here and in PyTorch, and `predict` reads them."""

# ruff: noqa: F811  (an argument that is named like an imported fixture is that fixture)

import jax
import numpy as np
import pytest
from mnist_program import EPOCHS, cache, program, trained  # noqa: F401  fixtures among them

from lenet import data, engine, exchange, model, training, workdir  # isort: skip  found by way of mnist_program
from lenet.checkpoint import Checkpoints  # isort: skip

IMAGES = data.digits().test_images[:7]


@pytest.fixture(scope="module")
def logits(trained):
    state, _ = Checkpoints(trained / "checkpoints").restore(EPOCHS, training.like(workdir.read_config(trained)))
    return np.asarray(model.nnx_network().apply(state.average, engine.normalise(IMAGES)))


def exported(trained, tmp_path, suffix):
    file = tmp_path / f"lenet{suffix}"
    assert program.main(["export", str(file), "--workdir", str(trained)]) == 0
    return file


@pytest.mark.parametrize("suffix", exchange.FORMATS)
def test_a_file_gives_the_runs_logits(trained, tmp_path, capsys, logits, suffix):
    if suffix == ".pt":
        pytest.importorskip("torch")
    file = exported(trained, tmp_path, suffix)
    read = exchange.read(file)
    for count in (1, 7):
        np.testing.assert_allclose(read(IMAGES[:count]), logits[:count], rtol=1e-4, atol=1e-4)
    pytest.importorskip("PIL.Image").fromarray(IMAGES[0]).save(tmp_path / "digit.png")
    assert program.main(["predict", str(tmp_path / "digit.png"), "--model", str(file)]) == 0
    assert f"digit.png: {logits[0].argmax()} (" in capsys.readouterr().out


def test_stablehlo_is_for_three_platforms(trained, tmp_path):
    program_ = jax.export.deserialize(bytearray(exported(trained, tmp_path, ".stablehlo").read_bytes()))
    assert set(program_.platforms) == {"cpu", "cuda", "tpu"}
    assert str(program_.in_avals[0].shape[0]) == "n"


def test_pytorch_gives_the_same_logits(trained, tmp_path, logits):
    torch = pytest.importorskip("torch")

    class LeNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.Conv2d(6, 16, 5)
            self.dense1, self.dense2, self.dense3 = (
                torch.nn.Linear(a, b) for a, b in ((400, 120), (120, 84), (84, 10))
            )

        def forward(self, x):
            for conv in (self.conv1, self.conv2):
                x = torch.relu(torch.max_pool2d(conv(x), 2))
            return self.dense3(torch.relu(self.dense2(torch.relu(self.dense1(x.flatten(1))))))

    network = LeNet()
    network.load_state_dict(torch.load(exported(trained, tmp_path, ".pt"), weights_only=True))
    images = torch.tensor((IMAGES[:, None] / 255 - engine.MEAN) / engine.DEVIATION, dtype=torch.float32)
    np.testing.assert_allclose(network(images).detach().numpy(), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["model.onnx", "missing.stablehlo", "bad.stablehlo", "bad.safetensors", "bad.pt"])
def test_unreadable_files(trained, tmp_path, capsys, name):
    if name == "bad.pt":
        pytest.importorskip("torch")
    pytest.importorskip("PIL.Image").fromarray(IMAGES[0]).save(tmp_path / "digit.png")
    if "bad" in name:
        (tmp_path / name).write_bytes(b"\x05\0\0\0\0\0\0\0no model")
    capsys.readouterr()
    assert program.main(["predict", str(tmp_path / "digit.png"), "--model", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: ") and error.count("\n") == 1
