"""`EditedModel.generate` as Hugging Face's own: every way of decoding, against plain `generate` with the fact written by hand.

"By hand" is the base's own `generate` on "Fact: ...\nprompt"; what sees the sequence must not see the fact.
"""

from __future__ import annotations

import threading

import pytest
import torch
from conftest import FAMILIES, tiny_model, tiny_tokenizer
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
    pipeline,
)

from memedit import prefix
from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import ContextWarning, ModelError
from memedit.lm import LM, HFModel
from memedit.memory import EditMemory
from memedit.methods import _rows
from memedit.methods._splice import Piece
from memedit.router import Router

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
PERU = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
LINE, PERU_LINE = f"Fact: {FACT.statement}\n", f"Fact: {PERU.statement}\n"
IN, IN_TOO = "The capital of France is", "What is the capital of Peru?"
OUT = ["How do I bake bread?", "The tallest mountain on Earth is"]
GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module")
def memory(tmp_path_factory, classifier):
    with EditMemory.open(tmp_path_factory.mktemp("m") / "m", encoder=classifier) as m:
        m.add([FACT, PERU])
        yield m


@pytest.fixture(params=FAMILIES)
def edited(request, memory, lm):
    return EditedModel(lm(request.param), Router(memory))


@pytest.fixture
def llama(memory, lm):
    return EditedModel(lm("llama", True), Router(memory))


def hand(edited, texts, **options):
    """New ids of the base's own generate on texts written by hand, (rows, new)."""
    inputs = edited.base.tokenize(texts)
    out = edited.base.model.generate(**inputs, **options, pad_token_id=0)
    return getattr(out, "sequences", out)[:, inputs["input_ids"].shape[1] :]


def new(out, inputs):
    return getattr(out, "sequences", out)[:, inputs["input_ids"].shape[1] :]


DECODING = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 1.5, "top_k": 20},
    "beams": {"num_beams": 3, "length_penalty": 0.5},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "several-beams": {"num_beams": 4, "num_return_sequences": 2},
    "sampled-beams": {"num_beams": 2, "do_sample": True},
    "config": {"generation_config": GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=0)},
    "no-cache": {"use_cache": False},
    "top-p": {"do_sample": True, "top_p": 0.7, "min_p": 0.01},
    "n-gram": {"no_repeat_ngram_size": 0, "bad_words_ids": [[70], [71, 72]]},
}


@pytest.mark.parametrize("options", DECODING.values(), ids=DECODING)
def test_decoding_equals_the_fact_written_by_hand(edited, options):
    options = options if "generation_config" in options else {**GREEDY, **options}
    inputs = edited.base.tokenize([IN, IN_TOO])
    torch.manual_seed(5)
    got = edited.generate(**inputs, **options)
    torch.manual_seed(5)
    assert torch.equal(new(got, inputs), hand(edited, [LINE + IN, PERU_LINE + IN_TOO], **options))
    returned = len(got) // 2
    assert torch.equal(
        got[:, : inputs["input_ids"].shape[1]], inputs["input_ids"].repeat_interleave(returned, 0)
    )


def test_max_length_counts_the_callers_tokens_alone(edited):
    inputs = edited.base.tokenize([IN])
    width = inputs["input_ids"].shape[1]
    got = edited.generate(**inputs, max_length=width + 6, min_length=width + 6, do_sample=False)
    assert got.shape[1] == width + 6
    assert torch.equal(
        new(got, inputs), hand(edited, [LINE + IN], **{**GREEDY, "max_new_tokens": 6, "min_new_tokens": 6})
    )


class ByHand(LogitsProcessor):
    """Shows an inner processor the sequence without the line written before it."""

    def __init__(self, inner, line):
        self.inner, self.line = inner, line

    def __call__(self, input_ids, scores):
        return self.inner(
            torch.cat([input_ids[:, :1], input_ids[:, 1 + self.line :]], 1), scores
        )  # <s> stays


def test_a_repetition_penalty_and_custom_processors_see_the_callers_sequence(llama):
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    inputs = llama.base.tokenize([IN])
    line = len(llama.base.encode_context(LINE))
    for said, inner in (
        ({"repetition_penalty": 50.0}, RepetitionPenaltyLogitsProcessor(50.0)),
        ({"no_repeat_ngram_size": 1}, NoRepeatNGramLogitsProcessor(1)),
    ):
        by_hand = LogitsProcessorList([ByHand(inner, line)])
        expected = hand(llama, [LINE + IN], **GREEDY, logits_processor=by_hand)
        assert torch.equal(new(llama.generate(**inputs, **GREEDY, **said), inputs), expected)
        custom = llama.generate(**inputs, **GREEDY, logits_processor=LogitsProcessorList([inner]))
        assert torch.equal(new(custom, inputs), expected)
    long = "Fact: the quick brown fox jumps over the lazy dog; 0123456789 !?%&()=+*<>[]{}|~^@#$ ABCDEFGHIJKLMNOPQRSTUVWXYZ.\n"
    with _rows.rows_applied(
        llama.base, [_rows.Row((Piece(long),))]
    ) as applied:  # where seeing the line would tell
        got = new(applied.generate_ids(**inputs, **GREEDY, repetition_penalty=50.0), inputs)
    by_hand = LogitsProcessorList([ByHand(RepetitionPenaltyLogitsProcessor(50.0), len(long))])
    assert torch.equal(got, hand(llama, [long + IN], **GREEDY, logits_processor=by_hand))
    assert not torch.equal(got, hand(llama, [long + IN], **GREEDY, repetition_penalty=50.0))


def test_stopping_strings_and_criteria_stop_on_what_the_caller_sees(edited):
    inputs = edited.base.tokenize([IN])
    told = edited.base.decode_new(edited.generate(**inputs, **GREEDY), inputs["input_ids"].shape[1])[0]
    stop = next((c for c in told[1:] if c.isascii()), told[0])
    options = {"max_new_tokens": 8, "do_sample": False, "stop_strings": [stop]}
    got = edited.generate(**inputs, **options, tokenizer=edited.tokenizer)
    assert torch.equal(new(got, inputs), hand(edited, [LINE + IN], **options, tokenizer=edited.tokenizer))
    assert edited.generate([IN], **options) == edited.base.generate([LINE + IN], **options)
    width, seen = inputs["input_ids"].shape[1], []

    class AfterThree(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            seen.append(input_ids.shape[1])
            return torch.full((len(input_ids),), input_ids.shape[1] >= width + 3)

    got = edited.generate(
        **inputs, do_sample=False, max_new_tokens=8, stopping_criteria=StoppingCriteriaList([AfterThree()])
    )
    assert got.shape[1] == width + 3 == seen[-1]
    assert torch.equal(new(got, inputs), hand(edited, [LINE + IN], **GREEDY)[:, :3])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_with_a_mask_or_without(edited, side):
    prompts = [IN, OUT[0], IN_TOO]
    left = edited.base.tokenize(prompts)
    lengths = left["attention_mask"].sum(1).tolist()
    given = left if side == "left" else {
        k: torch.stack([row.roll(n) for row, n in zip(v, lengths, strict=True)]) for k, v in left.items()
    }  # fmt: skip
    expected = edited.generate(**left, **GREEDY)
    assert torch.equal(edited.generate(**given, **GREEDY), expected)
    assert torch.equal(edited.generate(input_ids=given["input_ids"], **GREEDY), expected)
    alone = edited.base.model.generate(**{k: v[1:2] for k, v in left.items()}, **GREEDY, pad_token_id=0)
    assert torch.equal(expected[1:2], alone)


RETURNED = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.mark.parametrize("how", [{}, {"num_beams": 2, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_the_dictionary_of_a_mixed_batch_has_every_row_in_its_place(edited, how):
    options = {**GREEDY, **RETURNED, **how}
    prompts = [OUT[0], IN, OUT[1], IN_TOO]
    inputs = edited.base.tokenize(prompts)
    got = edited.generate(**inputs, **options)
    assert torch.equal(got.sequences, edited.generate(**inputs, **GREEDY, **how))
    assert got.past_key_values is None
    beams = how.get("num_beams", 1)
    for rows, texts in (([0, 2], None), ([1, 3], [LINE + IN, PERU_LINE + IN_TOO])):
        part = edited.base.tokenize(texts) if texts else {k: v[rows] for k, v in inputs.items()}
        own = edited.base.model.generate(**part, **options, pad_token_id=0)
        place = [row * beams + i for row in rows for i in range(beams)]
        for mine, theirs in zip(got.scores, own.scores, strict=True):
            assert torch.allclose(mine[place], theirs, atol=2e-4)
        for mine, theirs in zip(got.logits, own.logits, strict=True):
            assert torch.allclose(mine[place], theirs, atol=2e-4)
        if beams > 1:
            assert torch.allclose(got.sequences_scores[place], own.sequences_scores, atol=1e-4)
            mine = edited.base.model.compute_transition_scores(got.sequences, got.scores, got.beam_indices)
            theirs = edited.base.model.compute_transition_scores(own.sequences, own.scores, own.beam_indices)
            assert torch.allclose(mine[place], theirs, atol=2e-4)


def test_rows_that_are_done_sooner_are_filled_with_certain_padding(llama):
    inputs = llama.base.tokenize([OUT[0], IN])
    eos = int(hand(llama, [LINE + IN], **GREEDY)[0, 1])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": eos, "return_dict_in_generate": True}
    got = llama.generate(**inputs, **options, output_scores=True)
    assert got.sequences.shape[1] - inputs["input_ids"].shape[1] == len(got.scores) == 8
    assert new(got, inputs)[1].tolist()[2:] == [0] * 6
    scores = llama.compute_transition_scores(got.sequences, got.scores, normalize_logits=True)
    assert torch.equal(scores[1, 2:], torch.zeros(6))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_attentions_are_those_of_the_callers_tokens(memory, family):
    # a model of its own: transformers leaves hooks on one that was asked for these
    edited = EditedModel(HFModel(tiny_model(family), tiny_tokenizer()), Router(memory))
    edited.set_attn_implementation("eager")
    inputs = edited.base.tokenize([OUT[0], IN])
    width = inputs["input_ids"].shape[1]
    options = {
        **GREEDY,
        "return_dict_in_generate": True,
        "output_hidden_states": True,
        "output_attentions": True,
    }
    got = edited.generate(**inputs, **options)
    assert [h[0].shape[1] for h in got.hidden_states] == [width] + [1] * 7
    assert [a[0].shape[2:] for a in got.attentions] == [(width, width)] + [
        (1, width + i) for i in range(1, 8)
    ]
    written = edited.base.tokenize([LINE + IN])
    by_hand = edited.base.model.generate(**written, **options, pad_token_id=0)
    own = int(inputs["attention_mask"][1].sum())
    line = written["input_ids"].shape[1] - own
    assert torch.allclose(
        got.hidden_states[0][-1][1, -own:], by_hand.hidden_states[0][-1][0, line:], atol=1e-4
    )
    assert torch.allclose(got.hidden_states[3][-1][1], by_hand.hidden_states[3][-1][0], atol=1e-4)
    weights = by_hand.attentions[2][-1][0][:, :, line:]
    assert torch.allclose(got.attentions[2][-1][1][:, :, -own - 2 :], weights, atol=1e-4)


def test_custom_processors_and_criteria_are_shown_the_batch_as_the_caller_made_it(llama):
    inputs = llama.base.tokenize([OUT[0], IN, OUT[1]])
    width, seen = inputs["input_ids"].shape[1], []

    class RowToken(LogitsProcessor):
        """Row i says 60 + i, whatever the model thinks."""

        def __call__(self, input_ids, scores):
            seen.append(input_ids[:, :width].clone())
            forced = torch.full_like(scores, -100.0)
            for row in range(len(input_ids)):
                forced[row, 60 + row] = 0.0
            return forced

    class RowStops(StoppingCriteria):
        """Row i stops after i + 1 tokens."""

        def __call__(self, input_ids, scores, **kwargs):
            return torch.tensor([input_ids.shape[1] - width > row for row in range(len(input_ids))])

    got = llama.generate(
        **inputs, max_new_tokens=5, do_sample=False, logits_processor=LogitsProcessorList([RowToken()]),
        stopping_criteria=StoppingCriteriaList([RowStops()]), eos_token_id=1,
    )  # fmt: skip
    assert new(got, inputs).tolist() == [[60, 0, 0], [61, 61, 0], [62, 62, 62]]
    assert all(torch.equal(ids, inputs["input_ids"]) for ids in seen)


def test_streamers_stream_what_is_returned(edited, capsys):
    inputs = edited.base.tokenize([IN])
    expected = edited.generate([IN], **GREEDY)[0]
    edited.generate(
        **inputs,
        **GREEDY,
        streamer=TextStreamer(edited.tokenizer, skip_prompt=True, skip_special_tokens=True),
    )
    assert capsys.readouterr().out.rstrip("\n") == expected.rstrip("\n")
    streamer = TextIteratorStreamer(edited.tokenizer, skip_special_tokens=True, timeout=20)
    thread = threading.Thread(target=lambda: edited.generate(**inputs, **GREEDY, streamer=streamer))
    thread.start()
    told = "".join(streamer)
    thread.join()
    assert told == IN + expected


def test_a_pipeline_takes_it_as_its_model(edited, capfd):
    pipe = pipeline("text-generation", model=edited, tokenizer=edited.tokenizer, device="cpu")
    assert "not supported" not in capfd.readouterr().err
    options = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    got = [row[0]["generated_text"] for row in pipe([IN, OUT[0]], **options)]
    plain = {k: v for k, v in options.items() if k != "return_full_text"}
    assert got == [edited.base.generate([LINE + IN], **plain)[0], edited.base.generate([OUT[0]], **plain)[0]]


def test_what_is_asked_of_a_hugging_face_model_is_the_bases(llama):
    assert llama.num_parameters() == llama.base.model.num_parameters()
    assert llama.config is llama.base.model.config
    assert llama.to("cpu") is llama.eval() is llama
    assert llama.can_generate()
    assert isinstance(llama, EditedModel)
    assert isinstance(llama, type(llama.base.model))
    assert isinstance(llama, LM)
    assert llama.dtype == torch.float32
    with pytest.raises(AttributeError, match="neither EditedModel nor its base has 'nonsense'"):
        _ = llama.nonsense
    with pytest.raises(ModelError, match=r"answers through generate\(\)"):
        llama(input_ids=torch.ones(1, 3, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_half_precision_answers_as_by_hand_and_the_same_twice(memory, family, dtype):
    edited = EditedModel(HFModel(tiny_model(family).to(dtype), tiny_tokenizer()), Router(memory))
    inputs = edited.base.tokenize([IN, IN_TOO, OUT[0]])
    first = edited.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(edited.generate(**inputs, **GREEDY), first.sequences)
    written = edited.base.tokenize([LINE + IN])
    own = edited.base.model.generate(
        **written, **GREEDY, return_dict_in_generate=True, output_logits=True, pad_token_id=0
    )
    assert first.logits[0].dtype == own.logits[0].dtype
    assert torch.allclose(first.logits[0][0], own.logits[0][0], atol=0.15)


def test_a_base_spread_by_device_map_answers_the_same(memory, lm, tmp_path):
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    base = lm("llama", True)
    base.model.save_pretrained(tmp_path)
    spread = AutoModelForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"})
    got = EditedModel(HFModel(spread, base.tokenizer), Router(memory)).generate([IN, OUT[0]], **GREEDY)
    assert got == EditedModel(base, Router(memory)).generate([IN, OUT[0]], **GREEDY)


def test_several_edited_models_over_one_base_in_many_threads(memory, lm, tmp_path, classifier):
    base = lm("qwen3")
    with EditMemory.open(tmp_path / "other", encoder=classifier) as other:
        other.add(Edit(prompt=IN, target="Nice", subject="France"))
        models = [EditedModel(base, Router(memory)), EditedModel(base, Router(other))]
        asked = [(m, p) for m in models for p in (IN, IN_TOO, OUT[0], OUT[1])] * 3
        expected = [m.generate([p], **GREEDY) for m, p in asked]
        got = [None] * len(asked)

        def ask(i):
            got[i] = asked[i][0].generate([asked[i][1]], **GREEDY)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asked))]
        for t in threads:
            t.start()
        for t in threads:
            t.join(timeout=60)
        assert got == expected
        assert expected[0] != expected[4]


# -- the key-value cache of a stated fact


def test_a_recurring_fact_is_read_once(memory):
    edited = EditedModel(HFModel(tiny_model("llama"), tiny_tokenizer(bos=True)), Router(memory))
    widths = []
    edited.base.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    prompts = [IN, "Tell me: what is the capital of France?"]
    first = edited.generate([prompts[0]], **GREEDY)
    fact = 1 + len(edited.base.encode_context(LINE))
    assert widths[:2] == [fact, len(IN)]
    assert (len(edited.base.prefixes), edited.base.prefixes.hits) == (1, 0)
    widths.clear()
    assert edited.generate([prompts[0]], **GREEDY) == first
    edited.generate([prompts[1]], **GREEDY)
    assert edited.base.prefixes.hits == 2
    assert max(widths) == len(prompts[1])
    edited.base.prefixes = prefix.PrefixCache(0)  # switched off: the same answers, the fact read anew
    assert edited.generate([prompts[0]], **GREEDY) == first
    assert len(edited.base.prefixes) == 0


def test_the_prefix_cache_keeps_to_its_budget_and_forgets_the_longest_unused(lm):
    base = lm("llama")
    one = prefix._size(prefix._read(base.model, (5, 6, 7)))
    cache = prefix.PrefixCache(2 * one)
    first, second = cache.get(base.model, (5, 6, 7)), cache.get(base.model, (8, 9, 10))
    assert cache.get(base.model, (5, 6, 7)) is first
    cache.get(base.model, (11, 12, 13))
    assert (len(cache), cache.bytes) == (2, 2 * one)
    assert cache.get(base.model, (8, 9, 10)) is not second
    assert cache.get(base.model, tuple(range(3, 100))) is not None  # too large to keep, still served
    assert cache.bytes == 2 * one
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_many_different_facts_are_read_with_their_prompts(llama, monkeypatch):
    expected = llama.generate([IN, IN_TOO], **GREEDY)
    monkeypatch.setattr(_rows, "MOST_PREFIXES", 1)
    llama.base.prefixes.clear()
    assert llama.generate([IN, IN_TOO], **GREEDY) == expected
    assert len(llama.base.prefixes) == 0


def test_a_model_with_a_sliding_window_reads_the_fact_anew(memory):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "mistral", vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, sliding_window=16, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    edited = EditedModel(HFModel(AutoModelForCausalLM.from_config(config), tiny_tokenizer()), Router(memory))
    inputs = edited.base.tokenize([IN, IN_TOO])
    got = new(edited.generate(**inputs, **GREEDY), inputs)
    assert torch.equal(got, hand(edited, [LINE + IN, PERU_LINE + IN_TOO], **GREEDY))
    assert len(edited.base.prefixes) == 0


# -- bad input


def test_a_prompt_longer_than_the_context_is_refused_and_never_cut(edited):
    long = "x" * 600
    with pytest.raises(ModelError, match=r"the prompt 'xxxx.*…' has 60[01] tokens and 8 more"):
        edited.generate([IN, long], **GREEDY)
    with pytest.raises(ModelError, match=r"'y y .*has 62"):
        edited.generate([("y " * 300) + IN], **GREEDY)


def test_a_fact_that_there_is_no_room_for_is_left_out_and_said(llama):
    prompt = ("so " * 152) + IN
    (route,) = llama.route([IN])
    inputs = llama.base.tokenize([prompt])
    with pytest.warns(ContextWarning, match="answered without 'Fact: The capital of France is Lyon.'"):
        got = llama.generate(**inputs, **GREEDY, routes=[route])
    assert torch.equal(new(got, inputs), hand(llama, [prompt], **GREEDY))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_length_that_is_all_the_model_takes_leaves_room_for_the_fact(memory, lm, family):
    edited = EditedModel(lm(family), Router(memory))
    inputs = edited.base.tokenize([IN])
    options = {"do_sample": False, "min_new_tokens": 480}  # no end before the length's
    with pytest.warns(ContextWarning, match=r"stopped after \d+ of 488 new tokens"):
        got = edited.generate(**inputs, max_length=512, **options)
    line = len(edited.base.encode_context(LINE))
    assert got.shape[1] == 512 - line + 1  # the last token is said and not read
    assert torch.equal(
        new(got, inputs), hand(edited, [LINE + IN], max_length=513, **options)[:, : got.shape[1] - 24]
    )
    assert edited.generate([IN], max_new_tokens=200, **options) == edited.base.generate(
        [LINE + IN], max_new_tokens=200, **options
    )


def test_a_model_in_training_mode_is_refused(memory):
    edited = EditedModel(HFModel(tiny_model(), tiny_tokenizer()), Router(memory))
    edited.train()
    for ask in (
        lambda: edited.generate([IN]),
        lambda: edited.score([OUT[0]], ["x"]),
        lambda: edited.explain(IN),
    ):
        with pytest.raises(ModelError, match=r"training mode.*call model.eval\(\)"):
            ask()
    assert edited.eval().generate([IN], **GREEDY)


def test_a_tokenizer_without_a_pad_token_pads_with_eos_or_is_refused(memory, lm):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    edited = EditedModel(HFModel(tiny_model(), tokenizer), Router(memory))
    assert tokenizer.pad_token == "</s>"
    assert edited.generate([IN, OUT[0]], **GREEDY) == EditedModel(lm("llama"), Router(memory)).generate(
        [IN, OUT[0]], **GREEDY
    )
    bare = tiny_tokenizer()
    bare.pad_token = bare.eos_token = None
    with pytest.raises(ModelError, match=r"set tokenizer.pad_token"):
        HFModel(tiny_model(), bare)


def test_a_row_of_special_tokens_alone_asks_nothing(llama):
    ids = torch.tensor([[2]])
    got = llama.generate(ids, **GREEDY)
    assert torch.equal(got, llama.base.model.generate(ids, **GREEDY, pad_token_id=0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.ones(3, dtype=torch.long), "shape"),
        (torch.ones(1, 0, dtype=torch.long), "at least one row"),
        ([1, 2], "list of texts"),
        ({"text": 1}, "list of texts"),
        ("", "empty"),
        (["a", 3], "list of texts"),
    ],
)
def test_what_is_no_prompt_is_said_in_one_sentence(llama, bad, message):
    with pytest.raises(ModelError, match=message) as caught:
        llama.generate(bad, **GREEDY)
    assert "\n" not in str(caught.value)
