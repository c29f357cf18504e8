"""Speed and error of the engine beside other ways to the same numbers. `python -m benchmarks.cpu` runs everything."""

import os
import sys
from pathlib import Path

# The installed package is measured: the checkout around this folder must not hide it.
_ROOT = str(Path(__file__).resolve().parents[1])
if sys.path[0] in ("", _ROOT):
    sys.path.append(sys.path.pop(0))

# One thread for every library; these are read when a library is first loaded, so before any import below.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
