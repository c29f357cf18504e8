"""The command info."""

import torch

from fastflow.cli.main import main
from fastflow.engine.backends.selection import backends


def test_info_has_versions_and_a_line_for_every_backend(capsys):
    main(["info"])
    lines = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__}" in lines
    assert f"threads {torch.get_num_threads()}" in lines
    for name, reason in backends().items():
        assert f"backend {name}: " + ("available" if reason is None else f"missing, {reason}") in lines
