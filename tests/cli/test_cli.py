"""The command line: every command does its work, from the shell and from Python."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import contents, metrics, options, saved, small_run

from fastflow import generators
from fastflow.cli.main import main
from fastflow.engine.backends.selection import backends
from fastflow.metrics.evaluation import evaluate
from fastflow.runs import run as runs
from fastflow.runs.loading import load_run
from fastflow.runs.train import train_vae

DISCOVER = ("discover", "--generator", "digits-vae")


@pytest.fixture
def quick_evaluation(monkeypatch):
    monkeypatch.setattr(runs, "evaluate", lambda run, samples, *rest: evaluate(run, 24, *rest))


def shell(*arguments, **settings):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, **settings)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)], ids=["nothing", "--help", "-h"])
def test_help_names_every_command(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    told = capsys.readouterr()
    assert all(
        name in told.out
        for name in ("info", "demo", "discover", "train-vae", "traverse", "apply", "evaluate", "report")
    )
    assert told.err == ""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("info", ()),
        ("demo", ("--out", "--seed", "--steps", "--overwrite")),
        ("discover", ("--generator", "--num-potentials", "--batch-size", "--checkpoint-every", "--resume", "--device")),
        (
            "train-vae",
            ("--data", "--data-root", "--flow-weight", "--likelihood", "--preset", "--batch-size", "--resume"),
        ),
        ("traverse", ("--out", "--potential", "--latents", "--images", "--direction", "--mp4", "--latents-format")),
        ("apply", ("--to", "--out", "--folder", "--retrained", "--generator", "--overwrite")),
        ("evaluate", ("--samples", "--seed", "--generator", "--latent-dim")),
        ("report", ("--samples", "--generator", "--latent-dim")),
    ],
)
def test_help_of_a_command_names_its_options(capsys, command, expected):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    told = capsys.readouterr()
    assert all(option in told.out for option in expected)
    assert told.err == ""


def test_python_dash_m_and_the_script_are_the_same_program():
    module = shell(sys.executable, "-W", "error", "-m", "fastflow", "info")
    script = shell(sys.executable, "-W", "error", "-c", "from fastflow.cli import main; main()", "info")
    assert (module.returncode, module.stderr) == (0, "")
    assert module.stdout == script.stdout


def test_info_has_versions_and_a_line_for_every_backend(capsys):
    main(["info"])
    lines = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__}" in lines
    assert f"threads {torch.get_num_threads()}" in lines
    for name, reason in backends().items():
        assert f"backend {name}: " + ("available" if reason is None else f"missing, {reason}") in lines


def test_reader_that_stops_reading_is_no_error():
    result = shell("bash", "-c", f"{sys.executable} -u -m fastflow info | true; echo ${{PIPESTATUS[0]}}")
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_discover_is_the_same_as_in_python(tmp_path, capsys):
    main([*DISCOVER, "--out", str(tmp_path / "cli"), *options(seed=3)])
    told = capsys.readouterr()
    assert told.out.startswith("trained Run(")
    assert f"next: fastflow report {tmp_path / 'cli'}" in told.out
    assert told.err == ""
    run = small_run(tmp_path / "python", generators.load("digits-vae"), seed=3)
    assert load_run(tmp_path / "cli").config == run.config
    assert saved(tmp_path / "cli", 6) == saved(tmp_path / "python", 6)


def test_discover_on_a_file_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("def decode(z):\n    return z.sigmoid().reshape(-1, 1, 2, 3)\n")
    monkeypatch.chdir(tmp_path)
    main(["discover", "--generator", "mine.py:decode", "--latent-dim", "6", "--out", "run", *options()])
    main(["traverse", "run", "--starts", "2"])
    assert load_run("run").generator.image_shape == (1, 2, 3)
    assert "wrote 10 files to run/traversals" in capsys.readouterr().out


MINE = """
from support.runs import sigmoid_generator, sigmoid_images
"""


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


VAE = ("train-vae", "--data", "digits", "--latent-dim", "3", "--widths", "16", *options(num_potentials=0))


def test_train_vae_is_the_same_as_in_python_and_its_run_is_shown_like_any(tmp_path, capsys):
    folder = tmp_path / "cli"
    main([*VAE, "--out", str(folder), "--seed", "3"])
    told = capsys.readouterr()
    assert told.out.startswith("trained on digits of scikit-learn; the train split is ")
    assert told.out.endswith(f"VAERun('{folder}', step=6, 3 potentials); next: fastflow report {folder}\n")
    assert told.err == ""
    loaded = load_run(folder)
    train_vae(loaded.config, out=tmp_path / "python", progress=False)
    assert saved(folder, 6) == saved(tmp_path / "python", 6)
    main(["traverse", str(folder), "--starts", "2"])
    main(["name", str(folder)])
    main(["evaluate", str(folder), "--samples", "24"])
    told = capsys.readouterr().out
    assert "wrote 10 files" in told
    assert "  0  rotation\n  1  scale\n  2  hue\n" in told
    assert "normalised residual" in told


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


def test_discover_resumes_and_overwrites(tmp_path):
    words = [*DISCOVER, "--out", str(tmp_path / "run")]
    main([*words, *options(steps=3)])
    main([*words, *options(), "--resume"])
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2, 3, 4, 6]
    main([*words, *options(steps=2), "--overwrite"])
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2]
    assert load_run(tmp_path / "run").step == 2


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


def test_discover_starts_from_a_preset(tmp_path):
    main([*DISCOVER, "--out", str(tmp_path / "run"), "--preset", "stylegan2", *options(), "--pde-weight", "2"])
    config = load_run(tmp_path / "run").config
    assert (config.residual, config.jacobian, config.out_activation) == ("square", "square", "identity")
    assert (config.num_potentials, config.pde_weight, config.learning_rate) == (3, 2.0, 1e-4)


def test_discover_takes_schedules_and_a_predictor(tmp_path):
    (tmp_path / "mine.py").write_text("def brightness(images):\n    return images.mean((1, 2, 3))\n")
    words = ["--predictor", f"{tmp_path / 'mine.py'}:brightness", "--guidance", "oppose"]
    words += ["--pde-schedule", "1", "0.5", "4", "1", "--learning-rate-schedule", "3", "0.1"]
    main([*DISCOVER, "--out", str(tmp_path / "run"), *words, *options()])
    config = load_run(tmp_path / "run").config
    assert (config.pde_schedule, config.learning_rate_schedule) == (((1, 0.5), (4, 1.0)), ((3, 0.1),))
    assert all("guidance" in line for line in metrics(tmp_path / "run"))


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


def test_traverse_overwrites_where_asked(digits_folder):
    main(["traverse", str(digits_folder), "--starts", "1"])
    main(["traverse", str(digits_folder), "--starts", "2", "--potential", "1", "--overwrite"])
    names = sorted(contents(digits_folder / "traversals"))
    assert names == [
        "grid.png", "index.json", "landscapes.json", "latents.safetensors", "potential-01.gif", "potential-01.png",
    ]  # fmt: skip


def test_evaluate_prints_a_table_of_its_file(digits_folder, capsys):
    main(["evaluate", str(digits_folder), "--samples", "24"])
    told = capsys.readouterr()
    result = json.loads((digits_folder / "evaluation.json").read_text())
    assert result["samples"] == 24
    assert f"strength             {result['strength']['mean']:.4f}" in told.out
    assert f"distinctness         {result['distinctness']['accuracy']:.4f}" in told.out
    assert f"{result['residual']['after']:.4f}, before training {result['residual']['before']:.4f}" in told.out
    assert told.err == ""


def test_report_measures_and_draws_what_is_missing(digits_folder, capsys, quick_evaluation):
    main(["report", str(digits_folder)])
    assert f"look at {digits_folder / 'report.html'}" in capsys.readouterr().out
    assert "<html" in (digits_folder / "report.html").read_text()
    first = contents(digits_folder)
    assert {"evaluation.json", "report.html", "traversals/index.json"} <= set(first)
    main(["report", str(digits_folder)])
    again = contents(digits_folder)
    assert [name for name in first if first[name] != again[name]] in ([], ["report.html"])


def test_report_of_a_run_that_went_on_is_new(digits_folder, quick_evaluation):
    main(["report", str(digits_folder)])
    main([*DISCOVER, "--out", str(digits_folder), *options(steps=8), "--resume"])
    main(["report", str(digits_folder)])
    for name in ("evaluation.json", "traversals/index.json"):
        assert json.loads((digits_folder / name).read_text())["training_steps"] == 8


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


def test_demo_writes_a_page(tmp_path, monkeypatch, capsys, quick_evaluation):
    monkeypatch.chdir(tmp_path)
    main(["demo", "--steps", "2"])
    assert capsys.readouterr().out.endswith("look at demo/report.html; next: fastflow serve demo\n")
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png") >= 8
    run = load_run("demo")
    assert (run.step, run.bank.num_potentials, run.config.seed) == (2, 8, 0)


OPAQUE = """
import torch
class Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.sigmoid()
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0] * (1 - ctx.saved_tensors[0])
def decode(z):
    return Sigmoid.apply(z).reshape(-1, 1, 2, 2)
"""


def test_warnings_are_one_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(OPAQUE)
    words = ["--generator", f"{tmp_path}/mine.py:decode", "--latent-dim", "4", "--out", str(tmp_path / "run")]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main(["discover", *words, *options(steps=1)])
    told = capsys.readouterr().err
    assert told.startswith("fastflow: warning: forward-mode differentiation of the generator failed")
    assert told.count("\n") == 1
