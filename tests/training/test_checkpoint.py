"""Checkpoints: whole or absent, and refused with one clear line when they are anything but what was saved."""

import json
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import contents
from torch import nn

from fastflow.core import files
from fastflow.core.digests import digest_of, write_digests
from fastflow.core.errors import InputError
from fastflow.training import checkpoint as checkpoints
from fastflow.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    read_checkpoint,
    read_facts,
    save_checkpoint,
    weights_digest,
)


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
    names = ("digests.sha256", "optimizer.safetensors", "state.json", "weights.safetensors")
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
@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_failure_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch, error, written):
    module, optimizer = trained()
    save_checkpoint(tmp_path, 3, module, optimizer)
    before = contents(tmp_path)

    calls = []

    def fail_after(write):
        def wrapped(file, value):
            if len(calls) == written:
                (file / "half" if file.is_dir() else file).write_bytes(b"half")
                raise error
            calls.append(file)
            return write(file, value)

        return wrapped

    monkeypatch.setattr(checkpoints, "write_tensors", fail_after(checkpoints.write_tensors))
    monkeypatch.setattr(checkpoints, "write_json", fail_after(checkpoints.write_json))
    monkeypatch.setattr(checkpoints, "write_digests", fail_after(checkpoints.write_digests))
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


def make_old(folder):
    """Make a checkpoint one of a version that wrote no digests."""
    (folder / "digests.sha256").unlink()
    state = json.loads((folder / "state.json").read_text())
    assert state.pop("digests") == "digests.sha256"
    (folder / "state.json").write_text(json.dumps(state))


def sign_again(folder):
    """Make the digests those of the files."""
    names = ("weights.safetensors", "optimizer.safetensors", "state.json")
    write_digests(folder, {name: digest_of((folder / name).read_bytes()) for name in names})


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
    "state-missing": (lambda folder: (folder / "state.json").unlink(), "its state.json is missing"),
    "state-no-json": (lambda folder: (folder / "state.json").write_text('{"step": '), "its state.json isn't JSON"),
    "state-no-text": (lambda folder: (folder / "state.json").write_bytes(b"\xff"), "its state.json isn't JSON"),
    "state-deep": (lambda folder: (folder / "state.json").write_text("[" * 100_000), "its state.json can't be used"),
    "state-list": (lambda folder: (folder / "state.json").write_text("[3]"), "doesn't name its step"),
    "state-rows": (
        lambda folder: (folder / "state.json").write_text(json.dumps({"step": 3, "rows": [[1.0], [1.0, 2.0]]})),
        "its state.json has rows [[1.0], [1.0, 2.0]], expected lists of numbers",
    ),
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


@pytest.mark.slow
@pytest.mark.parametrize("version", ["old", "signed-again"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_checkpoint_without_sense_is_refused_whatever_its_digests_say(tmp_path, damage, message, version):
    saved = save_checkpoint(tmp_path, 3, *trained())
    make_old(saved.folder)
    damage(saved.folder)
    if version == "signed-again" and len(list(saved.folder.iterdir())) == 3:
        sign_again(saved.folder)
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


# Digests


def read_all(saved):
    """Read a checkpoint as a resumed training does."""
    module, optimizer = trained(seed=1, steps=1)
    return read_checkpoint(saved, module, optimizer)


@pytest.mark.slow
def test_each_flipped_bit_is_noticed_by_the_name_of_its_file(tmp_path):
    """One bit of each byte, in turn: every reader of the file refuses it."""
    saved = save_checkpoint(tmp_path, 3, *trained())
    readers = {
        "digests.sha256": (read_all, read_facts, weights_digest),
        "state.json": (read_all, read_facts),
        "weights.safetensors": (read_all,),
        "optimizer.safetensors": (read_all,),
    }
    assert set(readers) == {file.name for file in saved.folder.iterdir()}
    for name, read_by in readers.items():
        file = saved.folder / name
        whole = file.read_bytes()
        for place in range(len(whole)):
            data = bytearray(whole)
            data[place] ^= 1 << place % 8
            file.write_bytes(data)
            for read in read_by:
                with pytest.raises(InputError) as error:
                    read(saved)
                message = str(error.value)
                assert f"is damaged: its {name} can't be read: it has changed since it was written" in message
                assert str(saved.folder) in message
                assert "\n" not in message
        file.write_bytes(whole)
    assert read_all(saved).step == 3


@pytest.mark.parametrize("name", ["digests.sha256", "state.json", "weights.safetensors", "optimizer.safetensors"])
def test_each_missing_file_is_noticed(tmp_path, name):
    saved = save_checkpoint(tmp_path, 3, *trained())
    (saved.folder / name).unlink()
    with pytest.raises(InputError, match=f"is damaged: its {name} is missing"):
        read_all(saved)


def test_file_of_another_checkpoint_is_noticed(tmp_path):
    """As a copy that was stopped and went on later leaves it."""
    saved = save_checkpoint(tmp_path, 3, *trained())
    other = save_checkpoint(tmp_path, 4, *trained(seed=2))
    shutil.copy(other.folder / "optimizer.safetensors", saved.folder)
    with pytest.raises(InputError, match=r"optimizer\.safetensors can't be read: it has changed"):
        read_all(saved)


def test_checkpoint_without_digests_is_read_as_before(tmp_path):
    saved = save_checkpoint(tmp_path, 3, *trained())
    expected = read_all(saved)
    make_old(saved.folder)
    found = read_all(saved)
    assert (found.step, found.digest) == (3, expected.digest)
    assert all(torch.equal(value, expected.weights[name]) for name, value in found.weights.items())
    assert weights_digest(saved) == expected.digest


def test_sha256sum_reads_the_digests_too(tmp_path):
    saved = save_checkpoint(tmp_path, 3, *trained())
    command = ["sha256sum", "--check", "--strict", "digests.sha256"]
    found = subprocess.run(command, cwd=saved.folder, capture_output=True, text=True, check=True)
    names = ("optimizer.safetensors", "state.json", "weights.safetensors")
    assert found.stdout.splitlines() == [f"{name}: OK" for name in names]
    assert found.stderr == ""


def test_each_file_is_read_once(tmp_path, monkeypatch):
    """What is parsed is what was checked, and a large checkpoint isn't read twice."""
    saved = save_checkpoint(tmp_path, 3, *trained())
    read, names = files.Path.read_bytes, []

    def counted(file):
        names.append(file.name)
        return read(file)

    monkeypatch.setattr(files.Path, "read_bytes", counted)
    read_all(saved)
    assert sorted(names) == ["digests.sha256", "optimizer.safetensors", "state.json", "weights.safetensors"]
