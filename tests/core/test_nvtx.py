"""Ranges reach NVTX where they are asked for, and nothing at all otherwise."""

import contextlib

import nvtx
import torch

import fastflow as ff
from fastflow.core import nvtx as profiling


def test_off_by_default(monkeypatch):
    monkeypatch.setattr(nvtx, "annotate", lambda *_, **__: 1 / 0)
    assert not profiling.ENABLED
    with profiling.profiled("jet"):
        pass


def test_operators_are_named(monkeypatch):
    seen = []

    def annotate(name, domain):
        seen.append((name, domain))
        return contextlib.nullcontext()

    monkeypatch.setattr(profiling, "ENABLED", True)
    monkeypatch.setattr(nvtx, "annotate", annotate)
    bank = ff.PotentialBank(1, 3, (4,))
    bank.jet(torch.zeros(2, 3), 0.0, 0).u.sum().backward()
    assert seen == [("fastflow.jet", "fastflow"), ("fastflow.jet_backward", "fastflow")]
