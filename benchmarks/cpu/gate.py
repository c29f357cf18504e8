"""Correctness before speed: every contender's outputs against nested autograd in float64, on the very samples timed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fastflow as ff
from benchmarks.cpu import flow_peers, torch_peers
from benchmarks.cpu.registry import OURS, Contender, contenders
from benchmarks.problem import Case, Prepared, Problem

# float32 gives about 1e-6 here; a wrong formula is off by a tenth or more.
TOLERANCE = 5e-5
ALLOWED = 2.0  # the engine's float32 error over that of plain float32 torch
SEEDS = 8  # problems over which errors are averaged where a single one's ratio is larger
_GRAPH_BYTES = 2.5e9  # what the oracle's graph may take at a time

Outputs = dict[str, Tensor]

_ORACLES: dict[str, Callable[[Problem], Prepared]] = {
    "jet": torch_peers.nested_jet,
    "training": torch_peers.nested_training,
    "flow": flow_peers.batched_flow,
    "flow_backward": flow_peers.batched_flow_backward,
    "rollout": flow_peers.nested_rollout,
}


def oracle(problem: Problem) -> Outputs:
    """Every output of the problem's operator by nested autograd in float64, a few samples at a time."""
    case, problem = problem.case, problem.double()
    places = problem.group(torch.arange(case.batch, device=problem.z.device)).reshape(case.num_potentials, -1)  # (K, N)
    summed = case.operator == "flow_backward"  # the others' gradients are means over the samples
    result: Outputs = {}
    for part in places.split(_samples_at_a_time(case), dim=1):
        chosen = part.flatten()
        share = 1.0 if summed else len(chosen) / case.batch
        few = problem._replace(
            case=case._replace(batch=len(chosen)),
            z=problem.z[chosen],
            index=problem.index[chosen],
            path_bar=problem.path_bar[chosen],
        )
        for name, x in answers(_ORACLES[case.operator](few)).items():
            if x.shape[:1] == (len(chosen),) and name in PER_SAMPLE:
                whole = result.setdefault(name, x.new_empty(case.batch, *x.shape[1:]))
                whole[chosen] = x
            else:
                result[name] = result.get(name, torch.zeros_like(x)) + share * x
    return result


PER_SAMPLE = ("u", "grad", "laplacian", "u_t", "path", "d z0")


def answers(prepared: Prepared) -> Outputs:
    """One call's outputs, in float64."""
    return {name: x.detach().double() for name, x in prepared.outputs(prepared.call()).items()}


def errors(got: Outputs, expected: Outputs) -> dict[str, float]:
    """For each expected output, the largest error relative to its largest entry; NaN counts as infinite."""
    if got.keys() != expected.keys():
        raise ValueError(f"expected the outputs {sorted(expected)}, got {sorted(got)}")
    result = {}
    for name, wanted in expected.items():
        error = float((got[name] - wanted).abs().max() / wanted.abs().max())
        result[name] = error if error == error else float("inf")
    return result


def judge(contender: Contender, problem: Problem, expected: Outputs) -> tuple[Prepared | None, str, dict[str, float]]:
    """Prepare a contender and check one call: it, or None with what is wrong, and its errors."""
    try:
        prepared = contender.prepare(problem)
        found = errors(answers(prepared), expected)
    except Exception as error:  # whatever a peer raises: it is reported, and the others go on
        return None, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}", {}
    worst = max(found, key=found.__getitem__)
    if not found[worst] <= TOLERANCE:
        return None, f"{worst} is off by {found[worst]:.1e}, {TOLERANCE:.0e} is allowed", found
    return prepared, "", found


def engine_errors(problem: Problem, expected: Outputs) -> dict[str, dict[str, float]]:
    """Errors of the engine in float32, of the same formula in plain float32 torch, and of the engine in float64."""
    ours = next(c for c in contenders(problem.case) if c.name == OURS)
    result = {"float32": errors(answers(ours.prepare(problem)), expected)}
    with ff.use_backend("reference"):
        result["float32 torch"] = errors(answers(ours.prepare(problem)), expected)
    result["float64"] = errors(answers(ours.prepare(problem.double())), expected)
    return result


def settled_errors(problem: Problem, expected: Outputs) -> tuple[dict[str, dict[str, float]], int]:
    """`engine_errors` and over how many problems: where one of them exceeds ALLOWED, root mean squares over SEEDS.

    The error of a sum that ends in one number, such as a loss, is small by chance now and then, on either side.
    """
    found = engine_errors(problem, expected)
    if not _exceeds(found):
        return found, 1
    others = (Problem.of(problem.case, seed) for seed in range(1, SEEDS))
    all_found = [found, *(engine_errors(other, oracle(other)) for other in others)]
    means = {
        kind: {name: sum(one[kind][name] ** 2 for one in all_found) ** 0.5 / SEEDS**0.5 for name in expected}
        for kind in found
    }
    return means, SEEDS


def _exceeds(found: dict[str, dict[str, float]]) -> bool:
    return any(error > ALLOWED * found["float32 torch"][name] for name, error in found["float32"].items())


def _samples_at_a_time(case: Case) -> int:
    """Of each potential: a second derivative's graph holds some ten tensors of each layer for each dimension."""
    per_sample = 8 * case.steps * case.dim * (10 * case.depth * case.width + case.dim)
    return max(1, int(_GRAPH_BYTES / per_sample / case.num_potentials))
