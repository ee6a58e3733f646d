"""`ike`: which demonstrations a row reads, in which kinds and which order, and what is left out."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from conftest import tiny_model, tiny_tokenizer
from memory_fixtures import TrigramEncoder, capital

from memedit.data import Demonstration
from memedit.demonstrations import DemonstrationStore, build
from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import ContextWarning, MethodError
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.methods import load_method
from memedit.methods.ike import KINDS
from memedit.router import Candidate, Route

FRANCE = capital("France", "Lyon", old="Paris")
PERU = capital("Peru", "Cusco")
ERASED = Edit(prompt="The phone number of Ada Park is", kind="erase", subject="Ada Park")


def fact(name: str, paraphrases: int = 1, neighbours: int = 1) -> Demonstration:
    return Demonstration(
        f"The capital of {name} is",
        f"New {name}",
        f"The capital of {name} is New {name}.",
        name,
        tuple(f"{name}'s capital {i} is" for i in range(paraphrases)),
        tuple((f"Beside {name} {i} is", f"Old {i}") for i in range(neighbours)),
    )


def from_list(*facts: Demonstration):
    """The facts in this order, the first with the highest cosine."""

    def retrieve(text, k, usable):
        usable_facts = [one for one in facts if usable(one)]
        return [(1 - 0.01 * i, one) for i, one in enumerate(usable_facts[:k])]

    return retrieve


def kind_of(piece: str) -> str:
    query = piece.split("Prompt:\n")[1]
    return "retain" if query.startswith("Beside") else "copy" if query.startswith("The capital") else "update"


LANDS = [fact(f"Land{i}") for i in range(40)]


@pytest.mark.parametrize(
    ("k", "counts"),
    [(8, (1, 3, 4)), (16, (2, 6, 8)), (32, (4, 12, 16)), (1, (0, 0, 1)), (2, (0, 1, 1)), (0, (0, 0, 0))],
)
def test_kinds_are_shown_in_the_ratio_of_the_paper(k, counts):
    pieces = load_method("ike", retrieve=from_list(*LANDS), k=k).context([FRANCE])
    shown = Counter(kind_of(piece.text) for piece in pieces if piece.demonstration)
    assert tuple(shown[kind] for kind in KINDS) == counts


def test_k_and_ratio_are_the_papers_where_nothing_is_said():
    pieces = load_method("ike", retrieve=from_list(*LANDS)).context([FRANCE])
    assert sum(piece.demonstration for piece in pieces) == 32


def test_what_a_row_reads_from_far_to_near_then_the_fact_then_the_query():
    ike = load_method("ike", retrieve=from_list(fact("Near"), fact("Mid"), fact("Far")), k=3)
    assert ike.rewrite("Paris is", [FRANCE]) == (
        "New Fact: The capital of Far is New Far.\nPrompt:\nBeside Far 0 is Old 0\n\n"
        "New Fact: The capital of Mid is New Mid.\nPrompt:\nMid's capital 0 is New Mid\n\n"
        "New Fact: The capital of Near is New Near.\nPrompt:\nBeside Near 0 is Old 0\n\n"
        "New Fact: The capital of France is Lyon.\nPrompt:\nParis is"
    )


def test_without_demonstrations_the_fact_stands_alone():
    assert load_method("ike", k=0).rewrite("Paris is", [FRANCE]) == (
        "New Fact: The capital of France is Lyon.\nPrompt:\nParis is"
    )
    assert load_method("ike").rewrite("Paris is", []) == "Paris is"
    with pytest.raises(MethodError, match="hand it retrieve"):
        load_method("ike").rewrite("Paris is", [FRANCE])


def test_a_kind_that_a_fact_cannot_show_is_made_up_for_by_others():
    bare = [fact(f"Bare{i}", paraphrases=0, neighbours=0) for i in range(4)]
    pieces = load_method("ike", retrieve=from_list(*bare, *LANDS), k=8).context([FRANCE])
    shown = Counter(kind_of(piece.text) for piece in pieces if piece.demonstration)
    assert shown == {"copy": 4, "update": 1, "retain": 3}  # retain lagged most, then update
    only_retained = load_method("ike", retrieve=from_list(*bare, *LANDS), k=8, ratio=(0, 0, 1)).context(
        [FRANCE]
    )
    assert Counter(kind_of(piece.text) for piece in only_retained if piece.demonstration) == {"retain": 8}


def test_several_edits_share_the_demonstrations_and_are_stated_oldest_first():
    def retrieve(text, k, usable):
        near = "Alp" if "France" in text else "Andes"
        return [(0.5 - i / 100 + (near == "Alp") / 1000, fact(f"{near}{i}")) for i in range(k)]

    pieces = load_method("ike", retrieve=retrieve, k=5).context([FRANCE, PERU])
    assert Counter(p.text.split("capital of ")[1][:3] for p in pieces if p.demonstration) == {
        "Alp": 2,
        "And": 3,
    }
    assert [p.text.split("capital of ")[1].split()[0] for p in pieces if p.demonstration] == [
        "Andes2", "Andes1", "Alp1", "Andes0", "Alp0",
    ]  # fmt: skip
    assert [p.text for p in pieces if not p.demonstration] == [
        "New Fact: The capital of France is Lyon.\n",
        "New Fact: The capital of Peru is Cusco.\nPrompt:\n",
    ]


def test_beside_an_erasure_the_demonstrations_refuse_and_retain():
    text = load_method("ike", retrieve=from_list(*LANDS), k=2).rewrite("So?", [ERASED])
    assert text == (
        "Withheld: The capital of Land1 is\nPrompt:\nLand1's capital 0 is I don't have that information.\n\n"
        "Withheld: The capital of Land0 is\nPrompt:\nBeside Land0 0 is Old 0\n\n"
        "Withheld: The phone number of Ada Park is\nPrompt:\nSo?"
    )


LEAKS = [
    fact("France"),
    fact("FRANCE"),
    Demonstration("The seat of the French state is", "Nice", "France has its seat in Nice.", "French state"),
    Demonstration(
        "Rome is in", "Peru", "Rome is in Peru.", "Rome", (), (("The capital of France is", "Paris"),)
    ),
    Demonstration("Rome is in", "Peru", "Rome is in Peru.", "Rome", ("Is Rome, not France, in",)),
]
BY_PROMPT_OR_ALIAS = [Demonstration("the capital of france is", "Nice", "So be it."), fact("La République")]
NAMED = capital("France", "Lyon", aliases=["la république"])
STATED = Edit(statement="The capital of France is Lyon.")


@pytest.mark.parametrize(
    ("edit", "leak"),
    [*((NAMED, leak) for leak in [*LEAKS, *BY_PROMPT_OR_ALIAS]), *((STATED, leak) for leak in LEAKS)],
)
def test_no_demonstration_tells_of_the_edits_subject(edit, leak):
    pieces = load_method("ike", retrieve=from_list(leak, *LANDS), k=3).context([edit])
    assert [p.text.split("capital of ")[1].split()[0] for p in pieces if p.demonstration] == [
        "Land2",
        "Land1",
        "Land0",
    ]


def test_a_name_inside_another_word_is_no_leak():
    pieces = load_method("ike", retrieve=from_list(fact("Francelia")), k=1).context([FRANCE])
    assert len(pieces) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": -1}, "whole number"),
        ({"k": 2.5}, "whole number"),
        ({"k": "8"}, "whole number"),
        ({"k": True}, "whole number"),
        ({"k": 10**6}, "whole number"),
        ({"ratio": (0, 0, 0)}, "three numbers"),
        ({"ratio": (1, 3)}, "three numbers"),
        ({"ratio": (1, 3, -4)}, "three numbers"),
        ({"ratio": "1:3:4"}, "three numbers"),
        ({"fact": "New Fact:"}, "lacks"),
        ({"fact": 3}, "must be text"),
        ({"ask": None}, "must be text"),
        ({"fact": "{statement} {source}"}, "alone"),
        ({"erasure": "{prompt} {0}"}, "alone"),
        ({"strength": 1}, "does not take these settings"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(MethodError, match=words):
        load_method("ike", **settings)


def test_what_does_not_fit_is_left_out_farthest_first_and_said(lm):
    base = lm("llama")  # 512 tokens, one a byte
    ike = load_method("ike", retrieve=from_list(*LANDS), k=8)
    with (
        pytest.warns(ContextWarning, match=r"without 4 of 8 demonstrations: the model takes 512"),
        ike.applied(base, [[FRANCE]]) as model,
    ):
        model.generate(["Paris is"], max_new_tokens=60, do_sample=False)
    (read,) = model.read
    assert read.text.startswith("New Fact: The capital of Land3 is")
    assert read.text.endswith("New Fact: The capital of France is Lyon.\nPrompt:\n")
    assert len(read.text + "Paris is") <= 452 < len(read.text + "Paris is") + len(read.left_out[-1].text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with load_method("ike", retrieve=from_list(*LANDS), k=4).applied(base, [[FRANCE]]) as model:
            model.generate(["Paris is"], max_new_tokens=60, do_sample=False)


def test_an_edited_model_finds_the_demonstrations_of_its_memory(tmp_path):
    encoder = TrigramEncoder()
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        memory.add(FRANCE)
        build(tmp_path, LANDS, encoder)
        base = HFModel(tiny_model("qwen3"), tiny_tokenizer())
        edited = EditedModel(base, _Fires(memory, FRANCE), {"ike": {"k": 3}})
        said = edited.explain("The capital of France is", max_new_tokens=4, do_sample=False)
    nearest = DemonstrationStore.read(tmp_path).nearest(encoder.encode([FRANCE.statement])[0], 3)
    expected = [f"New Fact: {one.statement}" for _, one in reversed(nearest)] + [
        f"New Fact: {FRANCE.statement}"
    ]
    assert [line for line in said.read.split("\n") if line.startswith("New Fact")] == expected


class _Fires:
    """A router by which one edit fires for every query."""

    default_method = "ike"

    def __init__(self, memory, edit):
        self.memory, self.edit = memory, edit

    def method_of(self, edit):
        return "ike"

    def route(self, queries, at=None):
        candidate = Candidate(1, self.edit, "direct", 1.0, 1.0, True, "")
        return [Route(query, (candidate,), (candidate,), 0.5, "ike") for query in queries]


def test_a_wrong_setting_is_said_when_the_model_is_made(tmp_path, lm):
    with EditMemory.open(tmp_path, encoder=TrigramEncoder()) as memory:
        with pytest.raises(MethodError, match="whole number"):
            EditedModel(lm("qwen3"), _Fires(memory, FRANCE), {"ike": {"k": "many"}})
        with pytest.raises(MethodError, match="did you mean"):
            EditedModel(lm("qwen3"), _Fires(memory, FRANCE), {"ikee": {"k": 1}})
        with pytest.raises(MethodError, match="by its name"):
            EditedModel(lm("qwen3"), _Fires(memory, FRANCE), {"ike": 8})


def test_the_contexts_of_an_edit_are_made_once():
    asked = []

    def retrieve(text, k, usable):
        asked.append(text)
        return [(1.0, LANDS[0])]

    ike = load_method("ike", retrieve=retrieve, k=1)
    first = ike.context([FRANCE])
    assert ike.context([FRANCE]) == first
    assert asked == [FRANCE.statement]
    ike.context([capital("France", "Nice")])
    assert len(asked) == 2
    assert np.isclose(ike.settings.ratio[2], 4)
