"""Shared by all tests: one torch thread (several times faster on a busy machine), no network, small real models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["COLUMNS"] = "160"  # tables are read by tests; a worker of xdist would have its own width

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MEMEDIT_DATA", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU run where there is one, and say why they don't elsewhere."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        from memedit.devices import why_no_gpu

        why = why_no_gpu()
        for item in marked if why else []:
            item.add_marker(pytest.mark.skip(reason=f"needs a CUDA device: {why}"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Key covariances of tiny models are no business of the user's cache; and few sentences will do for them."""
    from memedit.methods import _moments

    folder = tmp_path_factory.mktemp("cache")
    text = folder / "sentences.txt"
    text.write_text("\n".join(_moments.TEXT.read_text(encoding="utf-8").splitlines()[:60]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MEMEDIT_CACHE", str(folder))
        patched.setattr(_moments, "TEXT", text)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets; tests that need it skip where it is missing."""
    if not DATA.is_dir():
        pytest.skip(f"no data sets at {DATA}; set MEMEDIT_DATA to their folder")
    return DATA


def tiny_tokenizer(bos: bool = False) -> Any:
    """A byte tokenizer of real make; with `bos`, it puts <s> first as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", padding_side="left"
    )


def tiny_model(family: str = "llama") -> Any:
    """A random causal LM of a real architecture, two small layers; the same weights each time."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {
        "vocab_size": 259,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "tie_word_embeddings": False,
    }
    llama = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 512,
    }  # fmt: skip
    settings: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512},
        "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "rotary_dim": 8},
        "gpt_neox": {k: v for k, v in llama.items() if k != "num_key_value_heads"},
        "opt": {
            "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 512, "word_embed_proj_dim": 32,
        },
        "llama": llama,
        "mistral": {**llama, "sliding_window": None},
        "qwen2": llama,
        "qwen3": {**llama, "head_dim": 16},
        "phi": llama,
        "gemma": {**llama, "head_dim": 16},
    }  # fmt: skip
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **{**common, **settings[family]})
    model = AutoModelForCausalLM.from_config(config).eval()
    for (
        parameter
    ) in model.parameters():  # sharper than the usual initialisation, so that arg-maxes are not near ties
        if parameter.dim() > 1:
            parameter.data = torch.randn_like(parameter) * 0.25
    return model


# All families that weight methods must serve with no setting; the splicing tests walk FAMILIES.
ALL_FAMILIES = ("gpt2", "gptj", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "phi", "gemma")
FAMILIES = ("gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen3", "phi", "gemma")


@pytest.fixture(scope="session")
def lm() -> Callable[..., Any]:
    """`lm(family, bos=False)`: a tiny `HFModel`; made once for each pair."""
    made: dict[tuple[str, bool], Any] = {}

    def make(family: str = "llama", bos: bool = False) -> Any:
        from memedit.lm import HFModel

        if (family, bos) not in made:
            made[family, bos] = HFModel(tiny_model(family), tiny_tokenizer(bos))
        return made[family, bos]

    return make


@pytest.fixture(scope="session")
def classifier() -> Any:
    """The shipped scope classifier."""
    from memedit.scope import ScopeClassifier

    return ScopeClassifier.load()
