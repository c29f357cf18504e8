"""What the GPU kernels compile to, on a machine without a GPU: `python -m benchmarks.static [--json FILE]`.

Every Triton kernel is compiled at each shipped configuration for each architecture, and every CUDA source by nvcc; the
machine code is read with the tools that come with Triton. It fails on a register spill, on more shared memory than a
block may have, and on a tf32 matrix product that doesn't reach the tensor cores; `--against FILE` also on code that has
become slower, by `benchmarks.sass`'s count, than in an earlier list. All of it takes minutes; `--changed` compiles only
what that list doesn't hold of the very same source, configuration and compiler, and takes its word for the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import triton
from fastflow.kernels.shipped import Shipped, shipped
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.static.sass import MULTIPROCESSORS, Busy, busy, busy_for_products, cuda_functions
from fastflow.engine.backends.selection import cuda_missing, cuda_module

# The most dynamic shared memory that one block may ask for, by compute capability.
SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024}
TENSOR_CORES = re.compile(r"\b(HMMA|HGMMA|QGMMA)\b")
SPILLS = re.compile(r"\b(STL|LDL)\b")
SAMPLES = 65536  # of one potential, for which a time is predicted
SLOWER = 1.1  # times an earlier predicted time or number of instructions: more is a regression
CUDA_SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
CUDA_KERNELS = re.compile(r"\d+([a-z_]+_kernel)I([df])(?:Lb([01]))?E")


class Row(NamedTuple):
    """One kernel at one configuration on one architecture; predicted_us where its loops' trips are known, for sm_90."""

    kernel: str
    arch: str
    config: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_core: bool
    instructions: int
    predicted_us: float | None = None
    bound: str | None = None  # the unit that is busy longest
    source: str = ""  # a digest of the Triton kernel's source and configuration, and of Triton's version

    def faults(self, uses_tensor_cores: bool) -> Iterator[str]:
        """What mustn't be."""
        if self.spill_bytes:
            yield f"{self.spill_bytes} bytes of registers spill"
        limit = SHARED_LIMITS[int(self.arch.removeprefix("sm_"))]
        if self.shared_bytes > limit:
            yield f"{self.shared_bytes} bytes of shared memory, where {limit} may be had"
        if uses_tensor_cores and not self.tensor_core:
            yield "matrix products in tf32 without tensor-core instructions"

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.kernel} {self.config} {self.arch}"


def digest(kernel: Shipped) -> str:
    """What tells whether a kernel would be compiled to the same code."""
    source = ASTSource(kernel.kernel, kernel.signature, kernel.constexprs, kernel.attrs)
    parts = (triton.__version__, source.hash(), sorted(kernel.options.items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def compile_one(kernel: Shipped) -> list[Row]:
    """Compile for each architecture and read the results."""
    source: Any = ASTSource(kernel.kernel, kernel.signature, kernel.constexprs, kernel.attrs)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for capability in SHARED_LIMITS:
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=kernel.options)
            rows.append(_row(kernel, compiled, capability))
            # What Triton makes of Python is the same for all of them, and made once.
            source = str(Path(folder) / "kernel.ttir")
            Path(source).write_text(compiled.asm["ttir"], encoding="utf-8")
    return rows


def _row(kernel: Shipped, compiled: Any, capability: int) -> Row:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        sass = _tool("nvdisasm", "-c", file.name)
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    # The stack holds what was spilled; a kernel without arrays of its own needs it for nothing else.
    spilled = max(numbers["STACK"], numbers["LOCAL"], 4 * len(SPILLS.findall(sass)))
    name, config = kernel.kernel.__name__, kernel.constexprs.get("C")
    row = Row(
        name, f"sm_{capability}", _configuration(kernel), numbers["REG"], spilled, compiled.metadata.shared,
        bool(TENSOR_CORES.search(sass)), len(re.findall(r"^\s+/\*[0-9a-f]+\*/", sass, re.MULTILINE)),
        source=digest(kernel),
    )  # fmt: skip
    if config is None or capability != 90:
        return row
    directions = {"exact": min(config.widths[0].value, config.widths[1].value), "hutchinson": 1, "none": 0}
    sizes = {"num_directions": directions[config.laplacian.value], "partial_size": config.weights_at[-1].value}
    units = busy(sass, compiled.asm["ttgir"], name, sizes, kernel.options["num_warps"])
    predicted = units.microseconds(SAMPLES / config.samples.value)
    return row._replace(predicted_us=round(predicted, 1), bound=units.bound)


def _cuda_digests() -> str:
    """The digests of what the CUDA module is made of, as sha256sum checks them from the checkout's root."""
    root = CUDA_SOURCES.parents[1]
    common = (root / "csrc" / "common").rglob("*")
    files = [file for file in (*CUDA_SOURCES.rglob("*"), *common, root / "cmake" / "cuda.cmake") if file.is_file()]
    return "".join(
        f"{hashlib.sha256(x.read_bytes()).hexdigest()}  {x.relative_to(root).as_posix()}\n" for x in sorted(files)
    )


def cuda_rows() -> Iterator[Row]:
    """The CUDA kernels: of the installed module, or compiled anew where a source is younger than that.

    Raises:
        FileNotFoundError: the module isn't there, which plans each launch, or is older, and nvcc isn't there.
    """
    if cuda_module is None:
        raise FileNotFoundError(cuda_missing())
    sources, built = [*CUDA_SOURCES.iterdir()], Path(cuda_module.__file__)
    if built.stat().st_mtime > max(file.stat().st_mtime for file in sources):
        for capability in SHARED_LIMITS:
            yield from _cuda_rows(built, capability)
        return
    if shutil.which("nvcc") is None:
        raise FileNotFoundError("the CUDA module is older than its sources, and nvcc isn't on PATH")
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(CUDA_SOURCES.glob("*.cu")):
            for capability in SHARED_LIMITS:
                cubin = Path(folder) / f"{source.stem}-{capability}.cubin"
                options = [
                    "-std=c++17",
                    f"-I{CUDA_SOURCES.parent}",
                    "-O3",
                    "-cubin",
                    f"-arch=sm_{capability}",
                    '-DFASTFLOW_CUDA_ARCHITECTURES=""',
                ]
                subprocess.run(["nvcc", *options, "-o", str(cubin), str(source)], check=True)
                yield from _cuda_rows(cubin, capability)


def _cuda_rows(file: Path, capability: int) -> Iterator[Row]:
    usage, sass = (
        _tool("cuobjdump", what, "-arch", f"sm_{capability}", str(file)) for what in ("--dump-resource-usage", "-sass")
    )
    code = cuda_functions(sass)
    for function, numbers in re.findall(r"Function (\S+):\n(.*)", usage):
        kernel = CUDA_KERNELS.search(function)
        if kernel is None:
            continue
        name, number, state = kernel.groups()
        value = {key: int(text) for key, text in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", numbers)}
        config = f"fp{64 if number == 'd' else 32}"
        shared, predicted, bound = value["SHARED"], None, None
        if state is not None:
            config += " state in shared memory" if state == "1" else " state in workspace"
            plan = _plan(name, number == "d", state == "1", capability)
            shared = max(shared, plan.shared_bytes)
            if capability == 90:
                each = busy_for_products(code[function])
                predicted, bound = round(_path_microseconds(plan, each, "bwd" in name), 1), each.bound
        spilled = max(value["STACK"], value["LOCAL"])
        count = len(code[function])
        yield Row(name, f"sm_{capability}", config, value["REG"], spilled, shared, False, count, predicted, bound)


PATH = {"potentials": 8, "batch": 128, "times": 20}
"""Of the paths whose time is predicted: 20 Euler steps."""


def _plan(name: str, double: bool, state_in_shared: bool, capability: int) -> Any:
    """How the module lays out a small path, or one whose state doesn't fit."""
    return cuda_module.FlowPlan(
        widths=_path_widths(state_in_shared), slots=PATH["times"] * PATH["potentials"], activation="tanh",
        out_activation="tanh", dt=1.0, method="euler", direction="forward", step_length=-1.0,
        dtype="float64" if double else "float32", backward="bwd" in name, multiprocessors=MULTIPROCESSORS,
        shared_bytes=SHARED_LIMITS[capability], **PATH,
    )  # fmt: skip


def _path_widths(small: bool) -> list[int]:
    return [128, 64, 64] if small else [2048, 2048, 2048]


def _path_microseconds(plan: Any, each: Busy, backward: bool) -> float:
    """A launch's products alone, if the busiest unit of a multiprocessor never waits."""
    dim, *hidden = _path_widths(plan.state_in_shared)
    weights = sum(a * b for a, b in pairwise([dim, *hidden]))
    # A field goes up and down through the layers; its adjoint does so as well, and has two outer products.
    products = PATH["times"] * plan.tile * weights * (6 if backward else 2) / 32
    slots = PATH["batch"] // plan.tile + PATH["potentials"]
    tiles = -(-slots // plan.blocks) * -(-plan.blocks // MULTIPROCESSORS)  # that one multiprocessor has, one by one
    return (each * products).microseconds(MULTIPROCESSORS * tiles)


def regressions(rows: Sequence[Row], before: Sequence[Row]) -> Iterator[str]:
    """Where rows are worse than those of the same name were, by more than passes; and names that aren't in both."""
    earlier = {row.name: row for row in before}
    for row in rows:
        old = earlier.pop(row.name, None)
        if old is None:
            yield f"{row.name}: isn't in the earlier list"
            continue
        if old.predicted_us and row.predicted_us and row.predicted_us > SLOWER * old.predicted_us:
            yield f"{row.name}: {row.predicted_us} us predicted, {old.predicted_us} before"
        if row.instructions > SLOWER * old.instructions:
            yield f"{row.name}: {row.instructions} instructions, {old.instructions} before"
    yield from (f"{name}: is no longer compiled" for name in earlier)


def read(file: Path) -> list[Row]:
    """The rows that `--json` wrote."""
    return [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what the command line asks for; the exit status tells whether all is well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.static", description="Compile every GPU kernel.")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--against", type=Path, help="fail where code is worse than in this earlier file")
    parser.add_argument("--changed", action="store_true", help="compile only what --against doesn't hold as it is now")
    parser.add_argument("--only", default="", help="only configurations whose kernel or name contains this")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="compile so many at a time")
    options = parser.parse_args(arguments)
    if options.changed and options.against is None:
        parser.error("--changed needs --against: a list of what hasn't changed")
    wanted = {place: kernel for place, kernel in enumerate(shipped()) if options.only in kernel.name}
    if not wanted:
        parser.error(f"no shipped configuration contains {options.only!r}")
    earlier = read(options.against) if options.against else []
    rows, faults = [], []

    def take(row: Row, uses_tensor_cores: bool, progress: str) -> None:
        rows.append(row)
        found = list(row.faults(uses_tensor_cores))
        faults.extend(f"{row.name}: {fault}" for fault in found)
        predicted = "" if row.predicted_us is None else f", {row.predicted_us} us predicted"
        print(
            f"[{progress}] {row.name}: {row.registers} registers, {row.shared_bytes} bytes shared{predicted}"
            f"{''.join(f', {fault}' for fault in found)}",
            flush=True,
        )

    jobs = []
    for place, kernel in wanted.items():
        found = [row for row in earlier if row.source == digest(kernel)] if options.changed else []
        if len(found) < len(SHARED_LIMITS):
            jobs.append(place)
            continue
        for row in found:
            take(row, kernel.uses_tensor_cores, "unchanged")
    for number, (compiled, uses_tensor_cores) in enumerate(_compiled(jobs, options.processes), 1):
        for row in compiled:
            take(row, uses_tensor_cores, f"{number}/{len(jobs)}")
    with_cuda = not options.only
    try:
        for row in cuda_rows() if with_cuda else ():
            take(row, False, "cuda")
    except FileNotFoundError as error:
        with_cuda = False
        print(f"the CUDA sources are left out: {error}")
    if options.json and not (with_cuda or options.only):
        faults.append(f"{options.json} isn't written: it would be without the CUDA kernels")
    elif options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n", encoding="utf-8")
        if with_cuda:
            options.json.with_name("cuda.sha256").write_text(_cuda_digests(), encoding="utf-8")
    if options.against:
        before = [row for row in earlier if options.only in row.name]
        faults += regressions(rows, [row for row in before if with_cuda or row.source])
    unchanged = (
        f"{len(wanted) - len(jobs)} of {len(wanted)} Triton kernels are as they were; " if options.changed else ""
    )
    print(f"{unchanged}{len(rows)} rows, {len(faults)} faults", *faults, sep="\n")
    return 1 if faults else 0


def _compiled(jobs: Sequence[int], processes: int) -> Iterator[tuple[list[Row], bool]]:
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(_job, jobs)


def _job(place: int) -> tuple[list[Row], bool]:
    kernel = list(shipped())[place]
    return compile_one(kernel), kernel.uses_tensor_cores


def _configuration(kernel: Shipped) -> str:
    flags = [name for name, value in kernel.constexprs.items() if value is True]
    return " ".join([kernel.name.removeprefix(kernel.kernel.__name__).strip(), *flags])


def _tool(name: str, *arguments: str) -> str:
    knobs: Any = triton.knobs
    tool = getattr(knobs.nvidia, name).path
    return subprocess.run((tool, *arguments), check=True, capture_output=True, text=True).stdout
