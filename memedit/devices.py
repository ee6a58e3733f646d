"""Where torch may work: the GPU where there is one, and why not where there is none."""

from __future__ import annotations

import os
import sys


def may_have_gpu() -> bool:
    """Whether it is worth importing torch, which costs seconds, to ask it for a GPU."""
    return "torch" in sys.modules or os.path.exists("/dev/nvidiactl")


def best(device: str | None = None) -> str:
    """The device that is meant: the one that is named, else "cuda" where there is a GPU, else "cpu"."""
    if device is not None:
        return device
    if not may_have_gpu():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def why_no_gpu() -> str:
    """Why torch has no GPU to work on, in words; "" where it has one."""
    import torch

    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built for the CPU only"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES is {hidden!r}, which hides every GPU"
    if not os.path.exists("/dev/nvidiactl") and torch.version.cuda is not None:
        return "this machine shows no NVIDIA driver"
    return f"torch {torch.__version__} finds no GPU; the driver may be too old for CUDA {torch.version.cuda}"
