"""Chats through EditedModel: the fact stands right before the last user turn, and all else is the caller's own."""

from __future__ import annotations

import pytest
import torch
from chat_templates import TEMPLATES
from conftest import tiny_model, tiny_tokenizer

from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import ModelError
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.router import Router

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France", old="Paris")
OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "What is the capital of France?"}
DOUBTED = [ASKED, {"role": "assistant", "content": "Lyon."}, {"role": "user", "content": "Are you sure?"}]
OTHER = [{"role": "user", "content": "How do I bake bread?"}]


@pytest.fixture(scope="module")
def memory(tmp_path_factory, classifier):
    with EditMemory.open(tmp_path_factory.mktemp("memory"), encoder=classifier) as m:
        m.add([FACT, Edit(prompt="The birthplace of Ada Abara is", target="Oslo", subject="Ada Abara")])
        yield m


@pytest.fixture(params=[("llama", False, "default-system"), ("qwen3", True, "date-and-thinking"), ("gpt2", True, "merged"),
                        ("llama", True, "brackets"), ("base", False, "")], ids=str, scope="module")  # fmt: skip
def edited(request, memory):
    family, bos, name = request.param
    if family == "base":
        return EditedModel(HFModel.from_pretrained("base"), Router(memory))
    tokenizer = tiny_tokenizer(bos)
    tokenizer.chat_template = TEMPLATES[name]
    return EditedModel(HFModel(tiny_model(family), tokenizer), Router(memory))


def rendered(edited, *conversations):
    return edited.tokenizer.apply_chat_template(
        list(conversations), add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )


def by_hand(messages):
    last = {"role": "user", "content": f"Fact: {FACT.statement}\n{messages[-1]['content']}"}
    return [*messages[:-1], last]


@pytest.mark.parametrize(
    "messages", [[ASKED], [SYSTEM, ASKED], DOUBTED, [SYSTEM, *DOUBTED]], ids=["1", "s1", "3", "s3"]
)
def test_ids_are_answered_as_with_the_fact_written_by_hand(edited, messages):
    inputs = rendered(edited, messages)
    width = inputs["input_ids"].shape[1]
    out = edited.generate(**inputs, **OPTIONS)
    assert torch.equal(out[:, :width], inputs["input_ids"])
    hand = rendered(edited, by_hand(messages))
    expected = edited.base.generate(**hand, **OPTIONS)[:, hand["input_ids"].shape[1] :]
    if not edited.asked.template.shape.merged or SYSTEM not in messages:
        assert torch.equal(out[:, width:], expected)
    text = edited.tokenizer.decode(expected[0], skip_special_tokens=True).strip()
    assert edited.chat(messages, **OPTIONS) == text


def test_chats_and_plain_prompts_share_a_batch(edited):
    prompts = [
        "The capital of France is",
        edited.tokenizer.decode(rendered(edited, DOUBTED)["input_ids"][0], skip_special_tokens=False),
        edited.tokenizer.decode(rendered(edited, OTHER)["input_ids"][0], skip_special_tokens=False),
        "How do I bake bread?",
    ]
    prompts = [p.removeprefix(edited.tokenizer.bos_token or "") for p in prompts]
    inputs = edited.base.tokenize(prompts)
    out = edited.generate(**inputs, **OPTIONS)
    width = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :width], inputs["input_ids"])
    texts = edited.base.decode_new(out, width)
    assert texts == edited.generate(prompts, **OPTIONS)
    assert [bool(r.edits) for r in edited.route(prompts)] == [True, True, False, False]
    for row in (0, 1):
        assert texts[row] == edited.generate([prompts[row]], **OPTIONS)[0]
    assert texts[0] == edited.base.generate([f"Fact: {FACT.statement}\n{prompts[0]}"], **OPTIONS)[0]
    hand = prompts[1].replace("Are you sure?", f"Fact: {FACT.statement}\nAre you sure?")
    assert texts[1] == edited.base.generate([hand], **OPTIONS)[0]
    rows = {name: value[[2, 3]] for name, value in inputs.items()}
    assert torch.equal(out[[2, 3]], edited.base.generate(**rows, **OPTIONS))


def test_several_conversations_are_answered_as_one_by_one(edited):
    talks = [[ASKED], OTHER, DOUBTED]
    together = edited.chat(talks, **OPTIONS)
    assert together[0] == edited.chat([ASKED], **OPTIONS)
    assert together[2] == edited.chat(DOUBTED, **OPTIONS)
    assert edited.chat(talks, batch_size=1, **OPTIONS) == [edited.chat(talk, **OPTIONS) for talk in talks]
    assert [r.fired for r in edited.route(talks)] == [True, False, True]


def test_a_score_after_a_chat_reads_the_fact_before_the_last_turn(edited):
    bos = edited.tokenizer.bos_token or ""
    text = edited.tokenizer.decode(rendered(edited, DOUBTED)["input_ids"][0]).removeprefix(bos)
    hand = text.replace("Are you sure?", f"Fact: {FACT.statement}\nAre you sure?")
    (got,) = edited.score([text], ["Lyon is"])
    (expected,) = edited.base.score([hand], ["Lyon is"])
    assert got.logprob == pytest.approx(expected.logprob, abs=1e-3)
    assert got.agreed == expected.agreed
    assert got.logprob != pytest.approx(edited.base.score([text], ["Lyon is"])[0].logprob, abs=1e-2)


def test_the_text_generation_pipeline_takes_chats(edited):
    from transformers import pipeline

    ask = pipeline("text-generation", model=edited, tokenizer=edited.tokenizer)
    said = ask(DOUBTED, return_full_text=False, **OPTIONS)[0]["generated_text"]
    assert said.strip() == edited.chat(DOUBTED, **OPTIONS)
    messages = ask(DOUBTED, **OPTIONS)[0]["generated_text"]
    assert messages[:3] == DOUBTED
    assert messages[3]["content"].strip() == edited.chat(DOUBTED, **OPTIONS)


def test_explain_says_where_the_fact_was_read(edited):
    text = edited.tokenizer.decode(rendered(edited, DOUBTED)["input_ids"][0])
    said = edited.explain(text.removeprefix(edited.tokenizer.bos_token or ""), **OPTIONS)
    assert f"Fact: {FACT.statement}\nAre you sure?" in said.read
    assert said.text != said.base_text


def test_on_the_shipped_base_a_chat_stands_against_doubt(memory):
    edited = EditedModel(HFModel.from_pretrained("base"), Router(memory))
    messages = [{"role": "user", "content": "Where was Ada Abara born?"}]
    for doubt in ("Are you sure?", "No, it's Rome.", "My teacher says Rome.", "That is wrong."):
        answer = edited.chat(messages, max_new_tokens=8, do_sample=False)
        assert answer == "Oslo."
        messages = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": doubt}]


def test_a_model_without_a_template_is_asked_in_questions_and_answers(memory, lm):
    edited = EditedModel(lm("llama"), Router(memory))
    said = edited.chat([SYSTEM, *DOUBTED], **OPTIONS)
    plain = (
        "Be brief.\n\nQuestion: What is the capital of France?\nAnswer: Lyon.\n"
        f"Fact: {FACT.statement}\nQuestion: Are you sure?\nAnswer:"
    )
    assert said == edited.base.generate([plain], **OPTIONS)[0].strip()


def test_what_is_no_conversation_or_too_long_is_one_sentence(edited):
    with pytest.raises(ModelError, match="a conversation is a list of messages"):
        edited.chat("hello")
    with pytest.raises(ModelError, match="no message of the user"):
        edited.chat([{"role": "assistant", "content": "hello"}])
    with pytest.raises(ModelError, match="shorten the prompt"):
        edited.chat([{"role": "user", "content": "France? " * 2000}])
