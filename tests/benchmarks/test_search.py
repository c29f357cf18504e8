"""What settings of the flows do: the comparison's means, and the residual of the worst potential of all seeds."""

import json
from itertools import permutations

import pytest
import torch
from support.runs import sigmoid_generator, small_config

import fastflow as ff
from benchmarks.studies import search
from fastflow.baselines import Random
from fastflow.metrics.held_out import held_out_starts


@pytest.mark.slow
def test_a_row_for_each_method_with_the_worst_residual_of_flows(tmp_path, capsys):
    options = {"methods": ["random"], "seeds": 2, "pairs": 60, "starts": 4, "progress": False}
    ff.compare(ff.generators.load("digits-vae"), tmp_path / "found", small_config(), attributes="strokes", **options)
    search.main([str(tmp_path / "found"), "--samples", "60"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "found, 2 seeds"
    rows = {cells[1].strip(" `"): cells[2:-1] for line in printed if len(cells := line.split("|")) > 3}
    assert list(rows) == ["", "---", "flows", "random"]
    assert rows["random"][0].strip() == rows["random"][1].strip() == ""
    runs = [ff.load_run(tmp_path / "found" / "runs" / "flows" / f"seed-{seed}") for seed in (0, 1)]
    each = [max(run.evaluate(60, progress=False)["residual"]["per_potential"]) for run in runs]
    assert float(rows["flows"][0]) == pytest.approx(max(each), abs=6e-4)
    straight = [search.straightness(run) for run in runs]
    assert float(rows["flows"][1]) == pytest.approx(sum(straight) / 2, abs=6e-4)
    record = json.loads((tmp_path / "found" / "results.json").read_text())["measures"]
    for place, name in enumerate(search.MEASURES):
        assert float(rows["random"][2 + place]) == pytest.approx(record[name]["methods"]["random"]["mean"], abs=6e-4)


def test_straight_directions_are_straight_and_paths_that_turn_with_their_start_are_not():
    generator = sigmoid_generator()
    assert search.straightness(Random(generator, 3, 0.2)) == pytest.approx(1)

    class Outwards(Random):
        def walk(self, z0, index, steps):
            return z0[:, None] * torch.arange(1, steps + 2)[:, None]

    turned = search.straightness(Outwards(generator, 2, 0.2), samples=40)
    ends = torch.nn.functional.normalize(held_out_starts(generator, 40, 1)[0].double(), dim=1)
    cosines = [float(a @ b) for a, b in permutations(ends, 2)]
    assert turned == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
