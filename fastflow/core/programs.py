"""Programs of users: Python files that are run together with the files beside them, each program by itself."""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import (
    BuiltinImporter,
    FrozenImporter,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
    all_suffixes,
)
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_SEARCHERS = (
    "importlib", "_frozen_importlib", "_frozen_importlib_external", "pickle", "joblib", "torch.serialization",
    "fastflow.core.programs",
)  # fmt: skip
"""The modules through which a program may ask for a module by its name, as an unpickled network does."""

_SHARED = {"fastflow", "torch"}
"""The packages whose objects programs and this package exchange: they are never a neighbour's."""

_WORD = re.compile(r"[^\W\d]\w*")
"""A word of a text, which may name a module."""


class Program:
    """A Python file and its neighbours, the modules and packages in its folder.

    The neighbours come before installed packages, as they do where Python runs a file, but for this program alone:
    each program has its own `utils`, in whatever order programs are loaded, and in functions that import later too.

    Args:
        file: the file.
        role: what the program is for; the same file has modules of its own in each role.
    """

    def __init__(self, file: Path, role: str) -> None:
        self.file = file.resolve()
        digest = hashlib.sha256(os.fsencode(self.file)).hexdigest()[:8]
        stem = self.file.stem
        self.package = f"fastflow_{role}_{re.sub(r'[^A-Za-z0-9_]', '_', stem)}_{digest}"
        self.module = f"{self.package}.{stem if stem.isidentifier() else 'program'}"
        # An import statement, wherever it is run, asks the builtins of the module in which it stands.
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import}
        self._known: dict[str, bool] = {}

    def run(self) -> ModuleType:
        """Run the file and return its module. Neighbours that an earlier run imported are imported afresh."""
        importlib.invalidate_caches()
        earlier = self._forget()
        package = ModuleType(self.package)
        package.__path__ = [str(self.file.parent)]
        sys.modules[self.package] = package
        _programs[self.package] = self
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        spec = spec_from_file_location(self.module, self.file, loader=_Source(self.module, str(self.file), self))
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[self.module] = module  # dataclasses and pickles look their module up by its name
        try:
            with self.searched():
                spec.loader.exec_module(module)
        except BaseException:
            self._forget()
            sys.modules.update(earlier)  # functions of the earlier run may still import
            raise
        return module

    @contextmanager
    def searched(self) -> Iterator[None]:
        """Within this context, importlib and pickles that the program uses find its neighbours by their plain names."""
        before = set(sys.modules)
        _searched.append(self)
        try:
            yield
        finally:
            _searched.pop()
            for name in set(sys.modules) - before:
                own = str(getattr(sys.modules[name], "__name__", name)).startswith(f"{self.package}.")
                if own and not name.startswith(self.package):
                    del sys.modules[name]

    def has(self, name: str) -> bool:
        """Whether a top-level name is that of a neighbour."""
        if name not in self._known:
            self._known[name] = self._finds(name)
        return self._known[name]

    def _finds(self, name: str) -> bool:
        if name == self.module.rpartition(".")[2]:
            return True
        if name in _SHARED:
            return False
        # What Python has built in comes before any file.
        if BuiltinImporter.find_spec(name) is not None or FrozenImporter.find_spec(name) is not None:
            return False
        found = PathFinder.find_spec(name, [str(self.file.parent)])
        if found is None:
            return False
        if found.loader is None or found.origin is None:
            # As everywhere in Python, a folder without __init__.py comes after modules and packages.
            other = PathFinder.find_spec(name)
            return other is None or other.origin is None
        loaded = getattr(sys.modules.get(name), "__file__", None)
        # A script of the user's may have imported the same file already: then it is shared.
        return loaded is None or not _same_file(loaded, found.origin)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What an import statement of the program calls, in place of Python's own `__import__`."""
        top = name.partition(".")[0]
        # Python's own C code, such as pickle's, gives a list, and then needs the module under its plain name.
        if level or isinstance(fromlist, list) or not self.has(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        own = f"{self.package}.{name}"
        try:
            importlib.import_module(own)
            if fromlist:
                return builtins.__import__(own, globals, locals, fromlist, 0)
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith(f"{self.package}."):
                raise
            plain = error.name.removeprefix(f"{self.package}.")
            raise ModuleNotFoundError(f"No module named {plain!r}", name=plain) from error
        return sys.modules[f"{self.package}.{top}"]

    def _forget(self) -> dict[str, ModuleType]:
        """Remove the program's modules from Python's, and return them."""
        self._known.clear()
        names = [name for name in sys.modules if name == self.package or name.startswith(f"{self.package}.")]
        return {name: sys.modules.pop(name) for name in names}


def fingerprint(file: Path) -> str:
    """A digest of a file and, if it is a Python file, of all files in its folder that it names as modules.

    These are the neighbours that it imports, or names in a text, as a module or by a path, and those that they name;
    of a package, all files.
    If a file is added that takes the place of an installed package that the program imports, the digest changes too.

    Raises:
        OSError: a file can't be read.
    """
    file = file.resolve()
    digests: dict[str, str] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        key = os.path.relpath(path, file.parent)
        if key in digests:
            continue
        content = path.read_bytes()
        digests[key] = hashlib.sha256(content).hexdigest()
        if path.suffix == ".py":
            imported, mentioned, paths = _named_modules(content)
            for name in imported | mentioned:
                waiting += _files_of(file.parent, name, name in imported)
            for named in paths:
                beside = (place / named.lstrip("/") for place in {file.parent, path.parent})
                waiting += [found for found in beside if found.is_file()]
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


@contextmanager
def searched(file: Path, role: str) -> Iterator[None]:
    """`Program.searched` of the program that was last run from this file in this role."""
    program = _programs.get(Program(file, role).package)
    if program is None:
        yield
    else:
        with program.searched():
            yield


_programs: dict[str, Program] = {}
"""The programs by the names of the packages that their modules are in."""
_searched: list[Program] = []
"""The programs whose neighbours have their plain names at present, the innermost last."""


class _Source(SourceFileLoader):
    """Runs a source file of a program."""

    def __init__(self, name: str, path: str, program: Program) -> None:
        super().__init__(name, path)
        self.program = program

    def get_code(self, fullname: str) -> Any:
        # From the source itself: a cached file of byte code may hold another program.
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self.program.builtins
        super().exec_module(module)


class _Alias(Loader):
    """Gives a neighbour under its plain name."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the machinery of imports has replaced it


class _Finder(MetaPathFinder):
    """Finds the modules of programs."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        program = _programs.get(top)
        if program is not None:
            spec = None if path is None else PathFinder.find_spec(fullname, path, target)
            if spec is not None and type(spec.loader) is SourceFileLoader:
                assert spec.origin is not None
                spec.loader = _Source(fullname, spec.origin, program)
            return spec
        if _searched and _searched[-1].has(top) and _asked_by(_searched[-1]):
            module = importlib.import_module(f"{_searched[-1].package}.{fullname}")
            return ModuleSpec(fullname, _Alias(module), is_package=hasattr(module, "__path__"))
        return None


_FINDER = _Finder()


def _asked_by(program: Program) -> bool:
    """Whether the program's own code asks for a module now, perhaps through pickle or importlib."""
    frame = sys._getframe(2)  # there is no other way to know who asks
    while frame is not None:
        if frame.f_globals.get("__builtins__") is program.builtins:
            return True
        if not f"{frame.f_globals.get('__name__')}.".startswith(tuple(f"{name}." for name in _SEARCHERS)):
            return False
        frame = frame.f_back
    return False


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _named_modules(source: bytes) -> tuple[set[str], set[str], set[str]]:
    """What a file names: modules that it imports, or in dotted texts; modules that other texts may name; and files.

    Modules are named by their top level, files by the texts that end as code does. A docstring names nothing.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(), set(), set()  # it can't be run either
    imported: set[str] = set()
    texts: set[str] = set()
    bodies = (getattr(node, "body", None) for node in ast.walk(tree))
    first = (body[0] for body in bodies if isinstance(body, list) and body)
    docstrings = {id(statement.value) for statement in first if isinstance(statement, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.name for alias in node.names} if node.module is None else {node.module}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in docstrings:
            texts.add(node.value if isinstance(node.value, str) else node.value.decode("latin-1"))
    names = {text: text.lstrip(".") for text in texts}
    dotted = {name for name in names.values() if "." in name and name.replace(".", "").isidentifier()}
    # A text may be a path, a part of one, or code that is run; so each of its words may name a module.
    mentioned = {word for text in texts for word in _WORD.findall(text)}
    # Any other text may name the package that a relative one, such as ".a", begins from.
    relative = any(text != name and name.isidentifier() for text, name in names.items())
    imported |= dotted | mentioned if relative else dotted
    paths = {text for text in texts if text.endswith(tuple(all_suffixes())) and "\0" not in text}
    return _top_levels(imported), _top_levels(mentioned), paths


def _top_levels(names: set[str]) -> set[str]:
    return {top for name in names if (top := name.partition(".")[0]).isidentifier()}


def _files_of(folder: Path, name: str, imported: bool) -> list[Path]:
    """The files in a folder from which a module or package of this name may be loaded.

    A folder without __init__.py, which a text often names, counts whole only if it is `imported`, as by a text such as
    "a.b"; otherwise the code that lies in it at once.
    """
    suffixes = tuple(all_suffixes())
    found = [path for suffix in suffixes if (path := folder / f"{name}{suffix}").is_file()]
    package = folder / name
    if not package.is_dir():
        return found
    if not (imported or any((package / f"__init__{suffix}").is_file() for suffix in suffixes)):
        return found + [path for path in package.iterdir() if path.name.endswith(suffixes) and path.is_file()]
    seen: set[str] = set()
    for place, folders, files in os.walk(package, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add(real)
        folders[:] = [folder for folder in folders if folder != "__pycache__"]  # which isn't used
        found += [Path(place, file) for file in files if file.endswith(suffixes)]
    return found
