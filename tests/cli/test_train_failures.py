"""Trainings that can't start or go on: one line on stderr, exit status 2, nothing half-written, nothing lost."""

import json
import os

import pytest
import torch
from support.commands import fails, fails_after_a_word, files_up_to
from support.runs import contents, options, saved, sigmoid_generator, small_config

from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.core.files import read_json
from fastflow.studies.comparison.study import compare
from fastflow.training.loop import Trainer

DISCOVER = ("discover", "--generator", "digits-vae", "--out", "out")
VAE = ("train-vae", "--data", "digits", "--out", "out")


DISCOVER_REFUSES = {
    "command": (["discovr"], "discovr"),
    "option": ([*DISCOVER, "--bogus", "3"], "--bogus"),
    "value": ([*DISCOVER, "--steps", "many"], "--steps"),
    "choice": ([*DISCOVER, "--pde", "waves"], "--pde"),
    "required": (["discover", "--out", "out"], "--generator"),
    "generator": (
        ["discover", "--generator", "nope", "--out", "out"],
        "unknown generator 'nope': expected digits-vae, faces, KIND:PATH",
    ),
    "generator-file": (["discover", "--generator", "no.py:f", "--out", "out"], "generator file 'no.py' doesn't exist"),
    "generator-width": ([*DISCOVER, "--latent-dim", "5"], "digits-vae has latents of width 8, not 5"),
    "no-potentials": ([*DISCOVER, "--num-potentials", "0"], "num_potentials must be above 0, got 0"),
    "hidden": ([*DISCOVER, "--hidden", "0"], "hidden must name one width or more, each at least 1, got (0,)"),
    "negative": ([*DISCOVER, "--steps", "-1"], "steps must be above 0, got -1"),
    "not-finite": ([*DISCOVER, "--dt", "nan"], "dt must be a finite number, got nan"),
    "batch": ([*DISCOVER, "--batch-size", "3"], "batch_size must be at least num_potentials, 8"),
    "device": ([*DISCOVER, "--device", "gpu"], "device must be cpu, cuda or cuda:N, got 'gpu'"),
    "unsupported-device": ([*DISCOVER, "--device", "meta"], "device must be cpu, cuda or cuda:N, got 'meta'"),
    "boolean": ([*DISCOVER, "--learn-pde", "false"], "false"),
    "resume-overwrite": ([*DISCOVER, "--resume", "--overwrite"], "resume and overwrite exclude each other"),
    "preset-unknown": ([*DISCOVER, "--preset", "gan"], "preset must be one of anime-sngan, mnist-sngan, biggan"),
    "preset-and-config": ([*DISCOVER, "--preset", "biggan", "--config", "a.json"], "exclude each other"),
    "predictor-form": ([*DISCOVER, "--predictor", "mine"], "predictor must be FILE.py:FUNCTION, got 'mine'"),
    "predictor-absent": ([*DISCOVER, "--predictor", "no.py:f"], "predictor file 'no.py' doesn't exist"),
    "memory": ([*DISCOVER, "--hidden", str(10**12)], "not enough memory: 238418.6 GiB were needed at once"),
    "memory-for-a-batch": ([*DISCOVER, "--batch-size", str(10**13)], "GiB were needed at once; take a smaller batch"),
    "config-without-a-file": ([*DISCOVER, "--config"], "--config"),
    "config-before-an-option": ([*DISCOVER, "--config", "--steps", "3"], "--config"),
    "config-absent": ([*DISCOVER, "--config", "no.json"], "'no.json' can't be read: No such file"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), DISCOVER_REFUSES.values(), ids=DISCOVER_REFUSES)
def test_discover_refuses_and_writes_nothing(tmp_path, capsys, arguments, message):
    assert message in fails(capsys, *arguments)
    assert not list((tmp_path / "cwd").iterdir())


VAE_REFUSES = {
    "data": (["train-vae", "--data", "cats", "--out", "out"], "data set must be one of"),
    "root": (["train-vae", "--data", "mnist", "--out", "out"], "with --data-root"),
    "root-empty": (["train-vae", "--data", "mnist", "--data-root", ".", "--out", "out"], "has no IDX files"),
    "transformation": ([*VAE, "--transformations", "spin"], "transformation 'spin'"),
    "choice": ([*VAE, "--likelihood", "poisson"], "--likelihood"),
    "weight": ([*VAE, "--flow-weight", "-1"], "flow_weight must be 0 or above, got -1.0"),
    "preset": ([*VAE, "--preset", "biggan"], "preset must be one of vae-digits, vae-mnist, vae-dsprites, got 'biggan'"),
    "both": ([*VAE, "--preset", "vae-digits", "--config", "x.json"], "--config and --preset exclude each other"),
    "conv": ([*VAE, "--network", "conv", "--widths", "4", "4", "4", "4"], "network conv with 4 widths doesn't fit"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), VAE_REFUSES.values(), ids=VAE_REFUSES)
def test_train_vae_refuses(capsys, tmp_path, arguments, message):
    assert message in fails(capsys, *arguments)
    assert not list((tmp_path / "cwd").iterdir())


def test_missing_device_is_said(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds no CUDA device" in fails(capsys, *DISCOVER, "--device", "cuda")


CONFIGS = {
    "key": ('{"potentials": 3}', "settings.json has an unknown key 'potentials'; expected some of num_potentials, "),
    "zero": ('{"num_potentials": 0}', "settings.json: num_potentials must be above 0, got 0"),
    "boolean": ('{"learn_pde": "false"}', "settings.json: learn_pde must be true or false, got 'false'"),
    "list": ("[3]", "'settings.json' must hold a JSON object of settings"),
    "list-in-a-run": ('{"config": [1]}', "'settings.json' must hold a JSON object of settings"),
    "not-json": ("steps: 3", "'settings.json' isn't JSON"),
    "infinite": ('{"dt": Infinity}', "'settings.json' can't be used: dt must be a finite number, got infinity"),
}


@pytest.mark.parametrize(("text", "message"), CONFIGS.values(), ids=CONFIGS)
def test_bad_configuration_files(tmp_path, capsys, text, message):
    (tmp_path / "cwd" / "settings.json").write_text(text)
    assert message in fails(capsys, *DISCOVER, "--config", "settings.json")
    assert not (tmp_path / "cwd" / "out").exists()


FILES = {
    "text": ("notes.txt", "hello", "unknown generator"),
    "python-that-raises": ("bad.py", "import no_such_module", "generator file 'bad.py' failed: ModuleNotFoundError"),
    "not-python": ("bad.py", "\x00\x01", "generator file 'bad.py' failed: "),
    "no-function": ("bad.py", "x = 1", "bad.py has no function 'decode'"),
    "wrong-shape": ("bad.py", "def decode(z): return z", "images (2, C, H, W), got (2, 4)"),
    "not-finite": ("bad.py", "def decode(z): return z.reshape(-1, 1, 2, 2) / 0", "must be finite"),
    "no-gradient": ("bad.py", "def decode(z): return z.detach().reshape(-1, 1, 2, 2)", "carry no gradient"),
}


@pytest.mark.parametrize(("name", "text", "message"), FILES.values(), ids=FILES)
def test_bad_generator_files(tmp_path, capsys, name, text, message):
    (tmp_path / "cwd" / name).write_text(text)
    arguments = ["discover", "--generator", f"{name}:decode", "--latent-dim", "4", "--out", "out"]
    assert message in fails(capsys, *arguments)
    assert not (tmp_path / "cwd" / "out").exists()


@pytest.mark.parametrize("command", ["discover", "demo"])
def test_occupied_run_folders(digits_folder, capsys, command):
    before = contents(digits_folder)
    arguments = ["demo", "--steps", "2"] if command == "demo" else [*DISCOVER[:3], *options()]
    assert "holds a run already" in fails_after_a_word(capsys, *arguments, "--out", digits_folder)
    assert contents(digits_folder) == before


def test_folder_that_can_not_be_made(tmp_path, capsys):
    (tmp_path / "cwd" / "file").write_text("mine")
    said = fails(capsys, *DISCOVER[:3], "--out", "file/run", *options())
    assert said == "'file/run' can't be written: 'file' is a file, expected a folder; choose another one"
    assert contents(tmp_path / "cwd") == {"file": b"mine"}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["discover", "demo", "train-vae", "compare", "study"])
@pytest.mark.parametrize("out", ["link", "link/run"])
def test_link_that_leads_nowhere_is_no_folder_to_write_to(tmp_path, capsys, command, out):
    (tmp_path / "cwd" / "link").symlink_to("/mnt/scratch/gone")
    words = {
        "discover": [*DISCOVER[:3], *options()],
        "demo": ["demo", "--steps", "2"],
        "train-vae": ["train-vae", "--preset", "vae-digits", "--steps", "2"],
        "compare": ["compare", "--generator", "digits-vae", *options()],
        "study": ["study", "likelihood", "--data", "dsprites"],
    }[command]
    said = fails_after_a_word(capsys, *words, "--out", out)
    assert f"{out!r} can't be written: 'link' is a link to '/mnt/scratch/gone', which doesn't exist" in said
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == ["link"]


@pytest.mark.parametrize("mode", [[], ["--resume"], ["--overwrite"]], ids=["new", "resume", "overwrite"])
def test_read_only_folder_is_named_before_the_training(tmp_path, digits_folder, capsys, monkeypatch, mode):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "run", None)
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    before = contents(tmp_path)
    out = "run" if mode else "cwd/new"
    said = fails(capsys, *DISCOVER[:3], "--out", out, *options(steps=9), *mode)
    assert f"{out!r} can't be written: the folder '{out.removesuffix('/new')}' may not be written to" in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize("how", ["--overwrite", "--resume"])
def test_where_the_checkpoints_are_a_link_nothing_is_written_or_removed(tmp_path, digits_folder, capsys, how):
    (digits_folder / "checkpoints").rename(tmp_path / "scratch")
    (digits_folder / "checkpoints").symlink_to(tmp_path / "scratch")
    (digits_folder / "evaluation.json").write_text("{}")
    before = contents(tmp_path)
    said = fails(capsys, *DISCOVER[:3], "--out", digits_folder, *options(steps=9), how)
    assert f"'{digits_folder}/checkpoints' is a link, to '{tmp_path}/scratch'" in said
    assert contents(tmp_path) == before


def test_a_run_may_lie_where_a_link_leads(tmp_path, digits_folder):
    digits_folder.rename(tmp_path / "scratch")
    digits_folder.symlink_to(tmp_path / "scratch")
    main([*DISCOVER[:3], "--out", str(digits_folder), *options(steps=9), "--resume"])
    assert (tmp_path / "scratch" / "checkpoints" / "step-000009").is_dir()
    assert digits_folder.is_symlink()


def test_overwriting_a_comparison_removes_nothing_where_its_runs_are_a_link(tmp_path):
    out = tmp_path / "comparison"
    for name in ("jobs", "strips"):
        (out / name).mkdir(parents=True)
    (out / "jobs" / "a").write_text("old")
    (out / "comparison.json").write_text("{}")
    (tmp_path / "scratch").mkdir()
    (out / "runs").symlink_to(tmp_path / "scratch")
    before = contents(tmp_path)
    words = {"methods": ("random",), "pairs": 60, "starts": 6, "overwrite": True, "progress": False}
    with pytest.raises(InputError, match="comparison/runs' is a link to the folder"):
        compare(sigmoid_generator(), out, small_config(), **words)
    assert contents(tmp_path) == before


def test_no_space_for_the_configuration(tmp_path, capsys):
    with files_up_to(100):
        assert fails(capsys, *DISCOVER, *options()) == "File too large: 'out/config.json'"
    assert not list((tmp_path / "cwd").iterdir())


@pytest.mark.slow
def test_no_space_for_a_checkpoint(tmp_path, capsys):
    folder = tmp_path / "cwd" / "out"
    with files_up_to(20_000):
        assert fails(capsys, *DISCOVER, *options()) == "File too large: 'out/checkpoints/step-000003'"
    assert sorted(contents(folder)) == ["config.json", "metrics.jsonl"]
    # With room again, the run goes on as if nothing had been.
    main([*DISCOVER, *options(), "--resume"])
    main([*DISCOVER[:4], "whole", *options()])
    assert saved(folder, 6) == saved(tmp_path / "cwd" / "whole", 6)


@pytest.mark.slow
def test_no_space_for_metrics(tmp_path, capsys):
    folder = tmp_path / "cwd" / "out"
    with files_up_to(6_000):
        words = [*DISCOVER, *options(log_every=1, steps=500, checkpoint_every=500)]
        assert fails(capsys, *words) == "File too large: 'out/metrics.jsonl'"
    steps = [json.loads(text)["step"] for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 10


def test_diverging_training_is_one_line_and_keeps_its_checkpoints(tmp_path, capsys):
    said = fails(capsys, *DISCOVER, *options(learning_rate=1e37, steps=50, checkpoint_every=1))
    assert "training stopped at step 2: the latents on the paths: z must be finite" in said
    assert read_json(tmp_path / "cwd" / "out" / "config.json")["kind"] == "discover"
