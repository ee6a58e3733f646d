"""backup, restore, compact and doctor --repair on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from memory_fixtures import TrigramEncoder, capital, facts

from memedit import doctor
from memedit.cli import main
from memedit.memory import EditMemory


@pytest.fixture
def made(tmp_path: Path) -> str:
    with EditMemory.open(tmp_path / "memory", encoder=TrigramEncoder()) as memory:
        memory.add([capital("Spain", "Vigo"), *facts(200)])
    return str(tmp_path / "memory")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def test_backup_restore_and_compact(made: str, tmp_path: Path) -> None:
    copy = str(tmp_path / "copy")
    done = run("backup", copy, "-m", made)
    assert done.exit_code == 0, done.output
    assert "backed up 201 live edits" in done.stdout
    done = run("backup", copy, "-m", made)
    assert done.exit_code == 1
    assert done.stderr.strip().endswith(
        "holds a memory already; name another folder, or replace it with --force"
    )
    assert json.loads(run("backup", copy, "-m", made, "--force", "--json").stdout)["edits"] == 201
    assert run("forget", "1", "-m", made).exit_code == 0
    assert run("restore", copy, "-m", made).exit_code == 1
    assert json.loads(run("restore", copy, "-m", made, "--force", "--json").stdout)["edits"] == 201
    done = json.loads(run("compact", "-m", made, "--json").stdout)
    assert done["after"] > 0
    assert "before" in run("compact", "-m", made).stdout


def test_compact_says_bytes_in_words(made: str) -> None:
    assert "KiB before" in run("compact", "-m", made).stdout


def test_doctor_repairs_and_says_what_it_saved(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installation", list)
    file = Path(made) / "memory.db"
    data = file.read_bytes()
    file.write_bytes(data[:-5000])
    assert "run `memedit doctor --repair`" in run("list", "-m", made).stderr
    done = run("doctor", "-m", made)
    assert done.exit_code == 1
    assert "is damaged" in done.stdout
    done = run("doctor", "--repair", "-m", made, "--json")
    findings = json.loads(done.stdout)
    assert findings[0]["what"] == "repair"
    assert "saved " in findings[0]["finding"]
    assert run("list", "-m", made).exit_code == 0
    assert run("doctor", "--repair", "-m", made + " not there").exit_code == 1
