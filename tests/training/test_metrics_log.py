"""What training logs: where the time goes, and the same numbers for TensorBoard."""

import sys

import pytest
import torch
from support.runs import metrics, small_run

from fastflow.core.errors import InputError
from fastflow.training.timers import PHASES, Phases


def test_shares_are_those_of_the_time_between_marks():
    now = iter([0.0, 1.0, 4.0, 6.0, 10.0, 11.0])
    phases = Phases(torch.device("cpu"), lambda: next(now))
    for name in ("engine", "generator", "engine", "optimizer", "other"):
        phases.mark(name)
    expected = {"engine": 0.3, "generator": 0.3, "classifier": 0.0, "optimizer": 0.4, "other": 0.0}
    assert phases.shares() == pytest.approx(expected)
    phases.mark("other")  # what follows goes on from the last mark
    assert phases.shares() == pytest.approx(dict.fromkeys(PHASES, 0.0) | {"other": 1.0})


def test_backward_belongs_to_the_phases_of_the_forward(monkeypatch):
    seen = []
    phases = Phases(torch.device("cpu"))
    monkeypatch.setattr(phases, "mark", seen.append)

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, name):
            ctx.name = name
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            seen.append(f"({ctx.name})")
            return 2 * g, None

    x = torch.ones(3, requires_grad=True)
    path = Noted.apply(x, "path")
    phases.mark_backward(path, "engine")
    image = Noted.apply(path, "image")
    next_image = Noted.apply(path, "next image")
    phases.mark_backward(next_image, "generator")
    Noted.apply(image + next_image, "logits").sum().backward()
    assert seen == ["(logits)", "generator", "(next image)", "(image)", "engine", "(path)"]


def test_marks_can_be_switched_off():
    phases = Phases(torch.device("cpu"))
    phases.enabled = False
    phases.mark("engine")
    phases.mark("other")
    assert phases.shares() == {}


def test_every_line_has_shares_of_one(tmp_path):
    small_run(tmp_path / "run")
    for line in metrics(tmp_path / "run"):
        shares = [line[f"share_{name}"] for name in PHASES]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) > 0


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
