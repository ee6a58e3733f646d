"""Patches as PEFT adapters and back: what `peft` loads gives the same logits, and what is no plain LoRA is refused."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer
from memory_fixtures import TrigramEncoder
from safetensors import safe_open

from memedit.cli import main
from memedit.edit import Edit
from memedit.errors import DataError, MethodError
from memedit.kept import adopt
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.methods import load_method, mend
from memedit.methods._adapter_file import CONFIG, WEIGHTS, read_adapter, write_adapter
from memedit.methods._effects import Dense, LowRank, Neurons, Swapped
from memedit.methods._hypernetwork import Editor
from memedit.methods._rows import Row, rows_applied

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
OTHER = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
SETTINGS = {"steps": 2, "prefixes": [[2, 3]]}


def untrained(base, settings):
    """An editor as its training begins, which gives the gradient itself."""
    editor = Editor(mend.edited_modules(base, 2), rank=4)
    torch.nn.init.constant_(editor.alpha, 0.1)
    return editor.requires_grad_(False)


def logits(model, base, text="The capital of France is"):
    with torch.no_grad():
        return model(**base.tokenize([text])).logits


def term(base, name, rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = base.model.get_submodule(name).weight
    out, wide = (
        weight.shape[::-1] if type(base.model.get_submodule(name)).__name__ == "Conv1D" else weight.shape
    )
    return LowRank(
        torch.randn(out, rank, generator=generator) / 8, torch.randn(rank, wide, generator=generator) / 8
    )


def added(base, modules):
    """Logits with the terms added to the weights of a copy."""
    model = tiny_model(base.model.config.model_type)
    with torch.no_grad():
        for name, effect in modules.items():
            module = model.get_submodule(name)
            change = effect.up @ effect.down
            module.weight += change.T if type(module).__name__ == "Conv1D" else change
    return logits(model, base)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_plain_peft_loads_an_exported_adapter_with_the_same_logits(family, tmp_path):
    peft = pytest.importorskip("peft", reason="the adapter is loaded by peft, an optional package")
    base = HFModel(tiny_model(family), tiny_tokenizer())
    rome, memit = load_method("rome", **SETTINGS), load_method("memit", layer=1, span=2, **SETTINGS)
    modules = dict(rome.row_patch(base, [FACT, OTHER]))  # rank 2 in one module
    for name, effect in memit.row_patch(base, [FACT]).items():  # and other ranks in others
        modules[name] = modules[name] + effect if name in modules else effect
    ranks = write_adapter(tmp_path / "adapter", base, modules, {"memedit.method": "rome"})
    assert len(set(ranks.values())) == 2
    plain = tiny_model(family)
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    assert {type(m).__name__ for m in loaded.modules()} >= {"ParametrizationList"} or hasattr(
        loaded, "base_model"
    )
    assert torch.allclose(logits(loaded, base), added(base, modules), atol=1e-4)
    assert not torch.allclose(logits(loaded, base), logits(base.model, base), atol=1e-2)
    again = read_adapter(tmp_path / "adapter", base)
    for name, effect in modules.items():
        assert torch.allclose(again[name].up @ again[name].down, effect.up @ effect.down, atol=1e-6)


def test_an_adapter_that_peft_made_becomes_the_same_change(tmp_path):
    peft = pytest.importorskip("peft", reason="the adapter is made by peft, an optional package")
    base = HFModel(tiny_model("llama"), tiny_tokenizer())
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2},
        alpha_pattern={"layers.1.mlp.down_proj": 5}, init_lora_weights=False,
    )  # fmt: skip
    torch.manual_seed(0)
    made = peft.get_peft_model(tiny_model("llama"), config).eval()
    made.save_pretrained(tmp_path / "own")
    modules = read_adapter(tmp_path / "own", base)
    assert {len(effect.down) for effect in modules.values()} == {2, 4}
    assert torch.allclose(logits(made, base), added(base, modules), atol=1e-4)
    rooted = {**json.loads((tmp_path / "own" / CONFIG).read_text()), "use_rslora": True}
    (tmp_path / "own" / CONFIG).write_text(json.dumps(rooted))
    other = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "own").eval()
    assert torch.allclose(logits(other, base), added(base, read_adapter(tmp_path / "own", base)), atol=1e-4)


def test_swapped_value_rows_are_of_low_rank_and_what_is_not_is_refused(lm, tmp_path):
    base = lm("gpt2")
    name = "transformer.h.0.mlp.c_proj"
    swap = Swapped(torch.tensor([3, 7]), torch.ones(2, 32))
    write_adapter(tmp_path / "swap", base, {name: swap}, {})
    change = read_adapter(tmp_path / "swap", base)[name]
    weight = base.model.get_submodule(name).weight.T + change.up @ change.down
    assert torch.allclose(weight[:, [3, 7]], torch.ones(32, 2), atol=1e-5)
    neurons = Neurons(torch.ones(1, 32), torch.ones(1), torch.ones(1, 32), torch.tensor([104]))
    for effect in (Dense(torch.ones(32, 128)), neurons, term(base, name, 1) + Dense(torch.ones(32, 128))):
        with pytest.raises(MethodError, match="a LoRA adapter holds low-rank changes of weights alone"):
            write_adapter(tmp_path / "no", base, {name: effect}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["swap"]
    with pytest.raises(DataError, match="is there and not empty"):
        write_adapter(tmp_path / "swap", base, {name: swap}, {})
    with pytest.raises(DataError, match="there is no folder"):
        write_adapter(tmp_path / "a" / "b", base, {name: swap}, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter; only LoRA"),
        ({"use_dora": True}, "trains DoRA"),
        ({"modules_to_save": ["lm_head"]}, r"trains whole modules \(modules_to_save\)"),
        ({"bias": "all"}, "trains biases of the base"),
        ({"target_parameters": ["w"]}, "trains factors of bare parameters"),
    ],
)
def test_an_adapter_that_is_more_than_lora_is_refused(lm, tmp_path, change, said):
    base = lm("llama")
    write_adapter(
        tmp_path / "a",
        base,
        {"model.layers.0.mlp.down_proj": term(base, "model.layers.0.mlp.down_proj", 2)},
        {},
    )
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    (tmp_path / "a" / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(DataError, match=said):
        read_adapter(tmp_path / "a", base)


def test_an_adapter_of_another_base_is_refused(lm, tmp_path):
    from safetensors.torch import load_file, save_file

    base, name = lm("llama"), "model.layers.0.mlp.down_proj"
    write_adapter(tmp_path / "a", base, {name: term(base, name, 2)}, {})
    with pytest.raises(DataError, match="was made for other weights"):
        read_adapter(tmp_path / "a", lm("qwen3"))
    tensors = load_file(tmp_path / "a" / WEIGHTS)
    save_file(tensors, tmp_path / "a" / WEIGHTS)  # as others write it: no word of the base
    assert read_adapter(tmp_path / "a", base)
    with pytest.raises(DataError, match=r"another base: its factors .* has no such linear module"):
        read_adapter(tmp_path / "a", lm("gpt2"))
    a, b = (f"base_model.model.{name}.lora_{x}.weight" for x in "AB")
    save_file({a: torch.ones(2, 50), b: torch.ones(32, 2)}, tmp_path / "a" / WEIGHTS)
    with pytest.raises(DataError, match=r"the module is \(32, 48\)"):
        read_adapter(tmp_path / "a", base)
    save_file({a: tensors[a]}, tmp_path / "a" / WEIGHTS)
    with pytest.raises(DataError, match="only one of the two factors"):
        read_adapter(tmp_path / "a", base)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2, 2)}, tmp_path / "a" / WEIGHTS)
    with pytest.raises(DataError, match="which is no factor of a linear layer"):
        read_adapter(tmp_path / "a", base)
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    (tmp_path / "a" / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "some/other"}))
    named = HFModel(tiny_model("llama"), tiny_tokenizer())
    named.model.config._name_or_path = "some/one"
    with pytest.raises(DataError, match="was trained for the base 'some/other', and this one is 'some/one'"):
        read_adapter(tmp_path / "a", named)
    (tmp_path / "a" / WEIGHTS).write_bytes(b"no")
    with pytest.raises(DataError, match="can't be read"):
        read_adapter(tmp_path / "a", base)
    (tmp_path / "a" / WEIGHTS).unlink()
    with pytest.raises(DataError, match="pickled weights are not read"):
        read_adapter(tmp_path / "a", base)
    with pytest.raises(DataError, match=f"holds no {CONFIG}"):
        read_adapter(tmp_path, base)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command, with a small model saved as a folder and a memory of two edits."""
    monkeypatch.chdir(tmp_path)
    tiny_model("llama").save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    with EditMemory.open("mine", encoder=TrigramEncoder()) as memory:
        memory.add([FACT, OTHER.updated(method="rome")])

    def call(*args, code=0):
        done = CliRunner().invoke(main, [*args, "--memory", "mine"])
        assert done.exit_code == code, done.output
        return done.stdout if "--json" in args else done.output

    return call


def test_export_and_import_as_commands(run, tmp_path):
    how = ["--format", "peft", "--model", "model", "--set", "rome.prefixes=[[2,3]]", "--set", "rome.steps=3"]
    said = json.loads(run("export", "all", *how, "--method", "rome", "--json"))
    assert (said["edits"], list(said["ranks"].values())) == ([1, 2], [2])
    one = run("export", "one", *how, "--edit", "2")
    assert "exported 1 edit by rome to one" in one
    assert "several methods (ice, rome); take one by --method" in run("export", "x", *how, code=1)
    assert "ice has no patches" in run("export", "x", *how, "--edit", "1", code=1)
    said = run("import", "one", "--format", "peft", "--model", "model", "--edit", "1")
    assert "edit 1 has one as its patch by lora" in said
    assert "ask with --method lora" in said
    shown = json.loads(run("show", "1", "--json"))
    assert [(p["method"], p["notes"]["from"]) for p in shown["patches"] if p["method"] == "lora"] == [
        ("lora", "one")
    ]
    base, lora = HFModel.from_pretrained("model"), load_method("lora")
    with EditMemory.open("mine", encoder=TrigramEncoder()) as memory:
        data = memory.get_patch(lora.key(base, memory.get(1).edit))
    from memedit.methods._patch import Patch

    (effect,) = Patch.from_bytes(data).modules.values()
    assert torch.allclose(
        effect.up @ effect.down, *[e.up @ e.down for e in read_adapter(tmp_path / "one", base).values()]
    )
    assert not (tmp_path / "x").exists()


def test_of_edits_that_answer_the_same_the_exported_one_alone_is_named(run, tmp_path):
    newer = FACT.updated(target="Nice")
    with EditMemory.open("mine", encoder=TrigramEncoder()) as memory:
        memory.add(newer, keep_both=True)
        assert len(memory.list()) == 3
    how = ["--format", "peft", "--model", "model", "--set", "rome.prefixes=[[2,3]]", "--set", "rome.steps=3"]
    said = json.loads(run("export", "all", *how, "--method", "rome", "--json"))
    assert (said["edits"], list(said["ranks"].values())) == ([2, 3], [2])
    with safe_open(tmp_path / "all" / WEIGHTS, "pt") as file:
        assert file.metadata()["memedit.edits"] == "2 3"


def test_what_does_not_go_together_is_said(run):
    assert "go with --format peft" in run("export", "x.jsonl", "--edit", "1", code=2)
    assert "name it by --edit" in run("import", "model", "--format", "peft", code=2)
    assert "is a directory; name a file" in run("import", "model", code=2)
    assert "holds no adapter_config.json" in run(
        "import", "model", "--format", "peft", "--model", "model", "--edit", "1", code=1
    )


@pytest.mark.parametrize(
    ("spoiled", "said"), [("inf", "not finite"), ("nan", "not finite"), ("rank", "rank 0")]
)
def test_an_adapter_that_is_not_finite_or_of_no_rank_is_refused(lm, tmp_path, spoiled, said):
    from safetensors.torch import load_file, save_file

    base, name = lm("llama"), "model.layers.0.mlp.down_proj"
    write_adapter(tmp_path / "a", base, {name: term(base, name, 2)}, {})
    tensors = load_file(tmp_path / "a" / WEIGHTS)
    for key, tensor in tensors.items():
        if spoiled == "rank":
            tensors[key] = (tensor[:0] if "lora_A" in key else tensor[:, :0]).contiguous()
        else:
            tensor[0, 0] = float(spoiled)
    save_file(tensors, tmp_path / "a" / WEIGHTS)
    with pytest.raises(DataError, match=said):
        read_adapter(tmp_path / "a", base)


def test_what_is_not_finite_is_adopted_from_nowhere(lm, tmp_path):
    base, name = lm("llama"), "model.layers.0.mlp.down_proj"
    bad = LowRank(term(base, name, 1).up, term(base, name, 1).down * float("nan"))
    with EditMemory.open(tmp_path / "mine", encoder=TrigramEncoder()) as memory:
        memory.add([FACT])
        with pytest.raises(MethodError, match=f"what x does to {name} is not finite"):
            adopt(memory, base, load_method("lora"), memory.get(1), {name: bad}, "x")
        assert memory.patches() == []


@pytest.mark.parametrize("name", ["ft-m", "ft-l", "t-patcher", "grace"])
def test_what_has_no_low_rank_patches_is_refused_before_any_is_made(run, name, monkeypatch):
    monkeypatch.setattr(
        "memedit.methods.patched.PatchMethod.prepare", None
    )  # it would fail if it were called
    monkeypatch.setattr("memedit.lm.HFModel.from_pretrained", None)
    said = run("export", "x", "--format", "peft", "--model", "model", "--method", name, code=1)
    assert f"the patches of {name} are no low-rank changes of weights" in said


@pytest.mark.parametrize("name", ["ultraedit", "lora", "kn", "mend", "pmet"])
def test_a_methods_own_patch_comes_back_from_peft(name, lm, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft", reason="the adapter is loaded by peft, an optional package")
    monkeypatch.setattr(mend, "editor_for", untrained)
    base = HFModel(tiny_model("llama"), tiny_tokenizer())
    quick = {
        "ultraedit": {"warm": 4},
        "lora": {"steps": 2},
        "kn": {"steps": 2, "prefixes": [[1, 3]]},
        "pmet": SETTINGS,
    }
    edit = FACT.updated(old="Paris")
    modules = load_method(name, **quick.get(name, {})).row_patch(base, [edit])
    write_adapter(tmp_path / "adapter", base, modules, {})
    loaded = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "adapter").eval()
    with rows_applied(base, [Row(patch=modules)]) as model:
        (routed,) = model.score([FACT.prompt], ["Lyon"])
    (own,) = HFModel(loaded, tiny_tokenizer()).score([FACT.prompt], ["Lyon"])
    assert own.logprob == pytest.approx(routed.logprob, abs=1e-3)
    assert own.logprob != pytest.approx(base.score([FACT.prompt], ["Lyon"])[0].logprob, abs=1e-4)
