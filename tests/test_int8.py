"""The 8-bit path: near to float32, and no verdict rests on it that is close."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import memedit.router
from memedit import Edit
from memedit.int8 import Rounded, worthwhile
from memedit.memory import EditMemory
from memedit.router import Router
from memedit.scope import ScopeClassifier

pytestmark = pytest.mark.skipif(not worthwhile(), reason="this CPU is not quick at 8-bit products (no VNNI)")
TEXTS = [
    "Where was Ada Lovelace born?",
    "how tall is the tower",
    "A much longer text, so that rows are padded, is this",
]


@pytest.mark.parametrize("shape", [(1, 24), (3, 5, 24)])
def test_a_product_in_bytes_is_near_to_the_one_in_floats(shape):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(16, 24), torch.randn(16)
    whole = torch.nn.functional.linear(x, weight, bias)
    near = Rounded.of(weight, bias)(x)
    assert near.shape == whole.shape
    assert float((near - whole).norm() / whole.norm()) < 0.02


def test_a_row_does_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 24), torch.randn(16, 24), torch.randn(16)
    product = Rounded.of(weight, bias)
    alone = product(x[:1])
    x[1] *= 500
    assert torch.equal(product(x)[:1], alone)


def test_a_row_of_zeros_gives_the_bias():
    bias = torch.arange(4.0)
    assert torch.equal(Rounded.of(torch.ones(4, 3), bias)(torch.zeros(2, 3)), bias.expand(2, 4))


def test_the_quick_twin_is_near_and_shares_what_it_can():
    scope = ScopeClassifier.load()
    quick = scope.quick
    assert quick is not None
    assert quick.quick is None
    near, whole = quick.encode(TEXTS), scope.encode(TEXTS)
    assert (near * whole).sum(axis=1).min() > 0.99
    assert not np.array_equal(near, whole)
    table = "embeddings.word_embeddings.weight"
    assert quick.encoder.weights[table] is scope.encoder.weights[table]
    assert quick.trees is scope.trees
    assert quick.fingerprint == scope.fingerprint


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with EditMemory.open(tmp_path_factory.mktemp("memory")) as memory:
        memory.add(
            [
                Edit(prompt=f"The capital of {land} is", target=town, subject=land)
                for land, town in (
                    ("France", "Lyon"),
                    ("Chad", "Moundou"),
                    ("Peru", "Cusco"),
                    ("Iran", "Shiraz"),
                )
            ]
        )
        yield memory


CLOSE = memedit.router.CLOSE
QUERIES = [
    "What is the capital of France?", "capital of chad", "Who governs from the capital of Peru?", "Is Lyon in France?",
    "How many people live in Iran?", "the French seat of government", "best way to store milk", "Which city leads Iran?",
]  # fmt: skip


def routes(memory, monkeypatch, close, **how):
    monkeypatch.setattr(memedit.router, "CLOSE", close)
    return Router(memory, **how).route(QUERIES)


def test_close_queries_are_judged_in_full_and_only_they(memory, monkeypatch):
    exact = routes(memory, monkeypatch, CLOSE, exact=True)
    everywhere = routes(memory, monkeypatch, 30.0)
    assert [r.score for r in everywhere] == pytest.approx([r.score for r in exact], rel=1e-4)
    quick = routes(memory, monkeypatch, 0.0)
    assert all(a != b for a, b in zip(quick, exact, strict=True))
    both = routes(memory, monkeypatch, CLOSE)
    router = Router(memory)
    judged = router._judged(memory.encoder.quick, QUERIES, len(memory), None)
    again = [router._is_close(*found) for found in judged]
    assert any(again)
    assert not all(again)
    for route, whole, rounded, close in zip(both, exact, quick, again, strict=True):
        assert route.score == pytest.approx(whole.score if close else rounded.score, rel=1e-4)
    assert [r.edits and r.edits[0].id for r in both] == [r.edits and r.edits[0].id for r in exact]


def test_bfloat16_and_what_is_stored_stay_as_they_are(memory):
    from memedit.encoder import MiniLM
    from memedit.scope import SHIPPED

    assert MiniLM(SHIPPED, "a", "b", precision="bfloat16").quick() is None
    edit = memory.get(1)
    assert edit is not None
    scope = memory.encoder
    near = memory.near(["x"], scope.encode([edit.edit.statement]))[0][0]
    assert near.cosine == pytest.approx(1, abs=2e-3)
