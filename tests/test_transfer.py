"""Import, dry run and export: what one says the other does, and what goes out comes back."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.cli import main
from memedit.cli._dry_run import rows_of
from memedit.data import Reading, read
from memedit.data.table import write
from memedit.edit import Edit
from memedit.errors import EditError
from memedit.memory import EditMemory, replayable, suspects

ENCODER = TrigramEncoder()
# A failing life is reported as it was found: to shrink one takes minutes.
QUICK = settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEMEDIT_MEMORY", raising=False)

    def call(*args, stdin=None, code=0):
        done = CliRunner().invoke(main, list(args), input=stdin)
        assert done.exit_code == code, done.output
        return done

    return call


def opened(folder):
    return EditMemory.open(folder, encoder=ENCODER)


# -- what edits there are

words = st.sampled_from(
    ["tea", "Ödland", "東京", "a|b", "x;y", 'say "hi"', "new, old", "[1]", "Straße", "=1+1", "🙂 ok"]
)
lists = st.lists(words, max_size=3).map(tuple)
dates = st.sampled_from([None, "2026-01-01", "2027-05-05T10:00:00+02:00", "2030-01-01"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | words,
    lambda v: st.lists(v, max_size=2),
    max_leaves=3,
)
extras = st.dictionaries(
    st.sampled_from(
        ["colour", "id", "status", "aliases", "extra", "prompt", "paraphrases", "target_new", "é"]
    ),
    json_values | st.sampled_from(["live", {"a": 1}]),
    max_size=3,
)


@st.composite
def edits(draw):
    """Any edit that can be taken, of few subjects, so that they meet."""
    subject = draw(st.sampled_from(["Acme", "Bravo", "東京"]))
    shape = draw(st.sampled_from(["fact", "fact", "fact", "statement", "erase"]))
    common = {
        "subject": draw(st.sampled_from([None, subject])),
        "relation": draw(st.sampled_from([None, "head"])),
        "subject_aliases": draw(lists),
        "method": draw(st.sampled_from([None, "ice"])),
        "source": draw(st.none() | words),
        "author": draw(st.none() | words),
        "tags": draw(lists),
        "ref": draw(st.sampled_from([None, None, "r1", "r2"])),
        "valid_from": draw(dates),
        "valid_to": draw(st.sampled_from([None, "2030-06-01", "2031-01-01"])),
        "extra": draw(extras),
    }
    prompt = draw(st.sampled_from([f"The head of {subject} is", f"Who leads {subject}?"]))
    target = draw(words)
    if shape == "statement":
        return Edit(statement=f"{subject} is led by {target}", **common)
    if shape == "erase":
        return Edit(prompt=prompt, kind="erase", old=target, **common)
    kind = draw(st.sampled_from(["modify", "insert"]))
    return Edit(prompt=prompt, target=target, kind=kind, target_aliases=draw(lists), **common)


@st.composite
def histories(draw):
    """Steps of a memory's life: batches that are added, edits that are changed, forgotten, or taken back."""
    steps = st.one_of(
        st.tuples(st.just("add"), st.lists(edits(), min_size=1, max_size=3)),
        st.tuples(st.just("update"), edits()),
        st.tuples(st.just("forget"), st.just(None)),
        st.tuples(st.just("undo"), st.just(None)),
    )
    return draw(st.lists(steps, min_size=1, max_size=6))


def lived(memory, history):
    """Let a memory live; steps that can't be taken are passed over."""
    for what, value in history:
        live = memory.list()
        if what == "add":
            memory.add(value)
        elif live and what == "forget":
            memory.forget(live[0].id)
        elif live and what == "update":
            fields = (
                "prompt",
                "target",
                "kind",
                "statement",
                "subject",
                "old",
                "valid_from",
                "valid_to",
                "ref",
            )
            with suppress(EditError):
                memory.update(live[0].id, **{name: getattr(value, name) for name in fields})
        elif (
            what == "undo"
            and memory.operations()
            and any(not o.undone and o.kind != "undo" for o in memory.operations())
        ):
            memory.undo()


def exported(memory, kind):
    rows = [record.edit.to_dict() for record in replayable(memory.list())]
    if kind == "csv":
        return write(rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@QUICK
@given(histories(), st.sampled_from(["jsonl", "csv"]))
def test_what_was_exported_comes_back_equal_and_again_byte_for_byte(history, kind):
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(Path(folder) / "a") as a,
        opened(Path(folder) / "b") as b,
    ):
        lived(a, history)
        text = exported(a, kind)
        if not len(a):
            return
        path = Path(folder) / f"x.{kind}"
        path.write_text(text, encoding="utf-8", newline="")
        found = read(path)
        assert found.refused == []
        b.add(found.edits)
        assert [r.edit for r in b.list()] == [r.edit for r in replayable(a.list())]
        assert exported(b, kind) == text
        assert b.add(found.edits).new == []


@QUICK
@given(histories(), st.lists(edits(), max_size=6), st.booleans())
def test_a_preview_is_just_what_the_import_does_and_changes_nothing(history, more, conflicts):
    with tempfile.TemporaryDirectory() as folder, opened(folder) as memory:
        lived(memory, history)
        before = (memory.list(status="all"), memory.operations(), memory.stats()["live"])
        said = memory.preview(more, conflicts=conflicts)
        assert (memory.list(status="all"), memory.operations(), memory.stats()["live"]) == before
        done = memory.add(more)
        assert said == (done if conflicts else done.__class__(**{**done.__dict__, "conflicts": []}))
        assert len(memory) == before[2] + len(said.new) - len(said.superseded)
        assert memory.check() == []


def test_an_edit_that_was_changed_after_a_later_one_is_exported_after_it(tmp_path):
    with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
        a.add([capital("Odeland", "Ode"), capital("Elsewhere", "X"), capital("Uland", "U")])
        a.update(1, prompt="The capital of Uland is", subject="Uland", target="V", valid_from="2027-01-01")
        live = replayable(a.list())
        assert [r.id for r in live] == [2, 3, 1]
        b.add([r.edit for r in live])
        assert [r.edit for r in b.list()] == [r.edit for r in live]
    with opened(tmp_path / "c") as c:
        c.add([r.edit for r in sorted(live, key=lambda r: r.id)])
        assert len(c) == 2  # by their ids, one would go


def test_conflicts_of_many_are_found_among_names_as_in_the_whole_index(tmp_path, monkeypatch):
    given = facts(300) + [capital(f"Land 000{n:02d} of x", "Elsewhere") for n in range(20)]
    given += [Edit(statement=f"The capital of Land 000{n:02d} of {n}0 is Nowhere") for n in range(20, 30)]
    given += [Edit(statement=f"The head of Acme is Boss {n}", subject="Acme") for n in range(6)]
    given += [Edit(statement="The head of Acme is Ann")]
    with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
        found = {(new, old) for new, old, _ in a.add(given).conflicts}
        monkeypatch.setattr(suspects, "_MANY", 10**9)
        searched = {(new, old) for new, old, _ in b.add(given).conflicts}
    assert len(searched) > 20
    assert found >= searched
    assert {pair for pair in found if min(pair) > 330} == {pair for pair in searched if min(pair) > 330}


# -- the commands

ROWS = (
    "prompt,target,subject,method\n"
    "The capital of Odeland is,Ode,Odeland,\n"
    "The capital of Uland is,Ulm,Uland,\n"
    "The capital of Odeland is,Ost,Odeland,\n"
    "The capital of Uland is,Ulm,Uland,\n"
    "The capital of Iland is,Ils,Iland,icee\n"
)


def test_a_dry_run_shows_each_lines_fate_and_makes_no_memory(run, tmp_path):
    (tmp_path / "x.csv").write_text(ROWS)
    said = json.loads(run("import", "x.csv", "--dry-run", "--json").stdout)
    assert not (tmp_path / "indexes").exists()
    assert [(r["at"], r["action"]) for r in said["rows"]] == [
        ("line 2", "new"), ("line 3", "new"), ("line 4", "new"), ("line 5", "duplicate"), ("line 6", "refused"),
    ]  # fmt: skip
    assert said["rows"][0]["superseded_by"]["at"] == "line 4"
    assert said["rows"][2]["supersedes"] == [
        {"id": 1, "at": "line 2", "statement": "The capital of Odeland is Ode."}
    ]
    assert said["rows"][3]["of"] == "line 3"
    assert "did you mean ice" in said["rows"][4]["reason"]
    assert said["would_import"] is False
    assert "line 6" in run("import", "x.csv", code=1).stderr
    done = json.loads(run("import", "x.csv", "--skip-bad", "--json").stdout)
    assert {k: v for k, v in said.items() if k in done} == {k: v for k, v in done.items() if k != "bad"}


def test_a_dry_run_on_a_memory_names_what_goes_and_what_may_conflict(run, tmp_path):
    run("add-fact", "--prompt", "The capital of Odeland is", "--target", "Ost", "--subject", "Odeland")
    run("add-fact", "The head of Acme is Ann.")
    before = run("export", "-", "--all").stdout
    more = '{"prompt": "The capital of Odeland is", "target": "West"}\n{"statement": "The head of Acme is Bo."}\n'
    out = run("import", "-", "--dry-run", stdin=more).stdout
    assert "supersedes 1: The capital of Odeland is Ost." in " ".join(out.split())
    assert "may conflict with 2: The head of Acme is Ann." in " ".join(out.split())
    assert "would hold 3 live edits" in out
    out = run("import", "-", "--dry-run", "--no-conflicts", stdin=more).stdout
    assert "were not looked for" in out
    assert "conflict with" not in out
    assert run("export", "-", "--all").stdout == before
    assert "--dry-run" in run("import", "-", "--no-conflicts", stdin=more, code=2).stderr


def test_what_a_file_says_again_against_a_newer_word_is_told(run, tmp_path):
    for fact in ("The head of Acme is Ann.", "The head of Acme is Bo."):
        run("add-fact", fact)
    run("erase-fact", "The capital of Odeland is", "--subject", "Odeland")
    erased = '{"prompt": "The capital of Odeland is", "subject": "Odeland", "kind": "erase"}'
    again = f'{{"statement": "The head of Acme is Ann."}}\n{erased}\n'
    out = " ".join(run("import", "-", "--dry-run", stdin=again).stdout.split())
    assert "0 new, 2 known already, 1 of them the newest word again" in out
    assert "known already, the newest word again The head of Acme is Ann." in out
    assert "known already The capital of Odeland is (withheld)" in out
    assert "2 known already, 1 of them the newest word again;" in run("import", "-", stdin=again).stdout
    assert json.loads(run("conflicts", "--json").stdout)[0]["wins"] == 1
    one = '{"statement": "The head of Acme is Cy.", "ref": "x"}\n{"statement": "Salt is sour.", "ref": "x"}\n'
    assert ": 2 new, 1 older superseded; the memory" in run("import", "-", stdin=one).stdout
    bo = '{"statement": "The head of Umbra is Bo."}\n{"statement": "The head of Umbra is Cy."}\n'
    assert ": 2 new, 1 possible conflict; the memory" in run("import", "-", "-m", "other", stdin=bo).stdout


def test_a_dry_run_leaves_a_foreign_folder_alone(run, tmp_path):
    (tmp_path / "x.csv").write_text(ROWS)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    assert "is no memory" in run("import", "x.csv", "--dry-run", "-m", "photos", code=1).stderr
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_rows_of_a_dry_run_tell_of_the_memorys_own_edits():
    class Added:
        ids, new, duplicates, renewed = [3, 4, 9], [3, 4], [2], []
        superseded, conflicts = [(1, 3), (3, 4)], [(4, 2, 0.912345)]

    given = [capital("A", "x"), capital("A", "y"), capital("B", "z")]
    rows = rows_of(
        Reading("memedit", given, ["line 1", "line 2", "line 4"], [("line 3", "no")]),
        Added,
        lambda id: capital("O", str(id)),
    )
    assert [r["at"] for r in rows] == ["line 1", "line 2", "line 3", "line 4"]
    assert rows[0]["supersedes"] == [{"id": 1, "statement": "The capital of O is 1."}]
    assert rows[1]["conflicts"] == [{"id": 2, "statement": "The capital of O is 2.", "similarity": 0.9123}]
    assert (rows[3]["action"], rows[3]["id"], "of" in rows[3]) == ("duplicate", 9, False)


def test_export_by_the_files_name_says_counts_beside_the_data(run, tmp_path):
    run("add-fact", "--prompt", "Tea is", "--target", "blue", "--tag", "a", "--tag", "b")
    done = run("export", "x.csv")
    assert (done.stdout, done.stderr) == ("", "exported 1 edit to x.csv\n")
    assert (tmp_path / "x.csv").read_text() == "prompt,target,statement,tags\nTea is,blue,Tea is blue.,a|b\n"
    assert run("export", "-").stderr == "exported 1 edit\n"
    assert json.loads(run("export", "x.tsv", "--json").stdout) == {
        "file": "x.tsv",
        "format": "tsv",
        "edits": 1,
    }
    assert "name a FILE" in run("export", "-", "--json", code=2).stderr
    run("import", "x.tsv", "-m", "other")
    assert run("export", "-", "-m", "other").stdout == run("export", "-").stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("3", "an object is expected, this is a number"),
        ("\x00\x01", "binary"),
        ('[{"statement": "Tea', "ends in the middle"),
        ('{"statement": "' + "x" * 2_000_000 + '"}', "at most 4,000 fit"),
        ("prompt,target\na," + "x" * 2_000_000 + "\n", "a field of over"),
        ("prompt,prompt\na,b\n", "twice"),
        ('{"ent": "tea", "pos": [], "neg": []}', "there is no text about 'tea'"),
        ('{"statement": "Tea is blue.", "n": "\\ud800"}', "can't be kept as JSON"),
        ('{"statement": "Tea is blue.", "n": 1, "extra": {"n": 2}}', "both in `extra` and beside it"),
    ],
    ids=range(10),
)
def test_strange_files_get_one_sentence_and_leave_nothing(run, tmp_path, content, message):
    (tmp_path / "x").write_text(content)
    for source, stdin in (("x", None), ("-", content)):
        for more in ((), ("--dry-run",)):
            done = CliRunner().invoke(main, ["import", source, *more], input=stdin)
            assert message in " ".join(done.output.split())
            assert "Traceback" not in done.output
            if not more:
                assert done.exit_code == 1
                assert len(done.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
