"""docs/metrics.md: its examples run as they stand, but for numbers of samples, and its table names every metric."""

import re
from pathlib import Path

import pytest
from support.moving import small_config
from support.runs import small_run

import fastflow as ff
from fastflow.metrics import predictability

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_run(tmp_path / "runs/digits", ff.generators.load("digits-vae"), num_potentials=2)
    config = small_config(data="dsprites", transformations=("position-x", "scale"))
    ff.train_vae(config, out=tmp_path / "runs/dsprites", progress=False)
    monkeypatch.setattr(predictability, "SMALL", predictability.SMALL._replace(epochs=1))
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        shorter = block.replace("10_000", "400").replace('"position-y"])', '"position-y"], samples=200, epochs=1)')
        exec(compile(shorter, "docs/metrics.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert names["codes"].shape == (400, 2)
    assert names["regressor"].names[:2] == ["shape 0", "shape 1"]


def test_the_table_names_every_metric():
    table = "".join(line for line in TEXT.splitlines() if line.startswith("|"))
    helpers = {"straight_directions", "flow_codes", "factor_regressor"}
    attributes = {"stroke_attributes", "appearance", "appearance_names"}
    metrics = {name for name in ff.metrics.__all__ if name.islower()}
    assert {name for name in metrics - helpers - attributes if f"`{name}`" not in table} == set()
    assert all(name in ff.metrics.__all__ for name in re.findall(r"ff\.metrics\.(\w+)", TEXT))
