"""Shared by all tests: one torch thread (a small suite is several times faster on a busy machine), no network."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MEMEDIT_DATA", ROOT.parent / "shared" / "data"))


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
