"""The options of functions, NNX layers and Linen layers agree in names, kinds, defaults and types."""

import ast
import dataclasses
import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys
import typing

import pytest
from flax import nnx

import convlab
import convlab.linen
import convlab.nnx
import convlab.typing
from convlab._arguments import PADDING_MODES
from convlab._backend.tables import FORMULATIONS

ROOT = pathlib.Path(convlab.__file__).parent.parent
FUNCTIONS = {
    "Conv": convlab.conv,
    "ConvTranspose": convlab.conv_transpose,
    "ConvLocal": convlab.conv_local,
    "DeformConv": convlab.deform_conv,
    "DepthwiseConv": convlab.conv,
    "WSConv": convlab.conv,
    "CausalConv": convlab.conv,
}
# Options that only one system has, or that have another name in the other.
NNX_ONLY = {"in_features", "out_features", "rngs", "kernel_metadata", "bias_metadata", "spatial_shape"}
LINEN_ONLY = {"features", "conv_general_dilated_cls", "parent", "name"}
# Options of one system's layer: Flax's ConvLocal takes a hook, and NNX's DeformConv a mask of its kernel.
NOT_SHARED = {("ConvLocal", "conv_general_dilated"), ("DeformConv", "mask")}
# The defaults of Flax's layers that are not those of the function: None means the function's.
OTHER_DEFAULTS = {
    ("ConvTranspose", "strides"): None,
    ("ConvTranspose", "kernel_dilation"): None,
    ("ConvLocal", "padding"): "SAME",
    ("CausalConv", "padding"): "CAUSAL",
    ("DepthwiseConv", "feature_group_count"): None,
}


def fields(layer):
    return {f.name: f for f in dataclasses.fields(layer)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_layers_with_a_kernel_have_the_options_of_their_function_in_both_systems(name):
    layers = getattr(convlab.nnx, name), getattr(convlab.linen, name)
    of_nnx, of_linen = (inspect.signature(layer.__init__).parameters.keys() for layer in layers)
    not_shared = {option for layer, option in NOT_SHARED if layer == name}
    assert (of_nnx - NNX_ONLY) ^ (of_linen - LINEN_ONLY) == not_shared
    in_nnx, in_linen = map(fields, layers)
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    called = {"out_sharding", "output_shape", "mask", "segment_ids", "valid"}
    options = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n not in called}
    for option, parameter in options.items():
        assert option in in_nnx and option in in_linen, option
        default = OTHER_DEFAULTS.get((name, option), parameter.default)
        for field in (in_nnx[option], in_linen[option]):
            assert option == "kernel_size" or (type(field.default), field.default) == (type(default), default), option
            # Flax's classes declare the types of their own options; a layer may take None for 1
            ours = isinstance(field.type, str) and option not in ("kernel_size", "feature_group_count")
            types = {parameter.annotation, f"{parameter.annotation} | None", "Any"}
            assert not ours or field.type in types, (option, field.type)


@pytest.mark.parametrize("name", [n for n in convlab.__all__ if typing.get_overloads(getattr(convlab, n))])
def test_overloads_have_the_parameters_of_their_function(name):
    function = getattr(convlab, name)
    whole = inspect.signature(function).parameters
    results = [inspect.signature(overload).return_annotation for overload in typing.get_overloads(function)]
    assert results == ["Array", "tuple[Array, Array]", "Array | tuple[Array, Array]"]
    for overload in typing.get_overloads(function):
        parameters = inspect.signature(overload).parameters
        assert [(p.name, p.kind) for p in parameters.values()] == [(p.name, p.kind) for p in whole.values()]
        for parameter in parameters.values():
            if parameter.name != "return_indices":
                own = whole[parameter.name]
                assert parameter.annotation == own.annotation
                assert (parameter.default is ...) == (own.default is not parameter.empty)


def test_the_declared_signature_of_linens_depthwise_layer_is_the_one_at_run_time():
    tree = ast.parse((ROOT / "convlab/linen/_convolutions.py").read_text())
    cls = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "DepthwiseConv")
    declared = next(n for n in ast.walk(cls) if isinstance(n, ast.FunctionDef) and n.name == "__init__").args
    actual = inspect.signature(convlab.linen.DepthwiseConv).parameters.values()
    names = {kind: [p.name for p in actual if p.kind is kind] for kind in {p.kind for p in actual}}
    assert [a.arg for a in declared.args][1:] == names[inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert sorted(a.arg for a in declared.kwonlyargs) == sorted(names[inspect.Parameter.KEYWORD_ONLY])


WITH_INDICES = "MaxPool", "MinPool", "AdaptiveMaxPool", "FractionalMaxPool"


@pytest.mark.parametrize("system", [convlab.nnx, convlab.linen], ids=lambda system: system.__name__)
@pytest.mark.parametrize("name", WITH_INDICES)
def test_declared_signatures_of_layers_with_indices_are_those_at_run_time(name, system):
    tree = ast.parse((ROOT / system.__name__.replace(".", "/") / "__init__.py").read_text())
    cls = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    *overloads, _ = (n for n in ast.walk(cls) if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    assert len(overloads) == 3
    actual = list(inspect.signature(getattr(system, name).__init__).parameters.values())[1:]
    given = [p.name for p in actual if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("parent", "name")]
    for overload in overloads:
        positional, named = ([a.arg for a in of] for of in (overload.args.args[1:], overload.args.kwonlyargs))
        assert positional == given
        assert sorted(named) == sorted({p.name for p in actual} - set(given))


def test_the_literals_are_what_the_functions_accept():
    methods = typing.get_args(convlab.typing.Method)
    assert set(methods) <= {"auto", *FORMULATIONS}
    text = convlab.conv.__doc__.split("method: the formulation")[1].split("Returns:")[0]
    assert set(re.findall(r'"(\w+)"', text)) == set(methods)
    assert typing.get_args(convlab.typing.PaddingMode) == PADDING_MODES
    aliases = {n for n in vars(convlab.typing) if n[0].isupper()} - {"Literal", "Sequence", "TypeAlias"}
    assert aliases == set(convlab.typing.__all__)


def test_a_layer_without_parameters_is_a_class_to_inherit_from():
    class Padded(convlab.nnx.MaxPool):
        def __call__(self, x):
            return super().__call__(x) + 1

    assert issubclass(Padded, nnx.Module) and Padded(2).strides is None
    assert convlab.nnx.MaxPool.__module__ == "convlab.nnx" and convlab.linen.MaxPool.__qualname__ == "MaxPool"


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_accept_the_right_calls_and_refuse_the_wrong_ones(checker):
    """A `type: ignore` that hides no error is an error, so that each call of typed_wrong.py must be one."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    files = ["tests/typed.py", "tests/typed_wrong.py"]  # pyright reads them and its rules in pyproject.toml
    options = {"mypy": ["--strict", "--follow-imports=silent", *files], "pyright": ["--pythonpath", sys.executable]}
    command = [sys.executable, "-m", checker, *options[checker]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
