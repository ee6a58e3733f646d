"""The layers that papers edit in the models they name; elsewhere a method takes those at its `depth`.

A model is known by its family (the config's `model_type`) and its number of layers; of a size that shares both, such as
Llama 2 7B and Llama 3 8B, the layers are the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# (family, layers) -> method -> the settings `layer` (the last one to change, from 0) and `span` (how many).
LAYERS: Mapping[tuple[str, int], Mapping[str, Mapping[str, int]]] = {
    ("gpt2", 48): {  # GPT-2 XL
        "rome": {"layer": 17},
        "memit": {"layer": 17, "span": 5},
        "alphaedit": {"layer": 17, "span": 5},
        "grace": {"layer": 35},
        "ft-l": {"layer": 0},
    },
    ("gptj", 28): {  # GPT-J 6B
        "rome": {"layer": 5},
        "memit": {"layer": 8, "span": 6},
        "pmet": {"layer": 8, "span": 6},
        "alphaedit": {"layer": 8, "span": 6},
    },
    ("llama", 32): {  # Llama 2 7B, Llama 3 8B
        "rome": {"layer": 5},
        "alphaedit": {"layer": 8, "span": 5},
        "ft-m": {"layer": 21},
    },
    ("mistral", 32): {"rome": {"layer": 5}},  # Mistral 7B
}


def paper_layers(method: str, model: Any) -> Mapping[str, int]:
    """`layer`, and `span` where there is one, of a method's paper for a model; nothing where none names it."""
    config = model.config.get_text_config()
    known = LAYERS.get((str(config.model_type), int(getattr(config, "num_hidden_layers", 0) or 0)), {})
    return known.get(method, {})
