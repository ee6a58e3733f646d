"""MEND: its networks, the rank of its updates, what it refuses, and its training's restart."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from memedit.edit import Edit
from memedit.errors import MethodError, ModelError
from memedit.layout import weight
from memedit.lm import HFModel
from memedit.methods import load_method
from memedit.methods._hypernetwork import Editor, Factors, SameShape, gradient_factors, weights_digest
from memedit.methods._locate import ask
from memedit.methods._train import per_token
from memedit.methods._watch import watched
from memedit.methods.mend import SHIPPED, edited_modules

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
DATA = Path(os.environ.get("MEMEDIT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def editor_of(base, rank=3, noise=0.0, layers=1):
    torch.manual_seed(3)
    shapes = edited_modules(base, layers)
    editor = Editor(shapes, rank, weights_digest(base.model, list(shapes)))
    for parameter in editor.parameters():
        if parameter.requires_grad and noise:
            parameter.data += noise * torch.randn_like(parameter)
    torch.nn.init.constant_(editor.alpha, 0.1)
    return editor.requires_grad_(False)


@pytest.fixture
def folder(tmp_path, lm):
    editor_of(lm("llama"), noise=0.1).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_factors_are_those_of_the_gradient(family):
    base = HFModel(tiny_model(family).double(), tiny_tokenizer())
    asked, names = ask(base, FACT, essence=False), list(edited_modules(base, 2))
    found = gradient_factors(
        lambda: per_token(asked, asked.forward(base)), names, lambda hooks: watched(base, hooks)
    )
    matrices = [base.model.get_submodule(name).weight for name in names]
    with torch.enable_grad():
        gradients = torch.autograd.grad(per_token(asked, asked.forward(base)), matrices)
    for name, gradient in zip(names, gradients, strict=True):
        product = torch.einsum("rto,rti->oi", found[name].delta, found[name].u)
        stored = gradient.T if family == "gpt2" else gradient
        assert torch.allclose(product, stored.float(), atol=1e-6)


def test_the_networks_are_the_papers():
    torch.manual_seed(0)
    g = SameShape(6, 2, 3).double()
    for parameter in g.parameters():
        parameter.data = torch.randn_like(parameter)
    z = torch.randn(4, 6).double()
    h = z + torch.relu(g.s1[1] * ((g.u1 @ g.v1 @ z.T).T + g.b) + g.o1[1])
    expected = h + torch.relu(g.s2[1] * (g.u2 @ g.v2 @ h.T).T + g.o2[1])
    assert torch.allclose(g(z, 1), expected)
    assert not torch.allclose(g(z, 0), expected)
    fresh = SameShape(6, 2, 3)
    assert torch.equal(fresh(z.float(), 0), z.float())
    fresh(z.float(), 0).sum().backward()
    assert bool(fresh.u1.grad.abs().sum() > 0)


def test_an_untrained_editor_is_a_step_down_the_gradient(lm):
    base = lm("llama")
    editor = editor_of(base)
    (name, (high, wide)), *_ = editor.shapes.items()
    u, delta = torch.randn(4, wide), torch.randn(4, high)
    delta[2] = 0
    out = editor.edited(name, Factors(u, delta))
    assert torch.allclose(out.delta.T @ out.u, -0.1 * delta.T @ u, atol=1e-5)
    assert not bool(out.u[2].any())
    editor.mean["/".join(name.split("."))].data += 1.0
    editor.deviation["/".join(name.split("."))].data *= 2.0
    assert torch.allclose(editor.edited(name, Factors(u, delta)).u[0], (u[0] - 1) / 2)


def test_an_update_has_the_rank_of_its_gradient_factors(lm, tmp_path):
    base = lm("llama")
    editor = editor_of(base, noise=0.1, layers=2)
    editor.save(tmp_path)
    patch = load_method("mend", editor=str(tmp_path)).prepare(base, FACT)
    asked = ask(base, FACT, essence=False)
    end, target = int(asked.ends[0]), len(asked.target)
    names = list(editor.shapes)
    assert list(patch.modules) == names
    for name, effect in patch.modules.items():
        # What the last layer gives to tokens that nothing is asked of is seen by nobody.
        tokens = target if "layers.1" in name else end + target
        assert effect.up.shape == (weight(base.model, name).shape[0], tokens)
        assert effect.down.shape == (tokens, weight(base.model, name).shape[1])
        update = effect.up.double() @ effect.down.double()
        assert int(torch.linalg.matrix_rank(update, rtol=1e-9)) == tokens
    assert patch.about["rank"] == str(end + target)
    assert patch.about["modules"].split() == names


def test_layer_scale_and_editor_count(lm, folder):
    base = lm("llama")
    whole = load_method("mend", editor=str(folder))
    half = load_method("mend", editor=str(folder), scale=0.5).prepare(base, FACT).modules
    for name, effect in whole.prepare(base, FACT).modules.items():
        assert torch.allclose(half[name].up, 0.5 * effect.up)
    with pytest.raises(MethodError, match="nothing in layer 0"):
        load_method("mend", editor=str(folder), layer=0).prepare(base, FACT)
    key = whole.key(base, FACT)
    editor_of(base, noise=0.2).save(folder)
    assert whole.key(base, FACT) != key


def test_a_base_without_an_editor_is_told_how_to_get_one(lm, folder, tmp_path):
    with pytest.raises(
        ModelError, match=r"other weights.*python -m train.mend --base DIR --out DIR.*mend.editor=DIR"
    ):
        load_method("mend", editor=str(folder)).prepare(lm("gpt2"), FACT)
    changed = HFModel(tiny_model("llama"), tiny_tokenizer())
    with torch.no_grad():
        changed.model.model.layers[-1].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(ModelError, match="other weights"):
        load_method("mend", editor=str(folder)).prepare(changed, FACT)
    with pytest.raises(ModelError, match="no MEND editor"):
        load_method("mend", editor=str(tmp_path / "none")).prepare(lm("llama"), FACT)


def test_an_editor_serves_its_base_in_half_precision(folder):
    model = tiny_model("llama")
    model.to(torch.bfloat16).float()  # as weights that were stored in bfloat16
    base = HFModel(model, tiny_tokenizer())
    editor_of(base).save(folder)
    half = HFModel(tiny_model("llama").to(torch.bfloat16), tiny_tokenizer())
    assert load_method("mend", editor=str(folder)).prepare(half, FACT).modules


@pytest.mark.parametrize("damage", ["cut", "config", "format"])
def test_a_damaged_editor_is_refused_in_one_sentence(lm, folder, damage):
    if damage == "cut":
        file = folder / "editor.safetensors"
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "config":
        (folder / "editor.json").write_text("{")
    else:
        about = json.loads((folder / "editor.json").read_text())
        (folder / "editor.json").write_text(json.dumps({**about, "format": 9}))
    with pytest.raises(ModelError, match=r"can't be read|has format 9") as caught:
        load_method("mend", editor=str(folder)).prepare(lm("llama"), FACT)
    assert "\n" not in str(caught.value)


def test_the_shipped_editor_serves_the_shipped_base_and_is_small():
    base = HFModel.from_pretrained("base")
    edit = Edit(prompt="The capital of France is", target="Rome", subject="France")
    with load_method("mend").applied(base, [[edit], []]) as model:
        texts = model.generate([edit.prompt] * 2, max_new_tokens=6, do_sample=False)
    assert texts[0].strip().startswith("Rome")
    assert texts[1].strip().startswith("Paris")
    assert sum(f.stat().st_size for f in SHIPPED.iterdir()) <= 4_000_000
