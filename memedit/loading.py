"""Models from their names: shipped, in a folder, or on a hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit import spread
from memedit.errors import ModelError, unknown

if TYPE_CHECKING:
    import torch

PRETRAINED = Path(__file__).parent / "pretrained"
SHIPPED = {"base": PRETRAINED / "base"}
DTYPES = ("float32", "bfloat16", "float16", "8bit", "4bit", "auto")


def load(
    name: str,
    tokenizer: Any,
    device: str | None,
    dtype: str | torch.dtype | None,
    device_map: str | dict[str, Any] | None,
    trust_remote_code: bool,
) -> tuple[Any, Any]:
    """A causal LM and its tokenizer; the arguments are those of `HFModel.from_pretrained`.

    Raises:
        ModelError: nothing of that name, or it can't be loaded; the message says what to do.
    """
    import torch

    if device_map is not None:
        spread.check_accelerate()
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_cpu, more = str(device).startswith("cpu"), {}
    if dtype in ("8bit", "4bit"):
        more["quantization_config"] = _bits(str(dtype), on_cpu)
        device_map, dtype = device_map or {"": device}, None  # once loaded, such layers can't be moved
    if dtype is None:
        dtype = torch.float32 if on_cpu else "auto"
    elif isinstance(dtype, str) and dtype != "auto":
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ModelError(unknown("dtype", dtype, DTYPES))
        dtype = getattr(torch, dtype)
    where = find_model(name)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        with _quiet():
            config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
            if getattr(config, "is_encoder_decoder", False):  # of some, half would be loaded without a word
                raise ModelError(
                    f"{name} is an encoder-decoder model ({config.model_type}), which reads a text apart from what it writes: "
                    "give a decoder-only causal language model, such as gpt2 or Qwen/Qwen3-0.6B"
                )
            loaded = AutoModelForCausalLM.from_pretrained(
                where, dtype=dtype, trust_remote_code=trust_remote_code, device_map=device_map, **more
            )
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
        for module in loaded.modules():  # packed for inference, 4-bit layers would let no gradient through
            if hasattr(module, "support_avx512bf16_for_cpu"):
                setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
        if device_map is None and not getattr(loaded, "is_quantized", False):
            loaded.to(torch.device(device))  # type: ignore[arg-type]
        return loaded, tokenizer
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(f"can't load the model {name!r}: {_first_line(error)}") from error


def _bits(dtype: str, on_cpu: bool) -> Any:
    """How bitsandbytes stores the linear layers: LLM.int8 (arXiv 2208.07339), or QLoRA's 4-bit NormalFloat (2305.14314).

    Raises:
        ModelError: it is not installed, or accelerate, which places such layers, isn't.
    """
    import logging
    import warnings

    import torch
    from transformers import BitsAndBytesConfig

    missing = [name for name in ("bitsandbytes", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        needed = " and ".join(missing)
        raise ModelError(f"dtype {dtype} needs {needed}: pip install 'memedit[quant]', or take bfloat16")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which kernels it would like to have
    if dtype == "8bit":
        warnings.filterwarnings(
            "ignore", message="MatMul8bitLt: inputs will be cast"
        )  # once a layer and call
        return BitsAndBytesConfig(load_in_8bit=True)
    reckoned = torch.float32 if on_cpu else torch.bfloat16
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=reckoned)


def find_model(name: str) -> str:
    """Where a model is loaded from: a shipped model's folder, a folder of the user's, or the hub name itself.

    Raises:
        ModelError: neither, with near names.
    """
    if name in SHIPPED:
        if not (SHIPPED[name] / "config.json").exists():
            raise ModelError(
                f"the shipped model {name!r} is missing from this installation; reinstall memedit, or name another --model"
            )
        return str(SHIPPED[name])
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ModelError(f"the folder {name} holds no model: it has no config.json")
        return str(path)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local or ("/" not in name and name not in _BARE_HUB_NAMES):
        what = f"no folder {name}" if looks_local else unknown("model", name, [*SHIPPED, *_BARE_HUB_NAMES])
        raise ModelError(f"{what}; give a shipped name, a folder, or a hub name such as Qwen/Qwen3-0.6B")
    return name


# Hub names from before names had an owner; any other bare word is more likely a slip.
_BARE_HUB_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading bars of a model are noise in a command that has its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
