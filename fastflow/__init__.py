"""fastflow: meaningful controls in generative models as flows of learned potentials, on an engine of fused jets.

import fastflow as ff

generator = ff.generators.load("digits-vae")
run = ff.discover(generator, ff.DiscoverConfig(num_potentials=8, steps=1000), out="runs/digits")
path = run.traverse(generator.sample(4), potential=3, steps=10)

The engine, which needs torch alone, is loaded with the package; generators, training, metrics and runs on first use.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastflow.core import moved
from fastflow.core.errors import BackendError, ConvergenceError, InputError, TrainingError
from fastflow.engine import (
    Jet,
    PotentialBank,
    Sin,
    backends,
    flow,
    mixed_flow,
    mlp_jet,
    pde,
    pde_loss,
    precision,
    rollout_loss,
    use_backend,
)

if TYPE_CHECKING:
    from fastflow import baselines, datasets, generators, metrics
    from fastflow.latents.inversion import Inversion, invert
    from fastflow.latents.traversal import Traversal
    from fastflow.runs import Run, VAERun, discover, load_run, train_vae
    from fastflow.saved.edits import Edit, load_edit
    from fastflow.studies.comparison import compare
    from fastflow.training.flow_config import DiscoverConfig
    from fastflow.training.presets import PRESETS, VAE_PRESETS, preset
    from fastflow.training.vae_config import VAEConfig

__version__ = version("fastflow")
__all__ = [
    "PRESETS",
    "VAE_PRESETS",
    "BackendError",
    "ConvergenceError",
    "DiscoverConfig",
    "Edit",
    "InputError",
    "Inversion",
    "Jet",
    "PotentialBank",
    "Run",
    "Sin",
    "TrainingError",
    "Traversal",
    "VAEConfig",
    "VAERun",
    "backends",
    "baselines",
    "compare",
    "datasets",
    "discover",
    "flow",
    "generators",
    "invert",
    "load_edit",
    "load_run",
    "metrics",
    "mixed_flow",
    "mlp_jet",
    "pde",
    "pde_loss",
    "precision",
    "preset",
    "rollout_loss",
    "train_vae",
    "use_backend",
]

_LATE = {
    "latents.inversion": ("Inversion", "invert"),
    "latents.traversal": ("Traversal",),
    "runs": ("Run", "VAERun", "discover", "load_run", "train_vae"),
    "saved.edits": ("Edit", "load_edit"),
    "studies.comparison": ("compare",),
    "training.flow_config": ("DiscoverConfig",),
    "training.presets": ("PRESETS", "VAE_PRESETS", "preset"),
    "training.vae_config": ("VAEConfig",),
}
"""The names that are loaded on first use, by the module that holds them."""

_ORIGIN = {name: module for module, names in _LATE.items() for name in names}
_PACKAGES = ("baselines", "datasets", "generators", "metrics", "report", "runs", "studies", "training")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES or name in moved.MOVED:
        return import_module(f"fastflow.{name}")
    if name not in _ORIGIN:
        raise AttributeError(f"module 'fastflow' has no attribute {name!r}")
    value = getattr(import_module(f"fastflow.{_ORIGIN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
