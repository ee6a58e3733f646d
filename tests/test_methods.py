"""The contract that every method in the table of names must pass; new methods are picked up by being in the table."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields

import pytest
import torch
from conftest import ALL_FAMILIES, tiny_model, tiny_tokenizer

from memedit.data import Demonstration
from memedit.edit import Edit
from memedit.errors import MethodError, ModelError
from memedit.lm import HFModel
from memedit.methods import METHODS, load_method, mend, method_info
from memedit.methods._effects import LowRank, Now, Swapped, reads, stacked
from memedit.methods._hypernetwork import Editor
from memedit.methods._patch import Patch
from memedit.methods.alphaedit import projected
from memedit.methods.memit import normal
from memedit.methods.mend import edited_modules
from memedit.methods.rome import solved
from memedit.methods.ultraedit import step

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France", old="Paris")
OTHER = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
PROMPTS = ["What is the capital of France?", "Two and two", "The capital of Peru is"]
OPTIONS = {"max_new_tokens": 6, "do_sample": False}


def demonstrations(text, k, usable):
    """Three facts with falling cosines, as `retrieve` gives them."""
    facts = [
        Demonstration(
            f"{name} is in", place, f"{name} is in {place}.", name, (f"Where is {name}?",), (("So is", "it"),)
        )
        for name, place in (("Ode", "Oslo"), ("Lima", "Peru"), ("Moe", "Rome"))
    ]
    usable_facts = [fact for fact in facts if usable(fact)]
    return [(0.9 - 0.1 * i, fact) for i, fact in enumerate(usable_facts[:k])]


HANDED = {"demonstrations": {"retrieve": demonstrations}}


# What makes the tests quick; a method that needs nothing of it has no entry.
_SEARCH = {"steps": 12, "lr": 0.3, "prefixes": [[2, 3]]}
QUICK = {
    "rome": _SEARCH,
    "memit": _SEARCH,
    "pmet": _SEARCH,
    # Random keys use all directions alike: the default's share leaves one of 48.
    "alphaedit": {**_SEARCH, "steps": 20, "lr": 1.0, "share": 0.6},
    "ft-m": {"steps": 3},
    "ft-l": {"steps": 3},
    "lora": {"steps": 3},
    "ultraedit": {"warm": 6},
    # Tiny models' keys are short: within the radius for the shipped base, any activation would be replaced.
    "grace": {"steps": 12, "radius": 0.1},
    "t-patcher": {"steps": 12, "lr": 0.05, "memory": 200},
    "kn": {"steps": 4, "prefixes": [[1, 3]]},
}


@pytest.fixture(autouse=True)
def untrained_editors(monkeypatch):
    """MEND needs an editor for each base: here one as its training begins, which gives the gradient itself."""

    def fresh(base, settings):
        editor = Editor(edited_modules(base, 2), rank=4)
        torch.nn.init.constant_(editor.alpha, 0.1)
        return editor.requires_grad_(False)

    monkeypatch.setattr(mend, "editor_for", fresh)


def made(name, **settings):
    if name == "lora":
        pytest.importorskip("peft", reason="lora is trained by peft, an optional package")
    given = {**HANDED.get(method_info(name).handed, {}), **QUICK.get(name, {}), **settings}
    return load_method(name, **given)


@pytest.fixture(params=sorted(METHODS))
def method(request):
    return made(request.param)


@pytest.fixture(params=sorted(name for name, info in METHODS.items() if info.patch != "nothing"))
def patching(request):
    """The methods that prepare a patch."""
    return made(request.param)


def test_the_table_says_what_people_want_to_know():
    for name, info in METHODS.items():
        assert info.name == name
        assert info.family in ("external", "merging", "intrinsic")
        assert info.paper
        assert info.summary
        assert type(load_method(name)).__doc__


def test_a_wrong_name_suggests_the_near_one():
    with pytest.raises(MethodError, match="did you mean ice"):
        method_info("icee")


def test_a_wrong_setting_is_refused():
    with pytest.raises(MethodError, match="does not take these settings"):
        load_method("ice", strength=3)


# By annotation: values that no setting of that type takes.
WRONG = {
    "int": ["abc", 0.5, 5.0, True, None, [1]],
    "float": ["abc", True, None, float("nan"), float("inf"), [0.5]],
    "bool": ["no", 1, None],
    "str": [5, True, None],
    "tuple[tuple[int, int], ...]": [5, "ab", [5], [[5]], [[5, 0]], [[True, 3]], [[5, 1.5]], None],
}
RANGES = {
    "layer": [-1], "steps": [0, -1], "depth": [-0.5, 1.5], "lr": [0, -1e-3], "ada_lr": [0.0], "clamp": [0, -1.0],
    "bound": [0], "ridge": [-1], "weight": [-1.0], "l2": [-1], "decay": [-0.1], "kl": [-1], "share": [-0.1, 2],
    "rank": [0], "span": [0], "top": [0], "memory": [0], "warm": [1], "radius": [-1], "seed": [-1], "t": [1.5], "p": [-1],
}  # fmt: skip


def test_a_setting_of_the_wrong_type_or_range_is_refused_at_once(patching):
    for field in fields(patching.Settings):
        kind, _, none = str(field.type).partition(" | ")
        for value in [v for v in WRONG[kind] if not (none and v is None)] + RANGES.get(field.name, []):
            with pytest.raises(MethodError, match=rf"{patching.name}\.{field.name} is .*; it must be "):
                made(patching.name, **{field.name: value})
        made(patching.name, **{field.name: field.default})


def test_equations_without_a_single_solution_name_the_setting():
    nothing, key = torch.zeros(3, 3), torch.ones(3)
    for solve in (
        lambda: solved(nothing, key, 0.0),
        lambda: normal(torch.zeros(3, 1), nothing, 1.0, 0.0),
    ):
        with pytest.raises(MethodError, match=r"take a higher ridge \(--set METHOD.ridge="):
            solve()
    with pytest.raises(MethodError, match="take a higher l2"):
        projected(torch.zeros(3, 1), torch.eye(3)[:, :2], 0.0)
    with pytest.raises(MethodError, match="take a higher l2"):
        step(torch.zeros(2, 3).double(), torch.ones(2, 3).double(), torch.ones(2, 4).double(), 1.0, 0.0)


@pytest.mark.parametrize("fails", [False, True])
def test_the_base_is_bit_equal_afterwards(method, lm, fails):
    base = lm("qwen3")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in base.model.parameters()]
    with (
        pytest.raises(RuntimeError) if fails else nullcontext(),
        method.applied(base, [[FACT], [], [OTHER]]) as model,
    ):
        model.generate(PROMPTS, **OPTIONS)
        if fails:
            raise RuntimeError("on purpose")
    assert all(torch.equal(before[n], t) for n, t in base.model.state_dict().items())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.model.modules()) == 0
    assert [(p.requires_grad, p.grad) for p in base.model.parameters()] == flags
    assert not base.model.training


def test_a_row_without_edits_is_untouched_by_its_neighbours(method, lm):
    base = lm("qwen3")
    with method.applied(base, [[FACT], [], [OTHER]]) as model:
        mixed = model.generate(PROMPTS, **OPTIONS)
    assert mixed[1] == base.generate(PROMPTS, **OPTIONS)[1]


def test_a_row_is_the_same_alone_and_in_a_batch(method, lm):
    base = lm("gpt2")
    with method.applied(base, [[FACT], [], [OTHER]]) as model:
        batch = model.generate(PROMPTS, **OPTIONS)
    for i, edits in enumerate(([FACT], [], [OTHER])):
        with method.applied(base, [edits]) as model:
            assert model.generate([PROMPTS[i]], **OPTIONS) == [batch[i]]


def test_what_a_method_needs_is_asked_for_in_one_sentence(method):
    bare = Edit(statement="The capital of France is Lyon.")
    missing = [field for field in method.info.needs if not getattr(bare, field)]
    if missing:
        with pytest.raises(MethodError, match=f"needs the edit's {missing[0]}"):
            method.check(bare)
    else:
        method.check(bare)


def test_ice_states_each_fact_oldest_first_and_withholds_what_is_erased():
    ice = load_method("ice")
    erased = Edit(prompt="The phone number of Ada Park is", kind="erase", subject="Ada Park")
    assert ice.rewrite("So?", [FACT, OTHER]) == (
        "Fact: The capital of France is Lyon.\nFact: The capital of Peru is Cusco.\nSo?"
    )
    assert ice.rewrite("So?", [erased]) == "Withheld: The phone number of Ada Park is\nSo?"
    assert ice.rewrite("So?", []) == "So?"


# -- methods that prepare a patch


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family_works_with_no_setting(patching, family, lm, request):
    if (patching.name, family) == ("pmet", "qwen2"):
        # It looks for attention's and the MLP's change together and writes the MLP's alone: on this random model that
        # one alone makes the target less likely. Known and open; docs/methods.md says so.
        request.applymarker(pytest.mark.xfail(reason="PMET leaves attention's share out", strict=False))
    base = lm(family)
    patch = patching.prepare(base, FACT)
    assert set(patch.modules) <= {name for name, _ in base.model.named_modules()}
    assert patch.about["base"] == base.fingerprint
    with patching.applied(base, [[FACT], [], [OTHER]]) as model:
        scores = model.score(PROMPTS, ["Lyon", "is four", "Cusco"])
    plain = base.score(PROMPTS, ["Lyon", "is four", "Cusco"])
    with patching.applied(base, [[FACT]]) as model:
        (own,) = model.score([FACT.prompt], [FACT.target])
    before = base.score([FACT.prompt], [FACT.target])[0].logprob
    if patching.name == "kn":  # it pushes towards the target's first token, and never looks what comes of it
        assert own.logprob != before
    else:
        assert own.logprob > before
    assert scores[1].logprob == pytest.approx(plain[1].logprob, abs=1e-4)


def test_preparing_leaves_the_base_as_it_was(patching, lm):
    base = lm("llama", True)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in base.model.parameters()]
    with torch.inference_mode():
        patching.prepare(base, FACT)
    assert all(torch.equal(before[n], t) for n, t in base.model.state_dict().items())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.model.modules()) == 0
    assert [(p.requires_grad, p.grad) for p in base.model.parameters()] == flags


def test_a_patch_is_the_same_each_time_and_survives_its_file(patching, lm):
    base = lm("qwen3")
    patch = patching.prepare(base, FACT)
    data = patch.to_bytes()
    again = Patch.from_bytes(data)
    assert again.about == {**patch.about, "format": "1"}
    assert patching.low_rank == all(isinstance(e, (LowRank, Swapped)) for e in patch.modules.values())
    for module, effect in patching.prepare(base, FACT).modules.items():
        for name, tensor in effect.tensors().items():
            assert torch.allclose(tensor, again.modules[module].tensors()[name], atol=1e-6)
    assert float(patch.about["seconds"]) > 0
    with pytest.raises(MethodError, match="can't be read"):
        Patch.from_bytes(data[:-7])
    newer = data.replace(b'"format":"1"', b'"format":"2"')
    for bad in (data[:-7], newer):
        with pytest.raises(
            MethodError, match=r"again.*`memedit prepare --anew`|`memedit prepare --anew`.*again"
        ):
            Patch.from_bytes(bad)


def test_a_patch_is_prepared_once_and_belongs_to_base_edit_and_settings(patching, lm, monkeypatch):
    base, asked = lm("qwen3"), []
    solve = patching.solve
    monkeypatch.setattr(patching, "solve", lambda b, e, s: asked.append(e) or solve(b, e, s))
    for _ in range(2):
        with patching.applied(base, [[FACT], [FACT], [OTHER]]) as model:
            model.generate(PROMPTS, **OPTIONS)
    assert asked == [FACT, OTHER]
    keys = {
        patching.key(base, FACT),
        patching.key(base, OTHER),
        patching.key(lm("llama"), FACT),
        made(patching.name, layer=1).key(base, FACT),
    }
    assert len(keys) == 4


def test_a_patch_belongs_to_the_tokenizer_and_to_what_a_named_file_holds(patching, lm, tmp_path):
    base = lm("llama")
    before = patching.key(base, FACT)
    assert patching.key(lm("llama", bos=True), FACT) != before
    base.tokenize(["a", "a longer one"])  # leaves a state of padding behind
    assert patching.key(HFModel(base.model, base.tokenizer), FACT) == before
    for name in patching.files(patching.settings_for(base)):
        one, same = tmp_path / "one", tmp_path / "same"
        for path in (one, same):
            path.write_text("The sky is blue.\nGrass is green.\n")
        key = made(patching.name, **{name: str(one)}).key(base, FACT)
        assert made(patching.name, **{name: str(same)}).key(base, FACT) == key != before
        one.write_text("The sky is red today.\nGrass is green.\n")
        assert made(patching.name, **{name: str(one)}).key(base, FACT) != key


def test_what_names_a_file_says_so():
    named = {
        name: load_method(name).files(load_method(name).Settings()).keys()
        for name, info in METHODS.items()
        if info.patch != "nothing"
    }
    text = {"rome", "memit", "pmet", "alphaedit"}
    assert {name for name, files in named.items() if "text" in files} == text
    assert {name for name, files in named.items() if "facts" in files} == {"ultraedit"}


def test_of_many_edits_the_one_that_can_not_be_prepared_is_named(lm, monkeypatch):
    method = made("ft-m")
    solve = method.solve

    def refuses(base, edit, settings):
        if edit is OTHER:
            raise MethodError("why not")
        return solve(base, edit, settings)

    monkeypatch.setattr(method, "solve", refuses)
    with pytest.raises(MethodError, match=f"ft-m can't prepare the edit '{OTHER.statement}': why not"):
        method.applied(lm("llama"), [[FACT], [OTHER]]).__enter__()


def test_a_base_whose_weights_were_changed_since_gets_another_patch(patching):
    base = HFModel(tiny_model("llama"), tiny_tokenizer())
    before = patching.key(base, FACT)
    with torch.no_grad():
        base.model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    assert patching.key(base, FACT) != before


def test_edits_of_one_row_add_up_and_of_one_question_the_newest_counts(patching, lm):
    base = lm("qwen3")
    newer = Edit(prompt="The capital of France is", target="Nice", subject="France")
    alone = patching.row_patch(base, [newer])
    assert patching.row_patch(base, [FACT, newer]).keys() == alone.keys()
    with patching.applied(base, [[FACT, newer], [newer], [FACT, OTHER]]) as model:
        both, one, _ = model.score([FACT.prompt] * 3, ["Nice"] * 3)
    assert both.logprob == pytest.approx(one.logprob, abs=1e-4)
    joined = patching.row_patch(base, [FACT, OTHER])
    for module, effect in joined.items():
        x = torch.randn(1, 2, base.model.get_submodule(module).weight.shape[1])
        y = torch.zeros(1, 2, base.model.get_submodule(module).weight.shape[0])
        source = reads([effect])
        h = torch.randn(1, 2, base.model.get_submodule(source).weight.shape[1]) if source else None

        def out(patch, module=module, x=x, y=y, h=h):
            total = y
            for change in stacked([patch.get(module)], base.model.get_submodule(module), module, x):
                total = change(x, total, h, Now([-1], 1))
            return total

        patches = [patching.row_patch(base, [edit]) for edit in (FACT, OTHER)]
        parts = [out(patch) for patch in patches]
        assert effect is not None
        if isinstance(effect, Swapped):  # a neuron has one row: where both edits want it, the newer's
            newer = patches[1].get(module)
            if newer is not None:
                assert torch.equal(effect.values[-len(newer.columns) :], newer.values)
                assert set(effect.columns.tolist()) >= set(newer.columns.tolist())
                continue
        assert torch.allclose(out(joined), parts[0] + parts[1], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_works(patching, dtype):
    base = HFModel(tiny_model("qwen3").to(dtype), tiny_tokenizer())
    with patching.applied(base, [[FACT], []]) as model:
        model.generate(PROMPTS[:2], **OPTIONS)
        assert model.score(PROMPTS[:2], ["a", "b"])[0].logprob < 0


def test_what_can_not_be_solved_is_said_in_one_sentence_and_nothing_is_kept(patching, lm):
    base = lm("gpt2")
    spaces = Edit(prompt="x" * 600 + " Peru is", target="Cusco", subject="Peru")
    with pytest.raises(ModelError, match="the model takes 512 in all"):
        patching.patch(base, spaces)
    broken = HFModel(tiny_model("llama"), tiny_tokenizer())
    broken.model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(MethodError, match="gave no number"):
        patching.patch(broken, FACT)
    training = HFModel(tiny_model("llama"), tiny_tokenizer())
    training.model.train()
    with pytest.raises(ModelError, match="training mode"):
        patching.patch(training, FACT)
    assert patching.kept.get(patching.key(broken, FACT)) is None
    number = next(f.name for f in fields(patching.Settings) if type(f.default) in (int, float))
    with pytest.raises(MethodError, match="must be a number"):
        made(patching.name, **{number: "many"})
    with pytest.raises(MethodError, match="layers 0 to 1; there is no layer 9"):
        made(patching.name, layer=9).prepare(base, FACT)


def test_beams_and_returned_sequences_keep_each_rows_patch(patching, lm):
    base = lm("qwen3")
    options = {**OPTIONS, "num_beams": 2, "num_return_sequences": 2}
    with patching.applied(base, [[FACT], [], [OTHER]]) as model:
        batch = model.generate(PROMPTS, **options)
    for i, edits in enumerate(([FACT], [], [OTHER])):
        with patching.applied(base, [edits]) as model:
            assert model.generate([PROMPTS[i]], **options) == batch[2 * i : 2 * i + 2]
