"""The command info: versions, backends and what is missing."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from fastflow.engine.backends.selection import backends, cuda_missing, cuda_module


@dataclass(frozen=True)
class Info:
    """Show versions, threads, the instruction set and the backends. For a missing backend, show why."""

    def run(self) -> None:
        """Print one line for each."""
        print(f"fastflow {version('fastflow')}")
        print(f"python {platform.python_version()} on {platform.platform()}")
        for package in ("torch", "triton", "numpy"):
            print(f"{package} {_version(package)}")
        print(f"threads {torch.get_num_threads()}")
        try:
            from fastflow import _native
        except ImportError as error:
            print(f"native module: missing, {error}")
        else:
            for name, value in _native.build_info().items():
                print(f"native {name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
            print(f"native instruction set in use: {'none' if backends()['native'] else _native.instruction_set()}")
        reason = cuda_missing()
        if reason is not None:
            print(f"cuda flow integrator: missing, {reason}")
        else:
            for name, value in cuda_module.build_info().items():
                print(f"cuda flow integrator {name}: {value}")
        cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
        print(f"cuda device: {cuda}")
        for name, reason in backends().items():
            print(f"backend {name}: {'available' if reason is None else 'missing, ' + reason}")


def _version(package: str) -> str:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
