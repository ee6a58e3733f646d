"""What reports say of the suites, of multi-hop data and of ConvSent: the numbers first, and what they are."""

from __future__ import annotations

import numpy as np
import pytest
from report_runs import run

from memedit.evaluation import Answer, summarise
from memedit.evaluation.pushback import PUBLISHED, TURNS
from memedit.report import content, figures, read_run
from memedit.report.markdown import markdown
from memedit.report.picking import column, taken
from memedit.report.suites import SUITES, panels


def scored(kind, score, value, label="", floor=None, n=20):
    return {"kind": kind, "label": label, "score": score, "value": value, "low": value - 0.1, "high": value + 0.1,
            "floor": floor, "n": n}  # fmt: skip


def suite_run(data, scores, method="ice", way="routed", mode="all", kind="edit"):
    answer = {
        "case": "1",
        "kind": kind,
        "label": "",
        "prompt": "p",
        "answers": ["a"],
        "text": "a",
        "success": True,
    }
    return {"data": data, "method": method, "way": way, "mode": mode, "edits_in_memory": 20, "scores": scores,
            "answers": [answer]}  # fmt: skip


def written(*runs, **more):
    """A run file's report as Markdown."""
    return markdown(content.blocks(read_run({"format": 1, "runs": list(runs), **more}), []))


def talked(way, stands):
    return suite_run(
        "invented",
        [scored("pushback", name, value, f"turn {turn}", 0.0) for turn, share in zip(TURNS, stands, strict=True)
         for name, value in (("edit stands", share), ("given up", 0.9 - share))],
        way=way, mode="chat", kind="pushback",
    )  # fmt: skip


PITFALL = [
    scored("conflict", "newer edit wins", 0.81, "coverage", 0.0), scored("conflict", "older edit given", 0.07, "coverage"),
    scored("conflict", "conflict score", 0.93, "coverage"), scored("conflict", "conflict magnitude", 0.66, "coverage"),
]  # fmt: skip
ROUND = [scored("round", "newer edit wins", 0.71, "easy"), scored("round", "distortion", 0.1234, "easy"),
         scored("round", "failure rate", 0.35, "easy"), scored("round", "success score", 0.85, "easy")]  # fmt: skip
ERASURE = [scored("old", "erased", 0.61), scored("old", "old answer given", 0.04, floor=0.5),
           scored("old", "erased", 0.52, "known"), scored("old", "refused", 0.83),
           scored("locality", "unchanged", 0.99)]  # fmt: skip
OPINION = [scored("opinion", "feeling as asked", 0.44), scored("opinion", "opposite feeling", 0.21),
           scored("locality", "kl", 0.0123, "other topic"), scored("locality", "unchanged", 0.97, "other topic")]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "scores", "wanted"),
    [("coverage", PITFALL, ("81.0", "93.0", "7.0")), ("easy", ROUND, ("71.0", "85.0", "0.1234", "35.0")),
     ("facts", ERASURE, ("61.0", "4.0", "52.0", "99.0")), ("topics", OPINION, ("44.0", "21.0", "0.0123", "97.0"))],
)  # fmt: skip
def test_a_suite_shows_its_numbers_first(data, scores, wanted):
    one = suite_run(data, scores)
    words = written(one)
    head, _, rest = words.partition("## Methods and data sets")
    table = rest.partition("\n## ")[0]
    assert wanted[0] in head
    assert "Edit success" not in words
    for number in wanted:
        assert f"| {number}<br>" in table, number
    assert "(low is good)" in table
    (read,) = read_run({"format": 1, "runs": [one]}).runs
    assert sum(taken(read, c) is not None for c in panels(read)) >= 2
    assert set(figures.draw([read])) == {"scores"}


def test_the_panels_of_a_suite_are_columns_of_it():
    for suite in SUITES:
        assert set(suite.panels) <= {one.name for one in suite.columns}


def test_pushback_shows_the_published_numbers_with_their_caveat():
    routed, once = talked("routed", (0.9, 0.85, 0.8, 0.75)), talked("once", (0.88, 0.41, 0.32, 0.13))
    words = written(once, routed, published=PUBLISHED)
    table = words.partition("## Methods and data sets")[2].partition("\n## ")[0]
    assert "edit stands at turn 10 75.0" in words.partition("## Methods")[0]
    assert "| 92.9 | 27.1 |  | 22.6 |" in table
    assert PUBLISHED["caveat"] in table
    assert "13.0" in table
    assert "Published" not in written(once, routed)
    odd = written(once, published={"turns": [1], "what": None})
    assert "no caveat is given" in odd


def test_how_it_was_made_says_what_is_known_and_no_more():
    one = suite_run("coverage", PITFALL)
    data = [
        {"name": "coverage", "file": "c.json", "cases": 20, "left_out": 3},
        {"name": "invented", "file": None},
    ]
    made = written(one, data=data).partition("## How this was made")[2]
    assert "data coverage: 20 cases, 3 left out (repeated, contradictory or unusable); c.json\n" in made
    assert "?" not in made
    assert "invented" not in made
    whole = [
        {"name": "d", "file": "d.json", "format": "mquake", "cases": 1200, "edits": 3, "sha256": "f" * 64}
    ]
    made = written(one, data=whole).partition("## How this was made")[2]
    assert f"data d: 1,200 cases, 3 edits; mquake, d.json, sha256 {'f' * 16}\n" in made


def test_multi_hop_data_shows_the_share_of_cases_with_any_question_right():
    given = [scored("edit", "success", 0.9), scored("multi-hop", "success", 0.31, floor=0.0, n=60),
             scored("multi-hop", "any question", 0.47, floor=0.0), scored("hop", "every hop", 0.56)]  # fmt: skip
    words = written(suite_run("mquake", given))
    head, _, rest = words.partition("## Methods and data sets")
    table, _, after = rest.partition("\n## ")
    kinds = after.partition("By kind of query")[2].partition("All other scores")[0]
    assert "portability (any question) 47.0" in head
    assert "| 47.0<br>" in table
    assert "any question of a case (mh)" in table
    assert "per question 31.0" in table
    assert "| multi-hop | any question | 20 |" in kinds
    assert "| hop | every hop | 20 |" in kinds


def test_convsents_published_locality_is_never_read_as_percent():
    still = [scored("opinion", "feeling as asked", 0.4), scored("locality", "unchanged", 0.98)]
    words = written(suite_run("convsent", still))
    assert "paper (KL, low is good)" in words
    assert "49.73<br><sub>KL, no %</sub>" in words
    assert "ConvSent's locality is no share" in words
    assert "| 98.0<br>" in words
    ours = written(suite_run("convsent", [*still, scored("locality", "kl", 0.0456)]))
    table = ours.partition("## Methods and data sets")[2].partition("\n## ")[0]
    assert "| 0.0456<br>" in table
    assert "| 98.0<br>" not in table
    assert "(KL" not in written(run("zsre", "ice", size=1))


def test_a_failed_case_is_said_to_count_as_wrong():
    words = written(
        suite_run("d", [scored("edit", "success", 0.5)]) | {"failed": [{"case": "1", "error": "boom"}]}
    )
    assert "a failed case counts as wrong" in words
    assert "in no score" not in words


def test_the_interval_of_s_draws_whole_cases():
    """Where two scores go against each other, S varies less than the bounds of each would have it."""

    def said(kind, case, good):
        forced = {
            "new": [1.0, -1.0, 1],
            "old": [0.0, -3.0, 1],
            "base_new": [0.0, -3.0, 1],
            "base_old": [1.0, -1.0, 1],
        }
        if good is (kind == "locality"):
            forced["new"], forced["old"] = forced["old"], forced["new"]
        return Answer(case, kind, "", "p", ("Rome",), "Rome", "", "", None, None, forced=forced)

    answers = []
    for i in range(40):
        answers += [
            said("edit", str(i), i % 2 == 0),
            said("paraphrase", str(i), i % 2 == 0),
            said("locality", str(i), i % 2 == 1),
        ]
    found = {(s["kind"], s["score"]): s for s in summarise(answers, seed=3)}
    s = found["edit", "S"]
    assert s["value"] == pytest.approx(0.5)
    rng, draws = np.random.default_rng(1), []
    for _ in range(4000):
        x = (rng.integers(0, 40, 40) % 2 == 0).mean()
        draws.append(3 / (1 / x + 1 / x + 1 / (1 - x)))
    assert (s["low"], s["high"]) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.02)
    assert s["high"] < found["edit", "efficacy"]["high"] - 0.05
    again = {(r["kind"], r["score"]): r for r in summarise(answers, seed=3)}
    assert again["edit", "S"] == s
    assert column("locality").label == ""
