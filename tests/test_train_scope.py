"""The training job of the scope classifier, end to end in miniature, and the data that it learns from."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "train"))

sklearn = pytest.importorskip("sklearn", reason="training needs the extra `train`")

import scope as job  # noqa: E402
import scope_data  # noqa: E402
import scope_eval  # noqa: E402
import scope_forms  # noqa: E402
import scope_users  # noqa: E402
import scope_worlds  # noqa: E402

from memedit.edit import Edit  # noqa: E402
from memedit.scope import ScopeClassifier  # noqa: E402
from memedit.subjects import fold  # noqa: E402

MINIATURE = ["--limit", "14", "--queries", "40", "--sizes", "1,20", "--trees", "20"]


@pytest.fixture(scope="module")
def miniature(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scope")
    job.main([*MINIATURE, "--data", str(data), "--out", str(out), "--cache", str(out / "cache")])
    return out


def test_a_miniature_is_trained_and_judges(miniature):
    classifier = ScopeClassifier.load(miniature)
    edit = Edit(prompt="The capital of France is", target="Lyon", subject="France")
    stored = classifier.encode(classifier.texts(edit))[None]
    queries = ["What is the capital city of France?", "how do magnets work"]
    near, far = classifier.judge(queries, classifier.encode(queries), [[edit]] * 2, [stored] * 2)
    assert near[0, 0] > 0.5 > far[0, 0]
    assert classifier.settings["trained_with"]["seed"] == 1


def test_the_same_seed_makes_the_same_files(miniature, data, tmp_path):
    job.main([*MINIATURE, "--data", str(data), "--out", str(tmp_path), "--cache", str(miniature / "cache")])
    for name in ("scope.json", "combiner.safetensors"):
        assert (tmp_path / name).read_bytes() == (miniature / name).read_bytes()


def test_arrays_give_scikit_learns_scores():
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    table = rng.normal(size=(500, 6))
    model = HistGradientBoostingClassifier(max_iter=15, max_leaf_nodes=9, random_state=0)
    model.fit(table, table[:, 0] * table[:, 1] + table[:, 2] > 0)
    assert np.allclose(job.arrays_of(model)(table), model.decision_function(table))


def test_train_cases_keep_clear_of_development_subjects_and_rows(data):
    public = scope_data.Data(data)
    validation = {row["subject"] for row in public.rows("counterfact/counterfact-val.json")}
    assert {fold(s).strip() for s in validation} <= public.reserved
    for name, reader in scope_data.READERS.items():
        subjects = {case.edit.subject for case in reader(public, "train") if case and case.edit.subject}
        assert subjects, name
        assert not {fold(s).strip() for s in subjects} & public.reserved, name


def test_invented_cases_leave_out_the_held_out_relations(data):
    public = scope_data.Data(data)
    held_out = set(public.split["held_out_relations"])
    assert not {relation.number for relation in scope_forms.bank(public)} & held_out
    cases = [case for case in scope_forms.invented(public, random.Random(0), 40) if case]
    assert len(cases) > 30
    for case in cases:
        kinds = {query.kind for query in case.queries}
        assert {"paraphrase", "claim", "same_subject"} <= kinds


def test_a_slip_changes_one_word_a_little():
    rng = random.Random(3)
    for _ in range(20):
        worn = scope_forms.slip("Who is the president of Germany?", rng)
        assert abs(len(worn) - len("Who is the president of Germany?")) <= 1
    assert scope_forms.slip("a b c", rng) == "a b c"


def test_rewordings_ask_the_same():
    assert scope_users.reworded("who wrote the hobbit?")[0] == "who is the author of the hobbit"
    assert scope_users.reworded("where is mount doom located")[0] == "what is the location of mount doom"


def test_what_a_query_concerns(data):
    home = scope_data.make(
        "a",
        [scope_data.Query("Who leads Rome?", "paraphrase")],
        "leader",
        prompt="The leader of Rome is",
        target="Bo",
        subject="Rome",
    )
    twin = scope_data.make(
        "b", [scope_data.Query("x", "own")], "head", prompt="The head of Rome is", target="Cy", subject="Rome"
    )
    other = scope_data.make(
        "a",
        [scope_data.Query("x", "own")],
        "leader",
        prompt="The leader of Bonn is",
        target="Cy",
        subject="Bonn",
    )
    asked = home.queries[0]
    assert scope_worlds.truth(asked, home, home) == 1
    assert scope_worlds.truth(asked, home, twin) == -1, (
        "another set's edit of the same subject may ask the same"
    )
    assert scope_worlds.truth(asked, home, other) == 0
    assert scope_worlds.truth(scope_data.Query("Where is Rome?", "same_subject"), home, home) == 0
    assert scope_worlds.truth(scope_data.Query("the head of Rome is", "general"), None, twin) == 1


def test_the_card_scores_a_set_with_all_its_edits_in_memory(data, classifier, monkeypatch):
    few = [case for case in scope_data.zsre(scope_data.Data(data), "dev") if case][:12]
    monkeypatch.setattr(scope_eval, "SETS", {"few": lambda data: scope_eval.known(few)})
    monkeypatch.setattr(
        scope_eval, "questions", lambda data, part: [("how do magnets work", ()), ("who is it", ())]
    )
    (row,) = scope_eval.table(classifier, scope_data.Data(data))
    assert (row["set"], row["edits"]) == ("few", 12)
    assert row["memedit"]["own"] == 1
    assert row["memedit"]["balanced"] >= row["memedit"]["paraphrase"] > 0.5
    assert row["queries"] == {"own": 12, "paraphrase": 12, "general": 2}
    assert {"BM25", "cosine"} <= row.keys()


def test_the_job_is_found_with_its_flags(capsys):
    with pytest.raises(SystemExit):
        job.main(["--help"])
    text = capsys.readouterr().out
    assert "--evaluate" in text
    assert "--limit" in text
    assert json.dumps(job.Settings().sizes) == "[1, 10, 100, 1000, 10000]"
