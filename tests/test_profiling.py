"""Ranges reach NVTX where they are asked for, and nothing at all otherwise."""

import contextlib

import nvtx

from fastflow import profiling


def test_off_by_default(monkeypatch):
    monkeypatch.setattr(nvtx, "annotate", lambda *_, **__: 1 / 0)
    assert not profiling.ENABLED
    with profiling.profiled("jet"):
        pass


def test_names_reach_nvtx(monkeypatch):
    seen = []

    def annotate(name, domain):
        seen.append((name, domain))
        return contextlib.nullcontext()

    monkeypatch.setattr(profiling, "ENABLED", True)
    monkeypatch.setattr(nvtx, "annotate", annotate)
    with profiling.profiled("train.classifier"):
        pass
    assert seen == [("fastflow.train.classifier", "fastflow")]
