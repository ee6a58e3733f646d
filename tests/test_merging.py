"""Edits in the weights of a copy: the literature's way, the command that saves such a model, and what it is measured by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer
from memory_fixtures import TrigramEncoder

from memedit.cli import main
from memedit.drift import Drift, Standard, shipped_questions
from memedit.edit import Edit
from memedit.errors import DataError, MethodError
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.merging import Merged
from memedit.methods import _layers, load_method, mend
from memedit.methods._effects import LowRank, Neurons, Swapped
from memedit.methods._hypernetwork import Editor
from memedit.methods.alphaedit import projected
from memedit.methods.patched import Solved

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
OTHER = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
SEARCH = {"steps": 12, "lr": 0.3, "prefixes": [[2, 3]]}
QUICK = {
    "rome": SEARCH,
    "memit": SEARCH,
    "alphaedit": {**SEARCH, "share": 0.6},
    "ft-m": {"steps": 3},
    "ultraedit": {"warm": 6},
    "pmet": SEARCH,
    "kn": {"steps": 4, "prefixes": [[1, 3]]},
    "lora": {"steps": 3},
    "ft-l": {"steps": 3},
}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("rome", "gpt2"), ("memit", "llama"), ("ft-m", "gpt2"), ("ultraedit", "opt"), ("pmet", "gpt2"), ("kn", "llama"),
        ("lora", "llama"), ("ft-l", "gpt2"), ("mend", "llama"),
    ],
)  # fmt: skip
def test_one_merged_edit_says_what_the_routed_one_says_and_the_base_stays(lm, monkeypatch, name, family):
    if name == "lora":
        pytest.importorskip("peft", reason="lora is trained by peft, an optional package")

    def untrained(base, settings):
        editor = Editor(mend.edited_modules(base, 2), rank=4)
        torch.nn.init.constant_(editor.alpha, 0.1)
        return editor.requires_grad_(False)

    monkeypatch.setattr(mend, "editor_for", untrained)
    base, method = lm(family), load_method(name, **QUICK.get(name, {}))
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    with method.applied(base, [[FACT]]) as model:
        (routed,) = model.score([FACT.prompt], ["Lyon"])
    merged = Merged(base, load_method(name, **QUICK.get(name, {})))
    assert (
        merged.lm.score([FACT.prompt], ["Lyon"])[0].logprob == base.score([FACT.prompt], ["Lyon"])[0].logprob
    )
    merged.add(FACT)
    (own,) = merged.lm.score([FACT.prompt], ["Lyon"])
    assert own.logprob == pytest.approx(routed.logprob, abs=1e-2)
    assert own.logprob > base.score([FACT.prompt], ["Lyon"])[0].logprob
    assert all(torch.equal(before[key], tensor) for key, tensor in base.model.state_dict().items())


def test_a_later_edit_is_solved_on_the_weights_that_the_earlier_left(lm, monkeypatch):
    base, rome, alone = lm("llama"), load_method("rome", **SEARCH), load_method("rome", **SEARCH)
    estimated = []
    estimate = __import__("memedit.methods._moments", fromlist=["estimate"]).estimate
    monkeypatch.setattr(
        "memedit.methods._moments.estimate", lambda *a: estimated.append(a[0]) or estimate(*a)
    )
    merged, found = Merged(base, rome), []
    solve = rome.solve
    monkeypatch.setattr(rome, "solve", lambda *a: found.append(solve(*a)) or found[-1])
    merged.add(FACT)
    merged.add(OTHER)
    (effect,), (single,) = found[1].modules.values(), alone.solved(base, OTHER).modules.values()
    assert not torch.allclose(effect.up, single.up, atol=1e-3)
    assert merged.lm not in estimated  # the covariance stays the base's
    assert merged.edits == 2


def test_alphaedit_minds_the_keys_of_earlier_edits(lm):
    generator = torch.Generator().manual_seed(0)
    free = torch.linalg.qr(torch.randn(9, 5, generator=generator, dtype=torch.float64))[0]
    p, l2 = free @ free.T, 0.01
    k, kp = (torch.randn(9, n, generator=generator, dtype=torch.float64) for n in (1, 3))
    paper = k.T @ p @ torch.linalg.inv(kp @ kp.T @ p + k @ k.T @ p + l2 * torch.eye(9, dtype=torch.float64))
    ours = projected(k, free, l2, free.T @ kp)
    assert torch.allclose(ours, paper, atol=1e-10)
    assert (ours @ p @ kp).norm() < (projected(k, free, l2) @ p @ kp).norm() / 2
    method = load_method("alphaedit", **QUICK["alphaedit"])
    merged = Merged(lm("llama"), method)
    for i, edit in enumerate((FACT, OTHER)):
        merged.add(edit)
        assert {keys.shape[1] for keys in method.sequel.values()} == {i + 1}
    assert not merged.resumable


def test_ultraedits_statistics_go_on_from_edit_to_edit(lm):
    method = load_method("ultraedit", warm=6)
    first = method.solved(lm("llama"), FACT).notes["seen"]
    merged = Merged(lm("llama"), method)
    tokens = len(lm("llama").target_ids(OTHER.prompt, OTHER.target))
    assert merged.add(FACT)["seen"] == first
    assert merged.add(OTHER)["seen"] == first + tokens


@pytest.mark.parametrize("name", ["alphaedit", "ultraedit"])
def test_a_refused_edit_hands_nothing_on(lm, monkeypatch, name):
    method = load_method(name, **QUICK[name])
    merged, solve = Merged(lm("llama"), method), method.solve

    def spoilt(*args):
        found = solve(*args).modules
        bad = next(iter(found))
        return Solved({**found, bad: LowRank(found[bad].up * torch.nan, found[bad].down)})

    for _ in range(2):  # nothing was handed on before, and something
        with monkeypatch.context() as patched:
            patched.setattr(method, "solve", spoilt)
            before = dict(method.sequel)
            with pytest.raises(MethodError, match="found no finite patch"):
                merged.add(OTHER)
        assert method.sequel.keys() == before.keys()
        assert all(method.sequel[module] is before[module] for module in before)
        merged.add(FACT)


@pytest.mark.parametrize("name", ["memit", "alphaedit"])
def test_keys_that_are_no_numbers_are_a_refused_edit(lm, monkeypatch, name):
    merged, held = Merged(lm("llama"), load_method(name, **QUICK[name])), _layers.held_now
    monkeypatch.setattr(_layers, "held_now", lambda *a: (held(*a)[0] * torch.inf, held(*a)[1]))
    with pytest.raises(MethodError, match=f"{name} meets no finite numbers at model.layers"):
        merged.add(FACT)
    assert merged.edits == 0


def test_what_is_no_change_of_a_weight_is_refused_and_nothing_is_written(lm, monkeypatch):
    base = lm("gpt2")
    with pytest.raises(MethodError, match="ice changes no weights"):
        Merged(base, load_method("ice"))
    merged = Merged(base, load_method("grace", steps=2))
    with pytest.raises(MethodError, match=r"grace can't be merged: its patch \(replaced\)"):
        merged.add(FACT)
    name, method = "transformer.h.0.mlp.c_proj", load_method("ft-m", steps=1)
    swap, merged = Swapped(torch.tensor([3]), torch.ones(1, 32)), Merged(base, method)
    neurons = Neurons(torch.ones(1, 32), torch.ones(1), torch.ones(1, 32), torch.tensor([104]))
    before = merged.lm.fingerprint
    monkeypatch.setattr(method, "solve", lambda *a: Solved({name: swap + neurons}))
    with pytest.raises(MethodError, match="neurons"):
        merged.add(FACT)
    assert (merged.lm.fingerprint, merged.edits) == (before, 0)
    monkeypatch.setattr(method, "solve", lambda *a: Solved({name: swap}))
    merged.add(FACT)
    assert torch.equal(merged.lm.model.get_submodule(name).weight[3], torch.ones(32))


def test_half_precision_is_written_by_way_of_single():
    base = HFModel(tiny_model("llama").to(torch.bfloat16), tiny_tokenizer())
    merged = Merged(base, load_method("ft-m", steps=2))
    merged.add(FACT)
    (name,) = merged.changed
    assert merged.lm.model.get_submodule(name).weight.dtype == torch.bfloat16
    assert not torch.equal(merged.lm.model.get_submodule(name).weight, base.model.get_submodule(name).weight)


def test_a_stopped_merge_goes_on(lm, tmp_path):
    base = lm("llama")
    whole = Merged(base, load_method("ft-m", steps=2))
    whole.add(FACT)
    whole.save_state(tmp_path / "state")
    again = Merged(base, load_method("ft-m", steps=2))
    again.load_state(tmp_path / "state")
    for merged in (whole, again):
        merged.add(OTHER)
    assert (again.lm.fingerprint, again.edits) == (whole.lm.fingerprint, 2)
    with pytest.raises(DataError, match="delete it to begin anew"):
        Merged(lm("gpt2"), load_method("ft-m")).load_state(tmp_path / "state")


def test_mends_editor_serves_a_copy_whose_weights_have_moved(tmp_path):
    base = HFModel.from_pretrained("base")
    first = Merged(base, load_method("mend"))
    first.add(FACT)
    first.save_state(tmp_path / "state")
    again = Merged(HFModel.from_pretrained("base"), load_method("mend"))  # nothing is known of this one yet
    again.load_state(tmp_path / "state")
    for merged in (first, again):
        merged.add(OTHER)
    assert again.lm.fingerprint == first.lm.fingerprint


# -- drift


def test_drift_is_of_the_whole_text_and_the_shipped_questions(lm, tmp_path):
    assert len(set(shipped_questions())) == len(shipped_questions()) > 100
    text = tmp_path / "text"
    text.write_text("too short\n" + "\n".join(f"w{i} " * 20 for i in range(10)))
    standard = Standard.of(str(text), 5, 3)
    assert [read.split()[0] for read, _ in standard.passages] == ["w0", "w2", "w4", "w6", "w8"]
    assert {(len(read.split()), len(rest.split())) for read, rest in standard.passages} == {(8, 12)}
    base = lm("llama")
    scores = base.score(*map(list, zip(*standard.passages, strict=True)))
    loss = -sum(s.logprob for s in scores) / sum(len(s.agreed) for s in scores)
    assert standard.measure(base).perplexity == pytest.approx(float(torch.tensor(loss).exp()), rel=1e-4)
    told = Standard(
        standard.passages,
        tuple((q, base.generate([q], max_new_tokens=8, do_sample=False)[0]) for q in ("a b", "c d")),
    )
    assert told.measure(base).accuracy > 0
    with pytest.raises(DataError, match="no line of 12 words"):
        Standard.of(str(_written(tmp_path / "short", "a b c")), 5, 3)
    with pytest.raises(DataError, match="can't be read"):
        Standard.of(str(tmp_path / "none"), 5, 3)


def _written(path, text):
    path.write_text(text)
    return path


# -- the command


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command, with a small model saved as a folder and a memory of two edits."""
    monkeypatch.chdir(tmp_path)
    tiny_model("llama").save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    with EditMemory.open("mine", encoder=TrigramEncoder()) as memory:
        memory.add([FACT, OTHER])

    def call(*args, code=0):
        done = CliRunner().invoke(
            main, ["merge", *args, "--memory", "mine", "--passages", "3", "--questions", "2"]
        )
        assert done.exit_code == code, done.output
        return done

    return call


def test_a_merged_model_is_used_with_plain_transformers(run, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    how = ["--model", "model", "--method", "ft-m", "--set", "ft-m.steps=3"]
    done = run("--output", "new", *how, "--json")
    said = json.loads(done.stdout)
    assert (said["edits"], said["left_out"], said["method"]) == (2, [], "ft-m")
    before, after = (Drift(**said["drift"][when]) for when in ("before", "after"))
    assert before.perplexity != after.perplexity
    assert (
        f"warning: merged edits change what no edit is about: perplexity {before.perplexity:.1f} before"
        in done.stderr
    )
    base = HFModel.from_pretrained("model")
    merged = Merged(base, load_method("ft-m", steps=3))
    for edit in (FACT, OTHER):
        merged.add(edit)
    model, tokenizer = AutoModelForCausalLM.from_pretrained("new"), AutoTokenizer.from_pretrained("new")
    ids = tokenizer([FACT.prompt], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**ids).logits, merged.lm.model(**ids).logits)
        assert not torch.equal(model(**ids).logits, base.model(**ids).logits)
    assert "is there and not empty" in run("--output", "new", *how, code=1).output
    assert "there is no folder" in run("--output", "a/b", *how, code=1).output


def test_a_merged_model_is_stored_in_the_bases_own_type(run):
    from transformers import AutoModelForCausalLM

    tiny_model("llama").to(torch.bfloat16).save_pretrained("model")
    how = ["--model", "model", "--method", "ft-m", "--set", "ft-m.steps=3", "--device", "cpu"]
    run("--output", "same", *how)
    run("--output", "other", *how, "--dtype", "float32")
    for name, dtype in (("same", torch.bfloat16), ("other", torch.float32)):
        assert json.loads(Path(name, "config.json").read_text())["dtype"] == str(dtype)[6:]
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
        assert {w.dtype for w in model.parameters()} == {dtype}


def test_what_can_not_be_merged_leaves_no_folder(run, tmp_path):
    assert "ice changes no weights" in run("--output", "new", "--model", "model", code=1).output
    grace = ["--model", "model", "--method", "grace", "--set", "grace.steps=1"]
    assert "no edit could be merged: grace can't be merged" in run("--output", "new", *grace, code=1).output
    with EditMemory.open("mine", encoder=TrigramEncoder()) as memory:
        memory.forget(1)
    assert "edit 1 was forgotten" in run("1", "--output", "new", *grace, code=1).output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "model"]
