"""The timer of a training step's phases."""

import pytest
import torch

from fastflow.training.timers import PHASES, PhaseTimer


def test_shares_are_those_of_the_time_between_marks():
    now = iter([0.0, 1.0, 4.0, 6.0, 10.0, 11.0])
    phases = PhaseTimer(torch.device("cpu"), lambda: next(now))
    for name in ("engine", "generator", "engine", "optimizer", "other"):
        phases.mark(name)
    expected = {"engine": 0.3, "generator": 0.3, "classifier": 0.0, "optimizer": 0.4, "other": 0.0}
    assert phases.shares() == pytest.approx(expected)
    phases.mark("other")  # what follows goes on from the last mark
    assert phases.shares() == pytest.approx(dict.fromkeys(PHASES, 0.0) | {"other": 1.0})


def test_backward_belongs_to_the_phases_of_the_forward(monkeypatch):
    seen = []
    phases = PhaseTimer(torch.device("cpu"))
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
    phases = PhaseTimer(torch.device("cpu"))
    phases.enabled = False
    phases.mark("engine")
    phases.mark("other")
    assert phases.shares() == {}
