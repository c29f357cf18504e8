"""fastflow: meaningful controls in generative models as flows of learned potentials, on an engine of fused jets.

import fastflow as ff

generator = ff.generators.load("digits-vae")
run = ff.discover(generator, ff.DiscoverConfig(num_potentials=8, steps=1000), out="runs/digits")
path = run.traverse(generator.sample(4), potential=3, steps=10)
"""

from importlib.metadata import version

from fastflow import baselines, datasets, generators, metrics, pde
from fastflow.edits import Edit, load_edit
from fastflow.errors import BackendError, ConvergenceError, InputError, TrainingError
from fastflow.flows import flow, mixed_flow, rollout_loss
from fastflow.inversion import Inversion, invert
from fastflow.mlp import Sin, mlp_jet
from fastflow.objectives import pde_loss
from fastflow.ops.backends import backends, precision, use_backend
from fastflow.ops.types import Jet
from fastflow.potentials import PotentialBank
from fastflow.runs import Run, VAERun, load_run
from fastflow.studies.comparison import compare
from fastflow.training.presets import PRESETS, VAE_PRESETS, preset
from fastflow.training.settings import DiscoverConfig
from fastflow.training.vae_settings import VAEConfig
from fastflow.trainings import discover, train_vae
from fastflow.traversal import Traversal

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
