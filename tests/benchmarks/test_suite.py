"""The suite itself, at tiny shapes: its gate, its clock and its files."""

import csv
import json

import pytest
import torch

from benchmarks.cpu import gate, scaling
from benchmarks.cpu import suite as cpu
from benchmarks.cpu.registry import OURS, Contender, contenders
from benchmarks.problem import Case, Problem
from benchmarks.timing import measure, peak_memory

CASES = (
    Case("jet", 24, 5, 7, 2),
    Case("jet", 24, 9, 6, 1, 4),
    Case("training", 24, 9, 7, 3),
    Case("training", 24, 5, 7, 2, 4),
    Case("flow", 24, 9, 7, 2, 4, steps=3),
    Case("flow_backward", 24, 9, 7, 2, 4, steps=3),
    Case("rollout", 24, 9, 7, 2, 4, steps=3),
)
COMPILES = "torch.compile"  # takes a compiler and many seconds


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_contender_passes_the_gate(case):
    problem = Problem.of(case)
    expected = gate.oracle(problem)
    for contender in contenders(case):
        if contender.name != COMPILES:
            prepared, reason, _ = gate.judge(contender, problem, expected)
            assert prepared is not None, f"{contender.name}: {reason}"


@pytest.mark.parametrize("case", CASES[:4], ids=lambda case: case.name)
def test_the_formula_that_is_compiled_passes_uncompiled(case, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    problem = Problem.of(case)
    contender = next(c for c in contenders(case) if c.name == COMPILES)
    assert gate.judge(contender, problem, gate.oracle(problem))[0] is not None


def test_the_oracle_is_the_same_in_parts(monkeypatch):
    for case in CASES[2:]:
        problem = Problem.of(case)
        whole = gate.oracle(problem)
        monkeypatch.setattr(gate, "_samples_at_a_time", lambda case: 4)
        parts = gate.oracle(problem)
        monkeypatch.undo()
        for name in whole:
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-12, atol=1e-12)


def test_the_gate_stops_wrong_answers_and_errors():
    problem = Problem.of(CASES[0])
    expected = gate.oracle(problem)
    right = contenders(CASES[0])[0].prepare

    def wrong(problem):
        prepared = right(problem)
        return prepared._replace(outputs=lambda out: {**prepared.outputs(out), "laplacian": out.laplacian * 1.001})

    def broken(problem):
        raise RuntimeError("no such thing")

    _, reason, _ = gate.judge(Contender("wrong", wrong), problem, expected)
    assert reason.startswith("laplacian is off by 1.0e-03")
    _, reason, _ = gate.judge(Contender("broken", broken), problem, expected)
    assert reason == "RuntimeError: no such thing"
    nan = dict.fromkeys(expected, torch.full((1,), torch.nan))
    assert all(error == float("inf") for error in gate.errors(nan, expected).values())


def test_engine_errors_are_within_their_precision():
    problem = Problem.of(CASES[3])
    found = gate.engine_errors(problem, gate.oracle(problem))
    assert max(found["float32"].values()) < 5e-6
    assert max(found["float64"].values()) < 1e-12


def test_errors_that_seem_large_are_averaged_over_seeds(monkeypatch):
    problem = Problem.of(CASES[0])
    one = {"float32": {"u": 3e-7}, "float32 torch": {"u": 1e-7}, "float64": {"u": 1e-16}}
    rest = {"float32": {"u": 1e-7}, "float32 torch": {"u": 2e-7}, "float64": {"u": 1e-16}}
    asked = []

    def errors(problem, expected):
        asked.append(problem)
        return one if len(asked) == 1 else rest

    monkeypatch.setattr(gate, "engine_errors", errors)
    found, seeds = gate.settled_errors(problem, {"u": problem.z})
    assert seeds == len(asked) == 8
    assert not any(torch.equal(problem.z, other.z) for other in asked[1:])
    assert found["float32"]["u"] == pytest.approx(((9 + 7) / 8) ** 0.5 * 1e-7)
    assert found["float32 torch"]["u"] == pytest.approx(((1 + 28) / 8) ** 0.5 * 1e-7)
    one["float32"]["u"] = 2e-7
    asked.clear()
    assert gate.settled_errors(problem, {"u": problem.z}) == (one, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [Case("training", 256, 12, 16, 2), Case("training", 64, 64, 16, 2)], ids=lambda c: c.name
)
def test_single_precision_is_as_exact_as_in_plain_torch(case):
    """Over seeds, twice plain float32's error at most: of the loss and of every gradient."""
    found = [gate.engine_errors(problem, gate.oracle(problem)) for problem in map(Problem.of, [case] * 12, range(12))]
    for output in found[0]["float32"]:
        squares = {kind: sum(one[kind][output] ** 2 for one in found) for kind in ("float32", "float32 torch")}
        assert squares["float32"] < gate.ALLOWED**2 * squares["float32 torch"], output


@pytest.mark.slow
def test_contenders_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = measure(calls, budget=0, turn=0, min_rounds=2)
    assert "".join(order) == "ab" + "abba"
    assert [len(timings[name].cpu) for name in "ab"] == [2, 2]


@pytest.mark.slow
def test_peak_memory_sees_what_a_call_takes():
    peak = peak_memory(lambda: torch.ones(2**24).sum())
    if peak is None:
        pytest.skip("the system doesn't tell the peak of resident memory")
    assert 60 * 2**20 < peak < 100 * 2**20


@pytest.mark.slow
def test_the_driver_writes_its_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "SHAPES", ((24, 5, 7, 2),))
    plan = cpu.QUICK._replace(
        cases=CASES[4:6],
        case_seconds=0,
        roofline_dims=(5,),
        roofline_widths=(8, 16),
        point_seconds=0,
        scaling_seconds=0,
    )
    results = cpu.run(plan, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        *("cpu.csv", "cpu.json", "cpu.md", "errors.csv", "roofline.png"),
    }
    rows = list(csv.DictReader((tmp_path / "cpu.csv").read_text().splitlines()))
    assert {(row["operator"], row["contender"]) for row in rows} >= {("flow", OURS), ("flow_backward", "loop, bmm")}
    assert all(float(row["cpu_ms"]) > 0 and 0 < float(row["fraction"]) < 1 for row in rows)
    assert json.loads((tmp_path / "cpu.json").read_text()) == json.loads(json.dumps(results))
    assert (tmp_path / "cpu.md").read_text() in capsys.readouterr().out
    assert len(results["roofline"]) == 4


def test_the_driver_says_which_cases_there_are(capsys):
    with pytest.raises(SystemExit):
        cpu.main(["--only", "no such case"])
    assert "jet-B4096-D12-H64-L2-K1" in capsys.readouterr().err
