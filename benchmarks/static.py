"""What the GPU kernels compile to, on a machine without a GPU: `python -m benchmarks.static [--json FILE]`.

Every Triton kernel is compiled at each shipped configuration for each architecture, and its cubin read with the
cuobjdump that comes with Triton. It fails on a register spill, on more shared memory than a block may have, and on a
tf32 matrix product that doesn't reach the tensor cores.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import triton
from fastflow.kernels.shipped import Shipped, shipped
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# The most dynamic shared memory that one block may ask for, by compute capability.
SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024}
TENSOR_CORES = re.compile(r"\b(HMMA|HGMMA|QGMMA)\b")
SPILLS = re.compile(r"\b(STL|LDL)\b")


class Row(NamedTuple):
    """One kernel at one configuration on one architecture."""

    kernel: str
    arch: str
    config: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_core: bool
    instructions: int

    def faults(self, uses_tensor_cores: bool) -> Iterator[str]:
        """What mustn't be."""
        if self.spill_bytes:
            yield f"{self.spill_bytes} bytes of registers spill"
        limit = SHARED_LIMITS[int(self.arch.removeprefix("sm_"))]
        if self.shared_bytes > limit:
            yield f"{self.shared_bytes} bytes of shared memory, where {limit} may be had"
        if uses_tensor_cores and not self.tensor_core:
            yield "matrix products in tf32 without tensor-core instructions"


def compile_one(kernel: Shipped, capability: int) -> Row:
    """Compile for one architecture and read the result."""
    source = ASTSource(kernel.kernel, kernel.signature, kernel.constexprs, kernel.attrs)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=kernel.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        sass = _cuobjdump("--dump-sass", file.name)
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    # The stack holds what was spilled; a kernel without arrays of its own needs it for nothing else.
    spilled = max(numbers["STACK"], numbers["LOCAL"], 4 * len(SPILLS.findall(sass)))
    instructions = len(re.findall(r"^\s+/\*[0-9a-f]+\*/", sass, re.MULTILINE))
    return Row(
        kernel.kernel.__name__, f"sm_{capability}", _configuration(kernel), numbers["REG"], spilled,
        compiled.metadata.shared, bool(TENSOR_CORES.search(sass)), instructions,
    )  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| kernel | configuration | architecture | registers | spills | shared memory | tensor cores |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory, cores = f"{row.shared_bytes / 1024:.1f} KiB", "yes" if row.tensor_core else "no"
        cells = (row.kernel, row.config, row.arch, row.registers, row.spill_bytes, memory, cores)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what the command line asks for; the exit status tells whether all is well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.static", description="Compile every GPU kernel.")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--markdown", type=Path, help="write a table to this file")
    parser.add_argument("--only", default="", help="only configurations whose kernel or name contains this")
    options = parser.parse_args(arguments)
    chosen = [kernel for kernel in shipped() if options.only in kernel.name]
    if not chosen:
        parser.error(f"no shipped configuration contains {options.only!r}")
    rows, faults = [], []
    for number, kernel in enumerate(chosen, 1):
        for capability in SHARED_LIMITS:
            row = compile_one(kernel, capability)
            rows.append(row)
            found = list(row.faults(kernel.uses_tensor_cores))
            faults += [f"{row.kernel} {row.config} {row.arch}: {fault}" for fault in found]
            print(
                f"[{number}/{len(chosen)}] {row.kernel} {row.config} {row.arch}: {row.registers} registers, "
                f"{row.shared_bytes} bytes shared{''.join(f', {fault}' for fault in found)}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(table(rows) + "\n", encoding="utf-8")
    print(f"{len(rows)} compiled, {len(faults)} faults")
    return 1 if faults else 0


def _configuration(kernel: Shipped) -> str:
    flags = [name for name, value in kernel.constexprs.items() if value is True]
    return " ".join([kernel.name.removeprefix(kernel.kernel.__name__).strip(), *flags])


def _cuobjdump(*arguments: str) -> str:
    knobs: Any = triton.knobs
    return subprocess.run((knobs.nvidia.cuobjdump.path, *arguments), check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    raise SystemExit(main())
