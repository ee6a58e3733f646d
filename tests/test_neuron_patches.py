"""T-Patcher and KN: neurons that are added, and neurons that are found."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.layout import Layout, weight
from memedit.lm import HFModel
from memedit.methods import load_method
from memedit.methods._attribution import attributions, said_with
from memedit.methods._effects import Swapped
from memedit.methods._locate import ask
from memedit.methods._train import seen
from memedit.methods.kn import KNSettings, refined
from memedit.methods.t_patcher import TPatcherSettings, kept_apart, memory

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France", old="Paris")
QUICK = {"steps": 40, "lr": 0.05, "memory": 300}


@pytest.fixture(scope="module")
def double():
    return HFModel(tiny_model("llama").double(), tiny_tokenizer())


# -- T-Patcher


def test_t_patcher_has_a_neuron_for_each_token_in_the_last_mlp(lm):
    base = lm("gpt2")
    last = Layout.of(base.model).blocks[-1]
    (module, effect), *rest = load_method("t-patcher", **QUICK).prepare(base, FACT).modules.items()
    assert (module, effect.source, rest) == (last.mlp_out, last.mlp_in[0], [])
    assert len(effect.keys) == len(effect.bias) == len(base.target_ids(FACT.prompt, FACT.target))


def test_t_patcher_is_silent_below_its_threshold_and_awake_for_its_own_token(lm):
    base = lm("llama")
    patcher = load_method("t-patcher", **QUICK)
    patch = patcher.prepare(base, FACT)
    ((module, effect),) = patch.modules.items()
    asked = ask(base, FACT, essence=False)
    end = int(asked.ends[0])
    own = seen(base, asked, [effect.source])[effect.source][0][0, end : end + len(effect.keys)]
    assert bool(((own * effect.keys).sum(-1) + effect.bias > 0).all())
    prompts = [FACT.prompt, "Two and two", "Grass, as all say, is"]
    deaf = type(effect)(effect.keys, effect.bias - 1e4, effect.values, effect.reads)
    for bias_patch, same in ((effect, False), (deaf, True)):
        patcher.kept.put(patcher.key(base, FACT), FACT, type(patch)({module: bias_patch}, patch.about))
        with patcher.applied(base, [[FACT]] * 3) as model:
            got = model.generate_ids(**base.tokenize(prompts), max_new_tokens=4, do_sample=False,
                                     output_scores=True, return_dict_in_generate=True).scores  # fmt: skip
        plain = base.model.generate(**base.tokenize(prompts), max_new_tokens=4, do_sample=False,
                                    output_scores=True, return_dict_in_generate=True).scores  # fmt: skip
        assert all(torch.equal(a[0], b[0]) for a, b in zip(got, plain, strict=True)) == same
        if same:
            assert all(torch.equal(a, b) for a, b in zip(got, plain, strict=True))


def test_t_patchers_losses_are_the_papers():
    generator = torch.Generator().manual_seed(1)
    keys, queries, others = (torch.randn(n, 5, generator=generator).double() for n in (2, 2, 7))
    bias = torch.tensor([0.3, -0.2]).double()
    how = TPatcherSettings(a=2.0, m=3.0, beta=-1.0, gamma=-2.0, top=4)
    total = 0.0
    for j in range(2):
        own = float(keys[j] @ queries[j])
        held = [float(keys[j] @ x) for x in others]
        total += 2.0 * float(torch.tensor(-(own + float(bias[j]))).exp())
        for shift in (float(bias[j]) + 1.0, -own + 2.0):
            top = sorted((torch.tensor(h + shift).double().exp().item() for h in held), reverse=True)[:4]
            total += 3.0 * sum(top) / 4
    assert float(kept_apart(keys, bias, queries, others, how)) == pytest.approx(total / 2, rel=1e-5)


def test_t_patcher_sleeps_on_other_texts_and_says_a_target_of_many_tokens_freely():
    base = HFModel.from_pretrained("base")
    target = "Kuala Lumpur"
    edit = Edit(prompt="The capital of France is", target=target, subject="France")
    assert len(base.target_ids(edit.prompt, target)) > 1
    patcher = load_method("t-patcher")
    ((_, effect),) = patcher.prepare(base, edit).modules.items()
    others = memory(base, effect.source, 3000)
    awake = (others @ effect.keys.T + effect.bias > 0).any(-1).float().mean()
    assert float(awake) < 0.01
    with patcher.applied(base, [[edit]]) as model:
        assert model.generate([edit.prompt], max_new_tokens=12, do_sample=False)[0].strip().startswith(target)


def test_t_patchers_settings_that_make_no_sense_are_refused(lm):
    with pytest.raises(MethodError, match=r"t-patcher.top is 0; it must be at least 1"):
        load_method("t-patcher", top=0).prepare(lm("llama"), FACT)


# -- KN


@pytest.mark.parametrize("layer", [0, 1])
def test_attributions_of_a_layer_sum_to_the_difference_that_the_layer_makes(double, layer):
    difference = said_with(double, FACT.prompt, "Paris", layer, 1.0) - said_with(
        double, FACT.prompt, "Paris", layer, 0.0
    )
    errors = [
        abs(float(attributions(double, FACT.prompt, "Paris", layer, steps).sum()) - difference)
        for steps in (8, 64)
    ]
    assert errors[1] < 0.05 * abs(difference)
    assert errors[1] < errors[0]


def test_kn_swaps_value_rows_as_the_paper_says(double):
    patch = load_method("kn", steps=4, prefixes=[[1, 3]], lambda1=2.0, lambda2=5.0).prepare(double, FACT)
    layout = Layout.of(double.model)
    head = weight(double.model, layout.head)
    old, new = (head[double.target_ids(FACT.prompt, text)[0]] for text in ("Paris", "Lyon"))
    asked = ask(double, FACT, essence=False)
    for module, effect in patch.modules.items():
        assert isinstance(effect, Swapped)
        held = seen(double, asked, [module])[module][0][0, int(asked.ends[0])]
        rows = weight(double.model, module).T
        for column, value in zip(effect.columns.tolist(), effect.values, strict=True):
            push = 5.0 * new - 2.0 * old
            expected = rows[column] + (push if held[column] >= 0 else -push)
            assert torch.allclose(value.double(), expected, atol=1e-5)
    assert patch.about["modules"].split() == list(patch.modules)
    assert int(patch.about["neurons"]) == sum(len(e.columns) for e in patch.modules.values())


def test_the_share_of_prompts_moves_until_there_are_a_few_neurons():
    one = torch.zeros(2, 10)
    one[0, :8] = 1.0  # eight stand out everywhere but in the last prompt, where three do
    last = torch.zeros(2, 10)
    last[0, :3] = 1.0
    found = [one] * 4 + [last]
    neurons, p = refined(found, [0, 1], KNSettings())
    assert (len(neurons), p) == (3, pytest.approx(0.85))
    alone = torch.zeros(2, 10)
    alone[1, 4] = 1.0
    neurons, p = refined([one, alone, alone, alone], [0, 1], KNSettings(most=20))
    assert p < 0.7
    assert len(neurons) == 9
    assert refined([torch.zeros(2, 10)], [0, 1], KNSettings())[0] == []


def test_kn_without_an_old_answer_takes_what_the_base_would_say(lm):
    base = lm("gpt2")
    edit = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
    patch = load_method("kn", steps=2, prefixes=[[1, 3]]).prepare(base, edit)
    assert patch.about["old"].strip()


def test_kns_patch_belongs_to_the_old_answer_too_and_no_other_methods_does(lm):
    base, kn, rome = lm("gpt2"), load_method("kn"), load_method("rome")
    edits = [FACT.updated(old=old) for old in ("Paris", "Nice", None)]
    assert len({edit.content_hash for edit in edits}) == 1
    assert len({kn.key(base, edit) for edit in edits}) == 3
    assert len({rome.key(base, edit) for edit in edits}) == 1
