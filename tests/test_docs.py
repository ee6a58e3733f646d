"""What README and docs name exists."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

from memedit.cli import main

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_flags_that_a_page_names_exist(page):
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
    for line in re.findall(r"^(?:\.venv/bin/)?memedit (.+)$", blocks, re.MULTILINE):
        name, *rest = line.split("#")[0].split()
        assert name in main.commands, line
        command = main.commands[name]
        command = getattr(command, "commands", {}).get(rest[0] if rest else "", command)
        known = {option for p in command.params for option in p.opts}
        flags = {word for word in rest if word.startswith("--") and word != "--help"}
        assert flags <= known or name == "train", line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_changelog_names_the_version():
    from memedit import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
