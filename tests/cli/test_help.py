"""What --help prints: every command and option, in sentences, for any terminal."""

import dataclasses
import io
import re
import subprocess
import sys
import typing

import docstring_parser
import pytest

from fastflow.cli import info, look, study, train
from fastflow.cli.main import main
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.vae_config import VAEConfig

COMMANDS = {
    "info": info.Info,
    "demo": train.Demo,
    "discover": train.Discover,
    "train-vae": train.TrainVAE,
    "traverse": look.Traverse,
    "apply": look.Apply,
    "evaluate": look.Evaluate,
    "name": look.Name,
    "report": look.Report,
    "compare": study.Compare,
    "serve": look.Serve,
    "study": study.Study,
}


def help_of(capsys, *words):
    """What a command's --help prints."""
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--help"])
    assert exit_.value.code == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def descriptions(cls):
    """The help of every field of a command or a configuration, by the field's name."""
    found = {}
    for base in reversed(cls.__mro__[:-1]):
        found.update({p.arg_name: p.description for p in docstring_parser.parse_from_object(base).params})
    return {field.name: found.get(field.name) for field in dataclasses.fields(cls) if field.name != "settings"}


def settings_of(cls):
    """The configuration whose settings are options of a command, or None."""
    return {train.Discover: DiscoverConfig, study.Compare: DiscoverConfig, train.TrainVAE: VAEConfig}.get(cls)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)], ids=["nothing", "--help", "-h"])
def test_help_names_every_command(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    output = capsys.readouterr()
    assert all(name in output.out for name in COMMANDS)
    assert output.err == ""


@pytest.mark.parametrize("cls", [*COMMANDS.values(), DiscoverConfig, VAEConfig], ids=lambda cls: cls.__name__)
def test_every_option_is_described_in_sentences(cls):
    for name, text in {"(summary)": cls.__doc__, **descriptions(cls)}.items():
        assert text, f"{name} has no help"
        # The help keeps a docstring's line breaks, so that each must be the end of a sentence.
        for line in (line.strip() for line in text.splitlines()):
            assert line.endswith("."), f"{name} is no sentence: {line}"
            assert not line.startswith("Of "), f"{name} needs its name to be understood: {line}"
            assert len(line.split()) >= 2, f"{name} says too little: {line}"


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_option_and_all_of_its_text_within_the_columns(capsys, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    page = help_of(capsys, command)
    assert max(map(len, page.splitlines())) <= columns
    assert "(default: )" not in page
    dense = re.sub(r"[\s│]", "", page)
    cls = COMMANDS[command]
    assert re.sub(r"\s", "", cls.__doc__) in dense
    for part in filter(None, (cls, settings_of(cls))):
        hints = typing.get_type_hints(part, include_extras=True)
        for name, text in descriptions(part).items():
            assert re.sub(r"\s", "", text) in dense, name
            if columns == 40:
                assert set(text.split()) <= set(page.split()), f"the help of {name} has broken words"
            if "Positional" not in str(hints[name]):
                assert f"--{name.replace('_', '-')}" in dense


WIDTHS = ["1", "0", "-5", "abc", "10", "39", "40", "80", "120", "1000000", "9" * 30]
EVERY_WIDTH = f"""
import os
from fastflow.cli.main import main
for columns in {WIDTHS}:
    os.environ["COLUMNS"] = columns
    try:
        main(["name", "--help"])
    except SystemExit as exit_:
        assert exit_.code == 0
    assert os.environ["COLUMNS"] == columns
    print("END")
"""


@pytest.mark.slow
def test_help_is_written_for_40_to_120_columns_in_any_terminal():
    # In a process of its own, as in a terminal of one column tyro would work for minutes.
    done = subprocess.run(
        [sys.executable, "-c", EVERY_WIDTH],
        capture_output=True, text=True, timeout=120, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    pages = done.stdout.split("END\n")[:-1]
    widest = {columns: max(map(len, page.splitlines())) for columns, page in zip(WIDTHS, pages, strict=True)}
    assert len({widest[columns] for columns in ("1", "10", "39", "40")}) == 1
    assert pages[WIDTHS.index("1")] == pages[WIDTHS.index("40")]
    assert pages[WIDTHS.index("1000000")] == pages[WIDTHS.index("120")] == pages[WIDTHS.index("9" * 30)]
    assert widest["40"] <= 40 < widest["80"] <= 80 < widest["120"] <= 120


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize(("no_color", "colours"), [("", True), ("1", False)])
def test_help_has_colours_in_a_terminal_unless_no_color_is_set(monkeypatch, no_color, colours):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit):
        main(["name", "--help"])
    assert ("\x1b[" in terminal.getvalue()) == colours


def test_help_is_plain_where_letters_beyond_ascii_can_not_be_printed(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", output)
    with pytest.raises(SystemExit):
        main(["--help"])
    output.flush()
    assert b"train-vae" in output.buffer.getvalue()
