"""A model that is shipped as low-rank factors beside the base they fit: read, checked, added to a copy of its weights.

A folder holds ``adapter.json`` (the base's name or folder, the SHA-256 of its weights, the scale) and ``adapter.safetensors``
with ``{module}.down`` (rank, in) and ``{module}.up`` (out, rank) for each linear module: W' = W + scale * up @ down. It may
hold ``pointer.*`` too, the weights of a `Pointer`: what the model has read may then be copied.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit.errors import ModelError
from memedit.loading import find_model, load

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS, FORMAT = "adapter.json", "adapter.safetensors", 2
POINTER = "pointer."  # what the names of its tensors begin with
_KNOWN = (1, FORMAT)  # a folder of format 1 has no pointer


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds low-rank factors in this format."""
    return (folder / CONFIG).is_file()


def weights_hash(folder: Path) -> str:
    """SHA-256 over the weight files of a model's folder, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def load_adapted(
    folder: Path, device: str | None = None, dtype: str | torch.dtype | None = None
) -> tuple[Any, Any]:
    """The base of a folder's factors with the factors added, and its tokenizer; no file is written.

    Raises:
        ModelError: the folder is damaged, or its base is missing or another one than it was made for.
    """
    import torch

    from memedit.pointer import Pointer, attach

    about, factors = _read(folder)
    where = Path(find_model(str(about["base"])))
    if not where.is_dir():
        raise ModelError(
            f"{folder} names the base {str(about['base'])!r}, which is no folder here; name another model"
        )
    if weights_hash(where) != about["base_sha256"]:
        raise ModelError(
            f"the model in {folder} was made for other weights than those of {where}: "
            "reinstall memedit, or train it anew with `python train/counterfactual.py`"
        )
    model, tokenizer = load(str(where), None, device, dtype, None, False)
    copying = {n.removeprefix(POINTER): t for n, t in factors.items() if n.startswith(POINTER)}
    modules = {name.rpartition(".")[0] for name in factors if not name.startswith(POINTER)}
    for name in sorted(modules):
        try:
            weight = model.get_submodule(name).weight
            up, down = factors[f"{name}.up"].float(), factors[f"{name}.down"].float()
            added = float(about["scale"]) * (up @ down)
            with torch.no_grad():
                weight.copy_((weight.float() + added.to(weight.device)).to(weight.dtype))
        except (AttributeError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"{folder / WEIGHTS} does not fit its base at {name!r}: get the folder anew"
            ) from error
    if copying:
        try:
            attach(model, Pointer.from_tensors(copying))
        except (KeyError, RuntimeError) as error:
            raise ModelError(f"{folder / WEIGHTS} holds no whole pointer: get the folder anew") from error
    return model, tokenizer


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        known = about["format"] in _KNOWN and {"base", "base_sha256", "scale"} <= about.keys()
        factors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"the model in {folder} is damaged: {CONFIG} or {WEIGHTS} can't be read; get the folder anew"
        ) from error
    if not known or not factors:
        raise ModelError(
            f"the model in {folder} is of a format that this memedit does not know; update memedit, or the folder"
        )
    return about, factors
