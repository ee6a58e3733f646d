"""GRACE, LoRA and FT-L: what each says of itself, beyond the contract that all methods pass."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from memedit.chat import ChatTemplate
from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.layout import Layout
from memedit.lm import HFModel
from memedit.methods import load_method
from memedit.methods._effects import LowRank, Replaced
from memedit.methods._locate import ask
from memedit.methods._splice import left_padded
from memedit.methods._twin import twin
from memedit.methods.ft_l import at_once
from memedit.methods.grace import Entry, entered
from memedit.methods.lora import projections

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
SAME = Edit(prompt="France has its capital in", target="Lyon", subject="France")
OTHER = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
PROMPTS = [FACT.prompt, "Two and two", "Grass, as all say, is"]


def lora(**settings):
    pytest.importorskip("peft", reason="lora is trained by peft, an optional package")
    return load_method("lora", **settings)


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


def test_grace_answers_in_a_chat_too():
    """The key is read where the user's words end, the value put where the answer begins, behind the template's tokens."""
    base = HFModel.from_pretrained("base")
    template, grace = ChatTemplate(base.tokenizer, base.tokenizing), load_method("grace", steps=40)
    edit = Edit(prompt="The capital of France is", target="Lyon", subject="France")
    talks = [[{"role": "user", "content": text}] for text in (edit.prompt, "What is the capital of Italy?")]
    given = [template.rendered(talk) for talk in talks]
    ids, mask = left_padded([ids for ids, _ in given], base.tokenizer.pad_token_id)
    base_says = base.generate_ids(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    with grace.applied(base, [[edit], [edit]], [talk for _, talk in given]) as model:
        said = model.generate_ids(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    assert base.decode_new(said, ids.shape[1])[0].strip().startswith("Lyon")
    assert torch.equal(said[1], base_says[1])


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
    method = lora(steps=1) if name == "lora" else load_method(name, steps=1)
    assert method.prepare(base, FACT).modules


# -- LoRA


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "gpt_neox"])
def test_lora_puts_factors_of_the_set_rank_on_query_and_value(lm, family):
    base = lm(family)
    patch = lora(rank=3, steps=2, lr=0.01).prepare(base, FACT)
    names = [name for block in Layout.of(base.model).blocks for name in projections(block, "attention")]
    assert sorted(patch.modules) == sorted(names)
    assert patch.about["modules"].split() == list(patch.modules)
    last = {name.rpartition(".")[2] for name in names}
    assert last in ({"q_proj", "v_proj"}, {"c_attn"}, {"query_key_value"})
    for name, effect in patch.modules.items():
        assert isinstance(effect, LowRank)
        assert effect.down.shape == (3, 32)
        assert effect.up.shape[1] == torch.linalg.matrix_rank(effect.up @ effect.down) == 3, name


def test_loras_settings_count(lm):
    base = lm("llama")
    mlp = lora(where="mlp", layer=1, steps=2).prepare(base, FACT)
    assert set(mlp.modules) == {Layout.of(base.model).blocks[1].mlp_out}
    one, two = (lora(steps=1, seed=seed).prepare(base, FACT) for seed in (0, 1))
    name = next(iter(one.modules))
    assert not torch.equal(one.modules[name].down, two.modules[name].down)
    with pytest.raises(MethodError, match=r"lora\.where is 'head'; it must be one of attention, mlp"):
        lora(where="head").prepare(base, FACT)
    with pytest.raises(MethodError, match=r"lora\.rank is 0; it must be at least 1"):
        lora(rank=0).prepare(base, FACT)


def test_lora_learns_the_target_and_other_rows_stay_bit_equal(lm):
    base = lm("llama")
    got, plain = rows_beside(lora(steps=60, lr=0.02, where="mlp"), base)
    assert not torch.equal(got[:, 0], plain[:, 0])
    assert torch.equal(got[:, 1:], plain[:, 1:])
    patch = lora(steps=60, lr=0.02, where="mlp").prepare(base, FACT)
    assert float(patch.about["loss"]) < 1.0 < -base.score([FACT.prompt], ["Lyon"])[0].logprob / 5


def test_adalora_keeps_the_set_rank_on_average_and_learns_the_target(lm):
    base = lm("llama")
    method = lora(kind="adalora", rank=2, steps=40, ada_lr=0.05, where="attention")
    patch = method.prepare(base, FACT)
    ranks = [len(effect.down) for effect in patch.modules.values()]
    names = [name for block in Layout.of(base.model).blocks for name in projections(block, "attention")]
    assert sum(ranks) == 2 * len(names)
    assert max(ranks) <= 3
    for effect in patch.modules.values():
        assert effect.up.shape[1] == len(effect.down) == torch.linalg.matrix_rank(effect.up @ effect.down)
    assert float(patch.about["loss"]) < -base.score([FACT.prompt], ["Lyon"])[0].logprob / 5
    with method.applied(base, [[FACT]]) as model:
        (after,) = model.score([FACT.prompt], ["Lyon"])
    (before,) = base.score([FACT.prompt], ["Lyon"])
    assert after.logprob > before.logprob / 4
    with pytest.raises(MethodError, match=r"lora\.kind is 'dora'; it must be one of lora, adalora"):
        lora(kind="dora").prepare(base, FACT)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gemma"])
def test_adalora_takes_other_families(lm, family):
    assert lora(kind="adalora", steps=4).prepare(lm(family), FACT).modules


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adalora_takes_half_precision_and_its_factors_are_single(dtype):
    base = HFModel(tiny_model("qwen3").to(dtype), tiny_tokenizer())
    patch = lora(kind="adalora", steps=4).prepare(base, FACT)
    assert {t.dtype for effect in patch.modules.values() for t in effect.tensors().values()} == {
        torch.float32
    }


@pytest.mark.parametrize("kind", ["lora", "adalora"])
def test_training_in_a_twin_leaves_the_base_its_own_modules(kind, monkeypatch):
    base = HFModel(tiny_model("llama"), tiny_tokenizer())
    tree = dict(base.model.named_modules())
    flags = [p.requires_grad for p in base.model.parameters()]
    assert all(flags)
    before = base.fingerprint
    seen = []

    def fails(student, *rest, **more):
        seen.append(
            (
                dict(base.model.named_modules()) == tree,
                dict(student.model.named_modules()).keys() == tree.keys(),
            )
        )
        raise RuntimeError("on purpose")

    monkeypatch.setattr("memedit.methods.lora.trained", fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        lora(kind=kind, steps=3).prepare(base, FACT)
    assert seen == [(True, False)]  # in the middle of it: the base as it was, the twin with other layers
    assert dict(base.model.named_modules()) == tree
    assert base.fingerprint == before
    assert [p.requires_grad for p in base.model.parameters()] == flags


def test_a_twin_shares_the_weights_and_nothing_else(lm):
    base = lm("gpt2")
    handle = base.model.transformer.h[0].register_forward_hook(lambda *_: None)
    try:
        other = twin(base)
    finally:
        handle.remove()
    for one, two in zip(base.model.parameters(), other.model.parameters(), strict=True):
        assert one is not two
        assert one.data_ptr() == two.data_ptr()
        assert not two.requires_grad
    assert not {id(m) for m in base.model.modules()} & {id(m) for m in other.model.modules()}
    assert len(other.model.transformer.h[0]._forward_hooks) == 1  # what was on when it was made; its own list
    assert other.generate(["So"], max_new_tokens=3, do_sample=False) == base.generate(
        ["So"], max_new_tokens=3, do_sample=False
    )


def test_without_peft_lora_says_what_to_do_and_a_kept_patch_still_works(lm, monkeypatch):
    base, method = lm("llama"), lora(steps=2)
    method.patch(base, FACT)
    monkeypatch.setitem(sys.modules, "peft", None)
    with method.applied(base, [[FACT]]) as model:
        model.generate([FACT.prompt], max_new_tokens=2)
    with pytest.raises(MethodError, match=r'not installed: pip install "memedit\[peft\]"'):
        method.patch(base, OTHER)


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
