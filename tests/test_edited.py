"""EditedModel over a real memory, the shipped classifier and tiny real models: promise 1, both faces, mixed batches."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import GenerationConfig

from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import MethodError, ModelError
from memedit.memory import EditMemory
from memedit.router import Router

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France", ref="fr")
IN = "The capital of France is"
OUT = ["How do I bake bread?", "The tallest mountain on Earth is"]
OPTIONS = {"max_new_tokens": 8, "do_sample": False, "min_new_tokens": 8}


@pytest.fixture
def memory(tmp_path, classifier):
    with EditMemory.open(tmp_path / "m", encoder=classifier) as m:
        yield m


@pytest.fixture(params=[("qwen3", False), ("llama", True), ("gpt2", False)], ids=str)
def edited(request, memory, lm):
    memory.add(FACT)
    return EditedModel(lm(*request.param), Router(memory))


def test_the_right_question_reads_the_fact_and_the_others_are_the_bases(edited):
    prompts = [OUT[0], IN, OUT[1]]
    got = edited.generate(prompts, **OPTIONS)
    assert [got[0], got[2]] == edited.base.generate(OUT, **OPTIONS)  # the batch of such rows
    assert got[1] == edited.base.generate([f"Fact: {FACT.statement}\n{IN}"], **OPTIONS)[0]
    assert got[1] != edited.base.generate([IN], **OPTIONS)[0]


def test_when_nothing_fires_the_call_is_the_bases_own_sampling_included(edited):
    options = {"max_new_tokens": 8, "do_sample": True, "num_return_sequences": 2}
    inputs = edited.base.tokenize(OUT)
    torch.manual_seed(3)
    expected = edited.base.model.generate(**inputs, **options, pad_token_id=edited.tokenizer.pad_token_id)
    torch.manual_seed(3)
    assert torch.equal(edited.generate(**inputs, **options), expected)


def test_the_hugging_face_face_keeps_the_callers_ids_and_padding(edited):
    prompts = [OUT[0], IN, OUT[1]]
    inputs = edited.base.tokenize(prompts)
    out = edited.generate(**inputs, **OPTIONS)
    width = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :width], inputs["input_ids"])
    rows = {name: value[[0, 2]] for name, value in inputs.items()}
    assert torch.equal(out[[0, 2]], edited.base.generate(**rows, **OPTIONS))
    written = edited.base.generate([f"Fact: {FACT.statement}\n{IN}"], **OPTIONS)
    assert edited.base.decode_new(out[1:2], width) == written


def test_right_padding_is_realigned(edited):
    left = edited.base.tokenize([OUT[0], IN])
    lengths = left["attention_mask"].sum(1).tolist()
    right = {
        k: torch.stack([row.roll(n) for row, n in zip(v, lengths, strict=True)]) for k, v in left.items()
    }
    assert not right["attention_mask"][:, -1].all()
    assert torch.equal(edited.generate(**right, **OPTIONS), edited.generate(**left, **OPTIONS))


def test_ids_may_come_as_the_first_argument(edited):
    inputs = edited.base.tokenize([IN])
    assert torch.equal(
        edited.generate(inputs["input_ids"], **OPTIONS),
        edited.generate(**inputs, **OPTIONS),
    )


def test_several_returned_sequences_stay_with_their_prompts(edited):
    prompts = [IN, OUT[0]]
    inputs = edited.base.tokenize(prompts)
    out = edited.generate(**inputs, max_new_tokens=4, num_beams=2, num_return_sequences=2, do_sample=False)
    width = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :width], inputs["input_ids"].repeat_interleave(2, 0))


def test_seeded_sampling_repeats_and_leaves_the_callers_random_state(edited):
    torch.manual_seed(11)
    first = edited.generate([IN, OUT[0]], max_new_tokens=8, do_sample=True, seed=4)
    after = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(1), after)
    assert edited.generate([IN, OUT[0]], max_new_tokens=8, do_sample=True, seed=4) == first


def test_what_is_added_is_known_from_the_next_call_on_and_undo_takes_it_back(edited, memory):
    prompt = "The capital of Peru is"
    before = edited.generate([prompt], **OPTIONS)
    memory.add(Edit(prompt=prompt, target="Cusco", subject="Peru"))
    assert edited.generate([prompt], **OPTIONS) == edited.base.generate(
        ["Fact: The capital of Peru is Cusco.\n" + prompt], **OPTIONS
    )
    memory.undo()
    assert edited.generate([prompt], **OPTIONS) == before == edited.base.generate([prompt], **OPTIONS)


def test_scores_are_routed_by_the_prompt_alone(edited):
    (score,) = edited.score([IN], ["Lyon"])
    (written,) = edited.base.score([f"Fact: {FACT.statement}\n{IN}"], ["Lyon"])
    assert score.logprob == pytest.approx(written.logprob, abs=1e-3)
    assert edited.score([OUT[0]], ["Lyon"]) == edited.base.score([OUT[0]], ["Lyon"])


def test_explain_shows_the_route_what_is_read_and_both_answers(edited):
    said = edited.explain(IN, **OPTIONS)
    assert said.read == f"Fact: {FACT.statement}\n{IN}"
    assert [said.text] == edited.generate([IN], **OPTIONS)
    assert [said.base_text] == edited.base.generate([IN], **OPTIONS)
    assert said.route.edits[0].edit.ref == "fr"
    out = edited.explain(OUT[0], **OPTIONS)
    assert (out.read, out.text) == (OUT[0], out.base_text)


def test_an_empty_memory_is_the_base(memory, lm):
    edited = EditedModel(lm(), Router(memory))
    assert edited.generate([IN], **OPTIONS) == edited.base.generate([IN], **OPTIONS)
    assert not edited.route([IN])[0].fired


@pytest.mark.parametrize("bad", [None, [], torch.zeros(0, 3, dtype=torch.long), 7])
def test_what_is_no_prompt_is_refused_in_one_sentence(edited, bad):
    if bad == []:
        assert edited.generate(bad) == []
    else:
        with pytest.raises(ModelError, match="needs prompts"):
            edited.generate(bad)


def test_a_blank_prompt_is_refused(edited):
    with pytest.raises(ModelError, match="prompt 2 of 2 is empty"):
        edited.generate([IN, "  "])


def test_assisted_decoding_is_refused_where_an_edit_fires(edited):
    with pytest.raises(ModelError, match="assisted decoding"):
        edited.generate(**edited.base.tokenize([IN]), prompt_lookup_num_tokens=3)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"guidance_scale": 2.0},
        {"past_key_values": object()},
        {"streamer": object()},
        {"generation_config": GenerationConfig(prompt_lookup_num_tokens=3)},
        {"prefill_chunk_size": 4},
        {"token_healing": True},
        {"use_mtp": True},
    ],
    ids=lambda o: next(iter(o)),
)
def test_what_can_not_be_right_with_an_edit_in_scope_is_refused(edited, options):
    with pytest.raises(ModelError):
        edited.generate(**edited.base.tokenize([IN, IN]), **options)
    with pytest.raises(ModelError):
        edited.generate([OUT[0], IN], **options)
    assert edited.generate([IN], token_healing=False, **OPTIONS) == edited.generate([IN], **OPTIONS)


def test_options_that_are_no_rows_are_never_cut(edited):
    inputs = edited.base.tokenize([OUT[0], IN])
    eos = [edited.base.generate(**inputs, **OPTIONS)[0, inputs["input_ids"].shape[1] + 2].item(), 1]
    options = {"max_new_tokens": 8, "do_sample": False}
    as_list = edited.generate(**inputs, **options, eos_token_id=eos)
    assert torch.equal(edited.generate(**inputs, **options, eos_token_id=torch.tensor(eos)), as_list)


def test_a_row_keeps_its_number_in_a_mixed_batch(edited):
    inputs = edited.base.tokenize([IN, OUT[0]])
    out = edited.generate(
        **inputs, max_new_tokens=3, do_sample=False, prefix_allowed_tokens_fn=lambda row, ids: [50 + row]
    )
    assert out[:, -3:].tolist() == [[50] * 3, [51] * 3]
    texts = edited.generate(
        [OUT[0], IN, OUT[1]], max_new_tokens=3, prefix_allowed_tokens_fn=lambda row, ids: [70 + row]
    )
    assert texts == edited.tokenizer.batch_decode([[70] * 3, [71] * 3, [72] * 3])


def test_several_texts_of_a_prompt_stay_together(edited):
    options = {"max_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2, "do_sample": False}
    got = edited.generate([OUT[0], IN], **options)
    assert got[:2] == edited.base.generate([OUT[0]], **options)
    assert got[2:] == edited.base.generate([f"Fact: {FACT.statement}\n{IN}"], **options)


def test_lists_that_do_not_go_together_are_refused(edited):
    with pytest.raises(ModelError, match="2 prompts and 1 routes"):
        edited.generate([IN, OUT[0]], routes=edited.route([IN]))
    with pytest.raises(ModelError, match="2 prompts and 1 targets"):
        edited.score([IN, OUT[0]], ["Lyon"])
    for bad in (0, "2"):
        with pytest.raises(ModelError, match="at least 1"):
            edited.generate([IN], batch_size=bad)
        with pytest.raises(ModelError, match="at least 1"):
            edited.score([IN, OUT[0]], ["Lyon", "x"], batch_size=bad)
        with pytest.raises(ModelError, match="at least 1"):
            edited.generate([IN], max_new_tokens=bad if bad else -1)


@pytest.mark.parametrize("prompt", [IN, OUT[0]])
def test_a_score_that_does_not_fit_the_model_is_refused(memory, lm, prompt):
    edited = EditedModel(lm("gpt2"), Router(memory))
    with pytest.raises(ModelError, match="the model takes 512"):
        edited.score([prompt + " and so on" * 60], ["Lyon"])


def test_an_explanation_is_of_one_answer(edited):
    with pytest.raises(ModelError, match="num_return_sequences"):
        edited.explain(IN, num_return_sequences=2, do_sample=True)


def test_seeded_sampling_is_the_same_in_threads(edited):
    options = {"max_new_tokens": 6, "do_sample": True, "seed": 4}
    expected = edited.generate([IN, OUT[0]], **options)
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(edited.generate([IN, OUT[0]], **options)))
        for _ in range(6)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [expected] * 6
    assert edited.tokenizer.padding_side == "left"


def test_from_pretrained_takes_objects_folders_and_open_memories(memory, lm, tmp_path):
    base = lm()
    base.model.save_pretrained(tmp_path / "model")
    base.tokenizer.save_pretrained(tmp_path / "model")
    memory.add(FACT)
    by_folder = EditedModel.from_pretrained(str(tmp_path / "model"), memory=memory)
    by_object = EditedModel.from_pretrained(base.model, tokenizer=base.tokenizer, memory=memory)
    assert by_folder.generate([IN], **OPTIONS) == by_object.generate([IN], **OPTIONS)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bsae", "did you mean base"),
        ("./nowhere", "no folder"),
        ("/", "holds no model"),
        (object(), "tokenizer"),
    ],
)
def test_an_unknown_model_is_said_in_one_sentence(memory, model, message):
    class Configured:
        config = type("C", (), {"is_encoder_decoder": False})()

    with pytest.raises(ModelError, match=message):
        EditedModel.from_pretrained(Configured() if not isinstance(model, str) else model, memory=memory)


def test_an_unknown_method_is_refused_before_a_model_is_loaded(memory):
    with pytest.raises(MethodError, match="unknown method"):
        EditedModel.from_pretrained("base", memory=memory, method="iced")
