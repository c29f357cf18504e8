"""A release's notes, and what keeps a tag from being published."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
notes = runpy.run_path(str(ROOT / "tools" / "release_notes.py"))["notes"]

PROJECT = '[project]\nname = "fastflow"\nversion = "1.2.0"\n'
CHANGELOG = "# Changelog\n\n## 1.2.0, 2030-01-31\n\n- New.\n- More.\n\n## 1.1.0, 2029-01-31\n\n- Old.\n"


def test_the_notes_are_the_versions_own_section():
    assert notes("v1.2.0", PROJECT, CHANGELOG) == "- New.\n- More."
    assert notes("v1.1.0", PROJECT.replace("1.2.0", "1.1.0"), CHANGELOG) == "- Old."


@pytest.mark.parametrize("tag", ["v1.1.0", "1.2.0", "v1.2", "v1.2.0.post1"])
def test_a_tag_of_another_version_is_refused(tag):
    with pytest.raises(ValueError, match=re.escape(f"the tag is {tag}, but pyproject.toml has version 1.2.0")):
        notes(tag, PROJECT, CHANGELOG)


@pytest.mark.parametrize("heading", ["1.2.0, unreleased", "1.2.0", "1x2x0, 2030-01-31"])
def test_a_version_without_a_date_is_refused(heading):
    with pytest.raises(ValueError, match=r"CHANGELOG\.md has no section '## 1\.2\.0, YYYY-MM-DD'"):
        notes("v1.2.0", PROJECT, CHANGELOG.replace("1.2.0, 2030-01-31", heading))


def test_this_projects_version_begins_the_changelog():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]
    first = re.search(r"^## (.+), (?:\d{4}-\d{2}-\d{2}|unreleased)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert first[1] == version
