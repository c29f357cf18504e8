"""The torture suite in short: each part finds nothing in a few cases, and notices a fault that is planted."""

import json
import time

import pytest
import torch
from hypothesis.strategies import just
from support.processes import context
from torture import planted
from torture.calls import Calls
from torture.command import main
from torture.flips import Flips, run_readers
from torture.hostile_files import Files, Kind, kinds_of_arrays, kinds_of_images
from torture.mutations import Sample, json_samples
from torture.page import Page
from torture.parts import PARTS, Entry
from torture.planted import OPEN_TO_ALL, careless_reader, outcomes, small_folder
from torture.supervision import Supervised

from fastflow.engine.backends import native
from fastflow.saved.names import read_names


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.slow
def test_calls_find_nothing(tmp_path):
    counts, faults = outcomes(Calls(tmp_path, 0), range(45))
    assert not faults
    assert counts["right"] >= 15
    assert counts["refused"] >= 8


@pytest.mark.slow
def test_calls_notice_a_wrong_value(tmp_path, monkeypatch):
    jet = native.jet

    def wrong(*arguments, **options):
        u, *others = jet(*arguments, **options)
        return u + 1e-3, *others

    monkeypatch.setattr(native, "jet", wrong)
    _, faults = outcomes(Calls(tmp_path, 0), range(0, 90, 3))
    assert any("off, allowed are" in fault for fault in faults)


def test_calls_notice_an_error_that_nobody_documents(tmp_path, monkeypatch):
    def careless(*_):
        raise KeyError("planted")

    monkeypatch.setattr("fastflow.engine.potentials.check_index", careless)
    _, faults = outcomes(Calls(tmp_path, 0), range(1, 30, 3))
    assert any("KeyError: 'planted'" in fault for fault in faults)


@pytest.mark.slow
def test_flips_find_nothing(tmp_path):
    counts, faults = outcomes(Flips(tmp_path, 0, small_folder, run_readers), range(99))
    assert not faults
    assert counts["refused"] > 50


@pytest.mark.slow
def test_flips_notice_a_careless_reader(tmp_path):
    _, faults = outcomes(Flips(tmp_path, 0, small_folder, careless_reader), range(5))
    assert any("other values, without a word" in fault for fault in faults)


def some_kinds(folder):
    names = Kind(
        "names.json",
        "run/names.json",
        json_samples((folder / "run" / "names.json").read_bytes()),
        lambda folder: read_names(folder / "run", 3),
    )
    return [names, *kinds_of_images(folder)[:2], *kinds_of_arrays(folder)[:1]]


@pytest.mark.slow
def test_files_find_nothing(tmp_path):
    counts, faults = outcomes(Files(tmp_path, 0, small_folder, some_kinds), range(4))
    assert not faults
    assert counts["refused"] > 40


def careless_kinds(folder):
    file, samples = "run/names.json", just(Sample(b"{}", "planted"))
    return [
        Kind("unclear", file, samples, lambda folder: {}["planted"]),
        Kind("large", file, samples, lambda folder: (b"x" * (400 << 20))[-1]),
    ]


@pytest.mark.slow
def test_files_notice_unclear_errors_and_memory(tmp_path):
    _, faults = outcomes(Files(tmp_path, 0, small_folder, careless_kinds), range(2))
    assert "KeyError: 'planted'" in faults[0]
    assert " MB" in faults[1]


def in_a_process(*arguments):
    receiver, sender = context().Pipe(duplex=False)
    child = context().Process(target=planted.send_tried, args=(sender, *arguments))
    child.start()
    sender.close()  # so that its end ends the wait
    assert receiver.poll(300)
    child.join()
    return receiver.recv()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "plant", "words"),
    [
        ("kills", "", None),
        ("disk", "", None),
        ("kills", "lost", "neither as before nor as it will be"),
        ("disk", "silent", "aren't what it makes undisturbed"),
    ],
)
def test_kills_and_disks(tmp_path, kind, plant, words):
    _, faults = in_a_process(kind, tmp_path, 5, plant)
    assert any(words in fault for fault in faults) if words else not faults


@pytest.mark.slow
def test_page_finds_nothing(tmp_path):
    pytest.importorskip("gradio", reason="needs the extra app: pip install 'fastflow[app]'")
    counts, faults = outcomes(Page(tmp_path, 0), range(1))
    assert not faults
    assert counts.total() == 20


@pytest.mark.slow
def test_page_notices_a_server_that_answers_everybody(tmp_path):
    _, faults = outcomes(Page(tmp_path, 0, ("-c", OPEN_TO_ALL)), range(2))
    assert any("is answered" in fault for fault in faults)


@pytest.mark.slow
def test_crashes_and_hangs_are_faults_and_the_part_goes_on(tmp_path):
    entry = Entry("torture.planted:Unruly", 1.0, "cases that go wrong")
    part = Supervised("unruly", 0, tmp_path, tmp_path, 300, range(6), entry)
    while not part.poll():
        time.sleep(0.05)
    assert part.counts == {"right": 3, "refused": 0, "failed": 3}
    assert json.loads((tmp_path / "unruly.json").read_text())["tried"] == 6
    told = {
        number: json.loads((tmp_path / "faults" / f"unruly-{number}" / "fault.json").read_text())
        for number in (1, 2, 3)
    }
    assert "SIGSEGV" in told[1]["what"]
    assert "didn't end" in told[2]["what"]
    assert told[3]["what"] == "KeyError: 'planted'"
    assert "--only unruly --seed 0 --case 1" in told[1]["again"]
    assert (tmp_path / "faults" / "unruly-2" / "case" / "input").read_text() == "2"


def test_a_part_that_goes_on_for_long_does_not_hang(tmp_path, monkeypatch):
    """Between two cases, long after it has begun."""
    part = Supervised("unruly", 0, tmp_path, tmp_path, 300, range(0), Entry("torture.planted:Unruly", 1.0, ""))
    part._process.join()
    part._started, part._next = time.monotonic() - 1000, 5
    part._board[3], part._board[4] = 7, -1.0
    monkeypatch.setattr(part._process, "is_alive", lambda: True)
    assert not part.poll()
    assert part.counts.total() == 0
    part._board[3] = 4  # no case yet
    part.poll()
    assert part.counts == {"right": 0, "refused": 0, "failed": 1}


@pytest.mark.slow
def test_the_command_prints_a_table(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--only", "calls", "--case", "3", "--out", str(tmp_path)])
    assert exit_.value.code == 0
    assert f"| calls | {PARTS['calls'].what} | 1 | 0 | 1 | 0 |" in capsys.readouterr().out
