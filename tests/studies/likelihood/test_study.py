"""The study of the likelihood: what it runs, what it writes, and that nothing is lost when it is stopped."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256

import pytest
import torch

import fastflow as ff
from fastflow import VAEConfig
from fastflow.core.errors import InputError
from fastflow.core.files import read_sealed
from fastflow.studies.likelihood import study as module
from fastflow.studies.likelihood.study import study_likelihood
from fastflow.studies.likelihood.variants import SIZES, VARIANTS, Size, Variant

TINY = VAEConfig(
    data="digits",
    transformations=("rotation", "scale"),
    widths=(8,),
    latent_dim=2,
    batch_size=4,
    hidden=(8,),
    path_steps=2,
    steps=4,
)
SIZE = Size(
    {"digits": TINY}, sides={}, lengths=(1, 2), sequences=4, images=6, num_samples=4, paths=2, fitted=4
)  # fmt: skip
LONG = replace(
    SIZE, configs={"digits": replace(TINY, batch_size=500, steps=100_000, log_every=1, checkpoint_every=100_000)}
)


def study(out, **changes):
    options = {
        "seeds": 2, "size": SIZE, "variants": ("walk",), "groups": ("paths", "pairs"), "progress": False, **changes,
    }  # fmt: skip
    return study_likelihood(out, {"digits": None}, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("study") / "out"
    study(out)
    torch.set_num_threads(threads)
    return out


def measured(out):
    """What was found of each run, without its time."""
    runs = json.loads((out / "results.json").read_text())["runs"]
    timed = ("training_cpu_s", "measuring_cpu_s", "engine_share")
    return [{key: value for key, value in run.items() if key not in timed} for run in runs]


@pytest.mark.slow
def test_every_variant_of_a_group_has_every_seed(done):
    runs = measured(done)
    assert [(run["group"], run["variant"], run["seed"]) for run in runs] == [
        (group, variant, seed)
        for group in ("pairs", "paths")
        for variant in ("companion", "plain", "walk")
        for seed in (0, 1)
    ]
    for run in runs:
        assert ("sequence-2" in run) == ("unknown" in run) == (run["group"] == "paths")
        assert all(math.isfinite(run[name]) for name in ("start", "moved", "pair-1", "pair-2", "published"))
        assert 0 < run["start_effective"] <= 1
        assert run["path_error"] > 0
        assert run["restarts"] == 0
    vaes = {run["parameters"]["vae"] for run in runs}
    assert len(vaes) == 1  # equal encoders and decoders
    assert {"bank", "companion"} <= runs[0]["parameters"].keys()
    assert "bank" not in runs[2]["parameters"]


def test_a_plain_vaes_sequence_is_the_sum_of_its_images(done):
    for seed in (0, 1):
        run = ff.load_run(done / "runs" / "digits" / "paths" / "plain" / f"seed-{seed}")
        _, test = module._splits(TINY, None, None)
        k = torch.tensor([0, 1, 0, 1])
        frames = test.frames(torch.arange(4), k, torch.tensor([[0.0, 0.5, 1.0]]).expand(4, -1))
        together = ff.metrics.sequence_log_likelihood(run, frames, k, 500)
        alone = ff.metrics.log_likelihood(run.vae, frames.flatten(0, 1), 500)
        torch.testing.assert_close(together.each, alone.each.view(4, 3).sum(1), atol=0.1, rtol=0)


def test_every_result_names_the_weights_that_it_was_measured_on(done):
    for run in measured(done):
        folder = done / "runs" / "digits" / run["group"] / run["variant"] / f"seed-{run['seed']}"
        file = folder / "checkpoints" / "step-000004"
        assert run["weights"] == sha256((file / "weights.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_results_of_weights_that_have_changed_are_measured_again(done, tmp_path, monkeypatch):
    out = shutil.copytree(done, tmp_path / "out")
    seeds = [out / "runs" / "digits" / "paths" / "walk" / f"seed-{seed}" / "checkpoints" for seed in (0, 1)]
    shutil.rmtree(seeds[1])
    shutil.copytree(seeds[0], seeds[1])
    asked = []
    monkeypatch.setattr(module, "do", lambda job: asked.append(job.folder) or read_sealed(job.file))
    study(out, resume=True)
    assert asked == [seeds[1].parent]


def test_its_settings_are_in_its_folder(done):
    settings = json.loads((done / "study.json").read_text())
    config = settings["data"]["digits"]["config"]
    assert config["path_steps"] == 2
    assert "matching_weight" not in config  # which the objective doesn't have
    assert settings["lengths"] == [1, 2]


@pytest.mark.slow
def test_a_table_and_a_picture_follow(done):
    text = (done / "table.md").read_text()
    assert text.count("| `walk`") == 8  # in four tables of each group
    assert "Sequences x_0..x_2, trained on whole paths: `companion` has, in nats above `plain`" in text
    assert "times as much as `plain` along its best straight directions" in text
    drawn = (done / "table.png").exists()
    assert drawn == ("](table.png)" in text)
    if drawn:
        assert (done / "table.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_resumed_it_measures_only_what_is_missing(done, monkeypatch):
    files = sorted((done / "runs").rglob("seed-*.json"))
    times = {file: file.stat().st_mtime_ns for file in files}
    before = measured(done)
    files[0].unlink()
    asked = []
    monkeypatch.setattr(module, "train_vae", lambda *a, **k: asked.append(k["out"]) or train_vae(*a, **k))
    study(done, resume=True)
    assert "training_cpu_s" not in json.loads(files[0].read_text())  # nothing was left to train
    assert asked == [files[0].with_suffix("")]
    assert measured(done) == before
    assert all(file.stat().st_mtime_ns == times[file] for file in files[1:])


train_vae = module.train_vae


@pytest.mark.slow
def test_a_training_that_diverges_is_a_finding(tmp_path):
    size = replace(SIZE, configs={"digits": replace(TINY, max_loss=1e-3, restarts=0)})
    text = study(tmp_path / "out", size=size, seeds=1).read_text()
    assert "`companion` with seed 0 failed: training stopped at step 1" in text


@pytest.mark.slow
def test_bad_input_in_a_measurement_ends_that_run_alone(done, tmp_path, monkeypatch):
    def refuse(run, *others):
        raise InputError("the model's likelihood must be finite, got NaN or infinity")

    out = shutil.copytree(done, tmp_path / "out")
    (out / "runs" / "digits" / "paths" / "walk" / "seed-0.json").unlink()
    monkeypatch.setattr(module, "measure", refuse)
    text = study(out, resume=True).read_text()
    assert "`walk` with seed 0 failed: the model's likelihood must be finite" in text
    runs = {(run["group"], run["variant"], run["seed"]): run for run in measured(out)}
    assert len(runs) == 12
    assert [key for key, run in runs.items() if "failed" in run] == [("paths", "walk", 0)]
    monkeypatch.undo()
    study(out, resume=True)
    assert measured(out) == measured(done)


STOPS = {
    "killed": lambda process: process.kill(),
    # As a terminal does with Ctrl-C: the signal reaches every process of the group.
    "interrupted": lambda process: os.killpg(process.pid, signal.SIGINT),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", STOPS)
def test_however_it_is_stopped_its_workers_leave_checkpoints(tmp_path, how):
    out = tmp_path / "out"
    workers, told = stopped(out, "LONG", "metrics.jsonl", STOPS[how])
    assert ("KeyboardInterrupt" in told) == (how != "killed")
    steps = [int(folder.name.removeprefix("step-")) for folder in out.rglob("checkpoints/step-*")]
    assert len(steps) == len(workers) - 1  # one of them is multiprocessing's own tracker of resources
    assert 0 < max(steps) < LONG.configs["digits"].steps


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_same_results(done, tmp_path):
    out = tmp_path / "out"
    stopped(out, "SIZE", "config.json", lambda process: process.terminate())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    study(out, resume=True, seeds=1, groups=("pairs",))
    torch.set_num_threads(threads)
    expected = [run for run in measured(done) if (run["group"], run["seed"]) == ("pairs", 0)]
    assert measured(out) == expected


def stopped(out, size, sign, stop):
    """Begin a study in a process of its own, stop it once there is a file `sign`; its workers, gone, and its stderr."""
    script = out.parent / "script.py"
    script.write_text(
        "import signal, sys\n"
        f"sys.path.insert(0, {str(os.path.dirname(__file__))!r})\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored, where tests run in the background
        f"    from test_study import {size}, study\n"
        f"    study({str(out)!r}, workers=2, size={size}, seeds=1, groups=('pairs',))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        limit = time.monotonic() + 120
        while len(list(out.rglob(sign))) < 2:
            assert time.monotonic() < limit
            assert process.poll() is None
            time.sleep(0.02)
        workers = children(process.pid)
        stop(process)
        told = process.communicate(timeout=120)[1]
    while [pid for pid in workers if alive(pid)]:
        assert time.monotonic() < limit
        time.sleep(0.02)
    return workers, told


def alive(pid):
    """Whether a process runs; one that has ended may wait for a parent that never asks."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid):
    """The processes that a process has started."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += map(int, file.read().split())
    return found


REFUSED = {
    "seeds": ({"seeds": 0}, "seeds must be"),
    "workers": ({"workers": 0}, "workers must be"),
    "size": ({"size": "huge"}, "size must be one of small, paper, got 'huge'"),
    "variants": ({"variants": ("walk", "slow")}, "variants must be among plain, beta"),
    "groups": ({"groups": ("paths", "all")}, "groups must be among paths, pairs, parts, got all"),
    "no groups": ({"groups": ()}, "groups must be among paths, pairs, parts, got none"),
    "lengths": (
        {"size": replace(SIZE, lengths=(1, 3))},
        "lengths must be numbers of steps up to the 2 of digits's paths",
    ),
    "a length of 0": ({"size": replace(SIZE, lengths=(0, 2))}, "lengths must be numbers of steps up to the 2"),
    "supervision": (
        {"size": replace(SIZE, configs={"digits": replace(TINY, supervision="weak")})},
        "configs must have the objective sequence and full supervision",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(tmp_path, case):
    changes, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        study(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_refuses_data_that_it_has_no_settings_for(tmp_path):
    with pytest.raises(InputError, match=r"data must be among digits, got faces"):
        study_likelihood(tmp_path / "out", {"faces": None}, size=SIZE)


@pytest.mark.slow
def test_refuses_a_folder_with_something_else(done, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds a study already: resume it"):
        study(done)
    with pytest.raises(InputError, match="was of other data, size or settings"):
        study(done, resume=True, size=replace(SIZE, num_samples=3))
    monkeypatch.setitem(module.VARIANTS, "walk", Variant({"transition": "straight"}, "another transition"))
    with pytest.raises(InputError, match="was of other data, size or settings of walk"):
        study(done, resume=True)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="isn't empty and isn't a study"):
        study(tmp_path)


def test_sizes_have_the_same_data_and_variants_change_what_they_say():
    assert {tuple(size.configs) for size in SIZES.values()} == {("mnist", "dsprites")}
    for size in SIZES.values():
        for data in size.configs:
            trained = [
                size.config(data, group, name, 3)
                for name, variant in VARIANTS.items()
                for group in variant.groups
                if group != "parts"  # whose settings are those of whole paths
            ]
            assert len(set(map(repr, trained))) == len(trained)
            assert len({(c.network, c.widths, c.latent_dim, c.steps, c.seed) for c in trained}) == 1
            decoded = {c.batch_size * (2 if c.frames == "pairs" else c.path_frames + 1) for c in trained}
            assert len(decoded) == 1
