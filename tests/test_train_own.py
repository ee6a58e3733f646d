"""`memedit train scope`: a user's own examples, end to end on a tiny classifier, and all that can be wrong with them."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_scope import PEOPLE, example, tiny_classifier, written

from memedit.cli import main
from memedit.edit import Edit
from memedit.errors import MemeditError
from memedit.memory import EditMemory
from memedit.scope import SHIPPED, ScopeClassifier
from memedit.training import fine_tuning
from memedit.training.examples import read_examples, sha256
from memedit.training.fine_tuning import FineTuning, fine_tune
from memedit.training.pair_training import PairTraining
from memedit.training.progress import Progress
from memedit.training.recalibrating import recalibrated
from memedit.wording import Pair


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("start"))


@pytest.fixture
def mine(tmp_path) -> Path:
    return written(tmp_path / "mine.jsonl", [example(n) for n in range(len(PEOPLE))])


@pytest.fixture
def settings(start, mine, tmp_path) -> FineTuning:
    return FineTuning((str(mine),), tmp_path / "out", start, rounds=3, pairs=800, rate=3e-3)


@pytest.fixture(scope="module")
def made(start, tmp_path_factory):
    """A finished training: its settings and its result."""
    folder = tmp_path_factory.mktemp("made")
    mine = written(folder / "mine.jsonl", [example(n) for n in range(len(PEOPLE))])
    about = FineTuning((str(mine),), folder / "out", start, rounds=3, pairs=800, rate=3e-3)
    return about, fine_tune(about)


def stopping_at(monkeypatch, step: int) -> None:
    """The next training is killed at a step: nothing after it is written."""
    seen = Progress.loss

    def loss(self, done, all_, value):
        if done == step:
            raise KeyboardInterrupt
        seen(self, done, all_, value)

    monkeypatch.setattr(Progress, "loss", loss)


def refused(settings: FineTuning, fresh: bool = False) -> str:
    with pytest.raises(MemeditError) as caught:
        fine_tune(settings, fresh)
    return str(caught.value)


# ---------------------------------------------------------------- the job


def test_examples_make_it_better_and_the_table_shows_it(made):
    settings, result = made
    rows = {row["kind"]: row for row in result.table}
    assert {"own", "paraphrase", "ripple", "same_subject", "stranger", "balanced"} <= rows.keys()
    assert rows["balanced"]["after"] > rows["balanced"]["before"]
    assert np.mean(result.losses[-5:]) < np.mean(result.losses[:5])
    assert result.best == int(np.argmax(result.epochs))
    assert len(result.epochs) == 4
    assert sum(result.edits.values()) == len(PEOPLE)
    assert not settings.folder.exists(), "checkpoints are taken away at the end"
    card = (settings.out / "README.md").read_text()
    assert result.files[settings.data[0]] in card
    assert "| hit, in other words |" in card
    assert (settings.out / "curve.png").exists()


def test_the_folder_loads_with_no_network_and_only_the_pair_model_moved(made, start, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    settings, _ = made
    before, after = ScopeClassifier.load(start), ScopeClassifier.load(settings.out)
    edit = Edit(prompt="Zed Ames was born in", target="Oslo", subject="Zed Ames")
    queries = ["Where was Zed Ames born?", "What does Zed Ames eat?"]
    stored = after.encode(after.texts(edit))[None]
    asked, other = after.judge(queries, after.encode(queries), [[edit]] * 2, [stored] * 2)
    assert ((asked >= 0) & (asked <= 1)).all()
    assert asked.shape == other.shape == (1, 2)
    read = [Pair(query, edit) for query in queries]
    assert not np.array_equal(before.odds(read), after.odds(read))
    moved = [not bool((before.pairs.weights[k] == v).all()) for k, v in after.pairs.weights.items()]
    assert any(moved)
    assert np.array_equal(before.lenses["masked"], after.lenses["masked"])
    assert before.fingerprint == after.fingerprint, "a memory's vectors stay good"


def test_the_start_is_kept_where_no_round_is_better(settings, start, monkeypatch):
    monkeypatch.setattr(
        fine_tuning._State, "add", lambda self, round, mark, weights: self.epochs.append(-1.0)
    )
    result = fine_tune(replace(settings, rounds=1, pairs=32))
    assert result.best == 0
    assert "whose weights were kept" in " ".join(result.notes)
    assert (settings.out / "pair.safetensors").read_bytes() == (start / "pair.safetensors").read_bytes()


def test_a_killed_training_goes_on_to_the_same_result(made, settings, monkeypatch):
    about, result = made
    with monkeypatch.context() as patch:
        stopping_at(patch, 64)  # in the last of three rounds of 25 steps; the last checkpoint is of step 60
        with pytest.raises(KeyboardInterrupt):
            fine_tune(settings)
    assert not settings.out.exists()
    assert (settings.folder / "checkpoint.safetensors").exists()
    (settings.folder / "checkpoint.safetensors.77.1.tmp").write_bytes(b"cut off")
    again = fine_tune(settings)
    assert again.losses == result.losses
    assert again.table == result.table
    assert (settings.out / "pair.safetensors").read_bytes() == (about.out / "pair.safetensors").read_bytes()


def test_done_already_is_only_shown_again(made, monkeypatch):
    settings, result = made
    monkeypatch.setattr(PairTraining, "run", None)
    assert fine_tune(settings).table == result.table


@pytest.mark.parametrize(
    ("marks", "kept"), [((0.5, 0.6), True), ((0.5, 0.4), False)], ids=["better", "worse"]
)
def test_a_calibration_is_made_anew_only_where_it_is_no_worse(made, marks, kept):
    pytest.importorskip("sklearn")
    settings, _ = made
    classifier = ScopeClassifier.load(settings.out)
    before = json.loads(json.dumps(classifier.settings))
    cases = read_examples(settings.data).cases
    assert not recalibrated(classifier, cases, [], 1_000, 1, lambda: 1.0), "too few queries"
    told = iter(marks)
    assert recalibrated(classifier, cases, [], 10, 1, lambda: next(told)) is kept
    assert (classifier.settings["platt"]["direct"] != before["platt"]["direct"]) is kept
    now, old = classifier.settings["thresholds"]["logits"], before["thresholds"]["logits"]
    assert (np.array(now) >= np.array(old)).all()
    assert (classifier.settings == before) is not kept


def test_general_questions_are_halved_and_scored(settings, tmp_path):
    asked = [f"how deep is lake number {n}" for n in range(12)]
    general = written(tmp_path / "general.jsonl", [{"question": q} for q in asked])
    result = fine_tune(replace(settings, general=str(general), rounds=1, pairs=32))
    (row,) = [row for row in result.table if row["kind"] == "general"]
    assert 0 < row["queries"] < 12
    assert str(general) in result.files


# ---------------------------------------------------------------- what is read


def test_rows_of_one_edit_are_joined_and_repeats_counted(tmp_path):
    rows = [example(n) for n in range(12)]
    rows += [
        rows[0],
        {**rows[1], "in_scope": ["Tell me the town where Bo Lind was born"], "out_of_scope": []},
    ]
    found = read_examples([str(written(tmp_path / "a.jsonl", rows))])
    assert len(found.cases) == 12
    assert len(found.cases[1].queries) == 8
    assert found.repeated == 9  # seven of the first row; the own prompt and the ripple of the second
    assert "9 of the queries" in found.notes[0]


def test_kinds_tell_what_a_query_has_in_common_with_its_edit(tmp_path):
    rows = [example(n) for n in range(12)]
    rows[0]["out_of_scope"] = ["What does Ann Ode eat?", "Where was Bob born?", "how do magnets work"]
    case = read_examples([str(written(tmp_path / "a.jsonl", rows))]).cases[0]
    kinds = [query.kind for query in case.queries]
    assert kinds == ["own", "paraphrase", "paraphrase", "ripple", "same_subject", "neighbour", "general"]


def test_a_table_and_a_public_format_are_read_too(tmp_path):
    lines = ["prompt,target,subject,in_scope,out_of_scope"]
    lines += [f"{p} was born in,Oslo,{p},Where was {p} born?|{p}'s birthplace?,Is {p} tall?" for p in PEOPLE]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert read_examples([str(tmp_path / "a.csv")]).count(("paraphrase",)) == 2 * len(PEOPLE)
    rows = [{"case_id": n, "prompt": f"{p} lives in", "target_new": "Oslo", "subject": p, "ground_truth": "Rome",
             "rephrase_prompt": f"Where does {p} live?", "locality_prompt": "Otto lives in"}
            for n, p in enumerate(PEOPLE)]  # fmt: skip
    (tmp_path / "b.json").write_text(json.dumps(rows))
    found = read_examples([str(tmp_path / "b.json")])
    assert found.count(("paraphrase", "neighbour")) == 2 * len(PEOPLE)


def test_parts_share_no_edit_and_what_is_added_moves_none(tmp_path):
    cases = read_examples([str(written(tmp_path / "a.jsonl", [example(n) for n in range(16)]))]).cases
    learnt, choosing, apart = fine_tuning.parts(cases, 0.3, 1)
    assert sorted(c.edit.statement for some in (learnt, choosing, apart) for c in some) == sorted(
        c.edit.statement for c in cases
    )
    fewer = fine_tuning.parts(cases[:13], 0.3, 1)[2]
    assert {c.edit.statement for c in fewer} <= {c.edit.statement for c in apart}


# ---------------------------------------------------------------- bad input


def rows_with(**changes: object) -> list[dict]:
    """Enough rows, the third changed."""
    rows = [example(n) for n in range(12)]
    rows[2] |= changes
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "is empty"),
        ([{"a": 1, "b": 2}], "no known format"),
        ([example(n) for n in range(4)], "4 edits; at least 10"),
        (rows_with(in_scope="Where was she born?"), "line 3: in_scope must be a list"),
        (rows_with(out_of_scope=["  "]), "line 3: out_of_scope must be a list of texts that are not empty"),
        (rows_with(target=""), "line 3: an edit with a prompt needs a target"),
        (rows_with(out_of_scope=["where was cy moe born"]), "line 3: the query 'where was cy moe born' is both in scope"),
        ([*rows_with(), {**example(2), "in_scope": ["Is Cy Moe tall?"]}], "line 13 and"),
        ([{k: v for k, v in example(n).items() if k != "in_scope"} for n in range(12)], "no query is in scope but"),
    ],
    ids=["empty", "format", "few", "no list", "blank", "no target", "contradiction", "two lines", "one class"],
)  # fmt: skip
def test_bad_examples_are_refused_in_one_sentence(settings, tmp_path, rows, words):
    bad = written(tmp_path / "bad.jsonl", rows)
    said = refused(replace(settings, data=(str(bad),)))
    assert words in said
    assert "bad.jsonl" in said
    assert not settings.folder.exists(), "nothing is left behind"
    assert not settings.out.exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**example(2), "target": "Bern"}, "'Cy Moe was born in' has the target 'Bern' here and the target 'Rome' there"),
        ({"prompt": "The home of Cy Moe is", "target": "Bern", "subject": "Cy Moe", "in_scope": ["Where was Cy Moe born"]},
         "is in scope of two facts"),
        ({**example(12), "in_scope": ["Is Max Orr tall?"]}, "is both in scope and out of scope"),
    ],
    ids=["two targets", "two facts", "itself"],
)  # fmt: skip
def test_contradictory_lines_are_named_and_left_out_only_when_asked(settings, tmp_path, row, words):
    bad = written(tmp_path / "bad.jsonl", [*(example(n) for n in range(12)), row])
    said = refused(replace(settings, data=(str(bad),)))
    assert words in said
    assert "bad.jsonl line 13" in said
    assert ("and" not in said.partition(":")[0]) == (row["subject"] == "Max Orr"), "both lines are named"
    assert said.count("line 3") == (row["subject"] == "Cy Moe")
    assert "--skip-bad" in said
    found = read_examples([str(bad)], skip_bad=True)
    assert len(found.cases) == 12
    assert found.cases[2].edit.target == "Rome"
    assert len(found.cases[2].queries) == len(found.cases[3].queries), "nothing of the line is taken"
    assert "bad.jsonl line 13" in " ".join(found.notes)


def test_two_wordings_of_one_fact_and_further_values_are_no_contradiction(tmp_path):
    rows = [example(n) for n in range(12)]
    rows.append({**example(2), "prompt": "The birthplace of Cy Moe is"})
    rows.append({**example(3), "target": "Graz", "keep_both": True})
    assert len(read_examples([str(written(tmp_path / "a.jsonl", rows))]).cases) == 13


def test_records_that_cannot_be_taken_are_left_out_when_asked(tmp_path):
    rows = [
        *(example(n) for n in range(12)),
        {**example(12), "target": ""},
        {**example(13), "in_scope": "Where?"},
    ]
    bad = str(written(tmp_path / "bad.jsonl", rows))
    with pytest.raises(MemeditError, match="--skip-bad"):
        read_examples([bad])
    notes = " ".join(read_examples([bad], skip_bad=True).notes)
    assert "line 13" in notes
    assert "line 14" in notes


def test_a_name_on_a_hub_is_read_as_import_reads_it(tmp_path):
    folder = tmp_path / "facts"
    folder.mkdir()
    written(folder / "mine.jsonl", [example(n) for n in range(12)])
    name = f"hf:{folder}:mine.jsonl"
    found = read_examples([name])
    assert len(found.cases) == 12
    assert found.files == {name: sha256(folder / "mine.jsonl")}
    said = command(
        "train", "scope", "--data", "hf:/nowhere/at:all:of:it", "--out", str(tmp_path / "o"), code=1
    )
    assert "is no name on a hub" in said


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("eren/counterfact_hard_dev.json", ["record 32:"]),
        ("editing_attack/commonsense_868.csv", ["line 256 and", "line 148:"]),
    ],
)
def test_public_files_with_contradictions_can_be_used(data, name, places):
    with pytest.raises(MemeditError, match="--skip-bad"):
        read_examples([str(data / name)])
    found = read_examples([str(data / name)], skip_bad=True)
    assert all(place in " ".join(found.notes) for place in places)
    assert len(found.cases) > 100


def test_without_queries_out_of_scope_other_edits_queries_serve(settings, tmp_path):
    rows = [{k: v for k, v in example(n).items() if k != "out_of_scope"} for n in range(len(PEOPLE))]
    bare = written(tmp_path / "bare.jsonl", rows)
    result = fine_tune(replace(settings, data=(str(bare),), rounds=1, pairs=32))
    assert "other edits' queries serve" in " ".join(result.notes)
    assert {"stranger", "balanced"} <= {row["kind"] for row in result.table}


def test_folders_that_must_not_be_written_to(settings, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    assert "holds something else" in refused(replace(settings, out=tmp_path / "full"))
    assert "is a file" in refused(replace(settings, out=Path(settings.data[0])))
    assert "is the shipped classifier" in refused(replace(settings, out=SHIPPED))
    assert "to begin with" in refused(replace(settings, start=tmp_path / "full"))
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["letter.txt"]


def test_what_may_not_change_while_a_training_is_under_way(settings, mine, monkeypatch):
    with monkeypatch.context() as patch:
        stopping_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(settings)
    assert "other settings (rounds)" in refused(replace(settings, rounds=4))
    before = mine.read_text()
    mine.write_text(before + json.dumps({**example(0), "prompt": "Ann Ode lives in"}) + "\n")
    assert "mine.jsonl has changed since the training began" in refused(settings)
    mine.write_text(before)
    checkpoint = settings.folder / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in refused(settings)
    checkpoint.write_bytes(whole)
    with monkeypatch.context() as patch:
        seen = Progress.loss

        def late(self, done, all_, value):
            mine.write_text(before + "\n\n") if done == all_ else None
            seen(self, done, all_, value)

        patch.setattr(Progress, "loss", late)
        assert "has changed since" in refused(settings)
    assert not settings.out.exists()


def test_a_loss_that_is_no_number_leaves_a_good_checkpoint(settings, monkeypatch):
    loss_of = PairTraining.loss_of
    with monkeypatch.context() as patch:
        patch.setattr(
            PairTraining,
            "loss_of",
            lambda self, some: loss_of(self, some) * (float("nan") if self.step == 24 else 1),
        )
        assert "the loss of step 24 is no number" in refused(settings)
    result = fine_tune(replace(settings, rate=1e-3))  # from step 20, with a smaller rate
    assert len(result.losses) == 75
    assert np.isfinite(result.losses).all()


def test_a_full_disk_leaves_what_was_there(made, settings, monkeypatch):
    about, _ = made
    before = {p.name: p.read_bytes() for p in about.out.iterdir()}
    full = OSError(28, "No space left on device")

    def no_room(*args, **options):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr("memedit.training.pair_training.write_durably", no_room)
        assert "No space left" in refused(settings)
    with monkeypatch.context() as patch:
        patch.setattr("memedit.training.folder.card", no_room)
        said = refused(replace(about, seed=2, rounds=1, pairs=32))
        assert "No space left" in said
        assert "the same command goes on" in said
    assert {p.name: p.read_bytes() for p in about.out.iterdir()} == before
    assert not list(about.out.parent.glob(".*part"))


def test_two_trainings_do_not_share_a_folder(settings):
    with fine_tuning._alone(settings.folder):
        assert "another training works in" in refused(settings)


# ---------------------------------------------------------------- the command


def command(*args: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, list(args))
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done.output


def test_the_command_shows_before_and_after_and_says_how_to_go_on(settings, start, monkeypatch):
    args = ["train", "scope", "--data", settings.data[0], "--out", str(settings.out), "--from", str(start)]
    args += ["--rounds", "2", "--pairs", "64", "--rate", "0.005"]
    with monkeypatch.context() as patch:
        stopping_at(patch, 3)
        said = command(*args, code=1)
        assert "stopped; the same command goes on from the last checkpoint in" in said
    said = command(*args)
    assert "before, %" in said
    assert f"--scope {settings.out}" in said
    found = json.loads(command(*args, "--json"))
    assert found["table"][-1]["kind"] == "balanced"
    assert "does not exist" in command("train", "scope", "--data", "nowhere", "--out", "x", code=2)


def test_another_classifier_decides_by_scope(made, tmp_path):
    settings, _ = made
    with EditMemory.open(tmp_path / "memory", encoder=ScopeClassifier.load(settings.out)) as memory:
        memory.add(Edit(prompt="Zed Ames was born in", target="Oslo", subject="Zed Ames"))
    args = ["route", "Where was Zed Ames born?", "--memory", str(tmp_path / "memory"), "--json"]
    command(*args, code=1)  # the shipped one has another encoder
    (route,) = json.loads(command(*args, "--scope", str(settings.out)))
    assert route["nearest"][0]["id"] == 1
    assert "holds no scope classifier" in command(*args, "--scope", str(tmp_path), code=1)
