"""Training that diverges: it says where and what, keeps good checkpoints alone, and restarts from them if it may."""

import shutil

import pytest
import torch
from support.runs import metrics, saved, small_run

from fastflow.core.errors import TrainingError
from fastflow.generators import from_callable
from fastflow.training.checkpoint import latest_checkpoint
from fastflow.training.discover import Discovery
from fastflow.training.loop import Losses

# A rate at which the first steps already throw the weights about.
WILD = {"learning_rate": 1e3, "out_activation": "identity", "residual": "square", "pde_weight": 100.0}


def poisoned(monkeypatch, step, term, value, times=10**6):
    """Make a term of the objective take a value the first `times` times that a step comes; the steps that came.

    The first of them is the step whose batch is tried before anything is written.
    """
    plain, draw, drawn = Discovery.losses, Discovery.draw, []

    def losses(task, batch):
        loss, logged = plain(task, batch)
        if drawn[-1] == step and drawn.count(step) <= times:
            logged[term] = logged[term] + value
            loss = loss + value
        return Losses(loss, logged)

    def record(task, number):
        drawn.append(number)
        return draw(task, number)

    monkeypatch.setattr(Discovery, "losses", losses)
    monkeypatch.setattr(Discovery, "draw", record)
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("term", ["pde", "initial", "jacobian", "classifier"])
def test_step_and_term_are_named_however_rarely_it_logs(tmp_path, monkeypatch, term):
    poisoned(monkeypatch, 5, term, float("nan"))
    with pytest.raises(TrainingError) as error:
        small_run(tmp_path / "run", log_every=6, checkpoint_every=1)
    newest = tmp_path / "run" / "checkpoints" / "step-000003"  # those of step 4 are what step 5 failed with
    assert latest_checkpoint(newest.parent).folder == newest
    assert f"stopped at step 5: {term} is no longer finite; the last good checkpoint is '{newest}'" in str(error.value)


def test_checkpoint_is_not_written_after_a_bad_step(tmp_path, monkeypatch):
    poisoned(monkeypatch, 4, "pde", float("inf"))
    with pytest.raises(TrainingError, match="step 4: pde is no longer finite"):
        small_run(tmp_path / "run", log_every=6, checkpoint_every=5)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_divergence_is_a_value_beyond_the_limit(tmp_path, monkeypatch):
    poisoned(monkeypatch, 3, "initial", 2e3)
    with pytest.raises(TrainingError, match=r"step 3: initial is 2e\+03, beyond max_loss 1000; there is no checkpoint"):
        small_run(tmp_path / "run", max_loss=1e3, log_every=4, checkpoint_every=6)


def test_wild_learning_rate_is_caught(tmp_path):
    with pytest.raises(TrainingError, match=r"training stopped at step \d+: \w+ (is no longer finite|is .*, beyond)"):
        small_run(tmp_path / "run", steps=60, checkpoint_every=100, **WILD)


def test_restart_goes_on_from_the_last_good_checkpoint_with_a_smaller_rate(tmp_path, monkeypatch, capsys):
    drawn = poisoned(monkeypatch, 5, "pde", float("nan"), times=1)
    small_run(tmp_path / "run", restarts=1, restart_factor=0.1, log_every=1)
    assert drawn == [1, 1, 2, 3, 4, 5, 4, 5, 6]
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    rates = [line["learning_rate"] for line in metrics(tmp_path / "run")]
    assert rates == pytest.approx([1e-3] * 3 + [1e-4] * 3)
    printed = capsys.readouterr().err
    assert "at step 5: pde is no longer finite; restart 1 of 1 from step 3 with learning rate 0.0001" in printed

    # The smaller rate outlives a resume.
    small_run(tmp_path / "run", restarts=1, restart_factor=0.1, log_every=1, steps=8, resume=True)
    assert metrics(tmp_path / "run")[-1]["learning_rate"] == pytest.approx(1e-4)


@pytest.mark.slow
def test_restart_before_the_first_checkpoint_begins_again(tmp_path, monkeypatch):
    drawn = poisoned(monkeypatch, 2, "pde", float("nan"), times=1)
    restarted = small_run(tmp_path / "run", restarts=1, restart_factor=0.5, ema=0.5)
    whole = small_run(tmp_path / "whole", learning_rate=5e-4, ema=0.5)
    assert drawn[:5] == [1, 1, 2, 1, 2]
    assert torch.equal(restarted.bank.out_weight, whole.bank.out_weight)


@pytest.mark.slow
def test_restarts_are_counted(tmp_path, monkeypatch):
    drawn = poisoned(monkeypatch, 5, "pde", float("nan"))
    with pytest.raises(TrainingError, match="step 5: pde is no longer finite; the last good checkpoint is"):
        small_run(tmp_path / "run", restarts=2)
    assert drawn.count(5) == 3


@pytest.mark.slow
def test_resume_with_more_restarts_goes_on(tmp_path, monkeypatch):
    poisoned(monkeypatch, 5, "pde", float("nan"), times=2)
    with pytest.raises(TrainingError):
        small_run(tmp_path / "run")
    assert small_run(tmp_path / "run", restarts=1, resume=True).step == 6


def test_kill_while_a_checkpoint_is_removed_leaves_the_one_before(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def half(folder, **options):
        (folder / "weights.safetensors").unlink(missing_ok=True)
        if not options:
            raise Killed

    poisoned(monkeypatch, 5, "pde", float("nan"))
    monkeypatch.setattr(shutil, "rmtree", half)
    with pytest.raises(Killed):
        small_run(tmp_path / "run", checkpoint_every=2)
    monkeypatch.undo()
    checkpoints = tmp_path / "run" / "checkpoints"
    assert latest_checkpoint(checkpoints).step == 2
    assert len(list(checkpoints.iterdir())) == 2  # the other is hidden
    small_run(tmp_path / "run", steps=3, checkpoint_every=8, resume=True)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000002", "step-000003"]


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_predictor_that_fails_costs_no_checkpoint(tmp_path, monkeypatch, restarts):
    poisoned(monkeypatch, 5, "guidance", float("nan"))
    options = {"predictor": lambda images: images.mean((1, 2, 3))}
    with pytest.raises(TrainingError) as error:
        small_run(tmp_path / "run", checkpoint_every=4, options=options, restarts=restarts)
    newest = tmp_path / "run" / "checkpoints" / "step-000004"
    message = (
        f"step 5: guidance is no longer finite; the last good checkpoint is '{newest}'; "
        "check the function that computes guidance, and resume"
    )
    assert message in str(error.value)
    monkeypatch.undo()
    assert small_run(tmp_path / "run", checkpoint_every=4, options=options, resume=True).step == 6


def test_latents_that_are_refused_name_the_term_that_went_first(tmp_path):
    generator = from_callable(lambda z: (z / (z.norm(dim=1, keepdim=True) < 3)).reshape(-1, 1, 2, 2), 4)
    with pytest.raises(TrainingError, match=r"training stopped at step \d+: (jacobian|classifier) is no longer finite"):
        small_run(tmp_path / "run", generator, batch_size=64, log_every=6)


@pytest.mark.slow
def test_run_that_restarts_ends_with_the_same_bits_in_two_parts(tmp_path):
    """Also where a checkpoint turns out to be beyond saving, so that the one before it must do."""
    settings = {**WILD, "restarts": 12, "restart_factor": 0.03}
    whole = small_run(tmp_path / "whole", steps=12, **settings)
    small_run(tmp_path / "parts", steps=3, **settings)
    small_run(tmp_path / "parts", steps=12, resume=True, **settings)
    assert metrics(tmp_path / "whole")[-1]["learning_rate"] < 1e3
    assert whole.bank.out_weight.isfinite().all()
    assert saved(tmp_path / "whole", 12) == saved(tmp_path / "parts", 12)
