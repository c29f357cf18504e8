"""Old module paths, which pickles and other people's imports may still name, import the modules at their new places."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: dict[str, str | tuple[str, ...]] = {
    "arguments": "engine.inputs",
    "devices": "core.devices",
    "edits": "saved.edits",
    "errors": "core.errors",
    "fields": "engine.learned_fields",
    "files": "core.files",
    "flows": "engine.paths",
    "importing": "core.plugins",
    "inversion": "latents.inversion",
    "likelihoods": "generators.likelihoods",
    "metrics.appearance": "latents.attributes.appearance",
    "metrics.strokes": "latents.attributes.strokes",
    "mlp": "engine.mlp",
    "names": "saved.names",
    "objectives": ("engine.pde_loss", "generators.change", "latents.losses"),
    "ops": "engine.operators",
    "ops.backends": "engine.backends.selection",
    "ops.reference": "engine.backends.reference",
    "ops.types": "engine.types",
    "pde": "engine.pde",
    "pieces": "engine.chunking",
    "potentials": "engine.potentials",
    "profiling": "core.nvtx",
    "report.grids": "pictures.grids",
    "report.strips": "pictures.strips",
    "report.videos": "pictures.videos",
    "training.classifier": "latents.classifiers",
    "training.config": "training.flow_config",
    "training.settings": "training.flow_config",
    "training.vae_settings": "training.vae_config",
    "trainings": "runs.train",
    "traversal": "latents.traversal",
}
"""The modules' new names by their old ones, without `fastflow.`, where documentation or a pickle may name them.
What was in one module may lie in several now."""


class _Alias(Loader):
    """Loads the module at its new place, and gives it a second name in sys.modules."""

    def __init__(self, target: str) -> None:
        self.target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.target)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has just replaced it by the alias's


class _Gathered(Loader):
    """Makes a module that finds its names in several others, of which it imports what it is asked for."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = targets

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        def find(name: str) -> Any:
            if not name.startswith("__"):
                for target in self.targets:
                    with suppress(AttributeError):
                        return getattr(import_module(target), name)
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")

        module = ModuleType(spec.name)
        module.__dict__["__getattr__"] = find
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "fastflow" or name not in MOVED:
            return None
        moved = MOVED[name]
        if isinstance(moved, tuple):
            return ModuleSpec(fullname, _Gathered([f"fastflow.{target}" for target in moved]))
        return ModuleSpec(fullname, _Alias(f"fastflow.{moved}"))


# First, or the package that replaced `ops` is searched for its modules. It is done here, in the first module that the
# package imports, because another thread may ask for an old path while the package loads.
sys.meta_path.insert(0, _Finder())
