"""The commands that train: demo, discover and train-vae."""

import json

import pytest
from support.runs import metrics, options, saved, small_run

from fastflow import generators
from fastflow.cli.main import main
from fastflow.runs.loading import load_run
from fastflow.runs.train import train_vae

DISCOVER = ("discover", "--generator", "digits-vae")
VAE = ("train-vae", "--data", "digits", "--latent-dim", "3", "--widths", "16", *options(num_potentials=0))


@pytest.mark.slow
def test_demo_writes_a_page(tmp_path, monkeypatch, capsys, quick_evaluation):
    monkeypatch.chdir(tmp_path)
    main(["demo", "--steps", "2"])
    assert capsys.readouterr().out.endswith("look at demo/report.html; next: fastflow serve demo\n")
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png") >= 8
    run = load_run("demo")
    assert (run.step, run.bank.num_potentials, run.config.seed) == (2, 8, 0)


@pytest.mark.slow
def test_discover_is_the_same_as_in_python(tmp_path, capsys):
    main([*DISCOVER, "--out", str(tmp_path / "cli"), *options(seed=3)])
    output = capsys.readouterr()
    assert output.out.startswith("trained Run(")
    assert f"next: fastflow report {tmp_path / 'cli'}" in output.out
    assert output.err == ""
    run = small_run(tmp_path / "python", generators.load("digits-vae"), seed=3)
    assert load_run(tmp_path / "cli").config == run.config
    assert saved(tmp_path / "cli", 6) == saved(tmp_path / "python", 6)


@pytest.mark.slow
def test_discover_on_a_file_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("def decode(z):\n    return z.sigmoid().reshape(-1, 1, 2, 3)\n")
    monkeypatch.chdir(tmp_path)
    main(["discover", "--generator", "mine.py:decode", "--latent-dim", "6", "--out", "run", *options()])
    main(["traverse", "run", "--starts", "2"])
    assert load_run("run").generator.image_shape == (1, 2, 3)
    assert "wrote 10 files to run/traversals" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("spelling", [("--config", "{}"), ("--config={}",)], ids=["two-words", "one-word"])
def test_discover_takes_settings_from_a_run_and_options_override_them(tmp_path, digits_folder, spelling):
    words = [word.format(digits_folder / "config.json") for word in spelling]
    main([*DISCOVER, "--out", str(tmp_path / "new"), *words, "--steps", "3", "--no-learn-pde"])
    old, new = load_run(digits_folder).config, load_run(tmp_path / "new").config
    assert (new.steps, new.learn_pde) == (3, False)
    assert (new.num_potentials, new.hidden, new.path_steps) == (old.num_potentials, old.hidden, old.path_steps)


def test_discover_takes_settings_from_a_plain_file(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"hidden": [5], "steps": 2, "batch_size": 8}))
    main([*DISCOVER, "--config", str(tmp_path / "settings.json"), "--out", str(tmp_path / "run")])
    config = load_run(tmp_path / "run").config
    assert (config.hidden, config.steps, config.num_potentials) == ((5,), 2, 8)


@pytest.mark.slow
def test_discover_starts_from_a_preset(tmp_path):
    main([*DISCOVER, "--out", str(tmp_path / "run"), "--preset", "stylegan2", *options(), "--pde-weight", "2"])
    config = load_run(tmp_path / "run").config
    assert (config.residual, config.jacobian, config.out_activation) == ("square", "square", "identity")
    assert (config.num_potentials, config.pde_weight, config.learning_rate) == (3, 2.0, 1e-4)


@pytest.mark.slow
def test_discover_takes_schedules_and_a_predictor(tmp_path):
    (tmp_path / "mine.py").write_text("def brightness(images):\n    return images.mean((1, 2, 3))\n")
    words = ["--predictor", f"{tmp_path / 'mine.py'}:brightness", "--guidance", "oppose"]
    words += ["--pde-schedule", "1", "0.5", "4", "1", "--learning-rate-schedule", "3", "0.1"]
    main([*DISCOVER, "--out", str(tmp_path / "run"), *words, *options()])
    config = load_run(tmp_path / "run").config
    assert (config.pde_schedule, config.learning_rate_schedule) == (((1, 0.5), (4, 1.0)), ((3, 0.1),))
    assert all("guidance" in line for line in metrics(tmp_path / "run"))


@pytest.mark.slow
def test_discover_resumes_and_overwrites(tmp_path):
    words = [*DISCOVER, "--out", str(tmp_path / "run")]
    main([*words, *options(steps=3)])
    main([*words, *options(), "--resume"])
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2, 3, 4, 6]
    main([*words, *options(steps=2), "--overwrite"])
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2]
    assert load_run(tmp_path / "run").step == 2


@pytest.mark.slow
def test_train_vae_is_the_same_as_in_python_and_its_run_is_shown_like_any(tmp_path, capsys):
    folder = tmp_path / "cli"
    main([*VAE, "--out", str(folder), "--seed", "3"])
    output = capsys.readouterr()
    assert output.out.startswith("trained on digits of scikit-learn; the train split is ")
    assert output.out.endswith(f"VAERun('{folder}', step=6, 3 potentials); next: fastflow report {folder}\n")
    assert output.err == ""
    loaded = load_run(folder)
    train_vae(loaded.config, out=tmp_path / "python", progress=False)
    assert saved(folder, 6) == saved(tmp_path / "python", 6)
    main(["traverse", str(folder), "--starts", "2"])
    main(["name", str(folder)])
    main(["evaluate", str(folder), "--samples", "24"])
    output = capsys.readouterr().out
    assert "wrote 10 files" in output
    assert "  0  rotation\n  1  scale\n  2  hue\n" in output
    assert "normalised residual" in output


@pytest.mark.slow
def test_train_vae_starts_from_a_preset_and_resumes(tmp_path):
    words = [*VAE, "--out", str(tmp_path / "run"), "--transformations", "rotation", "--flow-weight", "0"]
    main([*words, "--preset", "vae-digits", "--steps", "3"])
    main([*words, "--preset", "vae-digits", "--resume"])
    config = load_run(tmp_path / "run").config
    assert (config.transformations, config.flow_weight, config.steps) == (("rotation",), 0.0, 6)
    main([*VAE, "--config", str(tmp_path / "run" / "config.json"), "--out", str(tmp_path / "other"), "--beta", "2"])
    assert (load_run(tmp_path / "other").config.transformations, load_run(tmp_path / "other").config.beta) == (
        ("rotation",),
        2.0,
    )


def test_settings_of_runs_older_than_the_objective_are_the_papers(tmp_path):
    words = [*VAE, "--steps", "1", "--transformations", "rotation"]
    main([*words, "--objective", "paper", "--matching-weight", "2", "--out", str(tmp_path / "run")])
    file = tmp_path / "run" / "config.json"
    record = json.loads(file.read_text())
    del record["config"]["objective"], record["digest"]
    file.write_text(json.dumps(record))
    main([*words, "--config", str(file), "--out", str(tmp_path / "other")])
    config = load_run(tmp_path / "other").config
    assert (config.objective, config.matching_weight) == ("paper", 2.0)
