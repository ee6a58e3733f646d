"""Integrated gradients over neurons: their sum is the difference they make, on every family."""

from __future__ import annotations

import pytest

from memedit.errors import MethodError, ModelError


def fingerprint(base):
    return {name: p.detach().clone() for name, p in base.model.named_parameters()}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "llama", "qwen3", "phi", "gemma"])
def test_a_layer_s_attributions_sum_to_the_difference_its_neurons_make(lm, family):
    from memedit.methods._attribution import attributions, said_with

    base = lm(family)
    before = fingerprint(base)
    prompt, target = "The capital of Perwick is", "Oslo"
    found = attributions(base, prompt, target, steps=300)
    assert found.shape[0] == 2
    for layer, row in enumerate(found):
        difference = said_with(base, prompt, target, layer, 1) - said_with(base, prompt, target, layer, 0)
        assert float(row.sum()) == pytest.approx(difference, abs=0.02 * max(abs(difference), 1e-2))
        assert float(row.abs().max()) > 0
    assert all((p == before[n]).all() and p.grad is None for n, p in base.model.named_parameters())
    assert not any(m._forward_pre_hooks for m in base.model.modules())


def test_the_paper_s_twenty_steps_come_near_the_many(lm):
    from memedit.methods._attribution import attributions

    base = lm("llama")
    few = attributions(base, "Two and two", "is four", 1)
    many = attributions(base, "Two and two", "is four", [1], steps=200)
    assert few.shape == many.shape == (1, 48)
    assert float((few - many).norm() / many.norm()) < 0.25


def test_neurons_that_stand_out_for_most_prompts_are_kept():
    import torch

    from memedit.methods._attribution import Neuron, knowledge_neurons

    one = torch.tensor([[1.0, 0.3, 0.0], [0.1, 0.0, -2.0]])
    two = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.5, -2.0]])
    kept = knowledge_neurons([one, two], [3, 5])
    assert kept == [Neuron(3, 0, pytest.approx(0.95))]
    assert [n[:2] for n in knowledge_neurons([one, two], [3, 5], p=0.5)] == [(3, 0), (5, 1), (3, 1)]
    assert knowledge_neurons([torch.zeros(2, 3)]) == []


def test_bad_input_is_said_in_one_sentence(lm):
    from memedit.methods._attribution import attributions

    base = lm("gpt2")
    with pytest.raises(MethodError, match="layers 0 to 1; there is no layer 7"):
        attributions(base, "Two", "three", 7)
    with pytest.raises(MethodError, match="at least one step"):
        attributions(base, "Two", "three", steps=0)
    with pytest.raises(ModelError, match="empty"):
        attributions(base, "Two", "")
    with pytest.raises(ModelError, match="empty"):
        attributions(base, "", "three")
