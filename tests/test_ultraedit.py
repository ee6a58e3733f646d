"""UltraEdit: its algebra in float64, its statistics, and where they are kept."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from memedit.edit import Edit
from memedit.errors import DataError
from memedit.lm import HFModel
from memedit.methods import _features, load_method
from memedit.methods._features import Running, features, warmed
from memedit.methods.ultraedit import step

FACT = Edit(prompt="The capital of France is", target="Lyon")
OTHER = Edit(prompt="The capital of Peru is", target="Cusco")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_step_solves_the_papers_normal_equations():
    h, key, slope, eta, l2 = drawn(3, 7), drawn(3, 7, seed=1), drawn(3, 5, seed=2), 0.3, 0.7
    v = -eta * key.square().sum(1)[:, None] * slope
    d = (step(h, key, slope, eta, l2) @ h).T  # (in, out), D of the paper
    assert torch.allclose((h.T @ h + l2 * torch.eye(7, dtype=h.dtype)) @ d, h.T @ v, atol=1e-10)
    exact = (step(h, key, slope, eta, 1e-12) @ h).T
    assert torch.allclose(h @ exact, v, atol=1e-6)


def test_statistics_that_came_in_parts_are_those_of_the_whole():
    z = drawn(11, 6) * torch.arange(1, 7) + 3
    parts = Running.of(z[:4]).with_more(z[4:5]).with_more(z[5:])
    assert parts.count == 11
    assert torch.allclose(parts.mean, z.mean(0))
    assert torch.allclose(parts.squares / 10, z.var(0))
    h, g = parts.normalised(z[:, :4], z[:, 4:])
    whole = torch.cat([h, g], 1)
    assert torch.allclose(whole.mean(0), torch.zeros(6, dtype=z.dtype), atol=1e-9)
    assert torch.allclose(whole.std(0), torch.ones(6, dtype=z.dtype), atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_features_are_keys_and_gradients_at_the_targets_positions(family):
    base = HFModel(tiny_model(family).double(), tiny_tokenizer())
    name = {
        "gpt2": "transformer.h.1.mlp.c_proj",
        "opt": "model.decoder.layers.1.fc2",
        "llama": "model.layers.1.mlp.down_proj",
    }[family]
    (h, g) = features(base, [FACT, OTHER], [name])[name]
    first = len(base.target_ids(FACT.prompt, "Lyon"))
    assert len(h) == len(g) == first + len(base.target_ids(OTHER.prompt, "Cusco"))
    (alone_h, alone_g) = features(base, [OTHER], [name])[name]  # padding changes nothing
    assert torch.allclose(h[first:], alone_h, atol=1e-9)
    assert torch.allclose(g[first:], alone_g, atol=1e-9)
    assert bool((g.norm(dim=1) > 0).all())


def test_the_gradient_is_that_of_the_loss():
    """With the prompt's other positions left alone, the loss falls along -g as fast as g says."""
    base = HFModel(tiny_model("llama").double(), tiny_tokenizer())
    name = "model.layers.1.mlp.down_proj"
    (_, g) = features(base, [FACT], [name])[name]
    target = base.target_ids(FACT.prompt, "Lyon")
    ids = torch.tensor([[*base.tokenizer(FACT.prompt)["input_ids"], *target]])
    first, size = ids.shape[1] - len(target) - 1, 1e-2

    def loss(shift):
        def hook(module, args, output):
            output = output.clone()
            output[0, first : first + len(target)] += shift
            return output

        handle = base.model.get_submodule(name).register_forward_hook(hook)
        with torch.no_grad():
            logits = base.model(input_ids=ids).logits[0, first : first + len(target)]
        handle.remove()
        said = torch.log_softmax(logits, -1)[torch.arange(len(target)), torch.tensor(target)]
        return -float(said.mean())

    slope = (loss(size * g) - loss(-size * g)) / (2 * size)
    assert slope == pytest.approx(float(g.square().sum()), rel=1e-3)


def test_statistics_are_warmed_once_on_unrelated_edits_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMEDIT_CACHE", str(tmp_path))
    base, asked = HFModel(tiny_model("gpt2"), tiny_tokenizer()), []
    real = _features.features
    monkeypatch.setattr(_features, "features", lambda b, e, n: asked.append(len(e)) or real(b, e, n))
    names = ["transformer.h.0.mlp.c_proj"]
    one = warmed(base, names, None, 20)
    assert asked == [16, 4]
    assert warmed(base, names, None, 20) == one
    again = warmed(HFModel(tiny_model("gpt2"), tiny_tokenizer()), names, None, 20)  # from the file
    assert asked == [16, 4]
    assert torch.equal(again[names[0]].mean, one[names[0]].mean)
    more = warmed(base, [*names, "transformer.h.1.mlp.c_proj"], None, 20)  # what is missing alone
    assert len(asked) == 4
    assert torch.equal(more[names[0]].squares, one[names[0]].squares)
    with pytest.raises(DataError, match="can't be read"):
        warmed(base, names, str(tmp_path / "none"), 20)
    (tmp_path / "bad").write_text("[1]\n")
    with pytest.raises(DataError, match="no JSON lines with prompt and target"):
        warmed(base, names, str(tmp_path / "bad"), 20)
    (tmp_path / "few").write_text('{"prompt": "a b", "target": "c"}\n')
    with pytest.raises(DataError, match="are 1; give some hundred"):
        warmed(base, names, str(tmp_path / "few"), 20)


def test_statistics_that_were_cut_off_are_found_anew_and_two_threads_find_them_once(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMEDIT_CACHE", str(tmp_path))
    base, asked = HFModel(tiny_model("gpt2"), tiny_tokenizer()), []
    real, names = _features.features, ["transformer.h.0.mlp.c_proj"]

    def cut_off(base, edits, names):
        asked.append(len(edits))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(base, edits, names)

    monkeypatch.setattr(_features, "features", cut_off)
    with pytest.raises(KeyboardInterrupt):
        warmed(base, names, None, 40)
    assert not list(tmp_path.iterdir())
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(warmed(base, names, None, 40)[names[0]]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [16, 16, 16, 16, 8]
    whole = real(base, _features._facts(None, 40)[0], names)[names[0]]
    assert [one.count for one in found] == [len(whole[0])] * 2


def test_facts_that_the_base_can_not_read_whole_are_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMEDIT_CACHE", str(tmp_path / "cache"))
    base, names = HFModel(tiny_model("gpt2"), tiny_tokenizer()), ["transformer.h.0.mlp.c_proj"]
    facts, short = tmp_path / "facts", [f"The capital of {place} is" for place in ("France", "Peru")]

    def written(*prompts):
        facts.write_text("".join(json.dumps({"prompt": p, "target": "Lyon"}) + "\n" for p in prompts))
        return str(facts)

    (found,) = warmed(base, names, written(short[0], "word " * 200, short[1]), 9).values()
    (without,) = warmed(base, names, written(*short), 9).values()
    assert found.count == without.count
    with pytest.raises(DataError, match="of the 2 facts to warm on 1 fit the 512 tokens"):
        warmed(base, names, written(short[0], "word " * 200), 9)


def test_settings_name_layers_and_rate(lm):
    base = lm("llama")
    patch = load_method("ultraedit", warm=6, layer=1, span=1).prepare(base, FACT)
    (name,) = patch.modules
    assert name == "model.layers.1.mlp.down_proj"
    twice = load_method(
        "ultraedit", warm=6, layer=1, span=1, lr=2 * load_method("ultraedit").settings_for(base).lr
    )
    (effect,), (double,) = patch.modules.values(), twice.prepare(base, FACT).modules.values()
    assert torch.allclose(2 * effect.up, double.up, rtol=1e-4)
    assert len(effect.down) == len(base.target_ids(FACT.prompt, "Lyon"))
