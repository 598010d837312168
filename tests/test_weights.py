"""Parameters from PyTorch and back: every number, and the numbers a network makes of them."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import convlab.linen
import convlab.nnx
from convlab import weights

IMAGE = (2, 8, 8, 4)
FLATTENED = {"fc": (4, 4, 6)}
TRANSPOSED = dict(strides=2, padding=1, output_padding=1, feature_group_count=2, use_consistent_padding=True)


class Net(nnx.Module):
    """A grouped convolution, a norm, a transposed convolution down and up again, a dense layer behind a flatten."""

    def __init__(self, transpose_kernel):
        rngs = nnx.Rngs(0)
        self.conv = convlab.nnx.Conv(4, 8, (3, 3), strides=2, padding=1, feature_group_count=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.up = convlab.nnx.ConvTranspose(8, 6, (3, 3), transpose_kernel=transpose_kernel, rngs=rngs, **TRANSPOSED)
        self.fc = nnx.Linear(96, 5, rngs=rngs)

    def __call__(self, x):
        x = self.up(nnx.relu(self.norm(self.conv(x))))
        return self.fc(convlab.max_pool(x, 2, 2).reshape(len(x), -1))


class LinenNet(linen.Module):
    transpose_kernel: bool

    @linen.compact
    def __call__(self, x):
        x = convlab.linen.Conv(8, (3, 3), strides=2, padding=1, feature_group_count=2, name="conv")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=True, name="norm")(x))
        x = convlab.linen.ConvTranspose(6, (3, 3), transpose_kernel=self.transpose_kernel, name="up", **TRANSPOSED)(x)
        return linen.Dense(5, name="fc")(convlab.max_pool(x, 2, 2).reshape(len(x), -1))


def images():
    return np.random.default_rng(1).normal(size=IMAGE).astype(np.float32)


def state_dict():
    """As PyTorch shapes it; no two numbers alike."""
    shapes = {
        "conv.weight": (8, 2, 3, 3), "conv.bias": (8,), "norm.weight": (8,), "norm.bias": (8,), "norm.running_mean": (8,),
        "norm.running_var": (8,), "up.weight": (8, 3, 3, 3), "up.bias": (6,), "fc.weight": (5, 96), "fc.bias": (5,),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    state = {name: rng.normal(scale=0.2, size=shape).astype(np.float32) for name, shape in shapes.items()}
    return state | {"norm.running_var": np.abs(state["norm.running_var"]) + 0.5, "norm.num_batches_tracked": np.array(7)}


def models(transpose_kernel):
    """An empty model of each system, the options that its import takes, and how to apply it."""
    net = LinenNet(transpose_kernel)
    variables = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), images()))
    mirrored = {} if transpose_kernel else {"mirrored": {"up": 2}}
    yield Net(transpose_kernel), {}, lambda model: model(images())
    yield variables, mirrored, lambda variables: net.apply(variables, images())


@pytest.mark.parametrize("transpose_kernel", [True, False])
def test_a_round_trip_gives_every_bit_back(transpose_kernel):
    given = state_dict()
    for model, options, _ in models(transpose_kernel):
        filled = weights.from_torch(given, model, flattened=FLATTENED, **options)
        returned = weights.to_torch(filled, flattened=FLATTENED, **options)
        assert returned.keys() == given.keys() - {"norm.num_batches_tracked"}
        for name, array in returned.items():
            np.testing.assert_array_equal(array, given[name], strict=True)


def test_both_systems_and_both_kernels_compute_the_same():
    outputs = [
        apply(weights.from_torch(state_dict(), model, flattened=FLATTENED, **options))
        for transpose_kernel in (True, False)
        for model, options, apply in models(transpose_kernel)
    ]
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], atol=1e-5)


@pytest.mark.parametrize("transpose_kernel", [True, False])
def test_an_imported_network_gives_pytorchs_outputs(transpose_kernel):
    torch = pytest.importorskip("torch")
    given = {name: torch.tensor(array) for name, array in state_dict().items()}

    class TorchNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(4, 8, 3, 2, 1, groups=2)
            self.norm = torch.nn.BatchNorm2d(8)
            self.up = torch.nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2)
            self.fc = torch.nn.Linear(96, 5)

        def forward(self, x):
            x = self.up(torch.relu(self.norm(self.conv(x))))
            return self.fc(torch.nn.functional.max_pool2d(x, 2).flatten(1))

    net = TorchNet().eval()
    net.load_state_dict(given)
    expected = net(torch.tensor(images()).movedim(-1, 1)).detach().numpy()
    for model, options, apply in models(transpose_kernel):
        filled = weights.from_torch(net.state_dict(), model, flattened=FLATTENED, **options)
        np.testing.assert_allclose(apply(filled), expected, atol=1e-5)
        returned = weights.to_torch(filled, flattened=FLATTENED, **options)
        net.load_state_dict({name: torch.tensor(array) for name, array in returned.items()})


def test_the_longest_beginning_of_a_path_is_renamed():
    leaf = {"bias": jnp.zeros(2)}
    variables = {"params": {"a": {"b": leaf, "c": leaf}, "d": leaf}}
    state = weights.to_torch(variables, names={"a": "x.0", "a.b": "", "d": "y"})
    assert state.keys() == {"bias", "x.0.c.bias", "y.bias"}


def test_a_function_renames_paths():
    leaf = {"bias": jnp.zeros(2)}
    variables = {"params": {"stem": {"layers": {"0": leaf, "1": leaf}}}}
    names = lambda path: path.replace(".layers.", ".")
    state = weights.to_torch(variables, names=names)
    assert state.keys() == {"stem.0.bias", "stem.1.bias"}
    returned = weights.from_torch(state | {"stem.1.bias": np.ones(2)}, variables, names=names)
    assert returned["params"]["stem"]["layers"]["1"]["bias"].tolist() == [1, 1]


def test_a_model_keeps_its_numbers_and_its_dtype():
    model = nnx.Linear(3, 2, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    before = np.asarray(model.kernel[...])
    filled = weights.from_torch({"weight": np.ones((2, 3)), "bias": np.ones(2)}, model)
    np.testing.assert_array_equal(model.kernel[...], before)
    assert filled.kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(filled(jnp.ones((1, 3))), [[4, 4]])


@pytest.mark.parametrize(
    "change, options, said",
    [
        ({"fc.weight": None}, {}, "fc.weight"),
        ({"extra.weight": np.zeros(1)}, {}, "extra.weight"),
        ({"fc.bias": np.zeros(6)}, {}, "(6,)"),
        ({}, {"flattened": {"dense": (4, 4, 6)}}, "'dense'"),
        ({}, {"flattened": {"fc": (5, 4, 6)}}, "(5, 4, 6)"),
        ({}, {"names": {"head": "fc"}}, "'head'"),
    ],
)
def test_what_does_not_fit_is_refused(change, options, said):
    state = {k: v for k, v in (state_dict() | change).items() if v is not None}
    with pytest.raises(ValueError, match=r"`\w+` must .*, got ") as caught:
        weights.from_torch(state, Net(True), **{"flattened": FLATTENED} | options)
    assert said in str(caught.value)


@pytest.mark.parametrize("state, model", [("weights.pt", {"params": {}}), ({}, linen.Dense(2)), ({}, None)], ids=str)
def test_what_is_no_state_dict_or_no_model_is_refused(state, model):
    with pytest.raises(TypeError, match=r"`(state_dict|model)` must be .*, got "):
        weights.from_torch(state, model)


DTYPES = ["bool", "uint8", "int16", "float16", "bfloat16", "float32", "float64", "int64"]


def arrays():
    numbers = np.arange(6).reshape(2, 3) % 5
    return {dtype: numbers.astype(jnp.dtype(dtype)) for dtype in DTYPES} | {"scalar": np.float32(3)}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], np.asarray(array), strict=True)


def test_safetensors_files_come_back(tmp_path):
    weights.save_safetensors(arrays(), tmp_path / "a.safetensors")
    assert_same(weights.load_safetensors(tmp_path / "a.safetensors"), arrays())


def test_safetensors_files_are_those_of_the_package(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    plain = {k: np.asarray(v) for k, v in arrays().items() if k != "bfloat16"}
    weights.save_safetensors(plain, tmp_path / "ours.safetensors")
    assert_same(package.load_file(tmp_path / "ours.safetensors"), plain)
    package.save_file(plain, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert_same(weights.load_safetensors(tmp_path / "theirs.safetensors"), plain)


def test_other_files_and_dtypes_are_refused(tmp_path):
    (tmp_path / "text").write_text("not a header at all")
    with pytest.raises(ValueError, match="`path` must"):
        weights.load_safetensors(tmp_path / "text")
    weights.save_safetensors({"a": np.ones((2, 3)), "b": np.ones(5)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    listed = (2).to_bytes(8, "little") + b"[]"
    for content in (whole[:-1], whole.replace(b"[2, 3]", b"[2, 4]"), whole.replace(b'"shape"', b'"shade"'), listed, b""):
        (tmp_path / "part").write_bytes(content)
        with pytest.raises(ValueError, match="`path` must be a whole safetensors file, got '.*part'"):
            weights.load_safetensors(tmp_path / "part")
    with pytest.raises(ValueError, match="`arrays` must"):
        weights.save_safetensors({"z": np.zeros(1, np.complex64)}, tmp_path / "z")


def test_bfloat16_tensors_keep_their_bits():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6.0).reshape(2, 3).to(torch.bfloat16) / 3
    linear = nnx.Linear(3, 2, use_bias=False, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    filled = weights.from_torch({"weight": tensor}, linear)
    np.testing.assert_array_equal(np.asarray(filled.kernel[...], np.float32).T, tensor.float().numpy())


def test_importing_it_imports_neither_torch_nor_flax():
    program = "import sys, convlab.weights; print([m for m in ('torch', 'flax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weight_normalisation_is_pytorchs():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 6, 3, groups=2))
    with torch.no_grad():
        theirs.parametrizations.weight.original0 += 0.5
    ours = convlab.nnx.Conv(4, 6, 3, padding="VALID", feature_group_count=2, weight_norm=True, rngs=nnx.Rngs(0))
    filled = weights.from_torch(theirs.state_dict(), ours)
    x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    expected = theirs(torch.tensor(x).movedim(-1, 1)).movedim(1, -1).detach().numpy()
    np.testing.assert_allclose(filled(x), expected, atol=1e-5)
    for name, array in weights.to_torch(filled).items():
        np.testing.assert_array_equal(array, theirs.state_dict()[name].numpy(), strict=True)
