"""The same contenders under pytest-benchmark: `pytest benchmarks`, with -k jet-B4096-D12 for one shape, say."""

import time
from functools import cache

import pytest
import torch

from benchmarks.cpu import gate
from benchmarks.cpu.registry import contenders
from benchmarks.problem import CASES, Case, Problem
from benchmarks.timing import keep_memory

PAIRS = [(case, contender) for case in CASES for contender in contenders(case)]


@cache
def expected(case: Case) -> gate.Outputs:
    return gate.oracle(Problem.of(case))


@pytest.mark.parametrize(("case", "contender"), PAIRS, ids=[f"{case.name}-{c.name}" for case, c in PAIRS])
@pytest.mark.benchmark(timer=time.process_time, min_rounds=3, warmup=True, warmup_iterations=1, disable_gc=True)
def test_cpu(case, contender, benchmark):
    torch.set_num_threads(1)
    keep_memory()
    problem = Problem.of(case)
    prepared, reason, _ = gate.judge(contender, problem, expected(case))
    assert prepared is not None, reason
    benchmark.group = case.name
    benchmark(prepared.call)
