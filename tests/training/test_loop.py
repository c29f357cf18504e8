"""The training loop: what it writes, and that stopping, killing and resuming change nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from support.runs import contents, metrics, options, saved, sigmoid_generator, small_config, small_run, weights

from fastflow import generators
from fastflow.core.errors import InputError, TrainingError
from fastflow.core.rng import step_rng
from fastflow.runs.loading import load_run
from fastflow.runs.train import discover
from fastflow.training import loop, metrics_log, progress
from fastflow.training.discover import Discovery
from fastflow.training.loop import Losses, Trainer
from fastflow.training.metrics_log import append
from fastflow.training.timers import PHASES, PhaseTimer

COMMAND = [sys.executable, "-m", "fastflow", "discover", "--generator", "digits-vae"]
# A convolution's weight gradient is summed in an order that depends on the number of threads.
THREADS = str(torch.get_num_threads())
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": THREADS, "MKL_NUM_THREADS": THREADS}


class Line:
    """A task that fits one number; `poison` maps a step to what happens in it."""

    user_terms = ()

    def __init__(self, poison=None):
        self.module = torch.nn.Linear(1, 1)
        self.phases = PhaseTimer(torch.device("cpu"))
        self.poison = poison or {}
        self.step = 0

    def draw(self, step):
        self.step = step
        return torch.randn(8, 1, generator=step_rng(0, step))

    def losses(self, batch):
        loss = (self.module(batch) - 3).square().mean()
        return self.poison.get(self.step, lambda loss: Losses(loss, {"double": 2 * loss.detach()}))(loss)

    def after_step(self, step):
        pass


def same_bits(left, right):
    return all(torch.equal(value, right[name]) for name, value in left.items())


# What it writes


@pytest.mark.slow
def test_metrics_have_a_line_per_interval_with_its_means(tmp_path):
    expected = []
    task = Discovery(small_config(), sigmoid_generator())
    optimizer = torch.optim.Adam(task.module.parameters(), lr=1e-3)
    for step in range(1, 8):
        losses = task.losses(task.draw(step))
        optimizer.zero_grad()
        losses.loss.backward()
        optimizer.step()
        expected.append(losses.loss.item())

    small_run(tmp_path / "run", steps=7)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    means = [sum(expected[a:b]) / (b - a) for a, b in ((0, 2), (2, 4), (4, 6), (6, 7))]
    assert [line["loss"] for line in lines] == pytest.approx(means, rel=1e-6)
    names = {"step", "loss", "pde", "initial", "jacobian", "classifier", "accuracy", "strength", "learning_rate"}
    assert all(set(line) == names | {"steps_per_second", *(f"share_{name}" for name in PHASES)} for line in lines)
    assert all(0 <= line["accuracy"] <= 1 and line["strength"] > 0 for line in lines)


def test_checkpoints_are_at_the_interval_and_at_the_end(tmp_path):
    small_run(tmp_path / "run", steps=7)
    folders = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert folders == ["step-000003", "step-000006", "step-000007"]


def test_progress_is_told_in_lines_where_asked(tmp_path, capsys, monkeypatch):
    for name in ("FIRST", "INTERVAL"):
        monkeypatch.setattr(progress, name, 0.0)
    discover(sigmoid_generator(), small_config(steps=3, log_every=1), tmp_path / "run", progress="lines")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["fastflow: step 1 of 3", "fastflow: step 2 of 3"]
    for line in lines:
        assert re.search(r", [\d.]+ (steps a second|seconds a step), about 1 s left, loss [\d.e+-]+$", line)


def test_short_training_has_no_lines(tmp_path, capsys):
    discover(sigmoid_generator(), small_config(), tmp_path / "run", progress="lines")
    assert capsys.readouterr().err == ""


def test_slow_steps_are_logged_before_their_interval_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LONGEST_SILENCE", 0.0)
    discover(sigmoid_generator(), small_config(steps=3, log_every=3), tmp_path / "run", progress=False)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (89, "about 89 s"), (90, "about 2 min"), (5399, "about 90 min"), (9000, "about 2.5 h")],
)
def test_spans_are_told_in_words(seconds, words):
    assert progress.span(seconds) == words


@pytest.mark.slow
def test_progress_bar_is_shown_only_where_asked(tmp_path, capsys):
    generator, config = sigmoid_generator(), small_config()
    discover(generator, config, tmp_path / "silent", progress=False)
    assert capsys.readouterr().err == ""
    discover(generator, config, tmp_path / "shown", progress=True)
    assert "6/6" in capsys.readouterr().err


# Seeds


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_of_one_seed_are_the_same_to_the_bit(tmp_path, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in ("a", "b"):
            # Large enough that torch divides the work among the threads.
            small_run(tmp_path / name, steps=3, batch_size=256, hidden=(64, 64), path_steps=5)
            torch.rand(5)  # the state of the global generator must not matter
    finally:
        torch.set_num_threads(before)
    assert saved(tmp_path / "a", 3) == saved(tmp_path / "b", 3)
    assert saved(tmp_path / "a", 3, "optimizer.safetensors") == saved(tmp_path / "b", 3, "optimizer.safetensors")


@pytest.mark.slow
def test_another_seed_is_another_run(tmp_path):
    runs = [weights(small_run(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    assert all(not torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_training_leaves_torch_as_it_was(tmp_path):
    small_run(tmp_path / "run")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_training_leaves_the_global_random_numbers_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    small_run(tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_random_numbers_differ_between_steps_seeds_and_streams():
    draws = [torch.rand(4, generator=step_rng(*place)) for place in ((0, 1), (0, 2), (1, 1), (0, 1, 1))]
    assert len(torch.stack(draws).unique(dim=0)) == 4
    assert torch.equal(draws[0], torch.rand(4, generator=step_rng(0, 1)))


def test_seeds_of_any_size_have_random_numbers_of_their_own():
    """As numbers of more than 32 bits are split into words, seed 2^32 at step 1 could be seed 0 in another stream."""
    places = [(0, 1, 1), (2**32, 1, 0), (0, 1, 0), (2**32, 0, 1), (1, 0, 0), (2**63 - 1, 1, 0), (2**32 - 1, 1, 0)]
    assert len({step_rng(*place).initial_seed() for place in places}) == len(places)
    # What runs of smaller seeds draw stays what it was.
    small = np.random.SeedSequence((5, 7, 1)).generate_state(1, np.uint64)[0]
    assert step_rng(5, 7, 1).initial_seed() == int(small)


# Resuming


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 3, 4], ids=["before-a-checkpoint", "at-one", "after-one"])
def test_resumed_run_ends_with_the_same_bits(tmp_path, first):
    small_run(tmp_path / "whole")
    small_run(tmp_path / "parts", steps=first)
    run = small_run(tmp_path / "parts", resume=True)
    assert run.step == 6
    for file in ("weights.safetensors", "optimizer.safetensors"):
        assert saved(tmp_path / "parts", 6, file) == saved(tmp_path / "whole", 6, file)
    assert same_bits(weights(run), weights(load_run(tmp_path / "parts", sigmoid_generator())))


@pytest.mark.slow
def test_lines_have_the_same_means_after_a_stop_between_two_of_them(tmp_path):
    small_run(tmp_path / "run", steps=6, checkpoint_every=3, log_every=2)
    whole = metrics(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000006")
    small_run(tmp_path / "run", steps=6, checkpoint_every=3, log_every=2, resume=True)
    for before, after in zip(whole, metrics(tmp_path / "run"), strict=True):
        assert {k: v for k, v in after.items() if not k.startswith(("share_", "steps_per"))} == {
            k: v for k, v in before.items() if not k.startswith(("share_", "steps_per"))
        }


@pytest.mark.slow
def test_resume_drops_the_lines_that_it_repeats(tmp_path):
    folder = tmp_path / "run"
    small_run(folder)
    whole = metrics(folder)
    # As after a kill in step 6: the last checkpoint is older than the last lines, and one line was cut off.
    for file in (folder / "checkpoints" / "step-000006").iterdir():
        file.unlink()
    (folder / "checkpoints" / "step-000006").rmdir()
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 7, "los')
    small_run(folder, resume=True)
    resumed = metrics(folder)
    assert [line["step"] for line in resumed] == [2, 4, 6]
    assert resumed[0] == whole[0]
    assert resumed[2]["loss"] == whole[2]["loss"]


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing_but_lets_it_go_on(tmp_path):
    folder = tmp_path / "run"
    small_run(folder)
    before = contents(folder)
    small_run(folder, resume=True)
    assert contents(folder) == before
    assert small_run(folder, resume=True, steps=8).step == 8
    small_run(tmp_path / "whole", steps=8)
    assert saved(folder, 8) == saved(tmp_path / "whole", 8)


def test_resume_without_a_run_starts_one(tmp_path):
    assert small_run(tmp_path / "new", resume=True).step == 6


def test_resume_refuses_fewer_steps_than_are_done(tmp_path):
    small_run(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="6 steps long already, steps is 4"):
        small_run(tmp_path / "run", resume=True, steps=4)
    assert contents(tmp_path / "run") == before


# Losses that aren't finite


def run_line(folder, poison, **changes):
    folder.mkdir()
    Trainer(Line(poison), small_config(**changes), folder).run(progress=False)


def test_loss_that_is_not_finite_ends_the_training(tmp_path):
    poison = {4: lambda loss: Losses(loss * float("nan"), {"double": loss.detach()})}
    with pytest.raises(
        TrainingError,
        match=r"at step 4: loss is no longer finite; the last good checkpoint is '.*/step-000002'; resume",
    ):
        run_line(tmp_path / "run", poison, checkpoint_every=2)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-000002"]


def test_logged_value_that_is_not_finite_is_named(tmp_path):
    poison = {1: lambda loss: Losses(loss, {"double": loss.detach() / 0})}
    with pytest.raises(
        TrainingError,
        match="at step 1: double is no longer finite; there is no checkpoint yet; try a smaller learning_rate",
    ):
        run_line(tmp_path / "run", poison)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    # The gradient of sqrt at 0 is infinite while the loss is finite, and nothing is logged before the checkpoint.
    poison = {3: lambda loss: Losses((loss - loss).sqrt(), {"double": loss.detach()})}
    with pytest.raises(TrainingError, match="at step 3: weight is no longer finite"):
        run_line(tmp_path / "run", poison, log_every=100, checkpoint_every=3)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_metrics_line_is_whole_or_absent(tmp_path, monkeypatch):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n')

    def half(record):
        with file.open("a") as stream:
            stream.write('{"st')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics_log.json, "dumps", half)
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        append(file, {"step": 2})
    assert file.read_text() == '{"step": 1}\n'


# Signals


def test_signal_waits_for_the_step_and_leaves_its_checkpoint(tmp_path):
    def interrupt(loss):
        os.kill(os.getpid(), signal.SIGINT)
        return Losses(loss, {"double": loss.detach()})

    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 6; resume to go on from there"):
        run_line(tmp_path / "run", {2: interrupt}, checkpoint_every=100)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-000002"]
    assert signal.getsignal(signal.SIGINT) is before


def test_signal_in_the_last_step_finds_all_done(tmp_path):
    def interrupt(loss):
        os.kill(os.getpid(), signal.SIGTERM)
        return Losses(loss, {"double": loss.detach()})

    run_line(tmp_path / "run", {6: interrupt})
    assert (tmp_path / "run" / "checkpoints" / "step-000006").is_dir()


def test_signal_between_the_checkpoint_and_the_end_of_a_step_waits(tmp_path, monkeypatch):
    """Such a one must not stop the run at a step without a checkpoint."""
    save, steps = loop.save_checkpoint, []

    def interrupted(folder, step, *rest):
        if not steps:
            os.kill(os.getpid(), signal.SIGINT)
        steps.append(step)
        return save(folder, step, *rest)

    monkeypatch.setattr(loop, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        run_line(tmp_path / "run", {}, checkpoint_every=2)
    assert steps == [2, 3]


def test_second_signal_acts_at_once(tmp_path):
    def interrupt_twice(loss):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal came too late")

    with pytest.raises(KeyboardInterrupt):
        run_line(tmp_path / "run", {1: interrupt_twice})
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_training_works_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=run_line, args=(tmp_path / "run", {}))
    thread.start()
    thread.join()
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2, 4, 6]


def start_and_signal(folder, number, after):
    """Train in a process of its own, signal it once metrics.jsonl names the step `after`, and return it when ended."""
    words = options(steps=100_000, log_every=1, checkpoint_every=4)
    arguments = [*COMMAND, "--out", str(folder), *words]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True)
    deadline = time.monotonic() + 60
    file = folder / "metrics.jsonl"
    while not (file.exists() and f'"step": {after},' in file.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.output, process.errors = process.communicate(timeout=60)
    return process


def newest(folder):
    return max(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))


def resume_here(folder, steps):
    config = small_config(steps=steps, log_every=1, checkpoint_every=4)
    discover(generators.load("digits-vae"), config, folder, resume=True, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_signalled_process_resumes_to_the_same_bits(tmp_path, number):
    folder = tmp_path / "run"
    process = start_and_signal(folder, number, after=9)
    stopped = newest(folder)
    assert process.returncode == 130
    assert re.fullmatch(
        rf"fastflow: stopped after step {stopped} of 100000; resume to go on from there\n", process.errors
    )
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == stopped
    assert stopped >= 8

    end = stopped + 3
    resume_here(folder, end)
    resume_here(tmp_path / "whole", end)  # nothing there: an uninterrupted run
    assert saved(folder, end) == saved(tmp_path / "whole", end)
    assert saved(folder, end, "optimizer.safetensors") == saved(tmp_path / "whole", end, "optimizer.safetensors")
    assert [line["step"] for line in metrics(folder)] == list(range(1, end + 1))
    assert not list((folder / "checkpoints").glob(".*"))
