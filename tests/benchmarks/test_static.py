"""Kernels compiled without a GPU: what is read from them, and what makes the command fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.static import sass
from benchmarks.static import table as static_table

ROOT = Path(__file__).parents[2]


def static(*arguments):
    """The command in a process of its own: this one may interpret kernels, which then can't be compiled."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "benchmarks.static", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_kernels_are_compiled_for_both_architectures(tmp_path):
    done = static("--only", "reduce", "--json", tmp_path / "rows.json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {(row["kernel"], row["arch"]) for row in rows} == {
        (kernel, arch) for kernel in ("reduce_partials_kernel", "reduce_runs_kernel") for arch in ("sm_80", "sm_90")
    }
    for row in rows:
        assert 0 < row["registers"] <= 255
        assert row["instructions"] > 0
        assert row["spill_bytes"] == 0
        assert not row["tensor_core"]


@pytest.mark.slow
def test_a_kernel_as_in_the_committed_list(tmp_path):
    """One of those whose time is predicted."""
    done = static("--only", "jet_fwd_kernel 3x20", "--against", static_table.RESULTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "us predicted" in done.stdout


@pytest.mark.slow
def test_what_has_not_changed_is_taken_from_the_list(tmp_path):
    """With its faults. And what has changed is compiled."""
    rows = [row for row in json.loads(static_table.RESULTS.read_text()) if row["kernel"].startswith("reduce_")]
    changed = next(row for row in rows if row["kernel"] == "reduce_runs_kernel")
    changed["source"] = "of another day"
    same = next(row for row in rows if row["kernel"] != changed["kernel"])
    same.update(registers=7, spill_bytes=16)  # as no compiler would say
    (tmp_path / "list.json").write_text(json.dumps(rows))
    done = static("--only", "reduce", "--against", tmp_path / "list.json", "--changed")
    assert done.returncode == 1
    assert "1 of 2 Triton kernels are as they were; 4 rows, 1 faults" in done.stdout
    assert f"[unchanged] {same['kernel']}" in done.stdout
    assert "7 registers" in done.stdout
    assert "16 bytes of registers spill" in done.stdout
    assert f"[1/1] {changed['kernel']}" in done.stdout


FAULTS = {
    "none": ({}, True, []),
    "spills": ({"spill_bytes": 8}, True, ["8 bytes of registers spill"]),
    "memory": ({"shared_bytes": 200_000}, True, ["200000 bytes of shared memory, where 166912 may be had"]),
    "cores": ({"tensor_core": False}, True, ["matrix products in tf32 without tensor-core instructions"]),
    "no cores needed": ({"tensor_core": False}, False, []),
}


@pytest.fixture
def module():
    # Imported late, after the kernels' tests have said whether this process interprets.
    return pytest.importorskip("benchmarks.static.kernels", reason="triton is for Linux alone")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "nonesuch"], "no shipped configuration contains 'nonesuch'"),
        (["--changed"], "--changed needs --against"),
    ],
)
def test_what_cannot_be_compiled_is_refused(module, capsys, words, message):
    with pytest.raises(SystemExit) as exit_:
        module.main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("change", "uses_tensor_cores", "faults"), FAULTS.values(), ids=FAULTS)
def test_faults(module, change, uses_tensor_cores, faults):
    row = module.Row("kernel", "sm_80", "", 100, 0, 0, True, 10)
    assert list(row._replace(**change).faults(uses_tensor_cores)) == faults


def test_regressions(module):
    names = ("same", "slow", "long", "gone")
    before = [module.Row(name, "sm_90", "c", 100, 0, 0, True, 10, 50.0, "issue") for name in names]
    after = [before[0]._replace(predicted_us=54.0, instructions=11), before[1]._replace(predicted_us=56.0)]
    after.append(before[2]._replace(predicted_us=None, instructions=12))  # as on sm_80, where none is predicted
    after.append(before[0]._replace(kernel="new", predicted_us=None))
    assert list(module.regressions(after, before)) == [
        "slow c sm_90: 56.0 us predicted, 50.0 before",
        "long c sm_90: 12 instructions, 10 before",
        "new c sm_90: isn't in the earlier list",
        "gone c sm_90: is no longer compiled",
    ]


def test_the_committed_list_is_without_faults(module):
    rows = module.read(static_table.RESULTS)
    assert len({row.name for row in rows}) == len(rows)
    assert not [fault for row in rows for fault in row.faults(" tf32" in row.config)]
    assert {row.kernel for row in rows} >= {"jet_fwd_kernel", "residual_kernel", "flow_fwd_kernel"}
    assert all(row.instructions for row in rows)
    cuda = ("flow_fwd_kernel", "flow_bwd_kernel", "reduce_biases_kernel", "reduce_weights_kernel")
    assert all(bool(row.source) != (row.kernel in cuda) for row in rows)
    paths = [row for row in rows if row.kernel.startswith("flow_") and row.arch == "sm_90"]
    assert len(paths) == 8
    assert all(row.predicted_us for row in paths)


def test_a_list_without_the_cuda_kernels_is_not_written(module, monkeypatch, tmp_path, capsys):
    """Where neither the module nor nvcc is there; what can be compiled is held to the earlier list all the same."""
    rows = [row for row in module.read(static_table.RESULTS) if row.source]
    (tmp_path / "earlier.json").write_text(static_table.RESULTS.read_text())
    monkeypatch.setattr(module, "cuda_module", None)
    monkeypatch.setattr(module, "_compiled", lambda jobs, processes: iter([(rows[1:], False)]))
    assert module.main(["--json", str(tmp_path / "new.json"), "--against", str(tmp_path / "earlier.json")]) == 1
    said = capsys.readouterr().out
    assert "new.json isn't written: it would be without the CUDA kernels" in said
    assert f"{rows[0].name}: is no longer compiled" in said
    assert "2 faults" in said
    assert not (tmp_path / "new.json").exists()


def test_the_readme_has_the_committed_list():
    text = static_table.README.read_text(encoding="utf-8")
    assert static_table.with_table(text, json.loads(static_table.RESULTS.read_text())) == text


CUDA_SASS = """
		Function : _Z15flow_fwd_kernelIfLb1EE
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                    /* 0x00000a00ff017b82 */
                                                                             /* 0x000fe20000000a00 */
        /*0010*/                   LDS.128 R4, [R2] ;                        /* 0x0 */
        /*0020*/                   LDS R8, [R3] ;                            /* 0x0 */
PRODUCTS
        /*0200*/              @P0  BRA 0x10 ;                                /* 0x0 */
        /*0210*/                   MUFU.RCP R9, R8 ;                         /* 0x0 */
MORE
        /*0400*/              @!P1 BRA P2, 0x210 ;                           /* 0x0 */
        /*0410*/                   FFMA R9, R8, R7, R6 ;                     /* 0x0 */
        /*0420*/              @!P1 BRA 0x0 ;                                 /* 0x0 */
		Function : _Z20other
        /*0000*/                   EXIT ;                                    /* 0x0 */
"""


def test_products_of_cuda_code_are_its_innermost_loops_of_multiply_adds():
    def multiply_adds(first):
        return "\n".join(f"        /*{first + 16 * i:04x}*/   FFMA R9, R8, R7, R9 ;  /* 0x0 */" for i in range(16))

    code = CUDA_SASS.replace("PRODUCTS", multiply_adds(0x30)).replace("MORE", multiply_adds(0x220))
    functions = sass.cuda_functions(code)
    assert list(functions) == ["_Z15flow_fwd_kernelIfLb1EE", "_Z20other"]
    each = sass.busy_for_products(functions["_Z15flow_fwd_kernelIfLb1EE"])
    # 19 instructions shared by four partitions, and a load of four words and one of one, for 16 multiply-adds.
    assert each == sass.Busy(issue=19 / 4 / 16, memory=5 / 16)
    assert sass.busy_for_products(functions["_Z20other"]) == sass.Busy()


TTGIR = """
tt.func public @kernel(%z: !tt.ptr<f32>, %n: i32) {
  %c0_i32 = arith.constant 0 : i32 loc(#loc1)
  %c1_i32 = arith.constant 1 : i32 loc(#loc1)
  %c16_i32 = arith.constant 16 : i32 loc(#loc1)
  %c64_i32 = arith.constant 64 : i32 loc(#loc1)
  %0 = tt.get_program_id y : i32 loc(#loc1)
  %1 = arith.addi %0, %c64_i32 : i32 loc(#loc1)
  scf.for %tile = %c0_i32 to %n step %c1_i32  : i32 {
    scf.for %j = %c0_i32 to %n step %c1_i32  : i32 {
      tt.call @stage.a__f(%z, %1) : (!tt.ptr<f32>, i32) -> () loc(#loc1)
    } loc(#loc1)
  } loc(#loc1)
} loc(#loc1)
tt.func private @stage.a__f(%p: !tt.ptr<f32>, %width: i32) {
  %c0_i32 = arith.constant 0 : i32 loc(#loc1)
  %c16_i32 = arith.constant 16 : i32 loc(#loc1)
  scf.for %k = %c0_i32 to %width step %c16_i32  : i32 {
  } loc(#loc1)
} loc(#loc1)
"""
SASS = """
kernel:
.L_x_1:
.L_x_0:
        /*0010*/                   CALL.REL.NOINC `($kernel$stage_$_a__f) ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
        /*0030*/              @!P0 BRA `(.L_x_1) ;
$kernel$stage_$_a__f:
        /*0040*/                   LDS.128 R0, [R2] ;
.L_x_2:
        /*0050*/                   FFMA R0, R1, R2, R3 ;
        /*0060*/                   HMMA.1688.F32.TF32 R4, R8, R10, R4 ;
        /*0070*/                   MUFU.EX2 R5, R5 ;
        /*0080*/               @P0 BRA `(.L_x_2) ;
        /*0090*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div) ;
        /*00a0*/                   RET.REL.NODEC R2 `(kernel) ;
"""


def test_instructions_are_weighed_by_their_trips():
    """Three directions call a stage of four trips; eight warps, two for each partition."""
    busy = sass.busy(SASS, TTGIR, "kernel", {"n": 3}, warps=8)
    stage = 3 + 4 * 4  # instructions outside its loop, and inside
    assert busy.issue == 2 * (1 + 3 * (2 + stage))
    assert busy.tensor == 2 * 3 * 4 * 4.0
    assert busy.special == 2 * 3 * 4 * 8.0
    assert busy.memory == 8 * 3 * 4.0
    assert busy.bound == "special"
    assert busy.microseconds(132) == max(busy) / sass.CLOCK


def test_loops_that_differ_take_the_trips_of_their_depth():
    function = sass._functions("f:\n.L_x_0:\n/*00*/ FFMA R0 ;\n/*10*/ BRA `(.L_x_0) ;\n")["f"]
    assert [weight for _, weight in function.weighted([(1, 2), (1, 4)])] == [3.0, 3.0]
    assert [weight for _, weight in function.weighted([])] == [1.0, 1.0]
