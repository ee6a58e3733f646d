"""The pointer: the paper's mixture term by term; the same in any batch, without a cache, with beams and kept prefixes."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from memedit.adapter import load_adapted
from memedit.errors import ModelError
from memedit.lm import HFModel
from memedit.loading import PRETRAINED
from memedit.methods._rows import Row, rows_applied
from memedit.methods._splice import Piece
from memedit.pointer import LONGEST, Pointer, attach
from memedit.prefix import PrefixCache

OPTIONS = {"max_new_tokens": 6, "do_sample": False}


def pointer(hidden, seed=0, gate=0.0):
    """One whose every part has a say."""
    torch.manual_seed(seed)
    made = Pointer(hidden, 8)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    torch.nn.init.constant_(made.gate.bias, gate)
    return made.eval()


@pytest.fixture(params=["llama", "qwen3", "gpt2", "gpt_neox"])
def pointing(request):
    lm = HFModel(tiny_model(request.param), tiny_tokenizer())
    attach(lm.model, pointer(lm.model.config.hidden_size))
    return lm


def by_hand(made, logits, states, ids, t):
    """p(w) of one row without padding, at its column t, written as the equations are."""
    q = made.query(states[t])
    score = []
    for i in range(t + 1):
        k = made.now(states[i]) + (made.before(states[i - 1]) if i else 0)
        s = float(q @ k) / math.sqrt(made.width)
        for n in range(1, LONGEST + 1):
            if i - n < 0 or t - n + 1 < 0 or ids[i - n : i] != ids[t - n + 1 : t + 1]:
                break
            s += float(made.same(states[t])[n - 1])
        score.append(s)
    a = torch.tensor(score).softmax(0)
    g = torch.sigmoid(made.gate(torch.cat([states[t], a.max()[None]])))
    p = (1 - g) * logits[t].softmax(-1)
    for i in range(t + 1):
        p[ids[i]] += float(g) * float(a[i])
    return p


@given(
    ids=st.lists(st.integers(0, 5), min_size=1, max_size=9), pads=st.integers(0, 3), seed=st.integers(0, 9)
)
@settings(max_examples=40, deadline=None)
def test_the_mixture_is_the_papers_whatever_the_padding(ids, pads, seed):
    made = pointer(6, seed)
    with torch.no_grad():
        states, logits = torch.randn(len(ids), 6), torch.randn(len(ids), 11)
        # Padding in front, and between the first token and the rest, as behind a kept prefix.
        where = torch.tensor([pads, *range(2 * pads + 1, 2 * pads + len(ids))])
        width = 2 * pads + len(ids)
        wide, row, mask = torch.randn(1, width, 6), torch.full((1, width), 3), torch.zeros(1, width)
        wide[0, where], row[0, where], mask[0, where] = states, torch.tensor(ids), 1.0
        zeros = torch.zeros(len(ids), dtype=torch.long)
        said = made(logits, states, zeros, where, made.keys(wide), row, mask).exp()
        for t in range(len(ids)):
            assert torch.allclose(said[t], by_hand(made, logits, states, ids, t), atol=1e-5)
    assert torch.allclose(said.sum(-1), torch.ones(len(ids)), atol=1e-4)


def test_under_autocast_it_stays_in_float32():
    made, ids, mask = pointer(6), torch.tensor([[1, 2, 1]]), torch.ones(1, 3)
    states, logits, row, column = (
        torch.randn(1, 3, 6),
        torch.randn(3, 11),
        torch.zeros(3, dtype=torch.long),
        torch.arange(3),
    )

    def mixed():
        return made(logits, states[0], row, column, made.keys(states), ids, mask)

    with torch.no_grad():
        plain = mixed()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(mixed(), plain)


def test_a_row_is_continued_alike_alone_in_a_batch_and_without_a_cache(pointing):
    prompts = ["The capital of France is", "So", "Fact: the mayor of Quelbury is Ann Dorr. The mayor is"]
    together = pointing.generate(prompts, **OPTIONS)
    assert together == [pointing.generate([prompt], **OPTIONS)[0] for prompt in prompts]
    assert together == pointing.generate(prompts, use_cache=False, **OPTIONS)


def test_probabilities_of_a_target_are_the_steps_of_its_generation(pointing):
    inputs = pointing.tokenize(["The capital of France is"])
    out = pointing.generate_ids(**inputs, **OPTIONS, output_logits=True, return_dict_in_generate=True)
    with torch.no_grad():
        whole = pointing.model(input_ids=out.sequences).logits[0]
    n = inputs["input_ids"].shape[1]
    for step, logits in enumerate(out.logits):
        assert torch.allclose(logits[0], whole[n - 1 + step], atol=1e-4)
    assert torch.allclose(whole.exp().sum(-1), torch.ones(len(whole)), atol=1e-3)


def test_beams_take_their_keys_along(pointing):
    asked = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    prompts = ["The capital of France is", "So"]
    assert pointing.generate(prompts, **asked) == pointing.generate(prompts, use_cache=False, **asked)


def test_a_kept_prefix_has_its_keys(pointing):
    rows = [
        Row(context=(Piece("Fact: the mayor of Quelbury is Ann Dorr.\n"),)),
        Row(context=(Piece("Fact: so.\n"),)),
    ]
    asked = ["The mayor is", "And the capital of France is"]

    def answers(budget):
        pointing.prefixes = PrefixCache(budget)
        with rows_applied(pointing, rows) as lm:
            return lm.generate(asked, **OPTIONS), len(pointing.prefixes)

    (kept, prefixes), (anew, none) = answers(256 << 20), answers(0)
    assert kept == anew
    assert (prefixes, none) == (2, 0)


def test_a_pointer_that_only_copies_repeats_what_was_read():
    lm = HFModel(tiny_model("llama"), tiny_tokenizer())
    made = pointer(lm.model.config.hidden_size, gate=50.0)
    with torch.no_grad():
        made.same.weight.zero_()
        made.same.bias.fill_(40.0)  # what followed the same words goes on
        made.gate.weight.zero_()
    attach(lm.model, made)
    (text,) = lm.generate(["Ann Dorr of Quelbury. Ann Dorr"], max_new_tokens=4, do_sample=False)
    assert " of Quelbury. Ann Dorr".startswith(text)
    assert len(text) > 3


def test_taken_off_again_the_model_is_what_it_was():
    lm = HFModel(tiny_model("llama"), tiny_tokenizer())
    before = lm.score(["The capital of France is"], ["Lyon"])[0].logprob
    handles = attach(lm.model, pointer(lm.model.config.hidden_size, gate=2.0))
    with_it = lm.score(["The capital of France is"], ["Lyon"])[0].logprob
    for handle in handles:
        handle.remove()
    assert with_it != pytest.approx(before, abs=1e-3)
    assert lm.score(["The capital of France is"], ["Lyon"])[0].logprob == before


def test_a_cache_of_fixed_size_is_refused_in_a_sentence():
    lm = HFModel(tiny_model("llama"), tiny_tokenizer())
    attach(lm.model, pointer(lm.model.config.hidden_size))
    with pytest.raises(ModelError, match="leave cache_implementation out"):
        lm.generate(["So"], cache_implementation="static", **OPTIONS)


def test_a_folder_with_half_a_pointer_is_refused_in_a_sentence(tmp_path):
    folder = shutil.copytree(PRETRAINED / "counterfactual", tmp_path / "cut")
    tensors = load_file(folder / "adapter.safetensors")
    del tensors["pointer.gate.weight"]
    save_file(tensors, folder / "adapter.safetensors")
    with pytest.raises(ModelError, match="holds no whole pointer: get the folder anew"):
        load_adapted(folder, "cpu")
