"""A process killed at any moment, even while it writes a checkpoint, leaves a run that resumes to the same bits."""

import random
import signal

import pytest
from support import moving
from support.processes import context, train
from support.runs import SMALL, contents, metrics, saved

# Every step is logged and every third is saved, so that moments within a save or a line are hit too.
OFTEN = {"steps": 50, "batch_size": 48, "log_every": 1, "checkpoint_every": 3, "ema": 0.9, "dt": 0.9}
SETTINGS = {"discover": {**SMALL, **OFTEN}, "train-vae": {**moving.SMALL, **OFTEN, "supervision": "weak"}}


def lines(folder):
    file = folder / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_killed_five_times_and_resumed_a_run_ends_with_the_same_bits(tmp_path, settings):
    whole = context().Process(target=train, args=(tmp_path / "whole", settings))
    whole.start()
    whole.join(120)
    assert whole.exitcode == 0

    rng = random.Random(7)
    folder, done = tmp_path / "killed", []
    for _ in range(5):
        child = context().Process(target=train, args=(folder, settings, {"resume": True}))
        child.start()
        enough = lines(folder) + rng.randint(1, 8)
        while lines(folder) < enough and child.is_alive():
            child.join(0.001)
        child.join(rng.uniform(0, 0.02))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        done.append(lines(folder))
    assert done == sorted(set(done))
    child = context().Process(target=train, args=(folder, settings, {"resume": True}))
    child.start()
    child.join(120)
    assert child.exitcode == 0

    for name in ("weights.safetensors", "optimizer.safetensors", "state.json"):
        assert saved(folder, 50, name) == saved(tmp_path / "whole", 50, name)
    assert [line["step"] for line in metrics(folder)] == list(range(1, 51))
    losses = [[line["loss"] for line in metrics(tmp_path / name)] for name in ("killed", "whole")]
    assert losses[0] == losses[1]
    assert contents(folder).keys() == contents(tmp_path / "whole").keys()
