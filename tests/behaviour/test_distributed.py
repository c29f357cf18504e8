"""Processes that train together: the same curve as one alone, one folder, one error, one place to stop."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from support import moving
from support.processes import context, train, train_group
from support.runs import SMALL, metrics, options, sigmoid_generator, small_config

from fastflow.core.errors import InputError
from fastflow.training.discover import Discovery
from fastflow.training.distributed import SINGLE_PROCESS, ProcessGroup, local_device, process_group

SETTINGS = {
    **SMALL,
    "steps": 10,
    "batch_size": 12,
    "log_every": 1,
    "checkpoint_every": 4,
    "companion": True,
    "ema": 0.5,
}


def finish(children):
    for child in children:
        child.join(120)
    return [child.exitcode for child in children]


def curve(folder):
    """What doesn't depend on the clock, line by line."""
    timed = ("learning_rate", "steps_per_second")
    names = [name for name in metrics(folder)[0] if name not in timed and not name.startswith("share_")]
    return torch.tensor([[line[name] for name in names] for line in metrics(folder)], dtype=torch.float64)


def assert_alike(folder, other, step):
    torch.testing.assert_close(curve(folder), curve(other), rtol=1e-4, atol=1e-5)
    one, two = (load_file(run / f"checkpoints/step-{step:06d}/weights.safetensors") for run in (folder, other))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    child = context().Process(target=train, args=(folder, SETTINGS))
    child.start()
    assert finish([child]) == [0]
    return folder


@pytest.mark.slow
def test_torchrun_with_two_processes_gives_the_curve_of_one(tmp_path, alone):
    words = [*options(**{name: value for name, value in SETTINGS.items() if name != "companion"}), "--companion"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "fastflow", "discover", "--generator", "digits-vae", "--out", str(tmp_path / "run"), *words],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained Run(") == 1
    assert_alike(tmp_path / "run", alone, 10)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints", "config.json", "metrics.jsonl", "names.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_processes_stop_together_and_resumes_to_the_curve_of_one(tmp_path, alone):
    folder = tmp_path / "run"
    children = train_group(2, folder, {**SETTINGS, "steps": 10_000})
    deadline = time.monotonic() + 60
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(children[1].pid, signal.SIGTERM)  # to one of them alone, and not the leader
    assert finish(children) == [1, 1]  # KeyboardInterrupt
    stopped = metrics(folder)[-1]["step"]
    assert (folder / "checkpoints" / f"step-{stopped:06d}").is_dir()
    end = max(stopped + 2, 10)
    assert finish(train_group(2, folder, {**SETTINGS, "steps": end}, {"resume": True})) == [0, 0]
    torch.testing.assert_close(curve(folder)[:10], curve(alone), rtol=1e-4, atol=1e-5)
    assert [line["step"] for line in metrics(folder)] == list(range(1, end + 1))


@pytest.mark.slow
@pytest.mark.parametrize("supervision", ["full", "weak"])
def test_processes_train_a_vae_along_the_curve_of_one(tmp_path, supervision):
    settings = {**moving.SMALL, "log_every": 1, "supervision": supervision, "prior": "diffusion", "ema": 0.5}
    child = context().Process(target=train, args=(tmp_path / "one", settings))
    child.start()
    assert finish([child]) == [0]
    assert finish(train_group(2, tmp_path / "two", settings)) == [0, 0]
    assert_alike(tmp_path / "two", tmp_path / "one", 6)


@pytest.mark.slow
def test_error_of_the_leader_ends_all(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    assert finish(train_group(2, tmp_path / "run", SETTINGS)) == [1, 1]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_latents_that_one_process_alone_refuses_end_all(tmp_path):
    """The other waits in that step's sums, where no restart would find it."""
    settings = {**SETTINGS, "companion": False, "restarts": 3}
    started = time.monotonic()
    exits = finish(train_group(2, tmp_path / "run", settings, refusing_rank=1))
    assert exits[1] == 1
    assert exits[0] != 0
    assert time.monotonic() - started < 60


# What needs no second process


def test_parts_of_a_batch_are_the_batch():
    whole = Discovery(small_config(), sigmoid_generator()).draw(3)
    parts = [Discovery(small_config(), sigmoid_generator(), group=ProcessGroup(rank, 3)).draw(3) for rank in range(3)]
    for name in ("z0", "potential", "place"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_batch_must_be_divisible():
    assert ProcessGroup(1, 3).rows(12) == slice(4, 8)
    with pytest.raises(InputError, match="batch_size must be a multiple of the 5 processes, got 12"):
        ProcessGroup(1, 5).rows(12)


def test_process_of_its_own_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group(torch.device("cpu")) as group:
        assert group is SINGLE_PROCESS
    x = torch.ones(2)
    assert group.mean(x) is x
    assert group.total(x) is x
    assert group.on_leader(lambda: 3) == 3


def test_each_process_of_a_machine_has_a_device(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert [local_device(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:2", "cuda:1", "cpu"]
    monkeypatch.delenv("LOCAL_RANK")
    assert local_device("cuda") == "cuda"
