"""Users' programs: each runs with its own neighbours, and its fingerprint covers what it imports."""

import importlib.util
import os
import pickle
import py_compile
import sys
import types

import pytest
import torch

from fastflow.core.errors import InputError
from fastflow.core.plugins import import_function, name_of, running
from fastflow.core.programs import fingerprint


def write(folder, **files):
    """Write files, named without .py, with __ for a slash and INIT for __init__, and return the folder."""
    for name, text in files.items():
        file = folder / (name.replace("__", "/").replace("INIT", "__init__") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def told(folder, role="generator", file="main"):
    """What `tell` in a folder's main.py returns."""
    return import_function(f"{folder}/{file}.py:tell", role)()


IMPORTS = {
    "from": ("from utils import NAME", "NAME"),
    "module": ("import utils", "utils.NAME"),
    "under-another-name": ("import models.net as net", "net.NAME"),
    "package": ("import models.net", "models.net.NAME"),
    "package-relative": ("from models import AGAIN", "AGAIN"),
    "star": ("from utils import *", "NAME"),
    "folder-without-init": ("from plain.inner import NAME", "NAME"),
    "relative": ("from .utils import NAME", "NAME"),
    "through-a-neighbour": ("from between import NAME", "NAME"),
    "by-importlib": ("import importlib; utils = importlib.import_module('utils')", "utils.NAME"),
    "by-function": ("utils = __import__('utils')", "utils.NAME"),
    "by-pickle": ("import pickle; found = pickle.loads(b'\\x80\\x02cmodels.net\\nNet\\n.')", "found.NAME"),
}


def twins(tmp_path, main):
    for name in ("one", "two"):
        write(
            tmp_path / name,
            main=main,
            utils=f"NAME = {name!r}\n",
            between="from utils import NAME\n",
            models__INIT="from .net import NAME as AGAIN\n",
            models__net=f"NAME = {name!r}\nclass Net:\n    NAME = {name!r}\n",
            plain__inner=f"NAME = {name!r}\n",
        )
    return tmp_path / "one", tmp_path / "two"


@pytest.mark.parametrize(("statement", "value"), IMPORTS.values(), ids=IMPORTS)
def test_each_program_imports_its_own_neighbours(tmp_path, statement, value):
    one, two = twins(tmp_path, f"{statement}\ndef tell(): return {value}\n")
    before = set(sys.modules)
    assert (told(one), told(two), told(one, "predictor"), told(one)) == ("one", "two", "one", "one")
    assert not {"utils", "models", "models.net", "plain", "between"} & (set(sys.modules) - before)


@pytest.mark.parametrize("case", [name for name in IMPORTS if name not in ("star", "by-importlib", "by-pickle")])
def test_functions_that_import_when_they_are_called_find_their_own_neighbours(tmp_path, case):
    statement, value = IMPORTS[case]
    one, two = twins(tmp_path, f"def tell():\n    {statement}\n    return {value}\n")
    first, second = (import_function(f"{folder}/main.py:tell", "generator") for folder in (one, two))
    assert (second(), first(), second()) == ("two", "one", "two")


@pytest.mark.parametrize("case", ["by-importlib", "by-pickle"])
def test_a_function_that_makes_a_generator_finds_its_neighbours_by_name(tmp_path, case):
    statement, value = IMPORTS[case]
    for folder in twins(tmp_path, f"def tell():\n    {statement}\n    return {value}\n"):
        function = import_function(f"{folder}/main.py:tell", "generator")
        with running(f"{folder}/main.py", "tell", "generator"):
            assert function() == folder.name
    assert "utils" not in sys.modules
    assert "models" not in sys.modules


def test_a_network_that_was_saved_by_a_script_is_loaded_with_the_program_s_own_class(tmp_path, monkeypatch):
    main = "import torch\ndef tell(): return torch.load(FILE, weights_only=False).NAME\n"
    one, two = twins(tmp_path, f"FILE = {str(tmp_path / 'net.pt')!r}\n{main}")
    with monkeypatch.context() as patch:  # as where the script ran, in the folder of its models
        patch.syspath_prepend(str(one))
        torch.save(importlib.import_module("models.net").Net, tmp_path / "net.pt")
        patch.delitem(sys.modules, "models.net")
        patch.delitem(sys.modules, "models")
    sys.modules.pop("models.net", None)
    sys.modules.pop("models", None)
    for folder in (two, one, two):
        function = import_function(f"{folder}/main.py:tell", "generator")
        with running(f"{folder}/main.py", "tell", "generator"):
            assert function() == folder.name


def test_a_neighbour_comes_before_an_installed_package(tmp_path):
    # tyro is installed and imported already; sched is of the standard library.
    write(tmp_path, main="import tyro, sched\ndef tell(): return tyro.MINE, sched.MINE\n")
    write(tmp_path, tyro="MINE = 1\n", sched="MINE = 2\n")
    assert told(tmp_path) == (1, 2)
    assert hasattr(importlib.import_module("tyro"), "cli")
    assert hasattr(importlib.import_module("sched"), "scheduler")


def test_what_python_has_built_in_and_fastflow_itself_stay_what_they_are(tmp_path):
    write(tmp_path, main="import sys, os, fastflow\ndef tell(): return sys, os, fastflow\n")
    write(tmp_path, sys="", os="", fastflow="")
    assert told(tmp_path) == (sys, os, importlib.import_module("fastflow"))


def test_a_folder_without_init_comes_after_an_installed_package(tmp_path):
    write(tmp_path, main="import tyro\ndef tell(): return tyro.cli\n", tyro__notes="")
    assert told(tmp_path) is importlib.import_module("tyro").cli


def test_two_files_of_one_name_are_two(tmp_path):
    shared = "from dataclasses import dataclass\n@dataclass\nclass Settings:\n    width: 'int' = {}\n"
    for name, width in (("one", 1), ("two", 2)):
        write(tmp_path / name, main=shared.format(width) + "def tell(): return Settings()\n")
    one, two = told(tmp_path / "one"), told(tmp_path / "two")
    assert (one.width, two.width) == (1, 2)
    assert pickle.loads(pickle.dumps(one)) == one
    assert pickle.loads(pickle.dumps(two)) == two
    # The name that is written down doesn't depend on the folder.
    assert name_of(type(one)) == name_of(type(two)) == "fastflow_generator_main:Settings"


def test_a_changed_neighbour_is_read_again(tmp_path):
    write(tmp_path, main="from utils import NAME\ndef tell(): return NAME\n", utils="NAME = 1\n")
    assert told(tmp_path) == 1
    write(tmp_path, utils="NAME = 2\n")
    assert told(tmp_path) == 2


def test_functions_stay_usable_when_their_changed_file_cannot_be_read_again(tmp_path):
    write(tmp_path, main="def tell():\n    from utils import NAME\n    return NAME\n", utils="NAME = 1\n")
    function = import_function(f"{tmp_path}/main.py:tell", "generator")
    write(tmp_path, main="def tell(\n")
    with pytest.raises(InputError, match="SyntaxError"):
        told(tmp_path)
    assert function() == 1


def test_a_neighbour_that_the_users_script_has_imported_is_shared(tmp_path, monkeypatch):
    write(tmp_path, main="import own_settings_module as own\ndef tell(): return own\n", own_settings_module="")
    loaded = types.ModuleType("own_settings_module")
    loaded.__file__ = str(tmp_path / "own_settings_module.py")
    monkeypatch.setitem(sys.modules, "own_settings_module", loaded)
    assert told(tmp_path) is loaded


def test_cached_byte_code_is_never_run(tmp_path):
    write(tmp_path, main="from utils import NAME\ndef tell(): return NAME\n", utils="NAME = 'other'\n")
    cached = importlib.util.cache_from_source(str(tmp_path / "utils.py"))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(tmp_path / "utils.py"), cfile=cached, invalidation_mode=mode)
    write(tmp_path, utils="NAME = 'source'\n")
    assert told(tmp_path) == "source"


def test_a_file_whose_name_is_no_identifier(tmp_path):
    write(tmp_path, utils="NAME = 3\n")
    (tmp_path / "my-net.v2.py").write_text("from .utils import NAME\ndef tell(): return NAME\n")
    assert told(tmp_path, file="my-net.v2") == 3


def test_missing_modules_have_the_names_that_the_program_gave_them(tmp_path):
    write(tmp_path, main="import models.gone\n", models__INIT="")
    with pytest.raises(InputError, match=r"main.py' failed: ModuleNotFoundError: No module named 'models.gone'$"):
        told(tmp_path)
    write(tmp_path, main="import utils\n", utils="import gone_package\n")
    with pytest.raises(InputError, match=r"No module named 'gone_package'$"):
        told(tmp_path)


@pytest.mark.slow
def test_a_programs_functions_are_compiled_whole(tmp_path):
    write(tmp_path, main="import math\ndef tell(x):\n    return (x * len([1, 2]) * math.tau).sum()\n")
    function = import_function(f"{tmp_path}/main.py:tell", "predictor")
    x = torch.ones(3)
    torch.testing.assert_close(torch.compile(function, fullgraph=True, backend="eager")(x), function(x))


CHANGES = {
    "the-file": {"main": "import utils, models\nfrom later import x\ndef tell(): import numpy as np\n"},
    "a-neighbour": {"utils": "NAME = 2\n"},
    "a-neighbours-neighbour": {"deep": "1\n"},
    "a-file-of-a-package": {"models__net": "1\n"},
    "a-neighbour-in-place-of-a-package": {"numpy": ""},
    "a-package-in-place-of-a-package": {"numpy__INIT": ""},
    "a-module-named-in-a-text": {"spoken": "1\n"},
}


@pytest.fixture
def program(tmp_path):
    write(
        tmp_path, main="import utils, models\ndef tell():\n    import numpy\n    from later import x\n    'spoken.x'\n"
    )
    write(tmp_path, utils="import deep\n", deep="", models__INIT="", models__net="", later="", spoken="")
    return tmp_path


@pytest.mark.parametrize("files", CHANGES.values(), ids=CHANGES)
def test_the_fingerprint_changes_with_whatever_the_program_imports(program, files):
    before = fingerprint(program / "main.py")
    write(program, **files)
    assert fingerprint(program / "main.py") != before


DYNAMIC = {
    "in a folder without __init__": ("importlib.import_module('nets.dec')", "nets__dec"),
    "by the function behind import": ("__import__('nets.dec')", "nets__dec"),
    "relative": ("importlib.import_module('.helper', __package__)", "helper"),
    "relative to a folder": ("importlib.import_module('.dec', 'nets')", "nets__dec"),
    "by a path": ("import runpy; runpy.run_path('nets/dec.py')", "nets__dec"),
    "by the end of a path": ("import runpy; runpy.run_path(HERE + '/helper.py')", "helper"),
    "by a part of a path": ("import runpy; runpy.run_path(f'{HERE}/helper.py')", "helper"),
    "by bytes": ("import runpy; runpy.run_path(b'helper.py')", "helper"),
    "by a list": ("__import__('nets', fromlist=['dec'])", "nets__dec"),
    "by its folder": ("import runpy; runpy.run_path(os.path.join(HERE, 'nets'))", "nets__dec"),
    "by code in a text": ("exec('import helper')", "helper"),
}


@pytest.mark.parametrize(("line", "name"), DYNAMIC.values(), ids=DYNAMIC)
def test_the_fingerprint_changes_with_what_the_program_imports_by_a_text(tmp_path, line, name):
    write(tmp_path, **{"main": f"import importlib\n{line}\n", name: "x = 1"})
    before = fingerprint(tmp_path / "main.py")
    write(tmp_path, **{name: "x = 2"})
    assert fingerprint(tmp_path / "main.py") != before


def test_the_fingerprint_changes_with_what_lies_beside_a_named_file(tmp_path):
    write(
        tmp_path,
        main="import runpy\nrunpy.run_path('tools/a.py')\n",
        tools__a="import runpy\nrunpy.run_path('deep/b.py')\n",
    )
    write(tmp_path, tools__deep__b="x = 1")
    before = fingerprint(tmp_path / "main.py")
    write(tmp_path, tools__deep__b="x = 2")
    assert fingerprint(tmp_path / "main.py") != before


def test_a_docstring_names_nothing(tmp_path):
    write(
        tmp_path, main='"""See helper and nets/dec.py."""\ndef tell():\n    "Runs helper."\n', helper="", nets__dec=""
    )
    before = fingerprint(tmp_path / "main.py")
    write(tmp_path, helper="x = 1", nets__dec="x = 1")
    assert fingerprint(tmp_path / "main.py") == before


def test_the_fingerprint_stays_when_python_compiles_a_package(tmp_path):
    write(tmp_path, main="import package.part\n", package__INIT="", package__part="x = 1\n")
    before = fingerprint(tmp_path / "main.py")
    py_compile.compile(str(tmp_path / "package" / "part.py"))
    assert fingerprint(tmp_path / "main.py") == before


def test_the_fingerprint_stays_with_other_files_and_in_another_folder(program, tmp_path):
    before = fingerprint(program / "main.py")
    write(program, notes="", train="import main\n")
    (program / "weights.pt").write_bytes(b"1")
    os.symlink(program / "models", program / "models" / "again")
    assert fingerprint(program / "main.py") == before
    assert fingerprint(program.rename(tmp_path.with_name(f"{tmp_path.name}-moved")) / "main.py") == before
