"""Traversals as files: what a potential whose flow can't be undone gets in place of a path both ways."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.runs import small_run

from fastflow.core.errors import ConvergenceError, InputError
from fastflow.report import write_report, write_traversals
from fastflow.report.landscapes import landscape
from fastflow.runs.loading import load_run


@pytest.fixture
def run(digits_folder):
    """A run whose potential 1 bends too sharply to be run backwards."""
    run = load_run(digits_folder)
    with torch.no_grad():
        run.bank.weights[0][1] *= 20
    return run


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


@pytest.mark.slow
def test_potential_that_can_not_be_undone_is_drawn_forward(run):
    folder = run.folder / "traversals"
    write_traversals(run, folder, starts=2)
    index = index_of(folder)
    drawn = [(entry["direction"], entry["start_column"]) for entry in index["potentials"]]
    assert drawn == [("both", 1), ("forward", 0), ("both", 1)]
    assert (index["direction"], index["start_column"]) == ("both", 1)
    expected = run.traverse(run.generator.starts(2), 1, direction="forward")
    assert torch.equal(load_file(folder / "latents.safetensors")["potential-01"], expected.latents)
    assert write_report(run.folder).read_text(encoding="utf-8").count("shows the way forward only") == 1


def test_steps_are_even_where_they_usually_are_and_where_it_is_asked_for(digits_folder):
    run, folder = load_run(digits_folder), digits_folder / "traversals"
    run.config = replace(run.config, dt=3.0)
    z0 = run.generator.starts(2)
    for even in (None, True, False):
        write_traversals(run, folder, starts=2, steps=6, even=even, overwrite=True)
        expected = run.traverse(z0, 1, 6, "both", even=even is not False)
        assert torch.equal(load_file(folder / "latents.safetensors")["potential-01"], expected.latents)
        assert [entry["even"] for entry in index_of(folder)["potentials"]] == 3 * [even is not False]
        # A landscape is measured at the flow's own times, on its own points.
        raw = run.traverse(z0[:1], 1, 6, "both", even=False).latents[0]
        drawn = json.loads((folder / "landscapes.json").read_text())["potentials"][1]
        assert drawn == landscape(run, raw, 1)
        page = write_report(run.folder).read_text(encoding="utf-8")
        assert page.count("Each step makes the same visible change.") == (even is not False)


def test_reverse_flow_that_was_asked_for_stays_an_error(run):
    with pytest.raises(ConvergenceError, match="the reverse flow didn't converge"):
        write_traversals(run, run.folder / "traversals", starts=2, direction="reverse")
    assert not (run.folder / "traversals").exists()


@pytest.mark.slow
def test_paths_of_one_step_are_drawn_forward(tmp_path):
    run = small_run(tmp_path / "run", path_steps=1, steps=1)
    write_traversals(run, run.folder / "traversals", starts=2)
    index = index_of(run.folder / "traversals")
    assert (index["direction"], index["start_column"], index["steps"]) == ("forward", 0, 1)
    assert "shows the way forward only" not in write_report(run.folder).read_text(encoding="utf-8")
    with pytest.raises(InputError, match="steps must be at least 2 to go both ways, got 1"):
        write_traversals(run, run.folder / "traversals", starts=2, direction="both", overwrite=True)
