"""All CPU benchmarks: `python -m benchmarks.cpu [--quick] [--only TEXT] [--out DIR]`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.cpu import gate, report, roofline, scaling
from benchmarks.cpu.registry import MISSING, OURS, contenders
from benchmarks.machine import Peak, folder_name, record
from benchmarks.problem import CASES, SHAPES, Case, Problem
from benchmarks.timing import Timing, keep_memory, measure, peak_memory

RESULTS = Path(__file__).parents[1] / "results"


class Plan(NamedTuple):
    """What to run, and how many seconds to spend on each part."""

    cases: tuple[Case, ...]
    case_seconds: float
    roofline_dims: tuple[int, ...]
    roofline_widths: tuple[int, ...]
    point_seconds: float
    scaling_seconds: float
    quick: bool


FULL = Plan(CASES, 10.0, roofline.DIMS, roofline.WIDTHS, 1.0, 20.0, quick=False)
QUICK = Plan(
    (Case("jet", *SHAPES[0]), Case("training", *SHAPES[0]), next(case for case in CASES if case.operator == "flow")),
    *(4.0, roofline.DIMS[:1], roofline.WIDTHS[:3], 0.3, 4.0),
    quick=True,
)


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """Check and time every contender of every case, and write all results into the folder `out`."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    keep_memory()
    for name, reason in MISSING.items():
        print(f"{name} is left out: {reason}", flush=True)
    peak, failed, errors, rows = Peak(), [], [], []
    for case in plan.cases:
        print(f"[{time.perf_counter() - start:4.0f} s] {case.name}", flush=True)
        rows += _run_case(case, plan.case_seconds, peak, failed, errors)
    points = roofline.points(peak, plan.point_seconds, plan.roofline_dims, plan.roofline_widths)
    threads = scaling.speed_ups(plan.scaling_seconds) if len(os.sched_getaffinity(0)) > 1 else {}
    peak.measure(1.0)
    machine = record()
    rows = [{**row, "fraction": row["gflops"] * 1e9 / peak.best} for row in rows]
    results = {
        "quick": plan.quick,
        "machine": machine,
        "peak_gflops": [rate / 1e9 for rate in peak.measured],
        "rows": rows,
        "errors": errors,
        "scaling": threads,
        "roofline": points,
        "missing": MISSING,
        "failed": failed,
        "seconds": round(time.perf_counter() - start, 1),
    }
    text = report.write(results, out)
    for row in rows:
        if row["fraction"] > 1:
            raise RuntimeError(f"{row['contender']} seems to beat the processor's peak, {row}: the clock is wrong")
    title = f"{machine['cpu']}, {machine['instruction_set']}, one thread, float32, {peak.best / 1e9:.0f} GFLOP/s"
    roofline.draw(points, title, out / "roofline.png")
    print(text)
    print(f"Written to {out} after {results['seconds']:.0f} s.")
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description="Time the engine beside its peers.")
    parser.add_argument("--quick", action="store_true", help="one shape, in less than two minutes")
    parser.add_argument("--only", default="", help="only the cases whose name contains this, such as jet-B4096-D12")
    parser.add_argument("--out", type=Path, help="folder for the results (default: benchmarks/results/<processor>)")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    plan = plan._replace(cases=tuple(case for case in plan.cases if options.only in case.name))
    if not plan.cases:
        parser.error(f"no case's name contains {options.only!r}; they are {', '.join(case.name for case in CASES)}")
    partial = options.quick or options.only
    run(plan, options.out or RESULTS / (folder_name() + ("-partial" if partial else "")))


def _run_case(
    case: Case, seconds: float, peak: Peak, failed: list[dict[str, str]], errors: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    problem = Problem.of(case)
    expected = gate.oracle(problem)
    calls, worst = {}, {}
    for contender in contenders(case):
        prepared, reason, found = gate.judge(contender, problem, expected)
        if prepared is None:
            print(f"    {contender.name} is not timed: {reason}", flush=True)
            failed.append({"case": case.name, "contender": contender.name, "reason": reason})
        else:
            calls[contender.name], worst[contender.name] = prepared.call, max(found.values())
    if OURS not in calls:
        raise RuntimeError(f"the engine's own answer to {case.name} is wrong: {failed[-1]['reason']}")
    by_kind, seeds = gate.settled_errors(problem, expected)
    for output in expected:
        row = {"case": case.name, "output": output, **{kind: by_kind[kind][output] for kind in by_kind}}
        errors.append({**row, "seeds": seeds})
    del expected
    memory = {name: peak_memory(call) for name, call in calls.items()}
    peak.measure()
    timings = measure(calls, seconds)
    peak.measure()
    ours = timings[OURS].best
    return [
        {
            **case._asdict(),
            "contender": name,
            **_statistics(timing),
            "peak_mib": None if memory[name] is None else round(memory[name] / 2**20, 2),
            "worst_error": worst[name],
            "ratio": timing.best / ours,
            "gflops": case.flops / timing.best / 1e9,
        }
        for name, timing in timings.items()
    ]


def _statistics(timing: Timing) -> dict[str, float]:
    return {
        "cpu_ms": 1e3 * timing.best,
        **{f"wall_ms_p{p}": 1e3 * timing.wall_percentile(p) for p in (20, 50, 80)},
        "calls": len(timing.cpu),
        "cpu_per_wall": round(sum(timing.cpu) / sum(timing.wall), 3),  # above 1, a second thread was at work
    }
