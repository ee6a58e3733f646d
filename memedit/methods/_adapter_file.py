"""Patches as LoRA adapters in the files of the package `peft`, and back: nothing of that package is needed here.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` with ``base_model.model.{module}.lora_A.weight``
(rank, in) and ``...lora_B.weight`` (out, rank) for each module: y + (alpha / rank) B A x. `up` and `down` of a low-rank effect
are B and A with alpha = rank, a rank for each module.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit import layout
from memedit.errors import DataError, MethodError
from memedit.methods._effects import Effect, LowRank, RowPatch, Several, Swapped

if TYPE_CHECKING:
    from torch import Tensor

    from memedit.lm import HFModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BEFORE, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# Settings of an adapter whose work is more than two factors beside a layer, and what people call it.
_MORE = {
    "use_dora": "DoRA, which also rescales the weights",
    "modules_to_save": "whole modules (modules_to_save)",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "factors of bare parameters",
    "layer_replication": "repeated layers",
    "alora_invocation_tokens": "an activated LoRA",
    "lora_bias": "biases of its factors",
    "megatron_config": "Megatron's layers",
}


def write_adapter(folder: Path, base: HFModel, modules: RowPatch, about: Mapping[str, str]) -> dict[str, int]:
    """Write a patch as a LoRA adapter, whole or not at all.

    Args:
        folder: a new one, or an empty one. about: what is noted in the file's header beside the base's fingerprint.

    Returns:
        The rank of each module's factors.

    Raises:
        MethodError: the patch is not of low rank. DataError: the folder holds something, or can't be made.
    """
    from safetensors.torch import save

    terms = {name: _factors(base, name, effect) for name, effect in modules.items()}
    ranks = {name: len(term.down) for name, term in terms.items()}
    tensors = {}
    for name, term in terms.items():
        tensors[_BEFORE + name + _A] = term.down.float().cpu().contiguous()
        tensors[_BEFORE + name + _B] = term.up.float().cpu().contiguous()
    data = save(tensors, {"format": "pt", "memedit.base": base.fingerprint, **about})
    config = json.dumps(_config(base, ranks), indent=2) + "\n"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there and not empty; name a new folder for the adapter")
    if not folder.absolute().parent.is_dir():
        raise DataError(f"there is no folder {folder.absolute().parent} for the adapter; make it first")
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    try:
        (beside / CONFIG).write_text(config, encoding="utf-8")
        (beside / WEIGHTS).write_bytes(data)
        beside.chmod(0o755)
        os.replace(beside, folder.absolute())
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return ranks


def read_adapter(folder: Path, base: HFModel) -> dict[str, LowRank]:
    """The factors of a LoRA adapter, with its scale in `up`: module name -> term.

    Raises:
        DataError: the folder holds no adapter that can be read, or one that is more than LoRA, or one for another base.
    """
    config, tensors, about = _read(folder)
    _check(folder, config, base, about)
    terms: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        end = next((e for e in (_A, _B) if key.endswith(e)), None)
        if end is None or not key.startswith(_BEFORE):
            raise DataError(
                f"{folder} holds {key!r}, which is no factor of a linear layer; only LoRA adapters are taken"
            )
        terms.setdefault(key[len(_BEFORE) : -len(end)], {})[end] = tensor
    out = {}
    for name, pair in terms.items():
        if pair.keys() != {_A, _B}:
            raise DataError(f"{folder} has only one of the two factors of {name}; get the adapter anew")
        a, b = pair[_A].float(), pair[_B].float()
        if (
            a.dim() != 2
            or b.dim() != 2
            or (b.shape[0], a.shape[1]) != _shape(base, name)
            or len(a) != b.shape[1]
        ):
            has = _shape(base, name)
            raise DataError(
                f"{folder} is an adapter for another base: its factors of {name} are {tuple(b.shape)} and {tuple(a.shape)}, "
                + (f"the module is {has}" if has else "and this base has no such linear module")
            )
        if not len(a):
            raise DataError(
                f"{folder} has factors of rank 0 of {name}, which change nothing; get the adapter anew"
            )
        out[name] = LowRank(_scale(config, name, len(a)) * b, a)
        if not out[name].finite():
            raise DataError(
                f"{folder} holds numbers that are not finite in the factors of {name}: train or export the adapter anew"
            )
    if not out:
        raise DataError(f"{folder} holds no factors")
    return out


def _factors(base: HFModel, name: str, effect: Effect) -> LowRank:
    """One term for a module's effect.

    Raises:
        MethodError: it has none.
    """
    parts = effect.parts if isinstance(effect, Several) else (effect,)
    terms: list[LowRank] = []
    for part in parts:
        if isinstance(part, Swapped):
            part = part.as_low_rank(layout.weight(base.model, name).detach())
        if not isinstance(part, LowRank):
            raise MethodError(
                f"the patch of {name} is {part.kind}, and a LoRA adapter holds low-rank changes of weights alone: "
                "export edits of lora, rome, memit, pmet, alphaedit, ultraedit, kn or mend"
            )
        terms.append(part)
    whole = terms[0]
    for term in terms[1:]:
        whole = whole.both(term)
    return whole


def _config(base: HFModel, ranks: Mapping[str, int]) -> dict[str, Any]:
    """alpha = rank in each module, so that the scale is 1."""
    most = max(ranks.values())
    own = {name: rank for name, rank in ranks.items() if rank != most}
    turned = any(type(base.model.get_submodule(name)).__name__ == "Conv1D" for name in ranks)
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": _name(base) or None,
        "r": most, "lora_alpha": most, "rank_pattern": own, "alpha_pattern": own, "target_modules": sorted(ranks),
        "fan_in_fan_out": turned, "bias": "none", "lora_dropout": 0.0, "use_rslora": False, "use_dora": False,
        "init_lora_weights": True, "inference_mode": True, "modules_to_save": None,
    }  # fmt: skip


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not (folder / CONFIG).is_file():
        raise DataError(f"{folder} holds no {CONFIG}: name the folder of a PEFT adapter")
    if not (folder / WEIGHTS).is_file():
        raise DataError(
            f"{folder} holds no {WEIGHTS}; pickled weights are not read: save the adapter anew as safetensors"
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, "pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"the adapter in {folder} can't be read ({error}); get it anew") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder / CONFIG} is no object of settings; get the adapter anew")
    return config, tensors, about


def _check(folder: Path, config: Mapping[str, Any], base: HFModel, about: Mapping[str, str]) -> None:
    """Refuse what is more or other than LoRA on this base.

    Raises:
        DataError: says what it is.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise DataError(f"{folder} is a {kind} adapter; only LoRA adapters can become a patch")
    more = next((name for setting, name in _MORE.items() if config.get(setting)), None)
    if more is None and config.get("bias", "none") != "none":
        more = "biases of the base"
    if more is not None:
        raise DataError(f"{folder} trains {more}; only plain LoRA adapters can become a patch")
    made_for = about.get("memedit.base")
    if made_for is not None:
        if made_for != base.fingerprint:
            raise DataError(
                f"{folder} was made for other weights ({made_for[:12]}) than this base's ({base.fingerprint[:12]}): "
                "name its base by --model"
            )
        return
    asked, own = _last(config.get("base_model_name_or_path") or ""), _last(_name(base))
    if asked and own and asked != own:
        raise DataError(
            f"{folder} was trained for the base {config['base_model_name_or_path']!r}, and this one is {_name(base)!r}: "
            f"name its base by --model, or mend base_model_name_or_path in {CONFIG} if they are the same"
        )


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """alpha / rank, or by its root; each may be set for modules whose names match a pattern."""
    alpha = float(config.get("lora_alpha", 8))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            alpha = float(value)
            break
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _shape(base: HFModel, name: str) -> tuple[int, int] | None:
    """(out, in) of a linear module; None where there is none of that name. Quantised layers have a shape, too."""
    try:
        module = base.model.get_submodule(name)
    except AttributeError:
        return None
    if type(module).__name__ == "Conv1D":
        return int(module.weight.shape[1]), int(module.weight.shape[0])
    if not hasattr(module, "out_features") or not hasattr(module, "in_features"):
        return None
    return int(module.out_features), int(module.in_features)


def _name(base: HFModel) -> str:
    return str(getattr(base.model.config, "_name_or_path", "") or "")


def _last(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].casefold()
