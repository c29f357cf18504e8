"""The distributions: what is in them, that the wheel works by itself, and that building them takes no torch."""

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # where `make` hasn't compiled the native module, this does
FOLDERS = ("fastflow", "kernels", "csrc", "cmake", "requirements", "tests", "benchmarks", "tools", "docs", "examples")


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    environment = {**os.environ, **variables}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def files_under(*folders: str) -> set[str]:
    """Every file of the source tree in these folders that no build or run has put there."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }


class Distributions(NamedTuple):
    sdist: set[str]  # names in the source distribution, below its one folder
    wheel: set[str]  # names in the wheel
    wheel_file: Path
    sources: set[str]  # the source tree's files when these were built


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The source distribution and the wheel, built with a torch in reach that refuses to be imported.

    The wheel is built in the folder where `make` has compiled its native module already, with the settings found there.
    That it can be built from the source distribution alone is what the workflow of the wheels tries.
    """
    folder = tmp_path_factory.mktemp("dist")
    trap = tmp_path_factory.mktemp("trap")
    (trap / "torch.py").write_text("raise SystemExit('the build imported torch')\n")
    sources = files_under(*FOLDERS)
    compiled = ROOT / "build" / Path(sys.prefix).name
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    for what in (("--sdist",), ("--wheel", f"-Cbuild-dir={compiled}")):
        run(*build, *what, cwd=folder, PYTHONPATH=str(trap))
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    with tarfile.open(sdist) as tar, zipfile.ZipFile(wheel) as archive:
        below = {name.partition("/")[2] for name in tar.getnames()}
        return Distributions(below, set(archive.namelist()), wheel, sources)


class Installed(NamedTuple):
    python: Path  # an interpreter that finds the wheel's contents, and everything else where this one does
    site: Path  # the folder that holds them


@pytest.fixture(scope="session")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, which borrows the dependencies of this one and nothing of the checkout.

    A path in a .pth file is looked into for packages alone: the .pth file of an editable install there isn't read.
    """
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", distributions.wheel_file, cwd=folder)
    return Installed(python, site)


def test_wheel_contains_every_module_and_its_data(distributions):
    sources = distributions.sources
    expected = {name for name in sources if name.startswith("fastflow/")}
    expected |= {f"fastflow/{name}" for name in sources if name.startswith("kernels/")}
    assert expected <= distributions.wheel
    assert {"fastflow/__init__.py", "fastflow/kernels/__init__.py", "fastflow/py.typed"} <= distributions.wheel
    assert any(
        name.startswith("fastflow/generators/") and name.endswith(".safetensors") for name in distributions.wheel
    )
    assert any(name.startswith("fastflow/_native.") and name.endswith(".so") for name in distributions.wheel)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in distributions.wheel)


def test_wheel_contains_nothing_else(distributions):
    tops = {name.partition("/")[0] for name in distributions.wheel}
    assert tops == {"fastflow", f"fastflow-{version('fastflow')}.dist-info"}
    assert not [name for name in distributions.wheel if name.endswith((".cpp", ".hpp", ".cu", ".o", ".pyc"))]


def test_sdist_contains_the_whole_project(distributions):
    assert distributions.sources <= distributions.sdist
    assert {"pyproject.toml", "CMakeLists.txt", "Makefile", "README.md", "LICENSE"} <= distributions.sdist


def test_sdist_contains_nothing_that_was_built(distributions):
    assert not [name for name in distributions.sdist if name.startswith((".venv", "build/", "dist/", ".git/"))]
    assert not [name for name in distributions.sdist if name.endswith((".so", ".pyc"))]


def test_installed_wheel_works_outside_the_source_tree(installed, tmp_path):
    output = run(installed.python, "-I", ROOT / "tools" / "try_installed.py", cwd=tmp_path)
    assert output.splitlines()[-1] == f"fastflow {version('fastflow')} works as installed in {installed.site}/fastflow"


def test_native_module_can_be_imported_without_torch(installed, tmp_path):
    program = "import sys, _native; print('torch' in sys.modules, _native.instruction_set())"
    output = run(installed.python, "-c", program, cwd=tmp_path, PYTHONPATH=str(installed.site / "fastflow"))
    assert output.startswith("False ")
