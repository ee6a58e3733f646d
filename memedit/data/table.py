"""Tables: CSV and TSV, and JSON objects that name their fields as tables of questions do.

A column is an edit's field, by its own name or a usual other one; all others are kept as further keys.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from memedit.data.case import Case
from memedit.data.fields import Record
from memedit.data.own import SCOPE_KEYS, own
from memedit.edit import STATUSES, Edit
from memedit.errors import DataError

# Other names of the fields, the likelier first.
_OTHERS = {
    "prompt": ("question", "query", "src", "cloze", "questions", "prompts"),
    "target": ("target_new", "new_target", "new_answer", "answer", "alt", "object", "targets", "answers"),
    "subject": ("subject_name", "entity", "concept", "subjects"),
    "old": ("ground_truth", "target_true", "true_answer", "old_answer", "old_target"),
    "statement": ("fact", "sentence", "edit", "edit_statement", "statements", "facts", "counterfacts"),
    "relation": ("relation_id", "predicate", "property", "relations"),
    "subject_aliases": ("aliases", "alias", "subject_alias"),
    "target_aliases": ("target_alias", "answer_alias", "answer_aliases", "new_answer_alias"),
    "tags": ("tag",),
    "paraphrases": ("paraphrase", "rephrase", "rephrase_prompt", "paraphrased_questions"),
    "locality": ("locality_prompt", "locality_prompts"),
    "in_scope": (),
    "ripple": ("ripples",),
    "out_of_scope": (),
}
_FIELDS = tuple(f.name for f in fields(Edit) if f.name != "extra")
_QUERIES = ("paraphrases", "locality", *SCOPE_KEYS)
_LISTS = ("subject_aliases", "target_aliases", "tags", *_QUERIES)
_DELIMITERS = (",", "\t", ";")


def row(record: Record) -> Case:
    """A row of a table, or a JSON object of such names, as an edit."""
    names = _named(tuple(record))
    out: dict[str, Any] = {}
    for key, value in record.items():
        name = names.get(key, key)
        if name in _LISTS and isinstance(value, str):
            value = _parts(value, "|" if name in _QUERIES else "|;")
        elif name == "target" and isinstance(value, list) and value:
            out.setdefault("target_aliases", value[1:])
            value = value[0]
        elif name == "extra" and isinstance(value, str):
            value = _object(value)
        out[name] = value
    return own(out)


def knows(columns: Iterable[Any]) -> bool:
    """Whether these columns hold facts: what is asked, or a sentence."""
    return bool({"prompt", "statement"} & set(_named(tuple(columns)).values()))


def delimiter(text: str) -> str | None:
    """What separates the columns of a table whose first line names some that we know; None if it is no table."""
    found = [(len(_named(tuple(_header(text, d)))), d) for d in _DELIMITERS if knows(_header(text, d))]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def rows(text: str, separator: str) -> Iterator[tuple[str, dict[str, str] | DataError]]:
    """(where, cells that aren't empty) of each row; what is no row comes as a DataError in its place.

    Raises:
        DataError: the first line can't be used.
    """
    header = _header(text, separator)
    plain = [_plain(column) for column in header]
    twice = next((c for i, c in enumerate(header) if c and plain[i] in plain[:i]), None)
    if twice:
        raise DataError(f"the first line names the column {twice!r} twice; give each a name of its own")
    if not knows(header):
        raise DataError(
            f"no column is a prompt or a statement; found {', '.join(c for c in header if c) or 'no name'}; "
            "the first line names the columns, such as prompt,target,subject"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    next(reader)
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield where, DataError(f"{where}: {_said(error)}")
            continue
        if any(cell.strip() for cell in cells):
            yield where, _row(header, cells, where)


def _row(header: Sequence[str], cells: Sequence[str], where: str) -> dict[str, str] | DataError:
    if len(cells) != len(header):
        return DataError(
            f"{where}: {len(cells)} columns, and the first line names {len(header)}; "
            "put a field that holds the separator in quotes"
        )
    unnamed = next(
        (cell for name, cell in zip(header, cells, strict=True) if cell.strip() and not name), None
    )
    if unnamed is not None:
        return DataError(f"{where}: {unnamed[:40]!r} stands in a column without a name")
    return {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}


def _header(text: str, separator: str) -> list[str]:
    """The names in the first line; none where it is no line of a table."""
    reader = csv.reader(io.StringIO(text[:100_000], newline=""), delimiter=separator, strict=True)
    try:
        return [name.strip() for name in next(reader, [])]
    except csv.Error:
        return []


def _said(error: csv.Error) -> str:
    words = str(error)
    if "unexpected end" in words:
        return "a quote is opened here and never closed"
    if "field larger" in words:
        return f"a field of over {csv.field_size_limit():,} characters; an edit is one fact, not a document"
    return f"no row of a table ({words})"


def _named(columns: tuple[Any, ...]) -> dict[Any, str]:
    """Of the columns that are fields, which. The field's own name goes before others, the likelier before the rest."""
    plain = {_plain(c): c for c in reversed(columns)}
    out = {}
    for name in dict.fromkeys((*_FIELDS, "extra", *_OTHERS)):
        for other in (name, *_OTHERS.get(name, ())):
            if other in plain and plain[other] not in out:
                out[plain[other]] = name
                break
    return out


def _plain(column: Any) -> str:
    """A column's name without case, and with one sign for blanks and hyphens."""
    return "_".join(str(column).casefold().replace("-", " ").split())


def _parts(value: str, separators: str) -> list[str]:
    """The entries of a list in a cell: JSON, or separated by the first of these marks that occurs."""
    if value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list) and all(isinstance(v, str) for v in found):
            return found
    mark = next((m for m in separators if m in value), None)
    return [part for part in map(str.strip, value.split(mark) if mark else [value]) if part]


def _object(value: str) -> Any:
    """A cell of further keys: a JSON object, or else the text."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, dict) else value


# -- writing


def write(records: Iterable[dict[str, Any]], separator: str = ",") -> str:
    """Edits' fields (`Edit.to_dict`) as a table that `rows` and `row` read back to the same edits."""
    given = list(records)
    names = (*_FIELDS, "status")
    columns = [n for n in _FIELDS if any(n in record for record in given)] or ["prompt", "target"]
    if any(record.get("status") in STATUSES for record in given):
        columns.append("status")
    lines = []
    for record in given:
        own_status = record.get("status") in STATUSES
        further = {k: v for k, v in record.items() if k not in names or (k == "status" and not own_status)}
        nested = further.get("extra")
        if isinstance(nested, dict):
            further = {k: v for k, v in further.items() if k != "extra"} | nested
        cell = json.dumps(further, ensure_ascii=False) if further else ""
        kept = (None if n == "status" and not own_status else record.get(n) for n in columns)
        lines.append([*map(_cell, kept), cell])
    if any(line[-1] for line in lines):
        columns.append("extra")
    else:
        lines = [line[:-1] for line in lines]
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return out.getvalue()


def _cell(value: Any) -> str:
    """A field as text; a list by `_parts`."""
    if value is None or isinstance(value, str):
        return value or ""
    parts = list(value)
    plain = "|".join(parts)
    return plain if _parts(plain, "|;") == parts else json.dumps(parts, ensure_ascii=False)
