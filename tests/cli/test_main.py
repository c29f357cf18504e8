"""The program: as a module and as a script, its errors and warnings in one line each."""

import io
import shlex
import subprocess
import sys
import warnings
from importlib.metadata import version

import pytest
from support.commands import fails
from support.runs import options, small_run

from fastflow.cli import info
from fastflow.cli.main import main
from fastflow.core.errors import InputError


def shell(*arguments, **settings):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, **settings)


@pytest.mark.slow
def test_python_dash_m_and_the_script_are_the_same_program(capsys, monkeypatch):
    module = shell(sys.executable, "-W", "error", "-m", "fastflow", "info")
    assert (module.returncode, module.stderr) == (0, "")
    monkeypatch.setattr(sys, "argv", ["fastflow", "info"])
    main()  # as the script does
    assert capsys.readouterr() == (module.stdout, "")


@pytest.mark.slow
def test_reader_that_stops_reading_is_no_error():
    result = shell("bash", "-c", f"{sys.executable} -u -m fastflow info | true; echo ${{PIPESTATUS[0]}}")
    assert (result.stdout, result.stderr) == ("0\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("arguments", [["discovr"], ["discover"], ["demo", "--steps", "many"]], ids=" ".join)
def test_explanations_lose_their_frames(capsys, monkeypatch, arguments, encoding):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    said = fails(capsys, *arguments)
    assert "---" not in said
    assert "─" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["discovr"], "there is no command 'discovr'; perhaps you meant discover; the commands are info, demo, disco"),
        (["x"], "there is no command 'x'; the commands are info, demo, discover, train-vae, traverse, "),
        (["demo", "--stepz", "3"], "--stepz, 3; perhaps you meant --steps; see fastflow demo --help"),
        (["discover", "--out", "x"], "fastflow discover needs --generator; see fastflow discover --help"),
        (["discover"], "fastflow discover needs --out and --generator; see fastflow discover --help"),
        (
            ["discover", "--generators", "faces", "--out", "x"],
            "fastflow discover needs --generator; unknown options: --generators faces; perhaps you meant --generator",
        ),
        (["traverse"], "fastflow traverse needs FOLDER; see fastflow traverse --help"),
        (["demo", "--steps", "many"], "--steps must be a whole number, got 'many'"),
        (["discover", "--out", "x", "--generator", "faces", "--dt", "a"], "--dt must be a number, got 'a'"),
        (["traverse", "x", "--steps", "a"], "--steps must be INT, got ['a']"),
    ],
    ids=lambda case: case if isinstance(case, str) else " ".join(case),
)
def test_what_can_not_be_parsed_is_said_in_plain_words(capsys, arguments, message):
    assert message in fails(capsys, *arguments)


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_is_told(capsys, option):
    main([option])
    assert capsys.readouterr().out == f"fastflow {version('fastflow')}\n"


def test_names_that_a_terminal_does_not_have_are_shown_by_escapes(tmp_path, monkeypatch):
    run = small_run(tmp_path / "a run")
    run.name(0, "größe ✓")
    output = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", output)
    main(["name", str(run.folder)])
    output.flush()
    assert output.buffer.getvalue() == b"  0  gr\\xf6\\xdfe \\u2713\n"


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "shown"), [("a run's; folder", "a run's; folder"), ("-r", "./-r")])
def test_suggested_commands_are_as_one_types_them(tmp_path, monkeypatch, capsys, folder, shown):
    monkeypatch.chdir(tmp_path)
    main(["discover", "--generator", "digits-vae", f"--out={folder}", *options(steps=2)])
    line = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(line.partition("next: ")[2])
    assert words == ["fastflow", "report", shown]
    main(["name", words[2]])


OPAQUE = """
import torch
class Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.sigmoid()
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0] * (1 - ctx.saved_tensors[0])
def decode(z):
    return Sigmoid.apply(z).reshape(-1, 1, 2, 2)
"""


def test_warnings_are_one_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(OPAQUE)
    words = ["--generator", f"{tmp_path}/mine.py:decode", "--latent-dim", "4", "--out", str(tmp_path / "run")]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "`torch.jit.script`")  # torch's own, the first time
        main(["discover", *words, *options(steps=1)])
    output = capsys.readouterr().err
    assert output.startswith("fastflow: warning: forward-mode differentiation of the generator failed")
    assert output.count("\n") == 1


@pytest.mark.parametrize("text", ["a\x1b]0;title\x07b", "a\x1b[2Jb", "a\u202eb", "a\x9bb"], ids=ascii)
def test_messages_never_steer_the_terminal(capsys, monkeypatch, text):
    """A file's name, or a value in a stranger's file, may hold a terminal's commands."""

    def warn_and_fail(_):
        warnings.simplefilter("always")
        warnings.warn(text, stacklevel=1)
        raise InputError(f"it is {text}\nand more")

    monkeypatch.setattr(info.Info, "run", warn_and_fail)
    with pytest.raises(SystemExit, match="2"):
        main(["info"])
    shown = repr(text)[1:-1]
    expected = f"fastflow: warning: {shown}\nfastflow: error: it is {shown} and more\n"
    assert capsys.readouterr().err == expected
    assert shown.isprintable()
