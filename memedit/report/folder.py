"""A folder of files, all of them or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from memedit.errors import DataError


def check_folder(folder: Path, figures: bool = True) -> None:
    """Refuse a folder that can't be written, and a missing matplotlib (where figures are wanted), before any work is done.

    Raises:
        DataError: which of the two, and what to do.
    """
    from importlib.util import find_spec

    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder for the report")
    parent = folder.resolve().parent
    if not folder.exists() and not parent.is_dir():
        raise DataError(f"there is no folder {folder.parent} for the report; make it first")
    if not os.access(folder if folder.exists() else parent, os.W_OK | os.X_OK):
        raise DataError(
            f"{folder} can't be written; name another folder for the report, or change its rights"
        )
    if figures and find_spec("matplotlib") is None:
        raise DataError("the figures of a report need matplotlib: pip install matplotlib")


def write_files(folder: Path, content: Mapping[str, str | bytes]) -> list[Path]:
    """Write files by name into a folder, which is made where there is none; on an error none is left, nor the folder.

    Raises:
        DataError: the folder can't be written, or the disk is full.
    """
    there = folder.exists()
    beside: str | None = None
    try:
        folder.mkdir(exist_ok=True)
        beside = tempfile.mkdtemp(prefix=".report.", dir=folder)
        for name, given in content.items():
            data = given if isinstance(given, bytes) else given.encode("utf-8", errors="replace")
            (Path(beside) / name).write_bytes(data)
        for name in content:
            (Path(beside) / name).replace(folder / name)
    except OSError as error:
        raise DataError(
            f"{folder} can't be written ({error.strerror or error}); name another folder for the report"
        ) from None
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        if not there and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return [folder / name for name in content]
