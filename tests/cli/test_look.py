"""The commands that load a run: traverse, evaluate, report."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.commands import fails
from support.runs import contents, options, small_run

from fastflow.cli.main import main
from fastflow.latents.ends import leaving
from fastflow.runs.loading import load_run

DISCOVER = ("discover", "--generator", "digits-vae")
MINE = """
from support.runs import sigmoid_generator, sigmoid_images
"""


@pytest.mark.slow
@pytest.mark.parametrize("words", [("sigmoid_generator",), ("sigmoid_images", "--latent-dim", "4")], ids=" ".join)
def test_run_of_a_generator_made_in_python_is_shown_with_its_function(tmp_path, monkeypatch, capsys, words):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    small_run("run")
    function, *rest = words
    named = ["--generator", f"mine.py:{function}", *rest]
    main(["traverse", "run", "--starts", "2", "--out", "strips", *named])
    main(["evaluate", "run", "--samples", "24", *named])
    main(["report", "run", *named])
    assert "look at run/report.html" in capsys.readouterr().out


def test_traverse_writes_strips_animations_and_latents(digits_folder, capsys):
    main(["traverse", str(digits_folder), "--starts", "2", "--seed", "4"])
    folder = digits_folder / "traversals"
    assert capsys.readouterr() == (f"wrote 10 files to {folder}\n", "")
    index = json.loads((folder / "index.json").read_text())
    run = load_run(digits_folder)
    assert (index["starts"], index["steps"], index["start_column"], index["training_steps"]) == (2, 3, 1, 6)
    latents = load_file(folder / "latents.safetensors")
    for entry in index["potentials"]:
        assert (folder / entry["strip"]).read_bytes().startswith(b"\x89PNG")
        assert (folder / entry["animation"]).read_bytes().startswith(b"GIF8")
        expected = run.traverse(run.generator.starts(2, 4), entry["index"], direction="both").latents
        assert torch.equal(latents[f"potential-{entry['index']:02d}"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_traverse_takes_latents_potentials_steps_and_a_direction(digits_folder, tmp_path, suffix):
    z0 = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    file = tmp_path / f"starts{suffix}"
    if suffix == ".npy":
        np.save(file, z0.numpy())
    elif suffix == ".npz":
        np.savez(file, z0.numpy())
    else:
        save_file({"z": z0}, file)
    words = ["--latents", str(file), "--potential", "2", "0", "--steps", "4", "--direction", "forward"]
    main(["traverse", str(digits_folder), "--out", str(tmp_path / "out"), *words])
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [entry["index"] for entry in index["potentials"]] == [2, 0]
    assert (index["start_column"], index["direction"]) == (0, "forward")
    latents = load_file(tmp_path / "out" / "latents.safetensors")
    assert sorted(latents) == ["potential-00", "potential-02"]
    for path in latents.values():
        assert path.shape == (3, 5, 8)
        torch.testing.assert_close(path[:, 0], z0.float())
    assert not (digits_folder / "traversals").exists()


@pytest.mark.parametrize(("words", "even"), [((), True), (("--even", "yes"), True), (("--even", "no"), False)])
def test_traverse_takes_even_steps_or_the_flows_own(digits_folder, words, even):
    main(["traverse", str(digits_folder), "--starts", "2", "--potential", "1", "--steps", "6", *words])
    folder, run = digits_folder / "traversals", load_run(digits_folder)
    expected = run.traverse(run.generator.starts(2), 1, 6, "both", even=even).latents
    assert torch.equal(load_file(folder / "latents.safetensors")["potential-01"], expected)
    assert json.loads((folder / "index.json").read_text())["potentials"][0]["even"] is even


def test_traverse_says_where_paths_leave_the_data(digits_folder, tmp_path, capsys):
    run = load_run(digits_folder)
    spread, z0 = run.generator.spread, run.generator.sample(12)
    offsets = z0 - spread.mean.float()
    z0 = spread.mean.float() + 0.999 * spread.farthest * offsets / offsets.norm(dim=1, keepdim=True)  # near the edge
    np.save(tmp_path / "z.npy", z0.numpy())
    words = ["--latents", str(tmp_path / "z.npy"), "--steps", "6", "--direction", "forward"]
    main(["traverse", str(digits_folder), *words])
    index = json.loads((digits_folder / "traversals" / "index.json").read_text())
    said = capsys.readouterr().out.splitlines()[1:]
    expected = []
    for entry in index["potentials"]:
        ends = run.traverse(z0, entry["index"], 6).ends.tolist()
        assert entry["ends"] == ends
        if leaving(ends, 0, 7):
            expected.append(f"potential {entry['index']} {leaving(ends, 0, 7)}")
    assert said == expected
    assert len(said) > 0
    assert all(" leaves the data after step" in line and "of 12 starts" in line for line in said)


def test_traverse_overwrites_where_asked(digits_folder):
    main(["traverse", str(digits_folder), "--starts", "1"])
    main(["traverse", str(digits_folder), "--starts", "2", "--potential", "1", "--overwrite"])
    names = sorted(contents(digits_folder / "traversals"))
    assert names == [
        "grid.png", "index.json", "landscapes.json", "latents.safetensors", "potential-01.gif", "potential-01.png",
    ]  # fmt: skip


def test_potentials_are_found_by_their_names(digits_folder, capsys):
    main(["name", str(digits_folder), "1", "slant"])
    main(["traverse", str(digits_folder), "--starts", "1", "--steps", "2", "--potential", "slant", "0"])
    index = json.loads((digits_folder / "traversals" / "index.json").read_text())
    assert [entry["index"] for entry in index["potentials"]] == [1, 0]
    main(["name", str(digits_folder), "slant", "lean"])
    assert json.loads((digits_folder / "names.json").read_text()) == {"1": "lean"}
    capsys.readouterr()
    unknown = f"no potential of '{digits_folder}' is called 'slant'; lean is named"
    assert fails(capsys, "traverse", digits_folder, "--potential", "slant") == unknown
    assert fails(capsys, "name", digits_folder, "slant", "--remove") == unknown


@pytest.mark.slow
def test_evaluate_prints_a_table_of_its_file(digits_folder, capsys):
    main(["evaluate", str(digits_folder), "--samples", "24"])
    output = capsys.readouterr()
    result = json.loads((digits_folder / "evaluation.json").read_text())
    assert result["samples"] == 24
    assert f"strength             {result['strength']['mean']:.4f}" in output.out
    assert f"distinctness         {result['distinctness']['accuracy']:.4f}" in output.out
    assert f"{result['residual']['after']:.4f}, before training {result['residual']['before']:.4f}" in output.out
    assert output.err == ""


@pytest.mark.slow
def test_report_measures_and_draws_what_is_missing(digits_folder, capsys, quick_evaluation):
    main(["report", str(digits_folder)])
    assert f"look at {digits_folder / 'report.html'}" in capsys.readouterr().out
    assert "<html" in (digits_folder / "report.html").read_text()
    first = contents(digits_folder)
    assert {"evaluation.json", "report.html", "traversals/index.json"} <= set(first)
    main(["report", str(digits_folder)])
    again = contents(digits_folder)
    assert [name for name in first if first[name] != again[name]] in ([], ["report.html"])


@pytest.mark.slow
def test_report_of_a_run_that_went_on_is_new(digits_folder, quick_evaluation):
    main(["report", str(digits_folder)])
    main([*DISCOVER, "--out", str(digits_folder), *options(steps=8), "--resume"])
    main(["report", str(digits_folder)])
    for name in ("evaluation.json", "traversals/index.json"):
        assert json.loads((digits_folder / name).read_text())["training_steps"] == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("evaluation.json", b""),
        ("traversals/index.json", b'{"training_steps": 6'),
        ("evaluation.json", b"\xff\x00"),
        ("traversals/index.json", b"[6]"),
    ],
)
def test_report_makes_damaged_files_again(digits_folder, quick_evaluation, name, damage):
    main(["report", str(digits_folder)])
    (digits_folder / name).write_bytes(damage)
    main(["report", str(digits_folder)])
    assert json.loads((digits_folder / name).read_text())["training_steps"] == 6
