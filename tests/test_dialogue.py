"""A last turn in the light of those before it: on our own small conversations, by words alone and through the router."""

from __future__ import annotations

import pytest
from dialogue_cases import (
    CHANGES,
    CHANGES_HARD,
    CHANGES_SEEN,
    CONTEXTS,
    PEOPLE,
    PUSHBACKS,
    PUSHBACKS_SEEN,
    REFERENCES,
)

from memedit.chat import Conversation, Turn
from memedit.chat.dialogue import meant, steps
from memedit.chat.doubts import doubts
from memedit.edit import Edit
from memedit.memory import EditMemory
from memedit.router import Router
from memedit.subjects import content


def conversation(*texts):
    return Conversation(tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)))


def filled(text, edit):
    return text.format(old=edit.old, new=edit.target, subject=edit.subject)


@pytest.fixture(scope="module")
def router(tmp_path_factory, classifier):
    with EditMemory.open(tmp_path_factory.mktemp("memory"), encoder=classifier) as memory:
        memory.add([edit for edit, _, _ in CONTEXTS])
        yield Router(memory)


@pytest.fixture(scope="module")
def people(tmp_path_factory, classifier):
    with EditMemory.open(tmp_path_factory.mktemp("memory"), encoder=classifier) as memory:
        memory.add(PEOPLE)
        yield Router(memory)


def judged(lasts, claimed=True):
    """Whether each last turn is taken for a doubt in each context, by words alone."""
    return [
        doubts(
            filled(last, edit),
            content(question) | content(answer),
            [edit.target, edit.subject, *([edit.old] if claimed else [])],
        )
        for edit, question, answer in CONTEXTS
        for last in lasts
    ]


@pytest.mark.parametrize("old_known", [True, False])
def test_doubts_are_told_from_changes_of_topic(old_known):
    assert all(judged(PUSHBACKS_SEEN, old_known))
    kept = judged(PUSHBACKS, old_known)
    assert sum(kept) >= 0.95 * len(kept)
    assert not any(judged(CHANGES_SEEN, old_known))
    assert sum(judged(CHANGES, old_known)) <= 0.01 * len(kept)
    assert sum(judged(CHANGES_HARD, old_known)) <= 0.1 * len(CONTEXTS) * len(CHANGES_HARD)


def test_a_doubt_keeps_what_was_stated_and_a_change_of_topic_does_not(router):
    lasts = PUSHBACKS_SEEN[::3] + CHANGES_SEEN[::3]
    for edit, question, answer in CONTEXTS[:3]:
        routes = router.route_chat([conversation(question, answer, filled(last, edit)) for last in lasts])
        fired = [[c.edit for c in route.edits] for route in routes]
        assert fired == [[edit]] * 10 + [[]] * 10


def test_what_refers_back_is_asked_as_a_sentence_of_its_own(people):
    routes = people.route_chat([conversation(*before, last) for before, last, _ in REFERENCES])
    for (_, last, wanted), route in zip(REFERENCES, routes, strict=True):
        # "What else did Christopher Marlowe write?" needs the fact that he wrote Hamlet on the way: a ripple may fire
        direct = [c.edit.ref for c in route.edits if c.kind == "direct"]
        assert direct == ([wanted] if wanted else []), last


def test_a_route_says_what_it_was_taken_for(people):
    before = ("Who was president of France in 2020?", "Emmanuel Macron.")
    (route,) = people.route_chat([conversation(*before, "Who is his wife?")])
    assert route.query == "Who is Emmanuel Macron's wife?"
    assert route.edits[0].reason.startswith(
        'in the light of an earlier turn, as "Who is Emmanuel Macron\'s wife?": '
    )
    assert route.edits[0] in route.nearest
    (doubted,) = people.route_chat(
        [conversation("Who is the wife of Emmanuel Macron?", "X.", *["No.", "Yes."] * 3, "Sure?")]
    )
    assert doubted.edits[0].reason.startswith(
        "in the light of an earlier turn, which this one takes up: direct"
    )
    assert doubted.edits[0].reason.count("takes up") == 1


def test_a_topic_is_left_and_taken_up_again(router):
    q, a = "What is the capital of France?", "Lyon."
    egg = ("How do I boil an egg?", "Eight minutes.")
    for texts, targets in (
        ((q, a, *egg, "Are you sure?"), []),
        ((q, a, *egg, "And which city is France's capital?"), ["Lyon"]),
        ((q, a, "Thanks!", "You are welcome.", "Are you sure, though?"), ["Lyon"]),
        ((q, a, "What about Norway?", "Oslo.", "Really?"), []),
        ((*egg, q, a, *["That's wrong.", "It is Lyon."] * 10, "It's Paris!"), ["Lyon"]),
        ((q, a, "Thanks!"), []),
        (
            (q, a, "I was there and liked it a great deal.", "I see.", "So, are you sure?"),
            ["Lyon"],
        ),  # in passing
        ((q, a, "I need a recipe for lentil soup.", "I see.", "Are you sure?"), []),
    ):
        (route,) = router.route_chat([conversation(*texts)])
        assert [c.edit.target for c in route.edits] == targets, texts


def test_an_edit_that_was_taken_back_is_not_stated_again(tmp_path, classifier):
    with EditMemory.open(tmp_path / "m", encoder=classifier) as memory:
        memory.add(Edit(prompt="The capital of France is", target="Lyon", subject="France"))
        talk = conversation("What is the capital of France?", "Lyon.", "Are you sure?")
        assert Router(memory).route_chat([talk])[0].fired
        memory.undo()
        assert not Router(memory).route_chat([talk])[0].fired


def test_one_turn_alone_is_routed_as_it_stands(router):
    texts = ["What is the capital of France?", "Who is his wife?", "Are you sure?"]
    for text, route in zip(texts, router.route(texts), strict=True):
        (alone,) = router.route_chat([conversation(text)])
        assert [(c.id, c.reason) for c in alone.nearest] == [(c.id, c.reason) for c in route.nearest]
        assert (alone.query, alone.threshold) == (route.query, route.threshold)
        assert [c.id for c in alone.edits] == [c.id for c in route.edits]


def test_a_merged_system_prompt_hides_no_question(router):
    text = "You are a pirate.\n\nBe rude.\n\nWhat is the capital of France?"
    (route,) = router.route_chat([Conversation((Turn("user", text),), merged="\n\n")])
    assert [c.edit.target for c in route.edits] == ["Lyon"]


def test_long_talk_goes_back_to_what_it_is_about_and_no_further():
    texts = [
        "Who is Ada Park?",
        "A CEO.",
        "What is the capital of France?",
        "Lyon.",
        *["No.", "Yes."] * 3,
        "Why?",
    ]
    assert [s.text for s in steps(conversation(*texts), lambda _: [])] == [
        "What is the capital of France?", "No.", "No.", "No.", "Why?",
    ]  # fmt: skip


def test_meanings_are_sentences():
    names = ["Acme"]
    assert "Who is Acme's CEO?" in meant("Who's its CEO?".replace("Who's", "Who is"), "", names)
    assert (
        meant("And of Italy?", "What is the capital of France?", ["France"])[0]
        == "What is the capital of Italy?"
    )
    assert meant("How old is she?", "", ["Ada Park"]) == ["How old is Ada Park?"]
    assert meant("Who is the president?", "", ["France"]) == ["Who is the president of France?"]
    assert meant("Is there life on Mars?", "", ["France"]) == []
