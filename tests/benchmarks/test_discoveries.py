"""What a run had learned at several of its checkpoints: the right weights, a table, pictures."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.runs import small_run

import fastflow as ff
from benchmarks.studies import discoveries


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    generator = ff.generators.load("digits-vae")
    return small_run(tmp_path_factory.mktemp("discoveries") / "run", generator, steps=4, checkpoint_every=2)


def test_a_checkpoint_is_a_run_of_its_own(run, tmp_path):
    early = discoveries.checkpoint_as_run(run.folder, 2, tmp_path / "early")
    weights = load_file(run.folder / "checkpoints/step-000002/weights.safetensors")
    assert early.step == 2
    assert torch.equal(early.bank.out_weight, weights["bank.out_weight"])
    assert not torch.equal(early.bank.out_weight, run.bank.out_weight)
    with pytest.raises(SystemExit, match="has no checkpoint of step 3"):
        discoveries.checkpoint_as_run(run.folder, 3, tmp_path / "none")


@pytest.mark.slow
def test_table_and_pictures(run, tmp_path, capsys):
    words = ["--steps", "2", "4", "--samples", "64", "--pictures", str(tmp_path / "p"), "--json", str(tmp_path / "j")]
    discoveries.main([str(run.folder), *words])
    lines = capsys.readouterr().out.splitlines()
    early, late = json.loads((tmp_path / "j").read_text())
    assert [line.split()[1] for line in lines[2:]] == ["2", "4"]
    assert early["strength"]["mean"] != late["strength"]["mean"]
    assert f"| {late['strength']['mean']:.4f} (" in lines[3]
    assert {path.name for path in tmp_path.iterdir()} == {"p.png", "p-random.png", "j"}
    with Image.open(tmp_path / "p.png") as ours, Image.open(tmp_path / "p-random.png") as random:
        assert ours.size == random.size
    assert not (run.folder / "evaluation.json").exists()
