"""A user's own examples as cases: any format that `memedit import` reads, looked at before a training starts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memedit.data import Case as Record
from memedit.data import read_placed, read_prompts
from memedit.data.own import SCOPE_KEYS
from memedit.edit import Edit
from memedit.errors import DataError
from memedit.scope_eval.cases import plain, scope_kind
from memedit.subjects import content, find
from memedit.training.cases import IN_SCOPE, Case, Query, chance
from memedit.wording import asked_by, names

FEW_REFUSED = (
    0.01  # public sets hold a few records that are no edits; of more, something is wrong with the file
)
FEWEST = 10  # edits; of fewer, none could be held apart
HOW = '{"prompt": ..., "target": ..., "in_scope": [...], "out_of_scope": [...]}'
NEAR = ("same_subject", "neighbour", "swapped")


@dataclass
class Examples:
    """What the files hold.

    Attributes:
        cases: one for each edit. files: name and sha256 of each file. notes: sentences for the user.
        repeated: rows and queries that were there already, and were dropped.
    """

    cases: list[Case] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    repeated: int = 0

    def count(self, kinds: Sequence[str]) -> int:
        """Queries of these kinds."""
        return sum(query.kind in kinds for case in self.cases for query in case.queries)


@dataclass
class _Known:
    """An edit as it was first met, with all queries of its rows by their plain words: (query, where)."""

    edit: Edit
    relation: str
    where: str
    queries: dict[str, tuple[Query, str]] = field(default_factory=dict)


def read_examples(paths: Sequence[str], format: str | None = None) -> Examples:
    """All cases of the files; repeats dropped and counted.

    Rows with the same prompt (or statement) are one edit: what is in scope doesn't hang on the answer.

    Raises:
        DataError: a file that can't be read, a record that can't be taken, a query both in and out of scope of one edit,
            too few edits, or no query of a class.
    """
    out = Examples()
    known: dict[str, _Known] = {}
    for path in dict.fromkeys(paths):
        out.files[path] = sha256(path)
        _read(path, format, known, out)
    for one in known.values():
        queries = tuple(query for query, _ in one.queries.values())
        out.cases.append(Case(one.edit, queries, "own", one.relation))
    if out.repeated:
        out.notes.append(f"{out.repeated:,} of the queries were there already, and were dropped")
    _check(out)
    return out


def general_of(path: str | None, taken: Sequence[Case]) -> tuple[list[str], list[str]]:
    """General questions of a file, halved by hash: to train on, and to score; none that a case has.

    Raises:
        DataError: the file can't be read, or holds fewer than two questions.
    """
    if path is None:
        return [], []
    asked = {plain(query.text) for case in taken for query in case.queries}
    texts = [text for text in dict.fromkeys(read_prompts(path)) if plain(text) not in asked]
    if len(texts) < 2:
        raise DataError(f"{path} holds fewer than two general questions that are not in the examples too")
    half = [text for text in texts if chance(text) < 0.5] or texts[:1]
    return half, [text for text in texts if text not in set(half)] or texts[1:]


def sha256(path: str | Path) -> str:
    """Of a file's bytes.

    Raises:
        DataError: it can't be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from None


def unchanged(files: dict[str, str]) -> None:
    """See that the files still are what they were.

    Raises:
        DataError: which one changed.
    """
    for path, digest in files.items():
        if sha256(path) != digest:
            raise DataError(
                f"{path} has changed since the training began; put it back as it was, or start anew with --fresh"
            )


# ---------------------------------------------------------------- rows


def _read(path: str, format: str | None, known: dict[str, _Known], out: Examples) -> None:
    taken, refused = 0, []
    for place, record in read_placed(path, format)[1]:
        where = f"{path} {place}"
        if isinstance(record, DataError):
            refused.append(f"{where}: {str(record).removeprefix(f'{place}: ')}")
            continue
        taken += 1
        for number, edit in enumerate(record.edits):
            queries = _queries(record, number, edit, where)
            key = plain(edit.prompt or edit.statement)
            one = known.get(key)
            if one is None:
                one = known[key] = _Known(_bare(edit), _relation(edit), where)
            elif not queries:
                out.repeated += 1
            for query in queries:
                _take(one, query, where, out)
    if len(refused) > FEW_REFUSED * (taken + len(refused)):
        more = f" (and {len(refused) - 1:,} more such records)" if len(refused) > 1 else ""
        raise DataError(f"{refused[0]}; mend the record or take it out{more}")
    if refused:
        out.notes.append(f"{len(refused):,} records were left out, the first: {refused[0]}")


def _take(one: _Known, query: Query, where: str, out: Examples) -> None:
    words = plain(query.text)
    before = one.queries.get(words)
    if before is None:
        one.queries[words] = (query, where)
    elif _side(before[0].kind) == _side(query.kind):
        out.repeated += 1
    else:
        both = f"{where} and {before[1]}" if where != before[1] else where
        raise DataError(
            f"{both}: the query {query.text!r} is both {_side(before[0].kind)} and {_side(query.kind)} "
            f"of the edit {one.edit.statement!r}; take it out of one list"
        )


def _side(kind: str) -> str:
    return "in scope" if kind in IN_SCOPE else "a ripple" if kind == "ripple" else "out of scope"


def _queries(record: Record, number: int, edit: Edit, where: str) -> list[Query]:
    """The queries of one of a record's edits; those of none in particular go to the edits that they name, or to all.

    Raises:
        DataError: a list of queries that is none.
    """
    for key in SCOPE_KEYS:
        value: Any = edit.extra.get(key)
        if value is not None and (
            not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value)
        ):
            raise DataError(f"{where}: {key} must be a list of texts that are not empty")
    found = []
    for query in record.queries:
        kind = scope_kind(query)
        if kind is None or not query.prompt.strip():
            continue
        if query.of is None:
            naming = [i for i, other in enumerate(record.edits) if _names(other, query.prompt)]
            if naming and number not in naming:
                continue
        elif query.of != number:
            continue
        found.append(Query(query.prompt, _nearer(kind, edit, query.prompt)))
    return found


def _nearer(kind: str, edit: Edit, text: str) -> str:
    """What a query out of scope has in common with its edit: the subject, some words, or nothing."""
    if kind not in ("neighbour", "other_claim"):
        return kind
    if _names(edit, text):
        return "same_subject"
    return "neighbour" if content(text) & content(asked_by(edit)) else "general"


def _names(edit: Edit, text: str) -> bool:
    return any(find(name, text).share == 1 for name in names(edit))


def _bare(edit: Edit) -> Edit:
    """Without the further keys, which nothing here reads."""
    return replace(edit, extra={})


def _relation(edit: Edit) -> str:
    if edit.relation:
        return edit.relation
    asked = asked_by(edit)
    return asked.replace(edit.subject, "[X]") if edit.subject else asked


# ---------------------------------------------------------------- is there enough


def _check(found: Examples) -> None:
    files = ", ".join(found.files)
    if len(found.cases) < FEWEST:
        raise DataError(
            f"{files}: {len(found.cases)} edits; at least {FEWEST} are needed, so that some can be held apart"
        )
    if not found.count(("paraphrase", "alias", "claim")):
        raise DataError(
            f"{files}: no query is in scope but the edits' own prompts; add other ways to ask for each fact: {HOW}"
        )
    if not found.count(NEAR):
        found.notes.append(
            "no query is near an edit and out of its scope, so other edits' queries serve as such; "
            f"better are questions about the same subject that ask something else: {HOW}"
        )
