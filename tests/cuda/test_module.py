"""The compiled CUDA module, on machines with a GPU and without."""

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from support.cuda_cases import case, options

import fastflow as ff
from fastflow.cli.main import main
from fastflow.core.errors import BackendError, InputError
from fastflow.engine.backends import cuda
from fastflow.engine.backends import selection as backends

TESTS = Path(__file__).parents[1]
built = pytest.mark.skipif(backends.cuda_module is None, reason=str(backends.cuda_missing()))


def test_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(backends, "_cuda_missing", "no compiler")
    with pytest.raises(BackendError, match="the CUDA flow integrator is missing: no compiler"):
        cuda.flow(*case(), **options())


def test_info_tells_of_the_module(capsys):
    main(["info"])
    output = capsys.readouterr().out
    (line, *_) = (line for line in output.splitlines() if line.startswith("cuda flow integrator"))
    assert ("missing" in line) == (backends.cuda_module is None)


@built
def test_build_info():
    info = backends.cuda_module.build_info()
    assert info["version"] == ff.__version__
    assert info["compiler"].startswith("nvcc ")
    assert "80" in info["architectures"]
    assert "90" in info["architectures"]


@built
def test_tensors_must_be_on_the_device():
    with pytest.raises(InputError, match="takes tensors on a CUDA device, got one on cpu"):
        cuda.flow(*case(), **options())


def launch() -> None:
    """What the operator does on a device, with addresses that no kernel may read."""
    mlp, z0, _, slots = case()
    machine = cuda.Machine(backends.cuda_module, nullcontext(), 0, 132, 2**17)
    plan = cuda._plan(machine, mlp, z0, slots, *options().values(), backward=False)
    addresses = dict.fromkeys(("out_weight", "out_bias", "order", "offsets", "slot_of", "z0", "path", "error"), 0)
    layers = {"weights": [0, 0], "bias_jets": [0, 0]}
    backends.cuda_module.flow(plan=plan, workspace=0, stream=0, **layers, **addresses)


@pytest.mark.slow
@built
def test_launching_without_a_device_is_an_error():
    program = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from cuda.test_module import launch; launch()"
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=hidden)
    assert done.returncode == 1
    assert re.search(r"RuntimeError: .*could not .*use_backend", done.stderr)


@built
def test_kernels_keep_their_registers():
    """No kernel spills to memory, or has anything on a stack."""
    triton = pytest.importorskip("triton")
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not cuobjdump.exists():
        pytest.skip("this Triton carries no cuobjdump")
    command = [cuobjdump, "--dump-resource-usage", backends.cuda_module.__file__]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = [line.split() for line in output.splitlines() if "REG:" in line]
    assert len(usage) == 24  # two precisions, two architectures: forward and backward by where state lies, two sums
    assert all("STACK:0" in kernel and "LOCAL:0" in kernel for kernel in usage)
