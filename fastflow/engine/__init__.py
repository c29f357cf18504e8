"""The engine: exact derivatives of stacked small networks, equations on them, and paths along their gradients.

It needs torch alone, and can be used without the rest of the package.
"""

from fastflow.engine import pde
from fastflow.engine.backends.selection import backends, precision, use_backend
from fastflow.engine.inputs import Times
from fastflow.engine.mlp import Sin, mlp_jet
from fastflow.engine.paths import flow, mixed_flow, rollout_loss
from fastflow.engine.pde_loss import pde_loss
from fastflow.engine.potentials import PotentialBank
from fastflow.engine.types import Jet

__all__ = [
    "Jet",
    "PotentialBank",
    "Sin",
    "Times",
    "backends",
    "flow",
    "mixed_flow",
    "mlp_jet",
    "pde",
    "pde_loss",
    "precision",
    "rollout_loss",
    "use_backend",
]
