"""GRACE, LoRA and FT-L: what each says of itself, beyond the contract that all methods pass."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.layout import Layout
from memedit.lm import HFModel
from memedit.methods import load_method
from memedit.methods._effects import LowRank, Replaced
from memedit.methods._locate import ask
from memedit.methods.ft_l import at_once
from memedit.methods.grace import Entry, entered
from memedit.methods.lora import projections

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
SAME = Edit(prompt="France has its capital in", target="Lyon", subject="France")
OTHER = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
PROMPTS = [FACT.prompt, "Two and two", "Grass, as all say, is"]


def scores(model, prompts, base):
    """The logits of five greedy steps, in full: what is bit-equal is equal here."""
    given = {**base.tokenize(prompts), "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    make = getattr(model, "generate_ids", None) or model.generate
    out = make(**given, output_scores=True, return_dict_in_generate=True)
    return torch.stack(out.scores)


def rows_beside(method, base):
    """Rows 0 with the edit, 1 and 2 without, and the same of the plain base."""
    with method.applied(base, [[FACT], [], []]) as model:
        return scores(model, PROMPTS, base), scores(base, PROMPTS, base)


# -- GRACE


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_grace_is_silent_outside_its_radius(lm, family):
    base = lm(family)
    grace = load_method("grace", steps=5, radius=0.1)
    plain = scores(base, PROMPTS, base)
    with grace.applied(base, [[FACT]] * 3) as model:
        got = scores(model, PROMPTS, base)
    assert not torch.equal(got[:, 0], plain[:, 0])
    assert torch.equal(got[:, 1:], plain[:, 1:])
    assert torch.equal(rows_beside(grace, base)[0][:, 1:], plain[:, 1:])


def test_grace_says_a_target_of_many_tokens_freely():
    base = HFModel.from_pretrained("base")
    target = "Kuala Lumpur"
    edit = Edit(prompt="The capital of France is", target=target, subject="France")
    assert len(base.target_ids(edit.prompt, target)) > 1
    with load_method("grace").applied(base, [[edit]]) as model:
        (said,) = model.generate([edit.prompt], max_new_tokens=16, do_sample=False)
    assert said.strip().startswith(target)


def test_graces_value_stands_where_later_tokens_see_it(lm):
    (module,) = load_method("grace", steps=1).prepare(lm("llama"), FACT).modules
    assert module == Layout.of(lm("llama").model).blocks[0].mlp_out
    (module,) = load_method("grace", steps=1, layer=1).prepare(lm("llama"), FACT).modules
    assert module == Layout.of(lm("llama").model).blocks[1].mlp_out


def entry(x, radius=1.0, target="a"):
    return Entry(torch.tensor([float(x), 0.0]), torch.tensor([float(x)]), radius, target)


def radii(book):
    return {float(e.value): e.radius for e in book}


def test_a_far_key_is_an_entry_of_its_own():
    assert radii(entered([entry(0)], entry(2.125, target="b"))) == {0.0: 1.0, 2.125: 1.0}
    assert radii(entered([entry(0)], entry(2.5))) == {0.0: 1.0, 2.5: 1.0}


def test_a_near_key_of_the_same_target_widens_its_neighbour():
    assert radii(entered([entry(0)], entry(1.5))) == {0.0: 1.5}
    assert radii(entered([entry(0)], entry(0.5))) == {0.0: 1.0}  # it is reached already
    assert radii(entered([entry(9, 0.5), entry(0)], entry(1.5))) == {9.0: 0.5, 0.0: 1.5}


def test_a_near_key_of_another_target_splits_the_space_between():
    assert radii(entered([entry(0)], entry(1.5, target="b"))) == {0.0: 0.75, 1.5: 0.75}
    thrice = entered(entered([entry(0)], entry(0.5, target="b")), entry(1.0, target="c"))
    assert radii(thrice) == {0.0: 0.25, 0.5: 0.25, 1.0: 0.25}
    assert radii(entered([entry(0, 0.1)], entry(1.0, target="b"))) == {0.0: 0.1, 1.0: 0.5}  # none grows
    (left,) = entered([entry(0)], entry(0, target="b"))  # one key, two targets: the newer
    assert left.target == "b"


def test_edits_of_one_row_share_a_codebook(lm):
    base = lm("llama")
    grace = load_method("grace", steps=2, radius=100.0)
    ((module, a),) = grace.patch(base, FACT).modules.items()
    b, c = (grace.patch(base, edit).modules[module] for edit in (OTHER, SAME))
    both = grace.row_patch(base, [FACT, OTHER])[module]
    half = float((a.keys - b.keys).norm()) / 2
    assert isinstance(both, Replaced)
    assert both.radius.tolist() == pytest.approx([half, half])
    assert torch.equal(both.value(a.keys[0]), a.values[0])
    assert torch.equal(both.value(b.keys[0]), b.values[0])
    wider = load_method("grace", steps=2, radius=0.51 * float((a.keys - c.keys).norm()))
    one = wider.row_patch(base, [FACT, SAME])[module]
    assert one.radius.tolist() == pytest.approx([float((a.keys - c.keys).norm())])
    assert torch.equal(one.value(c.keys[0]), one.values[0])
    assert grace.row_patch(base, []) is None


@pytest.mark.parametrize("name", ["grace", "lora", "t-patcher"])
def test_what_reads_no_weights_takes_quantised_layers(name):
    class Linear8bitLt(torch.nn.Linear):
        pass

    base = HFModel(tiny_model("llama"), tiny_tokenizer())
    for block in base.model.model.layers:
        block.mlp.down_proj.__class__ = Linear8bitLt
    assert load_method(name, steps=1).prepare(base, FACT).modules


# -- LoRA


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "gpt_neox"])
def test_lora_puts_factors_of_the_set_rank_on_query_and_value(lm, family):
    base = lm(family)
    patch = load_method("lora", rank=3, steps=2, lr=0.01).prepare(base, FACT)
    names = [name for block in Layout.of(base.model).blocks for name in projections(block, "attention")]
    assert sorted(patch.modules) == sorted(names)
    last = {name.rpartition(".")[2] for name in names}
    assert last in ({"q_proj", "v_proj"}, {"c_attn"}, {"query_key_value"})
    for name, effect in patch.modules.items():
        assert isinstance(effect, LowRank)
        assert effect.down.shape == (3, 32)
        assert effect.up.shape[1] == torch.linalg.matrix_rank(effect.up @ effect.down) == 3, name


def test_loras_settings_count(lm):
    base = lm("llama")
    mlp = load_method("lora", where="mlp", layer=1, steps=2).prepare(base, FACT)
    assert set(mlp.modules) == {Layout.of(base.model).blocks[1].mlp_out}
    one, two = (load_method("lora", steps=1, seed=seed).prepare(base, FACT) for seed in (0, 1))
    name = next(iter(one.modules))
    assert not torch.equal(one.modules[name].down, two.modules[name].down)
    with pytest.raises(MethodError, match=r"lora\.where is 'head'; it must be one of attention, mlp"):
        load_method("lora", where="head").prepare(base, FACT)
    with pytest.raises(MethodError, match=r"lora\.rank is 0; it must be at least 1"):
        load_method("lora", rank=0).prepare(base, FACT)


def test_lora_learns_the_target_and_other_rows_stay_bit_equal(lm):
    base = lm("llama")
    got, plain = rows_beside(load_method("lora", steps=60, lr=0.02, where="mlp"), base)
    assert not torch.equal(got[:, 0], plain[:, 0])
    assert torch.equal(got[:, 1:], plain[:, 1:])
    patch = load_method("lora", steps=60, lr=0.02, where="mlp").prepare(base, FACT)
    assert float(patch.about["loss"]) < 1.0 < -base.score([FACT.prompt], ["Lyon"])[0].logprob / 5


# -- FT-L


@pytest.mark.parametrize("bound", [5e-4, 2e-3])
def test_ft_l_keeps_within_its_bound_and_reaches_it(lm, bound):
    patch = load_method("ft-l", lr=1e-3, bound=bound).prepare(lm("gpt2"), FACT)
    (effect,) = patch.modules.values()
    assert float(effect.delta.abs().max()) == pytest.approx(bound)
    free = load_method("ft-l", lr=1e-3, bound=1.0).prepare(lm("gpt2"), FACT)
    assert float(free.about["loss"]) < float(patch.about["loss"])


def test_ft_l_asks_all_of_the_target_of_one_position(lm):
    base = lm("llama")
    asked = ask(base, FACT, essence=False)
    with torch.no_grad():
        loss = at_once(asked, asked.forward(base))
        said = torch.log_softmax(base.model(**base.tokenize([FACT.prompt])).logits[0, -1], -1)
    assert float(loss) == pytest.approx(-float(said[base.target_ids(FACT.prompt, "Lyon")].mean()), abs=1e-4)
