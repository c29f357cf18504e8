"""The floors of CONTRIBUTING hold: no module imports from its own floor's other folders or above, none in a circle."""

import ast
import re
from pathlib import Path

import pytest
from behaviour.test_engine_without_pillow import NEEDED_BY_OTHERS
from support.processes import in_forks

ROOT = Path(__file__).parents[2]
COMPILED = ("fastflow._native", "fastflow._cuda")
"""Modules below every folder, without a source in Python."""


def floors() -> dict[str, int]:
    """Each folder of the table in CONTRIBUTING with its floor."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    return {folder: int(floor) for floor, folders in rows for folder in re.findall(r"`fastflow/(\w+)/`", folders)}


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """The modules that a module imports anywhere in its code, inside functions too; for type checkers alone not."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relative to its place: name the module from fastflow on"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole not in COMPILED:
                    found.add(whole if whole in known else str(node.module))
    return {module for module in found if module in known and module != name}


def graph(package: Path) -> dict[str, set[str]]:
    """What each module imports."""
    known = modules(package)
    return {name: imports(name, file, known) for name, file in known.items()}


def upward(arrows: dict[str, set[str]], floor: dict[str, int]) -> list[str]:
    """The imports that don't lead down; a folder's own modules may import each other."""
    faults = []
    for name, targets in arrows.items():
        here = name.split(".")[1:2]
        for target in targets:
            there = target.split(".")[1:2]
            if not here or here == there or here == ["__main__"]:
                continue  # the package's root, and the module that runs the command line, are above all
            if not there or floor[there[0]] >= floor[here[0]]:
                faults.append(f"{name} imports {target}")
    return faults


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Every set of modules that reach each other, the parents that Python loads first left out."""
    index, low, stack, on, found = {}, {}, [], set(), []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        on.add(name)
        for target in arrows[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in on:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            circle = []
            while not circle or circle[-1] != name:
                circle.append(stack.pop())
                on.discard(circle[-1])
            if len(circle) > 1:
                found.append(circle)

    for name in arrows:
        if name not in index:
            visit(name)
    return found


def test_every_folder_has_a_floor():
    folders = {path.name for path in (ROOT / "fastflow").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"kernels"} == set(floors())


def test_nothing_lies_flat_at_the_root():
    tracked = {path.name for path in (ROOT / "fastflow").iterdir() if path.is_file() and path.suffix != ".so"}
    assert tracked == {"__init__.py", "__main__.py", "_native.pyi", "_cuda.pyi", "py.typed"}


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """What each module of the package imports."""
    return graph(ROOT / "fastflow")


def test_no_import_leads_upward(arrows):
    assert len(arrows) > 100
    assert upward(arrows, floors()) == []


def test_no_circle(arrows):
    assert circles(arrows) == []


def test_the_root_loads_the_engine_alone(arrows):
    targets = arrows["fastflow"]
    assert {target.split(".")[1] for target in targets} == {"core", "engine"}


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("core/files.py", "from fastflow.runs import Run", "fastflow.core.files imports fastflow.runs"),
        ("engine/pde.py", "from fastflow import generators", "fastflow.engine.pde imports fastflow.generators"),
        ("saved/names.py", "import fastflow.baselines", "fastflow.saved.names imports fastflow.baselines"),
        ("core/files.py", "from fastflow import Run", "fastflow.core.files imports fastflow"),
        ("cli/look.py", "import fastflow as ff", "fastflow.cli.look imports fastflow"),
    ],
)
def test_a_planted_import_is_found(tmp_path, arrows, module, line, fault):
    planted = tmp_path / "planted.py"
    source = (ROOT / "fastflow" / module).read_text(encoding="utf-8")
    planted.write_text(f"{source}\n\ndef _planted():\n    {line}\n", encoding="utf-8")
    found = imports(fault.split()[0], planted, modules(ROOT / "fastflow"))
    assert upward({**arrows, fault.split()[0]: found}, floors()) == [fault]


def test_a_planted_circle_is_found(tmp_path):
    package = tmp_path / "fastflow"
    package.mkdir()
    for name, line in {
        "a": "from fastflow.b import x",
        "b": "import fastflow.c",
        "c": "from fastflow import a",
    }.items():
        (package / f"{name}.py").write_text(line)
    (circle,) = circles(graph(package))
    assert sorted(circle) == ["fastflow.a", "fastflow.b", "fastflow.c"]


PROGRAMS = {
    "torch": "import torch",
    "fastflow": "import fastflow",
    "latent half": "import fastflow as ff\nff.DiscoverConfig, ff.generators.load, ff.Run",
    "attributes": "import fastflow as ff\nff.errors.InputError, ff.flows.flow, ff.traversal.Traversal, ff.pde.Wave\n"
    "ff.objectives.WAVE, ff.objectives.jacobian_loss, ff.report.save_strip, ff.runs, ff.studies, ff.training",
}
OLD = [
    ("fastflow.pde", "Wave", "fastflow.engine.pde"),
    ("fastflow.arguments", "Times", "fastflow.engine.inputs"),
    ("fastflow.potentials", "PotentialBank", "fastflow.engine.potentials"),
    ("fastflow.ops.types", "Jet", "fastflow.engine.types"),
    ("fastflow.traversal", "Traversal", "fastflow.latents.traversal"),
    ("fastflow.report.strips", "save_strip", "fastflow.pictures.strips"),
]
# As in a pickle of a bank, for example, which names its class by its module.
FOLLOWED = {
    old: f"import {old}, sys\nfrom {old} import {name} as old\nfrom {new} import {name} as new\nassert old is new\n"
    f"import {new}\nassert sys.modules[{old!r}] is sys.modules[{new!r}]\n"
    f"assert sys.modules[{new!r}].__spec__.name == {new!r}"
    for old, name, new in OLD
}


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """The modules that a process has which has imported torch and then run a program."""
    programs = {**PROGRAMS, **FOLLOWED}
    printed = in_forks(*(f"{program}\nimport sys\nprint(*sys.modules)" for program in programs.values()))
    return {name: set(modules.split()) for name, modules in zip(programs, printed, strict=True)}


@pytest.mark.slow
def test_importing_fastflow_loads_the_engine(loaded):
    ours = {name.split(".")[1] for name in loaded["fastflow"] if name.startswith("fastflow.")}
    assert ours - {"_cuda"} == {"core", "engine", "_native"}
    assert not (loaded["fastflow"] - loaded["torch"]) & set(NEEDED_BY_OTHERS)


@pytest.mark.slow
def test_importing_fastflow_loads_no_kernels(loaded):
    ours = {name for name in loaded["fastflow"] if name.startswith("fastflow.")}
    assert "triton" not in loaded["fastflow"]
    assert not {name for name in ours if "kernels" in name}


@pytest.mark.slow
def test_the_latent_half_comes_on_first_use(loaded):
    modules = {"fastflow.training.flow_config", "fastflow.generators.loading", "fastflow.runs.run"}
    assert modules <= loaded["latent half"]


@pytest.mark.slow
def test_old_module_paths_are_attributes_too(loaded):
    assert {"fastflow.engine.pde", "fastflow.latents.traversal"} <= loaded["attributes"]


def test_every_public_name_is_there():
    import fastflow as ff

    assert [name for name in ff.__all__ if getattr(ff, name, None) is None] == []
    assert set(ff.__all__) <= set(dir(ff))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ff.nothing


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), [(old, new) for old, _, new in OLD])
def test_old_module_paths_lead_to_the_new_modules(loaded, old, new):
    assert new in loaded[old]
