"""`memedit locate`: causal tracing, knowledge neurons, a sweep over layers, on tiny models; the command on all of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer

from memedit.cli import main
from memedit.data import Case, Query
from memedit.edit import Edit
from memedit.errors import MethodError, ModelError
from memedit.layout import Layout
from memedit.locate import KINDS, ROLES, Swept, averaged, best, neurons, sweep, trace
from memedit.locate.sweep import _asked

FACT = Edit(prompt="The home of Ada Park is", target="Rome", subject="Ada Park")


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox", "llama", "gemma"])
def test_restoring_the_last_block_at_the_last_token_brings_the_answer_back(lm, family, monkeypatch):
    base = lm(family)
    monkeypatch.setattr(base, "target_ids", lambda prompt, target: [85])  # of one token, as in the paper
    found = trace(base, FACT, "R", samples=3)
    assert set(found.effects) == set(KINDS)
    assert all(e.shape == (2, len(found.labels)) for e in found.effects.values())
    assert "".join(found.labels[i] for i in found.inside) == "Ada Park"
    last = found.effects["hidden"][-1]
    assert last[-1] == pytest.approx(found.clean - found.corrupted, abs=1e-5)
    assert np.abs(last[:-1]).max() < 1e-5, "no other token of the last block is read"
    before = found.effects["hidden"][:, : found.inside[0]]
    assert np.abs(before).max() < 1e-5, "what stands before the subject is as it was"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.model.modules())


def test_a_window_over_all_layers_restores_more_than_one_layer(lm, monkeypatch):
    base = lm("llama")
    with torch.no_grad():
        likely = int(base.model(**base.tokenize([FACT.prompt])).logits[0, -1].argmax())
    monkeypatch.setattr(base, "target_ids", lambda prompt, target: [likely])
    one, all_ = (trace(base, FACT, "R", kinds=["mlp"], samples=2, window=w) for w in (1, 2))
    assert (one.window, all_.window) == (1, 2)
    # A window of two that begins at the last layer has that one alone.
    assert np.allclose(one.effects["mlp"][1], all_.effects["mlp"][1], atol=1e-7)
    assert not np.allclose(one.effects["mlp"][0], all_.effects["mlp"][0])


def test_the_noise_is_its_seed_s_and_its_size_counts(lm):
    base = lm("gpt2")
    a, b, c = (trace(base, FACT, "R", kinds=["hidden"], samples=2, seed=s).corrupted for s in (0, 0, 1))
    assert a == b != c
    small = trace(base, FACT, "R", kinds=["hidden"], samples=2, times=1e-6)
    assert small.corrupted == pytest.approx(small.clean, rel=1e-3)
    assert trace(base, FACT, "R", kinds=["hidden"], samples=2).noise == pytest.approx(3e6 * small.noise)


def test_several_facts_are_averaged_by_what_tokens_are(lm):
    base = lm("gpt2")
    short = Edit(prompt="Of X it", target="y", subject="X")
    one, two = (trace(base, e, "R", kinds=["hidden"], samples=2) for e in (FACT, short))
    mean = averaged([one, two])
    assert mean.labels == ROLES
    end = max(one.inside), max(two.inside)
    expected = (one.effects["hidden"][:, end[0]] + two.effects["hidden"][:, end[1]]) / 2
    assert np.allclose(mean.effects["hidden"][:, 2], expected)
    assert np.allclose(mean.effects["hidden"][:, 0], one.effects["hidden"][:, min(one.inside)]), (
        "the other has none"
    )
    assert np.isnan(averaged([two]).effects["hidden"][:, 1]).all()
    json.dumps(averaged([two]).to_dict(), allow_nan=False)


def test_what_can_not_be_traced_is_said_in_one_sentence(lm):
    base = lm("gpt2")
    with pytest.raises(MethodError, match="ends in its subject"):
        trace(base, Edit(prompt="Tell me of Ada Park", target="Rome", subject="Ada Park"), "R")
    with pytest.raises(MethodError, match="give --subject"):
        trace(base, Edit(prompt="it is there", target="Rome"), "R")
    with pytest.raises(ModelError, match="the model takes 512"):
        trace(base, Edit(prompt="x " * 300 + "Ada Park is", target="Rome", subject="Ada Park"), "R")


def test_neurons_of_several_prompts_are_those_that_stand_out_in_most(lm):
    base = lm("llama")
    one = neurons(base, [FACT.prompt], "R", steps=4)
    assert sum(one.counts) == len(one.found) > 0
    assert len(one.sums) == len(one.counts) == 2
    assert [n.attribution for n in one.found] == sorted((n.attribution for n in one.found), reverse=True)
    none = neurons(base, [FACT.prompt], "R", steps=4, t=1.0)
    assert none.found == ()
    json.dumps(one.to_dict())


def test_a_sweep_edits_at_each_layer_and_asks_what_came_of_it(lm):
    base = lm("qwen3")
    case = Case("", FACT, (Query("paraphrase", "Ada Park's home is"), Query("locality", "Two and two")))
    gentle = sweep(base, "ft-m", [case], settings={"steps": 2, "lr": 1e-9})
    assert [(s.layer, s.es, s.gen, s.neighbours) for s in gentle] == [(0, 0.0, 0.0, 1.0), (1, 0.0, 0.0, 1.0)]
    assert best(gentle) is None
    (rough,) = sweep(base, "ft-m", [case], layers=[1], settings={"steps": 2, "lr": 5.0})
    assert (rough.layer, rough.neighbours) == (1, 0.0)
    (bare,) = sweep(base, "ft-m", [Case("", FACT, ())], layers=[0], settings={"steps": 1})
    assert (bare.gen, bare.neighbours) == (None, None)
    with pytest.raises(MethodError, match="no layer to choose"):
        sweep(base, "ice", [case])
    for layers, words in (
        ([9], "there is no layer 9"),
        ([0, 9], "there is no layer 9"),
        ([], "no layer to try"),
    ):
        with pytest.raises(MethodError, match=words):
            sweep(base, "ft-m", [case], layers=layers)


def test_a_sweep_counts_the_paraphrases_that_the_base_answered_with_the_old_fact(lm, monkeypatch):
    base = lm("qwen3")
    said = {FACT.prompt: "Rome", "a": "Rome.", "b": "Oslo", "c": "Rome", "d": "x"}
    monkeypatch.setattr(type(base), "generate", lambda self, prompts, **o: [said[p] for p in prompts])
    queries = (
        Query("paraphrase", "a"), Query("paraphrase", "b"), Query("paraphrase", "c", label="rephrase_prompt"),
        Query("locality", "d"), Query("paraphrase", "c", of=1),
    )  # fmt: skip
    case = Case("", FACT.updated(old="Rome", target="Oslo"), queries)
    assert [(kind, prompt) for prompt, kind, _ in _asked(base, case)] == [
        ("es", FACT.prompt),
        ("gen", "a"),
        ("neighbours", "d"),
    ]
    unknown = Case("", FACT.updated(old="", target="Oslo"), queries)
    assert [prompt for prompt, kind, _ in _asked(base, unknown) if kind == "gen"] == ["a"]


def test_layers_that_a_model_has_not_are_refused_before_any_work(model, monkeypatch):
    for name in ("trace", "neurons"):
        monkeypatch.setattr(f"memedit.locate.{name}", None)  # it would fail if it were called
    swept = (*GIVEN, "--model", model, "--sweep")
    assert "layers 0 to 1; there is no layer 99" in run(*swept, "rome", "--layers", "99", code=1).stderr
    assert "ice has no layer to choose" in run(*swept, "ice", code=1).stderr
    assert "write the lower of 5-3 first: 3-5" in run(*swept, "rome", "--layers", "5-3", code=2).stderr
    assert "no model has a layer" in run(*swept, "rome", "--layers", "0-99999999999", code=2).stderr


def test_the_best_layer_is_good_at_all_that_was_asked():
    found = [
        Swept(0, 1.0, 0.2, 1.0, 0.43, 0),
        Swept(3, 0.9, 0.8, 0.9, 0.86, 0),
        Swept(4, 0.9, 0.8, 0.9, 0.86, 0),
    ]
    assert best(found).layer == 3
    assert best([Swept(0, 0.0, 0.0, 1.0, 0.0, 0)]) is None


# -- the command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("model"))
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def run(*args, code=0):
    done = CliRunner().invoke(main, ["locate", *map(str, args)])
    assert done.exit_code == code, done.output
    return done


GIVEN = ("--prompt", FACT.prompt, "--subject", FACT.subject, "--target", "Rome")
FEW = ("--samples", "1", "--steps", "2", "--window", "1")


def test_one_fact_as_json_and_as_a_picture(model, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "fact.svg"
    sweep_of = ("--sweep", "ft-m", "--layers", "0-1", "--set", "ft-m.steps=1")
    out = json.loads(run(*GIVEN, *FEW, *sweep_of, "--model", model, "--figure", picture, "--json").stdout)
    assert set(out["facts"][0]["effects"]) == set(KINDS)
    assert len(out["neurons"][0]["per_layer"]) == len(Layout.of(tiny_model("llama")))
    assert [one["layer"] for one in out["sweep"]["layers"]] == [0, 1]
    drawn = picture.read_text()
    assert drawn.count("<image") >= 3
    said = run(*GIVEN, *FEW, "--model", model, "--what", "hidden").stdout
    assert "hidden: largest at layer" in said
    assert said.count("to model.layers.0.mlp.down_proj") == 1  # which modules the layout took
    assert "hardly gives this answer" in said


def test_a_file_of_facts_is_averaged_and_what_can_not_be_traced_is_left_out(model, tmp_path):
    facts = tmp_path / "facts.jsonl"
    rows = [
        {"prompt": FACT.prompt, "target": "Rome", "subject": FACT.subject},
        {"prompt": "The home of Bo Lim is", "target": "Oslo", "subject": "Bo Lim"},
        {"prompt": "Tell me of Cy Dorr", "target": "Peru", "subject": "Cy Dorr"},
    ]
    facts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("--data", facts, *FEW, "--what", "hidden", "--model", model, "--json")
    out = json.loads(done.stdout)
    assert len(out["facts"]) == 2
    assert out["mean"]["tokens"] == list(ROLES)
    assert "left out" in done.stderr


def test_bad_input_is_said_in_one_line(model, tmp_path):
    for args, words, code in (
        ((), "name edits of a memory, or give --prompt", 2),
        (("--prompt", "x is"), "needs --target", 2),
        ((*GIVEN, "--what", "soul"), "name some of hidden, mlp, attention, neurons", 2),
        ((*GIVEN, "--layers", "1"), "--layers goes with --sweep", 2),
        ((*GIVEN, "--sweep", "rom"), "did you mean", 1),
        ((*GIVEN, "--figure", "x.gif"), "a picture is a .png or an .svg", 1),
        ((*GIVEN, "--figure", tmp_path / "no" / "x.png"), "there is no folder", 1),
        (("7", "--memory", tmp_path / "none"), "none", 1),
    ):
        done = run(*args, "--model", model, code=code)
        assert words in done.stderr, done.stderr
        assert "Traceback" not in done.output


def test_the_base_is_as_it_was(lm):
    base = lm("qwen3")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    trace(base, FACT, "R", samples=1)
    neurons(base, [FACT.prompt], "R", steps=2)
    assert all(torch.equal(before[n], t) for n, t in base.model.state_dict().items())
    assert all(p.grad is None for p in base.model.parameters())
