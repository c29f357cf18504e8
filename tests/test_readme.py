"""The README's examples run as they stand, but for the number of training steps and of images to evaluate on."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: re.sub(r"\W+", "-", code.splitlines()[3])[:40])
def test_example_runs(code, tmp_path):
    shorter = code.replace("steps=1000", "steps=2").replace("run.report()", "run.report(samples=12, progress=False)")
    result = subprocess.run([sys.executable, "-c", shorter], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for shape in re.findall(r"print\(.*\)  # (\(.*\))", code):
        assert shape in result.stdout


def test_commands_run_after_the_example_they_follow(tmp_path):
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
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=300, stderr=subprocess.DEVNULL)

    blocks = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    commands = re.findall(r"^fastflow .*$", blocks, re.MULTILINE) + re.findall(r"`(fastflow report [^`]*)`", README)
    assert len(commands) >= 3
    for command in commands:
        _, *words = shlex.split(command.replace("--steps 1000", "--steps 2"), comments=True)
        words += ["--samples", "12"] if words[0] == "report" else []
        result = subprocess.run(
            [sys.executable, "-m", "fastflow", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs/mine/report.html").is_file()
    assert (tmp_path / "runs/shell/report.html").is_file()


def test_bringing_ones_own_generator_takes_under_ten_lines():
    (code,) = (code for code in EXAMPLES if "from_callable" in code)
    assert len([line for line in code.splitlines() if line.strip()]) < 10


def test_the_readme_names_no_command_that_is_missing():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
