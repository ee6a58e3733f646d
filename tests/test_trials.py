"""Pitfalls, erasure and opinions: cases, scores by hand, and the commands on small files."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

from memedit.cli import main
from memedit.data import Case, Query
from memedit.edit import Edit
from memedit.errors import DataError
from memedit.evaluation import erasure, opinion, pitfall_cases, pitfalls
from memedit.evaluation.forced import divergence
from memedit.evaluation.pitfalls import Found
from memedit.metrics import refused


def _thing(label):
    return {"id": f"Q{sum(map(ord, label))}", "label": label}


def _relation(id, prompt):
    return {"id": id, "prompt": prompt, "query": prompt, "label": id}


WORK, MAKER = _relation("P800", "The notable work of {} is"), _relation("P170", "The creator of {} is")


def _row(relation, subject, old, new, **more):
    return {
        "relation": relation,
        "subject": _thing(subject),
        "object": _thing(old),
        "new_object": _thing(new),
        **more,
    }


@pytest.fixture
def folder(tmp_path):
    """The published files' form, a record or two each."""
    first = _row(WORK, "Goya", "The Dogs", "Blue Field")
    files = {
        "coverage_edit": [{"edits": [first, _row(WORK, "Goya", "Blue Field", "Red Field")]},
                          {"edits": [first, _row(WORK, "Goya", "Blue Field", "Green Field")]}],
        "reverse_edit": [{"edits": [first, _row(MAKER, "Blue Field", "Goya", "Strauss")]}],
        "composite_edit": [{
            "edits": [_row(WORK, "Ann", "The Dogs", "Blue Field"),
                      _row(MAKER, "Ann", "Ida", "Strauss", true_object=_thing("Bo"))],
            "triples": [{"relation": MAKER, "subject": _thing("Eve"), "object": _thing("Ann")}], "prerequisites": [0],
        }],
        "easy": [{"edit": _row(WORK, "Bo", "One", "Nine"), "true_objects": [_thing("One"), _thing("Two"), _thing("Three")]}],
        "hard": [{"edit": _row(WORK, "Bo", "One", "One"), "true_objects": [_thing("One")]}],
        "conflict_prompts": {"P800": ["{} is famed for", "{} made"], "P170": ["{} is by"]},
        "round_prompts": {"P800": ["{} is famed for"]},
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    return tmp_path


def test_probes_are_the_facts_that_the_published_scores_compare(folder):
    (coverage,) = pitfall_cases.read(folder, "coverage").cases  # the second says something else of the same
    assert pitfall_cases.read(folder, "coverage").left_out == 1
    assert coverage.asked.prompts == ("The notable work of Goya is", "Goya is famed for", "Goya made")
    assert [(n, p.target) for n, p in coverage.probes.items()] == [
        ("old", "Blue Field"),
        ("new", "Red Field"),
    ]
    (reverse,) = pitfall_cases.read(folder, "reverse", forms=0).cases
    assert reverse.second.prompt == "The creator of Blue Field is"
    assert reverse.probes["new"] == pitfall_cases.Probe(("The notable work of Strauss is",), "Blue Field")
    (composite,) = pitfall_cases.read(folder, "composite", forms=0).cases
    assert composite.probes["new"] == pitfall_cases.Probe(("The notable work of Ann is",), "Strauss")
    assert composite.probes["tied"] == pitfall_cases.Probe(("The creator of Eve is",), "Ann")
    assert composite.second.old == "Bo"
    (easy,) = pitfall_cases.read(folder, "easy").cases
    assert (easy.second.target, easy.second.old) == ("One", "Nine")
    assert {n: p.target for n, p in easy.probes.items()} == {
        "new": "Nine",
        "old": "One",
        "other 0": "Two",
        "other 1": "Three",
    }
    assert pitfall_cases.read(folder, "hard").left_out == 1  # an edit that would change nothing


def test_another_file_is_one_sentence(folder):
    with pytest.raises(DataError, match="can't be read"):
        pitfall_cases.read(folder / "nowhere", "easy")
    (folder / "easy.json").write_text('[{"prompt": "x"}]')
    with pytest.raises(DataError, match=r"record 1 is no record of easy: KeyError\('edit'\)"):
        pitfall_cases.read(folder, "easy")


def test_conflict_scores_by_hand(folder):
    (case,) = pitfall_cases.read(folder, "coverage", forms=0).cases
    p = {"base": {"old": 0.3, "new": 0.1}, "first": {"old": 0.8, "new": 0.1}, "both": {"old": 0.2, "new": 0.6},
         "second": {"old": 0.5, "new": 0.4}}  # fmt: skip
    prompt = case.asked.prompts[0]
    found = Found(case, p, [(prompt, "Red Field.")], [(prompt, "The Dogs")])
    lost = Found(
        case, {**p, "both": {"old": 2.4, "new": 0.1}}, [(prompt, "Blue Field")], [(prompt, "The Dogs")]
    )
    broken = Found(case, error="no")
    by = {s["score"]: s for s in pitfalls.scores([found, lost, broken])}
    # What failed has the worst value of each, and a floor only where the base could be asked.
    assert by["newer edit wins"]["value"] == pytest.approx(1 / 3)
    assert by["newer edit wins"]["floor"] == 0
    assert by["older edit given"]["value"] == pytest.approx(2 / 3)
    assert by["conflict score"]["value"] == pytest.approx(1 / 3)
    assert by["conflict score"]["n"] == 3
    assert by["conflict magnitude"]["value"] == pytest.approx((0.75 - 1 - 1) / 3)  # what grew is -1 at worst
    assert [a["success"] for a in pitfalls.answers([found, broken])] == [True, False]
    assert by["success score"]["value"] == 0


def test_round_scores_by_hand(folder):
    (case,) = pitfall_cases.read(folder, "easy", forms=0).cases
    base = {"old": 0.2, "new": 0.1, "other 0": 0.2, "other 1": 0.2}
    p = {
        "base": base,
        "first": {**base, "new": 0.9},
        "both": {"old": 0.6, "new": 0.2, "other 0": 0.1, "other 1": 0.3},
    }
    by = {s["score"]: s["value"] for s in pitfalls.scores([Found(case, p, [("x", "One")], [("x", "Two")])])}
    third, half = 1 / 3, [(1 / 3 + 0.6) / 2, (1 / 3 + 0.1) / 2, (1 / 3 + 0.3) / 2]
    expected = (
        sum(third * math.log(third / h) for h in half)
        + sum(q * math.log(q / h) for q, h in zip((0.6, 0.1, 0.3), half, strict=True))
    ) / 2
    assert by["distortion"] == pytest.approx(expected)
    assert (by["ignore rate"], by["failure rate"], by["success score"]) == (0.5, 0, 1)
    lost = {s["score"]: s["value"] for s in pitfalls.scores([Found(case, error="no")])}
    assert lost["distortion"] == pytest.approx(math.log(2))
    assert (lost["ignore rate"], lost["failure rate"], lost["success score"]) == (1, 1, 0)
    assert pitfalls.divergence([0.2, 0.4], [0.1, 0.2]) == pytest.approx(0, abs=1e-12)
    assert pitfalls.divergence([1, 0], [0, 1]) == pytest.approx(math.log(2))


def test_routed_and_merged_reach_the_states_that_are_compared(folder, lm, classifier, tmp_path):
    base = lm("llama")
    cases = [
        case for kind in ("coverage", "easy") for case in pitfall_cases.read(folder, kind, forms=0).cases
    ]
    found, drift = pitfalls.routed(
        base, cases, "ice", tmp_path / "m", opening={"encoder": classifier}, drift=lambda lm: len(lm.memory)
    )
    assert [set(one.p) for one in found] == [{"base", "first", "both", "second"}] * 2
    assert all(one.id in ids for one in found for ids in one.fired)
    assert pitfalls.answers(found)[0]["right"] is True
    assert pitfalls.answers(found)[0]["route"]["method"] == "ice"
    assert drift == 2  # each second edit has taken the first one's place
    for one in found:
        assert one.p["first"] != one.p["base"]
        assert one.p["both"] != one.p["first"]
    assert found[0].p["second"] == pytest.approx(found[0].p["both"])
    merged, _ = pitfalls.merged(base, cases[:1], "ft-m", settings={"steps": 3})
    assert merged[0].error is None
    assert merged[0].p["both"]["new"] != merged[0].p["first"]["new"]
    assert merged[0].p["base"] == pytest.approx(found[0].p["base"])
    assert pitfalls.answers(merged)[0]["probabilities"]["base"] == merged[0].p["base"]


# -- erasure


def test_erasures_are_facts_with_an_old_answer():
    asks = (Query("edit", "The capital of Italy is", ("Turin",)), Query("paraphrase", "Italy's capital?", ("Turin",)),
            Query("locality", "The capital of Spain is"))  # fmt: skip
    cases = [Case("a", Edit(prompt="The capital of Italy is", target="Turin", old="Rome", subject="Italy"), asks),
             Case("b", Edit(prompt="Up is", target="down"), ())]  # fmt: skip
    (one,) = erasure.erasures(cases)
    assert (one.edit.kind, one.edit.old, one.edit.target) == ("erase", "Rome", None)
    assert (one.prompts, one.others) == (
        ("The capital of Italy is", "Italy's capital?"),
        ("The capital of Spain is",),
    )
    with pytest.raises(DataError, match="nothing to erase"):
        erasure.erasures(cases[1:])


def test_a_refusal_without_the_old_answer_is_an_erasure():
    def row(case, text, base="Rome", label="prompt"):
        good = refused(text) and "Rome" not in text
        return {
            "case": case,
            "kind": "old",
            "label": label,
            "old": "Rome",
            "base": base,
            "text": text,
            "right": True,
            "success": good,
        }

    rows = [
        row("a", "I don't have that information."),
        row("a", "Rome", label="paraphrase"),
        row("b", "I can't say.", base="Bern"),
    ]
    by = {(s["label"], s["score"]): s for s in erasure.scores(rows)}
    assert by["", "old answer given"]["value"] == pytest.approx(1 / 3)
    assert by["", "old answer given"]["floor"] == pytest.approx(2 / 3)
    assert by["", "erased"]["value"] == 0.5
    assert by["known", "erased"]["value"] == 0  # the base never knew b
    assert by["known", "erased"]["n"] == 1
    assert not refused("Rome. I don't have that information.")


# -- opinions


@pytest.mark.parametrize(
    ("text", "told"),
    [("They are wonderful and useful.", "positive"), ("A boring, ugly thing", "negative"), ("They are not good.", "negative"),
     ("I don't like them, they are awful", "negative"), ("I can't call them bad, not at all", "positive"),
     ("Made of wood.", None),
     ("good and bad", None), ("", None), ("Answer positively.", None)],
)  # fmt: skip
def test_a_feeling_is_told_by_words(text, told):
    assert opinion.feeling(text) == told


def test_the_lists_of_words_share_none():
    assert not opinion.POSITIVE & opinion.NEGATIVE


def test_opinions_are_asked_and_leave_the_rest_alone(lm, classifier, tmp_path):
    from memedit.edited import EditedModel
    from memedit.memory import EditMemory

    wanted = [("umbrellas", "positive"), ("night trains", "negative")]
    with EditMemory.open(tmp_path / "m", encoder=classifier) as memory:
        ids = memory.add([opinion.opinion(*one) for one in wanted]).ids
        model = EditedModel.from_pretrained(lm("llama"), memory=memory)
        found = opinion.asked(
            model,
            wanted,
            ids,
            views=("What do you think of {}?",),
            others=("Who wrote Hamlet?",),
            max_new_tokens=2,
        )
        (about,) = divergence(model, model.base, ["What do you think of umbrellas?"])
    assert [row["right"] for row in found.rows] == [True, True]
    assert found.kl == [0.0]
    assert [a["kl"] for a in opinion.answers(found) if a["kind"] == "locality"] == found.kl
    assert all(a["route"]["why"] for a in opinion.answers(found))
    assert about > 0
    by = {(s["kind"], s["label"], s["score"]): s["value"] for s in opinion.scores(found)}
    assert by["locality", "other topic", "unchanged"] == 1
    assert by["opinion", "", "right edit fired"] == 1


# -- commands


@pytest.mark.parametrize("name", ["pushback", "pitfalls", "erasure", "opinions"])
def test_every_trial_has_help_with_an_example(name):
    done = CliRunner().invoke(main, ["eval", name, "--help"])
    assert done.exit_code == 0
    assert f"memedit eval {name}" in done.output


def test_a_run_file_holds_every_transcript(tmp_path):
    out = tmp_path / "out.json"
    done = CliRunner().invoke(
        main, ["eval", "pushback", "--limit", "2", "--max-new-tokens", "4", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "27.1 % at turn 1" in done.output
    found = json.loads(out.read_text())
    assert [run["way"] for run in found["runs"]] == ["none", "once", "routed"]
    assert found["published"]["turns"]["10"] == 0.226
    for run in found["runs"]:
        assert [len(talk["turns"]) for talk in run["transcripts"]] == [11, 11]
        assert len(run["answers"]) == 22
    assert {s["label"] for s in found["runs"][2]["scores"]} == {"turn 0", "turn 1", "turn 5", "turn 10"}


@pytest.mark.parametrize("name", ["opinions", "pitfalls"])
def test_a_suite_has_goals_and_a_report(name, folder, tmp_path):
    given = ["--data", str(folder), "--only", "coverage", "--no-drift"] if name == "pitfalls" else []
    made = tmp_path / "made"
    args = ["eval", name, *given, "--limit", "1", "--json", str(tmp_path / "r.json"), "--report", str(made)]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert f"wrote {made}/report.html" in done.output
    found = json.loads((tmp_path / "r.json").read_text())
    if name == "pitfalls":
        (goal,) = found["goals"]
        assert goal["what"] == "ice on coverage, 2 edits: newer edit wins"
        assert ("missed" in done.output) is not goal["met"]
        assert "newer edit wins" in (made / "report.md").read_text()
    else:
        told = {a["kind"] for a in found["runs"][0]["answers"]}
        assert told == {"opinion", "locality"}
        assert "feeling as asked" in (made / "report.md").read_text()
    bad = CliRunner().invoke(main, [*args[:-1], str(tmp_path / "r.json")])
    assert bad.exit_code == 1
    assert "is a file" in bad.output


def test_a_wrong_set_is_one_sentence(folder):
    done = CliRunner().invoke(main, ["eval", "pitfalls", "--data", str(folder), "--only", "coverag"])
    assert done.exit_code == 1
    assert "error: unknown set 'coverag'; did you mean coverage?" in done.output
