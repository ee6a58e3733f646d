"""`memedit eval` as a user meets it: a killed run goes on, other settings are refused, bad input gets one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer
from test_evaluation import record

from memedit.cli import main
from memedit.errors import DataError
from memedit.evaluation import load
from memedit.evaluation.suites import SMALL, suite


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(tmp_path, monkeypatch, model):
    """`memedit eval` on the file c.json of two people."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(json.dumps([record(0), record(1)]))

    def call(*args, code=0, data="c.json"):
        done = CliRunner().invoke(
            main, ["eval", "--data", data, "--model", model, "--max-new-tokens", "6", *args]
        )
        assert done.exit_code == code, done.output
        if code:
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return done

    return call


def alike(path: Path) -> dict:
    """A run file without clocks and the words of the command."""
    found = json.loads(path.read_text())
    runs = [
        {k: v for k, v in run.items() if k not in ("seconds", "cases_per_second")} for run in found["runs"]
    ]
    return {**{k: v for k, v in found.items() if k not in ("date", "command", "machine")}, "runs": runs}


def test_a_killed_run_goes_on_and_gives_the_same_file(run, tmp_path, model):
    args = ("--mode", "sequential", "--method", "ice,none", "--batch-size", "1")
    command = [
        sys.executable,
        "-m",
        "memedit",
        "eval",
        "--data",
        "c.json",
        "--model",
        model,
        "--max-new-tokens",
        "6",
    ]
    worker = subprocess.Popen([*command, *args, "--json", "e.json"], cwd=tmp_path, env=dict(os.environ))
    journal = tmp_path / ".e.json.work" / "journal.jsonl"
    until = time.monotonic() + 400
    while time.monotonic() < until and worker.poll() is None:
        if journal.is_file() and journal.read_bytes().count(b"\n") > 4:
            break
        time.sleep(0.002)
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    assert not (tmp_path / "e.json").exists()
    there = journal.read_bytes()
    with journal.open("ab") as file:  # as a kill in the middle of a line leaves it
        file.write(b'{"key": "0/after-all/3", "at": [')
    refused = run("--batch-size", "2", "--json", "e.json", code=1)
    assert "--fresh" in refused.stderr
    assert "batch_size 1, not 2" in refused.stderr
    assert journal.read_bytes().startswith(there)  # nothing was lost by asking
    done = run(*args, "--json", "e.json")
    assert "going on with the run that was stopped" in done.stderr
    run(*args, "--json", "whole.json")
    assert alike(tmp_path / "e.json") == alike(tmp_path / "whole.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.json", "e.json", "whole.json"]


def test_a_finished_file_is_shown_and_not_written_over_by_another_run(run, tmp_path, monkeypatch):
    run("--json", "e.json")
    before = (tmp_path / "e.json").read_bytes()
    again = run("--json", "e.json")
    assert "finished" in again.stderr
    assert "edit success (es)" in again.output
    assert "other settings: jobs" in run("--json", "e.json", "--method", "none", code=1).stderr
    assert (tmp_path / "e.json").read_bytes() == before
    with monkeypatch.context() as patched:  # as after an update of the models that ship
        patched.setattr("memedit.evaluation.record.shipped", lambda: "others")
        assert "other settings: shipped" in run("--json", "e.json", code=1).stderr
    (tmp_path / "notes.json").write_text("[1]")
    assert "no run file" in run("--json", "notes.json", code=1).stderr
    run("--json", "e.json", "--method", "none", "--fresh")
    assert json.loads((tmp_path / "e.json").read_text())["runs"][0]["method"] == "none"


def test_modes_are_scored_side_by_side_and_sizes_are_refused_in_words(run, tmp_path):
    run("--mode", "batch:1,all", "--no-forced", "--json", "e.json")
    runs = json.loads((tmp_path / "e.json").read_text())["runs"]
    assert [r["mode"] for r in runs] == ["batch:1", "all"]
    assert runs[0]["edits_in_memory"] < runs[1]["edits_in_memory"]
    wrong = CliRunner().invoke(main, ["eval", "--data", "c.json", "--fill", "10,x"])
    assert wrong.exit_code == 2
    assert "write numbers of edits, such as 1000,10000" in wrong.output
    assert "unknown mode 'alle'" in run("--mode", "alle", code=1).stderr


def test_a_memory_is_filled_to_each_size(run, tmp_path, data):
    run("--fill", "6,9", "--folder", str(data), "--no-forced", "--json", "e.json")
    runs = json.loads((tmp_path / "e.json").read_text())["runs"]
    assert [r["edits_in_memory"] for r in runs] == [6, 9]


def test_a_record_that_can_not_be_taken_is_named_or_left_out(run, tmp_path):
    rows = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "bad.json").write_text(
        json.dumps([*rows, {**rows[0], "case_id": 9, "prompt": "X is", "target_new": ""}])
    )
    said = run("--json", "e.json", data="bad.json", code=1).stderr
    assert f"record {len(rows) + 1}: an edit with a prompt needs a target" in said
    assert "--skip-bad" in said
    done = run("--json", "e.json", "--skip-bad", data="bad.json")
    assert f"left out bad.json record {len(rows) + 1}: an edit with a prompt needs a target" in done.stderr
    (data,) = json.loads((tmp_path / "e.json").read_text())["data"]
    assert (data["cases"], data["left_out"]) == (len(rows), 1)


def test_the_run_file_is_as_the_report_reads_it(run, tmp_path):
    run("--method", "none,oracle", "--json", "e.json", "--drift", "--no-forced", "--sampled", "8")
    found = json.loads((tmp_path / "e.json").read_text())
    assert {
        "format",
        "memedit",
        "command",
        "date",
        "machine",
        "seed",
        "model",
        "decoding",
        "data",
        "runs",
        "goals",
    } <= set(found)
    assert found["model"].keys() == {"name", "digest", "parameters"}
    (data,) = found["data"]
    assert (data["name"], data["cases"], data["edits"], data["left_out"], len(data["sha256"])) == (
        "c",
        2,
        2,
        0,
        64,
    )
    none, oracle = found["runs"]
    assert none["drift"] is None
    assert oracle["drift"]["perplexity"] == pytest.approx(oracle["drift"]["perplexity_base"])
    assert oracle["drift"]["kl"] == 0
    answer = oracle["answers"][0]
    assert answer["route"].keys() == {"probability", "threshold", "class", "method", "why"}
    assert answer["forced"] is None
    assert {"seconds", "settings", "edits_in_memory", "cases_per_second", "failed", "when"} <= set(oracle)


def test_a_run_and_its_report(run, tmp_path):
    rows = [record(0), {**record(1), "rephrase_prompt": "He was born on a hill and died in"}]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    (tmp_path / "file").touch()
    assert "is a file" in run("--report", "file", "--json", "e.json", code=1).stderr
    assert not list(tmp_path.glob("*e.json*"))  # nothing was begun
    done = run("--json", "e.json", "--report", "made")
    assert "wrote made/report.html and" in done.stderr
    assert "rephrase_prompt: mostly no paraphrases" in done.output
    text = (tmp_path / "made" / "report.md").read_text()
    assert "counted in no score of paraphrases" in text
    assert "paraphrase: rephrase_prompt" in text
    run("--json", "e.json", "--report", "again")  # of the finished file, nothing asked
    assert (tmp_path / "again" / "report.md").read_text() == text
    assert json.loads((tmp_path / "e.json").read_text())["goals"] == []  # another model's


def test_tables_put_the_flattering_number_under_the_true_one(run):
    said = run(
        "--mode", "sequential", "--merged", "--routed", "--method", "none,ft-m", "--set", "ft-m.steps=2"
    ).output
    assert "(flatters)" in said
    lines = [line.strip() for line in said.splitlines()]
    at = next(i for i, line in enumerate(lines) if line.startswith("edit success (es)"))
    assert lines[at + 1].startswith("teacher-forced")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps([record(0)])[:-40], "ends in the middle"),
        ("", "is empty"),
        ("[]", "holds no case"),
        (json.dumps([{**record(0), "target_new": ""}]), "record 1"),
        ('{"statement": "Tea is blue."}', "no targets and no answers"),
    ],
)
def test_bad_data_gets_one_sentence(run, tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    assert message in run("--json", "e.json", data="bad.json", code=1).stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json", "c.json"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mode", "batch:x"], "unknown mode"),
        (["--method", "iec"], "unknown method"),
        (["--method", "ice", "--merged"], "changes no weights"),
        (["--split", "dev"], "no splits.json"),
        (["--fill", "10"], "--fill needs the folder"),
    ],
)
def test_bad_options_get_one_sentence(run, args, message, monkeypatch):
    monkeypatch.delenv("MEMEDIT_DATA", raising=False)
    assert message in run(*args, code=1).stderr


def test_targets_that_are_too_long_to_be_said_are_told_of(run, tmp_path):
    rows = [
        record(0),
        {**record(1), "target_new": "a very long name that goes on and on, word after word, to its end"},
    ]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    assert "1 of 2 targets of c can't be said in --max-new-tokens 6" in run("--method", "none").stderr


def test_contradictory_cases_are_left_out_and_counted(run, tmp_path):
    rows = [record(0), {**record(0), "target_new": "Bern"}, record(1), record(1)]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    assert "2 cases, 2 edits made when scored, 2 cases left out" in " ".join(run().output.split())


def test_splits_give_rows_and_empty_parts_are_refused(tmp_path):
    (tmp_path / "sets").mkdir()
    path = tmp_path / "sets" / "c.json"
    path.write_text(json.dumps([record(i) for i in range(3)]))
    told = {"sets/c.json": {"dev": [2, 0], "train": []}, "dev_only": ["other/*.json"]}
    (tmp_path / "splits.json").write_text(json.dumps(told))
    assert [c.id for c in load(str(path), "dev").cases] == ["0", "2"]
    assert len(load(str(path)).cases) == 3
    with pytest.raises(DataError, match=r"no rows of sets/c\.json for the part train"):
        load(str(path), "train")
    (tmp_path / "splits.json").write_text(json.dumps({"dev_only": ["sets/*.json"]}))
    assert len(load(str(path), "dev").cases) == 3
    with pytest.raises(DataError, match=r"no rows of sets/c\.json for the part train"):
        load(str(path), "train")


@pytest.mark.data
def test_the_small_suite_reads_every_format_and_says_what_it_leaves_out(data):
    made = suite("small", data, limit=2)
    assert len(made.jobs) + len(made.skipped) == len(SMALL)
    assert {job.data.format for job in made.jobs} >= {
        "counterfact",
        "counterfact-full",
        "zsre",
        "knowedit",
        "mquake",
    }
    with pytest.raises(DataError, match="unknown suite"):
        suite("smal", data)
    with pytest.raises(DataError, match="there is no folder"):
        suite("small", data / "nowhere")
