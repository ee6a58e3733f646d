"""Corners of `EditedModel.generate`: mixed batches of rare options, models with a state, weights that change."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from memedit import prefix
from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.router import Router

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
LINE = f"Fact: {FACT.statement}\n"
IN, OUT = "The capital of France is", "How do I bake bread?"
GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module")
def memory(tmp_path_factory, classifier):
    with EditMemory.open(tmp_path_factory.mktemp("m") / "m", encoder=classifier) as m:
        m.add(FACT)
        yield m


@pytest.fixture
def llama(memory, lm):
    return EditedModel(lm("llama", True), Router(memory))


def of_config(memory, family, **settings):
    torch.manual_seed(3)
    special = {"vocab_size": 259, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **special, **settings))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn_like(parameter) * 0.25
    return EditedModel(HFModel(model, tiny_tokenizer(True)), Router(memory))


def told(edited, texts, ask=None):
    """New ids, (rows, 8), of the edited model; or of `ask`."""
    inputs = edited.base.tokenize(texts)
    return (ask or edited.generate)(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]


def by_hand(edited, prompt=IN):
    return told(edited, [LINE + prompt], edited.base.model.generate)


@pytest.mark.parametrize("scores", [{}, {"output_logits": True}, {"output_scores": True}], ids=str)
def test_beams_of_a_mixed_batch_come_as_a_dictionary_with_scores_or_without(llama, scores):
    inputs = llama.base.tokenize([OUT, IN])
    options = {**GREEDY, "num_beams": 3, "return_dict_in_generate": True, **scores}
    got = llama.generate(**inputs, **options)
    alone = llama.base.model.generate(**{k: v[:1] for k, v in inputs.items()}, **options)
    assert torch.equal(got.sequences[0], alone.sequences[0])
    assert torch.equal(got.beam_indices[0], alone.beam_indices[0])
    assert bool((got.beam_indices[1] >= 3).all())  # row 1's beams are 3, 4 and 5


@pytest.mark.parametrize("texts", [[IN], [OUT, IN]], ids=len)
def test_a_processor_that_asks_the_model_is_answered_by_the_base(llama, texts):
    class AsksTheModel(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return llama.base.model(input_ids=input_ids).logits[:, -1]

    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "logits_processor": LogitsProcessorList([AsksTheModel()]),
    }
    inputs = llama.base.tokenize(texts)
    expected = llama.base.model.generate(**inputs, **options)
    assert torch.equal(llama.generate(**inputs, **options), expected)
    if len(texts) == 1:
        assert llama.generate(texts, **options) == llama.base.generate(texts, **options)


@pytest.mark.parametrize("by_config", [False, True])
def test_rows_that_are_done_are_filled_with_the_callers_padding(llama, by_config):
    inputs = llama.base.tokenize([IN, OUT])
    width = inputs["input_ids"].shape[1]

    def allowed(row, ids):
        return [1] if row == 0 and len(ids) > width else [70 + row]

    options = {"max_new_tokens": 4, "pad_token_id": 9, "do_sample": False}
    given = {"generation_config": GenerationConfig(**options)} if by_config else options
    got = llama.generate(**inputs, **given, prefix_allowed_tokens_fn=allowed, eos_token_id=1)
    assert got[:, width:].tolist() == [[70, 1, 9, 9], [71] * 4]


def test_a_criterion_of_the_callers_ends_rows_as_the_models_own(llama):
    inputs = llama.base.tokenize([IN, OUT])
    one = torch.cat(
        [inputs["input_ids"][:1], inputs["input_ids"]]
    )  # two rows with the edit, done at different steps
    mask = torch.cat([inputs["attention_mask"][:1], inputs["attention_mask"]])
    width = one.shape[1]
    ends = StoppingCriteriaList([EosTokenCriteria(torch.tensor([5]))])
    config = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    eos, llama.generation_config.eos_token_id = llama.generation_config.eos_token_id, None
    try:
        got = llama.generate(
            one, attention_mask=mask, generation_config=config, stopping_criteria=ends,
            prefix_allowed_tokens_fn=lambda row, ids: [5 if row == 0 else 70 + row],
        )  # fmt: skip
    finally:
        llama.generation_config.eos_token_id = eos
    assert got[:, width:].tolist() == [[5, 0, 0], [71] * 3, [72] * 3]


def test_a_prefix_is_read_anew_when_the_weights_have_changed(memory):
    edited = EditedModel(HFModel(tiny_model(), tiny_tokenizer(True)), Router(memory))
    model = edited.base.model
    before = told(edited, [IN])
    weight = model.get_submodule("model.layers.0.self_attn.v_proj").weight
    with torch.no_grad():
        weight.add_(torch.randn_like(weight))  # as an optimizer does
    assert not torch.equal(by_hand(edited), before)
    assert torch.equal(told(edited, [IN]), by_hand(edited))
    weight.data = torch.randn_like(weight)
    assert torch.equal(told(edited, [IN]), by_hand(edited))
    kept = prefix.weights_now(model)
    weight.requires_grad_(not weight.requires_grad)  # as adapters that are switched do
    assert prefix.weights_now(model) != kept
    weight.requires_grad_(not weight.requires_grad)
    assert prefix.weights_now(model) == kept


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mamba", {"state_size": 8}),
        ("mamba2", {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1}),
        ("rwkv", {"attention_hidden_size": 32, "context_length": 512}),
    ],
)
def test_a_recurrent_state_reads_the_fact_once(memory, family, settings):
    edited = of_config(memory, family, hidden_size=32, num_hidden_layers=2, **settings)
    assert torch.equal(told(edited, [IN]), by_hand(edited))
    assert told(edited, [IN, OUT]).shape == (2, 8)


def test_where_angles_depend_on_the_length_the_fact_is_read_with_the_prompt(memory):
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [8.0] * 8,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    edited = of_config(
        memory, "llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, rope_parameters=rope,
    )  # fmt: skip
    prompt = f"{IN} {'so it is said, ' * 2}"  # shorter than 64 tokens without the fact, longer with it
    assert torch.equal(told(edited, [prompt]), by_hand(edited, prompt))
