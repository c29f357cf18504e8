"""The command line: `fastflow COMMAND`, also `python -m fastflow`."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from typing import Annotated, Any, NoReturn, cast, get_args

import torch
import tyro

from fastflow.cli import info, inputs, look, study, train
from fastflow.core.errors import BackendError, ConvergenceError, InputError, TrainingError
from fastflow.core.files import in_one_line, printable
from fastflow.training.distributed import is_follower

Command = tyro.conf.OmitSubcommandPrefixes[
    Annotated[info.Info, tyro.conf.subcommand("info")]
    | Annotated[train.Demo, tyro.conf.subcommand("demo")]
    | Annotated[train.Discover, tyro.conf.subcommand("discover")]
    | Annotated[train.TrainVAE, tyro.conf.subcommand("train-vae")]
    | Annotated[look.Traverse, tyro.conf.subcommand("traverse")]
    | Annotated[look.Apply, tyro.conf.subcommand("apply")]
    | Annotated[look.Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[look.Name, tyro.conf.subcommand("name")]
    | Annotated[look.Report, tyro.conf.subcommand("report")]
    | Annotated[study.Compare, tyro.conf.subcommand("compare")]
    | Annotated[look.Serve, tyro.conf.subcommand("serve")]
    | Annotated[study.Study, tyro.conf.subcommand("study")]
]

COMMANDS: dict[str, type[Any]] = {
    settings.name: kind for kind, settings in map(get_args, get_args(get_args(Command)[0]))
}
"""The commands by their names."""

NARROWEST, WIDEST = 40, 120
"""The columns that help is written for, at least and at most. In very few, tyro would work for minutes."""
FRAMED = 60
"""The columns from which help has tyro's frames. In fewer, tyro would break words: the column of text is too narrow."""
ONE_COLUMN = 129
"""The widest terminal in which tyro puts no two frames side by side."""

_PLAIN_WORDS = {
    r" \(applied to [\w -]+\)| Arguments are applied to .*? matter\.": "",
    " Available subcommands:": "; the commands are",
    r"Error parsing \[?([\w-]+)\]?:": r"\1:",
    r": invalid literal for int\(\).*: (.*)": r" must be a whole number, got \1",
    r": could not convert string to float: (.*)": r" must be a number, got \1",
    r": Could not find valid parse for .*: (.*)": r" can't be read from \1",
    r": no type matching (?:\{None\}\|)?(\S+) could be instantiated from (.*?)\. Got errors:.*": r" must be \1, got \2",
}
"""How tyro's explanations of errors read here, by patterns of its own words."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Bad input ends with one line on stderr and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _print_anything()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            if arguments in (["--version"], ["-V"]):
                print(f"fastflow {version('fastflow')}")
                return
            _parse(arguments or ["--help"]).run()
    except (InputError, BackendError, TrainingError, ConvergenceError) as error:
        _fail(str(error))
    except torch.OutOfMemoryError as error:
        full = str(error).split(". ")[0].removesuffix(".")
        _fail(f"{full}; take a smaller --batch-size, or --device cpu")
    except (MemoryError, RuntimeError) as error:
        too_large = ("DefaultCPUAllocator: can't allocate memory", "Storage size calculation overflowed")
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in too_large):
            raise
        size = re.search(r"allocate (\d+) bytes", str(error))
        needed = f": {int(size[1]) / 2**30:.1f} GiB were needed at once" if size else ""
        _fail(f"not enough memory{needed}; take a smaller batch, fewer samples or fewer steps")
    except BrokenPipeError:  # the reader of the output, such as head, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _fail(f"{error.strerror or error}" + (f": {error.filename!r}" if error.filename else ""))
    except KeyboardInterrupt as error:
        if not is_follower():
            print(f"fastflow: {str(error) or 'interrupted'}", file=sys.stderr)
        raise SystemExit(130) from None


def _print_anything() -> None:
    """Let stdout show what its encoding doesn't have, such as ü on an ASCII terminal, by escapes, as stderr does."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _parse(arguments: list[str]) -> inputs.Command:
    """The command in the arguments. What tyro explains in a frame becomes one line."""
    _check_command(arguments[0])
    defaults = train.training_defaults(arguments)
    options: dict[str, Any] = {} if defaults is None else {"default": defaults}
    explanation = io.StringIO()
    try:
        with contextlib.redirect_stderr(explanation), _tidy_page():
            command: Any = tyro.cli(
                cast(Any, Command),  # a type checker doesn't take a union of types for a type
                prog="fastflow",
                description="Meaningful controls in generative models, as flows of learned potentials.",
                args=arguments,
                **options,
            )
            return command
    except SystemExit as exit_:
        if not exit_.code:
            raise
        _fail(_one_line(explanation.getvalue(), arguments[0]))


def _check_command(word: str) -> None:
    """Raise InputError unless the first word is a command or an option, and say which command was meant."""
    if word.startswith("-") or word in COMMANDS:
        return
    close = difflib.get_close_matches(word, COMMANDS, 1)
    meant = f"; perhaps you meant {close[0]}" if close else ""
    known = ", ".join(COMMANDS)
    raise InputError(f"there is no command {word!r}{meant}; the commands are {known}; see fastflow --help")


@contextlib.contextmanager
def _tidy_page() -> Iterator[None]:
    """Print what tyro prints for a terminal of a sensible width, in plain text if NO_COLOR is set."""
    columns = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    before = dict(os.environ)
    framed = columns >= FRAMED
    os.environ["COLUMNS"] = str(columns if framed else ONE_COLUMN)
    if os.environ.get("NO_COLOR") or not framed:
        os.environ["TERM"] = "dumb"
    output = sys.stdout.encoding or "utf-8"
    page = _Page(output if framed else "utf-8")
    try:
        with contextlib.redirect_stdout(page):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        # Where a default is nothing, as of a list, tyro says so in no words.
        if text := page.getvalue().replace("(default: )", " " * len("(default: )")):
            if not framed:
                text = _unframed(text, columns)
            if "utf" not in output.lower():
                text = text.replace("•", "*").encode(output, "replace").decode(output)
            print("\n".join(_wrapped(line, columns) for line in map(_printable, text.splitlines())), flush=True)


class _Page(io.StringIO):
    """Collects what is printed, and passes for the output that it will be printed to, but in this encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self.output, self.output_encoding = sys.stdout, encoding

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.output_encoding

    def isatty(self) -> bool:
        return self.output.isatty()


def _printable(line: str) -> str:
    """A line of help with its colours, and with escapes for what else can't be printed: defaults may be a file's."""
    parts = re.split(r"(\x1b\[[\d;]*m)", line)
    return "".join(part if place % 2 else printable(part) for place, part in enumerate(parts))


def _wrapped(line: str, columns: int) -> str:
    """A line of help as tyro writes it, wrapped where tyro doesn't: in the usage and in a command's summary."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", line)  # without colours
    if plain.startswith(("│", "|")) or len(plain) <= columns:
        return line
    indent = ""
    if plain.startswith("usage:"):
        plain, indent = plain.replace(",", ", "), " " * len("usage: ")
    return textwrap.fill(plain, columns, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _unframed(page: str, columns: int) -> str:
    """A page of help for a narrow terminal: without frames, and with each text below its option."""
    lines: list[str] = []
    text: list[str] = []

    def wrap(words: str, indent: int, hang: int) -> None:
        lines.extend(
            textwrap.wrap(
                words, columns, initial_indent=" " * indent, subsequent_indent=" " * hang, break_on_hyphens=False
            )
        )

    def end_of_text() -> None:
        wrap(" ".join(text), 6, 6)
        text.clear()

    for line in page.splitlines():
        content = line.strip("│|").rstrip()
        if line.startswith(("╭", "╰", "+")):
            end_of_text()
            if title := line.strip("╭╮╰╯+─- "):
                lines += [""] * bool(lines[-1]) + [f"{title}:"]
        elif not line.startswith(("│", "|")):
            lines.append(line)
        elif not content.strip("─- "):  # a rule
            end_of_text()
        elif content.startswith(" " * 5):
            text.append(content.strip())
        else:
            end_of_text()
            option, _, first = content.strip().partition("  ")
            wrap(re.sub(r",(?=\S)", ", ", option), 2, 5)
            text += [first.strip()] if first else []
    return "\n".join(lines)


def _options(kind: type[Any]) -> list[str]:
    """The options of a command, or of settings that are a part of its options."""
    found: list[str] = []
    for field in fields(kind):
        nested = field.default_factory
        if isinstance(nested, type) and is_dataclass(nested):
            found += _options(nested)
        else:
            found.append(f"--{field.name.replace('_', '-')}")
    return found


def _one_line(explanation: str, command: str) -> str:
    """The message in tyro's framed explanation of an error; `command` is the first word of the arguments."""
    lines = [line.strip("│╭╮╰╯─ ") for line in explanation.splitlines()]
    lines = [line for line in lines if line.strip("-")]  # without UTF-8, frames are drawn with hyphens
    # The first line is the frame's title. What follows "Argument helptext" repeats --help.
    lines = lines[1 : lines.index("Argument helptext:") if "Argument helptext:" in lines else None]
    text = " ".join(lines)
    # A configuration that refuses a value names the setting itself; tyro only knows the configuration's own name.
    text = re.sub(r"Error parsing __\S+: ", "", text)
    text = re.sub(r"\.? ?For full helptext, (run:?|see)", "; see", text)
    # tyro repeats the help of what is missing, and of every option that looks like one that no command has.
    text, _, meant = text.partition(" Perhaps you meant: ")
    text, _, place = (text if not meant else f"{text}; {meant.rpartition('; ')[2]}").partition("; see ")
    text = text.replace("Unrecognized options:", "unknown options:")
    missing, _, unknown = text.partition("unknown options: ")
    if missing.startswith("Missing from "):
        names = re.findall(r"(--[\w-]+|[A-Z]{3,}) (?:[A-Z].*?)?\(required\)", missing)
        needs = f"fastflow {command} needs {' and '.join(dict.fromkeys(names))}"
        text = f"{needs}; unknown options: {unknown}" if unknown else needs
    if unknown and command in COMMANDS:
        words = [word.rstrip(",") for word in unknown.split()]
        known = _options(COMMANDS[command])
        close = [difflib.get_close_matches(word, known, 1, 0.7) for word in words if word.startswith("--")]
        options = [found[0] for found in close if found and found[0] not in words]
        text += f"; perhaps you meant {' and '.join(options)}" if options else ""
        place = f"fastflow {command} --help"
    text += f"; see {place}" if place else ""
    for pattern, plain in _PLAIN_WORDS.items():
        text = re.sub(pattern, plain, text)
    return text


def _show_warning(message: Warning | str, *place: object) -> None:
    """Print a warning as one line, without the line of code that Python would print below it."""
    if not is_follower():
        print(f"fastflow: warning: {in_one_line(str(message))}", file=sys.stderr)


def _fail(message: str) -> NoReturn:
    """Print an error as one line, and exit."""
    if not is_follower():  # a follower fails together with its leader, which prints the error
        print(f"fastflow: error: {in_one_line(message)}", file=sys.stderr)
    raise SystemExit(2) from None
