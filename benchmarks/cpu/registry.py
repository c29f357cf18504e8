"""Who computes what: this package first, then its peers; a peer that can't be imported is left out, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from benchmarks.cpu import engine, flow_peers, torch_peers
from benchmarks.problem import Case, Prepared, Problem

OURS = "fastflow"


class Contender(NamedTuple):
    """A way to an operator's outputs; `stacked` says whether it takes more than one potential."""

    name: str
    prepare: Callable[[Problem], Prepared]
    stacked: bool = True


_CONTENDERS: dict[str, list[Contender]] = {
    "jet": [
        Contender(OURS, engine.operator_jet),
        Contender("fastflow bank", engine.bank_jet),
        Contender("nested autograd", torch_peers.nested_jet),
        Contender("torch.func.hessian", torch_peers.hessian_jet, stacked=False),
        Contender("torch.compile", torch_peers.compiled_jet),
    ],
    "training": [
        Contender(OURS, engine.operator_training),
        Contender("fastflow bank", engine.bank_training),
        Contender("nested autograd", torch_peers.nested_training),
        Contender("torch.func.hessian", torch_peers.hessian_training, stacked=False),
        Contender("torch.compile", torch_peers.compiled_training),
    ],
    "flow": [
        Contender(OURS, engine.flow),
        Contender("loop", flow_peers.loop_flow),
        Contender("loop, bmm", flow_peers.batched_flow),
    ],
    "flow_backward": [
        Contender(OURS, engine.flow_backward),
        Contender("loop", flow_peers.loop_flow_backward),
        Contender("loop, bmm", flow_peers.batched_flow_backward),
    ],
    "rollout": [
        Contender(OURS, engine.rollout),
        Contender("nested autograd", flow_peers.nested_rollout),
        Contender("loop, collapsed", flow_peers.collapsed_rollout),
        Contender("torch.compile", flow_peers.compiled_rollout),
    ],
}
MISSING: dict[str, str] = {}


def contenders(case: Case) -> list[Contender]:
    """Those that take this case, this package first."""
    return [c for c in _CONTENDERS[case.operator] if c.stacked or case.num_potentials == 1]


def _add_optional() -> None:
    try:
        taylor = import_module("benchmarks.cpu.taylor_peer")
        _CONTENDERS["jet"].append(Contender("jet-for-pytorch", taylor.taylor_jet, stacked=False))
        _CONTENDERS["training"].append(Contender("jet-for-pytorch", taylor.taylor_training, stacked=False))
    except (ImportError, SyntaxError) as error:  # its syntax is Python 3.12's
        MISSING["jet-for-pytorch"] = f"{error} (it needs Python 3.12 and scipy)"
    try:
        jax = import_module("benchmarks.cpu.jax_peer")
        _CONTENDERS["jet"].append(Contender("folx", jax.folx_jet, stacked=False))
        _CONTENDERS["training"].append(Contender("folx", jax.folx_training, stacked=False))
    except ImportError as error:
        MISSING["folx"] = str(error)
    if flow_peers.TORCHDIFFEQ_MISSING is None:
        _CONTENDERS["flow"].append(Contender("torchdiffeq", flow_peers.torchdiffeq_flow))
        _CONTENDERS["flow_backward"].append(Contender("torchdiffeq", flow_peers.torchdiffeq_flow_backward))
    else:
        MISSING["torchdiffeq"] = flow_peers.TORCHDIFFEQ_MISSING


_add_optional()
