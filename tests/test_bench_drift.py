"""`memedit bench drift` and `memedit eval --merged` on the shipped base: points, resuming, table, figure."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer

from memedit.bench.drift import Point, Store
from memedit.bench.drift_figure import table, write_figures
from memedit.cli import main
from memedit.edit import Edit
from memedit.errors import DataError, MethodError
from memedit.lm import HFModel
from memedit.merging import Merged
from memedit.methods import load_method
from memedit.methods.ft_m import FTM

PLACES = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Peru": "Lima", "Egypt": "Cairo",
    "Cuba": "Havana", "Russia": "Moscow",
}  # fmt: skip


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Facts of which the shipped base knows at least four."""
    folder = tmp_path_factory.mktemp("drift")
    rows = [
        {
            "prompt": f"The capital of {place} is",
            "target": "Lyon",
            "old": old,
            "subject": place,
            "locality": ["Two and two are"],
        }
        for place, old in PLACES.items()
    ]
    (folder / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(known, output, *args, code=0):
    small = ["--passages", "2", "--questions", "2", "--sample", "2", "--set", "ft-m.steps=2"]
    args = [
        "--data",
        str(known / "known.jsonl"),
        "--output",
        str(output),
        *small,
        *args,
    ]
    done = CliRunner().invoke(main, ["bench", "drift", "--how", "merged", "--method", "ft-m", *args])
    assert done.exit_code == code, done.output
    return done.output


def points(folder):
    return [Point(**row) for row in json.loads((folder / "drift.json").read_text())["points"]]


def test_a_stopped_run_goes_on_and_finds_what_a_whole_one_does(known, tmp_path, monkeypatch):
    run(known, tmp_path / "whole", "--edits", "1,2,4")
    whole = points(tmp_path / "whole")
    assert [(p.method, p.how, p.edits) for p in whole] == [
        ("", "base", 0),
        *(("ft-m", "merged", n) for n in (1, 2, 4)),
    ]
    assert all(p.es is not None and p.neighbours is not None and p.perplexity > 1 for p in whole[1:])
    assert whole[1].perplexity != whole[0].perplexity
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {
        "drift.json",
        "drift.md",
        "drift.png",
        "drift.svg",
    }
    assert "| ft-m | merged | 4 |" in (tmp_path / "whole" / "drift.md").read_text()

    add, kept = Store.add, []

    def stops(self, point):
        if point.edits == 4:
            raise KeyboardInterrupt
        kept.append(point)
        add(self, point)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "add", stops)
        run(known, tmp_path / "cut", "--edits", "1,2,4", code=1)
    assert [p.edits for p in kept] == [0, 1, 2]
    assert (tmp_path / "cut" / "drift-ft-m.safetensors").exists()
    with monkeypatch.context() as patched:  # two edits are left to make
        from memedit.merging import Merged

        made, one = [], Merged.add
        patched.setattr(Merged, "add", lambda self, edit: made.append(edit) or one(self, edit))
        run(known, tmp_path / "cut", "--edits", "1,2,4")
    assert len(made) == 2
    same = [(p.edits, p.es, p.neighbours, pytest.approx(p.perplexity, rel=1e-4)) for p in whole]
    assert [(p.edits, p.es, p.neighbours, p.perplexity) for p in points(tmp_path / "cut")] == same


def test_points_belong_to_what_the_files_hold_and_to_the_weights(known, tmp_path, lm):
    facts = tmp_path / "known.jsonl"
    facts.write_text((known / "known.jsonl").read_text())
    run(tmp_path, tmp_path / "out", "--edits", "1")
    run(tmp_path, tmp_path / "out", "--edits", "1")
    setting = json.loads((tmp_path / "out" / "drift.json").read_text())["setting"]
    assert setting["base"] == HFModel.from_pretrained("base").fingerprint
    facts.write_text(facts.read_text().replace("Lyon", "Nice"))  # the same name
    assert "was measured with other settings" in run(tmp_path, tmp_path / "out", "--edits", "1", code=1)
    edit = Edit(prompt="The capital of Peru is", target="Cusco")
    merged = Merged(lm("llama"), load_method("ft-m", steps=1))
    merged.add(edit)
    merged.save_state(tmp_path / "state", "one setting")
    moved = HFModel(tiny_model("llama"), tiny_tokenizer())
    with torch.no_grad():
        moved.model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    for base, setting in ((lm("llama"), "another"), (moved, "one setting")):
        again = Merged(base, load_method("ft-m", steps=1))
        with pytest.raises(DataError, match="of another base, or of other facts or settings"):
            again.load_state(tmp_path / "state", setting)
        assert again.edits == 0


def test_an_edit_that_can_not_be_prepared_is_counted_and_left_out(known, tmp_path, monkeypatch):
    solve, asked = FTM.solve, []

    def refuses(self, base, edit, settings):
        asked.append(edit.prompt)
        if edit.prompt == asked[0]:
            raise MethodError("no such edit")
        return solve(self, base, edit, settings)

    monkeypatch.setattr(FTM, "solve", refuses)
    run(known, tmp_path, "--edits", "1,3", "--how", "routed")
    assert [(p.how, p.edits, p.refused) for p in points(tmp_path)] == [
        ("base", 0, 0),
        ("routed", 1, 1),
        ("routed", 3, 1),
    ]
    assert len(set(asked)) == 2  # of three: the third never fired


def test_behind_the_router_only_edits_that_fire_are_prepared(known, tmp_path, monkeypatch):
    solve, asked = FTM.solve, []
    monkeypatch.setattr(FTM, "solve", lambda *args: asked.append(args[2].prompt) or solve(*args))
    run(known, tmp_path, "--edits", "4", "--how", "routed")
    assert len(asked) == len(set(asked)) == 2  # the sample
    assert points(tmp_path)[-1].es is not None


def test_what_can_not_be_measured_is_said(known, tmp_path):
    assert "give more, or fewer edits by --edits" in run(known, tmp_path / "a", "--edits", "900", code=1)
    assert "write numbers of edits" in run(known, tmp_path / "a", "--edits", "1,x", code=2)
    store = Store(tmp_path / "drift.json", {"sample": 1})
    store.add(Point("rome", "merged", 1, 1.0, None, 0.5, 10.0, 0.5))
    assert Store(tmp_path / "drift.json", {"sample": 1}).has("rome", "merged", 1)
    with pytest.raises(DataError, match="was measured with other settings"):
        Store(tmp_path / "drift.json", {"sample": 2})
    (tmp_path / "drift.json").write_text("[]")
    with pytest.raises(DataError, match="holds no points of this bench"):
        Store(tmp_path / "drift.json", {"sample": 1})


def test_table_and_figure_hold_what_was_measured_and_are_the_same_each_time(tmp_path):
    found = [
        Point("", "base", 0, None, None, None, 30.0, 0.9),
        Point("rome", "merged", 100, 0.5, 0.25, 0.125, 2e9, 0.0, 7),
        Point("rome", "routed", 100, 1.0, None, 1.0, 30.0, 0.9),
    ]
    lines = table(found, "standard", 20).splitlines()
    assert "| (base) |  | 0 |  |  |  | 30 | 90 |  |" in lines
    assert "| rome | merged | 100 | 50 | 25 | 12 | 2.0e+09 | 0 | 7 |" in lines
    assert "| rome | routed | 100 | 100 |  | 100 | 30 | 90 |  |" in lines
    for name in "ab":
        (tmp_path / name).mkdir()
        write_figures(found, tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / "a" / f"drift.{kind}").read_bytes() == (
            tmp_path / "b" / f"drift.{kind}"
        ).read_bytes()


def test_eval_merged_scores_a_model_with_the_edits_in_its_weights(known, tmp_path):
    how = [
        "--data",
        str(known / "known.jsonl"),
        "--edits",
        "2",
        "--method",
        "ft-m",
        "--merged",
    ]
    done = CliRunner().invoke(
        main, ["eval", *how, "--set", "ft-m.lr=0.05", "--json", str(tmp_path / "out.json")]
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out.json").read_text())
    (run,) = found["runs"]
    assert (run["way"], run["edits_in_memory"]) == ("merged", 2)
    by = {(s["kind"], s["score"]): s for s in run["scores"]}
    assert by["edit", "success"]["n"] == 2
    assert ("locality", "no edit fired") not in by  # there is no router
    assert "2 edits made when scored" in done.output
    done = CliRunner().invoke(main, ["eval", *how, "--memory", str(tmp_path / "m")])
    assert done.exit_code == 2
    assert "leave --memory out" in done.output
