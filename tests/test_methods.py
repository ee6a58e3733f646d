"""The contract that every method in the table of names must pass; new methods are picked up by being in the table."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from memedit.data import Demonstration
from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.methods import METHODS, load_method, method_info

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France", old="Paris")
OTHER = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
PROMPTS = ["What is the capital of France?", "Two and two", "The capital of Peru is"]
OPTIONS = {"max_new_tokens": 6, "do_sample": False}


def demonstrations(text, k, usable):
    """Three facts with falling cosines, as `retrieve` gives them."""
    facts = [
        Demonstration(
            f"{name} is in", place, f"{name} is in {place}.", name, (f"Where is {name}?",), (("So is", "it"),)
        )
        for name, place in (("Ode", "Oslo"), ("Lima", "Peru"), ("Moe", "Rome"))
    ]
    usable_facts = [fact for fact in facts if usable(fact)]
    return [(0.9 - 0.1 * i, fact) for i, fact in enumerate(usable_facts[:k])]


HANDED = {"demonstrations": {"retrieve": demonstrations}}


@pytest.fixture(params=sorted(METHODS))
def method(request):
    return load_method(request.param, **HANDED.get(method_info(request.param).handed, {}))


def test_the_table_says_what_people_want_to_know():
    for name, info in METHODS.items():
        assert info.name == name
        assert info.family in ("external", "merging", "intrinsic")
        assert info.paper
        assert info.summary
        assert type(load_method(name)).__doc__


def test_a_wrong_name_suggests_the_near_one():
    with pytest.raises(MethodError, match="did you mean ice"):
        method_info("icee")


def test_a_wrong_setting_is_refused():
    with pytest.raises(MethodError, match="does not take these settings"):
        load_method("ice", strength=3)


@pytest.mark.parametrize("fails", [False, True])
def test_the_base_is_bit_equal_afterwards(method, lm, fails):
    base = lm("qwen3")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in base.model.parameters()]
    with (
        pytest.raises(RuntimeError) if fails else nullcontext(),
        method.applied(base, [[FACT], [], [OTHER]]) as model,
    ):
        model.generate(PROMPTS, **OPTIONS)
        if fails:
            raise RuntimeError("on purpose")
    assert all(torch.equal(before[n], t) for n, t in base.model.state_dict().items())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.model.modules()) == 0
    assert [(p.requires_grad, p.grad) for p in base.model.parameters()] == flags
    assert not base.model.training


def test_a_row_without_edits_is_untouched_by_its_neighbours(method, lm):
    base = lm("qwen3")
    with method.applied(base, [[FACT], [], [OTHER]]) as model:
        mixed = model.generate(PROMPTS, **OPTIONS)
    assert mixed[1] == base.generate(PROMPTS, **OPTIONS)[1]


def test_a_row_is_the_same_alone_and_in_a_batch(method, lm):
    base = lm("gpt2")
    with method.applied(base, [[FACT], [], [OTHER]]) as model:
        batch = model.generate(PROMPTS, **OPTIONS)
    for i, edits in enumerate(([FACT], [], [OTHER])):
        with method.applied(base, [edits]) as model:
            assert model.generate([PROMPTS[i]], **OPTIONS) == [batch[i]]


def test_what_a_method_needs_is_asked_for_in_one_sentence(method):
    bare = Edit(statement="The capital of France is Lyon.")
    missing = [field for field in method.info.needs if not getattr(bare, field)]
    if missing:
        with pytest.raises(MethodError, match=f"needs the edit's {missing[0]}"):
            method.check(bare)
    else:
        method.check(bare)


def test_ice_states_each_fact_oldest_first_and_withholds_what_is_erased():
    ice = load_method("ice")
    erased = Edit(prompt="The phone number of Ada Park is", kind="erase", subject="Ada Park")
    assert ice.rewrite("So?", [FACT, OTHER]) == (
        "Fact: The capital of France is Lyon.\nFact: The capital of Peru is Cusco.\nSo?"
    )
    assert ice.rewrite("So?", [erased]) == "Withheld: The phone number of Ada Park is\nSo?"
    assert ice.rewrite("So?", []) == "So?"
