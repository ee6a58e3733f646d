"""The scope classifier's training: the data that it learns from, the pairs, and the pair model's loop in miniature."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_scope import example, tiny_encoder

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "train"))

sklearn = pytest.importorskip("sklearn", reason="training needs the extra `train`")

import relation_bank  # noqa: E402
import scope as job  # noqa: E402
import scope_data  # noqa: E402
import scope_forms  # noqa: E402
import scope_users  # noqa: E402
import worn  # noqa: E402

from memedit.edit import Edit  # noqa: E402
from memedit.errors import ModelError  # noqa: E402
from memedit.scope import SHIPPED  # noqa: E402
from memedit.subjects import find, fold  # noqa: E402
from memedit.training import combining, worlds  # noqa: E402
from memedit.training.cases import Case, Query, make  # noqa: E402
from memedit.training.pair_examples import DIRECT, OUT, SHARES, Example, Pool, label_of, mined  # noqa: E402
from memedit.training.pair_training import PairSettings, PairTraining  # noqa: E402

# ---------------------------------------------------------------- the data


@pytest.fixture(scope="module")
def public(data):
    return scope_data.Data(data)


@pytest.fixture(scope="module")
def relations(public):
    return relation_bank.bank(public)


def test_every_block_of_the_bank_is_valid_and_asks_in_several_ways(relations):
    assert len(relations) > 300
    for relation in relations:
        assert len(relation.asks) > 5, relation.name
        assert relation.questions, relation.name
        assert relation.clozes, relation.name
    kinds = Counter(relation.kind for relation in relations)
    assert {"person", "place", "company", "work"} <= kinds.keys()


def test_the_bank_leaves_out_the_held_out_relations(public, relations):
    held_out = set(public.split["held_out_relations"])
    assert len(held_out) == 8
    assert not {relation.number for relation in relations} & held_out


def test_forms_are_told_apart_by_their_marks():
    block = ["person | shoe size | ", "What is [X]'s shoe size?", "Name [X]'s shoe size.", "[X] wears size"]
    block += [
        "+ [X] shoe size",
        "= Does [X] wear [Y]?",
        "~ Who sells [X]'s size?",
        "< Who wears [Y]?",
        "! Who is [X]?",
    ]
    relation = relation_bank._relation(block, {}, Path("x.txt"))
    assert (relation.kind, relation.name, relation.key) == ("person", "shoe size", "person shoe size")
    assert relation.asks == (
        "What is [X]'s shoe size?",
        "Name [X]'s shoe size.",
        "[X] wears size",
        "[X] shoe size",
    )
    assert (relation.claims, relation.reversed) == (("Does [X] wear [Y]?",), ("Who wears [Y]?",))
    assert (relation.ripples, relation.misses) == (("Who sells [X]'s size?",), ("Who is [X]?",))
    for wrong in (["person | shoe size"], [block[0], "What is her shoe size?"], [block[0], "= Is [X] tall?"]):
        with pytest.raises(ValueError, match=r"x\.txt"):
            relation_bank._relation(wrong, {}, Path("x.txt"))


def test_train_cases_keep_clear_of_development_subjects(public):
    validation = {row["subject"] for row in public.rows("counterfact/counterfact-val.json")}
    assert {fold(s).strip() for s in validation} <= public.reserved
    for name, reader in scope_data.READERS.items():
        some = islice((case for case in reader(public, "train") if case), 400)
        subjects = {case.edit.subject or case.about for case in some} - {""}
        assert subjects, name
        assert not {fold(s).strip() for s in subjects} & public.reserved, name


def test_invented_cases_have_queries_of_all_kinds(public):
    held_out = set(public.split["held_out_relations"])
    cases = [case for case in scope_forms.invented(public, random.Random(0), 40) if case]
    assert len(cases) > 30
    for case in cases:
        assert case.relation not in held_out
        assert {"paraphrase", "claim", "same_subject"} <= {query.kind for query in case.queries}
        assert public.free(case.edit.subject)


def test_a_slip_changes_one_word_a_little():
    rng = random.Random(3)
    for _ in range(20):
        slipped = worn.slip("Who is the president of Germany?", rng)
        assert abs(len(slipped) - len("Who is the president of Germany?")) <= 1
    assert worn.slip("a b c", rng) == "a b c"


def test_rewordings_ask_the_same():
    assert scope_users.reworded("who wrote the hobbit?")[0] == "who is the author of the hobbit"
    assert scope_users.reworded("where is mount doom located")[0] == "what is the location of mount doom"


def test_relations_are_in_one_part_only():
    cases = [make("a", [Query("x", "own")], f"r{n % 40}", statement=f"Fact {n} holds.") for n in range(200)]
    parts = job.parts([case for case in cases if case], job.Settings())
    seen = [{case.relation for case in some} for some in parts]
    assert all(seen)
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_a_question_of_a_relation_kept_apart_is_no_near_miss_of_another():
    settings = job.Settings()
    names = [f"r{n}" for n in range(60)]
    made = [
        make(
            "a",
            [Query("x", "own"), Query(f"of {other}", "same_subject", other)],
            name,
            statement=f"{name} {other}.",
        )
        for name in names
        for other in names[:30]
    ]
    learnt, grown, _ = job.parts([case for case in made if case], settings)
    kept = {case.relation for case in learnt}
    asked = {query.asks for case in learnt for query in case.queries} - {""}
    assert asked
    assert asked <= kept
    assert {query.asks for case in grown for query in case.queries} - {""} > asked, (
        "there all of them are asked"
    )


def test_blocks_of_one_relation_are_joined(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"person | shoe size |\nWhat size does [X] wear in {name}?\n")
    monkeypatch.setattr(relation_bank, "FILES", tuple(sorted(tmp_path.glob("*.txt"))))
    (relation,) = relation_bank.read()
    assert relation.questions == ("What size does [X] wear in a?", "What size does [X] wear in b?")


def test_what_a_query_concerns():
    home = make("a", [Query("Who leads Rome?", "paraphrase")], "leader",
                prompt="The leader of Rome is", target="Bo", subject="Rome")  # fmt: skip
    twin = make("b", [Query("x", "own")], "head", prompt="The head of Rome is", target="Cy", subject="Rome")
    other = make(
        "a", [Query("x", "own")], "leader", prompt="The leader of Bonn is", target="Cy", subject="Bonn"
    )
    asked = home.queries[0]
    assert worlds.truth(asked, home, home) == worlds.DIRECT
    assert worlds.truth(asked, home, twin) == worlds.UNKNOWN, (
        "another set's edit of the subject may ask the same"
    )
    assert worlds.truth(asked, home, other) == worlds.OUT
    assert worlds.truth(Query("Where is Rome?", "same_subject"), home, home) == worlds.OUT
    assert worlds.truth(Query("the head of Rome is", "general"), None, twin) == worlds.DIRECT


def test_arrays_give_scikit_learns_scores():
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    table = rng.normal(size=(500, 6))
    model = HistGradientBoostingClassifier(max_iter=15, max_leaf_nodes=9, random_state=0)
    model.fit(table, table[:, 0] * table[:, 1] + table[:, 2] > 0)
    assert np.allclose(combining.arrays_of(model)(table), model.decision_function(table))


# ---------------------------------------------------------------- pairs


def cases(count: int = 16, source: str = "mine") -> list[Case]:
    out = []
    for n in range(count):
        row = example(n)
        lists = (("paraphrase", "in_scope"), ("ripple", "ripple"), ("same_subject", "out_of_scope"))
        queries = [Query(row["prompt"], "own"), *(Query(t, kind) for kind, key in lists for t in row[key])]
        edit = Edit(prompt=row["prompt"], target=row["target"], subject=row["subject"])
        out.append(Case(edit, tuple(queries), source))
    return out


def test_a_pool_draws_kinds_by_their_shares_and_sources_by_the_root():
    def of(kind: str, source: str, count: int) -> Case:
        edit = Edit(statement=f"A fact of {source}.")
        return Case(edit, tuple(Query(f"{source} {kind} {n}", kind) for n in range(count)), source)

    pool = Pool([of("paraphrase", "large", 6400), of("paraphrase", "small", 400), of("claim", "large", 3000)])
    drawn = [pool.examples[i] for i in pool.draw(1000, random.Random(0))]
    kinds = Counter(example.kind for example in drawn)
    whole = SHARES["paraphrase"] + SHARES["claim"]
    assert kinds["paraphrase"] == pytest.approx(1000 * SHARES["paraphrase"] / whole, abs=2)
    sources = Counter(example.source for example in drawn if example.kind == "paraphrase")
    assert sources["large"] == pytest.approx(4 * sources["small"], abs=4)
    assert pool.draw(1000, random.Random(0)) == pool.draw(1000, random.Random(0))
    outside = Pool(cases()).draw(20, random.Random(0), outside=True)
    assert {Pool(cases()).examples[i].label for i in outside} == {OUT}


def test_mined_pairs_are_harder_than_drawn_ones():
    pool = Pool(cases(), [(f"stranger {n}", cases(1)[0].edit, "mine") for n in range(200)])
    sure = {i: (i * 7919 % 1000) / 1000 for i in range(len(pool.examples))}  # "out", as a model might see it
    at = {id(example): i for i, example in enumerate(pool.examples)}

    def score(some):
        return np.array([sure[at[id(example)]] for example in some])

    def mean(places):
        return np.mean([sure[i] for i in places if pool.examples[i].label == OUT])

    hard, plain = mined(pool, 100, random.Random(1), score), pool.draw(100, random.Random(1))
    assert mean(hard) < mean(plain) - 0.05
    assert {label_of(pool.examples[i].kind) for i in hard} == {DIRECT, 1, OUT}


def test_disguised_pairs_stay_consistent():
    pool = Pool(cases())
    rng = random.Random(2)
    changed = 0
    for _ in range(10):
        for pair in pool.examples:
            made = pool.disguised(pair, rng)
            assert (made.label, made.kind) == (pair.label, pair.kind)
            if made is pair:
                continue
            name = made.edit.subject
            changed += 1
            assert pair.edit.subject not in made.edit.statement + made.query
            assert name in made.edit.statement
            assert (find(name, made.query).share == 1) == (find(pair.edit.subject, pair.query).share == 1)
    assert 0.15 < changed / (10 * len(pool.examples)) < 0.35


# ---------------------------------------------------------------- the pair model's loop


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def training(encoder, folder: Path, **changes: object) -> PairTraining:
    settings = {"lower": 1, "layers": 1, "rounds": 2, "pairs": 640, "batch": 32, "rate": 3e-3, "every": 4}
    return PairTraining(encoder, Pool(cases()), folder, PairSettings(**{**settings, **changes}))


@pytest.fixture(scope="module")
def whole(encoder, tmp_path_factory):
    """A training that nobody stopped: it, and its weights."""
    run = training(encoder, tmp_path_factory.mktemp("whole"))
    return run, run.run()


def test_the_loss_falls(whole):
    run, _ = whole
    assert len(run.losses) == run.steps == 40
    assert np.mean(run.losses[-10:]) < 0.8 * np.mean(run.losses[:10])


@pytest.mark.parametrize("killed_at", [3, 15, 30], ids=["before a checkpoint", "first round", "second round"])
def test_a_killed_job_goes_on_to_the_same_weights(encoder, whole, tmp_path, killed_at):
    def kill(step, steps, loss):
        if step == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training(encoder, tmp_path).run(kill)
    weights = training(encoder, tmp_path).run()
    for name, value in whole[1].items():
        assert np.array_equal(value.numpy(), weights[name].numpy()), name


def test_every_round_is_told_before_it_is_saved(encoder, tmp_path):
    told = []
    run = training(encoder, tmp_path)

    def after(round):
        place = (tmp_path / "checkpoint.safetensors").read_bytes()[:100_000]
        told.append((round, f'\\"round\\": {round}'.encode() in place))

    run.run(after=after)
    assert told == [(1, False), (2, False)]


def test_a_checkpoint_of_another_training_is_refused(encoder, whole):
    run, _ = whole
    with pytest.raises(ModelError, match="other settings or data \\(pairs\\)"):
        training(encoder, run.folder, pairs=320).run()
    place = json.loads(json.dumps(run._about()))
    assert "rate" not in place, "after a loss that is no number it may go on with a smaller one"


def test_a_checkpoint_of_other_texts_is_refused(encoder, whole):
    run, _ = whole
    other = cases()
    other[3] = replace(other[3], queries=(*other[3].queries[:-1], Query("Is Dee Fox old?", "same_subject")))
    changed = PairTraining(encoder, Pool(other), run.folder, run.settings)
    assert len(changed.pool.examples) == len(run.pool.examples)
    with pytest.raises(ModelError, match=r"other settings or data \(pool\)"):
        changed.run()


def test_a_training_killed_by_the_system_goes_on_to_the_same_weights(encoder, whole, tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import test_train_scope as t; from tiny_scope import tiny_encoder\n"
        "kill = lambda step, *_: step == 15 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.training(tiny_encoder(Path(sys.argv[2]) / 'encoder'), Path(sys.argv[2])).run(kill)\n"
    )
    (tmp_path / "encoder").mkdir()
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    run = training(encoder, tmp_path)
    weights = run.run()
    assert run.losses == whole[0].losses
    assert all(torch.equal(value, weights[name]) for name, value in whole[1].items())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data", "/nonexistent"], "no folder /nonexistent"),
        (["--data", "{tmp}"], "can't read {tmp}/splits.json"),
        (["--limit", "8", "--out", str(SHIPPED)], "a miniature must not take the shipped classifier's place"),
    ],
)
def test_the_jobs_errors_are_one_sentence(tmp_path, capsys, args, words):
    with pytest.raises(SystemExit) as caught:
        job.main([arg.format(tmp=tmp_path) for arg in args])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert words.format(tmp=tmp_path) in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ModelError("the loss of step 3 is no number"), OSError(28, "No space left", "x")]
)
def test_what_stops_the_job_is_one_sentence(tmp_path, capsys, monkeypatch, error):
    def stopped(settings):
        raise error

    monkeypatch.setattr(job, "train", stopped)
    with pytest.raises(SystemExit) as caught:
        job.main(["--data", str(tmp_path)])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("no number" in said) or ("x: No space left" in said)


def test_the_shipped_folder_is_no_default():
    assert job.Settings().out != SHIPPED


def test_the_job_is_found_with_its_flags(capsys):
    with pytest.raises(SystemExit):
        job.main(["--help"])
    text = capsys.readouterr().out
    assert "--invented" in text
    assert "--limit" in text
    assert json.dumps(job.Settings().sizes) == "[1, 10, 100, 1000, 10000]"


def test_an_example_says_what_it_is():
    pair = Pool(cases(1)).examples[0]
    assert pair == Example(pair.query, pair.edit, DIRECT, "own", "mine")
