"""Two runs beside each other: points, what got worse first, flips."""

from __future__ import annotations

import copy
import json

import pytest
from click.testing import CliRunner
from report_runs import run, run_file

from memedit.cli import main
from memedit.errors import DataError
from memedit.report import compare, write_comparison


def files(*runs):
    return {"format": 1, "runs": [copy.deepcopy(one) for one in runs], "data": [{"name": "d", "sha256": "1"}]}


def score(one, kind, name, label=""):
    return next(s for s in one["scores"] if (s["kind"], s["label"], s["score"]) == (kind, label, name))


def test_a_run_against_itself_shows_no_change():
    found = compare(run_file(), run_file())
    assert found.points
    assert not any(p.worse for p in found.points)
    assert (found.flips, found.only_a, found.only_b, found.differs, found.unpaired) == ((), (), (), (), 0)


def test_what_got_worse_beyond_chance_comes_first_and_low_is_good_where_it_is():
    a, b = files(run("d", "ice")), files(run("d", "ice"))
    one, two = a["runs"][0], b["runs"][0]
    for side, value, low, high in ((one, 0.9, 0.85, 0.95), (two, 0.6, 0.5, 0.7)):
        score(side, "edit", "success").update(value=value, low=low, high=high)
    for side, value in ((one, 0.9), (two, 0.5)):
        score(side, "paraphrase", "success").update(value=value, low=0.1, high=0.95)
    for side, value in ((one, 0.2), (two, 0.4)):
        score(side, "portability", "success", "Reasoning").update(value=value)
    one["drift"]["kl"], two["drift"]["kl"] = 0.1, 0.4
    found = compare(a, b)
    named = [(p.kind, p.score, p.overlap, round(p.worse, 2)) for p in found.points if p.worse > 0]
    assert named == [
        ("edit", "success", False, 0.3),
        ("drift", "kl", None, 0.75),
        ("paraphrase", "success", True, 0.4),
    ]
    better = [p for p in found.points if p.worse < 0]
    assert [(p.kind, p.label) for p in better] == [("portability", "Reasoning")]
    assert found.points[-1] == better[0]


def test_flips_are_found_by_query_not_by_place():
    a, b = files(run("d", "ice")), files(run("d", "ice"))
    b["runs"][0]["answers"].reverse()
    good = next(x for x in b["runs"][0]["answers"] if x["kind"] == "edit" and x["success"])
    good.update(success=False, text="Paris <b>")
    bad = next(x for x in b["runs"][0]["answers"] if x["kind"] == "portability" and not x["success"])
    bad["success"] = True
    b["runs"][0]["answers"].pop()
    found = compare(a, b)
    assert found.unpaired == 1
    assert [(f.prompt, f.b) for f in found.flips if f.worse] == [(good["prompt"], "Paris <b>")]
    assert found.flips[0].worse
    assert [f.prompt for f in found.flips] == [good["prompt"], bad["prompt"]]


def test_runs_pair_by_number_of_edits_and_where_a_case_failed_all_the_same():
    a = files(run("d", "ice", size=2), run("d", "ice", size=8), run("d", "rome", "merged", size=8))
    b = files(run("d", "ice", size=8), run("d", "rome", "merged", size=8), run("d", "serac"))
    b["runs"][1]["edits_in_memory"] = 7
    found = compare(a, b)
    assert {p.edits for p in found.points} == {(8, 8), (8, 7)}
    assert found.only_a == ("ice, routed, on d: 2 edits, all edits at once, scored after all",)
    assert len(found.only_b) == 1
    assert any("8 against 7" in line for line in found.differs)


def test_runs_of_other_data_or_models_are_told():
    a, b = files(run("d", "ice")), files(run("d", "ice"))
    b["data"][0]["sha256"] = "2"
    b["model"] = {"name": "other", "digest": "x"}
    differs = compare(a, b).differs
    assert any("not the same file" in line for line in differs)
    assert any("other (x)" in line for line in differs)


def test_nothing_in_common_is_one_sentence():
    with pytest.raises(DataError, match="no score in common \\(ice on d against rome on e\\)"):
        compare(files(run("d", "ice")), files(run("e", "rome")))


def test_the_command_prints_writes_and_gives_json(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        runs = [run("d", method, seed=seed, size=12) for method in ("ice", "serac")]
        (tmp_path / f"{name}.json").write_text(json.dumps(files(*runs)))
    paths = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    done = CliRunner().invoke(main, ["report", *paths, "--output", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    worse = [p["worse"] for p in found["points"]]
    assert found["worse"] == sum(w > 0 for w in worse)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"compare.md", "compare.html", "compare.json"}
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["flips"] == found["flips"]
    flip = found["flips"][0]
    for name in ("compare.md", "compare.html"):
        text = (tmp_path / "out" / name).read_text()
        assert flip["prompt"] in text
        assert "<b>" not in text
    shown = CliRunner().invoke(main, ["report", *paths])
    assert shown.exit_code == 0
    assert "what got worse first" in shown.stdout
    one = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(files(run("other", "ice"))))
    failed = CliRunner().invoke(
        main, ["report", paths[0], str(tmp_path / "c.json"), "-o", str(tmp_path / "none")]
    )
    assert (failed.exit_code, failed.stderr.count("\n"), (tmp_path / "none").exists()) == (1, 1, False)
    assert one["runs"]


def test_a_comparison_is_written_whole(tmp_path):
    written = write_comparison(compare(run_file(0), run_file(1)), tmp_path / "c")
    assert [p.name for p in written] == ["compare.html", "compare.md", "compare.json"]
    assert "more flips are in compare.json" in written[1].read_text()
