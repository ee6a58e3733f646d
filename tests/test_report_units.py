"""Every score that an evaluation writes has a known unit and direction in reports."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import memedit.evaluation
from memedit.edit import Edit
from memedit.evaluation import Answer, erasure, opinion, pitfalls, pushback, scores
from memedit.evaluation.pitfall_cases import FILES, ROUNDS, Pitfall, Probe
from memedit.evaluation.pitfalls import Found
from memedit.report import compare
from memedit.report.units import KNOWN, is_share, lower_is_better, shown

LOWER = {
    "old answer given", "given up", "opposite feeling", "older edit given", "tied fact damage", "ignore rate", "failure rate",
    "kl", "distortion", "perplexity", "perplexity_base", "changed",
}  # fmt: skip
OF_DRIFT = {"perplexity", "perplexity_base", "accuracy", "changed"}
WRITERS = {"pushback.py", "pitfalls.py", "erasure.py", "opinion.py", "scores.py"}


def found(kind):
    """One case of a pitfall with everything that its scores look at."""
    edit = Edit(prompt="The capital of Italy is", target="Turin", subject="Italy", old="Rome")
    asked = Probe(("The capital of Italy is", "Italy's capital:"), "Turin")
    names = ("old", "new", "tied", "other 0")
    p = {state: dict.fromkeys(names, 0.2) for state in ("base", "first", "both", "second")}
    said = [("x", "Turin")] * (3 if kind == "reverse" else 2)
    probes = dict.fromkeys(("new", "old", "tied", "other 0"), asked)
    case = Pitfall(kind, kind, edit, edit, probes, asked)
    return Found(case, p, said, said, [[1]] * len(said), 1)


def written():
    """The names of all scores that anything in memedit.evaluation writes."""
    forced = {name: [0.5, -1.0, 2] for name in ("new", "old", "base_new", "base_old")} | {"unchanged": 1.0}
    kinds = [k for k in scores.KINDS if k != "opinion"]
    base = [
        Answer("1", kind, "", "p", ("Rome",), "Rome", "Rome it is", "Rome it is", (1,), True, None, True, True, forced,
               ("one two three", "one two three"))
        for kind in kinds
    ]  # fmt: skip
    withheld = Answer("2", "edit", "", "p", (), "Rome", "Rome", "I can't say", (1,), True)
    out = {m.score for m in scores.MEASURES} | {r["score"] for r in scores.summarise([*base, withheld])}
    out |= {r["score"] for r in pitfalls.scores([found(kind) for kind in FILES])}
    turn = {"stands": True, "given_up": False, "right": True}
    out |= {r["score"] for r in pushback.scores([{"case": "1", "turns": [turn] * 11}])}
    gone = {
        "case": "1",
        "kind": "old",
        "label": "prompt",
        "old": "Rome",
        "base": "Rome",
        "text": "",
        "right": True,
        "success": True,
    }
    still = {**gone, "kind": "locality", "label": "", "unchanged": True, "fired": []}
    out |= {r["score"] for r in erasure.scores([gone, still])}
    row = {"wanted": "positive", "topic": "tea", "right": True, "feeling": "positive", "base_feeling": None}
    told = opinion.Asked([row], [{"unchanged": True, "fired": [], "kl": 0.1}])
    return out | {r["score"] for r in opinion.scores(told)}


def test_every_score_that_is_written_has_a_unit_and_a_direction():
    assert written() | OF_DRIFT == set(KNOWN)
    assert {name for name in KNOWN if lower_is_better(name)} == LOWER
    assert {name for name in KNOWN if not is_share(name)} == {
        "kl", "distortion", "perplexity", "perplexity_base", "fluency", "sampled fluency",
    }  # fmt: skip
    assert shown("distortion", 0.693147) == "0.6931"
    assert shown("failure rate", 0.25) == "25.0"
    assert set(FILES) > set(ROUNDS)


def test_nothing_else_writes_scores():
    """A new module that writes scores is to stand in `written`, so that its names are known."""
    sources = Path(memedit.evaluation.__file__).parent.glob("*.py")
    writes = re.compile(r'import .*\brow\b|"low": ')
    assert {path.name for path in sources if writes.search(path.read_text())} == WRITERS


def test_more_of_what_is_bad_is_worse():
    def file(value):
        given = [
            {"kind": "x", "label": "", "score": name, "value": value, "low": value, "high": value, "floor": None, "n": 9}
            for name in (*LOWER, "edit stands")
        ]  # fmt: skip
        answer = {"kind": "x", "prompt": "p"}
        one = {
            "data": "d",
            "method": "ice",
            "way": "routed",
            "mode": "all",
            "scores": given,
            "answers": [answer],
        }
        return {"format": 1, "runs": [copy.deepcopy(one)]}

    points = compare(file(0.2), file(0.6)).points
    assert {p.score for p in points if p.worse > 0} == LOWER
    assert [p.score for p in points if p.worse < 0] == ["edit stands"]
