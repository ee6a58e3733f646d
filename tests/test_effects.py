"""What patches do to modules: each kind of effect against the changed module itself, row by row."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from memedit.layout import Layout
from memedit.lm import HFModel
from memedit.methods._effects import Dense, LowRank, Neurons, Now, Replaced, Several, Swapped, stacked
from memedit.methods._patch import Patch
from memedit.methods._rows import Row, rows_applied

PROMPTS = ["The sky is", "Grass, as everybody knows, is", "Two and two"]
OPTIONS = {"max_new_tokens": 8, "do_sample": False, "min_new_tokens": 8}
FAMILIES = ("gpt2", "opt", "llama")


@pytest.fixture
def noise():
    generator = torch.Generator().manual_seed(5)
    return lambda *shape: torch.randn(*shape, generator=generator)


def parts(base):
    block = Layout.of(base.model).blocks[1]
    return block.mlp_out, block.mlp_in[0]


def applied(base, effects, **more):
    name, _ = parts(base)
    with rows_applied(base, [Row(patch={name: e} if e else None) for e in effects]) as model:
        return model.generate(PROMPTS, **OPTIONS, **more)


def changed(base, delta, prompt, **more):
    """What the base says with a weight changed by delta (out, in)."""
    module = base.model.get_submodule(parts(base)[0])
    before = module.weight.detach().clone()
    module.weight.data = before + (delta.T if type(module).__name__ == "Conv1D" else delta)
    try:
        return base.generate([prompt], **OPTIONS, **more)
    finally:
        module.weight.data = before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", [{}, {"num_beams": 2, "num_return_sequences": 2}])
def test_dense_and_low_rank_equal_the_changed_weight(lm, noise, family, more):
    base = lm(family)
    wide = 128 if family == "gpt2" else 48
    dense, up, down = noise(32, wide) * 0.5, noise(32, 2), noise(2, wide) * 0.5
    got = applied(base, [Dense(dense), None, LowRank(up, down)], **more)
    n = more.get("num_return_sequences", 1)
    assert got[:n] == changed(base, dense, PROMPTS[0], **more)
    assert got[n : 2 * n] == base.generate([PROMPTS[1]], **OPTIONS, **more)
    assert got[2 * n :] == changed(base, up @ down, PROMPTS[2], **more)
    assert got[:n] != base.generate([PROMPTS[0]], **OPTIONS, **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_swapped_rows_equal_the_changed_columns_and_the_newer_wins(lm, noise, family):
    base = lm(family)
    values, newer = noise(3, 32) * 2, noise(2, 32) * 2
    first = Swapped(torch.tensor([1, 5, 7]), values)
    both = first + Swapped(torch.tensor([5, 9]), newer)
    weight = Layout.of(base.model) and _weight(base)
    delta = torch.zeros_like(weight)
    delta[:, [1, 7]] = values[[0, 2]].T - weight[:, [1, 7]]
    delta[:, [5, 9]] = newer.T - weight[:, [5, 9]]
    got = applied(base, [both, None, both])
    assert got[0] == changed(base, delta, PROMPTS[0])[0] != base.generate([PROMPTS[0]], **OPTIONS)[0]
    assert got[1] == base.generate([PROMPTS[1]], **OPTIONS)[0]


def _weight(base):
    from memedit.layout import weight

    return weight(base.model, parts(base)[0]).detach().clone()


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_add_what_they_say_and_are_silent_below_their_threshold(lm, noise, family):
    base = lm(family)
    name, source = parts(base)
    reads = torch.tensor(list(source.encode()), dtype=torch.uint8)
    keys, values = noise(2, 32), noise(2, 32) * 3
    loud, silent = (
        Neurons(keys, torch.ones(2), values, reads),
        Neurons(keys, -1e4 * torch.ones(2), values, reads),
    )
    got = applied(base, [loud, silent, None])
    plain = base.generate(PROMPTS, **OPTIONS)
    assert got[1:] == plain[1:]
    seen = {}
    hooks = [
        base.model.get_submodule(source).register_forward_pre_hook(lambda m, a: seen.update(h=a[0])),
        base.model.get_submodule(name).register_forward_hook(
            lambda m, a, y: y + torch.relu(seen["h"] @ keys.T + 1) @ values
        ),
    ]
    try:
        assert got[0] == base.generate([PROMPTS[0]], **OPTIONS)[0] != plain[0]
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", [{}, {"use_cache": False}, {"num_beams": 2}])
def test_a_replaced_activation_is_one_token_of_the_prompt_and_silent_outside_its_radius(
    lm, noise, family, more
):
    base = lm(family)
    name, _ = parts(base)
    seen = []
    handle = base.model.get_submodule(name).register_forward_hook(lambda m, a, y: seen.append((a[0], y)))
    base.generate([PROMPTS[0]], **OPTIONS)
    handle.remove()
    key = seen[0][0].reshape(-1, seen[0][0].shape[-1])[-1]
    value = noise(32) * 100
    near = Replaced(key[None] + 0.01, value[None], torch.tensor([1.0]))
    far = Replaced(key[None] + 9.0, value[None], torch.tensor([1.0]))
    plain = base.generate(PROMPTS, **OPTIONS, **more)
    got = applied(base, [near, near, None], **more)
    assert got[0] != plain[0]
    assert got[1:] == plain[1:]
    assert applied(base, [far, None, None], **more) == plain
    nearest = far + Replaced(key[None], value[None] * 0 + 1, torch.tensor([0.5])) + near
    assert torch.equal(nearest.value(key), torch.ones(32))  # of several keys that are near, the nearest
    with rows_applied(base, [Row(patch={name: near})]) as model:
        scores = model.score(PROMPTS[:1], ["blue"])
    calls = []

    def by_hand(module, args, y):
        wide = y.reshape(1, -1, 32).clone()
        wide[0, len(base.tokenizer(PROMPTS[0])["input_ids"]) - 1] = value
        calls.append(1)
        return wide.reshape(y.shape)

    handle = base.model.get_submodule(name).register_forward_hook(by_hand)
    try:
        assert scores[0].logprob == pytest.approx(base.score(PROMPTS[:1], ["blue"])[0].logprob, abs=1e-3)
    finally:
        handle.remove()
    assert calls


def test_kinds_of_effects_share_a_module_and_a_file(lm, noise):
    base = lm("llama")
    name, _ = parts(base)
    dense, low = Dense(noise(32, 48) * 0.2), LowRank(noise(32, 1), noise(1, 48) * 0.3)
    both = dense + low
    assert isinstance(both, Several)
    whole = both + (LowRank(noise(32, 1), noise(1, 48)) + dense)
    assert sorted(part.kind for part in whole.parts) == ["dense", "low-rank"]
    patch = Patch({name: both}, {"method": "x"})
    again = Patch.from_bytes(patch.to_bytes())
    got = applied(base, [again.modules[name], None, None])
    assert got[0] == changed(base, dense.delta + low.up @ low.down, PROMPTS[0])[0]
    assert patch.size == again.size == 4 * (32 * 48 + 32 + 48)


def test_a_patch_of_half_precision_meets_its_base():
    base = HFModel(tiny_model("llama").to(torch.bfloat16), tiny_tokenizer())
    name, _ = parts(base)
    with rows_applied(base, [Row(patch={name: Dense(torch.ones(32, 48))}), Row(), Row()]) as model:
        assert model.generate(PROMPTS, **OPTIONS)[1] == base.generate(PROMPTS, **OPTIONS)[1]


def test_half_precision_loses_no_small_factor():
    generator = torch.Generator().manual_seed(0)
    key = 100 * torch.rand(64, generator=generator)
    down = torch.randn(2, 64, generator=generator) * 1e-8
    down[0] += key / (key @ key) * 1e-3
    up = torch.stack([torch.randn(8, generator=generator) * 1e3, torch.zeros(8)], 1)
    exact, x = LowRank(up, down), key[None, None].half()
    (change,) = stacked([exact], torch.nn.Linear(64, 8), "m", x)
    found = change(x, torch.zeros(1, 1, 8, dtype=torch.float16), None, Now(None, 1))[0, 0]
    assert torch.allclose(found.float(), up @ (down @ key), rtol=1e-2, atol=1e-3)
    even = exact.balanced()
    assert torch.allclose(even.up @ even.down, up @ down, rtol=1e-5)
