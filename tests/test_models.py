"""`convlab.models` without PyTorch: names, weights in both directions, features, and the errors of bad files and
names."""

import doctest
import io
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")

from flax import nnx  # noqa: E402  after it is known to be here

from convlab import models, weights  # noqa: E402


@pytest.fixture(scope="module")
def squeezenet():
    """Return the abstract network, a state dict for it, and the network with that state dict."""
    abstract = models.SqueezeNet1_1.abstract(num_classes=5)
    numbers = np.random.default_rng(0)
    shapes = {"classifier.1.weight": (5, 512, 1, 1), "classifier.1.bias": (5,)}
    zeros = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
    )
    shapes |= {key: array.shape for key, array in weights.to_torch({"params": zeros}).items()}
    state = {key: numbers.normal(0, 0.05, shape).astype(np.float32) for key, shape in shapes.items()}
    return abstract, state, models.SqueezeNet1_1(num_classes=5, weights=state)


def test_importing_convlab_imports_no_networks():
    program = "import sys, convlab; print('convlab.models' in sys.modules, 'flax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_names_are_those_of_the_callables():
    names = models.list_models()
    assert names == sorted(names) and len(names) > 85
    for name in names:
        builder = next(
            value for key, value in vars(models).items() if key.lower() == name and isinstance(value, models.Builder)
        )
        assert builder.name.lower() == name and builder.__doc__
    assert models.list_models(include="resnet*", exclude=["*18", "*34"]) == ["resnet101", "resnet152", "resnet50"]
    with pytest.raises(ValueError, match=r"`name` must be a network, one of .*resnet50.*, got 'resnet49'"):
        models.get_model("resnet49")
    with pytest.raises(ValueError, match="`rngs` must be given for ResNet18 without `weights`, got None"):
        models.ResNet18()


def test_weights_come_from_files_and_mappings_and_go_back(squeezenet, tmp_path):
    _, state, model = squeezenet
    for key, array in weights.to_torch(model).items():
        np.testing.assert_array_equal(array, state[key], strict=True)
    weights.save_safetensors(state, tmp_path / "model.safetensors")
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": array for key, array in state.items()}}
    for given in (tmp_path / "model.safetensors", wrapped):
        again = models.SqueezeNet1_1(num_classes=5, weights=given)
        assert jax.tree.all(
            jax.tree.map(np.array_equal, *(nnx.to_pure_dict(nnx.state(m, nnx.Param)) for m in (again, model)))
        )


def test_dropout_of_a_loaded_network_draws(squeezenet):
    _, state, model = squeezenet
    keys = [v.get_value() for _, v in nnx.to_flat_state(nnx.state(model, nnx.RngKey))]
    assert keys and all(jnp.issubdtype(key.dtype, jax.dtypes.prng_key) for key in keys)
    seeded = models.SqueezeNet1_1(num_classes=5, weights=state, rngs=nnx.Rngs(7))
    other = [v.get_value() for _, v in nnx.to_flat_state(nnx.state(seeded, nnx.RngKey))]
    assert not any(bool((a == b).all()) for a, b in zip(keys, other))


def test_features_are_what_the_layers_return(squeezenet):
    _, _, model = squeezenet
    model.eval()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 48, 48, 3)), jnp.float32)
    names = ["features.4", "features.4.squeeze", "features.1", "classifier"]

    def run(x):
        return models.features(model, x, names), model(x)

    found, scores = jax.jit(run)(x)
    assert found.keys() == set(names)
    np.testing.assert_array_equal(found["classifier"], scores)
    np.testing.assert_allclose(found["features.1"], jax.nn.relu(model.features[0](x)), rtol=1e-5, atol=1e-6)
    assert found["features.4.squeeze"].shape[-1] == 16 and found["features.4"].shape[-1] == 128
    for name, said in (
        ("features.99", "got 'features.99'"),
        ("features.4.nothing", "expand1x1"),
        ("features.4.kernel", "squeeze"),
    ):
        with pytest.raises(ValueError, match=said):
            jax.eval_shape(lambda x: models.features(model, x, [name]), x)  # noqa: B023


def test_wrong_networks_and_shapes_are_one_line(squeezenet):
    _, state, _ = squeezenet
    with pytest.raises(
        ValueError, match=r"`state_dict` must have the entries of `model` and no other, got none for"
    ) as caught:
        models.ResNet18(weights=state)
    assert "besides" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"`state_dict` must make \w+ \(.*\) for 'classifier.1.*', got \(.*\)\. 1 more differ"
    ):
        models.SqueezeNet1_1(num_classes=6, weights=state)
    with pytest.raises(TypeError, match="`state_dict` must be a mapping of names to arrays, got str for 'a'"):
        models.ResNet18(weights={"a": "b"})
    with pytest.raises(FileNotFoundError):
        models.ResNet18(weights="nowhere.pth")
    for name in ("DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"):
        with pytest.raises(
            ValueError, match=r"`weights` must be a file or a state dict for ResNet18, got '.*nothing: "
        ):
            models.ResNet18(weights=name)
    with pytest.raises(TypeError, match="`weights` must be a file or a state dict for ResNet18, got bool"):
        models.ResNet18(weights=True)


def test_weights_come_with_wrappers_of_other_programs(squeezenet, tmp_path):
    _, state, _ = squeezenet
    before = lambda prefix: {prefix + name: value for name, value in state.items()}
    module = types.SimpleNamespace(state_dict=lambda: state)
    published = types.SimpleNamespace(get_state_dict=lambda: state)
    averaged = {"n_averaged": np.int64(3), **before("module.")}
    lightning = {"state_dict": before("model."), "epoch": 3, "hyper_parameters": {"lr": 0.1}}
    for given in (module, published, averaged, lightning, {"net": before("net.module.")}):
        found = weights.to_torch(models.SqueezeNet1_1(num_classes=5, weights=given))
        for name, value in state.items():
            np.testing.assert_array_equal(found[name], value)
    path = tmp_path / "training.pth"
    options = Global("numpy.core.multiarray", "scalar", Global("numpy", "dtype", "f8"), b"12345678")
    beside = {"args": Global("argparse", "Namespace", ()), "best": options, "at": Global("pathlib", "PosixPath", "a")}
    storages = [(str(i), np.ascontiguousarray(value).tobytes()) for i, value in enumerate(state.values())]
    tensors = {
        name: tensor("FloatStorage", str(i), value.size, value.shape, [n // 4 for n in np.zeros_like(value).strides])
        for i, (name, value) in enumerate(state.items())
    }
    torch_file(path, written({"model": tensors, **beside}), storages)
    found = weights.to_torch(models.SqueezeNet1_1(num_classes=5, weights=path))
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("network", [models.TCN, models.UNet, models.LeNet5, models.LRASPP_MobileNet_V3_Large])
def test_no_network_has_an_attribute_of_a_wrappers_name(network):
    first = nnx.to_pure_dict(nnx.state(network.abstract(), nnx.Param)).keys()
    assert first and not first & {prefix.removesuffix(".") for prefix in models._registry.PREFIXES}


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def torch_file(path, data, storages=()):
    """Write a file as `torch.save` does, of a pickle and storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in storages:
            archive.writestr(f"archive/data/{key}", content)


def test_hostile_and_broken_files_are_one_line(tmp_path):
    path = tmp_path / "file.pth"
    torch_file(path, pickle.dumps({"state_dict": Hostile()}, protocol=2))
    with pytest.raises(
        ValueError,
        match=r"`path` must hold tensors in plain containers, got \w+\.exec in .*Nothing of the file was exec",
    ):
        weights.load(path)
    path.write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(ValueError, match=r"got \w+\.exec in"):
        weights.load(path)
    for content in (b"", b"PK", b"x" * 99, pickle.dumps([1])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"`path` must .*, got '.*file\.pth'"):
            weights.load(path)
    torch_file(path, pickle.dumps([1, 2], protocol=2))
    with pytest.raises(ValueError, match="`path` must hold a state dict, got list in"):
        weights.load(path)


class Global:
    """An object that is pickled as a name in a module that may not be installed."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Writer(pickle._Pickler):
    def persistent_id(self, given):
        return given[1] if isinstance(given, tuple) and given[:1] == ("pid",) else None

    def save(self, given, save_persistent_id=True):
        if isinstance(given, Global):
            self.write(f"c{given.module}\n{given.name}\n".encode())
            if given.arguments:
                super().save(given.arguments)
                self.write(pickle.REDUCE)
            return
        super().save(given, save_persistent_id)


def written(given):
    file = io.BytesIO()
    Writer(file, protocol=2).dump(given)
    return file.getvalue()


def tensor(storage, key, size, shape, stride, offset=0):
    pid = ("pid", ("storage", Global("torch", storage), key, "cpu", size))
    return Global(
        "torch._utils",
        "_rebuild_tensor_v2",
        pid,
        offset,
        shape,
        stride,
        False,
        Global("collections", "OrderedDict", ()),
    )


def test_tensors_are_read_with_their_strides_and_no_further(tmp_path):
    path, numbers = tmp_path / "file.pth", np.arange(12, dtype=np.float32)
    state = {
        "plain": tensor("FloatStorage", "0", 12, (3, 4), (4, 1)),
        "turned": tensor("FloatStorage", "0", 12, (4, 3), (1, 4)),
        "part": tensor("FloatStorage", "0", 12, (2, 2), (4, 1), 5),
        "long": tensor("LongStorage", "1", 1, (), ()),
    }
    torch_file(path, written(state), [("0", numbers.tobytes()), ("1", np.int64(7).tobytes())])
    found = weights.load(path)
    np.testing.assert_array_equal(found["plain"], numbers.reshape(3, 4), strict=True)
    np.testing.assert_array_equal(found["turned"], numbers.reshape(3, 4).T, strict=True)
    np.testing.assert_array_equal(found["part"], [[5, 6], [9, 10]])
    assert found["long"] == 7 and found["long"].dtype == np.int64
    for shape, stride, offset in (
        ((3, 4), (5, 1), 0),
        ((12,), (1,), 1),
        ((2,), (-1,), 1),
        ((1 << 40, 1 << 40), (1, 1), 0),
    ):
        torch_file(
            path, written({"w": tensor("FloatStorage", "0", 12, shape, stride, offset)}), [("0", numbers.tobytes())]
        )
        with pytest.raises(ValueError, match="got a tensor (beyond the end of its storage|of impossible shape) in"):
            weights.load(path)
    torch_file(path, written(state), [("0", numbers.tobytes()[:-4]), ("1", np.int64(7).tobytes())])
    with pytest.raises(ValueError, match="`path` must be a whole file of PyTorch's"):
        weights.load(path)


def test_old_names_of_densenet_are_read():
    rename = models.densenet.DenseNet.torch_renamed
    assert rename("features.denseblock1.denselayer2.norm.1.weight") == "features.denseblock1.denselayer2.norm1.weight"
    assert rename("features.transition1.norm.weight") == "features.transition1.norm.weight"


def test_a_class_with_options_keeps_its_place_of_arguments():
    model = models.UNet.abstract(in_features=3, num_classes=4, channels=(4, 8))
    assert model.head.out_features == 4
    made = nnx.eval_shape(lambda: models.UNet(3, 4, channels=(4, 8), rngs=nnx.Rngs(0)))
    assert isinstance(made, models.UNet.network) and made.head.out_features == 4
    assert pickle.loads(pickle.dumps(models.UNet.network)) is models.UNet.network


def test_ordered_dicts_too():
    assert weights.unwrapped(OrderedDict({"module._orig_mod.a": np.zeros(1)})).keys() == {"a"}


EXAMPLES = [
    weights.from_torch, weights.to_torch, weights.match, weights.load, weights.load_safetensors,
        weights.save_safetensors,
    models.list_models, pytest.param(models.get_model, marks=pytest.mark.slow),
        pytest.param(models.features, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("function", EXAMPLES, ids=lambda function: function.__name__)
def test_examples_run(function):
    names = vars(models) | vars(weights) | {"jnp": jnp, "np": np, "nnx": nnx}
    runner, output = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE), []
    for test in doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=names):
        runner.run(test, out=output.append)
    assert runner.summarize(verbose=False).attempted and not output, "".join(output)
