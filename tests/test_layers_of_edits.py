"""`memit`, `pmet`, `alphaedit`: their algebra in float64, and how a residual is spread over layers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import ALL_FAMILIES, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from memedit import layout
from memedit.edit import Edit
from memedit.errors import MethodError, ModelError
from memedit.layout import Layout
from memedit.lm import HFModel
from memedit.methods import load_method
from memedit.methods._effects import LowRank
from memedit.methods._layers import held_now
from memedit.methods._locate import Optimiser, ask, keys, optimise, random_prefixes
from memedit.methods._moments import second_moment
from memedit.methods._watch import watched
from memedit.methods.alphaedit import null_space, projected
from memedit.methods.memit import normal
from memedit.methods.rome import rank_one

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
QUICK = {"steps": 4, "lr": 0.3, "prefixes": [[2, 3]]}
THREE = ["memit", "pmet", "alphaedit"]
# Settings with which one layer takes all of its residual, so that what is left shows how it was shared.
FULL = {
    "memit": {"weight": 1e-6},
    "pmet": {"weight": 1e-6, "by_block": True},
    "alphaedit": {"l2": 1e-9, "share": 0.9},
}


@pytest.fixture(scope="module")
def three():
    """A model with a layer above two that are changed: what its last block holds at the subject no later token reads."""
    config = tiny_model("llama").config
    config.num_hidden_layers = 3
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn_like(parameter) * 0.25
    return HFModel(model, tiny_tokenizer())


def ones(base, module):
    return torch.ones(1, layout.weight(base.model, module).shape[1])


def sample(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- MEMIT's algebra


@pytest.mark.parametrize("n", [1, 3])
def test_memits_update_solves_the_normal_equations(n):
    m, d, weight = 24, 8, 7.0
    other, new, residual = sample(200, m), sample(m, n, seed=2), sample(d, n, seed=3)
    moment = other.T @ other / 200
    delta = residual @ normal(new, moment, weight, ridge=0.0)
    assert torch.allclose(delta @ (weight * moment + new @ new.T), residual @ new.T, atol=1e-10)

    def cost(change):
        return weight * (change @ moment @ change.T).trace() + (change @ new - residual).square().sum()

    for seed in range(10):  # it is the least of what the equations come from
        assert cost(delta + 1e-3 * sample(d, m, seed=10 + seed)) > cost(delta)


def test_memit_tends_to_rome_where_old_keys_weigh_little():
    other, new, residual = sample(200, 24), sample(24, seed=2), sample(8, seed=3)
    moment = other.T @ other / 200
    up, down = rank_one(residual, new, moment, ridge=0.0)
    near = residual[:, None] @ normal(new[:, None], moment, 1e-8, ridge=0.0)
    assert torch.allclose(near, up.double() @ down.double(), atol=1e-5)
    heavy = residual[:, None] @ normal(new[:, None], moment, 1e4, ridge=0.0)
    assert heavy.norm() < 0.1 * near.norm()


# -- AlphaEdit's algebra


def test_alphaedit_leaves_preserved_keys_exactly_alone():
    m, d = 24, 8
    preserved = sample(m, 15) @ sample(15, 300, seed=2)  # 300 keys in 15 dimensions: a null space of 9
    new, residual = sample(m, 2, seed=3), sample(d, 2, seed=4)
    free = null_space(preserved @ preserved.T / 300, share=1e-9)
    assert free.shape == (m, 9)
    assert torch.allclose(free.T @ free, torch.eye(9, dtype=torch.float64), atol=1e-12)
    delta = residual @ projected(new, free, l2=1.0)
    assert (delta @ preserved).abs().max() < 1e-10 * delta.norm() * preserved.norm()
    assert (delta @ new).norm() > 0.1
    # The paper's equation 11, written out, with no earlier keys.
    p = free @ free.T
    paper = residual @ new.T @ p @ torch.linalg.inv(new @ new.T @ p + torch.eye(m, dtype=torch.float64))
    assert torch.allclose(delta, paper, atol=1e-10)
    assert torch.allclose(residual @ projected(new, free, 1e-12) @ new, residual, atol=1e-6)


def test_the_null_space_is_never_empty_and_never_everything():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0], dtype=torch.float64)
    axes = torch.linalg.qr(sample(5, 5)).Q
    moment = axes @ values.diag() @ axes.T
    sizes = [
        null_space(scale * moment, share).shape[1] for share in (0.0, 0.05, 0.16, 1.0) for scale in (1, 1e6)
    ]
    assert sizes == [1, 1, 1, 1, 2, 2, 4, 4]  # whatever the units
    assert torch.allclose(null_space(moment, 0.16) @ null_space(moment, 0.16).T @ axes[:, :2], axes[:, :2])
    assert null_space(torch.zeros(5, 5), 0.02).shape[1] == 4


# -- the way over the layers


@pytest.mark.parametrize("name", THREE)
def test_each_layer_takes_its_share_of_what_is_left(name, three):
    base = three
    method = load_method(name, layer=1, span=2, **{**QUICK, **FULL[name]})
    patch = method.prepare(base, FACT)
    low, high = (block.mlp_out for block in Layout.of(base.model).blocks[:2])
    assert list(patch.modules) == [low, high]
    assert all(
        effect.up.shape == (32, 1) and effect.down.shape == (1, 48) for effect in patch.modules.values()
    )
    # Anew, from the definitions: the goal on the plain base, then what is left of it after each layer.
    settings = method.settings_for(base)
    asked = ask(base, FACT, random_prefixes(base, settings.prefixes))
    how = Optimiser(settings.steps, settings.lr, settings.decay, settings.kl, settings.clamp)
    goal = method.goal(base, asked, Layout.of(base.model).blocks[1], how, FACT, settings)
    key, before = held_now(base, asked, low, goal.module, {})
    assert torch.allclose(goal.z - before, goal.value.delta, atol=1e-4)
    assert torch.allclose(key, keys(base, asked, [low])[low].mean(0), atol=1e-5)
    first = {2: goal.value.delta / 2, 1: goal.value.delta / 2**0.5}[1 if name == "pmet" else 2]
    assert torch.allclose(patch.modules[low].up[:, 0], first, atol=1e-4)
    key, after = held_now(base, asked, high, goal.module, {low: patch.modules[low]})
    assert (after - before).norm() > 0.01 * goal.value.delta.norm()
    assert torch.allclose(patch.modules[high].up[:, 0], goal.z - after, atol=1e-4)
    assert float(patch.modules[high].down @ key) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "gemma"])
def test_what_is_held_is_what_the_patched_model_holds(family, lm):
    base = lm(family)
    first, last = Layout.of(base.model).blocks
    terms = {b.mlp_out: LowRank(sample(32, 1).float(), 0.02 * ones(base, b.mlp_out)) for b in (first, last)}
    asked = ask(base, FACT)
    _, held = held_now(base, asked, last.mlp_out, last.name, terms)
    seen = {}
    whole = base.tokenize(["The capital of France"])

    def see(args, output):
        seen["h"] = output.reshape(-1, 32)[-1].clone()

    changed = HFModel(tiny_model(family), tiny_tokenizer())  # the weights themselves are changed here
    for module, effect in terms.items():
        own = changed.model.get_submodule(module)
        delta = effect.up @ effect.down
        own.weight.data += delta.T if type(own).__name__ == "Conv1D" else delta
    with torch.no_grad(), watched(changed, {last.name: see}):
        changed.model(**whole, use_cache=False)
    assert torch.allclose(seen["h"], held, atol=2e-3)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_optimisation_moves_a_whole_block_within_its_clamp(family, lm):
    base = lm(family)
    asked = ask(base, FACT, ("Once upon", "A"))
    name = Layout.of(base.model).blocks[0].name
    start = optimise(base, asked, [name], Optimiser(steps=0), FACT)[name]
    seen = {}
    with (
        torch.no_grad(),
        watched(base, {name: lambda args, output: seen.update(h=asked.at_subject(output)[0])}),
    ):
        asked.forward(base)
    assert torch.allclose(start.output, seen["h"], atol=1e-5)
    found = optimise(base, asked, [name], Optimiser(lr=0.3, clamp=0.75), FACT)[name]
    assert found.loss < start.loss
    assert 0 < found.delta.norm() <= 0.75 * start.output.norm() * 1.0001


def test_clamp_and_decay_can_be_measured_by_another_module(lm):
    base = lm("llama")
    asked, block = ask(base, FACT), Layout.of(base.model).blocks[0]
    names = [block.attention_out, block.mlp_out]
    how = Optimiser(lr=0.5, decay=0.0, clamp=0.05)
    own = optimise(base, asked, names, how, FACT)
    wide = optimise(base, asked, names, how, FACT, measure=block.name)
    length = optimise(base, asked, [block.name], Optimiser(steps=0), FACT)[block.name].output.norm()
    for name in names:
        assert own[name].delta.norm() == pytest.approx(0.05 * float(own[name].output.norm()), rel=1e-3)
        assert wide[name].delta.norm() == pytest.approx(0.05 * float(length), rel=1e-3)
    once = dataclasses.replace(
        how, steps=1, decay=2.0, clamp=9.0
    )  # one step is the same: the decay of nothing is flat
    first, other = (optimise(base, asked, names, once, FACT, measure=m) for m in (None, block.name))
    squares = {n: float(v.delta.square().sum()) for n, v in first.items()}
    apart = sum(q / float(first[n].output.norm()) ** 2 - q / float(length) ** 2 for n, q in squares.items())
    assert first[names[0]].loss - other[names[0]].loss == pytest.approx(2.0 * apart, abs=1e-4)


def test_pmet_writes_less_than_all_since_attention_takes_part(lm):
    base = lm("llama")
    asked, block = ask(base, FACT), Layout.of(base.model).blocks[0]
    how = Optimiser(steps=6, lr=0.3)
    both = optimise(base, asked, [block.attention_out, block.mlp_out], how, FACT)
    method = load_method("pmet", layer=0)
    goal = method.goal(
        base, asked, block, how, FACT, dataclasses.replace(method.settings_for(base), by_block=False)
    )
    assert goal.module == block.mlp_out
    assert torch.allclose(goal.z, both[block.mlp_out].output + both[block.mlp_out].delta)
    assert both[block.attention_out].delta.norm() > 0


# -- settings and refusals


@pytest.mark.parametrize("name", THREE)
def test_the_range_of_layers_ends_at_the_layer_and_begins_at_the_first_at_most(name, lm):
    base = lm("qwen3")
    method = load_method(name)
    blocks = Layout.of(base.model).blocks

    def names(**settings):
        given = dataclasses.replace(method.settings_for(base), **settings)
        return [block.name for block in method.blocks(base, given)]

    assert names(layer=1, span=5) == [b.name for b in blocks]
    assert names(layer=1, span=1) == [blocks[1].name]
    assert names(layer=0, span=5) == [blocks[0].name]
    with pytest.raises(MethodError, match="there is no layer 2"):
        names(layer=2)


@pytest.mark.parametrize("name", THREE)
def test_a_quantised_layer_anywhere_in_the_range_is_refused(name):
    class Linear8bitLt(torch.nn.Linear):
        pass

    base = HFModel(tiny_model("llama"), tiny_tokenizer())
    base.model.model.layers[0].mlp.down_proj.__class__ = Linear8bitLt
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj is quantised .* --method ice"):
        load_method(name, layer=1).prepare(base, FACT)


def test_alphaedits_projection_belongs_to_the_weights(lm):
    base = HFModel(tiny_model("llama"), tiny_tokenizer())
    method = load_method("alphaedit", **QUICK)
    first = method.prepare(base, FACT)
    with torch.no_grad():
        base.model.model.layers[0].mlp.up_proj.weight.mul_(-2)
    second = method.prepare(base, FACT)
    (module,) = first.modules
    moment = second_moment(base, module).matrix
    free = null_space(moment, method.settings_for(base).share)
    down = second.modules[module].down[0].double()
    assert (down - free @ (free.T @ down)).norm() < 1e-5 * down.norm()
    assert not torch.allclose(first.modules[module].down, second.modules[module].down)
