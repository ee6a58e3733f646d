"""A file's records: JSON arrays, JSON lines, tables, any of them gzipped; each with the place where it stands."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memedit.data import dune, hub, knowedit, table, taxi
from memedit.errors import DataError

_UNFOLD = (
    knowedit.unfolded,
    dune.unfolded,
    taxi.unfolded,
)  # objects over all of a file that hold many records
TABLES = {"csv": None, "tsv": "\t"}  # names of formats that are tables, and their separator where it is given


def records(path: str | Path, kind: str | None = None) -> tuple[bool, Iterator[tuple[str, Any]]]:
    """Whether the file is a table, and (where, record) of each record; what is none comes as a DataError in its place.

    Args:
        path: a file, "-" for standard input, or a name on a hub (see `hub`).
        kind: the name of a format; None to see from the content.

    Raises:
        DataError: the file as a whole can't be read.
    """
    if hub.is_hub(path):
        file = hub.named_file(str(path))
        if file is None:
            return False, hub.records(str(path))
        path = file
    text = _text(path)
    if not text.strip():
        raise DataError(f"{path} is empty")
    separator = _separator(str(path), text, kind)
    if separator is None:
        return False, _json(text, path)
    return True, _rows(text, separator, path)


def _separator(path: str, text: str, kind: str | None) -> str | None:
    """What separates the columns, if this is a table."""
    if kind in TABLES:
        return TABLES[kind] or table.delimiter(text) or ","
    if kind is not None or text.lstrip()[:1] in ("{", "["):
        return None
    suffix = Path(path.removesuffix(".gz")).suffix.lower().lstrip(".")
    return table.delimiter(text) or (TABLES[suffix] or "," if suffix in TABLES else None)


def _rows(text: str, separator: str, path: str | Path) -> Iterator[tuple[str, Any]]:
    try:
        yield from table.rows(text, separator)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _text(path: str | Path) -> str:
    """The file as text.

    Raises:
        DataError: it can't be read, or is no UTF-8 text.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from None
    if data[:4] == b"PK\x03\x04":
        raise DataError(f"{path} is a zip or Excel file; unpack it, or save the sheet as CSV")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is not UTF-8 text but UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise DataError(f"{path} is a binary file; edits are read from JSON, JSON lines and CSV")
    return text


def _json(text: str, path: str | Path) -> Iterator[tuple[str, Any]]:
    found = _document(text, path)
    if found is not None:
        yield from ((f"record {i}", record) for i, record in enumerate(found, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", loads(line)
        except ValueError as error:
            yield f"line {number}", DataError(f"line {number}: {error}")


def _document(text: str, path: str | Path) -> list[Any] | None:
    """The records of an array, or of one object over all of the file; None if it is JSON lines."""
    start = text.lstrip()[:1]
    if start == "[":
        try:
            found = loads(text)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
        return list(found)
    if start == "{":
        head, _, rest = text.strip().partition("\n")
        try:
            found = loads(head)  # one line is enough to see that these are JSON lines
            if rest.strip():
                return None
        except ValueError:
            if '"' not in rest:
                return None
            try:
                found = loads(text)
            except ValueError:
                return None
        unfolded = next(filter(None, (unfold(found) for unfold in _UNFOLD)), None)
        return unfolded or ([found] if rest else None)
    return None


def loads(text: str) -> Any:
    """JSON, strictly: no key twice in an object, no NaN.

    Raises:
        ValueError: what is wrong, in words.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise ValueError(f"the key {twice!r} stands twice in one object")
        return out

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise ValueError(_said(error, text)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _said(error: json.JSONDecodeError, text: str) -> str:
    bare = text.strip()
    if bare in ("{", "}", "[", "]"):
        return "not JSON (one bracket alone); in JSON lines an object stands on one line"
    place = f"line {error.lineno}" if error.lineno > 1 else f"column {error.colno}"
    what = error.msg.removesuffix(" at")
    if bare[:1] in ("{", "[") and (
        error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
    ):
        return f"not JSON ({what} at {place}): it ends in the middle; was the file cut off?"
    return f"not JSON ({what} at {place})"
