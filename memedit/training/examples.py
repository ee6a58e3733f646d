"""A user's own examples as cases: any format that `memedit import` reads, looked at before a training starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memedit.data import Case as Record
from memedit.data import hub, read_placed, read_prompts
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
NAMED = 20  # bad records that a note names; of more it tells the number


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
    """An edit as it was last met, with all queries of its rows by their plain words: (query, where)."""

    edit: Edit
    relation: str
    where: str
    queries: dict[str, tuple[Query, str]] = field(default_factory=dict)


@dataclass
class _Reading:
    """What the records so far hold.

    Attributes:
        known: edits by the plain words of their prompt or statement. asked: for the plain words of each query in scope
            the edits that it is said to ask for.
    """

    known: dict[str, _Known] = field(default_factory=dict)
    asked: dict[str, list[str]] = field(default_factory=dict)


def read_examples(paths: Sequence[str], format: str | None = None, skip_bad: bool = False) -> Examples:
    """All cases of the files; repeats dropped and counted.

    Rows with the same prompt (or statement) are one edit, which gives one answer; a query asks for one fact.

    Args:
        skip_bad: leave out records that can't be taken, or that contradict an earlier one or themselves, and name them.

    Raises:
        DataError: a file that can't be read, a record that can't be taken, two that contradict each other, too few
            edits, or no query of a class.
    """
    out, reading = Examples(), _Reading()
    for path in dict.fromkeys(paths):
        out.files[path] = sha256(path)
        _read(path, format, reading, out, skip_bad)
    for one in reading.known.values():
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
    """Of a file's bytes; of a data set on a hub, of its records.

    Raises:
        DataError: it can't be read.
    """
    if hub.is_hub(path):
        local = hub.named_file(str(path))
        if local is not None:
            return sha256(local)
        digest = hashlib.sha256()
        for _, record in hub.records(str(path)):
            digest.update(json.dumps(record, sort_keys=True, default=str).encode())
        return digest.hexdigest()
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from None


def unchanged(files: Mapping[str, str], anew: str = "start anew with --fresh") -> None:
    """See that the files still are what they were.

    Args:
        anew: how to start anew, for the message.

    Raises:
        DataError: which one changed.
    """
    for path, digest in files.items():
        if sha256(path) != digest:
            raise DataError(f"{path} has changed since the training began; put it back as it was, or {anew}")


# ---------------------------------------------------------------- rows


def _read(path: str, format: str | None, reading: _Reading, out: Examples, skip_bad: bool) -> None:
    taken, refused, left_out = 0, [], []
    for place, record in read_placed(path, format)[1]:
        where = f"{path} {place}"
        if isinstance(record, DataError):
            refused.append(f"{where}: {str(record).removeprefix(f'{place}: ')}")
            continue
        try:
            _take(record, where, reading, out)
            taken += 1
        except DataError as error:
            if not skip_bad:
                raise DataError(f"{error}; mend it, or leave such records out with --skip-bad") from None
            left_out.append(str(error))
    if skip_bad:
        left_out, refused = [*refused, *left_out], []
    if len(refused) > FEW_REFUSED * (taken + len(refused)):
        more = f" (and {len(refused) - 1:,} more such records)" if len(refused) > 1 else ""
        raise DataError(f"{refused[0]}; mend the record or take it out, or use --skip-bad{more}")
    if refused:
        out.notes.append(f"{len(refused):,} records were left out, the first: {refused[0]}")
    out.notes += [f"left out: {said}" for said in left_out[:NAMED]]
    if len(left_out) > NAMED:
        out.notes.append(f"{path}: {len(left_out) - NAMED:,} more such records were left out")


def _take(record: Record, where: str, reading: _Reading, out: Examples) -> None:
    """All edits of a record with their queries, or nothing of it.

    Raises:
        DataError: it contradicts itself or an earlier record, or a list of queries is none.
    """
    found: list[tuple[str, Edit, dict[str, Query]]] = []
    repeated = 0
    for number, edit in enumerate(record.edits):
        key, mine = plain(edit.prompt or edit.statement), dict[str, Query]()
        one = reading.known.get(key)
        _same_answer(edit, one, where)
        queries = _queries(record, number, edit, where)
        repeated += one is not None and not queries
        for query in queries:
            words = plain(query.text)
            before, there = (mine[words], where) if words in mine else (
                one.queries[words] if one and words in one.queries else (None, where)
            )  # fmt: skip
            if before is None:
                mine[words] = query
            elif _side(before.kind) == _side(query.kind):
                repeated += 1
            else:
                both = f"{where} and {there}" if where != there else where
                raise DataError(
                    f"{both}: the query {query.text!r} is both {_side(before.kind)} and {_side(query.kind)} "
                    f"of the edit {edit.statement!r}"
                )
        _asked_for_once(key, edit, mine, where, reading)
        found.append((key, edit, mine))
    out.repeated += repeated
    for key, edit, mine in found:
        one = reading.known.setdefault(key, _Known(_bare(edit), _relation(edit), where))
        if one.where == where:  # of one record made in order the last answer stands
            one.edit = _bare(edit)
        one.queries.update((words, (query, where)) for words, query in mine.items())
        for words, query in mine.items():
            if query.kind in IN_SCOPE:
                reading.asked.setdefault(words, []).append(key)


def _same_answer(edit: Edit, one: _Known | None, where: str) -> None:
    """See that an edit gives the answer that its prompt had before, unless it is a further one ("keep_both")."""
    if one is None or edit.extra.get("keep_both") is True:
        return
    before, now = (f"the target {e.target!r}" if e.target else "no target" for e in (one.edit, edit))
    if plain(one.edit.target or "") != plain(edit.target or ""):
        raise DataError(
            f"{where} and {one.where}: {edit.prompt or edit.statement!r} has {now} here and {before} there"
        )


def _asked_for_once(
    key: str, edit: Edit, queries: Mapping[str, Query], where: str, reading: _Reading
) -> None:
    """See that no query in scope of an edit is in scope of another fact too."""
    for words, query in queries.items():
        for other in reading.asked.get(words, ()) if query.kind in IN_SCOPE else ():
            one = reading.known[other]
            if other != key and not _one_fact(edit, one.edit):
                raise DataError(
                    f"{where} and {one.queries[words][1]}: the query {query.text!r} is in scope of two facts, "
                    f"{edit.statement!r} and {one.edit.statement!r}"
                )


def _one_fact(edit: Edit, other: Edit) -> bool:
    """Whether two edits may be one fact in two wordings: of one subject, with one answer."""
    answers = {plain(e.target or "") for e in (edit, other)}
    return len(answers) == 1 and "" not in answers and plain(edit.subject or "") == plain(other.subject or "")


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
