"""What settings of the flows do: the comparison's means, and the residual of the worst potential of all seeds."""

import json

import pytest
from support.runs import small_config

import fastflow as ff
from benchmarks import search


def test_a_row_for_each_method_with_the_worst_residual_of_flows(tmp_path, capsys):
    options = {"methods": ["random"], "seeds": 2, "pairs": 60, "starts": 4, "progress": False}
    ff.compare(ff.generators.load("digits-vae"), tmp_path / "found", small_config(), attributes="strokes", **options)
    search.main([str(tmp_path / "found"), "--samples", "60"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "found, 2 seeds"
    rows = {cells[1].strip(" `"): cells[2:-1] for line in printed if len(cells := line.split("|")) > 3}
    assert list(rows) == ["", "---", "flows", "random"]
    assert rows["random"][0].strip() == ""
    runs = [ff.load_run(tmp_path / "found" / "runs" / "flows" / f"seed-{seed}") for seed in (0, 1)]
    each = [max(run.evaluate(60, progress=False)["residual"]["per_potential"]) for run in runs]
    assert float(rows["flows"][0]) == pytest.approx(max(each), abs=6e-4)
    record = json.loads((tmp_path / "found" / "results.json").read_text())["measures"]
    for place, name in enumerate(search.MEASURES):
        assert float(rows["random"][1 + place]) == pytest.approx(record[name]["methods"]["random"]["mean"], abs=6e-4)
