"""The scope classifier: names in texts, the encoder, what fires and what does not, with the shipped model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memedit.combiner import to_read
from memedit.edit import Edit
from memedit.errors import ModelError
from memedit.pairs import ANSWER, PART, SUBJECT, WHOLE
from memedit.scope import FEATURES, SHIPPED, ScopeClassifier
from memedit.subjects import MASK, find, guesses, mask, near, words
from memedit.wording import Pair

EDITS = (
    Edit(prompt="The capital of France is", target="Lyon", subject="France"),
    Edit(prompt="What instrument does Toko Yasuda play?", target="piano", subject="Toko Yasuda"),
    Edit(
        prompt="The employer of Zoë Müller is",
        target="Siemens",
        subject="Zoë Müller",
        subject_aliases=("Z. M. Fox",),
    ),
    Edit(statement="The Autonomous University of Madrid is located in Sweden."),
    Edit(prompt="who wrote the song imagine", target="Bob Dylan"),
    Edit(kind="erase", prompt="Where does Anna Kowalska live?", subject="Anna Kowalska"),
)


@pytest.fixture(scope="module")
def classifier() -> ScopeClassifier:
    return ScopeClassifier.load()


@pytest.fixture(scope="module")
def stored(classifier: ScopeClassifier) -> np.ndarray:
    """(edits, views, dim) as a memory stores them."""
    texts = [text for edit in EDITS for text in classifier.texts(edit)]
    return classifier.encode(texts).astype(np.float16).reshape(len(EDITS), len(classifier.views), -1)


def fired(classifier: ScopeClassifier, stored: np.ndarray, *queries: str) -> list[set[int]]:
    """Which of EDITS fire for each query, all being candidates."""
    vectors = classifier.encode(queries)
    orders = [np.argsort(-(stored[:, 0].astype(np.float32) @ v), kind="stable") for v in vectors]
    judged = classifier.judge(
        queries, vectors, [[EDITS[i] for i in o] for o in orders], [stored[o] for o in orders]
    )
    threshold = classifier.threshold(len(EDITS))
    return [
        {int(i) for i, p in zip(o, row, strict=True) if p[0] >= threshold}
        for o, row in zip(orders, judged, strict=True)
    ]


# ---------------------------------------------------------------- names in texts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Toko Yasuda", "what does toko yasuda play"),
        ("Zoë Müller", "Where does ZOE MULLER work?"),
        ("Zoe Muller", "Zoë Müller's employer"),
        ("J. K. Rowling", "Which books did JK Rowling write?"),
        ("the Netherlands", "Who governs Netherlands?"),
        ("Jean-Luc Picard", "where was Jean Luc Picard born"),
        ("東京", "東京の人口は"),
    ],
)
def test_a_name_is_found_however_it_is_written(name, text):
    assert find(name, text).share == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("Iran", "Miranda sings"), ("Oman", "A woman and a Roman"), ("", "anything"), ("France", "")],
)
def test_a_name_is_never_found_inside_another_word(name, text):
    assert find(name, text).share == 0


def test_a_part_of_a_name_counts_as_its_share():
    assert 0 < find("Toko Yasuda", "Which instrument does Yasuda play?").share < 1
    assert find("Toko Yasuda", "which instrument does yasuad play").share == 0.5, "one slip of the keyboard"
    assert find("Paris", "Who is Paris Hilton's father?").extended, "the name goes on: it may be another's"
    assert not find("Paris", "Who is the mayor of Paris?").extended


def test_near_allows_one_slip_in_long_words_only():
    assert near("germany", "germnay")
    assert near("germany", "germay")
    assert not near("iran", "iraq")
    assert not near("germany", "gemrnay")


def test_masking_hides_every_mention_and_nothing_else():
    text = "France's capital, the capital of France"
    assert mask(text, find("France", text).spans) == f"{MASK}'s capital, the capital of {MASK}"


def test_a_statement_is_guessed_to_be_about_its_names():
    assert "Autonomous University of Madrid" in guesses(
        "The Autonomous University of Madrid is located in Sweden."
    )
    assert guesses("a dog's mouth heals wounds") == ("wounds",), "without any capital, the longest word"
    assert [w.folded for w in words("Zoë’s")] == ["zoe"]


# ---------------------------------------------------------------- the encoder


def test_the_encoder_agrees_with_transformers(classifier):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["Who wrote Hamlet?", "The capital of France is Lyon, and it has been so for a while.", "x"]
    tokens = AutoTokenizer.from_pretrained(SHIPPED)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(SHIPPED, dtype=torch.float32)(**tokens).last_hidden_state
    real = tokens["attention_mask"][..., None]
    theirs = torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1).numpy()
    ours = classifier.encode(texts)
    assert (ours * theirs).sum(axis=1).min() > 0.999
    assert ours.dtype == np.float32
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-3)


def test_a_text_has_one_vector_alone_or_in_a_batch(classifier):
    texts = [f"Where does number {i} live{' very far away' * (i % 4)}?" for i in range(9)]
    together = classifier.encode(texts)
    assert min(float(classifier.encode([t])[0] @ v) for t, v in zip(texts, together, strict=True)) > 0.999
    assert classifier.encode([]).shape == (0, classifier.dim)


def test_the_precisions_decide_alike(classifier, stored):
    from memedit.encoder import MiniLM

    made_by = classifier.settings["encoder"]
    queries = [
        "What is the capital of France?",
        "What is the population of France?",
        "who won the super bowl in 1990",
    ]
    verdicts = []
    for precision in ("bfloat16", "float32"):
        encoder = MiniLM(SHIPPED, made_by["name"], made_by["digest"], precision=precision)
        other = ScopeClassifier(classifier.settings, classifier.trees, classifier.lenses, SHIPPED, encoder)
        verdicts.append(fired(other, stored, *queries))
    assert verdicts[0] == verdicts[1]


def test_the_digest_on_file_is_that_of_the_weights(classifier):
    import hashlib

    digest = hashlib.sha256((SHIPPED / "model.safetensors").read_bytes()).hexdigest()
    assert classifier.settings["encoder"]["digest"] == digest


# ---------------------------------------------------------------- what is stored, what fires


def test_views_are_never_empty_and_hide_the_subject(classifier):
    for edit in EDITS:
        views = classifier.texts(edit)
        assert len(views) == len(classifier.views)
        assert all(views)
    assert classifier.texts(EDITS[0]) == (
        "The capital of France is Lyon.",
        "The capital of France is",
        f"The capital of {MASK} is",
    )
    assert "Madrid" not in classifier.texts(EDITS[3])[2], "a statement's subject is guessed"


@pytest.mark.parametrize(
    ("query", "edit"),
    [
        ("The capital of France is", 0),
        ("What is the capital of France?", 0),
        ("what's france's capital city", 0),
        ("Is it true that the capital of France is Paris?", 0),
        ("Which instrument is played by Toko Yasuda?", 1),
        ("Toko Yasuda plays the", 1),
        ("Who employs Zoë Müller?", 2),
        ("What company does Z. M. Fox work for?", 2),
        ("Where is the Autonomous University of Madrid?", 3),
        ("who wrote the song imagine", 4),
        ("Where does Anna Kowalska live?", 5),
    ],
)
def test_what_is_in_scope_fires(classifier, stored, query, edit):
    assert fired(classifier, stored, query) == [{edit}]


@pytest.mark.parametrize(
    "query",
    [
        "What is the capital of Spain?",
        "What is the population of France?",
        "Who is the president of France?",
        "John Lennon performs on the",
        "What instrument does John Lennon play?",
        "Where was Toko Yasuda born?",
        "When was Zoë Müller born?",
        "Who founded the Autonomous University of Madrid?",
        "How many goals did Pele score?",
        "what is the boiling point of water",
        "?",
    ],
)
def test_what_is_out_of_scope_does_not(classifier, stored, query):
    assert fired(classifier, stored, query) == [set()]


def test_own_words_always_fire(classifier, stored):
    asked = [edit.prompt or edit.statement for edit in EDITS]
    got = fired(classifier, stored, *asked, *(a.upper() for a in asked))
    assert all(i % len(EDITS) in some for i, some in enumerate(got))


def test_a_batch_gets_the_verdicts_of_its_rows(classifier, stored):
    queries = [
        "What is the capital of France?",
        "Who won?",
        "Toko Yasuda plays the",
        "What is the population of France?",
    ]
    assert fired(classifier, stored, *queries) == [fired(classifier, stored, q)[0] for q in queries]


def test_judging_nothing_gives_nothing(classifier):
    vectors = classifier.encode(["Who?"])
    assert [
        p.shape for p in classifier.judge(["Who?"], vectors, [[]], [np.zeros((0, 3, classifier.dim))])
    ] == [(0, 2)]
    assert classifier.judge([], np.zeros((0, classifier.dim)), [], []) == []


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("What is the capital of France?", 0),
        ("Is it true that Paris is the capital of France?", 0),
        ("How many people live in the capital of France?", 1),
        ("What is the population of France's capital?", 1),
        ("How long is France's coastline?", None),
    ],
)
def test_direct_is_told_from_ripple(classifier, stored, query, kind):
    (judged,) = classifier.judge([query], classifier.encode([query]), [list(EDITS)], [stored])
    assert judged.shape == (len(EDITS), 2)
    assert ((judged >= 0) & (judged <= 1)).all()
    assert (judged.sum(axis=1) <= 1 + 1e-9).all(), "they are two answers to one question"
    if kind is None:
        assert judged[0].max() < 0.5
    else:
        assert judged[0].argmax() == kind
        assert judged[0, kind] > 0.5


def test_what_was_believed_before_plays_no_part(classifier):
    query = "What is the capital of France?"
    told, bare = EDITS[0], EDITS[0].updated(old=None)
    judged = [
        classifier.judge(
            [query], classifier.encode([query]), [[edit]], [classifier.encode(classifier.texts(edit))[None]]
        )
        for edit in (told.updated(old="Paris"), bare)
    ]
    assert np.array_equal(judged[0][0], judged[1][0])


def test_at_most_so_many_are_read_and_only_what_is_near(classifier):
    near = np.array([5.0, -9.0, 3.0, *np.linspace(1, 2, 12)])
    assert to_read(near, [2, 13], gate=(0.0, 99.0)).tolist() == [0, 2, *range(8, 15)]
    assert len(to_read(np.full(4, -20.0), [4], gate=(0.0, 99.0))) == 0
    assert to_read(np.array([5.0, 1.0, 4.0, 1.0]), [3, 1], gate=(0.0, 2.0)).tolist() == [
        0,
        2,
        3,
    ]  # far behind its best: left


# ---------------------------------------------------------------- the pair model


def test_marks_say_which_tokens_are_the_name_and_which_the_answer(classifier):
    edit = Edit(
        prompt="Zoë Müller works for", target="Acme", subject="Zoë Müller", subject_aliases=("Z. M. Fox",)
    )
    query, said = Pair("Where is Z. M. Fox employed?", edit).sides(classifier.marker)
    word = classifier.marker.tokenizer.id_to_token
    assert "".join(word(i).lstrip("#") for i, m in zip(*query, strict=True) if m == WHOLE) == "z.m.fox"
    assert "".join(word(i).lstrip("#") for i, m in zip(*said, strict=True) if m == SUBJECT) == "zoemuller"
    assert "".join(word(i).lstrip("#") for i, m in zip(*said, strict=True) if m == ANSWER) == "acme"
    part, _ = Pair("Where does Müller work?", edit).sides(classifier.marker)
    assert PART in part.marks
    assert WHOLE not in part.marks


def test_of_a_long_query_the_end_is_read(classifier):
    long = "A tale of mountains and of rivers. " * 30 + "What is the capital of France?"
    query, _ = Pair(long, Edit(prompt="The capital of France is", target="Lyon", subject="France")).sides(
        classifier.marker
    )
    words = [classifier.marker.tokenizer.id_to_token(i) for i in query.ids]
    assert len(words) == len(query.marks) == 96
    assert words[0] == "[CLS]"
    assert words[-4:] == ["of", "france", "?", "[SEP]"]
    assert query.marks[-3] == WHOLE


def test_a_pair_is_read_alike_alone_in_a_batch_and_from_memory(classifier):
    pairs = [
        Pair(f"Where does {e.names[0] if e.names else 'he'} live, and why?", e).sides(classifier.marker)
        for e in EDITS
    ]
    together = classifier.pairs.logits(pairs)
    for pair, row in zip(pairs, together, strict=True):
        for _ in range(2):  # read, then remembered
            assert np.allclose(classifier.pairs.logits([pair])[0], row, atol=1e-3)
    assert classifier.pairs.logits([]).shape == (0, 3)


def test_remembered_states_are_bounded(classifier, monkeypatch):
    monkeypatch.setattr("memedit.pairs.KEPT", 200)
    for i in range(40):
        classifier.encode([f"a text of no importance, number {i}"])
    assert classifier.pairs._held <= 200
    assert classifier.pairs._held == sum(map(len, classifier.pairs._states))


def test_a_missing_pair_model_is_said(tmp_path):
    for name in ("scope.json", "combiner.safetensors"):
        shutil.copy(SHIPPED / name, tmp_path)
    made = ScopeClassifier.load(tmp_path)
    query, edit = "What is France's capital?", EDITS[0]
    vectors, stored = made.encode([query]), made.encode(made.texts(edit))[None]
    with pytest.raises(ModelError, match="pair model"):
        made.judge([query], vectors, [[edit]], [stored])


# ---------------------------------------------------------------- threshold, files


def test_the_threshold_follows_memory_and_rate(classifier):
    sizes = [classifier.threshold(n) for n in (0, 1, 50, 1_000, 10_000, 10**6)]
    assert sizes == sorted(sizes)
    rates = [classifier.threshold(1_000, rate) for rate in (0.2, 0.05, 0.005, 0.001)]
    assert rates == sorted(rates)
    assert classifier.threshold(1_000) == classifier.threshold(1_000, 0.005)
    with pytest.raises(ValueError, match="between 0 and 1"):
        classifier.threshold(10, 5.0)


def test_files_that_are_no_classifier_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(ModelError, match="holds no scope classifier"):
        ScopeClassifier.load(tmp_path)
    settings = json.loads((SHIPPED / "scope.json").read_text())
    shutil.copy(SHIPPED / "combiner.safetensors", tmp_path)
    (tmp_path / "scope.json").write_text(json.dumps({**settings, "features": list(FEATURES)}))
    with pytest.raises(ModelError, match="another version"):
        ScopeClassifier.load(tmp_path)
    (tmp_path / "combiner.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="damaged"):
        ScopeClassifier.load(tmp_path)
    with pytest.raises(ModelError, match="can't be loaded"):
        ScopeClassifier.load(encoder=str(tmp_path / "nowhere"))


def test_loading_is_light():
    code = (
        "import sys; from memedit.scope import ScopeClassifier; ScopeClassifier.load().threshold(5)\n"
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert out.stdout.strip() == "[]"


def test_no_shipped_file_is_too_large_or_pickled():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 50_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".png"}


def test_another_encoder_can_be_named(classifier):
    other = ScopeClassifier.load(encoder=str(SHIPPED))
    assert other.fingerprint != classifier.fingerprint, "its vectors must not meet the shipped encoder's"
    assert other.dim == 384
    edit = EDITS[0]
    stored = other.encode(other.texts(edit))[None]
    queries = ["What is the capital of France?", "how do magnets work"]
    near, far = other.judge(queries, other.encode(queries), [[edit]] * 2, [stored] * 2)
    assert near[0, 0] > 0.5 > far[0, 0]
