"""The table of the formats that are read, how a file's format is found, and what is read from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from memedit.data.case import Case
from memedit.data.counterfact import full, short
from memedit.data.fields import Record
from memedit.data.files import TABLES, records
from memedit.data.knowedit import knowedit
from memedit.data.mquake import mquake
from memedit.data.own import own
from memedit.data.table import row
from memedit.data.zsre import zsre
from memedit.edit import Edit
from memedit.errors import DataError, EditError, unknown


@dataclass(frozen=True, slots=True)
class Format:
    """A format of JSON records.

    Attributes:
        signs: sets of fields, any one of which tells the format. case: makes a case of a record.
    """

    name: str
    says: str
    signs: tuple[frozenset[str], ...]
    case: Callable[[Record], Case]


def _signs(*texts: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(text.split()) for text in texts)


# In the order in which they are tried: what tells more goes first.
_TABLE = Format(
    "table",
    "a table: CSV, TSV, or JSON with such names as question and answer",
    _signs("question answer", "query answer", "prompt answer", "question target"),
    row,
)
FORMATS = (
    Format("memedit", "memedit's own lines", _signs("prompt target", "statement", "prompt kind"), own),
    Format("mquake", "MQuAKE", _signs("requested_rewrite questions", "requested_rewrite new_answer"), mquake),
    Format("counterfact-full", "CounterFact with ROME's fields",
           _signs("requested_rewrite neighborhood_prompts", "requested_rewrite"), full),
    Format("zsre", "zsRE with MEND's fields", _signs("src alt"), zsre),
    Format("knowedit", "KnowEdit",
           _signs("prompt target_new subject portability", "prompt target_new subject locality",
                  "text labels concept", "K_F K_R", "ent pos neg"), knowedit),
    Format("counterfact", "CounterFact or zsRE with EasyEdit's fields",
           _signs("prompt target_new subject"), short),
    _TABLE,
    Format("memedit", "memedit's own lines", _signs("prompt"), own),
)  # fmt: skip
NAMES = (*dict.fromkeys(f.name for f in FORMATS), *TABLES)


@dataclass(frozen=True)
class Reading:
    """What a file holds for a memory.

    Attributes:
        format: its name. edits: in the file's order, one record may give several. places: where each of them
            stands ("line 3"). refused: what can't be taken, as (place, reason).
    """

    format: str
    edits: list[Edit] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def read(path: str | Path, limit: int | None = None, format: str | None = None) -> Reading:
    """The edits of a file, each with its place, and what can't be taken.

    Nothing is left out silently: of edits that repeat or contradict one another, the memory's rules decide.

    Args:
        path: a file, or "-" for standard input. limit: take so many records at most.
        format: one of `NAMES`; None to see from the file.

    Raises:
        DataError: the file as a whole can't be read.
    """
    name, found = _cases(path, format)
    out, taken = Reading(name), 0
    for where, case in found:
        if limit is not None and taken >= limit:
            break
        if isinstance(case, DataError):
            out.refused.append((where, str(case).removeprefix(f"{where}: ")))
            continue
        taken += 1
        several = len(case.edits) > 1
        for number, edit in enumerate(case.edits, 1):
            out.edits.append(edit)
            out.places.append(f"{where}, edit {number}" if several else where)
    return out


def read_edits(
    path: str | Path, limit: int | None = None, format: str | None = None
) -> tuple[list[Edit], list[str]]:
    """The edits of a file and, in words, the records that can't be taken (see `read`)."""
    found = read(path, limit, format)
    return found.edits, [f"{where}: {reason}" for where, reason in found.refused]


def read_cases(path: str | Path, limit: int | None = None, format: str | None = None) -> list[Case]:
    """All cases of a file, for an evaluation with all their edits in one memory.

    Left out are cases that contradict an earlier one, since no answer could be right for both, and those
    whose only edit was there already, unless they ask what follows from it together with others.

    Raises:
        DataError: unreadable, of no known format, or a record that can't be taken (named).
    """
    cases: list[Case] = []
    known: dict[str, str | None] = {}
    for where, case in _cases(path, format)[1]:
        if limit is not None and len(cases) >= limit:
            break
        if isinstance(case, DataError):
            raise DataError(f"{path} {where}: " + str(case).removeprefix(f"{where}: "))
        targets = {key: edit.target for edit in case.edits for key in _about(edit)}
        against = any(known.get(key, target) != target for key, target in targets.items())
        repeated = len(case.edits) == 1 and _about(case.edit)[0] in known
        if not against and not (repeated and all(q.kind != "multi-hop" for q in case.queries)):
            cases.append(case)
            known.update(targets)
    if not cases:
        raise DataError(f"{path} holds no case")
    return cases


def read_placed(
    path: str | Path, format: str | None = None
) -> tuple[str, Iterator[tuple[str, Case | DataError]]]:
    """The format's name, and every record's place ("line 3") with its case or what is wrong with it; nothing left out.

    Raises:
        DataError: the file as a whole can't be read, or is of no known format.
    """
    return _cases(path, format)


def read_prompts(path: str | Path, limit: int | None = None) -> list[str]:
    """Prompts of a file of questions: the field `prompt`, `question`, `query` or `qText` of each record.

    Raises:
        DataError: no such field.
    """
    prompts: list[str] = []
    for where, record in records(path)[1]:
        if limit is not None and len(prompts) >= limit:
            break
        if isinstance(record, DataError):
            raise DataError(f"{path} {record}")
        if not isinstance(record, Mapping):
            raise DataError(f"{path} {where}: {_no_object(record)}")
        text = next(
            (record[k] for k in ("prompt", "question", "query", "qText") if isinstance(record.get(k), str)),
            None,
        )
        if not text:
            raise DataError(
                f"{path} {where}: no prompt, question or query; it has {', '.join(map(str, record))}"
            )
        prompts.append(text)
    return prompts


def _about(edit: Edit) -> list[str]:
    """What tells that two edits are of one thing: the prompt (else the statement) first, then the relation."""
    keys = [key for key in edit.keys if not key.startswith("ref\x1f")]
    return keys if edit.prompt else [f"statement\x1f{edit.statement}", *keys]


def _cases(path: str | Path, format: str | None) -> tuple[str, Iterator[tuple[str, Case | DataError]]]:
    """The format's name, and for each record its place and its case or what is wrong with it.

    Raises:
        DataError: the file as a whole can't be read, or is of no known format.
    """
    if format is not None and format not in NAMES:
        raise DataError(unknown("format", format, NAMES))
    table, found = records(path, format)
    if table:
        chosen = _TABLE
    elif format is not None:
        chosen = next(f for f in FORMATS if f.name == format)
    else:
        chosen, found = _detect(found, path)
    kind = "csv" if table else chosen.name

    def cases() -> Iterator[tuple[str, Case | DataError]]:
        for where, record in found:
            try:
                yield where, record if isinstance(record, DataError) else _case(chosen, record, where, table)
            except DataError as error:
                raise DataError(f"{path}: {error}") from None

    return kind, cases()


def _detect(found: Iterator[tuple[str, Any]], path: str | Path) -> tuple[Format, Iterator[tuple[str, Any]]]:
    """The format of the first record that has one, and the records from the beginning.

    Raises:
        DataError: no record has one, and at least one is an object.
    """
    seen: list[tuple[str, Any]] = []
    objects = []
    for where, record in found:
        seen.append((where, record))
        if isinstance(record, Mapping):
            objects.append((where, record))
            for known in FORMATS:
                if any(sign <= record.keys() for sign in known.signs):
                    return known, chain(seen, found)
    if objects:
        where, record = objects[0]
        raise DataError(f"{path} {where}: no known format; {_nearest(record, FORMATS)}")
    return FORMATS[0], iter(seen)  # each of them has its own sentence


def _nearest(record: Record, formats: tuple[Format, ...]) -> str:
    """Which fields were found, and which of the formats they come nearest to."""
    near, sign = max(
        ((f, sign) for f in formats for sign in f.signs),
        key=lambda pair: len(pair[1] & record.keys()) / len(pair[1]),
    )
    names = [str(key) for key in record]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"found {shown or 'no field'}; nearest is {near.name}, which needs {' and '.join(sorted(sign))}"


def _case(known: Format, record: Any, where: str, table: bool) -> Case | DataError:
    """The case of a record, or what is wrong with it.

    Raises:
        DataError: files of this sort hold no edits at all.
    """
    if not isinstance(record, Mapping):
        return DataError(f"{where}: {_no_object(record)}")
    signs = [sign for f in FORMATS if f.name == known.name for sign in f.signs]
    if not table and not any(sign <= record.keys() for sign in signs):
        forms = tuple(f for f in FORMATS if f.name == known.name)
        return DataError(f"{where}: no record of the format {known.name}; {_nearest(record, forms)}")
    try:
        return known.case(record)
    except EditError as error:
        return DataError(f"{where}: {error}")
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        what = f"there is no field {error}" if isinstance(error, KeyError) else str(error)
        return DataError(f"{where}: not as the format {known.name} has it ({what})")


def _no_object(value: Any) -> str:
    kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )
    return f"an object is expected, this is {kind}"
