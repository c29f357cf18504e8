"""Kernels compiled without a GPU: what is read from them, and what makes the command fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def static(*arguments):
    """The command in a process of its own: this one may interpret kernels, which then can't be compiled."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "benchmarks.static", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_kernels_are_compiled_for_both_architectures(tmp_path):
    done = static("--only", "reduce", "--json", tmp_path / "rows.json", "--markdown", tmp_path / "rows.md")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {(row["kernel"], row["arch"]) for row in rows} == {
        (kernel, arch) for kernel in ("reduce_partials_kernel", "reduce_runs_kernel") for arch in ("sm_80", "sm_90")
    }
    for row in rows:
        assert 0 < row["registers"] <= 255
        assert row["instructions"] > 0
        assert row["spill_bytes"] == 0
        assert not row["tensor_core"]
    assert len((tmp_path / "rows.md").read_text().splitlines()) == 2 + len(rows)


def test_an_unknown_kernel_is_refused():
    done = static("--only", "nonesuch")
    assert done.returncode == 2
    assert "no shipped configuration contains 'nonesuch'" in done.stderr


FAULTS = {
    "none": ({}, True, []),
    "spills": ({"spill_bytes": 8}, True, ["8 bytes of registers spill"]),
    "memory": ({"shared_bytes": 200_000}, True, ["200000 bytes of shared memory, where 166912 may be had"]),
    "cores": ({"tensor_core": False}, True, ["matrix products in tf32 without tensor-core instructions"]),
    "no cores needed": ({"tensor_core": False}, False, []),
}


@pytest.mark.parametrize(("change", "uses_tensor_cores", "faults"), FAULTS.values(), ids=FAULTS)
def test_faults(change, uses_tensor_cores, faults):
    # Imported here, after the kernels' tests have said whether this process interprets.
    static_module = pytest.importorskip("benchmarks.static", reason="triton is for Linux alone")
    row = static_module.Row("kernel", "sm_80", "", 100, 0, 0, True, 10)
    assert list(row._replace(**change).faults(uses_tensor_cores)) == faults
