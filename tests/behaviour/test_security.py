"""What SECURITY.md says runs code, and what it says doesn't."""

import json

import pytest

import fastflow as ff
from fastflow.cli import main

FILE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
import fastflow as ff
def make():
    return ff.generators.load("digits-vae")
"""


@pytest.fixture
def strange(digits_folder):
    """A run whose config.json names a function in a file beside it, which leaves a mark when it is run."""
    file = digits_folder / "generator.py"
    file.write_text(FILE)
    config = json.loads((digits_folder / "config.json").read_text())
    config["generator"]["name"] = f"{file}:make"
    (digits_folder / "config.json").write_text(json.dumps(config))
    return digits_folder


def test_opening_a_run_runs_the_generator_that_it_names(strange):
    ff.load_run(strange)
    assert (strange / "ran").exists()


@pytest.mark.slow
def test_opening_a_run_with_a_generator_of_ones_own_runs_nothing_of_it(strange, capsys):
    ff.load_run(strange, ff.generators.load("digits-vae"))
    main(["evaluate", str(strange), "--generator", "digits-vae", "--samples", "64"])
    main(["name", str(strange)])
    assert "distinctness" in capsys.readouterr().out
    assert not (strange / "ran").exists()
