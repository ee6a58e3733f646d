"""`memedit bench mixed-batch` in small: what its rows are, and what they are held against."""

from __future__ import annotations

import json

from memedit.bench import methods
from memedit.bench.drift import Questions
from memedit.bench.measured import invented_edits
from memedit.data import Query, read_cases
from memedit.methods import _rows
from memedit.methods.rome import ROME
from memedit.metrics import pooled


def test_the_rows_are_solved_by_rome_and_ice_stands_against_as_long_a_text(lm, monkeypatch):
    base, solved, asked, plain = lm("llama"), [], [], []
    solve, applied, generate = ROME.solve, _rows.rows_applied, type(base).generate
    monkeypatch.setattr(methods, "MIXED", 3)
    monkeypatch.setattr(methods, "PAIRS", 1)
    monkeypatch.setattr(ROME, "solve", lambda self, *a: solved.append(a[1]) or solve(self, *a))
    monkeypatch.setattr(_rows, "rows_applied", lambda b, rows: asked.append(rows) or applied(b, rows))
    monkeypatch.setattr(
        type(base), "generate", lambda self, p, **o: plain.append(list(p)) or generate(self, p, **o)
    )
    entries = methods.mixed_batch(base, None, None)
    edits = list(invented_edits(3))
    assert solved == edits
    assert [(e["limit"], e["claim"].split(", against")[0]) for e in entries] == [
        ("<= 1.3 times", "3 rows, each with another fact by rome"),
        ("<= 1.3 times", "3 rows, each with another rank-one patch of 2 modules (as MEMIT)"),
        ("<= 1.15 times", "3 rows, each with another fact by ice"),
    ]
    assert [[bool(row.patch) for row in rows] for rows in asked] == [[True] * 3, [True] * 3, [False] * 3]
    stated = [f"Fact: {edit.statement}\n{edit.prompt}" for edit in edits]
    assert stated in plain


def test_the_table_of_methods_has_a_row_each_and_marks_what_misses_its_goal(tmp_path):
    rows = [
        {"prompt": f"The capital of {place} is", "target": "Lyon", "old": old, "subject": place, "locality": ["1 and 1 are"]}
        for place, old in (("France", "Paris"), ("Italy", "Rome"))
    ]  # fmt: skip
    path = tmp_path / "known.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = methods.methods(
        "base", "cpu", None, data=str(path), only=["ft-m", "ice"], settings={"ft-m": {"steps": 1, "lr": 1e-9}}
    )
    missed, free = methods.table(found)
    assert missed[:4] == ["ft-m", "0.0 (>= 98, MISSED) n 2", "", "100.0 n 2"]
    assert free[0] == "ice"
    assert free[1].startswith("100.0 n 2")
    assert all(len(row) == len(methods.HEADS) for row in (missed, free))
    assert float(missed[5]) >= float(missed[4]) > 0


def test_counterfacts_rephrase_prompts_are_no_paraphrases(lm, tmp_path, monkeypatch):
    record = {
        "subject": "Toko Yasuda", "prompt": "Toko Yasuda, the", "target_new": "piano", "ground_truth": "guitar",
        "rephrase_prompt": "Toko plays", "locality_prompt": "Lennon plays the", "locality_ground_truth": "guitar",
    }  # fmt: skip
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps([record]))
    base, asked = lm("llama"), []
    monkeypatch.setattr(type(base), "generate", lambda self, p, **o: asked.extend(p) or ["guitar"] * len(p))
    (case,) = methods.known(base, path, 5)
    assert (case.paraphrases, case.neighbours) == ((), (("Lennon plays the", "guitar"),))
    drifting = Questions(base, read_cases(path), 1, 1)
    assert drifting.scores(base, 1)[1] is None
    assert "Toko plays" not in asked
    whole = [Query("paraphrase", "p"), Query("paraphrase", "q", label="x"), Query("paraphrase", "r", of=1)]
    assert [q.prompt for q in pooled(whole, "paraphrase")] == ["p", "q"]
