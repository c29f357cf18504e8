"""The command line: `fastflow COMMAND`, also `python -m fastflow`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, cast

import torch
import tyro

from fastflow.cli import info, inputs, look, study, train
from fastflow.core.errors import BackendError, ConvergenceError, InputError, TrainingError
from fastflow.training.distributed import is_follower

Command = tyro.conf.OmitSubcommandPrefixes[
    Annotated[info.Info, tyro.conf.subcommand("info")]
    | Annotated[look.Demo, tyro.conf.subcommand("demo")]
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends with one line on stderr and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _parse(arguments or ["--help"]).run()
    except (InputError, BackendError, TrainingError, ConvergenceError) as error:
        _fail(str(error))
    except torch.OutOfMemoryError as error:
        full = str(error).split(". ")[0].removesuffix(".")
        _fail(f"{full}; take a smaller --batch-size, or --device cpu")
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)):
            raise
        size = re.search(r"allocate (\d+) bytes", str(error))
        wanted = f"{int(size[1]) / 2**30:.1f} GiB at once" if size else "more"
        _fail(f"not enough memory, which would have had to hold {wanted}; take a smaller batch, fewer samples or steps")
    except BrokenPipeError:  # who reads our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _fail(f"{error.strerror or error}" + (f": {error.filename!r}" if error.filename else ""))
    except KeyboardInterrupt as error:
        if not is_follower():
            print(f"fastflow: {str(error) or 'interrupted'}", file=sys.stderr)
        raise SystemExit(130) from None


def _parse(arguments: list[str]) -> inputs.Command:
    """The command that the arguments spell; tyro's framed explanations become one line."""
    explained = io.StringIO()
    defaults = train.with_defaults(arguments)
    options: dict[str, Any] = {} if defaults is None else {"default": defaults}
    try:
        with contextlib.redirect_stderr(explained):
            command: Any = tyro.cli(
                cast(Any, Command),  # a union of types is no type to a type checker
                prog="fastflow",
                description="Meaningful controls in generative models, as flows of learned potentials.",
                args=arguments,
                **options,
            )
            return command
    except SystemExit as exit_:
        if not exit_.code:
            raise
        _fail(_one_line(explained.getvalue()))


def _one_line(explanation: str) -> str:
    lines = [line.strip("│╭╮╰╯─ ") for line in explanation.splitlines()]
    lines = [line for line in lines if line.strip("-")]  # what frames are drawn with where there is only ASCII
    # The first line is the frame's title; what follows "Argument helptext" repeats --help.
    lines = lines[1 : lines.index("Argument helptext:") if "Argument helptext:" in lines else None]
    text = " ".join(lines)
    # A configuration that refused its own values has no option's name: its message has the setting's.
    text = re.sub(r"Error parsing __\S+: ", "", text)
    return re.sub(r"\.? ?For full helptext, (run:?|see)", "; see", text)


def _show_warning(message: Warning | str, *place: object) -> None:
    """One line, without the line of code that Python would print below it."""
    if not is_follower():
        print(f"fastflow: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(message: str) -> NoReturn:
    if not is_follower():  # which fails with its leader
        print(f"fastflow: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2) from None
