"""The first cell of the notebooks in a fresh kernel: without convlab, with a wheel or a clone beside the notebook, and
with the other project installed."""

import importlib.util
import json
import pathlib
import sysconfig
import venv
import zipfile

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import convlab

ROOT = pathlib.Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("refresh", ROOT / "notebooks/refresh.py")
refresh = importlib.util.module_from_spec(spec)
spec.loader.exec_module(refresh)
NAME = f"convlab_jax-{convlab.__version__}"
pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the cell and a line after it in a fresh environment, with this one's packages except convlab."""
    builder = venv.EnvBuilder(symlinks=True)
    builder.create(tmp_path / "env")
    python = builder.ensure_directories(tmp_path / "env").env_exe
    site = next((tmp_path / "env").rglob("site-packages"))
    packages = sysconfig.get_path("purelib")
    if (pathlib.Path(packages) / "convlab/__init__.py").exists():
        pytest.skip("convlab is installed here and not linked to its checkout")
    (site / "others.pth").write_text(packages)
    kernel = tmp_path / "share/kernels/fresh"
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "fresh", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    folder = tmp_path / "lesson"
    folder.mkdir()

    def execute(prepare):
        prepare(folder, site)
        cells = [refresh.installation(""), "import convlab.viz; print(convlab.__version__, convlab.__file__)"]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        client = NotebookClient(
            notebook, timeout=300, kernel_name="fresh", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
        return "".join(output.get("text", "") for output in notebook.cells[1].outputs)

    return execute


def wheel(folder, site):
    """Build the wheel of this checkout without its dependencies, which this environment has."""
    metadata = f"Metadata-Version: 2.1\nName: convlab-jax\nVersion: {convlab.__version__}\nProvides-Extra: examples\n"
    with zipfile.ZipFile(folder / f"{NAME}-py3-none-any.whl", "w") as archive:
        for path in (ROOT / "convlab").rglob("*.py"):
            archive.write(path, path.relative_to(ROOT).as_posix())
        info = f"{NAME}.dist-info"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "\n".join(f"{name},," for name in [*archive.namelist(), f"{info}/RECORD"]))


def other_project(folder, site):
    (site / "convlab").mkdir()
    (site / "convlab/__init__.py").write_text("")


def test_the_wheel_beside_the_notebook_is_installed(run):
    printed = run(wheel)
    assert printed.startswith(convlab.__version__) and "site-packages" in printed and str(ROOT) not in printed


def test_without_a_wheel_two_lines_say_what_to_do(run):
    with pytest.raises(
        CellExecutionError, match=r"convlab is not installed\. Put its wheel \(convlab_jax-\*\.whl\) beside"
    ):
        run(lambda folder, site: None)


def test_the_other_project_is_named_in_one_line(run):
    with pytest.raises(CellExecutionError, match="is another project: uninstall it, restart the kernel"):
        run(other_project)


def test_an_installed_convlab_is_left_alone(run):
    printed = run(lambda folder, site: (site / "here.pth").write_text(str(ROOT)))
    assert str(ROOT) in printed


def test_the_address_is_used_once_it_is_known(monkeypatch):
    assert "git+" not in refresh.installation("") and refresh.badge("1.ipynb") == ""
    monkeypatch.setattr(refresh, "REPOSITORY", "https://github.com/someone/convlab-jax")
    assert '"convlab-jax[examples] @ git+https://github.com/someone/convlab-jax"' in refresh.installation("")
    assert "/github/someone/convlab-jax/blob/main/notebooks/1.ipynb" in refresh.badge("1.ipynb")
