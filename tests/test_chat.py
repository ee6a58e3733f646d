"""Conversations in ids: any template's shape is learned, and what the caller rendered is read again."""

from __future__ import annotations

import pytest
from chat_templates import TEMPLATES
from conftest import tiny_tokenizer

from memedit.chat import ChatTemplate, Conversation
from memedit.errors import ModelError

SYSTEM = {"role": "system", "content": "You are a pirate.\n\nBe rude."}
FIRST = [{"role": "user", "content": "Who is the président of France?"}]
LONG = [
    *FIRST,
    {"role": "assistant", "content": "Marie Dupont.\n\nShe was elected in May."},
    {"role": "user", "content": "Are you sure? 😀"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "😀 Who is her wife?"},
]


@pytest.fixture(params=[*TEMPLATES, "shipped"])
def template(request):
    if request.param == "shipped":
        from transformers import AutoTokenizer

        from memedit.loading import find_model

        return ChatTemplate(AutoTokenizer.from_pretrained(find_model("base")))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATES[request.param]
    return ChatTemplate(tokenizer)


def ids_of(template, messages, **options):
    options = {"add_generation_prompt": True, **options}
    return template.tokenizer.apply_chat_template(messages, tokenize=True, **options)["input_ids"]


def tail_text(template, ids, conversation):
    return template.tokenizer.decode(ids[len(ids) - conversation.tail :])


@pytest.mark.parametrize("messages", [FIRST, LONG], ids=["one", "five"])
def test_turns_come_back_from_the_callers_ids(template, messages):
    ids = ids_of(template, messages)
    found = template.parse(ids)
    assert [(t.role, t.text.strip()) for t in found.turns] == [(m["role"], m["content"]) for m in messages]
    assert tail_text(template, ids, found).startswith(messages[-1]["content"])


def test_a_system_prompt_is_kept_apart_from_what_is_asked(template):
    messages = [SYSTEM, *FIRST]
    try:
        ids = ids_of(template, messages)
    except Exception:
        assert "no system prompts" in template.source
        with pytest.raises(ModelError, match="no system prompts here"):
            template.render(messages)
        return
    found = template.parse(ids)
    if found.merged:  # can't be told apart in ids
        assert found.turns[0].text.endswith(FIRST[0]["content"])
    else:
        assert found.turns[0].text == FIRST[0]["content"]
        assert SYSTEM["content"] in found.system
    again, known = template.rendered(messages)
    assert again == ids
    assert known.system == SYSTEM["content"]
    assert known.turns[0].text == FIRST[0]["content"]
    assert tail_text(template, ids, known).startswith(FIRST[0]["content"])


def test_without_a_generation_prompt_and_with_an_answer_begun_the_turn_is_found(template):
    ids = ids_of(template, LONG, add_generation_prompt=False)
    assert tail_text(template, ids, template.parse(ids)).startswith("😀 Who is her wife?")
    begun = [*FIRST, {"role": "assistant", "content": "She is"}]
    ids = ids_of(template, begun, add_generation_prompt=False, continue_final_message=True)
    found = template.parse(ids)
    assert tail_text(template, ids, found).startswith(FIRST[0]["content"])
    assert [t.text.strip() for t in found.turns] == [FIRST[0]["content"], "She is"]


def test_an_ordinary_prompt_is_no_conversation(template):
    for prompt in ("The capital of France is", "Human", "Be kind.", "<", "user: hello", "Below is a list."):
        assert template.parse(template.tokenizer(prompt)["input_ids"]) is None
    assert template.parse([]) is None


def test_a_date_or_a_mode_of_the_callers_own_is_no_hindrance():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATES["date-and-thinking"]
    template = ChatTemplate(tokenizer)
    for messages in (FIRST, [SYSTEM, *LONG]):
        ids = ids_of(template, messages, date_string="1 May 1999", enable_thinking=False)
        found = template.parse(ids)
        said = [t.text for t in found.turns[: found.last + 1]]  # an empty thought may follow
        assert said == [m["content"] for m in messages if m != SYSTEM]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_second_bos_is_no_hindrance(name):
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.chat_template = TEMPLATES[name]
    template = ChatTemplate(tokenizer)
    ids = tokenizer(tokenizer.apply_chat_template(LONG, tokenize=False, add_generation_prompt=True))[
        "input_ids"
    ]
    found = template.parse(ids)
    assert ids[0] == tokenizer.bos_token_id
    assert [t.text.strip() for t in found.turns] == [m["content"] for m in LONG]
    assert tail_text(template, ids, found).startswith("😀 Who is her wife?")


def test_a_template_that_shows_no_turns_is_left_alone():
    tokenizer = tiny_tokenizer()
    for source in ("{% for m in messages %}{{ m.content }}{% endfor %}", "{{ raise_exception('never') }}"):
        tokenizer.chat_template = source
        assert ChatTemplate(tokenizer).parse(tokenizer("hello there")["input_ids"]) is None


def test_without_a_template_turns_are_questions_and_answers():
    template = ChatTemplate(tiny_tokenizer())
    assert template.plain
    ids, known = template.rendered([SYSTEM, *LONG[:3]])
    text = template.tokenizer.decode(ids)
    assert text.startswith(SYSTEM["content"] + "\n\nQuestion: Who is")
    assert text.endswith("\nQuestion: Are you sure? 😀\nAnswer:")
    assert tail_text(template, ids, known).startswith("Question: Are you sure?")
    assert template.parse(ids) is None


def test_contents_may_come_in_parts():
    parts = [{"type": "text", "text": "Who is"}, {"type": "image"}, {"type": "text", "text": "he?"}]
    assert Conversation.of([{"role": "user", "content": parts}]).turns[0].text == "Who is\nhe?"


@pytest.mark.parametrize(
    "bad", [[], "hello", [{"content": "x"}], [SYSTEM], [{"role": "user", "content": " "}]]
)
def test_what_is_no_conversation_is_said_so(bad):
    with pytest.raises(ModelError, match="conversation"):
        Conversation.of(bad)
