"""`splits.json`: which rows of a data file are for training and which for development."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from memedit.errors import DataError

FILE = "splits.json"
_LEVELS = 3  # folders above a data file in which splits.json is looked for


def rows_of(path: str | Path, part: str) -> list[int] | None:
    """The row numbers, from nought, that splits.json beside a data file (or above it) gives to a part; None for all rows.

    Raises:
        DataError: there is no splits.json, or it gives no rows of this file to this part.
    """
    file = Path(path).resolve()
    for folder in list(file.parents)[:_LEVELS]:
        if (folder / FILE).is_file():
            return part_of(read(folder), file.relative_to(folder).as_posix(), part, str(folder / FILE))
    raise DataError(
        f"there is no {FILE} beside {path} or above it, so its part {part} is not known; leave --split out for all of it"
    )


def read(folder: Path) -> dict[str, Any]:
    """The splits of a folder of data sets.

    Raises:
        DataError: unreadable, or no object.
    """
    path = folder / FILE
    found = loaded(path)
    if not isinstance(found, dict):
        raise DataError(f"{path} is no object of data sets with their parts")
    return found


def loaded(path: Path) -> Any:
    """A file of the folder, JSON or JSON lines, whole.

    Raises:
        DataError: it can't be read, or is no JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = path.suffix == ".jsonl"
        return [json.loads(line) for line in text.split("\n") if line] if lines else json.loads(text)
    except OSError as error:
        raise DataError(
            f"can't read {path}: {error.strerror or error}; --data is the folder with splits.json and the data sets"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from None


def part_of(splits: Mapping[str, Any], name: str, part: str, where: str) -> list[int] | None:
    """The rows of a data file that belong to a part; None for all of them.

    Raises:
        DataError: none do.
    """
    given = splits.get(name)
    if isinstance(given, Mapping):
        rows = given.get(part)
        if isinstance(rows, list) and rows and all(isinstance(i, int) and i >= 0 for i in rows):
            return list(rows)
        has = ", ".join(key for key, value in given.items() if value) or "none"
        raise DataError(f"{where} has no rows of {name} for the part {part}; it has the parts {has}")
    for key, whole in (("dev_only", "dev"), ("train_only", "train")):
        if any(fnmatch(name, pattern) for pattern in splits.get(key) or ()):
            if part == whole:
                return None
            raise DataError(f"{where} has no rows of {name} for the part {part}: all of it is {whole}")
    raise DataError(f"{where} has no rows of {name} for the part {part}: it does not name this file")
