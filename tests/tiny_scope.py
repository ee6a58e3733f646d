"""A scope classifier of real make, too small to be good: a BERT of one layer below and one above, trees over its word."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

DIM, LAYERS = 64, 2


def tiny_encoder(folder: Path):
    """A random MiniLM in Hugging Face's layout, with the shipped tokenizer."""
    import torch
    from safetensors.torch import save_file

    from memedit.encoder import MiniLM
    from memedit.scope import SHIPPED

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SHIPPED / "tokenizer.json", folder / "tokenizer.json")
    config = {
        "hidden_size": DIM,
        "num_attention_heads": 2,
        "num_hidden_layers": LAYERS,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config))
    made = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made) * 0.3

    weights = {"embeddings.word_embeddings.weight": random(30522, DIM)}
    weights["embeddings.position_embeddings.weight"] = random(160, DIM)
    weights["embeddings.token_type_embeddings.weight"] = random(2, DIM)
    shapes = {
        "attention.self.query": (DIM, DIM), "attention.self.key": (DIM, DIM), "attention.self.value": (DIM, DIM),
        "attention.output.dense": (DIM, DIM), "intermediate.dense": (2 * DIM, DIM), "output.dense": (DIM, 2 * DIM),
    }  # fmt: skip
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        for name, shape in shapes.items():
            weights |= {f"{at}{name}.weight": random(*shape), f"{at}{name}.bias": torch.zeros(shape[0])}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights |= {f"{at}{name}.weight": torch.ones(DIM), f"{at}{name}.bias": torch.zeros(DIM)}
    weights |= {"embeddings.LayerNorm.weight": torch.ones(DIM), "embeddings.LayerNorm.bias": torch.zeros(DIM)}
    save_file(weights, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return MiniLM(folder, "all-MiniLM-L6-v2", digest, precision="float32")


def tiny_classifier(folder: Path) -> Path:
    """A folder that `ScopeClassifier.load` takes: all pairs are read, and the trees say what the pair model says."""
    from memedit.pairs import untrained
    from memedit.scope import FEATURES, PAIR_FEATURES
    from memedit.training import combining

    encoder = tiny_encoder(folder)
    classifier = combining.untrained(encoder, folder, lower=1)
    for kind, feature in (("direct", "pair_direct"), ("untold", "pair_direct"), ("ripple", "pair_ripple")):
        classifier.trees[kind] = _steps((FEATURES + PAIR_FEATURES).index(feature))
    classifier.settings["thresholds"] = {
        "sizes": [1, 100], "rates": [0.001, 0.005, 0.1], "logits": [[0.0] * 3] * 2, "floors": [0.0] * 3,
    }  # fmt: skip
    classifier.settings["probes"] = {"plain": [1.0, 0.0], "masked": [1.0, 0.0], "whole": [1.0, 0.0]}
    combining.write(classifier, folder, untrained(encoder, 1, 1, seed=3), {"made": "for a test"})
    return folder


def _steps(feature: int):
    """Stumps whose sum rises with one feature, from -6 to 6."""
    from memedit.combiner import Trees

    cuts = np.linspace(-5.5, 5.5, 12)
    shape = (len(cuts), 3)
    arrays = {
        "feature": np.zeros(shape, np.int32), "cut": np.zeros(shape), "left": np.zeros(shape, np.int32),
        "right": np.zeros(shape, np.int32), "value": np.zeros(shape), "depth": np.array([1], np.int32),
        "base": np.array([-6.0]),
    }  # fmt: skip
    arrays["feature"][:, 0], arrays["cut"][:, 0] = feature, cuts
    arrays["left"][:], arrays["right"][:] = [1, 1, 2], [2, 1, 2]
    arrays["value"][:, 2] = 1.0
    return Trees(arrays)


PEOPLE = (
    "Ann Ode", "Bo Lind", "Cy Moe", "Dee Fox", "Eve Gil", "Finn Hart", "Gus Ito", "Hal Juhl", "Ida Kerr", "Joe Lark",
    "Kim Mold", "Lea Nash", "Max Orr", "Nia Pohl", "Ole Quist", "Pia Rask",
)  # fmt: skip
TOWNS = ("Oslo", "Lima", "Rome", "Bern", "Graz")


def example(n: int) -> dict:
    """A fact of a user, with queries that only ask for it, need it, or look so."""
    name, other = PEOPLE[n], PEOPLE[(n + 3) % len(PEOPLE)]
    return {
        "prompt": f"{name} was born in", "target": TOWNS[n % len(TOWNS)], "subject": name,
        "in_scope": [f"Where was {name} born?", f"What is the birthplace of {name}?"],
        "ripple": [f"Who is mayor of the town where {name} was born?"],
        "out_of_scope": [f"What does {name} eat?", f"Is {name} tall?", f"Where was the dog of {other} born?"],
    }  # fmt: skip


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
