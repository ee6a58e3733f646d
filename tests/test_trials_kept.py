"""Suites with a course of their own: a stopped one goes on, a case that fails is counted, options are heeded or refused."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer
from test_evaluation import record
from test_pushback import FACTS
from test_trials import folder  # noqa: F401

from memedit.cli import main
from memedit.cli.evaluate import eval_
from memedit.drift import Standard
from memedit.errors import ModelError
from memedit.evaluation import erasure, opinion, pitfall_cases, pitfalls, pushback
from memedit.evaluation.drifting import Drifting
from memedit.evaluation.parts import Parts, failures
from memedit.evaluation.pitfall_whole import whole
from memedit.evaluation.record import Record


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(made)
    tiny_tokenizer().save_pretrained(made)
    return str(made)


def stopped_after(monkeypatch, count):
    """Kill a run once it has kept so many parts; None for never. The list grows with what is kept."""
    put, kept = Record.put, []

    def stopping(self, key, entry):
        if count is not None and len(kept) == count:
            raise KeyboardInterrupt
        kept.append(key)
        return put(self, key, entry)

    monkeypatch.setattr(Record, "put", stopping)
    return kept


# -- a stopped run goes on


@pytest.mark.parametrize("name", ["pushback", "pitfalls", "erasure", "opinions"])
def test_a_stopped_suite_goes_on_and_gives_the_same(name, folder, tmp_path, monkeypatch, model):  # noqa: F811
    (tmp_path / "c.json").write_text(json.dumps([record(0), record(1)]))
    given = {"pitfalls": ["--data", str(folder), "--only", "coverage,easy", "--no-drift", "--forms", "0"],
             "erasure": ["--data", str(tmp_path / "c.json")], "pushback": ["--max-new-tokens", "2"]}  # fmt: skip
    args = ["eval", name, *given.get(name, []), "--limit", "2", "--batch-size", "1", "--model", model]

    def call(file, *more):
        return CliRunner().invoke(main, [*args, "--json", str(tmp_path / file), *more])

    every = stopped_after(monkeypatch, None)
    assert call("whole.json").exit_code == 0
    monkeypatch.undo()
    stopped_after(monkeypatch, 3)
    assert call("r.json").exit_code == 1
    assert not (tmp_path / "r.json").exists()
    monkeypatch.undo()
    refused = call("r.json", "--seed", "1")
    assert refused.exit_code == 1
    assert "an unfinished run for r.json has other settings: seed 0, not 1" in refused.output
    rest = stopped_after(monkeypatch, None)
    done = call("r.json")
    assert done.exit_code == 0, done.output
    assert "going on with the run that was stopped: 3 parts" in done.stderr
    assert rest == every[3:]
    made, expected = (json.loads((tmp_path / file).read_text()) for file in ("r.json", "whole.json"))
    for one, other in zip(made["runs"], expected["runs"], strict=True):
        assert one["answers"] == other["answers"]
        assert one["scores"] == other["scores"]
    before = (tmp_path / "r.json").stat().st_mtime_ns
    again = call("r.json")
    assert "is this very run, finished" in again.stderr
    assert again.stdout == done.stdout
    assert (tmp_path / "r.json").stat().st_mtime_ns == before
    about = made["data"][0]
    assert about["cases"] in (1, 2)
    assert about["edits"] == about["cases"] * (2 if name == "pitfalls" else 1)
    assert bool(about["sha256"]) is (name in ("pitfalls", "erasure"))
    assert made["decoding"]["max_new_tokens"] == {"pushback": 2, "opinions": 24}.get(name, 16)


def test_the_copy_with_all_edits_goes_on_where_it_was_stopped(folder, lm, tmp_path, monkeypatch):  # noqa: F811
    import torch

    from memedit.merging import Merged
    from memedit.methods import load_method

    cases = [case for k in ("coverage", "easy") for case in pitfall_cases.read(folder, k, forms=0).cases]
    made, add = [], Merged.add

    def counted(self, edit, most=3):
        if len(made) == most:
            raise KeyboardInterrupt
        made.append(edit)
        return add(self, edit)

    def all_in(parts):
        return whole(lambda: Merged(lm("llama"), load_method("ft-m", steps=2)), cases, parts, every=2)

    expected, _ = all_in(Parts())
    monkeypatch.setattr(Merged, "add", counted)
    record = Record(str(tmp_path / "r.json"), {})
    with pytest.raises(KeyboardInterrupt):
        all_in(Parts(record, "a", "ft-m", "merged"))
    record.close()
    made.clear()
    again, failed = all_in(Parts(Record(str(tmp_path / "r.json"), {}), "a", "ft-m", "merged"))
    assert len(made) == 2
    assert failed == []
    pairs = zip(again.model.parameters(), expected.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


# -- what fails is counted


def breaking(monkeypatch, of, name, word):
    """Have a method of a class fail, not in our words, wherever it is given a word."""
    whole = getattr(of, name)

    def call(self, given=None, *args, **options):
        if word in str(given):
            raise ZeroDivisionError("on purpose")
        return whole(self, given, *args, **options)

    monkeypatch.setattr(of, name, call)


@pytest.fixture
def edited(lm, classifier, tmp_path):
    from memedit.edited import EditedModel
    from memedit.memory import EditMemory

    with EditMemory.open(tmp_path / "m", encoder=classifier) as memory:

        def make(edits):
            ids = memory.add(edits).ids
            return EditedModel.from_pretrained(lm("llama"), memory=memory), ids

        yield make


WHY = "ZeroDivisionError: on purpose"


def test_an_erasure_that_fails_is_named_and_wrong(edited, monkeypatch):
    from memedit.data import Case, Query

    cases = [Case(f.case, f.edit, (Query("locality", f"A river of {f.case}"),)) for f in FACTS]
    facts = erasure.erasures(cases)
    model, ids = edited([fact.edit for fact in facts])
    breaking(monkeypatch, type(model), "generate", "Japan")
    rows = erasure.asked(model, facts, ids, max_new_tokens=2)
    assert failures(rows) == [{"case": "Japan", "error": WHY}]
    by = {(s["kind"], s["label"], s["score"]): s for s in erasure.scores(rows)}
    assert by["old", "", "old answer given"]["n"] == 2
    assert by["old", "", "old answer given"]["value"] >= 0.5
    assert by["locality", "", "unchanged"]["value"] == 0.5
    (lost,) = (row for row in rows if row["case"] == "Japan" and row["kind"] == "old")
    assert (lost["success"], lost["right"], lost["route"]["class"]) == (False, True, "direct")


def test_an_opinion_that_fails_is_named_and_wrong(edited, monkeypatch):
    wanted = [("umbrellas", "positive"), ("night trains", "negative")]
    model, ids = edited([opinion.opinion(*one) for one in wanted])
    breaking(monkeypatch, type(model), "generate", "umbrellas")
    found = opinion.asked(
        model, wanted, ids, views=("Like {}?",), others=("Who wrote Hamlet?",), max_new_tokens=2
    )
    rows = opinion.answers(found)
    assert failures(rows) == [{"case": "umbrellas", "error": WHY}]
    by = {(s["kind"], s["label"], s["score"]): s["value"] for s in opinion.scores(found)}
    assert by["opinion", "positive", "opposite feeling"] == 1
    assert by["opinion", "positive", "feeling as asked"] == 0


def test_a_talk_that_fails_is_named_and_stands_nowhere(edited, monkeypatch):
    model, ids = edited([fact.edit for fact in FACTS])
    breaking(monkeypatch, type(model), "chat", "told it is Tokyo")
    talks = pushback.talked(model, FACTS, ids, "routed", turns=3, max_new_tokens=2)
    rows = pushback.answers(talks)
    assert failures(rows) == [{"case": "Japan", "error": WHY}]
    assert ["error" in row for row in rows] == [False] * 6 + [True] * 2
    assert rows[0]["route"]["method"] == "ice"
    by = {(s["label"], s["score"]): s for s in pushback.scores(talks, turns=(2,))}
    assert by["turn 2", "right edit fired"]["value"] == 0.5
    assert by["turn 2", "given up"]["value"] >= 0.5
    assert by["turn 2", "edit stands"]["n"] == 2


def test_a_pitfall_that_fails_is_named_and_wrong(folder, lm, classifier, tmp_path, monkeypatch):  # noqa: F811
    from memedit.edited import EditedModel
    from memedit.merging import Merged

    cases = [case for k in ("coverage", "easy") for case in pitfall_cases.read(folder, k, forms=0).cases]
    breaking(monkeypatch, EditedModel, "score", "Goya")
    found, drift = pitfalls.routed(
        lm("llama"), cases, "ice", tmp_path / "m", opening={"encoder": classifier}, drift=lambda lm: 1 / 0
    )
    assert [one.error for one in found] == [WHY, None]
    assert drift is None
    by = {(s["label"], s["score"]): s for s in pitfalls.scores(found)}
    assert by["coverage", "right edit fired"]["value"] == 0
    assert by["coverage", "conflict score"]["n"] == 1
    breaking(monkeypatch, Merged, "add", "Goya")
    found, _ = pitfalls.merged(lm("llama"), cases, "ft-m", settings={"steps": 1})
    assert [one.error for one in found] == [WHY, None]
    assert failures(pitfalls.answers(found)) == [{"case": "coverage-0", "error": WHY}]


def test_probabilities_that_are_no_numbers_are_a_failure(folder):  # noqa: F811
    class Collapsed:
        def score(self, prompts, targets, batch_size):
            return [type("Score", (), {"logprob": float("nan"), "agreed": [True]})] * len(prompts)

    with pytest.raises(ModelError, match="collapsed"):
        pitfalls.probabilities(Collapsed(), pitfall_cases.read(folder, "coverage").cases)


def test_drift_counts_outputs_that_are_not_the_bases(lm):
    drift = Drifting(lm("llama"), Standard.of(passages=2, questions=3))
    same, other = drift(lm("llama")), drift(lm("gpt2"))
    assert (same["changed"], same["kl"]) == (0, 0)
    assert same["perplexity"] == same["perplexity_base"]
    assert other["changed"] > 0
    assert other["kl"] > 0


# -- as suites of `memedit eval`


@pytest.mark.parametrize(
    ("args", "methods", "merged"),
    [([], ("ice",), ()), (["--merged"], ("ice",), ("rome",)), (["--merged", "--method", "rome"], (), ("rome",)),
     (["--merged", "--routed", "--method", "ice,rome"], ("ice", "rome"), ("rome",))],
)  # fmt: skip
def test_a_suite_merges_what_changes_weights(args, methods, merged, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setitem(
        eval_.commands, "pitfalls", click.Command("pitfalls", callback=lambda **own: seen.update(own))
    )
    done = CliRunner().invoke(main, ["eval", "--suite", "pitfalls", "--folder", str(tmp_path), *args])
    assert done.exit_code == 0, done.output
    assert (seen["methods"], seen["merged"]) == (methods, merged)


@pytest.mark.parametrize(
    ("args", "said"),
    [("pitfalls --split dev", "--suite pitfalls has no use for --split: leave it out"),
     ("opinions --max-new-tokens 4", "--suite opinions has no use for --max-new-tokens: leave it out"),
     ("erasure --merged", "--suite erasure has no use for --merged: leave it out"),
     ("pushback --skip-bad", "--suite pushback has no use for --skip-bad: leave it out"),
     ("small --mode single", "--suite small has no use for --mode: leave it out"),
     ("pitfalls --merged --method ice", "ice changes no weights"),
     ("pitfalls --method none", "none is no method of a suite"),
     ("pushback --method oracle:ice", "oracle:ice is no method of a suite")],
)  # fmt: skip
def test_what_a_suite_has_no_use_for_is_refused(args, said, folder):  # noqa: F811
    (folder / "pitfalls").mkdir()
    for file in folder.glob("*.json"):
        file.rename(folder / "pitfalls" / file.name)
    done = CliRunner().invoke(main, ["eval", "--folder", str(folder), "--suite", *args.split()])
    assert done.exit_code != 0
    assert said in done.output


def test_a_file_that_is_there_and_left_out_fails_the_small_suite(tmp_path, model):
    for name, text in (
        ("counterfact/counterfact-val", json.dumps([record(0)])),
        ("zsre/zsre_mend_train-1k", "[{}]"),
    ):
        path = tmp_path / f"{name}.json"
        path.parent.mkdir()
        path.write_text(text)
    args = [
        "eval",
        "--suite",
        "small",
        "--folder",
        str(tmp_path),
        "--model",
        model,
        "--no-forced",
        "--max-new-tokens",
        "2",
    ]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 1
    assert "edit success" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(
        "error: left out, though the file is there: zsre/zsre_mend_train-1k.json;"
    )
    (tmp_path / "zsre" / "zsre_mend_train-1k.json").unlink()
    assert CliRunner().invoke(main, args).exit_code == 0
