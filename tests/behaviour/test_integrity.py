"""Whatever has changed in a run's folder is noticed, and every figure names the weights that it was measured on."""

import json
import shutil
from hashlib import sha256

import pytest
import torch
from support import moving
from support.runs import contents, saved, sigmoid_generator, small_run

from fastflow.core.errors import InputError
from fastflow.generators.state_dicts import read_state_dict
from fastflow.metrics.evaluation import evaluate
from fastflow.report import write_traversals
from fastflow.report.page import write_report
from fastflow.runs import run as runs
from fastflow.runs.loading import load_run, read_config

WEIGHTS = "checkpoints/step-000006/weights.safetensors"


def draw(run, folder, **options):
    """Write a run's traversals, as few as possible."""
    return write_traversals(run, folder, potentials=[0], starts=1, **options)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(runs, "write_traversals", draw)
    monkeypatch.setattr(runs, "evaluate", lambda run, samples, *rest: evaluate(run, 6, *rest))


@pytest.fixture(scope="module")
def _trained(tmp_path_factory):
    run = small_run(tmp_path_factory.mktemp("trained") / "run")
    run.evaluate(24, progress=False)
    draw(run, run.folder / "traversals")
    return run.folder


@pytest.fixture
def folder(_trained, tmp_path):
    """A run with everything that a report has measured."""
    return shutil.copytree(_trained, tmp_path / "run")


def load(folder):
    return load_run(folder, sigmoid_generator())


def resume(folder):
    return small_run(folder, resume=True, steps=9)


def record(folder, name):
    return json.loads((folder / name).read_text())


def words(page):
    """The text of a page with its markup, on one line."""
    return " ".join(page.read_text(encoding="utf-8").split())


def flips(file, count=None):
    """Flip a bit of some of a file's bytes, or of all, one after the other."""
    whole = file.read_bytes()
    for place in range(0, len(whole), 1 if count is None else max(1, len(whole) // count)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        file.write_bytes(data)
        yield place
    file.write_bytes(whole)


READERS = {
    "digests.sha256": (load, resume),
    "state.json": (load, resume),
    "weights.safetensors": (load, resume, lambda folder: read_state_dict(folder / WEIGHTS)),
    "optimizer.safetensors": (resume,),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_flipped_bits_of_a_checkpoint_are_noticed_by_every_reader(folder, name):
    file = folder / "checkpoints" / "step-000006" / name
    for _ in flips(file, count=4):  # of each byte in tests/training/test_checkpoint.py
        before = contents(folder)
        for read in READERS[name]:
            with pytest.raises(InputError) as error:
                read(folder)
            assert name in str(error.value)
            assert "can't be read: it has changed since it was written" in str(error.value)
            assert "\n" not in str(error.value)
        assert contents(folder) == before
    assert load(folder).step == 6


def test_flipped_bits_of_a_vae_are_noticed(tmp_path):
    run = moving.small_vae(tmp_path / "run")
    assert load_run(run.folder).weights == run.weights == sha256(saved(run.folder, 6)).hexdigest()
    for _ in flips(run.folder / WEIGHTS, count=4):
        with pytest.raises(InputError, match=r"its weights\.safetensors can't be read: it has changed"):
            load_run(run.folder)


@pytest.mark.slow
def test_flipped_bits_of_the_settings_are_noticed(folder):
    file = folder / "config.json"
    expected, missed = record(folder, "config.json"), 0
    for _ in flips(file, count=300):
        try:
            read_config(folder)
        except InputError as error:
            assert "config.json" in str(error)  # noqa: PT017, a pytest.raises for each byte would miss those that load
            continue
        found = record(folder, "config.json")
        assert all(found.get(key) == expected[key] for key in ("kind", "versions", "config"))
        missed += 1
    assert missed < 200  # the generator's description, which is compared with the generator
    change(folder, "config.json", lambda config: config["config"].update(dt=0.5))
    with pytest.raises(InputError, match=r"config\.json' has changed since it was written"):
        load(folder)


def change(folder, name, how):
    value = record(folder, name)
    how(value)
    (folder / name).write_text(json.dumps(value))


def test_settings_that_somebody_changed_on_purpose_are_read(folder):
    change(folder, "config.json", lambda config: (config.pop("digest"), config["config"].update(dt=0.5)))
    assert load(folder).config.dt == 0.5


def found(run, name):
    """A record of figures without the time that measuring took, which no digest covers."""
    record = run._current(name)
    return None if record is None else {key: value for key, value in record.items() if key != "seconds"}


def test_flipped_bits_of_figures_are_measured_again(folder, monkeypatch):
    run = load(folder)
    for name in ("evaluation.json", "traversals/index.json"):
        whole = found(run, name)
        assert whole is not None
        assert all(found(run, name) in (None, whole) for _ in flips(folder / name, count=100))
        assert found(run, name) == whole


def test_every_figure_names_the_weights_of_its_checkpoint(folder):
    run = load(folder)
    expected = sha256(saved(folder, 6)).hexdigest()
    assert run.weights == expected
    run.correlate(lambda images: images.mean((1, 2, 3)), samples=4)
    run.evaluate(24, progress=False)
    names = ("evaluation.json", "attributes.json", "traversals/index.json")
    assert {name: record(folder, name)["weights"] for name in names} == dict.fromkeys(names, expected)


@pytest.mark.slow
def test_run_in_hand_and_loaded_run_name_the_same_weights(tmp_path):
    for steps, mode in ((6, {}), (9, {"resume": True}), (9, {"resume": True})):  # the last one is done already
        run = small_run(tmp_path / "run", steps=steps, ema=0.9, **mode)
        assert load(run.folder).weights == run.weights == sha256(saved(run.folder, steps)).hexdigest()


def test_weights_that_changed_in_memory_are_other_weights(folder):
    run = load(folder)
    before = run.weights
    with torch.no_grad():
        run.bank.out_bias += 1
    assert run.evaluate(24, progress=False)["weights"] == run.weights != before
    assert load(folder)._current("evaluation.json") is None
    with torch.no_grad():
        run.bank.out_bias.copy_(load(folder).bank.out_bias)
    assert run.weights == before


@pytest.mark.slow
def test_figures_of_other_weights_are_measured_again_at_the_same_step(folder):
    old = contents(folder)
    other = small_run(folder, overwrite=True, seed=1)
    for name in ("evaluation.json", "traversals/index.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(old[name])
    said = words(write_report(folder))
    assert "The run’s weights have changed since these numbers were measured." in said
    assert "The run’s weights have changed since these pictures were drawn." in said
    load(folder).report(samples=24, progress=False)
    for name in ("evaluation.json", "traversals/index.json"):
        assert record(folder, name)["weights"] == other.weights
    said = words(folder / "report.html")
    assert "weights have changed" not in said
    assert other.weights in said


@pytest.mark.slow
def test_attributes_of_other_weights_are_noted(folder):
    load(folder).correlate(lambda images: images.mean((1, 2, 3)), samples=4)
    old = (folder / "attributes.json").read_bytes()
    small_run(folder, overwrite=True, seed=1)
    (folder / "attributes.json").write_bytes(old)
    load(folder).report(samples=24, progress=False)
    assert "The run’s weights have changed since the attributes were measured." in words(folder / "report.html")


def make_old(folder):
    """Make a run one of a version that wrote no digests."""
    for checkpoint in (folder / "checkpoints").iterdir():
        (checkpoint / "digests.sha256").unlink()
        change(checkpoint, "state.json", lambda state: state.pop("digests"))
    for name in ("config.json", "evaluation.json", "traversals/index.json"):
        change(folder, name, lambda value: (value.pop("digest"), value.pop("weights", None)))


@pytest.mark.slow
def test_run_of_an_earlier_version_is_read_and_nothing_false_is_said(folder):
    expected = load(folder)
    make_old(folder)
    run = load(folder)
    assert run.weights == expected.weights
    assert torch.equal(run.bank.out_weight, expected.bank.out_weight)
    said = words(write_report(folder))
    assert "changed since" not in said
    assert "gone on to step" not in said
    run.report(samples=24, progress=False)  # what doesn't name its weights is measured again
    assert record(folder, "evaluation.json")["weights"] == run.weights
    assert resume(folder).step == 9
    shutil.rmtree(folder / "checkpoints" / "step-000006")
    assert load(folder).step == 9
