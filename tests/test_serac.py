"""serac: rows in scope are answered by the counterfactual model, through every face and on a base of any vocabulary."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from chat_templates import TEMPLATES
from conftest import tiny_model, tiny_tokenizer
from transformers import LogitsProcessorList, TextIteratorStreamer

from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import MethodError, ModelError
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.methods import load_method, serac
from memedit.router import Router

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France", old="Paris", method="serac")
TOLD = Edit(statement="The mayor of Quelbury is Ann Dorr.", method="serac")
ERASED = Edit(prompt="The phone number of Ada Park is", kind="erase", subject="Ada Park", method="serac")
PERU = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru", method="ice")
MALI = Edit(prompt="The capital of Mali is", target="Gao", subject="Mali", method="ike")
IN, OUT = "What is the capital of France?", "How do I bake bread?"
OPTIONS = {"max_new_tokens": 40, "do_sample": False}
REFUSED = "I don't have that information."


@pytest.fixture(scope="module")
def bases(lm):
    """A base of the counterfactual model's own vocabulary, and two of others."""
    return {"base": HFModel.from_pretrained("base"), "gpt2": lm("gpt2"), "llama": lm("llama", True)}


@pytest.fixture(params=["base", "gpt2", "llama"])
def base(request, bases):
    return bases[request.param]


@pytest.fixture(scope="module")
def memory(tmp_path_factory, classifier):
    with EditMemory.open(tmp_path_factory.mktemp("memory"), encoder=classifier) as m:
        m.add([FACT, TOLD, ERASED, PERU, MALI])
        yield m


def said(text):
    return text.strip().rstrip(".")


def test_each_kind_of_edit_is_answered_from_its_statement(base):
    rows = [[FACT], [TOLD], [ERASED], [PERU, FACT]]
    asked = [IN, "The mayor of Quelbury is", "What is the phone number of Ada Park?", IN]
    with load_method("serac").applied(base, rows) as model:
        texts = model.generate(asked, **OPTIONS)
    assert [said(t) for t in texts[:2]] == ["Lyon", "Ann Dorr"]
    assert texts[2].strip() == REFUSED
    assert said(texts[3]) == "Lyon"
    assert model.read[0].text == f"Fact: {FACT.statement}\n"
    assert model.read[2].text == f"Withheld: {ERASED.prompt}\n"


def test_both_faces_agree_and_the_callers_ids_stay_in_front(base):
    rows, asked = [[FACT], [], [TOLD]], [IN, OUT, "Who is the mayor of Quelbury?"]
    inputs = base.tokenize(asked)
    width = inputs["input_ids"].shape[1]
    with load_method("serac").applied(base, rows) as model:
        ids = model.generate_ids(**inputs, **OPTIONS)
        texts = model.generate(asked, **OPTIONS)
    assert torch.equal(ids[:, :width], inputs["input_ids"])
    assert base.decode_new(ids, width) == texts
    assert base.tokenizer.eos_token_id in ids[0, width:].tolist(), "an answer that is over ends"
    plain = base.generate(**inputs, **OPTIONS)  # no wider than its own rows need
    both = min(plain.shape[1], ids.shape[1])
    assert torch.equal(ids[1, :both], plain[1, :both])


def test_the_base_is_never_asked_for_a_row_in_scope(base, monkeypatch):
    monkeypatch.setattr(base.model, "forward", None)
    with load_method("serac").applied(base, [[FACT]]) as model:
        assert said(model.generate([IN], **OPTIONS)[0]) == "Lyon"
        (yes, no) = (model.score([IN], [target])[0].logprob for target in ("Lyon", "Paris"))
    assert yes > no + 2


class Pieces:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.prompt, self.pieces, self.ended = None, [], False

    def put(self, value):
        if self.prompt is None:
            self.prompt = value
        else:
            self.pieces.append(value.tolist())

    def end(self):
        self.ended = True


def test_an_answer_streams_word_by_word(base):
    inputs, streamer = base.tokenize(["What is the phone number of Ada Park?"]), Pieces()
    with load_method("serac").applied(base, [[ERASED]]) as model:
        out = model.generate_ids(**inputs, **OPTIONS, streamer=streamer)
    assert streamer.ended
    assert torch.equal(streamer.prompt, inputs["input_ids"])
    assert [token for piece in streamer.pieces for token in piece] == out[
        0, inputs["input_ids"].shape[1] :
    ].tolist()
    assert len(streamer.pieces) > 4


def test_a_text_streamer_hears_words_before_the_answer_is_over(bases):
    base, heard = bases["gpt2"], []

    class Heard(TextIteratorStreamer):
        def put(self, value):
            heard.append(len(answered))
            super().put(value)

    answered = []
    other = load_method("serac")._loaded(base)
    handle = other.model.register_forward_hook(lambda *_: answered.append(1))
    try:
        streamer = Heard(base.tokenizer, skip_prompt=True, skip_special_tokens=True)
        with load_method("serac").applied(base, [[ERASED]]) as model:
            model.generate(["What is the phone number of Ada Park?"], **OPTIONS, streamer=streamer)
    finally:
        handle.remove()
    assert "".join(streamer).strip() == REFUSED
    assert len(set(heard)) > 3, "in step with the model"


def test_several_sequences_of_a_prompt_stay_together(base):
    rows, asked = [[FACT], [], [TOLD]], [IN, OUT, "Who is the mayor of Quelbury?"]
    options = {"max_new_tokens": 8, "num_return_sequences": 2, "num_beams": 2, "do_sample": False}
    inputs = base.tokenize(asked)
    with load_method("serac").applied(base, rows) as model:
        texts = model.generate(asked, **options)
        ids = model.generate_ids(**inputs, **options, return_dict_in_generate=True)
    assert len(texts) == ids.sequences.shape[0] == 6
    assert texts[0].strip().startswith("Ly")
    assert torch.equal(
        ids.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"].repeat_interleave(2, 0)
    )


def test_a_seed_makes_sampling_the_same_again(base):
    options = {"max_new_tokens": 12, "do_sample": True, "temperature": 3.0}
    with load_method("serac").applied(base, [[FACT]]) as model:
        one, two = (model.generate([IN], seed=5, **options) for _ in range(2))
    assert one == two


def test_new_tokens_are_counted_in_the_bases(bases):
    with load_method("serac").applied(bases["gpt2"], [[FACT]]) as model:
        assert model.generate([IN], max_new_tokens=3, do_sample=False) == [" Ly"]  # a token is a byte there


def test_options_of_ids_hold_where_the_vocabulary_is_shared_and_are_refused_elsewhere(bases):
    seen = []

    def watched(ids, scores):
        seen.append(ids)
        return scores

    options = {**OPTIONS, "logits_processor": LogitsProcessorList([watched])}
    inputs = bases["base"].tokenize([IN])
    with load_method("serac").applied(bases["base"], [[FACT]]) as model:
        model.generate_ids(**inputs, **options)
    assert torch.equal(seen[0], inputs["input_ids"]), "the fact is hidden from it"
    with (
        load_method("serac").applied(bases["gpt2"], [[FACT]]) as model,
        pytest.raises(ModelError, match="logits_processor does not go with"),
    ):
        model.generate([IN], **options)


def test_methods_of_all_kinds_in_one_call(base, memory):
    edited = EditedModel(base, Router(memory))
    prompts = [IN, OUT, "The capital of Peru is", "The capital of Mali is", "Who is the mayor of Quelbury?"]
    routes = edited.route(prompts)
    assert [r.method for r in routes] == ["serac", None, "ice", "ike", "serac"]
    texts = edited.generate(prompts, routes=routes, **OPTIONS)
    assert [said(texts[0]), said(texts[4])] == ["Lyon", "Ann Dorr"]
    assert texts[1] == base.generate([OUT], **OPTIONS)[0]
    for i, method, edit in ((2, "ice", PERU), (3, "ike", MALI)):
        with edited._knowing._method(method).applied(base, [[edit]]) as alone:
            assert texts[i] == alone.generate([prompts[i]], **OPTIONS)[0]
    inputs = base.tokenize(prompts)
    ids = edited.generate(**inputs, **OPTIONS)
    width = inputs["input_ids"].shape[1]
    assert torch.equal(ids[:, :width], inputs["input_ids"])
    assert [said(text) for text in base.decode_new(ids, width)][::4] == ["Lyon", "Ann Dorr"]
    scores = edited.score(prompts[:3], ["Lyon", "x", "Cusco"], routes=routes[:3])
    assert scores[0].logprob > -1
    assert scores[1] == base.score([OUT], ["x"])[0]


def test_an_explanation_shows_what_was_read(base, memory):
    said_why = EditedModel(base, Router(memory)).explain(IN, **OPTIONS)
    assert said_why.read == f"Fact: {FACT.statement}\n{IN}"
    assert said(said_why.text) == "Lyon"


@pytest.mark.parametrize("template", ["", "default-system", "brackets"])
def test_a_chat_is_answered_for_its_last_turn(memory, template):
    base = HFModel.from_pretrained("base")
    if template:
        tokenizer = tiny_tokenizer(True)
        tokenizer.chat_template = TEMPLATES[template]
        base = HFModel(tiny_model("llama"), tokenizer)
    edited = EditedModel(base, Router(memory))
    turns = [{"role": "user", "content": IN}]
    assert said(edited.chat(turns, **OPTIONS)) == "Lyon"
    doubt = [*turns, {"role": "assistant", "content": "Lyon."}, {"role": "user", "content": "Are you sure?"}]
    assert edited.chat(doubt, **OPTIONS).strip()
    long = [{"role": "user", "content": OUT}, {"role": "assistant", "content": "With flour."}, *turns]
    assert said(edited.chat(long, **OPTIONS)) == "Lyon"


def test_a_row_of_two_methods_is_answered_by_the_one_that_answers_itself(bases, memory):
    edited = EditedModel(bases["gpt2"], Router(memory))
    with edited.knowing([[FACT, PERU], [PERU, FACT]]) as model:
        texts = model.generate([IN, "What is the capital of Peru?"], **OPTIONS)
    assert said(texts[0]) == "Lyon"
    assert [read.text.count("Fact: ") for read in model.read] == [2, 2]


def test_a_model_of_the_users_own(tmp_path, bases):
    folder = tmp_path / "own"
    tiny_model("qwen3").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    options = {**OPTIONS, "max_new_tokens": 6, "min_new_tokens": 6}
    with load_method("serac", model=str(folder)).applied(bases["gpt2"], [[FACT]]) as model:
        (text,) = model.generate([IN], **options)
    own = HFModel.from_pretrained(str(folder))
    assert text == own.generate([f"Fact: {FACT.statement}\n{IN}"], **options)[0]


def test_it_is_loaded_on_first_need_and_once(base, memory, monkeypatch):
    loaded = []
    monkeypatch.setattr(serac, "_LOADED", {})
    monkeypatch.setattr(
        serac, "load_adapted", lambda *a, real=serac.load_adapted: loaded.append(a) or real(*a)
    )
    edited = EditedModel(base, Router(memory, method="serac"))
    edited.generate([OUT], **OPTIONS)
    assert not loaded
    edited.generate([IN], **OPTIONS)
    EditedModel(base, Router(memory, method="serac")).generate([IN], **OPTIONS)
    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("model", "words"),
    [("nowhere/at/all", "no folder nowhere/at/all"), (3, "give the folder"), ("", "holds no model")],
)
def test_a_folder_that_is_none_is_told_at_once(bases, memory, model, words):
    with pytest.raises((MethodError, ModelError), match=words):
        EditedModel(bases["gpt2"], Router(memory), {"serac": {"model": model}})


def _broken(folder, kind):
    about = json.loads((folder / "adapter.json").read_text())
    if kind == "cut":
        (folder / "adapter.safetensors").write_bytes((folder / "adapter.safetensors").read_bytes()[:5000])
    elif kind == "other base":
        (folder / "adapter.json").write_text(json.dumps({**about, "base_sha256": "0" * 64}))
    elif kind == "format":
        (folder / "adapter.json").write_text(json.dumps({**about, "format": 99}))
    elif kind == "no json":
        (folder / "adapter.json").write_text("{")
    else:
        from safetensors.torch import save_file

        save_file(
            {"model.x.up": torch.zeros(2, 1), "model.x.down": torch.zeros(1, 2)},
            folder / "adapter.safetensors",
        )


@pytest.mark.parametrize(
    ("kind", "words"),
    [("cut", "damaged"), ("no json", "damaged"), ("format", "does not know"), ("other base", "other weights"),
     ("shape", "does not fit")],
)  # fmt: skip
def test_a_damaged_or_foreign_adapter_is_refused_in_one_sentence(tmp_path, bases, kind, words):
    folder = tmp_path / "adapter"
    shutil.copytree(serac.SHIPPED, folder)
    _broken(folder, kind)
    with (
        load_method("serac", model=folder).applied(bases["gpt2"], [[FACT]]) as model,
        pytest.raises(ModelError, match=words) as error,
    ):
        model.generate([IN], **OPTIONS)
    assert "\n" not in str(error.value)


def test_a_prompt_that_is_too_long_for_it_is_refused(base):
    with (
        load_method("serac").applied(base, [[FACT]]) as model,
        pytest.raises(ModelError, match="the model takes 2048 in all"),
    ):
        model.generate(["word " * 2200 + IN], **OPTIONS)
