"""One part of `benchmarks.gpu`, in a process of its own: `python -m benchmarks.gpu.part NAME RESULT.json`.

Every contender's outputs are held to nested autograd in float64 on the same device before it is timed. Rows are written
as they come: what was measured before an end of any kind stays.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from triton.testing import do_bench

import fastflow as ff
from benchmarks.cpu import engine, flow_peers, gate, torch_peers
from benchmarks.problem import Case, Prepared, Problem

Row = dict[str, Any]
Contenders = dict[str, Callable[[Problem], Prepared]]

# Relative to the largest entry; the tensor cores' ten bits of mantissa leave 5e-4 in each product.
TOLERANCES = {"ieee": gate.TOLERANCE, "tf32x3": 2 * gate.TOLERANCE, "tf32": 2e-2}
TRAINING: Contenders = {
    "fastflow": engine.bank_training,
    "torch.compile": torch_peers.compiled_training,
    "nested autograd": torch_peers.nested_training,
}
JET: Contenders = {
    "fastflow": engine.bank_jet,
    "torch.compile": torch_peers.compiled_jet,
    "nested autograd": torch_peers.nested_jet,
}
WIDE = (
    Case("training", 16384, 12, 128, 2),
    Case("training", 4096, 128, 128, 2, 32),
    Case("training", 4096, 64, 256, 2),
)


def main(name: str, file: str) -> None:
    """Run the part and write its rows."""
    rows: list[Row] = []
    produce = {"ceilings": ceilings, "flow": flow, "precisions": precisions}.get(name)
    for row in produce() if produce is not None else timed(Case.parse(name)):
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items() if value is not None), flush=True)
        Path(file).write_text(json.dumps(rows), encoding="utf-8")


def ceilings() -> Iterator[Row]:
    """What the device reaches: copying, and square matrix products in each precision."""
    source, target = (torch.ones(2**28, device="cuda") for _ in range(2))
    ms = _median(partial(target.copy_, source))
    yield {"ceiling": "copy", "gb_per_s": 2e-6 * source.numel() * source.element_size() / ms["ms_p50"]}
    for name, dtype, setting in (
        ("fp32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("bf16", torch.bfloat16, "highest"),
    ):
        torch.set_float32_matmul_precision(setting)
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        ms = _median(partial(torch.matmul, a, b))
        yield {"ceiling": name, "tflops": 2e-9 * 8192**3 / ms["ms_p50"]}
    torch.set_float32_matmul_precision("highest")


def timed(case: Case, contenders: Contenders | None = None) -> Iterator[Row]:
    """The contenders of one case; torch multiplies in full float32, as the engine does unless it is asked otherwise."""
    problem = on_device(Problem.of(case))
    expected = gate.oracle(problem)
    chosen = contenders or (TRAINING if case.operator == "training" else JET)
    for name, prepare in chosen.items():
        yield _row(case, name, "ieee", partial(prepare, problem), expected)


def precisions() -> Iterator[Row]:
    """The engine alone, in each precision."""
    for case in WIDE:
        problem = on_device(Problem.of(case))
        expected = gate.oracle(problem)
        for precision in TOLERANCES:
            with ff.precision(precision):  # pyright: ignore[reportArgumentType]
                yield _row(case, "fastflow", precision, partial(engine.bank_training, problem), expected)


def flow() -> Iterator[Row]:
    """Paths of 128 samples, for one potential and for eight."""
    for num_potentials in (1, 8):
        case = Case("flow", 128, 128, 64, 2, num_potentials, steps=20)
        problem = on_device(Problem.of(case))
        expected = gate.oracle(problem)
        contenders: Contenders = {
            "fastflow": engine.flow,
            "loop": flow_peers.loop_flow if num_potentials > 1 else flow_peers.batched_flow,
            "loop, CUDA graph": lambda problem: captured(flow_peers.batched_flow(problem)),
        }
        if num_potentials > 1:
            contenders["loop, bmm"] = flow_peers.batched_flow
        for name, prepare in contenders.items():
            row = _row(case, name, "ieee", partial(prepare, problem), expected)
            if name == "fastflow" and "ms_p50" in row:
                row |= launches(engine.flow(problem).call)
            yield row


def captured(prepared: Prepared) -> Prepared:
    """The call's work as a CUDA graph, replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            prepared.call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = prepared.call()

    def replay() -> Any:
        graph.replay()
        return result

    return prepared._replace(call=replay)


def launches(call: Callable[[], Any]) -> Row:
    """How many kernels one call launches, and how many of them are the integrator's; None where it can't be told."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize()
        names = [event.name for event in profiler.events() if str(event.device_type).endswith("CUDA")]
    except RuntimeError as error:
        return {"kernels": None, "reason": str(error).splitlines()[0]}
    return {"kernels": len(names), "integrator_launches": sum("flow_fwd_kernel" in name for name in names)}


def on_device(problem: Problem) -> Problem:
    """The problem with everything on the GPU."""
    return problem._replace(
        bank=problem.bank.cuda(), z=problem.z.cuda(), index=problem.index.cuda(), path_bar=problem.path_bar.cuda()
    )


def _row(case: Case, name: str, precision: str, prepare: Callable[[], Prepared], expected: dict[str, Tensor]) -> Row:
    """Check, then time; a contender that fails or is wrong has the reason for its row."""
    row: Row = {"case": case.name, "width": case.width, "contender": name, "precision": precision}
    try:
        prepared = prepare()
        found = gate.errors(gate.answers(prepared), expected)
        row["worst_error"] = max(found.values())
        if not row["worst_error"] <= TOLERANCES[precision]:
            worst = max(found, key=found.__getitem__)
            return row | {"reason": f"{worst} is off by {found[worst]:.1e}, {TOLERANCES[precision]:.0e} is allowed"}
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        row |= _median(prepared.call)
        row["peak_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
        row["tflops"] = case.flops / row["ms_p50"] * 1e-9
    except Exception as error:  # of this contender; those after it go on
        lines = str(error).strip().splitlines()
        row["reason"] = f"{type(error).__name__}: {lines[0] if lines else ''}"
        torch.cuda.synchronize()  # an error of the device ends this part here, where its rows are written
    return row


def _median(call: Callable[[], Any]) -> Row:
    """Milliseconds of the device: 20th, 50th and 80th percentile."""
    low, middle, high = do_bench(call, warmup=50, rep=300, quantiles=[0.2, 0.5, 0.8])
    return {"ms_p20": low, "ms_p50": middle, "ms_p80": high}


if __name__ == "__main__":
    main(*sys.argv[1:])
