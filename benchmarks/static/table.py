"""The README's table of what the GPU kernels compile to: `python -m benchmarks.static.table` writes it anew.

It is made of benchmarks/results/static.json, which `python -m benchmarks.static --json` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "static.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- python -m benchmarks.static.table -->\n", "<!-- end -->"
# What the table shows of the list: the loss with its gradients at two shapes, and a path with its adjoint.
SHOWN = (
    *(("residual_kernel", f"{widths} tanh tanh exact {kind} timed HAS_SOURCE WITH_GRADIENT WITH_Z")
      for widths, kinds in (("12x64x64", ("ieee fp32", "tf32 fp32", "tf32x3 fp32", "ieee fp64")),
                            ("128x128x128", ("ieee fp32", "tf32 fp32", "tf32x3 fp32")))
      for kind in kinds),
    *(("flow_fwd_kernel", f"{number} state in shared memory") for number in ("fp32", "fp64")),
    *(("flow_bwd_kernel", f"{number} state in shared memory") for number in ("fp32", "fp64")),
)  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows that are shown, in Markdown, and in a line how all of them are."""
    spills = sum(row["spill_bytes"] > 0 for row in rows)
    lines = [
        f"**Not yet measured on a GPU.** {len(rows)} kernels compiled, {spills} of them with spills; some for sm_90:",
        "",
        "| kernel | configuration | registers | spilled bytes | shared memory | tensor cores | predicted, µs |",
        "|---|---|---|---|---|---|---|",
        *_lines(rows),
    ]
    return "\n".join(lines) + "\n"


def with_table(text: str, rows: Sequence[dict[str, Any]]) -> str:
    """A text whose table is of these rows."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}{table(rows)}{END}{after}"


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    found = {(row["kernel"], row["config"]): row for row in rows if row["arch"] == "sm_90"}
    for shown in SHOWN:
        row = found[shown]
        predicted = "" if row["predicted_us"] is None else f"{row['predicted_us']:.0f}"
        config = row["config"].split(" timed")[0].replace("tanh tanh exact ", "")
        cells = (
            row["kernel"].removesuffix("_kernel"), config, row["registers"], row["spill_bytes"],
            f"{row['shared_bytes'] / 1024:.0f} KiB", "yes" if row["tensor_core"] else "no", predicted,
        )  # fmt: skip
        yield f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Write the README anew."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    README.write_text(with_table(README.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
