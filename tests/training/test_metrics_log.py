"""The metrics log: shares of the phases, and the same numbers for TensorBoard."""

import sys

import pytest
from support.runs import metrics, small_run

from fastflow.core.errors import InputError
from fastflow.training.timers import PHASES


def test_every_line_has_shares_of_one(tmp_path):
    small_run(tmp_path / "run")
    for line in metrics(tmp_path / "run"):
        shares = [line[f"share_{name}"] for name in PHASES]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) > 0


@pytest.mark.slow
def test_tensorboard_has_the_lines_of_the_file_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small_run(tmp_path / "run", steps=4, log_every=1, tensorboard=True)
    small_run(tmp_path / "run", log_every=1, tensorboard=True, resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in ("loss", "pde", "accuracy", "share_engine", "learning_rate"):
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(line["step"], pytest.approx(line[name])) for line in metrics(tmp_path / "run")]


def test_missing_tensorboard_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match=r"tensorboard can't be written, .*: pip install 'fastflow\[logging\]'"):
        small_run(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
