"""The README's Python examples run as they stand, but for the number of training steps."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: re.sub(r"\W+", "-", code.splitlines()[3])[:40])
def test_example_runs(code, tmp_path):
    shorter = code.replace("steps=1000", "steps=2")
    result = subprocess.run([sys.executable, "-c", shorter], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for shape in re.findall(r"print\(.*\)  # (\(.*\))", code):
        assert shape in result.stdout


def test_bringing_ones_own_generator_takes_under_ten_lines():
    (code,) = (code for code in EXAMPLES if "from_callable" in code)
    assert len([line for line in code.splitlines() if line.strip()]) < 10


def test_the_readme_names_no_command_that_is_missing():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
