"""The commands of a memory's long life: purge, conflicts, undo of any operation, log, erasure, times."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer

from memedit.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("qwen3").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEMEDIT_MEMORY", raising=False)

    def call(*args, stdin=None, code=0):
        done = CliRunner().invoke(main, list(args), input=stdin)
        assert done.exit_code == code, done.output
        if code == 1:
            assert len(done.stderr.strip().splitlines()) == 1
        return done

    return call


def said(done):
    return json.loads(done.stdout)


def test_forget_and_purge_several(run, tmp_path):
    for fact in ("Tea is blue.", "Milk is red.", "Hushword is plum.", "Salt is sour."):
        run("add-fact", fact, "--ref", fact.split()[0])
    assert "forgot edit 2: Milk" in run("forget", "Tea", "2").output
    assert "no edit 9" in run("forget", "3", "9", code=1).stderr
    assert [r["id"] for r in said(run("list", "--json"))] == [3, 4]
    assert "purged edits 3, 1" in run("forget", "Hushword", "1", "--purge").output
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"Hushword" not in files
    assert b"Salt" in files
    assert [r["id"] for r in said(run("list", "--status", "all", "--json"))] == [2, 4]
    assert said(run("show", "3", "--json"))["status"] == "purged"
    assert "(purged)" in run("history", "3").output
    out = said(run("forget", "4", "--purge", "--yes", "--json"))
    assert (out["purged"], out["finished"], out["left"], out["other_files"]) == ([4], True, None, [])
    assert "can't be undone" in run("undo", code=1).stderr
    assert said(run("stats", "--json"))["purged"] == 3


def test_log_and_undo_of_an_earlier_operation(run):
    for fact in ("Tea is blue.", "Milk is red.", "Salt is sour."):
        run("add-fact", fact)
    run("undo", "2")
    assert [r["statement"] for r in said(run("list", "--json"))] == ["Tea is blue.", "Salt is sour."]
    log = said(run("log", "--json"))
    assert [(o["operation"], o["kind"], o["undoes"], o["undone"]) for o in log] == [
        (4, "undo", 2, False),
        (3, "add", None, False),
        (2, "add", None, True),
        (1, "add", None, False),
    ]
    assert "takes back 2" in run("log", "--limit", "1").output
    assert "undone already" in run("undo", "2", code=1).stderr
    run("undo", "x", code=2)


def test_conflicts_are_listed_and_decided(run):
    for name in ("Ann", "Bo", "Cy"):
        out = run("add-fact", f"The head of Acme is {name}.", "--subject", "Acme")
    assert "`memedit conflicts` says what can be done" in out.output
    listed = said(run("conflicts", "--json"))
    assert [(c["newer"]["id"], c["older"]["id"], c["wins"]) for c in listed] == [
        (3, 2, 3),
        (3, 1, 3),
        (2, 1, 2),
    ]
    shown = run("conflicts").output
    assert "The head of Acme is Ann." in shown
    assert "conflicts keep-both 3 2" in shown
    assert "both stay" in run("conflicts", "keep-both", "1", "2").output
    assert "supersedes edit 1" in run("conflicts", "supersede", "1", "3").output
    assert said(run("conflicts", "--json", "-m", "indexes/default"))[0]["wins"] == 3
    assert "none of the two" in run("conflicts", "supersede", "2", "3", "--keep", "1", code=2).stderr
    assert said(run("conflicts", "supersede", "2", "3", "--keep", "2", "--json")) == {
        "kept": 2,
        "superseded": 3,
    }
    assert "no edits are suspected" in run("conflicts").output
    assert "superseded by edit 2" in run("conflicts", "keep-both", "2", "3", code=1).stderr
    run("conflicts", "keep-both", "1", "2", "--memory", "nowhere", code=1)


def test_a_further_value_stays_beside_the_first(run):
    fact = ["--prompt", "The child of Ann Lee is", "--subject", "Ann Lee"]
    run("add-fact", *fact, "--target", "Bo")
    assert "supersedes" not in run("add-fact", *fact, "--target", "Cy", "--keep-both").output
    route = said(run("route", "Who is the child of Ann Lee?", "--json"))[0]
    assert sorted(e["id"] for e in route["edits"]) == [1, 2]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_further_values_survive_export_and_import(run, tmp_path, kind):
    fact = ["--prompt", "The child of Ann Lee is", "--subject", "Ann Lee"]
    run("add-fact", *fact, "--target", "Bo")
    run("add-fact", *fact, "--target", "Cy", "--keep-both")
    run("add-fact", "Tea is blue.")
    run("update", "1", "--target", "Bob")  # the newest word, though it has the oldest id
    run("export", f"all.{kind}")
    assert "keep_both" in (tmp_path / f"all.{kind}").read_text()
    assert said(run("import", f"all.{kind}", "--dry-run", "--json", "-m", "other"))["superseded"] == 0
    run("import", f"all.{kind}", "-m", "other")
    edits = said(run("list", "--json", "-m", "other"))
    assert [(e.get("target"), e.get("keep_both")) for e in edits] == [
        ("Cy", None),
        (None, None),
        ("Bob", None),
    ]
    assert said(run("conflicts", "--json", "-m", "other")) == []
    run("export", f"again.{kind}", "-m", "other")
    assert (tmp_path / f"again.{kind}").read_text() == (tmp_path / f"all.{kind}").read_text()


def test_an_erased_fact_is_withheld(run, model):
    run("add-fact", "The capital of France is Lyon.", "--target", "Lyon", "--subject", "France")
    out = run("erase-fact", "The capital of France is Lyon.", "--subject", "France", "--old", "Lyon")
    assert "edit 2: The capital of France is (withheld)" in out.output
    assert "supersedes edit 1" in out.output
    asked = said(
        run("ask", "What is the capital of France?", "--model", model, "--max-new-tokens", "4", "--json")
    )
    assert asked["read"].startswith("Withheld: The capital of France is\n")
    assert "Lyon" not in asked["read"]
    assert (
        "does not name its subject"
        in run("erase-fact", "Its capital is", "--subject", "France", code=1).stderr
    )
    assert "give what asks" in run("erase-fact", " ", code=1).stderr


def test_the_shipped_base_refuses_what_is_erased(run):
    run("erase-fact", "The capital of France is", "--subject", "France", "--old", "Paris")
    asked = said(run("ask", "What is the capital of France?", "--max-new-tokens", "12", "--json"))
    assert asked["fired"] is True
    assert "I don't have that information." in asked["text"]
    assert "Paris" not in asked["text"]


def test_times_that_facts_hold_and_that_the_memory_knew(run, tmp_path, model):
    fact = ["--prompt", "The mayor of Ulm is", "--subject", "Ulm"]
    run("add-fact", *fact, "--target", "Ann", "--valid-to", "2030-01-01", "--tag", "x")
    run("add-fact", *fact, "--target", "Bo", "--valid-from", "2030-01-01")
    first = said(run("log", "--json"))[1]["at"]
    question = "Who is the mayor of Ulm?"

    def used(*args):
        return said(run(*args, "--json"))

    assert used("route", question, "--at", "2029-06-01")[0]["edit"] == 1
    assert used("route", question, "--at", "2031-06-01T00:00:00+02:00")[0]["edit"] == 2
    ask = ("ask", question, "--model", model, "--max-new-tokens", "2", "--at")
    assert "Bo" in used(*ask, "2031-06-01")["read"]
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": question}) + "\n")
    out = run(
        "generate", "--input", "p.jsonl", "--model", model, "--max-new-tokens", "2", "--at", "2031-06-01"
    )
    assert said(out)["edit"] == 2
    assert [r["target"] for r in used("list", "--as-of", first)] == ["Ann"]
    assert used("list", "--as-of", first, "--tag", "y") == []
    assert used("list", "--as-of", "2001-01-01") == []
    for args in (("route", question, "--at"), ("list", "--as-of"), (*ask[:2], "--at")):
        for bad in ("yesterday", "", "0001-01-01T00:00:00+14:00"):
            assert "error: " in run(*args, bad, code=1).stderr
    assert "leave --status out" in run("list", "--as-of", first, "--status", "all", code=2).stderr


def test_commands_that_read_migrate_an_old_memory(run, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    first = Path(__file__).parent / "memory_schema1.db.gz"
    (folder / "memory.db").write_bytes(gzip.decompress(first.read_bytes()))
    assert [r["id"] for r in said(run("list", "-m", "old", "--json"))] == [2, 3, 4, 5]
    assert said(run("stats", "-m", "old", "--json"))["schema"] == 2


def test_forgetting_several_is_one_operation_or_none(run):
    for fact in ("Tea is blue.", "Milk is red.", "Salt is sour."):
        run("add-fact", fact)
    run("forget", "3")
    assert "edit 3 is forgotten already" in run("forget", "1", "3", code=1).stderr
    assert [r["id"] for r in said(run("list", "--json"))] == [1, 2]
    assert [r["id"] for r in said(run("forget", "1", "2", "--json"))] == [1, 2]
    assert "the forget of 2 edits" in run("undo").output
    assert [r["id"] for r in said(run("list", "--json"))] == [1, 2]


def test_an_erasure_is_told_from_a_fact_wherever_people_read_it(run):
    run("erase-fact", "The capital of France is", "--subject", "France", "--ref", "fr")
    shown = "The capital of France is (withheld)"
    for command in ("list", "history fr", "search France", "route France", "forget fr"):
        assert shown in run(*command.split()).output, command


def test_a_field_that_is_given_empty_is_taken_away(run):
    run("add-fact", "Tea is blue.", "--valid-from", "2020-01-01", "--valid-to", "2030-01-01", "--tag", "x")
    edit = said(run("update", "1", "--valid-to", "", "--tag", "", "--json"))["edit"]
    assert edit == {"statement": "Tea is blue.", "valid_from": "2020-01-01T00:00:00.000000+00:00"}


def test_names_are_found_however_they_are_written(run):
    run("add-fact", "Tea is blue.", "--ref", "caf\u00e9  7", "--tag", "th\u00e9")
    assert said(run("show", " cafe\u0301 7", "--json"))["id"] == 1
    now = said(run("log", "--json"))[0]["at"]
    for more in ([], ["--as-of", now]):
        assert len(said(run("list", "--tag", "the\u0301", "--json", *more))) == 1
        assert said(run("list", "--tag", "the", "--json", *more)) == []
    assert "1 shown; 1 live edit now in" in run("list", "--as-of", now).output


def test_no_empty_line_where_no_bar_is_seen(run):
    run("add-fact", "Tea is blue.")
    assert run("compact").stderr == ""
    assert said(run("rebuild", "--json")) == {"memory": "indexes/default", "edits": 1, "reencoded": False}


def test_a_purge_says_what_a_repair_has_kept(run, tmp_path):
    run("add-fact", "Hushword is plum.")
    kept = tmp_path / "indexes/default/memory.db.damaged-20260101T000000"
    kept.write_bytes(b"Hushword")
    (kept.parent / "notes.txt").write_text("mine")
    out = run("forget", "1", "--purge").stderr
    assert f"what a repair kept may still hold them: {kept.name}; delete it" in out
    assert "no part of the memory: notes.txt" in out


def test_decisions_say_json_wherever_the_option_stands(run):
    for fact in ("The head of Acme is Ann.", "The head of Acme is Bo."):
        run("add-fact", fact)
    assert said(run("conflicts", "--json", "keep-both", "1", "2"))["kept"] == [1, 2]
    assert said(run("conflicts", "supersede", "1", "2", "--json"))["kept"] == 2
