"""Bases whose linear layers are bitsandbytes' own, in 8 and in 4 bits: who takes them, who refuses, and in which words."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from click.testing import CliRunner

from memedit.cli import main
from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import MethodError, ModelError
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.methods import load_method
from memedit.methods._watch import gradients

EDIT = Edit(prompt="The capital of France is", target="Lyon", subject="France", old="Paris")
OPTIONS = {"max_new_tokens": 4, "do_sample": False}
READS_WEIGHTS = ("rome", "memit", "pmet", "alphaedit", "ft-m", "ft-l", "kn", "mend")


@pytest.fixture(scope="module", params=["8bit", "4bit"])
def base(request):
    pytest.importorskip("bitsandbytes", reason="quantises layers, an optional package")
    return HFModel.from_pretrained("base", dtype=request.param, device="cpu")


def bits(base) -> str:
    return type(base.model.model.layers[0].mlp.down_proj).__name__


def answer(base, name):
    with load_method(name).applied(base, [[EDIT]]) as model:
        return model.generate([EDIT.prompt], **OPTIONS)[0]


def test_the_layers_are_quantised_and_the_base_answers(base):
    assert bits(base) in ("Linear8bitLt", "Linear4bit")
    assert base.generate([EDIT.prompt], **OPTIONS) == [" Paris."]


@pytest.mark.parametrize("name", ["ice", "serac", "grace", "lora", "ultraedit", "t-patcher"])
def test_methods_of_prompts_and_activations_edit_it(base, name):
    assert answer(base, name).startswith(" Lyon")


def test_a_model_whose_layers_let_no_gradient_through_is_refused_in_a_sentence():
    part = torch.zeros(2, requires_grad=True)
    with pytest.raises(MethodError, match=r"no gradient comes through the base's layers .* --method ice"):
        gradients(torch.ones(1), [part])
    with pytest.raises(MethodError, match="no gradient comes through"):
        gradients(torch.ones(1, requires_grad=True) * 2, [part])
    assert gradients((part * 3).sum(), [part])[0].tolist() == [3, 3]


@pytest.mark.parametrize("name", READS_WEIGHTS)
def test_methods_that_read_weights_refuse_it_in_a_sentence(base, name):
    with pytest.raises(ModelError, match=r"is quantised .* --method ice"):
        answer(base, name)


def test_a_memory_serves_it_through_the_router(base, tmp_path):
    with EditMemory.open(tmp_path / "m") as memory:
        memory.add([EDIT])
        model = EditedModel.from_pretrained(base, memory=memory)
        said = model.generate(["What is the capital of France?", "The capital of Italy is"], **OPTIONS)
    assert "Lyon" in said[0]
    assert said[1] == base.generate(["The capital of Italy is"], **OPTIONS)[0]


def test_without_bitsandbytes_it_is_said_what_to_install(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a)
    )
    args = ["ask", "Who?", "--memory", str(tmp_path / "m"), "--dtype", "4bit"]
    CliRunner().invoke(main, ["add-fact", "The capital of France is Lyon.", "--memory", str(tmp_path / "m")])
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 1
    assert "dtype 4bit needs bitsandbytes: pip install 'memedit[quant]'" in done.output
