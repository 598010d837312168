"""Every network that is also in torchvision gives torchvision's numbers with its random weights. Needs torchvision.

    pytest -n 0 -m "slow or not slow" tests/test_torchvision.py        # all networks: minutes, and at most 8 GB

Without `-m` it tests the smallest network of each family. `make torchvision` installs the packages.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("flax")
try:
    torchvision = pytest.importorskip("torchvision")
except RuntimeError as broken:  # torchvision belongs to another release of PyTorch
    pytest.skip(str(broken), allow_module_level=True)

from flax import nnx  # noqa: E402  after it is known what is here

from convlab import models, weights  # noqa: E402

SMALLEST = {
    "alexnet", "vgg11", "vgg11_bn", "googlenet", "inception_v3", "resnet18", "resnet50", "resnext50_32x4d",
        "densenet121",
    "squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5",
    "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny", "fcn_resnet50",
    "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
}  # fmt: skip
OTHERS = ("vit_", "swin_", "maxvit")  # attention networks
SHAPES_ALONE = "regnet_y_128gf"
DOUBLE = {
    "efficientnet_v2_l"
}  # so deep that random weights amplify rounding: PyTorch's float32 differs by 15 % from its float64
SIZES = {"inception_v3": 299, "alexnet": 95, "densenet": 64, "convnext": 64, "googlenet": 64}
SEGMENTATION = torchvision.models.list_models(module=torchvision.models.segmentation)
NAMES = sorted(
    name for name in torchvision.models.list_models(module=torchvision.models) if not name.startswith(OTHERS)
) + sorted(SEGMENTATION)
LEARNT = (nnx.Param, nnx.BatchStat)
FASTEST_COMPILATION = {"xla_backend_optimization_level": 0}


def build(name, **options):
    """Build torchvision's network in evaluation mode, with random weights and running statistics."""
    if name in SEGMENTATION:
        options |= dict(weights_backbone=None) | (dict(aux_loss=True) if name.startswith(("fcn", "deeplab")) else {})
    if name in ("googlenet", "inception_v3"):
        options |= dict(init_weights=False)
    return torchvision.models.get_model(name, weights=None, **options).eval()


def drawn(module, seed):
    """Set affine parameters, statistics and kernels so that a mistake would show, and activations keep their magnitude
    in depth."""
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda tensor, low, high: tensor.uniform_(low, high, generator=generator)
    with torch.no_grad():
        for part in module.modules():
            for name, tensor in part.named_parameters(recurse=False):
                if tensor.ndim > 1 and name == "weight":
                    tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
                else:
                    uniform(tensor, *((0.5, 1.0) if name in ("weight", "layer_scale") else (-0.1, 0.1)))
            if hasattr(part, "running_mean"):
                uniform(part.running_mean, -0.1, 0.1)
                uniform(part.running_var, 0.5, 1.5)
    return module


def size_of(name):
    return next((size for begin, size in SIZES.items() if name.startswith(begin)), 48)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in SMALLEST else pytest.mark.slow) for n in NAMES])
def test_it_gives_what_torchvision_gives(name):
    if name == SHAPES_ALONE:
        pytest.skip("its 645 million parameters: see the test of its shapes")
    theirs = drawn(build(name), seed=zlib.crc32(name.encode()))
    state = {key: tensor.clone() for key, tensor in theirs.state_dict().items()}
    options = {"transform_input": True} if name in ("googlenet", "inception_v3") else {}
    theirs.transform_input = bool(options)
    model = models.get_model(name, weights=state, **options)
    model.eval()
    side = size_of(name)
    x = np.random.default_rng(0).normal(size=(2, side, side + (0 if side > 64 else 16), 3)).astype(np.float32)
    if name == "inception_v3":
        x = x[:1]
    double = name in DOUBLE
    with torch.no_grad():
        expected = (theirs.double() if double else theirs)(
            torch.tensor(x).to(next(theirs.parameters()).dtype).movedim(-1, 1)
        )
    theirs.float()
    expected = expected if isinstance(expected, dict) else {"out": expected}
    graph, leaves = nnx.split(model)
    with jax.enable_x64(double):
        wide = lambda leaf: leaf.astype(jnp.float64) if double and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        leaves, x = jax.tree.map(wide, leaves), wide(jnp.asarray(x))
        run = jax.jit(lambda leaves, x: nnx.merge(graph, leaves)(x))
        found = run.lower(leaves, x).compile(FASTEST_COMPILATION)(leaves, x)
    found = found if isinstance(found, dict) else {"out": found}
    assert found.keys() == expected.keys()
    for part, tensor in expected.items():
        reference = tensor.numpy() if tensor.ndim == 2 else tensor.movedim(1, -1).numpy()
        assert np.isfinite(reference).all() and np.ptp(reference) > 1e-3
        assert np.abs(found[part] - reference).max() < 1e-4 * np.abs(reference).max(), part
    back = weights.to_torch(model, tensors=True)
    theirs.load_state_dict(back, strict=True)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, state[key]) or key.endswith("num_batches_tracked"), key


@pytest.mark.slow
def test_the_largest_has_torchvisions_shapes(monkeypatch):
    from torchvision.models.regnet import BlockParams

    rows = BlockParams.from_init_params

    def on_the_cpu(*args, **options):
        with torch.device("cpu"):
            return rows(*args, **options)

    monkeypatch.setattr(BlockParams, "from_init_params", on_the_cpu)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(SHAPES_ALONE).state_dict()
    model = models.RegNet_Y_128GF.abstract()
    expected = {key: tuple(tensor.shape) for key, tensor in theirs.items() if not key.endswith("num_batches_tracked")}
    zeros = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), nnx.to_pure_dict(nnx.state(model, LEARNT))
    )
    assert {key: array.shape for key, array in weights.to_torch({"params": zeros}).items()} == expected


def test_every_network_of_torchvision_is_here():
    assert set(NAMES) <= set(models.list_models())
    assert set(NAMES) >= SMALLEST


@pytest.mark.parametrize(
    "name, layers", [("resnet18", ["layer2", "layer4"]), ("mobilenet_v2", ["features.3", "features.18"])]
)
def test_features_are_torchvisions(name, layers):
    from torchvision.models.feature_extraction import create_feature_extractor

    theirs = drawn(build(name), seed=1)
    model = models.get_model(name, weights=theirs.state_dict())
    model.eval()
    x = np.random.default_rng(1).normal(size=(2, 64, 48, 3)).astype(np.float32)
    with torch.no_grad():
        expected = create_feature_extractor(theirs, layers)(torch.tensor(x).movedim(-1, 1))
    found = jax.jit(lambda x: models.features(model, x, layers))(x)
    assert found.keys() == set(layers)
    for layer in layers:
        reference = expected[layer].movedim(1, -1).numpy()
        assert np.abs(found[layer] - reference).max() < 1e-4 * np.abs(reference).max()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_scores_are_returned_in_training(name):
    theirs = build(name)
    model = models.get_model(name, weights=theirs.state_dict())
    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    shapes = nnx.eval_shape(lambda model, x: model(x), model, x)
    assert [leaf.shape for leaf in shapes] == [(2, 1000)] * len(shapes) and len(shapes) == (
        3 if name == "googlenet" else 2
    )
    without = models.get_model(name, weights=theirs.state_dict(), aux_logits=False)
    assert nnx.eval_shape(lambda model, x: model(x), without, x).shape == (2, 1000)


def test_files_of_pytorch_load_as_they_are(tmp_path):
    theirs = drawn(build("squeezenet1_1", num_classes=7), seed=3)
    paths = {"zip.pth": {}, "legacy.pth": {"_use_new_zipfile_serialization": False}}
    for path, options in paths.items():
        torch.save(theirs.state_dict(), tmp_path / path, **options)
        model = models.SqueezeNet1_1(num_classes=7, weights=tmp_path / path)
        for key, array in weights.to_torch(model).items():
            np.testing.assert_array_equal(array, theirs.state_dict()[key].numpy(), strict=True)
    torch.save(theirs, tmp_path / "module.pth")
    with pytest.raises(
        ValueError, match=r"`path` must hold tensors in plain containers, got torchvision\.models\.squeezenet"
    ):
        models.SqueezeNet1_1(weights=tmp_path / "module.pth")


def test_mobilenet_v1_is_timms():
    timm = pytest.importorskip("timm")
    theirs = drawn(timm.create_model("mobilenetv1_100").eval(), seed=5)
    model = models.MobileNetV1_100(weights=theirs.state_dict())
    model.eval()
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(x).movedim(-1, 1)).numpy()
    assert np.abs(jax.jit(model)(x) - expected).max() < 1e-4 * np.abs(expected).max()
