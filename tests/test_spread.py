"""Models placed by `device_map`: a base, an edited model and a fingerprint, with weights on the CPU and on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from memedit import spread
from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import ModelError
from memedit.lm import HFModel
from memedit.memory import EditMemory

PROMPTS = ["The capital of France is", "How do I bake bread?"]
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(params=["whole", "split", "embedding on disk"])
def placed(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Any:
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    from transformers import AutoModelForCausalLM

    maps: dict[str, dict[str, str]] = {
        "whole": {"": "cpu"},
        "split": {
            "model.embed_tokens": "cpu",
            "model.layers.0": "cpu",
            "model.layers.1": "disk",
            "model.norm": "cpu",
            "model.rotary_emb": "cpu",
            "lm_head": "disk",
        },
    }
    maps["embedding on disk"] = {**maps["split"], "model.embed_tokens": "disk"}
    if request.param == "whole":
        return HFModel.from_pretrained(str(folder), device_map=maps["whole"])
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, device_map=maps[request.param], offload_folder=str(tmp_path), dtype=torch.float32
    )
    return HFModel.from_pretrained(loaded, tokenizer=tiny_tokenizer(), device="cpu")  # not moved


def test_a_spread_base_answers_as_the_whole_one(
    placed: HFModel, folder: Path, tmp_path: Path, classifier: Any
) -> None:
    plain = HFModel.from_pretrained(str(folder), device="cpu")
    assert not spread.is_spread(plain.model)
    assert placed.device == torch.device("cpu")
    assert placed.generate(PROMPTS, **OPTIONS) == plain.generate(PROMPTS, **OPTIONS)
    assert placed.fingerprint == plain.fingerprint
    assert [s.agreed for s in placed.score(PROMPTS, ["Lyon", "slowly"])] == [
        s.agreed for s in plain.score(PROMPTS, ["Lyon", "slowly"])
    ]
    with EditMemory.open(tmp_path / "m", encoder=classifier, device="cpu") as memory:
        memory.add(Edit(prompt=PROMPTS[0], target="Lyon", subject="France"))
        answers = [
            EditedModel.from_pretrained(model, memory=memory).generate(PROMPTS, **OPTIONS)
            for model in (placed, plain)
        ]
    assert answers[0] == answers[1]


def test_where_a_model_lies_is_said(placed: HFModel) -> None:
    where = spread.places(placed.model)
    elsewhere = any(p.device.type == "meta" for p in placed.model.parameters())
    assert elsewhere == spread.is_spread(placed.model)
    assert set(where.split(", ")) == ({"cpu", "disk"} if elsewhere else {"cpu"})


def test_without_accelerate_one_sentence_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs accelerate"):
        HFModel.from_pretrained(str(folder), device_map="auto")
