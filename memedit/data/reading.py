"""What is read from a file of any format: edits for a memory, cases for an evaluation, prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memedit.data import hub, splits
from memedit.data.case import Case
from memedit.data.files import records
from memedit.data.formats import FORMATS, NAMES, TABLE, about, case_of, detected, no_object
from memedit.edit import Edit
from memedit.errors import BadRecord, DataError, unknown


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


@dataclass(frozen=True)
class CaseSet:
    """What a file holds for an evaluation with all edits in one memory.

    Attributes:
        format: its name. cases: in the file's order. rows: of each case, the number of its record, from nought.
        contradicting: places of cases left out because they contradict an earlier one. repeated: of those left out
            because their only edit was there already. refused: records that can't be taken, as (place, reason).
    """

    format: str
    cases: list[Case] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    contradicting: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        """How many records gave no case."""
        return len(self.contradicting) + len(self.repeated) + len(self.refused)

    def __str__(self) -> str:
        """One sentence."""
        parts = [
            f"{len(what):,} {words}"
            for what, words in (
                (self.contradicting, "that contradict an earlier one"),
                (self.repeated, "that repeat one"),
                (self.refused, "that can't be taken"),
            )
            if what
        ]
        left = f"; left out: {', '.join(parts)}" if parts else ""
        first = f" (the first, {self.refused[0][0]}: {self.refused[0][1]})" if self.refused else ""
        return f"{len(self.cases):,} cases of the format {self.format}{left}{first}"


def read(path: str | Path, limit: int | None = None, format: str | None = None) -> Reading:
    """The edits of a file, each with its place, and what can't be taken.

    Nothing is left out silently: of edits that repeat or contradict one another, the memory's rules decide.

    Args:
        path: a file, "-" for standard input, or "hf:OWNER/NAME[:CONFIG][:SPLIT]". limit: take so many records at most.
        format: one of `NAMES`; None to see from the file.

    Raises:
        DataError: the file as a whole can't be read.
    """
    name, found = read_placed(path, format)
    out, taken = Reading(name), 0
    for where, case in found:
        if limit is not None and taken >= limit:
            break
        if isinstance(case, DataError):
            out.refused.append((where, _reason(case, where)))
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


def read_cases(
    path: str | Path, limit: int | None = None, format: str | None = None, split: str | None = None
) -> list[Case]:
    """All cases of a file, for an evaluation with all their edits in one memory; see `read_set`.

    Raises:
        DataError: unreadable, of no known format, or a record that can't be taken (named).
    """
    return read_set(path, limit, format, split).cases


def read_set(
    path: str | Path,
    limit: int | None = None,
    format: str | None = None,
    split: str | None = None,
    skip_bad: bool = False,
    together: bool = True,
) -> CaseSet:
    """All cases of a file, and what was left out.

    Left out are cases that contradict an earlier one, since no answer could be right for both, and those
    whose only edit was there already, unless they ask what follows from it together with others.

    Args:
        limit: at most so many cases. format: one of `NAMES`; None to see from the file.
        split: only the rows that `splits.json`, beside the file or above it, gives to this part ("dev").
        skip_bad: leave out records that can't be taken, too, each with its reason.
        together: False keeps every case, for an evaluation that has each alone in memory.

    Raises:
        DataError: unreadable, of no known format, a part without rows, or a record that can't be taken (named).
    """
    rows = None if split is None else splits.rows_of(path, split)
    wanted = None if rows is None else set(rows)
    name, found = read_placed(path, format)
    out, seen = CaseSet(name), 0
    known: dict[str, str | None] = {}
    for row, (where, case) in enumerate(found):
        seen = row + 1
        if limit is not None and len(out.cases) >= limit:
            break
        if wanted is not None and row not in wanted:
            continue
        if isinstance(case, DataError):
            if not skip_bad:
                raise BadRecord(f"{path} {where}: {_reason(case, where)}")
            out.refused.append((where, _reason(case, where)))
            continue
        targets = {key: edit.target for edit in case.edits for key in about(edit)}
        if not together:
            out.cases.append(case)
            out.rows.append(row)
        elif any(known.get(key, target) != target for key, target in targets.items()):
            out.contradicting.append(where)
        elif (
            len(case.edits) == 1
            and about(case.edit)[0] in known
            and all(q.kind != "multi-hop" for q in case.queries)
        ):
            out.repeated.append(where)
        else:
            out.cases.append(case)
            out.rows.append(row)
            known.update(targets)
    if not out.cases:
        raise DataError(_nothing(path, out, split))
    if rows and limit is None and max(rows) >= seen:
        raise DataError(
            f"{path} has {seen:,} records, and splits.json names row {max(rows):,}: they don't belong together"
        )
    return out


def read_placed(
    path: str | Path, format: str | None = None
) -> tuple[str, Iterator[tuple[str, Case | DataError]]]:
    """The format's name, and every record's place ("line 3") with its case or what is wrong with it; nothing left out.

    Raises:
        DataError: the file as a whole can't be read, or is of no known format.
    """
    if format is not None and format not in NAMES:
        raise DataError(unknown("format", format, NAMES))
    named = next((f for f in FORMATS if f.name == format), None)
    table, found = records(path, None if named and named.rows else format)
    if named is not None and (named.rows or not table):
        chosen = named
    elif table and format is not None:
        chosen = TABLE
    else:
        chosen, found = detected(found, path, table)
    kind = "csv" if table and chosen is TABLE else chosen.name
    if chosen.gathered is not None:
        found = chosen.gathered(found, "" if hub.is_hub(path) else str(path))

    def cases() -> Iterator[tuple[str, Case | DataError]]:
        for where, record in found:
            try:
                yield (
                    where,
                    record if isinstance(record, DataError) else case_of(chosen, record, where, table),
                )
            except DataError as error:
                raise DataError(f"{path}: {error}") from None

    return kind, cases()


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
            raise DataError(f"{path} {where}: {no_object(record)}")
        text: Any = next(
            (record[k] for k in ("prompt", "question", "query", "qText") if isinstance(record.get(k), str)),
            None,
        )
        if not text:
            raise DataError(
                f"{path} {where}: no prompt, question or query; it has {', '.join(map(str, record))}"
            )
        prompts.append(text)
    return prompts


def _nothing(path: str | Path, found: CaseSet, split: str | None) -> str:
    """Why there is no case, in a sentence."""
    part = f" for the part {split}" if split else ""
    if found.refused:
        where, reason = found.refused[0]
        more = f" (and {len(found.refused) - 1:,} more such records)" if len(found.refused) > 1 else ""
        return f"{path} holds no case{part} that can be taken; {where}: {reason}{more}"
    return f"{path} holds no case{part}"


def _reason(error: DataError, where: str) -> str:
    return str(error).removeprefix(f"{where}: ")
