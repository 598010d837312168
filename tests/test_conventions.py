"""Conventions of the package: import rules, public names, the sections of every docstring."""

import ast
import doctest
import inspect
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convlab

PACKAGE = pathlib.Path(convlab.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    """Return the module or package directly under convlab/ that a source belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


# The modules that each module may import; "public" is `import convlab` itself.
PUBLIC = {"public", "typing", "nnx", "linen", "analysis", "viz", "weights", "sharding", "models"}
NOT_OPERATIONS = {"__init__", "__main__", "_arguments", "_extras", "_window", "_backend", "_layers"}
OPERATIONS = {module_of(p) for p in SOURCES if module_of(p).startswith("_")} - NOT_OPERATIONS
IMPORT_RULES = dict.fromkeys(OPERATIONS, {"typing", "_arguments", "_window", "_backend", *OPERATIONS}) | {
    "__main__": {"public"},
    "_extras": set(),
    "typing": set(),
    "_arguments": set(),
    "_window": {"_arguments"},
    "_backend": {"_arguments", "_window"},
    "_layers": {"typing", "_arguments", "_window", "_backend", *OPERATIONS},
    "nnx": {"typing", "_extras", "_layers", "_arguments", *OPERATIONS},
    "linen": {"typing", "_extras", "_layers", "_arguments", *OPERATIONS},
    "analysis": PUBLIC,
    "viz": {"_extras", *PUBLIC},
    "weights": PUBLIC,
    "sharding": {"_arguments", *PUBLIC},
    "models": PUBLIC,
}


def test_only_the_backend_knows_platforms():
    others = [p for p in SOURCES if module_of(p) not in ("_backend", "sharding", "viz", "analysis")]
    assert not [str(p) for p in others if re.search(r"platform_dependent|register_lowering", p.read_text())]
    readme = (PACKAGE / "_backend" / "README.md").read_text()
    modules = {p.stem for p in SOURCES if module_of(p) == "_backend"} - {"__init__"}
    assert not {name for name in modules if f"`{name}`" not in readme}


def imported(path):
    """Yield the absolute names of the modules that a source imports, at any depth."""
    package = ("convlab", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{a.name}" for a in node.names) if module == "convlab" else (module,)


def modules_imported(path):
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "convlab":
            first = rest.split(".")[0]
            yield first if first in IMPORT_RULES else "public"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if module_of(p) != "__init__"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_import_rules(path):
    assert module_of(path) in IMPORT_RULES, "a new module needs its import rules"
    assert set(modules_imported(path)) - {module_of(path)} <= IMPORT_RULES[module_of(path)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_module_systems_import_flax(path):
    systems = {"nnx", "linen", "weights", "analysis", "models"}
    assert module_of(path) in systems or not any(name.split(".")[0] == "flax" for name in imported(path))


def test_import_convlab_imports_no_flax():
    program = (
        "import sys, convlab; print([m for m in sys.modules if m.split('.')[0] in ('flax', 'torch', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) < 400


DESIGNED = {
    "conv", "conv_transpose", "conv_local", "deform_conv", "conv_general_dilated", "max_pool", "min_pool", "avg_pool",
    "sum_pool", "lp_pool", "pool", "max_unpool", "adaptive_avg_pool", "adaptive_max_pool", "fractional_max_pool",
    "global_avg_pool", "global_max_pool", "gem_pool", "softmax_pool", "top_k_pool", "mixed_pool", "stochastic_pool",
    "blur_pool", "spatial_pyramid_pool", "unfold", "fold", "pad", "conv_matrix", "Window", "accelerate", "explain",
        "autotune", "Tuning", "resize",
    "pixel_shuffle", "pixel_unshuffle", "local_response_norm", "grid_sample", "affine_grid", "roi_align", "roi_pool",
        "nms",
    "freeze", "optimize",
}  # fmt: skip


def test_exports_are_complete_and_sorted():
    public = {n for n, v in vars(convlab).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert public >= DESIGNED
    assert list(convlab.__all__) == sorted(convlab.__all__)
    assert set(convlab.__all__) == public


def test_the_version_is_that_of_the_package():
    assert re.fullmatch(r"\d+\.\d+\.\d+", convlab.__version__)
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    assert 'path = "convlab/__init__.py"' in text and "\nversion =" not in text


def public_functions():
    return [getattr(convlab, name) for name in sorted(DESIGNED) if hasattr(convlab, name)]


@pytest.mark.parametrize("function", public_functions(), ids=lambda f: f.__name__)
def test_docstrings_say_shapes_errors_an_example_and_the_source(function):
    text = inspect.cleandoc(function.__doc__)
    arguments = [n for n in inspect.signature(function).parameters if n not in ("args", "kwargs")]
    for title in ("Args:", "Raises:", "Example:") if arguments else ("Example:",):
        assert f"\n{title}\n" in text, title
    missing = [name for name in arguments if name not in text.split("Args:")[1]]
    assert not missing
    assert "Error" in text.split("Raises:")[1] if arguments else True
    assert ">>>" in text
    assert function.__name__ in ("accelerate", "explain", "Tuning") or any(
        word in text for word in ("Equals", "Source:", "arXiv")
    )


@pytest.mark.parametrize("function", public_functions(), ids=lambda f: f.__name__)
def test_examples_run(function):
    names = vars(convlab) | {"convlab": convlab, "jax": jax, "jnp": jnp, "np": np}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    tests = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=names)
    output = []
    for test in tests:
        runner.run(test, out=output.append)
    assert runner.summarize(verbose=False).attempted > 0
    assert not output, "".join(output)


def test_options_are_keyword_only():
    """Flax's positional options stay positional; all other options are keyword-only."""
    flax = {
        "window_shape",
        "strides",
        "padding",
        "count_include_pad",
        "levels",
        "mode",
        "value",
        "bias",
        "output_shape",
    }
    for function in public_functions():
        if function.__name__ in ("conv_general_dilated", "Window", "explain", "accelerate"):
            continue
        for name, parameter in inspect.signature(function).parameters.items():
            positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            assert not positional or parameter.default is parameter.empty or name in flax, (function.__name__, name)


def test_padding_means_pads_in_every_function():
    """`padding` and `strides` have one default wherever they occur."""
    for function in public_functions():
        parameters = inspect.signature(function).parameters
        if function.__name__.endswith("_pool") and "padding" in parameters and function.__name__ != "blur_pool":
            assert parameters["padding"].default == "VALID"
            assert parameters["strides"].default is None


def returns(statements):
    """Yield the return statements of a function's body, without those of inner functions."""
    for statement in statements:
        if isinstance(statement, ast.Return):
            yield statement
        elif not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield from returns(node for node in ast.iter_child_nodes(statement) if isinstance(node, ast.stmt))


@pytest.mark.parametrize("path", sorted(pathlib.Path(__file__).parent.glob("test_*.py")), ids=lambda p: p.name)
def test_no_test_returns_where_it_should_skip(path):
    tests = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    assert not [n.name for n in tests if n.name.startswith("test_") and any(returns(n.body))]
