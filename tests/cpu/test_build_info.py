"""The native module: how it was built, which instruction set it picks, and the peak that it measures."""

import ast
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import fastflow
from fastflow import _native

SUPPORTED = _native.supported_instruction_sets()


def run_with_isa(isa: str, code: str) -> subprocess.CompletedProcess[str]:
    """Prints code's value in a fresh interpreter, since a process decides on its instruction set once."""
    program = f"import _native as native; print({code})"  # not through fastflow, which would import torch: seconds
    environment = {**os.environ, "FASTFLOW_ISA": isa, "PYTHONPATH": str(Path(_native.__file__).parent)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_build_info():
    info = _native.build_info()
    assert set(info) == {"version", "compiler", "build_type", "instruction_sets", "nanobind"}
    assert info["version"] == version("fastflow") == fastflow.__version__
    assert info["build_type"].startswith("Release")


def test_every_instruction_set_is_compiled_in():
    families = {"x86_64": ["avx512", "avx2", "baseline"], "aarch64": ["neon"], "arm64": ["neon"]}
    expected = families.get(platform.machine(), ["baseline"])
    assert _native.build_info()["instruction_sets"] == expected
    assert SUPPORTED[-1] == expected[-1]


def test_supported_instruction_sets_are_compiled_in():
    compiled = _native.build_info()["instruction_sets"]
    assert [isa for isa in compiled if isa in SUPPORTED] == SUPPORTED


def test_the_best_instruction_set_is_the_default():
    result = run_with_isa("", "native.instruction_set()")  # empty counts as unset
    assert result.stdout.strip() == SUPPORTED[0], result.stderr


@pytest.mark.parametrize("isa", SUPPORTED)
def test_environment_variable_forces_an_instruction_set(isa):
    result = run_with_isa(isa, "native.instruction_set(), native.fma_peak(seconds=0.02) > 1e9")
    assert result.stdout.strip() == f"{isa} True", result.stderr


@pytest.mark.parametrize("isa", ["sse9", "AVX2", " ", "avx2,baseline"])
@pytest.mark.parametrize("code", ["native.instruction_set()", "native.fma_peak()"])
def test_unknown_instruction_set_is_refused(isa, code):
    result = run_with_isa(isa, code)
    assert result.returncode == 1
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith(f"ValueError: FASTFLOW_ISA is '{isa}'")
    assert all(name in last_line for name in SUPPORTED)


def test_instruction_set_that_the_processor_lacks_is_refused():
    for isa in set(_native.build_info()["instruction_sets"]) - set(SUPPORTED):
        result = run_with_isa(isa, "native.instruction_set()")
        assert result.returncode == 1
        assert f"FASTFLOW_ISA is '{isa}', which this processor lacks" in result.stderr


def test_import_does_not_fail_on_a_bad_instruction_set():
    assert run_with_isa("sse9", "native.build_info()['version']").returncode == 0


def test_fma_peak():
    single, double = _native.fma_peak("float32", 0.1), _native.fma_peak("float64", 0.1)
    assert 1e9 < double < single
    assert single == pytest.approx(2 * double, rel=0.5)  # twice the lanes; half a factor for a machine that is shared


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_fma_peak_refuses_a_duration_that_is_not_positive(seconds):
    with pytest.raises(ValueError, match="seconds must be a positive number"):
        _native.fma_peak(seconds=seconds)


def test_fma_peak_refuses_an_unknown_dtype():
    with pytest.raises(ValueError, match="dtype must be 'float32' or 'float64', got 'float16'"):
        _native.fma_peak("float16")  # pyright: ignore[reportArgumentType]


def test_stub_names_what_the_module_has():
    stub = Path(__file__).parents[2] / "fastflow" / "_native.pyi"
    functions = {node.name for node in ast.parse(stub.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert functions == {name for name in dir(_native) if not name.startswith("_")}
