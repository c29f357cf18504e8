"""The command: it runs the parts, two or more at once, and prints what was tried and what failed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from torture.parts import PARTS, REFUSED, RIGHT
from torture.supervision import FAILED, Supervised


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite, or a part or a case of it; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m torture", description="Try hard to break fastflow, and count.")
    parser.add_argument("--minutes", type=float, default=5, help="how long to go on, about; 5 by default")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part to run; all by default")
    parser.add_argument("--case", type=int, help="the only case to try, by its number, of the part in --only")
    parser.add_argument("--seed", type=int, default=0, help="the seed of all cases")
    parser.add_argument("--out", type=Path, help="folder for counts and faults; a new temporary one by default")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="how many parts run at once")
    options = parser.parse_args(arguments)
    if options.case is not None and len(options.only or []) != 1:
        parser.error("--case takes one part, which --only names")
    out = Path(tempfile.mkdtemp(prefix="torture-")) if options.out is None else options.out.resolve()
    names = [name for name in PARTS if options.only is None or name in options.only]
    cases = None if options.case is None else range(options.case, options.case + 1)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        for old in (out / "faults").glob(f"{name}-*"):
            shutil.rmtree(old)
        (out / f"{name}.log").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="torture-", dir=_in_memory()) as scratch:
        settings = options.seed, out, Path(scratch), 60 * options.minutes, max(1, options.workers)
        done = run(names, *settings, cases)
    print(table(done))
    failed = sum(part.counts[FAILED] for part in done)
    if failed:
        print(f"\n{failed} failed; what and how: {out / 'faults'}")
    sys.exit(1 if failed else 0)


def _in_memory() -> str | None:
    """A folder in memory, where thousands of syncs take no time; None where there is none with enough room."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2 << 30
    return str(shared) if roomy else None


def run(
    names: Sequence[str],
    seed: int,
    out: Path,
    scratch: Path,
    seconds: float,
    workers: int,
    cases: range | None = None,
) -> list[Supervised]:
    """Run parts, so many at once, within this time together."""
    workers = min(workers, len(names))
    total = sum(PARTS[name].share for name in names)
    waiting, active, done = list(names), [], []
    try:
        while waiting or active:
            while waiting and len(active) < workers:
                name = waiting.pop(0)
                share = seconds * workers * PARTS[name].share / total
                active.append(Supervised(name, seed, out, scratch, share, cases))
            time.sleep(0.05)
            for part in list(active):
                if part.poll():
                    active.remove(part)
                    done.append(part)
                    print(f"{part.name}: {json.dumps(dict(part.counts))}", file=sys.stderr, flush=True)
    finally:
        for part in active:
            part.stop()
    return sorted(done, key=lambda part: list(PARTS).index(part.name))


def table(done: Sequence[Supervised]) -> str:
    """The counts as a table in Markdown."""
    rows = ["| part | what | tried | refused | right | failed |", "|---|---|---:|---:|---:|---:|"]
    for part in done:
        counts = part.counts
        numbers = (counts.total(), counts[REFUSED], counts[RIGHT], counts[FAILED])
        rows.append(f"| {part.name} | {PARTS[part.name].what} | {' | '.join(f'{number:,}' for number in numbers)} |")
    return "\n".join(rows)
