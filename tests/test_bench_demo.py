"""The benches' invented facts, the sentence for a bench that is none, and the demo on a tiny model."""

from __future__ import annotations

from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer

from memedit import bench as benches
from memedit import demo
from memedit.bench import measured as bench
from memedit.cli import main


def test_invented_edits_are_distinct_and_the_same_each_time():
    edits = list(bench.invented_edits(3000))
    assert len({e.prompt for e in edits}) == 3000
    assert edits == list(bench.invented_edits(3000))


def test_an_entry_says_whether_the_claim_is_met():
    assert bench.entry("x", 1.0, "s", 2, "how")["met"] is True
    assert bench.entry("x", 3.0, "s", 2, "how") == {
        "claim": "x", "value": 3.0, "unit": "s", "limit": "<= 2 s", "met": False, "detail": "how",
    }  # fmt: skip


def test_options_of_a_bench_are_used_or_refused_and_never_passed_over(monkeypatch):
    asked = []
    monkeypatch.setattr(benches, "run", lambda names, **given: asked.append((names, given)) or [])

    def run(*args):
        return CliRunner().invoke(main, ["bench", *args])

    for args, limit in ((["--edits", "200"], 200), (["--limit", "7"], 7), ([], 60)):
        assert run("methods", "--data", "x", *args).exit_code == 0
        assert asked[-1][1]["limit"] == limit
    assert run("drift", "--data", "x", "--edits", "1,10").exit_code == 0
    assert asked[-1][1]["counts"] == (1, 10)
    del asked[:]
    for args, said in (
        (["methods", "--edits", "1,10"], "give --limit N, or --edits N"),
        (["methods", "--edits", "5", "--limit", "6"], "give --limit N, or --edits N"),
        (["methods", "--sample", "3"], "--sample is for bench drift; leave it out of bench methods"),
        (["drift", "--limit", "3"], "--limit is for bench methods; leave it out of bench drift"),
        (["route", "--edits", "3"], "--edits is for bench methods and drift; leave it out of bench route"),
        (["all", "--set", "rome.lr=1"], "--set is for bench methods and drift; leave it out of bench all"),
    ):
        done = run(*args)
        assert done.exit_code == 2
        assert said in done.output
    assert asked == []


def test_the_demo_changes_what_is_in_scope_and_undoes_it(tmp_path, capsys):
    tiny_model("qwen3").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    demo.run(str(tmp_path))
    out = capsys.readouterr().out
    edited, undone = out.split("2. memedit add-fact")[1].split("3. memedit undo")
    assert "every answer is the base's again" in undone
    for line in edited.splitlines():
        if demo.NEIGHBOUR in line or demo.SAME_SUBJECT in line:
            assert "unchanged" in line
        elif "paraphrase" in line:
            assert ">=" in line  # it fired, with its probability against the threshold
