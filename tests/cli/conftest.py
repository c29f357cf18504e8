"""Fixtures of the command line's tests."""

import pytest

from fastflow.metrics.evaluation import evaluate
from fastflow.runs import run as runs


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Run commands in an empty folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def quick_evaluation(monkeypatch):
    """Let reports evaluate few samples."""
    monkeypatch.setattr(runs, "evaluate", lambda run, samples, *rest: evaluate(run, 24, *rest))
