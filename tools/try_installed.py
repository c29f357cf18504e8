"""Try a fastflow that was installed from a wheel: `python -I tools/try_installed.py`, in an empty folder.

Run of every wheel that is built, so it takes no test framework and no package but fastflow's own dependencies.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import torch

import fastflow as ff
from fastflow import _native, kernels

ROOT = Path(__file__).resolve().parents[1]
DATA = ("py.typed", "kernels/__init__.py", "report/templates/report.html", "generators/digits_vae.safetensors")


def main() -> None:
    """Raise or exit with a status that isn't 0 unless all of it works."""
    for module in (ff, kernels, _native):
        assert module.__file__ is not None
        assert ROOT not in Path(module.__file__).resolve().parents, f"{module.__file__} is the checkout's"
    for name in DATA:
        assert files("fastflow").joinpath(name).is_file(), f"{name} is missing"
    assert _native.build_info()["version"] == ff.__version__
    reason = ff.backends()["native"]
    assert reason is None, f"the native module is missing: {reason}"
    jets()
    command("info", expected=f"fastflow {ff.__version__}")
    small = ("--num-potentials", "2", "--path-steps", "2", "--batch-size", "8", "--steps", "2")
    command("discover", "--generator", "digits-vae", "--out", "run", *small, expected="trained Run('run', step=2")
    command("report", "run", "--samples", "64", expected="look at run/report.html")
    print(f"fastflow {ff.__version__} works as installed in {Path(ff.__file__).parent}")


def jets() -> None:
    """The fused jet and its gradient are those of automatic differentiation."""
    torch.manual_seed(0)
    bank = ff.PotentialBank(num_potentials=2, dim=5, hidden=(8, 8)).double()
    z, index = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.arange(6) % 2
    found = {}
    for backend in ("native", "reference"):
        with ff.use_backend(backend):
            jet = bank.jet(z, 0.5, index)
            loss = jet.laplacian.square().sum() + jet.grad.square().sum()
            gradients = torch.autograd.grad(loss, [z, *bank.parameters()], materialize_grads=True, allow_unused=True)
            found[backend] = [*(value.detach() for value in jet), *gradients]
    torch.testing.assert_close(found["native"], found["reference"])


def command(*arguments: str, expected: str) -> None:
    """Run the command as a person does; it must end well and print what is expected."""
    program = Path(sys.executable).with_name("fastflow")
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, f"fastflow {arguments[0]} failed:\n{result.stdout}{result.stderr}"
    assert expected in result.stdout, f"fastflow {arguments[0]} didn't print {expected!r}:\n{result.stdout}"


if __name__ == "__main__":
    main()
