"""mello: questions taken apart, each step looked up in the memory; its plans, its fallbacks, and every face of generate."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import MethodError
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.methods import _chains, _plans, load_method
from memedit.router import Router

GATE = Edit(prompt="The author of The Copper Gate is", target="Ann Dorr", subject="The Copper Gate")
ANN = Edit(prompt="The country of citizenship of Ann Dorr is", target="Peru", subject="Ann Dorr")
PERU = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
HIDDEN = Edit(prompt="The phone number of Ann Dorr is", kind="erase", subject="Ann Dorr")
TOWN = Edit(statement="The mayor of Quelbury is Ann Dorr.")
TWO = "What is the capital of the country of citizenship of Ann Dorr?"
THREE = "What is the capital of the country of citizenship of the author of The Copper Gate?"
OPTIONS = {"max_new_tokens": 24, "do_sample": False}


@pytest.fixture(scope="module")
def memory(tmp_path_factory, classifier):
    with EditMemory.open(tmp_path_factory.mktemp("memory"), encoder=classifier) as m:
        m.add([GATE, ANN, PERU, HIDDEN, TOWN])
        yield m


@pytest.fixture
def edited(memory, lm):
    return EditedModel(lm("qwen3"), Router(memory, method="mello"))


# -- plans by words


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("What is the nationality of the author of Misery?", "the author of Misery"),
        ("The nationality of the author of Misery is", "the author of Misery"),
        (THREE, "the author of The Copper Gate"),
        ("In which city is the maker of Lantern 98 based?", "the maker of Lantern 98"),
        ("Who led the country where “blue jugs” began?", "the country where “blue jugs” began"),
        ("Which tongue is used in the town that Ruven Aldo left?", "the town that Ruven Aldo left"),
        ("What is Misery's author's home town?", "Misery's author"),
        ("Who was the wife of the mayor of the University of Quel?", "the mayor of the University of Quel"),
        ("What is the capital of France?", None),
        ("The capital of France is", None),
        ("Who is Ann Dorr's brother?", None),
        ("How do I bake bread?", None),
        ("What is the best way to store candles?", None),
        ("", None),
    ],
)
def test_the_innermost_description_is_found(text, step):
    found = _chains.innermost(text)
    assert (found and text[slice(*found)]) == step


def test_a_chain_is_put_together_from_the_inside_out():
    text = THREE
    for answer in ("Ann Dorr", "Peru"):
        span = _chains.innermost(text)
        text = _chains.put_in(text, span, answer)
    assert text == "What is the capital of Peru?"
    assert _chains.innermost(text) is None


# -- plans by the model


class Planner(HFModel):
    """A base that plans by the book: it says what a table has for the end of a text, and nothing sensible otherwise."""

    def __init__(self, table):
        super().__init__(tiny_model("gpt2"), tiny_tokenizer())
        self.table, self.asked = table, []
        self.model.config.n_positions = 4096  # a plan in bytes is long, and no weight is asked for it

    @property
    def context_length(self):
        return None

    def generate(self, prompts=None, **options):
        if not isinstance(prompts, list) or "stop_strings" not in options:
            return super().generate(prompts, **options)
        self.asked += prompts
        ends = [
            (key, p.rsplit("\n", 2)[-2:] if p.endswith("\n") else p.rsplit("\n", 1)[-1:])
            for p in prompts
            for key in [p]
        ]
        return [self.table.get("\n".join(end).strip(), "?!") for _, end in ends]


PLAN = {
    f"Question: {THREE}": "Sub-question: Who is the author of The Copper Gate?\n",
    "Sub-question: Who is the author of The Copper Gate?": "",
    "So: Ann Dorr": "Sub-question: What is the country of citizenship of Ann Dorr?\n",
    "So: Peru": "Sub-question: What is the capital of Peru?\n",
    "So: Cusco": "Final answer: Cusco\n",
    "Answer:": " Moe Lim\n",
}  # fmt: skip


def test_the_model_plans_and_the_memory_overrules_its_answers(memory):
    base = Planner(PLAN)
    edited = EditedModel(base, Router(memory, method="mello"), {"mello": {"plan": "model"}})
    said = edited.explain(THREE, **OPTIONS)
    assert said.text.strip() == "Cusco"
    assert [step.split(" -> ")[-1].split(" (")[0] for step in said.steps[:-1]] == [
        "Ann Dorr",
        "Peru",
        "Cusco",
    ]
    assert all("the model: Moe Lim" in step for step in said.steps[:-1])
    assert said.steps[-1] == "final answer: Cusco"
    assert said.read.startswith(f"Fact: {_chains.as_statement(THREE, 'Cusco')}\n")
    plan = base.asked[-1]
    assert plan.startswith(_plans.TEMPLATE)
    assert "Answer: Moe Lim\nMemory: The capital of Peru is Cusco.\nSo: Cusco\n" in plan


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({}, "no plan could be read"),
        ({**PLAN, "So: Peru": "I don't know.\n"}, "no plan could be read"),
        ({**PLAN, "So: Ann Dorr": PLAN[f"Question: {THREE}"]}, "the plan goes in circles"),
        ({**PLAN, "So: Cusco": "Sub-question: What is next?\n"}, "no final answer within 3 hops"),
    ],
)  # fmt: skip
def test_a_plan_that_fails_is_answered_in_context_and_counted(lm, table, why):
    base = Planner(table)
    mello = load_method("mello", plan="model", hops=3)
    edits = [GATE, ANN, PERU]
    with mello.applied(base, [edits]) as model:
        (text,) = model.generate([THREE], **OPTIONS)
    with load_method("ice").applied(base, [edits]) as model:
        assert model.generate([THREE], **OPTIONS) == [text]
    assert mello.counts == {why: 1}


def test_lines_of_a_plan_are_read_strictly():
    assert _plans.planned("\n Sub-question:  Who is it? \nAnswer: x") == ("ask", "Who is it?")
    assert _plans.planned("Final answer: The Tave.") == ("final", "The Tave")
    for line in (
        "",
        "Sub-question: it",
        "Sub-question: ?",
        "Answer: Rome",
        "Final answer: ...",
        "So I think: Rome",
    ):
        assert _plans.planned(line) is None
    assert _plans.short("J. K. Quell. She wrote it.") == "J. K. Quell"
    assert _plans.short("x" * 300) is None


# -- with the memory


def test_each_step_is_looked_up_and_the_final_answer_is_said(edited):
    texts = edited.generate([THREE, "How do I bake bread?", TWO], **OPTIONS)
    assert [texts[0].strip(), texts[2].strip()] == ["Cusco", "Cusco"]
    assert texts[1] == edited.base.generate(["How do I bake bread?"], **OPTIONS)[0]


def test_a_query_that_the_router_lets_go_is_asked_step_by_step(edited, monkeypatch):
    query = "Who leads the club of the mayor of Quelbury?"
    route = edited.router.route
    # Whatever the classifier thinks of the whole: here it says no to it, and to nothing else.
    monkeypatch.setattr(edited.router, "false_fire_rate", None)

    def no(queries, at=None):
        return [
            r if r.query != query else type(r)(query, (), r.nearest, 1.0, None, at)
            for r in route(queries, at)
        ]

    monkeypatch.setattr(edited.router, "route", no)
    (verdict,) = edited.route([query])
    assert [c.edit.statement for c in verdict.edits] == [TOWN.statement]
    assert verdict.method == "mello"
    assert "a step on the way asks for it" in verdict.edits[0].reason
    edited._knowing._method("mello").out = False
    assert not edited.route([query])[0].fired
    quiet = EditedModel(edited.base, edited.router)
    quiet.router.method = "ice"
    assert not quiet.route([query])[0].fired, "only where it is the default method"


def test_where_no_step_meets_the_memory_the_answer_is_the_bases(edited):
    query = "What is the capital of the country of origin of Toyota?"
    assert not edited.route([query])[0].fired
    assert edited.generate([query], **OPTIONS) == edited.base.generate([query], **OPTIONS)


def test_what_is_withheld_stays_withheld(edited):
    said = edited.explain("What is the phone number of the author of The Copper Gate?", **OPTIONS)
    assert f"Withheld: {HIDDEN.prompt}\n" in said.read
    assert said.steps[-1] == "answered in context: what a hop asks for is withheld"


def test_a_question_of_one_hop_is_answered_as_ice_would(edited):
    ice = EditedModel(edited.base, Router(edited.memory, method="ice"))
    query = "What is the capital of Peru?"
    assert edited.generate([query], **OPTIONS) == ice.generate([query], **OPTIONS)
    assert edited.explain(query, **OPTIONS).steps == ("answered in context: the question is one hop",)


def test_ids_streams_beams_chats_and_scores(edited):
    base = edited.base
    inputs = base.tokenize([TWO, "How do I bake bread?"])
    width = inputs["input_ids"].shape[1]
    out = edited.generate(**inputs, **OPTIONS)
    assert torch.equal(out[:, :width], inputs["input_ids"])
    assert base.decode_new(out[:1], width)[0].strip() == "Cusco"

    class Pieces(list):
        def put(self, value):
            self.append(value)

        def end(self):
            self.append(None)

    pieces = Pieces()
    edited.generate([TWO], streamer=pieces, **OPTIONS)
    assert base.tokenizer.decode(torch.cat(pieces[1:-1]), skip_special_tokens=True).strip() == "Cusco"
    many = edited.generate([TWO, TWO], **OPTIONS, num_return_sequences=2, num_beams=2)
    assert [many[0].strip(), many[2].strip()] == ["Cusco", "Cusco"]
    sampled = edited.generate([TWO], max_new_tokens=8, do_sample=True, num_return_sequences=2, seed=3)
    assert [text.strip() for text in sampled] == ["Cusco", "Cusco"]
    assert edited.chat([{"role": "user", "content": TWO}], max_new_tokens=12, do_sample=False) == "Cusco"
    assert len(edited.generate([TWO, THREE, TWO], batch_size=2, **OPTIONS)) == 3
    (score,) = edited.score([TWO], ["Cusco"])
    stated = _chains.as_statement(TWO, "Cusco")
    assert score.logprob == pytest.approx(
        base.score([f"Fact: {stated}\n{TWO}"], ["Cusco"])[0].logprob, abs=1e-3
    )


def test_a_fact_that_does_not_hold_yet_is_not_looked_up(tmp_path, classifier, lm):
    later = Edit(prompt=PERU.prompt, target="Lima", subject="Peru", valid_from="2030-01-01")
    with EditMemory.open(tmp_path / "m", encoder=classifier) as m:
        m.add([ANN, later])
        edited = EditedModel(lm("qwen3"), Router(m, method="mello"))
        now, then = (edited.explain(TWO, at=at, **OPTIONS).steps for at in ("2026-01-01", "2031-01-01"))
    assert "memory: nothing" in now[1]
    assert then[-1] == "final answer: Lima"


def test_bad_settings_are_refused_in_one_sentence():
    for settings, words in (
        ({"plan": "guess"}, "must be model or chain"),
        ({"hops": 0}, "from 1 to 16"),
        ({"out": "no"}, "true or false"),
        ({"say": "it"}, "answer or fact"),
        ({"template": "Think."}, "Sub-question:"),
    ):
        with pytest.raises(MethodError, match=words):
            load_method("mello", **settings)
