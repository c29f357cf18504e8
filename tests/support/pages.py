"""The documents' code: every fenced block and every command in the text, with its place."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")]
)

_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_COMMAND = re.compile(r"`((?:fastflow|make|pytest|jupyter|torchrun|python|pip) [^`]+)`")
_PATH = re.compile(
    r"`((?:fastflow|csrc|kernels|tests|benchmarks|docs|examples|tools|requirements)/[^`\s:]*)(?::[^`\s]*)?`"
)


class Block(NamedTuple):
    """A fenced block; `reason` says why it isn't run, where a comment before it does."""

    language: str
    code: str
    line: int
    reason: str | None


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["code"], text[: found.start("code")].count("\n") + 1, found["reason"])
        for found in _FENCE.finditer(text)
    ]


def commands(page: Path) -> list[str]:
    """The command lines of its bash blocks, continued ones as one, and the commands that its text names."""
    inline = _COMMAND.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    fenced = [
        line.strip()
        for block in blocks(page)
        if block.language == "bash"
        for line in block.code.replace("\\\n", " ").splitlines()
    ]
    return [" ".join(command.split()) for command in [*fenced, *inline] if command and not command.startswith("#")]


def paths(page: Path) -> list[str]:
    """The repository's files and folders that its text names in backticks, those with a placeholder left out."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [path for path in _PATH.findall(text) if "<" not in path and not re.search("[A-Z]{4}", path)]
