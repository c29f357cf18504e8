"""The examples run as they stand, for a few steps; what they reach at full length stands in the documents."""

import re
import runpy

import nbclient
import nbformat
import pytest
from support.pages import ROOT

EXAMPLES = ROOT / "examples"


def example(name):
    return runpy.run_path(str(EXAMPLES / name))["main"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_network_learns_a_wave(capsys):
    assert example("pinn_wave.py")(dims=2, steps=400) < 0.2
    printed = capsys.readouterr().out
    assert float(re.search(r"([\d.]+) times faster", printed)[1]) > 1
    assert float(re.search(r"gradients (\S+) of their length apart", printed)[1]) < 1e-5


@pytest.mark.slow
def test_a_decoder_of_scikit_learn_is_traversed(capsys, tmp_path):
    example("own_generator.py")(steps=4, epochs=3, samples=24)
    printed = capsys.readouterr().out
    assert len(re.findall(r"^potential \d: score 0\.\d\d$", printed, re.MULTILINE)) == 6
    assert "the best" in (tmp_path / "runs/own/report.html").read_text()


@pytest.mark.slow
def test_a_vae_with_flows_stands_beside_one_without(capsys, tmp_path):
    example("vae_flows.py")(steps=4, images=16)
    assert re.findall(r"^(\w+): log p\(x_0\) -\d+", capsys.readouterr().out, re.MULTILINE) == ["flows", "plain"]
    assert (tmp_path / "runs/vae-flows/flows/report.html").is_file()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    (settings,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    settings.source = "steps = 2\nsamples = 48"
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert any("image/png" in output.get("data", ()) for output in outputs)
    assert float(re.search(r"farthest from the start: (\S+)", printed)[1]) < 1e-4
    assert float(re.search(r"Laplacians apart by (\S+)", printed)[1]) < 1e-12
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


def test_the_notebook_was_run_in_its_order():
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
