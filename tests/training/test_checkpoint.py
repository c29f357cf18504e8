"""Checkpoints: whole or absent, and refused with one clear line when they are anything but what was saved."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import contents
from torch import nn

from fastflow.core import files
from fastflow.core.errors import InputError
from fastflow.training import checkpoint as checkpoints
from fastflow.training.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint, save_checkpoint


def trained(seed=0, steps=3, width=4):
    """A small module after a few steps of Adam."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(steps):
        step(module, optimizer)
    return module, optimizer


def step(module, optimizer):
    optimizer.zero_grad()
    module(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()


def same(module, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in module.state_dict().items())


def test_saved_and_loaded_training_goes_on_alike(tmp_path):
    module, optimizer = trained()
    saved = save_checkpoint(tmp_path, 3, module, optimizer)
    assert saved == Checkpoint(tmp_path / "step-000003", 3)
    names = ("optimizer.safetensors", "state.json", "weights.safetensors")
    assert sorted(contents(tmp_path)) == [f"step-000003/{name}" for name in names]

    other, other_optimizer = trained(seed=1, steps=1)
    read_checkpoint(saved, other, other_optimizer).load(other, other_optimizer)
    assert same(module, other)
    step(module, optimizer)
    step(other, other_optimizer)
    assert same(module, other)


def test_without_its_state_the_optimizer_would_go_elsewhere(tmp_path):
    module, optimizer = trained()
    saved = save_checkpoint(tmp_path, 3, module, optimizer)
    other, other_optimizer = trained(seed=1, steps=0)
    read_checkpoint(saved, other).load(other)
    step(module, optimizer)
    step(other, other_optimizer)
    assert not same(module, other)


def test_latest_goes_by_number_and_ignores_what_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "absent") is None
    for name in ("step-000009", "step-000010", "step-1000000", ".step-2000000.77.tmp", "step-12", "steps-000099"):
        (tmp_path / name).mkdir()
    assert latest_checkpoint(tmp_path) == Checkpoint(tmp_path / "step-1000000", 1_000_000)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "interrupt"]
)
@pytest.mark.parametrize("written", [0, 1, 2])
def test_failure_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch, error, written):
    module, optimizer = trained()
    save_checkpoint(tmp_path, 3, module, optimizer)
    before = contents(tmp_path)

    calls = []

    def fail_after(write):
        def wrapped(file, value):
            if len(calls) == written:
                file.write_bytes(b"half")
                raise error
            calls.append(file)
            write(file, value)

        return wrapped

    monkeypatch.setattr(checkpoints, "write_tensors", fail_after(checkpoints.write_tensors))
    monkeypatch.setattr(checkpoints, "write_json", fail_after(checkpoints.write_json))
    step(module, optimizer)
    for number in (3, 4):  # in the old one's place, and beside it
        calls.clear()
        with pytest.raises(type(error)):
            save_checkpoint(tmp_path, number, module, optimizer)
        assert contents(tmp_path) == before
        assert len(list(tmp_path.iterdir())) == 1


def test_failure_while_renaming_puts_the_old_one_back(tmp_path, monkeypatch):
    module, optimizer = trained()
    save_checkpoint(tmp_path, 3, module, optimizer)
    before = contents(tmp_path)
    rename = files.Path.rename

    def fail(path, target):
        if path.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(files.Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        save_checkpoint(tmp_path, 3, module, optimizer)
    assert contents(tmp_path) == before


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".step-000003.12345.tmp").mkdir()
    (tmp_path / ".step-000003.12345.tmp" / "weights.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, 4, *trained())
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004"]


def rewrite(name, change):
    """Change the tensors in one of a checkpoint's files."""

    def damage(folder):
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return damage


def truncate(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-7])


DAMAGES = {
    "weights-missing": (lambda folder: (folder / "weights.safetensors").unlink(), "its weights.safetensors is missing"),
    "weights-truncated": (truncate("weights.safetensors"), "its weights.safetensors can't be read"),
    "weights-empty": (lambda folder: (folder / "weights.safetensors").write_bytes(b""), "can't be read"),
    "weights-foreign": (
        lambda folder: (folder / "weights.safetensors").write_bytes(b"PK\x03\x04" * 99),
        "can't be read",
    ),
    "weights-nan": (
        rewrite("weights.safetensors", lambda tensors: tensors["0.bias"].fill_(float("nan"))),
        "'0.bias' in its weights.safetensors holds NaN or infinity",
    ),
    "weight-missing": (
        rewrite("weights.safetensors", lambda tensors: tensors.pop("0.bias")),
        "of another model: '0.bias'",
    ),
    "weight-extra": (
        rewrite("weights.safetensors", lambda tensors: tensors.update(more=torch.zeros(1))),
        "of another model: 'more'",
    ),
    "state-missing": (lambda folder: (folder / "state.json").unlink(), "state.json' can't be read"),
    "state-no-json": (lambda folder: (folder / "state.json").write_text('{"step": '), "state.json' isn't JSON"),
    "state-list": (lambda folder: (folder / "state.json").write_text("[3]"), "doesn't name its step"),
    "state-of-another-step": (
        lambda folder: (folder / "state.json").write_text(json.dumps({"step": 4})),
        "doesn't name its step",
    ),
    "optimizer-missing": (
        lambda folder: (folder / "optimizer.safetensors").unlink(),
        "optimizer.safetensors is missing",
    ),
    "optimizer-truncated": (truncate("optimizer.safetensors"), "its optimizer.safetensors can't be read"),
    "optimizer-foreign": (
        lambda folder: shutil.copy(folder / "weights.safetensors", folder / "optimizer.safetensors"),
        "in its optimizer.safetensors doesn't fit its weights",
    ),
    "optimizer-empty": (
        lambda folder: save_file({}, folder / "optimizer.safetensors"),
        "optimizer.safetensors is empty",
    ),
    "optimizer-no-names": (
        rewrite("optimizer.safetensors", lambda tensors: tensors.update(momentum=torch.zeros(1))),
        "'momentum' in its optimizer.safetensors doesn't fit",
    ),
    "optimizer-inf": (
        rewrite("optimizer.safetensors", lambda tensors: tensors["1.exp_avg"].fill_(float("inf"))),
        "'1.exp_avg' in its optimizer.safetensors holds NaN or infinity",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_is_refused_and_loads_nothing(tmp_path, damage, message):
    saved = save_checkpoint(tmp_path, 3, *trained())
    damage(saved.folder)
    module, optimizer = trained(seed=1, steps=1)
    untouched, _ = trained(seed=1, steps=1)
    with pytest.raises(InputError) as error:
        read_checkpoint(saved, module, optimizer)
    assert message in str(error.value)
    assert str(saved.folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert same(module, untouched)


def test_checkpoint_of_another_size_is_refused(tmp_path):
    saved = save_checkpoint(tmp_path, 3, *trained(width=5))
    with pytest.raises(InputError, match=r"of another model: '0.bias' doesn't fit the configuration"):
        read_checkpoint(saved, trained()[0])
