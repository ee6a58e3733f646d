"""`memedit eval scope`: the readers of the development sets, and the command from data to table and figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from memedit.cli import main
from memedit.scope_eval import sets
from memedit.scope_eval.cases import ScopeCase
from memedit.scope_eval.public import Public


def person(n: int) -> dict:
    return {"label": f"Person {n}"}


def rewrite(n: int) -> dict:
    return {"prompt": "{} lives in", "relation_id": "P551", "target_new": {"str": "Oslo"}, "target_true": {"str": "Rome"},
            "subject": f"Person {n}", "question": f"Where does Person {n} live?"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the public sets, with a row or two of each."""
    place = tmp_path_factory.mktemp("public")
    tie = {"id": "P26", "prompt": "The spouse of {} is", "query": "Who is the spouse of {}?"}
    edit = {"relation": tie, "subject": person(1), "object": person(2), "new_object": person(3)}
    back = {"relation": {**tie, "query": "Who is married to {}?"}, "subject": person(3)}
    back |= {"object": person(1), "new_object": person(9)}
    lake = "how deep is lake number"
    eggs = "Tom has 3 eggs and buys 4.\nHow many has he?"
    files: dict[str, object] = {
        "zsre/zsre_mend_train-1k.json": [
            {"subject": f"Person {n}", "src": f"Where does Person {n} live?", "pred": "Rome", "alt": "Oslo",
             "rephrase": f"In which city is Person {n} at home?", "answers": ["Rome"],
             "loc": "nq question: who sang the first opera", "loc_ans": "Jacopo"}
            for n in range(4)
        ],
        "general_qa/nq_open_dev_clean.jsonl": [{"question": f"{lake} {n}", "answer": ["deep"]} for n in range(6)],
        "general_qa/gsm8k-test.jsonl": [{"question": eggs, "answer": "7"}] * 3,
        "peak/PEAK_counter.json": [
            {"requested_rewrite": rewrite(1), "para_add_prompts": ["Person 1 has a home in"],
             "neighborhood_prompts": [["The friend of Person 1 is", "x"], ["Otto lives in", "Rome"]]}
        ],
        "pitfalls/conflict_prompts.json": {"P26": ["{} is married to", "{} wed"]},
        "pitfalls/round_prompts.json": {},
        **{f"pitfalls/{name}.json": [] for name in ("coverage_edit", "composite_edit", "easy", "hard")},
        "pitfalls/reverse_edit.json": [{"rule": "P26>P26", "edits": [edit, back]}],
        "mquake/mquake_hard_dev.json": [
            {"case_id": 1, "requested_rewrite": [rewrite(5), rewrite(6)], "new_answer": "Oslo",
             "questions": ["Where is the home of the friend of Person 6?"]}
        ],
        "mquake/mquake_stubborn2_dev.json": [],
        "mquake/pokemqa-cls-filtered.json": [
            {"edit": "Person 7 speaks Latin", "questions": ["What does Person 7 speak?", "Which tongue is Person 7's?"]}
        ],
        "splits.json": {
            "zsre/zsre_mend_train-1k.json": {"train": [0], "dev": [1, 2, 3]},
            "general_qa/nq_open_dev_clean.jsonl": {"train": [], "dev": [0, 1, 2, 3, 4, 5]},
            "mquake/pokemqa-cls-filtered.json": {"dev": [0]},
        },
    }  # fmt: skip
    for name, rows in files.items():
        path = place / name
        path.parent.mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows) if name.endswith("l") else json.dumps(rows)
        path.write_text(text, encoding="utf-8")
    return place


def kinds(case_: ScopeCase) -> list[str]:
    return [kind for _, kind in case_.queries]


def test_readers(folder):
    public = Public(folder)
    found = {
        name: sets.chosen(public, [name])[name] for name in ("zsre", "peak", "pitfalls", "mquake", "pokemqa")
    }
    assert [c.edit.subject for c in found["zsre"]] == ["Person 1", "Person 2", "Person 3"]
    assert kinds(found["zsre"][0]) == ["own", "paraphrase", "general"]
    assert found["peak"][0].queries[2:] == (("Otto lives in", "neighbour"),), (
        "a neighbour that names the subject is none"
    )
    assert kinds(found["pitfalls"][0]) == ["own", "paraphrase", "paraphrase", "paraphrase", "ripple"]
    assert found["pitfalls"][0].queries[-1][0] == "Who is married to Person 3?"
    assert [kinds(c) for c in found["mquake"]] == [["own", "paraphrase"], ["own", "paraphrase", "ripple"]]
    assert (found["pokemqa"][0].edit.subject, found["pokemqa"][0].about) == (None, ("Person 7",))


def test_what_is_not_there_fills_nothing(folder):
    fillers = sets.Fillers.of(Public(folder))
    assert {"Person 1", "Person 7"} <= {case_.about[0] for case_ in fillers.cases}
    assert all(not case_.queries for case_ in fillers.cases)


def command(*args: str, code: int = 0):
    out = CliRunner().invoke(main, ["eval", "scope", *args])
    assert out.exit_code == code, out.output
    return out


def test_the_command_writes_scores_table_and_figures(folder, tmp_path):
    pytest.importorskip("matplotlib")
    place, cache = str(tmp_path / "report"), str(tmp_path / "cache")
    args = ["--data", str(folder), "--sets", "zsre,pokemqa", "--sizes", "1,6", "--cache", cache]
    out = command(*args, "--json", str(tmp_path / "s.json"), "--report", place)
    assert "zsRE 1k dev rows" in out.stdout
    said = json.loads((tmp_path / "s.json").read_text())
    assert {(r["set"], r["size"], r["judge"]) for r in said["scores"]} == {
        (s, n, j) for s in ("zsre", "pokemqa") for n in (1, 6) for j in ("memedit", "BM25", "MiniLM cosine")
    }
    first = said["scores"][0]
    assert first["rates"]["own"] == 1
    assert first["queries"] == {"general": 9, "maths": 2, "own": 3, "paraphrase": 3}
    assert said["setting"]["seed"] == 0
    assert len(said["setting"]["judging_code"]) == 12
    text = (tmp_path / "report" / "scope.md").read_text()
    assert "### pokemqa" in text
    assert "- judging code: " in text
    for name in ("precision-recall", "sizes", "reliability"):
        assert (tmp_path / "report" / f"{name}.png").stat().st_size > 5_000
        assert (tmp_path / "report" / f"{name}.svg").read_text().startswith("<?xml")
    again = json.loads(command(*args, "--json").stdout)
    assert again["scores"] == said["scores"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--sets", "zsrr"], 1, "did you mean zsre"),
        (["--baselines", "bm"], 1, "did you mean bm25"),
        (["--sizes", "1,x"], 2, "no list of whole numbers"),
        (["--sizes", "0"], 2, "at least one edit"),
        (["--sets", "hard"], 1, "can't read"),
        (["--classifier", "nowhere"], 1, "holds no scope classifier"),
        (["--report", "no/where"], 1, "make it first"),
    ],
)
def test_bad_input_gets_one_sentence(folder, tmp_path, monkeypatch, args, code, message):
    monkeypatch.chdir(tmp_path)
    out = command("--data", str(folder), *args, code=code)
    assert message in out.stderr
    assert list(tmp_path.iterdir()) == []


def test_data_has_to_be_named(monkeypatch, tmp_path):
    monkeypatch.delenv("MEMEDIT_DATA", raising=False)
    assert "Missing option '--data'" in command(code=2).stderr
    assert "can't read" in command("--data", str(tmp_path), code=1).stderr
    out = CliRunner().invoke(main, ["eval"])
    assert (out.exit_code, "Missing option '--data'" in out.stderr) == (2, True)


def test_public_sets_are_read(data):
    public = Public(data)
    found = sets.chosen(public, ["hard", "wiki-recent", "claims", "nq"], limit=60)
    assert {kind for c in found["hard"] for kind in kinds(c)} == {"paraphrase", "neighbour", "same_subject"}
    assert {kind for c in found["claims"] for kind in kinds(c)} == {"claim", "other_claim", "neighbour"}
    assert "ripple" in {kind for c in found["wiki-recent"] for kind in kinds(c)}
    written = sets.PARAPHRASES.read_text().splitlines()
    assert len(list(sets.questions(public))) == len(written), (
        "each paraphrase finds the question it was written for"
    )
    dev = set(public.split["general_qa/nq_open_dev_clean.jsonl"]["dev"])
    assert {json.loads(line)["row"] for line in written} <= dev
    assert all(len(cases) == 60 for cases in found.values())
    assert found["hard"][0] == sets.chosen(public, ["hard"], limit=60)["hard"][0]
