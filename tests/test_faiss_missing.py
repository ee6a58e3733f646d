"""Without FAISS the first use says which extra to install, and the facts stay as they are."""

from __future__ import annotations

import sys

from click.testing import CliRunner

from memedit.cli import main


def test_the_first_use_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    done = CliRunner().invoke(main, ["add-fact", "Tea is blue.", "--memory", str(tmp_path / "m")])
    assert done.exit_code == 1
    assert 'pip install "memedit[cpu]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
