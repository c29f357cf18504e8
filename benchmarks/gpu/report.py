"""Results of `make gpu` as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

Results = dict[str, Any]
Row = dict[str, Any]

# Speed-ups that the engine is to reach, by case and contender.
TARGETS = {
    ("training-B65536-D12-H64-L2-K1", "torch.compile"): 3.0,
    ("training-B4096-D128-H128-L2-K32", "torch.compile"): 3.0,
    ("flow-B128-D128-H64-L2-K1", "loop"): 10.0,
}
TF32_TARGET = 0.5  # of the measured ceiling, where layers are at least 128 wide


def markdown(results: Results, drawn: bool = False) -> str:
    """Everything that was measured, and what failed."""
    device = results["device"]
    ceilings = _ceilings(results)
    lines = [
        f"# {device['name']}",
        "",
        f"Compute capability {'.'.join(map(str, device['capability']))}, {device['multiprocessors']} multiprocessors, "
        f"{device['memory_gib']} GiB, driver {device['driver']}; torch {device['torch']}, CUDA {device['cuda']}, "
        f"Triton {device['triton']}, Python {device['python']}. Written by `make gpu`; times are the device's medians.",
        "",
        "| part | status | seconds | |",
        "|---|---|---|---|",
        *(f"| {p['name']} | {p['status']} | {p['seconds']:.0f} | {_cell(p['message'])} |" for p in results["parts"]),
        "",
    ]
    lines += [
        f"Tests: {', '.join(f'{number} {what}' for what, number in part['result'].items())}.\n"
        for part in results["parts"]
        if part["name"] == "tests" and part["result"]
    ]
    if ceilings:
        lines += ["| ceiling | measured |", "|---|---|"]
        lines += [
            f"| {name} | {value:.0f} {'GB/s' if name == 'copy' else 'TFLOP/s'} |" for name, value in ceilings.items()
        ]
        lines.append("")
    rows = [row for row in _rows(results) if "case" in row]
    if rows:
        lines += [
            "Ratio: to fastflow in the same precision, in brackets the target. Share: the floor's FLOPs over time and "
            "the ceiling of that precision.",
            "",
            "| case | contender | precision | ms | ratio | TFLOP/s | share | peak MiB | worst error | |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *(_line(row, rows, ceilings) for row in rows),
            "",
        ]
    if drawn:
        lines += ["![Times beside the engine's](results.png)", ""]
    return "\n".join(lines)


def draw(results: Results, file: Path) -> bool:
    """Each contender's time over the engine's, as bars; False without matplotlib or anything to draw."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return False
    rows = [row for row in _rows(results) if "case" in row]
    bars = [(row["case"], row["contender"], ratio) for row in rows if (ratio := _ratio(row, rows)) and ratio != 1.0]
    if not bars:
        return False
    figure, panel = plt.subplots(figsize=(8, 1 + 0.35 * len(bars)), layout="constrained")
    panel.barh([f"{case}\n{name}" for case, name, _ in bars], [ratio for _, _, ratio in bars])
    panel.axvline(1, color="black", linewidth=1)
    panel.set(xscale="log", xlabel="time over fastflow's", title=results["device"]["name"])
    panel.invert_yaxis()
    panel.tick_params(axis="y", labelsize="small")
    figure.savefig(file, dpi=130)
    plt.close(figure)
    return True


def _line(row: Row, rows: list[Row], ceilings: dict[str, float]) -> str:
    ratio, target = _ratio(row, rows), TARGETS.get((row["case"], row["contender"]))
    ceiling = ceilings.get({"ieee": "fp32"}.get(row["precision"], "tf32"))
    share = row["tflops"] / ceiling if ceiling and "tflops" in row else None
    note = row.get("reason") or ""
    if row.get("kernels") is not None:
        note = f"{row['kernels']} kernels, {row['integrator_launches']} of them the integrator's"
    cells = [
        row["case"], row["contender"], row["precision"], _number(row.get("ms_p50"), 3),
        _number(ratio, 1) + (f" ({target:g})" if target else ""), _number(row.get("tflops"), 1),
        _number(share, 2) + (f" ({TF32_TARGET:g})" if row["precision"] == "tf32" and row["width"] >= 128 else ""),
        _number(row.get("peak_mib"), 0), f"{row['worst_error']:.0e}" if "worst_error" in row else "", _cell(note),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _ratio(row: Row, rows: list[Row]) -> float | None:
    for other in rows:
        if other["contender"] == "fastflow" and all(other[k] == row[k] for k in ("case", "precision")):
            return row["ms_p50"] / other["ms_p50"] if "ms_p50" in row and "ms_p50" in other else None
    return None


def _rows(results: Results) -> Iterator[Row]:
    for part in results["parts"]:
        if isinstance(part["result"], list):
            yield from part["result"]


def _ceilings(results: Results) -> dict[str, float]:
    return {row["ceiling"]: row.get("tflops", row.get("gb_per_s")) for row in _rows(results) if "ceiling" in row}


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
