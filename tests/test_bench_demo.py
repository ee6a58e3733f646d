"""The benches' invented facts, the sentence for a bench that is none, and the demo on a tiny model."""

from __future__ import annotations

from conftest import tiny_model, tiny_tokenizer

from memedit import demo
from memedit.bench import measured as bench


def test_invented_edits_are_distinct_and_the_same_each_time():
    edits = list(bench.invented_edits(3000))
    assert len({e.prompt for e in edits}) == 3000
    assert edits == list(bench.invented_edits(3000))


def test_an_entry_says_whether_the_claim_is_met():
    assert bench.entry("x", 1.0, "s", 2, "how")["met"] is True
    assert bench.entry("x", 3.0, "s", 2, "how") == {
        "claim": "x", "value": 3.0, "unit": "s", "limit": "<= 2 s", "met": False, "detail": "how",
    }  # fmt: skip


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
