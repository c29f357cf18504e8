"""`make gpu` where there is none: its parts' runner, what it says without a device, its results as text and plot."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from benchmarks.cpu import flow_peers, gate, torch_peers
from benchmarks.gpu import profile as gpu_profile
from benchmarks.gpu import report as gpu_report
from benchmarks.gpu import suite as gpu
from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.parts import Outcome, Part, run
from benchmarks.problem import Case, Problem

ROOT = Path(__file__).parents[2]
WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('[{\"case\": 1}]'); "


def part(name, program, seconds=20.0):
    return Part(name, "something", [sys.executable, "-c", program, "{result}"], seconds)


@pytest.mark.slow
def test_a_part_that_ends_badly_loses_neither_its_rows_nor_the_others(tmp_path, capfd):
    parts = [
        part("good", WRITE + "print('said')"),
        part("fails", WRITE + "raise SystemExit('what was wrong')"),
        part("crashes", WRITE + "import os; os.kill(os.getpid(), 11)"),
        part("hangs", WRITE + "import time; time.sleep(60)", seconds=2.0),
        Part("isn't there", "something", ["/no/such/program"], 20.0),
        part("says nothing", "pass"),
    ]
    seen = []
    outcomes = run(parts, tmp_path, 100.0, after=lambda so_far: seen.append(len(so_far)))
    assert seen == [1, 2, 3, 4, 5, 6]  # each part's outcome is there before the next part begins
    outcomes = {outcome.name: outcome for outcome in outcomes}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "good": "ok", "fails": "failed", "crashes": "failed", "hangs": "timed out", "isn't there": "failed",
        "says nothing": "ok",
    }  # fmt: skip
    assert all(outcomes[name].result == [{"case": 1}] for name in ("good", "fails", "crashes", "hangs"))
    assert outcomes["fails"].message == "exit status 1: what was wrong"
    assert outcomes["crashes"].message.startswith("signal SIGSEGV")
    assert outcomes["hangs"].message == "stopped after its 2 s"
    assert "No such file" in outcomes["isn't there"].message
    assert outcomes["says nothing"].result is None
    said = capfd.readouterr().out
    assert "said" in said
    assert "[4/6, " in said
    assert (tmp_path / "logs" / "good.log").read_text() == "said\n"


@pytest.mark.slow
def test_the_children_of_a_part_that_hangs_are_stopped(tmp_path):
    file = tmp_path / "pid"
    child = f"import os, time, pathlib; pathlib.Path({str(file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    (outcome,) = run([part("hangs", program, seconds=2.0)], tmp_path, 100.0)
    assert outcome.status == "timed out"
    state = Path(f"/proc/{file.read_text()}/stat")
    end = time.monotonic() + 5
    # What was stopped may wait to be collected, as a zombie.
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_what_there_is_no_time_for_is_left_out(tmp_path):
    slow, late = run([part("slow", "import time; time.sleep(60)", 2.0), part("late", "pass", 5.0)], tmp_path, 4.0)
    assert slow.status == "timed out"
    assert (late.status, late.message) == ("left out", "no time was left")


@pytest.mark.slow
@pytest.mark.parametrize(("module", "target"), [("gpu", "make gpu"), ("gpu_profile", "make profile")])
def test_without_a_gpu_it_is_refused_in_a_line(module, target, tmp_path):
    command = [sys.executable, "-m", f"benchmarks.{module}", "--out", tmp_path / "out"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=hidden)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{target}: torch finds no CUDA device")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "found", "reason"),
    [
        ("torch", "2.10.1+cu128", "torch must be 2.11 or newer, got 2.10.1+cu128"),
        ("triton", "3.5.0", "triton must be 3.6 or newer, got 3.5.0"),
        ("pytest", "8.2.1", "pytest must be 8.3 or newer, got 8.2.1"),
        ("nanobind", None, f"{sys.executable} lacks nanobind; install"),
        ("cmake", None, f"{sys.executable} lacks cmake; install"),
    ],
)
def test_what_is_missing_or_too_old_is_named(monkeypatch, name, found, reason):
    versions = {"torch": "2.11.0", "triton": "3.6.0", "pytest": "8.3.0", name: found}
    monkeypatch.setattr(gpu, "_version", lambda asked: versions.get(asked, "1.0"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert gpu.missing().startswith(reason)


@pytest.mark.slow
def test_what_only_the_command_line_or_a_profile_needs_may_be_missing(monkeypatch):
    monkeypatch.setattr(gpu, "_version", lambda name: None if name in ("tyro", "nvtx") else "9.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.missing().startswith("torch finds no CUDA device")
    assert gpu.missing(also=("nvtx",)).startswith(f"{sys.executable} lacks nvtx; install")
    program = """
import sys
sys.modules |= dict.fromkeys(("tyro", "nvtx"))  # which makes their import an error
import pytest
from benchmarks.gpu import part as gpu_part
from benchmarks.gpu import tests as gpu_tests
files = [f"tests/{file}" for file in gpu_tests.with_gpu_tests()]
raise SystemExit(pytest.main(["-q", "--collect-only", "-m", "gpu", "-p", "no:cacheprovider", *files]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_a_card_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(gpu, "_version", lambda name: "9.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old")
    assert gpu.missing() == "the kernels need compute capability 8.0, Old has 7.5"


def test_a_machine_without_profilers_is_told_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "missing", lambda also: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert gpu_profile.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("make profile: neither nsys (Nsight Systems) nor ncu (Nsight Compute)")


def test_every_profiler_watches_every_workload(tmp_path):
    parts = gpu_profile.parts(tmp_path, ["nsys", "ncu"])
    assert len({p.name for p in parts}) == len(parts) == 2 * (2 * 2 + 1)  # a path has one precision
    (section,) = gpu_profile.SECTIONS.glob("*.section")
    text = section.read_text()
    assert 'Identifier: "Fastflow"' in text
    assert text.count("{") == text.count("}")
    assert all("Fastflow" in p.command for p in parts if p.name.startswith("ncu"))


def test_parts_fit_into_eight_minutes_and_name_what_is_there(tmp_path):
    parts = gpu.parts(tmp_path, (9, 0))
    assert (parts[0].name, parts[-1].name) == ("build", "tests")
    assert gpu.TOTAL < 480
    assert "--no-build-isolation" in parts[0].command
    assert "--no-deps" in parts[0].command
    assert [p.command[3] for p in parts[1:-1]] == list(gpu.BENCHMARKS)
    assert parts[-1].command[2] == "benchmarks.gpu.tests"


def test_every_file_with_a_test_for_a_gpu_is_found():
    found = set(gpu_tests.with_gpu_tests())
    assert {"cuda/test_device.py", "datasets/test_loading.py", "kernels/test_kernels.py"} <= found
    assert "cli/test_main.py" not in found


@pytest.mark.slow
def test_tests_are_shared_among_processes(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # where none can run, all are skipped, and counted
    result = tmp_path / "result.json"
    assert gpu_tests.main(tmp_path, result, processes=2, files=["training/test_on_gpu.py"]) == 0
    said = capfd.readouterr().out
    assert "2 skipped, 1 deselected" in said
    assert "1 skipped, 2 deselected" in said
    assert json.loads(result.read_text()) == {"passed": 0, "failed": 0, "skipped": 3}
    assert gpu_tests.main(tmp_path, result, processes=1, files=["nowhere"]) == 1


def test_what_takes_too_long_is_asked_to_end_and_then_ended(monkeypatch):
    monkeypatch.setattr(gpu_tests, "GRACE", 20.0)
    for ending, code in (("print('reported')", 0), ("time.sleep(60)", -9)):
        program = (
            # What was started in the background inherits that SIGINT is ignored.
            "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"try:\n print('begun', flush=True)\n time.sleep(60)\nexcept BaseException:\n {ending}"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"begun\n"
            assert gpu_tests._ended(process, time.monotonic()) is None
            assert process.returncode == code
            assert process.stdout.read() == (b"reported\n" if code == 0 else b"")
        monkeypatch.setattr(gpu_tests, "GRACE", 0.1)
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        assert gpu_tests._ended(process, float("inf")) == 3


def test_reports_are_counted(tmp_path):
    cases = "<testcase/><testcase><failure/></testcase><testcase><error/></testcase><testcase><skipped/></testcase>"
    (tmp_path / "one.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    (tmp_path / "two.xml").write_text("<testsuites><testsuite><testcase/></testsuite></testsuites>")
    counts = gpu_tests._counts([tmp_path / f"{name}.xml" for name in ("one", "two", "of a killed process")])
    assert counts == {"passed": 2, "failed": 2, "skipped": 1}


def test_benchmarks_check_before_they_time(monkeypatch):
    """On the CPU, and with a clock that is always the same."""
    gpu_part = pytest.importorskip("benchmarks.gpu.part", reason="triton is for Linux alone")
    monkeypatch.setattr(gpu_part, "on_device", lambda problem: problem)
    monkeypatch.setattr(gpu_part, "_median", lambda call: {"ms_p20": 1.0, "ms_p50": 2.0, "ms_p80": 3.0})
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    prepare = gpu_part.TRAINING["fastflow"]

    def wrong(problem):
        prepared = prepare(problem)
        return prepared._replace(outputs=lambda out: {k: 1.1 * x for k, x in prepared.outputs(out).items()})

    def broken(problem):
        raise RuntimeError("no such thing\nat all")

    contenders = {"fastflow": prepare, "wrong": wrong, "broken": broken, "nested": gpu_part.TRAINING["nested autograd"]}
    case = Case.parse("training-B24-D5-H7-L2-K4")
    good, wrong_row, broken_row, nested = gpu_part.timed(case, contenders)
    assert good["ms_p50"] == nested["ms_p50"] == 2.0
    assert good["tflops"] == case.flops / 2.0 * 1e-9
    assert " is off by " in wrong_row["reason"]
    assert broken_row["reason"] == "RuntimeError: no such thing"
    for name in ("nonesuch", "walk-B1-D1-H1-L1-K1"):
        with pytest.raises(ValueError, match=f"'{name}' names no case"):
            Case.parse(name)
    for name in gpu.BENCHMARKS:
        assert name in ("ceilings", "flow", "precisions") or Case.parse(name).name == name


class OneDevice(TorchFunctionMode):
    """Raises where an operation takes tensors of several devices: a GPU's may not index a tensor of the host's."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.ndim]
        assert len({x.device for x in given}) <= 1, f"{func} takes tensors of several devices"
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("potentials", [1, 2])
@pytest.mark.parametrize("operator", ["jet", "training", "flow"])
def test_oracle_and_peers_compute_where_the_problem_is(operator, potentials):
    """On a device without values, as none with some is here."""
    problem = Problem.of(Case(operator, 6, 3, 4, 2, potentials, steps=2 if operator == "flow" else 1))
    z, index, path_bar = (x.to("meta") for x in (problem.z, problem.index, problem.path_bar))
    problem = problem._replace(bank=problem.bank.to("meta"), z=z, index=index, path_bar=path_bar)
    peers = {
        "jet": [torch_peers.nested_jet],
        "training": [torch_peers.nested_training],
        "flow": [flow_peers.batched_flow, *([flow_peers.loop_flow] if potentials > 1 else [])],
    }[operator]
    with OneDevice():
        expected = gate.oracle(problem)
        for prepare in peers:
            assert gate.answers(prepare(problem)).keys() == expected.keys()
    assert all(x.is_meta for x in expected.values())


def row(case, contender, ms=None, precision="ieee", **more):
    timing = {} if ms is None else {"ms_p20": ms, "ms_p50": ms, "ms_p80": ms, "tflops": 30.0, "peak_mib": 1.0}
    width = Case.parse(case).width
    return {
        "case": case,
        "width": width,
        "contender": contender,
        "precision": precision,
        "worst_error": 1e-6,
        **timing,
        **more,
    }


RESULTS = {
    "device": {
        "name": "Some GPU", "capability": [9, 0], "multiprocessors": 132, "memory_gib": 79.6, "driver": "1",
        "torch": "2", "cuda": "13.0", "triton": "3.7.1", "python": "3.12", "nvcc": True,
    },
    "parts": [
        {"name": "build", "status": "ok", "seconds": 80.0, "message": "", "result": None},
        {
            "name": "tests", "status": "failed", "seconds": 9.0, "message": "exit status 1: a | b",
            "result": {"passed": 7, "failed": 1, "skipped": 2},
        },
        {
            "name": "ceilings", "status": "ok", "seconds": 9.0, "message": "",
            "result": [{"ceiling": "copy", "gb_per_s": 3000.0}, {"ceiling": "fp32", "tflops": 50.0}],
        },
        {
            "name": "training", "status": "timed out", "seconds": 9.0, "message": "stopped after its 9 s",
            "result": [
                row("training-B65536-D12-H64-L2-K1", "fastflow", 2.0),
                row("training-B65536-D12-H64-L2-K1", "torch.compile", 9.0),
                row("training-B65536-D12-H64-L2-K1", "nested autograd", reason="OutOfMemoryError: no memory"),
                row("training-B4096-D64-H256-L2-K1", "fastflow", 2.0, "tf32"),
                row("flow-B128-D128-H64-L2-K1", "fastflow", 0.1, kernels=4, integrator_launches=1),
            ],
        },
    ],
}  # fmt: skip


def test_results_as_markdown():
    text = gpu_report.markdown(RESULTS)
    assert "| tests | failed | 9 | exit status 1: a \\| b |" in text
    assert "\nTests: 7 passed, 1 failed, 2 skipped.\n" in text
    assert "| copy | 3000 GB/s |" in text
    assert "| torch.compile | ieee | 9.000 | 4.5 (3) | 30.0 | 0.60 |" in text
    assert "OutOfMemoryError: no memory" in text
    assert "| tf32 | 2.000 | 1.0 | 30.0 |  (0.5) |" in text
    assert "4 kernels, 1 of them the integrator's" in text


@pytest.mark.slow
def test_results_are_drawn_and_written(tmp_path):
    assert gpu_report.draw(RESULTS, tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert not gpu_report.draw({**RESULTS, "parts": []}, tmp_path / "none.png")
    gpu.write(RESULTS["device"], [], tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["parts"] == []
    assert (tmp_path / "results.md").read_text().startswith("# Some GPU")
    outcomes = [Outcome(**part) for part in RESULTS["parts"]]
    gpu.draw(RESULTS["device"], outcomes, tmp_path)
    assert "results.png" in (tmp_path / "results.md").read_text()


def test_a_plot_that_fails_loses_nothing(tmp_path, monkeypatch, capsys):
    gpu.write(RESULTS["device"], [], tmp_path)
    monkeypatch.setattr(gpu_report, "draw", lambda results, file: 1 / 0)
    gpu.draw(RESULTS["device"], [], tmp_path)
    assert capsys.readouterr().out == "there is no plot: ZeroDivisionError: division by zero\n"
    assert (tmp_path / "results.md").read_text().startswith("# Some GPU")
