"""The installed package: README's statements, `python -m convlab`, missing extras, systems other than Linux."""

import ast
import builtins
import email
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import convlab
import convlab.__main__ as report

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def run(program: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)


# --- README ---------------------------------------------------------------------------------------------------------


def test_readme_shows_the_example_as_it_is():
    assert (ROOT / "examples/lenet.py").read_text() in [source for _, source in BLOCKS]


def test_readme_installs_this_version_with_extras_that_exist():
    wheel, extras = re.search(r"pip install '(convlab_jax-\S+?\.whl)\[([\w,]+)\]'", README).groups()
    assert wheel == f"convlab_jax-{convlab.__version__}-py3-none-any.whl"
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_readme_installs_before_the_first_python_block():
    first = next(i for i, (language, _) in enumerate(BLOCKS) if language == "python")
    assert any("pip install" in source for _, source in BLOCKS[:first])


def test_every_python_block_of_readme_stands_alone():
    for language, source in BLOCKS:
        if language == "python":
            nodes = list(ast.walk(ast.parse(source)))
            bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
            bound |= {
                alias.asname or alias.name.split(".")[0] for node in nodes for alias in getattr(node, "names", ())
            }
            bound |= {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)}
            bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
            used = {node.id for node in nodes if isinstance(node, ast.Name)}
            assert used - bound - set(dir(builtins)) - {"__name__"} == set()


def test_readme_names_targets_of_make_that_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make (\w+)", README, re.MULTILINE)) | set(re.findall(r"`make (\w+)`", README))
    assert named and named <= targets


def test_the_families_are_those_of_the_measured_rows():
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import families as f; print(f.table(f.TABLE.read_text()))"
    table = run(program).stdout
    assert table.count("\n") == 11 and table in README


def test_readme_links_to_files_that_exist():
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


# --- the report -----------------------------------------------------------------------------------------------------


def test_the_report_says_versions_devices_engine_and_formulations():
    done = subprocess.run([sys.executable, "-m", "convlab"], capture_output=True, text=True, timeout=300, check=True)
    lines = done.stdout.splitlines()
    assert any(line == f"convlab-jax {convlab.__version__}" for line in lines)
    assert re.search(r"^Python 3\.\d+.*, jax \d.*, jaxlib \d", done.stdout, re.MULTILINE)
    assert re.search(r"^devices: cpu:0", done.stdout, re.MULTILINE)
    assert re.search(r"^oneDNN on the CPU: (on|off: .+)$", done.stdout, re.MULTILINE)
    assert all(any(name in line for line in lines) for name in report.layers())


def test_the_report_says_why_the_engine_is_off(monkeypatch):
    monkeypatch.setenv("CONVLAB_ENGINE", "off")
    assert re.match("off: .*off", report.engine())


class Distribution:
    def __init__(self, version, requires):
        self.version, self.requires = version, requires


@pytest.mark.parametrize("requires, said", [(["torch", "nltk"], True), (None, True), (["jax>=0.10.2", "numpy"], False)])
def test_the_report_tells_the_other_project_from_this_one(monkeypatch, requires, said):
    monkeypatch.setattr(report.importlib.metadata, "distribution", lambda name: Distribution("0.3", requires))
    line = report.other_project()
    assert bool(line) == said
    assert not said or "another project" in line.lower() and "\n" not in line


def test_the_report_ends_with_the_address_once_there_is_one(monkeypatch):
    told = email.message_from_string("Project-URL: Issues, https://example.org/issues\n")
    assert report.where_to_report() is None
    monkeypatch.setattr(report.importlib.metadata, "metadata", lambda name: told)
    assert report.where_to_report() == "https://example.org/issues"


# --- extras ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module, package, extra", [("nnx", "flax", "flax"), ("linen", "flax", "flax"), ("viz", "matplotlib", "viz")]
)
def test_a_missing_extra_is_named(module, package, extra):
    done = run(f"import sys; sys.modules[{package!r}] = None; from convlab import {module}")
    assert done.stderr.splitlines()[-1].startswith(
        f"ModuleNotFoundError: `convlab.{module}` needs the package {package}"
    )
    assert f"extra `{extra}`" in done.stderr
    assert extra in PROJECT["optional-dependencies"]


# --- systems --------------------------------------------------------------------------------------------------------

# JAX is imported before the system changes, because its behaviour on other systems is not tested here.
ELSEWHERE = """
import builtins, io, os, platform, sys, warnings
import jax, jax.numpy as jnp, numpy as np
import jax.scipy.signal

def refuse(opened):
    def open(file, *args, **kwargs):
        if str(file).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", str(file))
        return opened(file, *args, **kwargs)
    return open

builtins.open, io.open = refuse(builtins.open), refuse(io.open)
sys.platform = {system!r}
platform.machine, platform.system = (lambda: {machine!r}), (lambda: {name!r})
for missing in ("sched_getaffinity", "getloadavg", "uname"):
    if hasattr(os, missing):
        delattr(os, missing)
warnings.simplefilter("error")
import convlab
import convlab.__main__ as report

x, kernel = jnp.ones((2, 9, 9, 8)), jnp.ones((3, 3, 1, 8))
loss = lambda x, kernel: convlab.max_pool(convlab.conv(x, kernel, feature_group_count=8), 3, strides=2).sum()
value, slope = jax.jit(jax.value_and_grad(loss, argnums=1))(x, kernel)
with convlab.accelerate():
    depthwise = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=8)
assert float(depthwise[0, 4, 4, 0]) == 9.0
print(float(value), slope.shape, report.engine())
print(report.report())
"""


@pytest.mark.parametrize("system, machine, name", [("darwin", "arm64", "Darwin"), ("win32", "AMD64", "Windows")])
def test_on_other_systems_everything_works_without_the_engine(system, machine, name):
    done = run(ELSEWHERE.format(system=system, machine=machine, name=name))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("2304.0 (3, 3, 1, 8) off: "), done.stdout
    assert f"on {system}" in done.stdout and "onednn " not in done.stdout


def test_on_linux_without_cpuinfo_everything_works():
    done = run(ELSEWHERE.format(system="linux", machine="x86_64", name="Linux"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("2304.0 (3, 3, 1, 8) "), done.stdout


# --- metadata -------------------------------------------------------------------------------------------------------


def test_pre_commit_has_the_versions_of_ci():
    pinned = set(PROJECT["optional-dependencies"]["lint"])
    assert set(re.findall(r"\w[\w\[\]-]*==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text())) == pinned


def test_the_citation_has_the_version():
    assert f"\nversion: {convlab.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == convlab.__version__ and versions[-1] == "0.1.0"


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_workflows_and_templates_are_yaml(path):
    yaml = pytest.importorskip("yaml")
    read = yaml.safe_load(path.read_text())
    jobs = read.get("jobs", {})
    assert jobs or "body" in read or "blank_issues_enabled" in read
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {name for line in commands for name in re.findall(r"^make (\w+)", line)} <= targets
