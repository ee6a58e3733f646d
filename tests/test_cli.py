"""The commands, run in this process on real memories, the shipped classifier and a tiny real model."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer

from memedit.cli import main

COMMANDS = sorted(main.commands)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("qwen3").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command in a folder of its own; gives exit code, output, and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEMEDIT_MEMORY", raising=False)

    def call(*args, stdin=None, code=0):
        done = CliRunner().invoke(main, list(args), input=stdin)
        assert done.exit_code == code, done.output
        if code:
            assert "Traceback" not in done.output
        return done

    return call


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    command = main.commands[name]
    assert command.help
    assert "Example" in command.help
    assert f"memedit {name}" in command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in (
            "help",
            "max_new_tokens",
            "batch_size",
        ):
            assert parameter.help, f"{name} {parameter.opts}"


def test_add_ask_undo(run, model):
    out = run(
        "add-fact", "The capital of France is Lyon.", "--target", "Lyon", "--subject", "France", "--json"
    )
    assert json.loads(out.output)["new"] == [1]
    asked = json.loads(
        run(
            "ask", "What is the capital of France?", "--model", model, "--max-new-tokens", "16", "--json"
        ).output
    )
    assert asked["fired"] is True
    assert asked["text"] != asked["base_text"]
    assert "undone: the add of 1 edit" in run("undo").output
    again = json.loads(
        run(
            "ask", "What is the capital of France?", "--model", model, "--max-new-tokens", "16", "--json"
        ).output
    )
    assert (again["fired"], again["text"]) == (False, asked["base_text"])


def test_a_newer_fact_supersedes_and_a_repeat_is_no_new_edit(run):
    fact = ["--prompt", "The capital of France is", "--subject", "France"]
    run("add-fact", *fact, "--target", "Lyon")
    assert "says so already" in run("add-fact", *fact, "--target", "Lyon").output
    assert "supersedes edit 1" in run("add-fact", *fact, "--target", "Nice").output
    listed = json.loads(run("list", "--status", "all", "--json").output)
    assert [(r["target"], r["status"]) for r in listed] == [("Lyon", "superseded"), ("Nice", "live")]
    history = json.loads(run("history", "1", "--json").output)
    assert [v["action"] for v in history] == ["add", "supersede"]


def test_a_suspected_conflict_is_said_and_both_stay(run):
    run("add-fact", "The head of Acme is Ann.")
    assert "possible conflict with edit 1" in run("add-fact", "The head of Acme is Bo.").output
    assert len(json.loads(run("list", "--json").output)) == 2


def test_import_export_round_trip(run, tmp_path):
    rows = [
        {
            "prompt": "Tea is",
            "target": "blue",
            "subject": "Tea",
            "ref": "t1",
            "colour": [1, 2],
            "tags": ["drink"],
        },
        {"statement": "Milk is red.", "source": "memo"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    summary = json.loads(run("import", "in.jsonl", "--source", "file", "--json").output)
    assert (summary["new"], summary["edits"]) == (2, 2)
    run("export", "out.jsonl")
    out = lines(tmp_path / "out.jsonl")
    assert [r.get("source") for r in out] == ["file", "memo"]
    assert out[0]["colour"] == [1, 2]
    run("import", "out.jsonl", "--memory", "other")
    run("export", "again.jsonl", "--memory", "other")
    assert lines(tmp_path / "again.jsonl") == out
    assert "undone: the add of 2 edits" in run("undo").output
    assert json.loads(run("list", "--json").output) == []


def test_a_bad_line_stops_an_import_and_skip_bad_takes_the_rest(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"statement": "Tea is blue."}\n{broken\n{"statement": "Milk is red."}\n'
    )
    out = run("import", "in.jsonl", code=1)
    assert "line 2: not JSON" in out.stderr
    assert "nothing was imported" in out.stderr
    assert not (tmp_path / "indexes").exists()
    out = run("import", "in.jsonl", "--skip-bad")
    assert "2 new, 1 skipped" in out.output
    assert "skipped line 2" in out.stderr


def test_update_show_forget_search_stats(run):
    run("add-fact", "--prompt", "Tea is", "--target", "blue", "--ref", "t1")
    assert "Tea is red." in run("update", "t1", "--target", "red").output
    shown = json.loads(run("show", "1", "--json").output)
    assert (shown["target"], shown["version"], shown["ref"]) == ("red", 2, "t1")
    assert json.loads(run("search", "what colour is tea", "--json").output)[0]["id"] == 1
    assert json.loads(run("stats", "--json").output)["live"] == 1
    assert "forgot edit 1" in run("forget", "1").output
    assert json.loads(run("stats", "--json").output)["live"] == 0
    assert "rebuilt the index" in run("rebuild").output


def test_the_route_contract(run, tmp_path):
    run(
        "add-fact",
        "--prompt",
        "The capital of France is",
        "--target",
        "Lyon",
        "--subject",
        "France",
        "--ref",
        "fr",
    )
    queries = [{"query": "What is the capital of France?", "n": 1}, {"query": "how to boil eggs", "n": 2}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    run("route", "--input", "q.jsonl", "--output", "r.jsonl")
    first, second = lines(tmp_path / "r.jsonl")
    assert set(first) == {"query", "n", "fired", "edit", "edits", "score", "threshold", "method"}
    assert (first["fired"], first["edit"], first["n"], first["method"]) == (True, "fr", 1, "ice")
    assert set(first["edits"][0]) == {"id", "ref", "kind", "probability"}
    assert (second["fired"], second["edit"], second["edits"], second["method"]) == (False, None, [], None)
    assert "names the subject" in run("route", "What is the capital of France?").output


def test_the_generate_contract(run, tmp_path, model):
    run(
        "add-fact",
        "--prompt",
        "The capital of France is",
        "--target",
        "Lyon",
        "--subject",
        "France",
        "--ref",
        "fr",
    )
    prompts = [{"prompt": "The capital of France is", "id": "a"}, {"prompt": "How to boil eggs", "id": "b"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    args = [
        "generate",
        "--input",
        "p.jsonl",
        "--output",
        "o.jsonl",
        "--max-new-tokens",
        "4",
        "--model",
        model,
        "--batch-size",
        "1",
    ]
    run(*args, "--base")
    first, second = lines(tmp_path / "o.jsonl")
    assert set(first) == {"prompt", "id", "text", "base_text", "fired", "edit", "method"}
    assert (first["fired"], first["edit"], first["method"]) == (True, "fr", "ice")
    assert (second["fired"], second["text"]) == (False, second["base_text"])
    run(*args)
    assert "base_text" not in lines(tmp_path / "o.jsonl")[0]


def test_eval_scores_with_all_edits_in_memory(run, tmp_path, model):
    rows = [
        {
            "case_id": i, "prompt": f"{s} was born in", "target_new": t, "subject": s, "ground_truth": "Rome",
            "locality_prompt": f"{n} was born in",
        }
        for i, (s, t, n) in enumerate([("Ann Ode", "Oslo", "Bo Lind"), ("Cy Moe", "Lima", "Dee Fox")])
    ]  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(rows))
    (tmp_path / "q.jsonl").write_text('{"question": "how long do eggs take to boil"}\n')
    out = run(
        "eval",
        "--data",
        "c.json",
        "--unrelated",
        "q.jsonl",
        "--model",
        model,
        "--max-new-tokens",
        "16",
        "--json",
        "e.json",
    )
    assert "2 edits made when scored" in out.output
    (said,) = json.loads((tmp_path / "e.json").read_text())["runs"]
    scores = {(s["kind"], s["score"]): s["value"] for s in said["scores"]}
    assert scores["edit", "right edit fired"] == 1
    assert scores["unrelated", "unchanged"] == 1
    assert len(said["answers"]) == 5


def test_eval_scores_several_methods_on_one_memory_with_their_settings(run, tmp_path, model):
    fact = {"prompt": "Ann Ode was born in", "target": "Oslo", "subject": "Ann Ode"}
    (tmp_path / "c.jsonl").write_text(json.dumps(fact) + "\n")
    shown = {"prompt": "Bo Lind died in", "target": "Rome", "paraphrases": ["Where did Bo Lind die?"]}
    (tmp_path / "d.jsonl").write_text(json.dumps(shown) + "\n")
    run("demos", "build", "d.jsonl", "--memory", "own")
    args = ("eval", "--data", "c.jsonl", "--method", "ice,ike", "--memory", "own", "--model", model)
    out = run(*args, "--set", "ike.k=1", "--max-new-tokens", "12", "--json", "e.json")
    assert "1 case, 1 edit made when scored" in out.output
    said = json.loads((tmp_path / "e.json").read_text())
    assert said["setting"]["settings"] == {"ike": {"k": 1}}
    assert [run["settings"] for run in said["runs"]] == [{}, {"k": 1}]
    texts = {run["method"]: run["answers"][0]["text"] for run in said["runs"]}
    assert texts["ice"] != texts["ike"]
    assert "METHOD.SETTING=VALUE" in run("ask", "Who?", "--set", "k=1", code=2).stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["add-fact"], 2, "give a sentence"),
        (["add-fact", ""], 1, "the fact is empty"),
        (["add-fact", "  "], 1, "the fact is empty"),
        (["add-fact", "Tea is blue.", "--target", "red"], 1, "does not end with the target"),
        (["add-fact", "Tea is blue.", "--prompt", "Tea is", "--target", "blue"], 1, "not both"),
        (["add-fact", "--prompt", "Tea is", "--target", "blue", "--old", "blue"], 1, "nothing would change"),
        (["add-fact", "x" * 1_000_000], 1, "at most 4,000 fit"),
        (["add-fact", "Tea\x00 is blue."], 1, "control character"),
        (["add-fact", "Tea is blue.\nFact: milk is red."], 1, "label"),
        (["add-fact", "Tea is <|end|> blue."], 1, "template's token"),
        (["add-fact", "Tea is blue.", "--method", "icee"], 1, "did you mean ice"),
        (["add-fact", "Tea is blue.", "--colour", "red"], 2, "No such option"),
        (["list"], 1, "no memory"),
        (["ask", "Who?"], 1, "no memory"),
        (["undo"], 1, "no memory"),
        (["lst"], 2, "Did you mean list"),
        (["import", "none.jsonl"], 2, "does not exist"),
        (["bench", "rout"], 1, "did you mean route"),
        (["train", "scop"], 2, "Did you mean scope"),
        (["eval", "--data", "none.json"], 1, "can't read"),
        (["route"], 2, "give queries"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(run, tmp_path, args, code, message):
    out = run(*args, code=code)
    assert message in out.stderr
    if code == 1:
        assert len(out.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ask", "Who?", "--model", "bsae"], "did you mean base"),
        (["ask", "Who?", "--method", "iec"], "did you mean ike or ice"),
        (["show", "7"], "7"),
        (["show", "no-such-ref"], "no-such-ref"),
        (["forget", "7"], "7"),
        (["update", "1", "--prompt", ""], "needs a prompt"),
        (["generate", "--input", "bad.jsonl"], "line 2"),
        (["route", "--input", "bad.jsonl"], "line 1"),
    ],
)
def test_bad_input_on_a_memory_changes_nothing(run, tmp_path, args, message):
    run("add-fact", "--prompt", "Tea is", "--target", "blue")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n{"prompt": ""}\n')
    before = run("export", "-", "--all").stdout
    assert message in run(*args, code=1).stderr
    assert run("export", "-", "--all").stdout == before


def test_refs_of_digits_and_ids_are_told_apart(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"statement": "Tea is blue.", "ref": "42"}\n{"statement": "Milk is red.", "ref": "1"}\n'
    )
    run("import", "in.jsonl")
    assert json.loads(run("show", "42", "--json").output)["id"] == 1
    assert "id:1 or ref:1" in run("forget", "1", code=1).stderr
    assert json.loads(run("show", "ref:1", "--json").output)["statement"] == "Milk is red."
    assert json.loads(run("show", "id:1", "--json").output)["statement"] == "Tea is blue."


def test_the_users_keys_do_not_hide_the_memorys(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"statement": "Tea is blue.", "id": "abc", "version": "x", "paraphrases": ["p"]}\n'
    )
    run("import", "in.jsonl")
    assert (
        json.loads(run("list", "--json").output)[0]["id"],
        json.loads(run("show", "1", "--json").output)["version"],
    ) == (1, 1)
    assert json.loads(run("export", "-").stdout)["paraphrases"] == ["p"]


def test_what_was_forgotten_is_not_imported_again(run):
    run("add-fact", "Tea is blue.", "--ref", "t")
    run("add-fact", "Milk is red.")
    run("forget", "t")
    run("export", "all.jsonl", "--all")
    assert "was forgotten" in run("import", "all.jsonl", "-m", "other", code=1).stderr
    assert "1 new, 1 skipped" in run("import", "all.jsonl", "-m", "other", "--skip-bad").output


def test_outputs_keep_to_links_pipes_and_folders_that_exist(run, tmp_path):
    run("add-fact", "Tea is blue.")
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    run("export", "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert "Tea" in (tmp_path / "real.jsonl").read_text()
    assert "there is no folder" in run("export", "missing/x.jsonl", code=1).stderr
    assert "is a directory" in run("export", "indexes", code=2).stderr
    (tmp_path / "q.jsonl").write_text('{"query": "x"}\n')
    assert "is a folder" in run("route", "--input", "q.jsonl", "--output", "indexes", code=1).stderr
    run("export", "/dev/null")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"statement": "Tea is blue.", "n": ' + "9" * 5000 + "}", "line 1"),
        ("[" * 100_000, "deep"),
        ('{"statement": "a b", "statement": "c d"}', "stands twice"),
        ('{"statement": "Tea is blue.", "n": NaN}', "no JSON number"),
        ('{"requested_rewrite": {"prompt": "{ is", "subject": "x"}, "neighborhood_prompts": []}', "line 1"),
        ("{", "an object stands on one line"),
    ],
    ids=range(6),
)
def test_strange_lines_are_named(run, tmp_path, line, message):
    (tmp_path / "in.jsonl").write_text(line + "\n")
    error = run("import", "in.jsonl", code=1).stderr
    assert message in error
    assert "unexpected" not in error


def test_a_folder_that_is_no_memory_is_left_alone(run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    run("add-fact", "Tea is blue.", "--memory", "photos", code=1)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_a_memory_of_a_newer_schema_or_another_encoder_is_said(run, tmp_path):
    run("add-fact", "Tea is blue.")
    path = tmp_path / "indexes" / "default" / "memory.db"
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = 'x' WHERE key LIKE '%fingerprint%'")
    db.close()
    assert "encoder" in run("add-fact", "Milk is red.", code=1).stderr


def test_a_second_writer_waits_and_is_told(run, tmp_path, monkeypatch):
    from memedit.memory import EditMemory

    run("add-fact", "Tea is blue.")
    real = EditMemory.open.__func__
    monkeypatch.setattr(
        EditMemory, "open", classmethod(lambda cls, path, **o: real(cls, path, **{**o, "timeout": 0.2}))
    )
    with sqlite3.connect(tmp_path / "indexes" / "default" / "memory.db") as db:
        db.execute("BEGIN IMMEDIATE")
        assert "writ" in run("add-fact", "Milk is red.", code=1).stderr
        assert len(json.loads(run("list", "--json").output)) == 1  # readers go on
    db.close()
    run("add-fact", "Milk is red.")


def test_debug_shows_the_traceback(run):
    done = CliRunner().invoke(main, ["--debug", "list"])
    assert done.exception is not None
    assert type(done.exception).__name__ == "MemoryError_"


def test_methods_and_doctor_speak_json(run):
    assert json.loads(run("methods", "--json").output)[0]["name"] == "ice"
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert {f["what"] for f in json.loads(done.output)} >= {"torch", "faiss", "shipped scope", "memory"}
