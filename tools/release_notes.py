"""Print a release's notes, `python3 tools/release_notes.py v0.1.0`, if such a tag may be published.

It may where pyproject.toml has this version and CHANGELOG.md has a section of it with a date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(tag: str) -> None:
    """Print the notes, or exit with the reason why there is no such release."""
    try:
        print(notes(tag, (ROOT / "pyproject.toml").read_text("utf-8"), (ROOT / "CHANGELOG.md").read_text("utf-8")))
    except ValueError as error:
        sys.exit(f"release_notes: {error}")


def notes(tag: str, project: str, changelog: str) -> str:
    """The changelog's section of the version that `tag` names; `project` is the text of pyproject.toml.

    Raises:
        ValueError: they don't agree, or the version has no date yet.
    """
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    if version is None or tag != f"v{version[1]}":
        raise ValueError(f"the tag is {tag}, but pyproject.toml has version {version and version[1]}: make them agree")
    heading = rf"^## {re.escape(version[1])}, ([^\n]+)\n"
    section = re.search(rf"{heading}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if section is None or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", section[1]):
        raise ValueError(f"CHANGELOG.md has no section '## {version[1]}, YYYY-MM-DD': write the release's date there")
    return section[2].strip()


if __name__ == "__main__":
    main(sys.argv[1])
