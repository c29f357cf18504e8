"""What the metrics cost: a line for each, with its score."""

from functools import partial

import numpy as np
import pytest

import fastflow as ff
from benchmarks.studies import metrics
from fastflow.metrics import predictability


@pytest.mark.slow
def test_a_line_for_each_metric(monkeypatch, capsys):
    monkeypatch.setattr(predictability, "SMALL", predictability.SMALL._replace(epochs=1))
    monkeypatch.setattr(ff.metrics, "vp_score_fast", partial(ff.metrics.vp_score_fast, samples=200))
    monkeypatch.setattr(ff.metrics, "factor_regressor", partial(ff.metrics.factor_regressor, samples=150, epochs=1))
    metrics.main(["--samples", "300", "--dim", "6"])
    lines = capsys.readouterr().out.splitlines()
    table = [line.split(" | ") for line in lines if line.startswith("| ")][1:]
    assert len(table) == 14
    assert [line[0] for line in table[:3]] == ["| mig", "| modularity", "| sap"]
    codes, factors = metrics.mixtures(300, 6)
    assert table[0][1] == f"{ff.metrics.mig(codes, factors).score:.4f}"
    assert lines[-1].startswith("shape ")


def test_codes_are_mixtures_of_factors():
    codes, factors = metrics.mixtures(4000, 7)
    weights, residuals, *_ = np.linalg.lstsq(factors / factors.std(0), codes, rcond=None)
    assert weights.shape == (5, 7)
    np.testing.assert_allclose(np.sqrt(residuals / 4000), 0.3, rtol=0.1)
