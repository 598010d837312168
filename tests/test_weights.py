"""Parameters from PyTorch and back: every number, and the results of networks with them."""

import functools
import json
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
    """A grouped convolution, a norm, a convolution and a transposed one, and a dense layer after a flatten."""

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
    """Return a state dict with PyTorch's shapes and distinct numbers."""
    shapes = {
        "conv.weight": (8, 2, 3, 3), "conv.bias": (8,), "norm.weight": (8,), "norm.bias": (8,),
            "norm.running_mean": (8,),
        "norm.running_var": (8,), "up.weight": (8, 3, 3, 3), "up.bias": (6,), "fc.weight": (5, 96), "fc.bias": (5,),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    state = {name: rng.normal(scale=0.2, size=shape).astype(np.float32) for name, shape in shapes.items()}
    return state | {
        "norm.running_var": np.abs(state["norm.running_var"]) + 0.5,
        "norm.num_batches_tracked": np.array(7),
    }


def models(transpose_kernel):
    """Return an empty model of each system, the options of its import, and a function that applies it."""
    net = LinenNet(transpose_kernel)
    shapes = jax.eval_shape(net.init, jax.random.key(0), images())
    variables = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)
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


def test_the_longest_prefix_of_a_path_is_renamed():
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
def test_mismatches_are_refused(change, options, said):
    state = {k: v for k, v in (state_dict() | change).items() if v is not None}
    with pytest.raises(ValueError, match=r"`\w+` must .*, got ") as caught:
        weights.from_torch(state, Net(True), **{"flattened": FLATTENED} | options)
    assert said in str(caught.value)


@pytest.mark.parametrize("state, model", [("weights.pt", {"params": {}}), ({}, linen.Dense(2)), ({}, None)], ids=str)
def test_other_state_dicts_and_models_are_refused(state, model):
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


FALSE_HEADERS = [
    dict(shape=[-1]),
    dict(shape=[-2, -2]),
    dict(shape=[2.0, 2]),
    dict(shape=None),
    dict(data_offsets=["0", 16]),
    dict(data_offsets=[0]),
    dict(data_offsets=[0, 16, 3]),
    dict(data_offsets=[-16, 16]),
]


def test_false_headers_of_safetensors_are_refused(tmp_path):
    """By one text each; a header that is longer than the file ends it, and nested lists are not followed."""
    path, entry = tmp_path / "a.safetensors", dict(dtype="F32", shape=[2, 2], data_offsets=[0, 16])
    headers = [json.dumps({"a": entry | wrong}).encode() for wrong in FALSE_HEADERS]
    for header in (*headers, b'{"a":' + b"[" * 10**5, b"[]"):
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        with pytest.raises(ValueError, match="`path` must be a whole safetensors file"):
            weights.load(path)
    for content in (b"", b"\1\0", (2**62).to_bytes(8, "little") + b"{}", b"<html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="`path` must be a whole safetensors file"):
            weights.load(path)
    header = json.dumps({"a": entry | dict(dtype=["F32"])}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ValueError, match="`path` must hold dtypes of BOOL"):
        weights.load(path)


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
    for content in (
        whole[:-1],
        whole.replace(b"[2, 3]", b"[2, 4]"),
        whole.replace(b'"shape"', b'"shade"'),
        listed,
        b"",
    ):
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


# Models with other names


class Own(nnx.Module):
    """A network whose names differ from PyTorch's."""

    def __init__(self, rngs, epsilon=1e-5, padding=1, activation=nnx.relu):
        self.first = convlab.nnx.Conv(3, 4, (3, 3), padding=padding, rngs=rngs)
        self.after = nnx.BatchNorm(4, epsilon=epsilon, momentum=0.9, use_running_average=True, rngs=rngs)
        self.chain = nnx.Sequential(convlab.nnx.Conv(4, 4, (3, 3), padding=1, rngs=rngs), activation)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.chain(nnx.relu(self.after(self.first(x)))).mean((1, 2)))


OWN = {"0": "first", "1": "after", "3.0": "chain.layers.0", "4": "last"}


def own_state():
    shapes = {
        "0.weight": (4, 3, 3, 3), "0.bias": (4,), "1.weight": (4,), "1.bias": (4,), "1.running_mean": (4,),
            "1.running_var": (4,),
        "3.0.weight": (4, 4, 3, 3), "3.0.bias": (4,), "4.weight": (2, 4), "4.bias": (2,),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def test_layers_are_paired_in_their_order(capsys):
    state, model = own_state(), Own(nnx.Rngs(0))
    table = weights.match(state, model)
    assert table.agrees and table.names == {ours: theirs for theirs, ours in OWN.items()}
    filled = weights.from_torch(state, model, names="by order")
    assert capsys.readouterr().out == f"{table}\n"
    for key, array in weights.to_torch(filled, names=table.names).items():
        np.testing.assert_array_equal(array, state[key], strict=True)


def test_pairs_that_order_alone_decides_are_marked():
    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)
            self.c = nnx.Linear(2, 3, rngs=rngs)

    state = {
        f"{name}.{leaf}": np.zeros(shape)
        for name, shape in (("a", (2, 2)), ("y", (2, 2)), ("z", (3, 2)))
        for leaf in ("weight",)
    }
    state |= {f"{name}.bias": np.zeros(n) for name, n in (("a", 2), ("y", 2), ("z", 3))}
    rows = weights.match(state, Twice(nnx.Rngs(0))).rows
    assert [(row.ours, row.theirs, row.order_alone) for row in rows] == [
        ("a", "a", False),
        ("b", "y", True),
        ("c", "z", False),
    ]
    assert "by order alone" in str(weights.match(state, Twice(nnx.Rngs(0))))


def test_without_names_the_error_shows_the_pairs_and_how_to_accept_them():
    with pytest.raises(ValueError, match="pass names='by order':\nmodel +state dict +shapes\nfirst +0 +4x3x3x3 4"):
        weights.from_torch(own_state(), Own(nnx.Rngs(0)))
    other = own_state() | {"3.0.weight": np.zeros((4, 4, 1, 1), np.float32)}
    with pytest.raises(ValueError, match="`weights.match` shows both sides"):
        weights.from_torch(other, Own(nnx.Rngs(0)))
    with pytest.raises(
        ValueError, match="`names` 'by order' must pair layers of equal shapes, got 'chain.layers.0' beside '3.0'"
    ):
        weights.from_torch(other, Own(nnx.Rngs(0)), names="by order")
    with pytest.raises(ValueError, match="`names` must be a mapping, a function or 'by order', got 'in order'"):
        weights.from_torch(other, Own(nnx.Rngs(0)), names="in order")


def test_unused_entries_are_reported():
    names = {ours: theirs for theirs, ours in OWN.items()}
    state = own_state() | {"4.weight": np.zeros((7, 4)), "4.bias": np.zeros(7), "extra": np.zeros(1)}
    del state["0.bias"]
    model = Own(nnx.Rngs(0))
    filled, report = weights.from_torch(state, model, names=names, strict=False)
    assert report.missing == ("0.bias",) and report.unknown == ("extra",) and len(report.reshaped) == 2
    assert "kernel (4, 2) for '4.weight', got (4, 7)" in str(report)
    np.testing.assert_array_equal(filled.last.kernel[...], model.last.kernel[...])
    np.testing.assert_array_equal(np.asarray(filled.first.kernel[...]).transpose(3, 2, 0, 1), state["0.weight"])


def test_the_name_of_a_wrapper_is_removed_where_the_model_has_none():
    names = {ours: theirs for theirs, ours in OWN.items()}
    state = own_state()
    expected = jax.tree.leaves(weights.from_torch(state, Own(nnx.Rngs(0)), names=names))
    for prefix in ("model.", "lightning.net.", "module."):
        wrapped = {prefix + name: value for name, value in state.items()}
        found = jax.tree.leaves(weights.from_torch(wrapped, Own(nnx.Rngs(0)), names=names))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    inside = {"params": {"model": {"kernel": np.zeros((3, 2))}}}  # whose own name it is
    assert weights.from_torch({"model.weight": np.ones((2, 3))}, inside)["params"]["model"]["kernel"].sum() == 6
    with pytest.raises(
        ValueError, match=r"got none for '0\.bias', .* and 'other\.a\.weight', 'other\.b\.weight' besides"
    ):
        weights.from_torch({"other.a.weight": np.ones(1), "other.b.weight": np.ones(1)}, Own(nnx.Rngs(0)), names=names)


def test_abstract_models_are_filled():
    abstract = nnx.eval_shape(lambda: Own(nnx.Rngs(0)))
    names = {ours: theirs for theirs, ours in OWN.items()}
    x = jnp.ones((1, 5, 5, 3))
    expected = weights.from_torch(own_state(), Own(nnx.Rngs(0)), names=names)(x)
    np.testing.assert_array_equal(weights.from_torch(own_state(), abstract, names=names)(x), expected)


def test_leaves_are_renamed_and_reshaped():
    class Scaled(nnx.Module):
        def __init__(self):
            self.prelu, self.gamma = nnx.PReLU(), nnx.Param(jnp.zeros(3))
            self.slopes = nnx.Param(jnp.zeros(2))

    state = {"prelu.weight": np.full(1, 0.3), "layer_scale": np.arange(3.0).reshape(3, 1, 1), "act.weight": np.ones(2)}
    options = dict(leaves={"gamma": ("layer_scale", (-1, 1, 1)), "slopes": "act.weight"})
    filled = weights.from_torch(state, Scaled(), **options)
    assert filled.gamma[...].tolist() == [0, 1, 2] and filled.slopes[...].tolist() == [1, 1]
    assert float(filled.prelu.negative_slope[...]) == pytest.approx(0.3)
    back = weights.to_torch(filled, **options)
    assert {key: array.shape for key, array in back.items()} == {key: array.shape for key, array in state.items()}
    with pytest.raises(ValueError, match="`leaves` must name paths of `model`, got 'delta'"):
        weights.from_torch(state, Scaled(), leaves={"delta": "weight"})


def test_old_names_of_weight_normalisation_are_read():
    ours = convlab.nnx.Conv(2, 3, 3, weight_norm=True, rngs=nnx.Rngs(0))
    state = {"weight_g": np.arange(1.0, 4).reshape(3, 1, 1), "weight_v": np.ones((3, 2, 3)), "bias": np.zeros(3)}
    assert weights.from_torch(state, ours).scale[...].tolist() == [1, 2, 3]


class Images(nnx.Module):
    def __init__(self, positions, rngs):
        self.conv = convlab.nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(2 * positions, 3, rngs=rngs)


def test_a_dense_layer_that_may_read_a_flattened_image_is_warned_of(recwarn):
    state = {
        "conv.weight": np.zeros((2, 1, 3, 3)),
        "conv.bias": np.zeros(2),
        "fc.weight": np.zeros((3, 18)),
        "fc.bias": np.zeros(3),
    }
    with pytest.warns(UserWarning, match=r"Pass flattened=\{'fc': \(3, 3, 2\)\}, or None for the shape"):
        weights.from_torch(state, Images(9, nnx.Rngs(0)))
    recwarn.clear()
    weights.from_torch(state, Images(9, nnx.Rngs(0)), flattened={"fc": None})
    weights.from_torch(state | {"fc.weight": np.zeros((3, 2))}, Images(1, nnx.Rngs(0)))
    assert not [w for w in recwarn if "flattened" in str(w.message)]


def test_differences_from_a_module_are_listed():
    torch = pytest.importorskip("torch")
    tnn = torch.nn
    module = tnn.Sequential(
        tnn.Conv2d(3, 4, 3, padding=1), tnn.BatchNorm2d(4), tnn.ReLU(),
            tnn.Sequential(tnn.Conv2d(4, 4, 3, padding=1), tnn.GELU()),
        tnn.Linear(4, 2),
    )  # fmt: skip
    names = {ours: theirs for theirs, ours in OWN.items()} | {"chain": "3", "chain.layers.0": "3.0"}
    gelu = functools.partial(nnx.gelu, approximate=False)
    weights.from_torch(module, Own(nnx.Rngs(0), activation=gelu), names=names)
    wrong = Own(nnx.Rngs(0), epsilon=1e-3, padding="VALID", activation=nnx.gelu)
    with pytest.raises(ValueError, match="`model` must compute what") as caught:
        weights.from_torch(module, wrong, names=names)
    for said in (
        "after: epsilon 0.001 for 1e-05",
        "first: padding 'VALID' for (1, 1)",
        "activation gelu, approximate for gelu",
    ):
        assert said in str(caught.value)
    _, report = weights.from_torch(module, wrong, names=names, strict=False)
    assert len(report.differences) == 3


@pytest.mark.parametrize("make", ["LSTMCell", "OptimizedLSTMCell", "GRUCell"])
def test_recurrent_cells_take_pytorchs_gates(make):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = (torch.nn.GRU if make == "GRUCell" else torch.nn.LSTM)(3, 4, num_layers=2, batch_first=True)

    class Stack(nnx.Module):
        def __init__(self, rngs):
            self.one, self.two = getattr(nnx, make)(3, 4, rngs=rngs), getattr(nnx, make)(4, 4, rngs=rngs)

    names = {"one": "", "two": "l1"}
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    if make == "GRUCell":
        with pytest.raises(ValueError, match="must have no bias inside the reset gate for 'one'"):
            weights.from_torch(theirs.state_dict(), Stack(nnx.Rngs(0)), names=names)
        with torch.no_grad():
            for layer in (0, 1):
                getattr(theirs, f"bias_hh_l{layer}")[8:] = 0
    filled = weights.from_torch(theirs.state_dict(), Stack(nnx.Rngs(0)), names=names)
    y = x
    for cell in (filled.one, filled.two):
        carry, steps = cell.initialize_carry((2, y.shape[-1]), nnx.Rngs(0)), []
        for t in range(5):
            carry, out = cell(carry, y[:, t])
            steps.append(out)
        y = np.stack(steps, 1)
    np.testing.assert_allclose(y, theirs(torch.tensor(x))[0].detach().numpy(), atol=1e-5)
