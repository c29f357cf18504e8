"""Every reader of JSON refuses damaged and hostile files in one short line."""

import json

import pytest
from support.runs import small_run

import fastflow as ff
from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.runs.loading import read_config
from fastflow.studies.comparison.measures import is_measured as is_comparison_measured
from fastflow.studies.jobs import begin_folder, read_found
from fastflow.studies.likelihood.table import is_measured
from fastflow.training.checkpoint import latest_checkpoint
from fastflow.training.metrics_log import MetricsLog

HOSTILE = {
    "deep": "[" * 50_000,
    "deep-objects": '{"kind":' * 900 + "1" + "}" * 900,
    "long-key": '{"%s": 1}' % ("1" * 5000),
    "long-number": '{"step": %s}' % ("9" * 5000),
    "surrogate": '{"kind": "\\ud800"}',
    "twice": '{"kind": 1, "kind": 2}',
    "nan": '{"step": NaN}',
    "list": "[1]",
    "number": "7",
    "null": "null",
    "binary": "\x80\0",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("hostile") / "run", ff.generators.load("digits-vae"))


@pytest.fixture(params=HOSTILE)
def hostile(request):
    return HOSTILE[request.param].encode("latin-1")


READERS = {
    "config": ("config.json", lambda run, file: ff.load_run(run.folder)),
    "config-alone": ("config.json", lambda run, file: read_config(run.folder)),
    "names": ("names.json", lambda run, file: run.names),
    "state": ("checkpoints/step-000006/state.json", lambda run, file: ff.load_run(run.folder)),
    "edit": ("edit.json", lambda run, file: ff.load_edit(file)),
    "settings": ("study.json", lambda run, file: begin_folder(run.folder, {}, name="study", resume=True)),
    "results": ("seed-0.json", lambda run, file: read_found(file, is_measured)),
    "comparison": ("seed-0.json", lambda run, file: read_found(file, lambda x: is_comparison_measured(x, ["a"]))),
}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_it_in_one_line(run, hostile, reader):
    assert latest_checkpoint(run.folder / "checkpoints").folder.name == "step-000006"
    name, read = READERS[reader]
    file = run.folder / name
    before = file.read_bytes() if file.exists() else None
    file.write_bytes(hostile)
    try:
        with pytest.raises(InputError) as error:
            read(run, file)
    finally:
        file.unlink() if before is None else file.write_bytes(before)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_settings_for_a_training_refuse_it_in_one_line(hostile, tmp_path, capsys):
    (tmp_path / "settings.json").write_bytes(hostile)
    with pytest.raises(SystemExit) as exit_:
        main(
            [
                "discover",
                "--generator",
                "digits-vae",
                "--out",
                str(tmp_path),
                "--config",
                str(tmp_path / "settings.json"),
            ]
        )
    told = capsys.readouterr().err
    assert exit_.value.code == 2
    assert told.count("\n") == 1
    assert len(told) < 1200


@pytest.mark.slow
def test_report_notes_it(run, hostile):
    files = ["evaluation.json", "names.json", "attributes.json", "traversals/index.json", "traversals/landscapes.json"]
    (run.folder / "traversals").mkdir(exist_ok=True)
    before = {name: (run.folder / name).read_bytes() for name in files if (run.folder / name).exists()}
    log = (run.folder / "metrics.jsonl").read_bytes()
    try:
        for name in files:
            (run.folder / name).write_bytes(hostile)
        (run.folder / "metrics.jsonl").write_bytes(hostile + b"\n" + log)
        page = ff.report.write_report(run.folder)
        assert page.stat().st_size > 1000
    finally:
        for name in files:
            (run.folder / name).unlink()
        for name, content in before.items():
            (run.folder / name).write_bytes(content)
        (run.folder / "metrics.jsonl").write_bytes(log)


def test_damaged_lines_of_a_log_are_dropped_and_the_others_kept(tmp_path, hostile):
    line = json.dumps({"step": 2, "loss": float("nan")}).encode()
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([line, hostile, b"x" * 3_000_000, line]) + b"\n")
    MetricsLog(tmp_path, after=2).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"\n".join([line, line]) + b"\n"


@pytest.mark.parametrize(
    "changes",
    [{"num_potentials": 10**12}, {"hidden": [10**9, 10**9]}, {"num_potentials": 10**30, "batch_size": 10**30}],
    ids=["potentials", "widths", "beyond-64-bits"],
)
def test_sizes_are_compared_with_the_checkpoint_before_anything_is_built(run, changes, monkeypatch):
    file = run.folder / "config.json"
    before = file.read_text()
    record = json.loads(before)
    record["config"].update({"batch_size": 10**13, **changes})
    del record["digest"]  # by which the change would be noticed
    monkeypatch.setattr("fastflow.runs.loading.untrained_potentials", None)
    file.write_text(json.dumps(record))
    try:
        with pytest.raises(InputError, match=r"values or more, and weights|must be below 2\^63"):
            ff.load_run(run.folder)
    finally:
        file.write_text(before)


def test_an_edit_has_no_more_steps_than_anybody_waits_for(run, tmp_path):
    value = run.edit(0, 10_000).to_json()
    value["parts"] *= 11
    (tmp_path / "edit.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="must have at most 100000 steps in all"):
        ff.load_edit(tmp_path / "edit.json")
