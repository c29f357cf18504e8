"""Results as files and tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu.gate import ALLOWED, SEEDS
from benchmarks.cpu.registry import OURS
from benchmarks.problem import Case

Row = dict[str, Any]

# What the engine is to reach, by (batch, dim, width, depth): jet and training.
NESTED, COMPILED = "nested autograd", "torch.compile"
TARGETS: dict[tuple[int, ...], dict[str, tuple[float, float]]] = {
    (4096, 12, 64, 2): {NESTED: (4.3, 4.6), COMPILED: (1.6, 1.45), "fraction": (0.75, 0.65)},
    (4096, 12, 128, 3): {NESTED: (3.2, 3.0), COMPILED: (1.5, 1.25), "fraction": (0.80, 0.70)},
    (1024, 64, 64, 2): {NESTED: (8.5, 7.8), COMPILED: (2.2, 1.9), "fraction": (0.60, 0.65)},
    (256, 512, 64, 2): {NESTED: (140, 140), COMPILED: (1.6, 1.5), "fraction": (0.45, 0.60)},
    (1280, 128, 128, 2): {NESTED: (8.8, 6.5), COMPILED: (2.4, 1.7), "fraction": (0.75, 0.65)},
}
FLOW_TARGETS = {"loop": 10.0, "loop, bmm": 3.0}
SCALING_TARGET = 0.9  # of the matrix product's speed-up
MATMUL = "matmul"
BUSY = 1.5  # where a large matrix product gains less, the second processor isn't free


def write(results: dict[str, Any], out: Path) -> str:
    """Write cpu.json, cpu.csv, errors.csv and cpu.md into `out`, and return the last one's text."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "cpu.json").write_text(json.dumps(results, indent=1) + "\n")
    _write_csv(results["rows"], out / "cpu.csv")
    _write_csv(results["errors"], out / "errors.csv")
    text = markdown(results)
    (out / "cpu.md").write_text(text)
    return text


def markdown(results: dict[str, Any]) -> str:
    """Everything that was measured, as Markdown tables."""
    machine, peak = results["machine"], results["peak_gflops"]
    packages = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    parts = [
        "# CPU benchmarks",
        f"{machine['cpu']} ({machine['processors']} processors, {machine['instruction_set']}), one thread, float32; "
        f"multiply-add peak of one thread {max(peak):.0f} GFLOP/s, measured {len(peak)} times between the others "
        f"(lowest {min(peak):.0f}). Python {machine['python']}, {packages}, revision {machine['revision']}. "
        f"Written by `python -m benchmarks.cpu{' --quick' if results['quick'] else ''}`.",
        "## Speed-ups and targets",
        "A peer's smallest CPU time over the engine's, and the fraction of peak that the floor's FLOPs make in the "
        "engine's; in brackets the target. Jet / training.",
        _targets_table(results),
        "## Times",
        "CPU ms: smallest over all calls. Wall ms: 20th, 50th and 80th percentile. Memory: growth of the resident set "
        "in one call. Ratio: to the first row of the same case. Fraction: the floor's FLOPs over CPU time and peak.",
        _times_table(results["rows"]),
        "## Errors",
        "Largest error relative to the output's largest entry, against nested autograd in float64: the engine in "
        "float32, the same formula in plain float32 torch, the engine in float64. Gradients: the worst of all "
        "parameters; errors.csv has each. Where a float32 error is more than "
        f"{ALLOWED:g} times plain float32's, the case's errors are root mean squares over {SEEDS} seeds.",
        _errors_table(results["errors"]),
        _worse_than_plain(results["errors"]),
    ]
    if results["scaling"]:
        parts += ["## Two threads", _scaling_table(results["scaling"])]
    if results["roofline"]:
        parts += ["## Fraction of peak against width", "![Fraction of peak against width](roofline.png)"]
    left_out = [f"- {name}: left out, {reason}" for name, reason in results["missing"].items()]
    left_out += [f"- {f['contender']} in {f['case']}: not timed, {f['reason']}" for f in results["failed"]]
    if left_out:
        parts += ["## Left out", "\n".join(left_out)]
    return "\n\n".join(parts) + "\n"


def _targets_table(results: dict[str, Any]) -> str:
    rows = {(*_key(row), row["contender"]): row for row in results["rows"]}
    table = []
    for shape, targets in TARGETS.items():
        cells = []
        for column, target in targets.items():
            halves = []
            for operator, wanted in zip(("jet", "training"), target, strict=True):
                row = rows.get((operator, *shape, 1, OURS if column == "fraction" else column))
                measured = None if row is None else row["fraction" if column == "fraction" else "ratio"]
                halves.append(_against(measured, wanted, "" if column == "fraction" else "x"))
            cells.append(" / ".join(halves))
        if any(row[:5] == ("jet", *shape) or row[:5] == ("training", *shape) for row in rows):
            table.append([", ".join(map(str, shape)), *cells])
    text = _table(["B, D, H, L", f"to {NESTED}", f"to {COMPILED}", "fraction of peak"], table)
    for row in results["rows"]:
        wanted = FLOW_TARGETS.get(row["contender"])
        if row["operator"] == "flow" and wanted:
            text += f"\n\nFlow against the {row['contender']}: {_against(row['ratio'], wanted, 'x')}."
    return text


def _against(measured: float | None, wanted: float, unit: str) -> str:
    if measured is None:
        return "-"
    digits = 2 if not unit else 1 if measured < 100 else 0
    return f"{measured:.{digits}f}{unit} ({wanted:g})"


def _times_table(rows: Sequence[Row]) -> str:
    header = ["case", "contender", "CPU ms", "wall ms p20 / p50 / p80", "memory MiB", "ratio", "fraction"]
    table, last = [], None
    for row in rows:
        case = Case(*_key(row), row["steps"]).name
        wall = " / ".join(_ms(row[f"wall_ms_p{p}"]) for p in (20, 50, 80))
        memory = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
        cells = [_ms(row["cpu_ms"]), wall, memory, f"{row['ratio']:.2f}", f"{row['fraction']:.3f}"]
        table.append(["" if case == last else case, row["contender"], *cells])
        last = case
    return _table(header, table)


def _errors_table(rows: Sequence[Row]) -> str:
    kinds = ("float32", "float32 torch", "float64")
    worst: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        output = "gradients" if row["output"].startswith("d ") else row["output"]
        found = worst.setdefault((row["case"], output), [0.0] * len(kinds))
        worst[row["case"], output] = [max(x, row[kind]) for x, kind in zip(found, kinds, strict=True)]
    table = [[*names, *(f"{x:.1e}" for x in found)] for names, found in worst.items()]
    return _table(["case", "output", *kinds], table)


def _worse_than_plain(rows: Sequence[Row]) -> str:
    """Which of the engine's float32 errors exceed ALLOWED times those of plain float32."""
    worse = [row for row in rows if row["float32"] > ALLOWED * row["float32 torch"]]
    named = "".join(
        f"\n- {row['case']}, {row['output']}: {row['float32']:.1e}, plain {row['float32 torch']:.1e}" for row in worse
    )
    return f"{len(worse)} of {len(rows)} outputs have more than {ALLOWED:g} times plain float32's error.{named}"


def _scaling_table(scaling: dict[str, float]) -> str:
    product = next(x for name, x in scaling.items() if name.startswith(MATMUL))
    table = [
        [name, f"{x:.2f}", "" if name.startswith(MATMUL) else _against(x / product, SCALING_TARGET, "")]
        for name, x in scaling.items()
    ]
    text = _table(["call", "speed-up in wall time", "of the product's (target)"], table)
    if product < BUSY:
        text += "\n\nThe product gained little: the second processor was busy, and the others' gains say nothing."
    return text


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in Case._fields[:-1])


def _ms(x: float) -> str:
    return f"{x:.3f}" if x < 10 else f"{x:.1f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _write_csv(rows: Sequence[Row], file: Path) -> None:
    with file.open("w", newline="") as stream:
        if rows:
            writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
