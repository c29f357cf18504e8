"""Fraction of one thread's measured peak against the width, for several dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cpu import collapsed, engine, gate
from benchmarks.cpu.torch_peers import jet_prepared, training_prepared
from benchmarks.machine import Peak
from benchmarks.problem import TIME, Case, Problem
from benchmarks.timing import measure

DIMS = (12, 64, 512)
WIDTHS = (32, 64, 128, 256, 512)
_CALL_FLOPS = 2e9  # of a call, by the choice of the batch
_MIN_BATCH, _MAX_BATCH = 128, 16384

Point = dict[str, Any]


def points(peak: Peak, budget: float, dims: Sequence[int] = DIMS, widths: Sequence[int] = WIDTHS) -> list[Point]:
    """Measure jet and training of two-layer networks, each checked against the collapsed formula in float64."""
    result = []
    for dim in dims:
        for width in widths:
            for operator, prepare in (("jet", engine.operator_jet), ("training", engine.operator_training)):
                flops = Case(operator, 1, dim, width, 2).flops
                batch = max(_MIN_BATCH, min(_MAX_BATCH, int(_CALL_FLOPS / flops) // 64 * 64))
                case = Case(operator, batch, dim, width, 2)
                problem = Problem.of(case)
                prepared = prepare(problem)
                error = max(gate.errors(gate.answers(prepared), _expected(problem)).values())
                if not error <= gate.TOLERANCE:
                    raise RuntimeError(f"{case.name} is off by {error:.1e}, {gate.TOLERANCE:.0e} is allowed")
                best = measure({case.name: prepared.call}, budget)[case.name].best
                peak.measure()
                result.append({**case._asdict(), "cpu_ms": 1e3 * best, "flops": case.flops})
    return [{**point, "fraction": point["flops"] / point["cpu_ms"] * 1e3 / peak.best} for point in result]


def draw(points: list[Point], title: str, file: Path) -> None:
    """Write the plot of `points` as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for panel, operator in zip(panels, ("jet", "training"), strict=True):
        for dim in sorted({point["dim"] for point in points}):
            chosen = [point for point in points if point["operator"] == operator and point["dim"] == dim]
            panel.plot([p["width"] for p in chosen], [p["fraction"] for p in chosen], marker="o", label=f"D = {dim}")
        panel.set(title=operator, xlabel="width H", xscale="log", ylim=(0, 1))
        widths = sorted({point["width"] for point in points})
        panel.set_xticks(widths, widths)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("floor FLOPs / time / peak")
    panels[0].legend(frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _expected(problem: Problem) -> gate.Outputs:
    """By the collapsed formula, which the other cases check against nested autograd."""
    double = problem.double()
    network, t = double.network(), double.z.new_tensor(TIME)

    def jet() -> tuple[torch.Tensor, ...]:
        return collapsed.jet(network, double.z, t)

    def training() -> tuple[torch.Tensor, ...]:
        loss = collapsed.wave_loss(network, double.z, t)
        return loss, *torch.autograd.grad(loss, network.leaves())

    is_jet = problem.case.operator == "jet"
    return gate.answers(jet_prepared(double, jet) if is_jet else training_prepared(double, training))
