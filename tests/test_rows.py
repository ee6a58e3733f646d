"""Edits on single rows: context spliced inside the forward pass, low-rank patches, and nothing left behind."""

from __future__ import annotations

import threading

import pytest
import torch
from conftest import FAMILIES

from memedit.errors import ContextWarning, ModelError
from memedit.methods._effects import LowRank
from memedit.methods._rows import Row, rows_applied
from memedit.methods._splice import Piece, joined

CONTEXT = "Fact: the sky is green.\n"
PROMPTS = ["The sky is", "Grass, as everybody knows, is", "Two and two"]
OPTIONS = {"max_new_tokens": 8, "do_sample": False, "min_new_tokens": 8}


def given(text, patch=None, **more):
    return Row((Piece(text),), patch, **more)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bos", [False, True])
def test_spliced_context_equals_the_text_written_by_hand(lm, family, bos):
    base = lm(family, bos)
    with rows_applied(base, [given(CONTEXT)] * 3) as applied:
        spliced = applied.generate(PROMPTS, **OPTIONS)
    assert spliced == base.generate([CONTEXT + p for p in PROMPTS], **OPTIONS)
    assert spliced != base.generate(PROMPTS, **OPTIONS)


def test_ids_are_the_callers_own_followed_by_the_new_tokens(lm):
    base = lm("llama", True)
    inputs = base.tokenize(PROMPTS)
    with rows_applied(base, [given(CONTEXT)] * 3) as applied:
        out = applied.generate_ids(**inputs, **OPTIONS)
    width = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :width], inputs["input_ids"])
    assert base.decode_new(out, width) == base.generate([CONTEXT + p for p in PROMPTS], **OPTIONS)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3, "seed": 5},
        {"use_cache": False},
        {"max_length": 60, "max_new_tokens": None, "min_new_tokens": None},
    ],
)
def test_decoding_variants_equal_the_text_written_by_hand(lm, options):
    base = lm("qwen3")
    options = {**OPTIONS, **options}
    written = {**options}
    if "max_length" in options:  # the caller's length does not count what is spliced in
        options = {k: v for k, v in options.items() if v is not None}
        width = base.tokenize(PROMPTS)["input_ids"].shape[1]
        written = {"max_new_tokens": 60 - width, "do_sample": False}
    with rows_applied(base, [given(CONTEXT)] * 3) as applied:
        got = applied.generate(PROMPTS, **options)
    assert got == base.generate([CONTEXT + p for p in PROMPTS], **written)


def test_what_sees_the_sequence_does_not_see_the_context(lm):
    base = lm()
    seen = []

    def spy(ids, scores):
        seen.append(ids.clone())
        return scores

    inputs = base.tokenize(PROMPTS)
    with rows_applied(base, [given(CONTEXT)] * 3) as applied:
        applied.generate_ids(**inputs, **OPTIONS, logits_processor=[spy])
    assert [s.shape[1] for s in seen] == [inputs["input_ids"].shape[1] + i for i in range(8)]
    assert torch.equal(seen[0], inputs["input_ids"])


def test_rows_without_context_in_a_mixed_batch_are_the_bases(lm):
    base = lm("gpt2")
    with rows_applied(base, [Row(), given(CONTEXT), Row()]) as applied:
        mixed = applied.generate(PROMPTS, **OPTIONS)
    plain = base.generate(PROMPTS, **OPTIONS)
    assert mixed[0] == plain[0]
    assert mixed[2] == plain[2]
    assert mixed[1] == base.generate([CONTEXT + PROMPTS[1]], **OPTIONS)[0]


def test_batches_smaller_than_the_rows_keep_each_rows_context(lm):
    base = lm()
    rows = [given(f"Fact: {i}.\n") for i in range(3)]
    with rows_applied(base, rows) as applied:
        assert applied.generate(PROMPTS, batch_size=1, **OPTIONS) == [
            base.generate([joined(row.context) + p], **OPTIONS)[0]
            for row, p in zip(rows, PROMPTS, strict=True)
        ]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_low_rank_patch_equals_the_changed_weight(lm, family):
    base = lm(family)
    name = "transformer.h.1.mlp.c_proj" if family == "gpt2" else "model.layers.1.mlp.down_proj"
    module = base.model.get_submodule(name)
    wide, narrow = module.weight.shape if family == "gpt2" else module.weight.shape[::-1]
    generator = torch.Generator().manual_seed(3)
    patch = LowRank(torch.randn(narrow, 2, generator=generator), torch.randn(2, wide, generator=generator))
    with rows_applied(base, [Row(), Row(patch={name: patch}), Row()]) as applied:
        mixed = applied.generate(PROMPTS, **OPTIONS)
        scores = applied.score(PROMPTS, ["blue", "green", "four"])
    plain = base.generate(PROMPTS, **OPTIONS)
    assert (mixed[0], mixed[2]) == (plain[0], plain[2])
    before = module.weight.detach().clone()
    delta = patch.up @ patch.down
    module.weight.data += delta.T if family == "gpt2" else delta
    try:
        assert mixed[1] == base.generate([PROMPTS[1]], **OPTIONS)[0]
        assert scores[1].logprob == pytest.approx(base.score([PROMPTS[1]], ["green"])[0].logprob, abs=1e-3)
    finally:
        module.weight.data = before


def test_patches_of_one_module_add_up():
    one = LowRank(torch.ones(4, 1), torch.ones(1, 3))
    two = LowRank(2 * torch.ones(4, 2), torch.ones(2, 3))
    both = given("a", {"m": one}) + given("b", {"m": two, "n": one})
    assert joined(both.context) == "ab"
    assert torch.equal(both.patch["m"].up @ both.patch["m"].down, one.up @ one.down + two.up @ two.down)


@pytest.mark.parametrize("fails", [False, True])
def test_the_base_is_bit_equal_and_without_hooks_afterwards(lm, fails):
    base = lm()
    before, flags = state(base.model), [p.requires_grad for p in base.model.parameters()]
    patch = {"model.layers.0.mlp.down_proj": LowRank(torch.ones(32, 1), torch.ones(1, 48))}
    with (
        pytest.raises(RuntimeError) if fails else rows_applied(base, []),
        rows_applied(base, [given(CONTEXT, patch)]) as applied,
    ):
        applied.generate(PROMPTS[:1], **OPTIONS)
        if fails:
            raise RuntimeError("on purpose")
    assert hooks(base.model) == 0
    assert all(torch.equal(before[n], t) for n, t in base.model.state_dict().items())
    assert [p.requires_grad for p in base.model.parameters()] == flags
    assert not base.model.training
    assert all(p.grad is None for p in base.model.parameters())


def test_scores_read_the_context_and_not_the_padding(lm):
    base = lm("gpt_neox", True)
    targets = ["green", "red and blue", "four"]
    with rows_applied(base, [given(CONTEXT)] * 3) as applied:
        got = applied.score(PROMPTS, targets)
    for score, written in zip(got, base.score([CONTEXT + p for p in PROMPTS], targets), strict=True):
        assert score.logprob == pytest.approx(written.logprob, abs=1e-3)
        assert score.agreed == written.agreed


def test_threads_on_one_base_keep_their_rows_apart(lm):
    base = lm()
    expected = {i: base.generate([f"Fact: {i}.\n{PROMPTS[0]}"], **OPTIONS) for i in range(6)}
    plain = base.generate(PROMPTS[:1], **OPTIONS)
    wrong = []

    def ask(i):
        for _ in range(3):
            if i % 2:
                with rows_applied(base, [given(f"Fact: {i}.\n")]) as applied:
                    ok = applied.generate(PROMPTS[:1], **OPTIONS) == expected[i]
            else:
                ok = base.generate(PROMPTS[:1], **OPTIONS) == plain
            wrong.extend([] if ok else [i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
    assert hooks(base.model) == 0


def test_threads_that_score_and_generate_share_one_tokenizer(lm):
    """A fast tokenizer keeps padding as state of its own: whoever calls it holds the lock."""
    base = lm()
    tokenizer, unlocked = base.tokenizer, []

    class Watched:
        def __call__(self, *args, **options):
            unlocked.extend([] if base.tokenizing.locked() else [args])
            return tokenizer(*args, **options)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    expected, failed = base.score(PROMPTS, ["green", "red", "four"]), []

    def ask(i):
        try:
            for _ in range(10):
                if i % 2:
                    assert len(base.tokenize([*PROMPTS, "x" * 40])["input_ids"]) == 4
                else:
                    assert base.score(PROMPTS, ["green", "red", "four"]) == expected
        except Exception as error:
            failed.append(error)

    base.tokenizer = Watched()
    try:
        base.score(PROMPTS[:1], ["green"])
        base.tokenizer = tokenizer
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        base.tokenizer = tokenizer
    assert unlocked == []
    assert failed == []


def test_another_number_of_prompts_than_of_rows_is_refused(lm):
    with (
        rows_applied(lm(), [given(CONTEXT)]) as applied,
        pytest.raises(ValueError, match="2 prompts for 1 rows"),
    ):
        applied.generate(PROMPTS[:2])


def test_a_prompt_that_does_not_fit_the_model_is_refused(lm):
    base = lm("gpt2")
    with (
        rows_applied(base, [given(CONTEXT)]) as applied,
        pytest.raises(ModelError, match="has 500 tokens"),
    ):
        applied.generate(["x" * 500], **OPTIONS | {"max_new_tokens": 13})
    with pytest.raises(ModelError, match="has 505 tokens and 8 more are asked for; the model takes 512"):
        base.generate(["x" * 504, "x" * 505], **OPTIONS)
    assert hooks(base.model) == 0


def test_what_of_a_context_does_not_fit_is_left_out_and_said(lm):
    base = lm("llama")
    pieces = [
        Piece("Fact: old.\n"),
        *(Piece(f"{'x' * 97}{i}\n", demonstration=True) for i in range(5)),
        Piece("Fact: new.\n"),
    ]
    with rows_applied(base, [Row(tuple(pieces))]) as applied:
        with pytest.warns(ContextWarning, match="was answered without 3 of 5 demonstrations"):
            got = applied.generate(["x" * 280], **OPTIONS)
        assert applied.read[0].text == joined(pieces[:1] + pieces[4:])
        assert applied.read[0].left_out == tuple(pieces[1:4])
        assert got == base.generate([applied.read[0].text + "x" * 280], **OPTIONS)
        with pytest.warns(ContextWarning, match="without 5 of 5 demonstrations, 'Fact: old.'"):
            applied.generate(["x" * 493], **OPTIONS)
        assert applied.read[0].text == "Fact: new.\n"
        with pytest.warns(ContextWarning, match="'Fact: old.', 'Fact: new.'"):
            assert applied.generate(["x" * 500], **OPTIONS) == base.generate(["x" * 500], **OPTIONS)


@pytest.mark.parametrize("bos", [False, True])
def test_a_context_may_stand_before_the_last_tokens_of_a_row(lm, bos):
    base = lm("qwen3", bos)
    rows = [given(CONTEXT, tail=4), given(CONTEXT), given("Fact: 1.\n", tail=3), Row()]
    prompts = ["system\nuser", *PROMPTS]
    with rows_applied(base, rows) as applied:
        got = applied.generate(prompts, **OPTIONS)
        beams = applied.generate(prompts, **OPTIONS, num_beams=2)
    written = [
        f"system\n{CONTEXT}user",
        CONTEXT + PROMPTS[0],
        PROMPTS[1][:-3] + "Fact: 1.\n" + PROMPTS[1][-3:],
        PROMPTS[2],
    ]
    assert got == base.generate(written, **OPTIONS)
    assert beams == base.generate(written, **OPTIONS, num_beams=2)


def test_special_tokens_in_a_context_stay_plain_text(lm):
    base = lm()
    ids = base.encode_context("Fact: </s> ends it.\n")
    assert base.tokenizer.eos_token_id not in ids
    assert base.tokenizer.decode(ids) == "Fact: </s> ends it.\n"
