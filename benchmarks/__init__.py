"""Speed and error of the engine beside other ways to the same numbers. `python -m benchmarks.cpu` runs everything."""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

# The installed package is measured: the checkout around this folder must not hide it.
_ROOT = str(Path(__file__).resolve().parents[1])
if sys.path[0] in ("", _ROOT):
    sys.path.append(sys.path.pop(0))

# One thread for every library; these are read when a library is first loaded, so before any import below.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

_OLD_NAMES = {
    "gpu_part": "gpu/part",
    "gpu_profile": "gpu/profile",
    "gpu_profile_run": "gpu/profile_run",
    "gpu_tests": "gpu/tests",
    "static_table": "static/table",
    "comparison": "studies/comparison",
    "discoveries": "studies/discoveries",
    "metrics": "studies/metrics",
    "search": "studies/search",
    "study_settings": "studies/study_settings",
    "training": "studies/training",
}
"""Commands by the names that they had when all lay in one folder: `python -m benchmarks.training` still works."""


class _OldNames(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != __name__ or name not in _OLD_NAMES:
            return None
        return spec_from_file_location(fullname, Path(__file__).parent / f"{_OLD_NAMES[name]}.py")


sys.meta_path.append(_OldNames())
