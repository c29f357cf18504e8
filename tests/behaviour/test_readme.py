"""The README's commands run after the example that they follow, with few training steps and images to evaluate on."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from fastflow.cli.main import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_commands_run_after_the_example_they_follow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(
        "import torch\n"
        "from fastflow.generators import from_callable\n"
        "def make_generator():\n"
        "    return from_callable(lambda z: torch.sigmoid(z).reshape(-1, 1, 4, 4), latent_dim=16)\n"
    )
    (code,) = (code for code in EXAMPLES if "from_callable" in code)
    program = re.sub(r"net = .*", "from my_model import make_generator", code)
    program = re.sub(r"from_callable\(.*\)", "from_callable(make_generator().decode, latent_dim=16)", program)
    program = program.split("path =")[0].replace("steps=1000", "steps=2")
    monkeypatch.syspath_prepend(tmp_path)
    exec(compile(program, "README.md", "exec"), {})
    del sys.modules["my_model"]

    blocks = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    commands = re.findall(r"^fastflow .*$", blocks, re.MULTILINE) + re.findall(r"`(fastflow report [^`]*)`", README)
    assert len(commands) >= 3
    for command in commands:
        _, *words = shlex.split(command.replace("--steps 1000", "--steps 2"), comments=True)
        words += ["--samples", "12"] if words[0] == "report" else []
        main(words)
    assert (tmp_path / "runs/mine/report.html").is_file()
    assert (tmp_path / "runs/shell/report.html").is_file()
