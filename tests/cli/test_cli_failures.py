"""Bad input on the command line: one line on stderr, exit status 2, nothing half-written, nothing lost."""

import io
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.runs import contents, options, saved

from fastflow.cli.main import main
from fastflow.core.files import read_json

DISCOVER = ("discover", "--generator", "digits-vae", "--out", "out")


def fails(capsys, *arguments):
    """Run a command that must fail as bad input does, and return what it says."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert exit_.value.code == 2
    assert told.out == ""
    assert told.err.startswith("fastflow: error: ")
    assert told.err.count("\n") == 1
    assert told.err.endswith("\n")
    return told.err.removeprefix("fastflow: error: ").strip()


def process(*arguments, largest_file=None, **settings):
    """The same in a process of its own, whose files can't grow beyond `largest_file` bytes: a disk that is full."""

    def limit():
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, "-m", "fastflow", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}, **settings,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


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
    "memory": ([*DISCOVER, "--hidden", str(10**12)], "not enough memory, which would have had to hold 238418.6 GiB"),
    "memory-for-a-batch": ([*DISCOVER, "--batch-size", str(10**13)], "GiB at once; take a smaller batch"),
    "config-absent": ([*DISCOVER, "--config", "no.json"], "'no.json' can't be read: No such file"),
}


@pytest.mark.parametrize(("arguments", "message"), DISCOVER_REFUSES.values(), ids=DISCOVER_REFUSES)
def test_discover_refuses_and_writes_nothing(tmp_path, capsys, arguments, message):
    assert message in fails(capsys, *arguments)
    assert not list((tmp_path / "cwd").iterdir())


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("arguments", [["discovr"], ["discover"], [*DISCOVER, "--steps", "many"]], ids=" ".join)
def test_explanations_lose_their_frames(capsys, monkeypatch, arguments, encoding):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    said = fails(capsys, *arguments)
    assert "---" not in said
    assert "─" not in said


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
    "infinite": ('{"dt": Infinity}', "settings.json: dt must be a finite number, got inf"),
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


@pytest.mark.parametrize("command", ["traverse", "evaluate", "report", "serve"])
@pytest.mark.parametrize("kind", ["absent", "empty", "file", "foreign", "cut-off"])
def test_folder_that_is_no_run(tmp_path, capsys, command, kind):
    folder = tmp_path / "cwd" / "thing"
    if kind == "file":
        folder.write_text("hello")
    elif kind != "absent":
        folder.mkdir()
    if kind == "foreign":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    if kind == "cut-off":
        (folder / "config.json").write_text('{"kind": "disc')
    before = contents(tmp_path / "cwd")
    message = fails(capsys, command, "thing")
    assert ("isn't JSON" if kind == "cut-off" else "'thing' isn't a run") in message
    assert contents(tmp_path / "cwd") == before


def nan_weights(file):
    save_file({"bank.out_bias": torch.tensor([0.0, float("nan"), 0.0])}, file)


def foreign_weights(file):
    save_file({"decoder.weight": torch.zeros(3)}, file)


DAMAGES = {
    "cut-off": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "can't be read"),
    "empty": (lambda file: file.write_bytes(b""), "can't be read"),
    "random": (lambda file: file.write_bytes(bytes(range(256)) * 4), "can't be read"),
    "missing": (lambda file: file.unlink(), "is missing"),
    "nan": (nan_weights, "holds NaN or infinity"),
    "foreign": (foreign_weights, "is of another model"),
}


@pytest.mark.parametrize("command", ["traverse", "evaluate", "report", "serve", "resume"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoints(digits_folder, capsys, command, damage, message):
    damage(digits_folder / "checkpoints" / "step-000006" / "weights.safetensors")
    before = contents(digits_folder)
    arguments = [command, digits_folder]
    if command == "resume":
        arguments = [*DISCOVER[:3], "--out", digits_folder, *options(steps=9), "--resume"]
    said = fails(capsys, *arguments)
    assert message in said
    assert "step-000006" in said
    assert contents(digits_folder) == before


def header(text):
    """A file that ends after NumPy's magic and a header that NumPy reads as Python."""
    head = text.encode()
    return lambda folder: (folder / "z.npy").write_bytes(b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head)


def save_latents(name, array):
    return lambda folder: np.save(folder / name, np.asarray(array))


LATENTS = {
    "absent": ("no.npy", lambda folder: None, "can't be read"),
    "kind": ("z.csv", lambda folder: (folder / "z.csv").write_text("1,2"), "must be a .npy, .npz or .safetensors file"),
    "empty-file": ("z.npy", lambda folder: (folder / "z.npy").touch(), "can't be read"),
    "text": ("z.npy", lambda folder: (folder / "z.npy").write_text("hello"), "can't be read"),
    "cut-off": ("z.safetensors", lambda folder: (folder / "z.safetensors").write_bytes(b"\x08\0\0"), "can't be read"),
    "two-arrays": (
        "z.safetensors",
        lambda folder: save_file({"a": torch.zeros(2, 8), "b": torch.zeros(2, 8)}, folder / "z.safetensors"),
        "can't be read as one array",
    ),
    "no-archive": ("z.npz", lambda folder: (folder / "z.npz").write_text("hello"), "can't be read"),
    "cut-off-archive": ("z.npz", lambda folder: (folder / "z.npz").write_bytes(b"PK\x03\x04"), "can't be read"),
    "two-in-archive": (
        "z.npz",
        lambda folder: np.savez(folder / "z.npz", a=np.zeros((2, 8)), b=np.zeros((2, 8))),
        "can't be read as one array",
    ),
    "nan": ("z.npy", save_latents("z.npy", [[float("nan")] * 8]), "hold NaN or infinity"),
    "infinite": ("z.npy", save_latents("z.npy", [[float("inf")] * 8]), "hold NaN or infinity"),
    "too-large": ("z.npy", save_latents("z.npy", [[1e300] * 8]), "NaN or infinity"),
    "width": ("z.npy", save_latents("z.npy", np.zeros((2, 7))), "must have shape (N, 8), got (2, 7)"),
    "no-rows": ("z.npy", save_latents("z.npy", np.zeros((0, 8))), "must have shape (N, 8), got (0, 8)"),
    "one-row": ("z.npy", save_latents("z.npy", np.zeros(8)), "must have shape (N, 8), got (8,)"),
    "complex": ("z.npy", save_latents("z.npy", np.zeros((2, 8), complex)), "must be real numbers"),
    "strings": ("z.npy", save_latents("z.npy", [["a"] * 8]), "can't be read"),
    "header-cut-off": ("z.npy", header("{'descr': '<f8', 'shape': (2, 8"), "can't be read as one array"),
    "header-no-type": ("z.npy", header("{'descr': (), 'fortran_order': False, 'shape': (2, 8)}"), "can't be read"),
    "huge": (
        "z.npy",
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (80000000000000, 8)}"),
        "can't be read",
    ),
    "objects": ("z.npy", save_latents("z.npy", np.array([[None] * 8])), "can't be read"),
}


@pytest.mark.parametrize(("name", "write", "message"), LATENTS.values(), ids=LATENTS)
def test_bad_latents(digits_folder, tmp_path, capsys, name, write, message):
    write(tmp_path / "cwd")
    assert message in fails(capsys, "traverse", digits_folder, "--latents", name, "--out", "out")
    assert not (tmp_path / "cwd" / "out").exists()
    assert not (digits_folder / "traversals").exists()


TRAVERSE_REFUSES = {
    "potential": (["--potential", "3"], "potential must be one or more of 0..2, got 3"),
    "negative-potential": (["--potential", "-1"], "potential must be one or more of 0..2, got -1"),
    "no-potential": (["--potential"], "potential must be one or more of 0..2, got none"),
    "steps": (["--steps", "0"], "steps must be a whole number of at least 1, got 0"),
    "forward-steps": (["--steps", "0", "--direction", "forward"], "steps must be a whole number of at least 1, got 0"),
    "starts": (["--starts", "0"], "starts must be at least 1, got 0"),
    "more-starts-than-digits": (["--starts", "1000"], "count must be at most the 359 held-out digits, got 1000"),
    "direction": (["--direction", "up"], "--direction"),
    "seed": (["--seed", "-1"], "seed must be a whole number in 0..2^63 - 1, got -1"),
    "large-seed": (["--seed", str(2**64)], "seed must be a whole number in 0..2^63 - 1, got 18446744073709551616"),
}


@pytest.mark.parametrize(("arguments", "message"), TRAVERSE_REFUSES.values(), ids=TRAVERSE_REFUSES)
def test_traverse_refuses_and_writes_nothing(digits_folder, capsys, arguments, message):
    before = contents(digits_folder)
    assert message in fails(capsys, "traverse", digits_folder, *arguments)
    assert contents(digits_folder) == before
    assert not (digits_folder / "traversals").exists()


def test_traversals_stay_out_of_the_checkpoints(digits_folder, tmp_path, capsys, monkeypatch):
    before = contents(digits_folder)
    (tmp_path / "cwd" / "link").symlink_to(digits_folder / "checkpoints")
    for out in (digits_folder / "checkpoints" / "x", digits_folder / "checkpoints" / "step-000003" / "x", "link/x"):
        assert "lies among the run's checkpoints" in fails(capsys, "traverse", digits_folder, "--out", out)
    assert contents(digits_folder) == before


@pytest.mark.parametrize("command", ["traverse", "evaluate", "report"])
def test_width_needs_a_generator(digits_folder, capsys, command):
    assert "--latent-dim is the width" in fails(capsys, command, digits_folder, "--latent-dim", "8")


@pytest.mark.parametrize(("samples", "seed"), [(5, 1), (0, 1), (24, -1)])
def test_evaluate_refuses_and_writes_nothing(digits_folder, capsys, samples, seed):
    said = fails(capsys, "evaluate", digits_folder, "--samples", samples, "--seed", seed)
    assert "whole number of at least 6" in said or "seed must be a whole number" in said
    assert not (digits_folder / "evaluation.json").exists()


@pytest.mark.parametrize(("samples", "seed"), [(5, 1), (24, -1)])
def test_evaluate_refuses_before_it_asks_a_predictor(digits_folder, tmp_path, capsys, samples, seed):
    (tmp_path / "look.py").write_text("def look(images):\n    return images.mean((1, 2, 3))\n")
    words = ("--samples", samples, "--seed", seed, "--predictor", f"{tmp_path}/look.py:look")
    assert "must be a whole number" in fails(capsys, "evaluate", digits_folder, *words)
    assert not (digits_folder / "attributes.json").exists()


def test_attributes_need_a_predictor(digits_folder, capsys):
    assert "--attributes are the names" in fails(capsys, "evaluate", digits_folder, "--attributes", "smile")


# Occupied folders


@pytest.mark.parametrize("command", ["discover", "demo"])
def test_occupied_run_folders(digits_folder, capsys, command):
    before = contents(digits_folder)
    arguments = ["demo", "--steps", "2"] if command == "demo" else [*DISCOVER[:3], *options()]
    assert "holds a run already" in fails_after_a_word(capsys, *arguments, "--out", digits_folder)
    assert contents(digits_folder) == before


def fails_after_a_word(capsys, *arguments):
    """The demo says what it does before it starts."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert exit_.value.code == 2
    assert told.err.count("\n") == 1
    return told.err


def test_occupied_traversal_folders(digits_folder, tmp_path, capsys):
    main(["traverse", str(digits_folder), "--starts", "1"])
    capsys.readouterr()
    before = contents(digits_folder)
    assert "holds traversals already: overwrite them" in fails(capsys, "traverse", digits_folder, "--starts", "1")
    assert contents(digits_folder) == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["new", "overwrite"])
@pytest.mark.parametrize(
    "names", [["notes.txt"], ["index.json", "index.html"], ["potential-00.png", "a/b"]], ids="+".join
)
def test_traversals_never_replace_other_files(digits_folder, tmp_path, capsys, names, overwrite):
    for name in names:
        file = tmp_path / "cwd" / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    before = contents(tmp_path / "cwd")
    assert "isn't a folder of traversals" in fails(capsys, "traverse", digits_folder, "--out", "site", *overwrite)
    assert contents(tmp_path / "cwd") == before


# Full disks


def failed_line(result):
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("fastflow: error: File too large: '")
    return result.stderr


def test_no_space_for_the_configuration(tmp_path):
    line = failed_line(process(*DISCOVER, *options(), largest_file=100))
    assert "out/config.json'" in line
    assert not list((tmp_path / "cwd").iterdir())


def test_no_space_for_a_checkpoint(tmp_path):
    folder = tmp_path / "cwd" / "out"
    line = failed_line(process(*DISCOVER, *options(), largest_file=20_000))
    assert "checkpoints/step-000003'" in line
    assert sorted(contents(folder)) == ["config.json", "metrics.jsonl"]
    # With room again, the run goes on as if nothing had been.
    main([*DISCOVER, *options(), "--resume"])
    main([*DISCOVER[:4], "whole", *options()])
    assert saved(folder, 6) == saved(tmp_path / "cwd" / "whole", 6)


def test_no_space_for_metrics(tmp_path):
    folder = tmp_path / "cwd" / "out"
    line = failed_line(process(*DISCOVER, *options(log_every=1, steps=500, checkpoint_every=500), largest_file=6_000))
    assert "out/metrics.jsonl'" in line
    steps = [json.loads(text)["step"] for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 10


VAE = ("train-vae", "--data", "digits", "--out", "out")
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


@pytest.mark.parametrize(("arguments", "message"), VAE_REFUSES.values(), ids=VAE_REFUSES)
def test_train_vae_refuses(capsys, tmp_path, arguments, message):
    assert message in fails(capsys, *arguments)
    assert not list((tmp_path / "cwd").iterdir())


def test_no_space_for_traversals(tmp_path, digits_folder):
    main(["traverse", str(digits_folder), "--starts", "1"])
    before = contents(digits_folder)
    line = failed_line(process("traverse", digits_folder, "--starts", "6", "--overwrite", largest_file=4_000))
    assert "run/traversals'" in line
    assert contents(digits_folder) == before


def test_no_space_for_the_evaluation(digits_folder):
    before = contents(digits_folder)
    result = process("evaluate", digits_folder, "--samples", "24", largest_file=200)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "File too large" in result.stderr
    assert "evaluation.json'" in result.stderr
    assert contents(digits_folder) == before


def test_folder_that_can_not_be_made(tmp_path, capsys):
    (tmp_path / "cwd" / "file").write_text("mine")
    said = fails(capsys, *DISCOVER[:3], "--out", "file/run", *options())
    assert said == "Not a directory: 'file/run'"
    assert contents(tmp_path / "cwd") == {"file": b"mine"}


# Training that can't go on


def test_diverging_training_is_one_line_and_keeps_its_checkpoints(tmp_path):
    result = process(*DISCOVER, *options(learning_rate=1e37, steps=50, checkpoint_every=1))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "training stopped at step 2: the latents on the paths: z must be finite" in result.stderr
    assert read_json(tmp_path / "cwd" / "out" / "config.json")["kind"] == "discover"
