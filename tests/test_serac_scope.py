"""SERAC's two scope classifiers as baselines: trained in miniature, read back, put behind the judges' interface."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_scope import example, tiny_encoder

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))
pytest.importorskip("sklearn", reason="training needs the extra `train`")

import serac_scope as job

from memedit.edit import Edit
from memedit.errors import ModelError
from memedit.scope_eval import judges, serac
from memedit.scope_eval.crowd import Crowd, Vectors
from memedit.scope_eval.judges import NEAREST, Piece
from memedit.training.cases import Case, Query
from memedit.training.pair_examples import RIPPLE, Pool
from memedit.training.pair_training import PairSettings


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def pool() -> Pool:
    cases = []
    for n in range(16):
        row = example(n)
        queries = [Query(t, "paraphrase") for t in row["in_scope"]]
        queries += [Query(t, "ripple") for t in row["ripple"]] + [
            Query(t, "same_subject") for t in row["out_of_scope"]
        ]
        edit = Edit(prompt=row["prompt"], target=row["target"], subject=row["subject"])
        cases.append(Case(edit, tuple(queries), "mine"))
    return Pool(cases)


@pytest.fixture(scope="module", params=serac.KINDS)
def trained(request, encoder, tmp_path_factory):
    """A kind, its folder, and its training."""
    folder = tmp_path_factory.mktemp(request.param)
    how = PairSettings(0, encoder.layers, 1, 960, 32, 5e-3, every=10)
    run = job.SeracTraining(request.param, encoder, pool(), folder, how)
    weights = run.run()
    serac.put(folder, request.param, encoder, weights, {"seed": 1})
    return request.param, folder, run


def test_all_layers_learn_and_the_loss_falls(trained, encoder):
    kind, _, run = trained
    assert np.mean(run.losses[-6:]) < np.mean(run.losses[:6])
    again = job.SeracTraining(kind, encoder, run.pool, run.folder / "again", run.settings)
    assert RIPPLE not in {run.pool.examples[i].label for i in again._draw()}
    first = serac.fresh(kind, encoder, 1)
    moved = [name for name, value in first.items() if not np.array_equal(value, run.weights[name].detach())]
    assert {name.split(".")[1] for name in moved if name.startswith("layer.")} == {"0", "1"}


def test_the_judge_fires_from_a_half_and_tells_in_from_out(trained, encoder):
    kind, folder, _ = trained
    judge = serac.judge(kind, folder, encoder, encoder.encode, None)
    assert judge.threshold(10_000) == 0.5
    edits = [
        Edit(prompt=f"{name} was born in", target="Oslo", subject=name) for name in ("Ann Ode", "Bo Lind")
    ]
    crowd = Crowd(edits, Vectors(encoder.encode, lambda edit: (edit.statement,) * 3))
    asked = ["Where was Ann Ode born?", "What does Ann Ode eat?"]
    inside, outside = judge.tops([Piece(crowd, asked)])
    assert 0 <= outside.score < inside.score <= 1
    scores = judge.score(asked, [edits, edits])
    assert max(scores[0]) == pytest.approx(inside.score, abs=1e-4)


def test_what_is_saved_is_what_was_trained(trained, encoder):
    kind, folder, run = trained
    weights, digest = serac.load(kind, folder, encoder)
    assert len(digest) == 64
    for name, value in weights.items():
        assert np.allclose(value, run.weights[name].detach(), atol=0.02), name
    other = next(k for k in serac.KINDS if k != kind)
    with pytest.raises(ModelError, match=f"{kind} classifier, not the {other}"):
        serac.load(other, folder, encoder)
    with pytest.raises(ModelError, match="over another encoder"):
        serac.load(kind, folder, SimpleNamespace(digest="another"))
    with pytest.raises(ModelError, match="holds no SERAC classifier"):
        serac.load(kind, folder / "nowhere", encoder)


def test_the_embedding_classifier_is_the_papers(trained, encoder):
    kind, folder, _ = trained
    if kind != "embedding":
        pytest.skip("of the embedding classifier")
    weights, digest = serac.load(kind, folder, encoder)
    texts = ["Where was Ann Ode born?", "Ann Ode was born in Oslo."]
    a, b = serac.Embeddings(encoder, weights, digest).encode(texts)
    judge = serac.judge(kind, folder, encoder, encoder.encode, None)
    (score,) = judge.score(texts[:1], [[Edit(statement=texts[1])]])
    assert score[0] == pytest.approx(np.exp(-(np.linalg.norm(a - b) ** 2)), abs=1e-5)


def test_the_cross_encoder_reads_each_pair_once_and_only_the_nearest():
    read: list[tuple[str, str]] = []

    def logits(pairs):
        read.extend(pairs)
        return np.array([float(len(text)) - 10 for _, text in pairs])

    judge = serac.CrossJudge("cross", lambda texts: np.zeros((len(texts), 4)), logits)
    edits = [Edit(statement=f"Fact {'x' * n}.") for n in range(1, NEAREST + 4)]
    (scores,) = judge.score(["Who?"], [edits])
    assert len(read) == NEAREST
    assert np.isinf(scores[NEAREST:]).all()
    assert (np.diff(scores[:NEAREST]) > 0).all()
    judge.score(["Who?"], [edits])
    assert len(read) == NEAREST


def test_a_stopped_training_goes_on_to_the_same_weights(encoder, tmp_path):
    how = PairSettings(0, encoder.layers, 1, 256, 32, 5e-3, every=3)

    def kill(step, steps, loss):
        if step == 5:
            raise KeyboardInterrupt

    whole = job.SeracTraining("cross", encoder, pool(), tmp_path / "whole", how).run()
    with pytest.raises(KeyboardInterrupt):
        job.SeracTraining("cross", encoder, pool(), tmp_path / "part", how).run(kill)
    weights = job.SeracTraining("cross", encoder, pool(), tmp_path / "part", how).run()
    assert all(np.array_equal(value, weights[name]) for name, value in whole.items())
    with pytest.raises(ModelError, match="kind"):
        job.SeracTraining("embedding", encoder, pool(), tmp_path / "part", how).run()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("serac-cross", "serac-cross=DIR"),
        ("bm25=runs", "takes no folder"),
        ("serac-kross=x", "did you mean serac-cross"),
        ("serac-cross=nowhere", "holds no SERAC classifier"),
    ],
)
def test_baselines_are_named_with_their_folders(encoder, name, words):
    classifier = SimpleNamespace(
        encode=encoder.encode, pairs=SimpleNamespace(encoder=encoder), encoder=encoder
    )
    with pytest.raises(ModelError, match=words):
        judges.baselines([name], classifier, None, None)
