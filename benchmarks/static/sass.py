"""How long a kernel's instructions keep an H100 busy: counted in its machine code, loops by their trips.

Trips come from Triton's intermediate code, where every loop has bounds: those that depend on widths are numbers there,
run-time arguments are given, and what only data tell counts as one trip. A function's loops are the same there and in
the machine code, in the same order, because kernels keep them rolled; where a function has another number of them in
the two, a loop of the machine code takes the trips of those as deep as itself.

CUDA C++ has no such intermediate code. Nearly all that its kernels do is products of matrices, whose multiply-adds are
known from the sizes; their loops in the machine code tell what each costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MULTIPROCESSORS = 132
CLOCK = 1.7e3  # cycles in a microsecond, as under load
_PRODUCT = 16  # multiply-adds in a trip of a loop of products, at least: unrolled four times, four samples each
_UNKNOWN = 1  # trips of a loop whose bounds are data


class Busy(NamedTuple):
    """Cycles that a program's instructions for one tile keep each unit of its multiprocessor busy."""

    issue: float = 0.0
    integer: float = 0.0
    double: float = 0.0
    special: float = 0.0
    tensor: float = 0.0
    memory: float = 0.0

    @property
    def bound(self) -> str:
        """The busiest unit."""
        return max(self._fields, key=lambda name: getattr(self, name))

    def __mul__(self, factor: float) -> Busy:
        return Busy(*(factor * cycles for cycles in self))

    def microseconds(self, tiles: float) -> float:
        """For so many tiles on all multiprocessors, if the busiest unit never waits."""
        return max(self) * tiles / MULTIPROCESSORS / CLOCK


def busy(sass: str, ttgir: str, kernel: str, arguments: Mapping[str, int], warps: int) -> Busy:
    """Count what `nvdisasm -c` and Triton's own code show of one tile; `arguments` are the run-time ones that count."""
    functions = _functions(sass)
    trips = _trips(ttgir, kernel, arguments)
    cycles = dict.fromkeys(Busy._fields, 0.0)
    pending = [(kernel, 1.0)]
    while pending:
        name, times = pending.pop()
        function = functions[_plain(name)]
        for line, weight in function.weighted(trips.get(_plain(name), [])):
            for unit, cost in _cost(line).items():
                cycles[unit] += times * weight * cost
            called = re.search(r"CALL\S* `\(\$?(\S+?)\)", line)
            # The compiler's own subroutines are what divisions take for operands out of the ordinary.
            if called and "__internal_" not in called[1]:
                pending.append((called[1].removeprefix(f"{kernel}$"), times * weight))
    return _of_multiprocessor(cycles) * warps


def _of_multiprocessor(cycles: Mapping[str, float]) -> Busy:
    """Of a warp's cycles: four partitions share the warps, and all share shared memory and the first-level cache."""
    return Busy(**{name: value / (1 if name == "memory" else 4) for name, value in cycles.items()})


def cuda_functions(sass: str) -> dict[str, dict[int, str]]:
    """What `cuobjdump -sass` shows: each function's instructions by their addresses."""
    found: dict[str, dict[int, str]] = {}
    current: dict[int, str] = {}
    for line in sass.splitlines():
        if header := re.search(r"Function : (\S+)", line):
            current = found.setdefault(header[1], {})
        elif instruction := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+\S.*;", line):
            current[int(instruction[1], 16)] = line
    return found


def busy_for_products(function: Mapping[int, str]) -> Busy:
    """Cycles of a multiprocessor for a multiply-add instruction of a warp, loads and all, in the loops of products.

    Those are the innermost loops of multiply-adds without special functions; each counts with its multiply-adds.
    """
    ends: dict[int, int] = {}
    for address, line in function.items():
        target = re.search(r"\bBRA\S* (?:\S+, )?0x([0-9a-f]+)", line)
        if target and int(target[1], 16) < address:
            ends[int(target[1], 16)] = address
    cycles, products = dict.fromkeys(Busy._fields, 0.0), 0
    for begin, end in ends.items():
        if any(begin <= first and last <= end for first, last in ends.items() if (first, last) != (begin, end)):
            continue
        body = [line for address, line in function.items() if begin <= address <= end]
        multiply_adds = sum(bool(re.search(r"\b[FD]FMA\b", line)) for line in body)
        if multiply_adds < _PRODUCT or any("MUFU" in line for line in body):
            continue
        products += multiply_adds
        for line in body:
            for unit, cost in _cost(line).items():
                cycles[unit] += cost
    return _of_multiprocessor(cycles) * (1 / products) if products else Busy()


@dataclass
class _Function:
    lines: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # and the line that each one stands before

    def loops(self) -> list[tuple[int, int]]:
        """First and last line of each loop, by the branches that lead back."""
        ends: dict[str, int] = {}
        for place, line in enumerate(self.lines):
            target = re.search(r"\bBRA\S* `\((\S+)\)", line)
            if target and self.labels.get(target[1], place + 1) < place:
                ends[target[1]] = place
        return sorted(((self.labels[label], end) for label, end in ends.items()), key=lambda loop: (loop[0], -loop[1]))

    def weighted(self, trips: Sequence[tuple[int, int]]) -> Iterator[tuple[str, float]]:
        """Each line and how often it runs; trips: depth and count of the function's loops in their order."""
        loops = self.loops()
        depths = [sum(a <= begin and end <= b for a, b in loops) for begin, end in loops]
        counts = [count for _, count in trips]
        if [depth for depth, _ in trips] != depths:
            counts = []
            for depth in depths:
                alike = [count for d, count in trips if d == depth] or [_UNKNOWN]
                counts.append(sum(alike) / len(alike))
        for place, line in enumerate(self.lines):
            weight = 1.0
            for (begin, end), count in zip(loops, counts, strict=True):
                if begin <= place <= end:
                    weight *= count
            yield line, weight


def _functions(sass: str) -> dict[str, _Function]:
    found: dict[str, _Function] = {}
    current: _Function | None = None
    for text in sass.splitlines():
        line = text.strip()
        if label := re.fullmatch(r"([.$\w]+):", line):
            name = label[1]
            if current is not None and name.startswith(".L"):
                current.labels[name] = len(current.lines)
            elif not name.startswith("."):
                *_, name = name.split("$", 2) if name.startswith("$") and not name.startswith("$__") else (name,)
                current = found.setdefault(_plain(name), _Function())
        elif current is not None and line.startswith("/*"):
            current.lines.append(line)
    return found


def _plain(name: str) -> str:
    """A function's name without what the assembler and Triton spell differently."""
    return re.sub(r"[^A-Za-z0-9]|_", "", name)


# Instructions whose unit has half as many lanes as a warp has threads, by how they begin. Arithmetic in float32 has a
# lane for each thread, and takes no longer than it takes to be issued.
_HALF_RATE = ("IADD", "IMNMX", "LOP", "ISETP", "SEL", "SHF", "LEA", "PRMT", "FSEL", "FSETP", "FMNMX", "MOV", "SGXT")


def _cost(line: str) -> dict[str, float]:
    match = re.search(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", line)
    if match is None:
        return {}
    name, *modifiers = match[1].split(".")
    cost = {"issue": 1.0}
    if name in ("LDS", "STS", "LDG", "STG", "LDSM", "STSM", "SHFL", "LDL", "STL", "LD", "ST"):
        words = 4 if "128" in modifiers or "4" in modifiers else 2 if "64" in modifiers or "2" in modifiers else 1
        cost["memory"] = words  # 128 bytes a cycle for the whole multiprocessor
    elif name in ("MUFU", "I2F", "F2I", "F2F", "POPC"):
        cost["special"] = 8.0
    elif name in ("DFMA", "DMUL", "DADD", "DSETP"):
        cost["double"] = 2.0
    elif name in ("HMMA", "HGMMA", "DMMA"):
        cost["tensor"] = _tensor_cycles(name, modifiers)
    elif name.startswith(_HALF_RATE):
        cost["integer"] = 2.0
    return cost


def _tensor_cycles(name: str, modifiers: Sequence[str]) -> float:
    """At a partition's 256 multiply-adds a cycle in tf32, twice that in 16 bits, and 32 in float64."""
    rate = 32 if name == "DMMA" else 256 if "TF32" in modifiers else 512
    if name == "HGMMA":  # 64 rows are four warps' together
        rows, columns, depth = map(int, modifiers[0].split("x"))
        return rows / 4 * columns * depth / rate
    rows, columns, depth = {"1688": (16, 8, 8), "1684": (16, 8, 4), "16816": (16, 8, 16), "884": (8, 8, 4)}.get(
        modifiers[0].replace("x", ""), (16, 8, 16)
    )
    return rows * columns * depth / rate


def _trips(ttgir: str, kernel: str, arguments: Mapping[str, int]) -> dict[str, list[tuple[int, int]]]:
    """By function: depth and trips of its loops, in their order. A function that is called twice keeps the last."""
    functions = _regions(ttgir)
    trips: dict[str, list[tuple[int, int]]] = {}
    pending: list[tuple[str, Mapping[str, int]]] = [(kernel, arguments)]
    while pending:
        name, given = pending.pop()
        parameters, lines = functions[name]
        values = {f"%{key}": value for key, value in given.items() if f"%{key}" in parameters}
        loops, open_regions = [], []
        for line in lines:
            if loop := re.search(r"scf\.for (%\w+) = (%\S+) to (%\S+) step (%\S+)", line):
                low, high, step = (values.get(loop[i]) for i in (2, 3, 4))
                known = None not in (low, high, step) and name + loop[1] != f"{kernel}%tile"
                count = max(0, -(-(high - low) // step)) if known else _UNKNOWN  # pyright: ignore[reportOperatorIssue]
                loops.append((1 + sum(open_regions), count))
                if low is not None:
                    values[loop[1]] = low  # of the first trip
            elif call := re.search(r'tt\.call @(?:"([^"]+)"|([\w.]+))\((.*?)\) :', line):
                callee = call[1] or call[2]
                passed = dict(zip(functions[callee][0], call[3].split(", "), strict=False))
                pending.append((callee, {p[1:]: values[v] for p, v in passed.items() if v in values}))
            else:
                _evaluate(line, values)
            if line.startswith("}") and open_regions:
                open_regions.pop()
            if re.search(r"\{( loc\(.*\))?$", line):
                open_regions.append("scf.for" in line)
        trips[_plain(name)] = loops
    return trips


def _regions(ttgir: str) -> dict[str, tuple[list[str], list[str]]]:
    """Each function's parameters and lines."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    lines: list[str] = []
    for text in ttgir.splitlines():
        line = text.strip()
        if header := re.match(r'tt\.func (?:public |private )?@(?:"([^"]+)"|([\w.]+))\((.*)', line):
            lines = []
            found[header[1] or header[2]] = (re.findall(r"(%\w+): ", header[3]), lines)
        elif found:
            lines.append(line)
    return found


def _evaluate(line: str, values: dict[str, int]) -> None:
    """Keep what an integer operation gives, if it is known."""
    if constant := re.match(r"(%\S+) = arith\.constant (-?\d+) : (?:i32|i64)", line):
        values[constant[1]] = int(constant[2])
    elif index := re.match(r"(%\S+) = tt\.get_program_id [xyz]", line):
        values[index[1]] = 0
    elif operation := re.match(r"(%\S+) = arith\.(\w+) (%\S+?)(?:, (%\S+))? ", line):
        first, second = values.get(operation[3]), values.get(operation[4] or operation[3])
        if first is None or second is None:
            return
        result = {
            "addi": first + second,
            "subi": first - second,
            "muli": first * second,
            "minsi": min(first, second),
            "maxsi": max(first, second),
            "extsi": first,
            "trunci": first,
            "divsi": int(first / second) if second else None,
            "remsi": first % second if second else None,
        }.get(operation[2])
        if result is not None:
            values[operation[1]] = result
