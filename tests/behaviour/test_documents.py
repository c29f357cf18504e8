"""What the documents tell a reader to type: Python runs, page by page, and commands exist with all of their options.

The blocks of a page run in their order in an empty folder, and a block that imports begins afresh. So that this takes
seconds, numbers of three digits or more are made small (`SHORTER`). What a page takes for granted, such as data or a
run of the reader's own, is in `GIVEN`. A block that can't run says why in a comment before its fence,
`<!-- not run: REASON -->`, and must at least be Python.
"""

import argparse
import ast
import functools
import importlib.util
import re
import runpy
import shlex

import numpy as np
import pytest
import torch
import tyro
from support.idx import idx_bytes
from support.pages import PAGES, ROOT, blocks, commands, name, paths
from support.runs import small_run

import fastflow as ff

cli = importlib.import_module("fastflow.cli.main")  # of the package itself, `main` is the function

SHORTER = {
    r"\bsteps=\d{3,}": "steps=2",
    r"\bsamples=\d{2,}": "samples=32",
    r"\bevaluate\(\)": "evaluate(samples=32, progress=False)",
    r"\breport\(\)": "report(samples=32, progress=False)",
    r"\branking\(\)": "ranking(samples=32, progress=False)",
}


def _mnist(folder):
    (folder / "data/mnist").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file, shape in {
        "train-images-idx3-ubyte": (20, 28, 28), "train-labels-idx1-ubyte": (20,),
        "t10k-images-idx3-ubyte": (20, 28, 28), "t10k-labels-idx1-ubyte": (20,),
    }.items():  # fmt: skip
        (folder / "data/mnist" / file).write_bytes(idx_bytes(rng.integers(0, 10, shape)))


def _run(folder):
    small_run(folder / "runs/digits", ff.generators.load("digits-vae"), num_potentials=16, batch_size=16)
    return {"classifier": _two_attributes}


def _two_attributes(images):
    return torch.stack((images.mean((1, 2, 3)), images.amax((1, 2, 3))), 1)


GIVEN = {"docs/datasets.md": _mnist, "docs/paths.md": _run}

WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))], ids=name
)
def test_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = GIVEN.get(name(page), lambda folder: None)(tmp_path) or {}
    names = dict(given)
    for block in blocks(page):
        if block.language != "python":
            continue
        tree = ast.parse(block.code)
        if block.reason is not None:
            continue
        if any(isinstance(statement, ast.Import | ast.ImportFrom) for statement in tree.body):
            names = dict(given)
        code = block.code
        for long, short in SHORTER.items():
            code = re.sub(long, short, code)
        torch.manual_seed(0)
        capsys.readouterr()
        exec(compile("\n" * (block.line - 1) + code, str(page), "exec"), names)
        printed = capsys.readouterr().out
        for shape in re.findall(r"print\(.*\)  # (\(.*\))", code):
            assert shape in printed


def test_every_block_says_what_it_is():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("python", "bash", "text"), f"{name(page)}:{block.line}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_exist(page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    for command in commands(page):
        words = shlex.split(command, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
            words.pop(0)
        if words:
            try:
                _check(words)
            except (AssertionError, SystemExit, ImportError) as error:
                raise AssertionError(f"{name(page)}: {command}: {error}") from error


def _check(words):
    """Raise unless a command could begin: its program, its options and the files of the repository that it names."""
    program, *arguments = words
    if program == "fastflow":
        _check_fastflow(arguments)
    elif program in ("nsys", "torchrun"):  # which start fastflow
        _check_fastflow(arguments[arguments.index("fastflow") + 1 :])
    elif program == "make":
        _check_make(arguments)
    elif program == "pip":
        extras = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
        known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
        assert all(extra in known for found in extras for extra in found.split(","))
    elif program in ("python", "pytest"):
        if program == "python" and arguments[0] == "-m":
            _check_module(*arguments[1:])
        else:
            _check_script(program, arguments)
    else:
        assert program in ("ncu", "jupyter", "git", "cd", "source", "mkdocs"), f"no test knows {program}"


def _check_fastflow(arguments):
    if all(word.islower() for word in arguments):  # the command's name alone
        arguments = [*arguments, "--help"]
    status = 0
    try:
        cli._parse(arguments)
    except SystemExit as exit_:
        status = exit_.code
    assert not status, "fastflow refuses it"


def _check_make(arguments):
    makefile = (ROOT / "Makefile").read_text()
    for word in arguments:
        variable, equals, _ = word.partition("=")
        assert re.search(rf"^{variable} \?=" if equals else rf"^{word}:", makefile, re.M), word


def _check_module(module, *arguments):
    """A benchmark up to the point where its arguments are read."""
    assert module.startswith("benchmarks."), module
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    package = spec.submodule_search_locations is not None
    main = importlib.import_module(f"{module}.__main__" if package else module).main
    if arguments:
        parse = argparse.ArgumentParser.parse_args

        def stop(self, *given):
            parse(self, *given)
            raise StopIteration

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            with pytest.raises(StopIteration):
                main(list(arguments))


def _check_script(program, arguments):
    files = [word for word in arguments if word.endswith(".py") or "/" in word]
    for file in files:
        assert (ROOT / file).exists(), file
    if program == "python" and files[0].startswith("examples/"):
        main = runpy.run_path(str(ROOT / files[0]))["main"]
        tyro.cli(functools.wraps(main)(lambda **read: None), args=arguments[1:])


@pytest.mark.parametrize("page", [page for page in PAGES if paths(page)], ids=name)
def test_paths_exist(page):
    assert [path for path in paths(page) if not list(ROOT.glob(path.rstrip("/")))] == []


def test_a_planted_path_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`fastflow/nowhere.py`, `docs/faq.md:7`, `tests/<folder>/test_<module>.py`, `pytest tests/kernels`, `csrc/`\n"
        "```bash\npython benchmarks/none.py\n```\n"
    )
    assert paths(page) == ["fastflow/nowhere.py", "docs/faq.md", "csrc/"]


def test_bringing_ones_own_generator_takes_under_ten_lines():
    (code,) = (block.code for block in blocks(ROOT / "README.md") if "from_callable" in block.code)
    assert len([line for line in code.splitlines() if line.strip()]) < 10


def test_the_reference_has_every_public_name():
    text = "".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
    shown = set(re.findall(r"^::: fastflow\.(\w+)$", text, re.M))
    assert shown == set(ff.__all__)
