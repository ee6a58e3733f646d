"""What several readers do with the fields of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memedit.data.case import Query, QueryKind
from memedit.edit import Edit
from memedit.subjects import find, words

Record = Mapping[str, Any]


def text(value: Any) -> str:
    """The value, which must be text.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text is expected")
    return value


def flat(value: Any) -> tuple[str, ...]:
    """All texts of a text or of lists in lists, each once, empty ones left out.

    Raises:
        TypeError: something in it is neither text nor list.
    """
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return tuple(dict.fromkeys(part for item in value for part in flat(item)))
    return (text(value),) if text(value).strip() else ()


def filled(prompt: Any, subject: str) -> str:
    """The prompt with its subject in the place of ``{}``."""
    return text(prompt).replace("{}", subject)


def first(value: Any) -> str | None:
    """The first text, where there is one."""
    return next(iter(flat(value)), None)


def changed(old: Any, target: str | None) -> str | None:
    """The old answer, unless it is the target: some records ask for what was true already."""
    given = first(old)
    return None if given and target and given.casefold().strip() == target.casefold().strip() else given


def named(subject: Any, prompt: str) -> str | None:
    """The subject, if the prompt names it: an edit's prompt has to."""
    given = first(subject)
    said = " ".join(prompt.casefold().split())
    return given if given and " ".join(given.casefold().split()) in said else None


def shared(statement: str, questions: Sequence[str]) -> str | None:
    """The longest run of words that a statement and all its questions share, if it looks like a name."""
    there = words(statement)
    best = ""
    for first_word in range(len(there)):
        for last in range(first_word, len(there)):
            run = statement[there[first_word].start : there[last].end]
            if (
                len(run) > len(best)
                and there[first_word].capital
                and all(find(run, q).share == 1 for q in questions)
            ):
                best = run
    return best or None


def asks(edit: Edit) -> list[Query]:
    """An edit's own prompt as a query; of an erasure, whose old answer must not be given any more."""
    if not edit.prompt:
        return []
    if edit.kind == "erase":
        return [Query("old", edit.prompt, flat(edit.old))]
    return [Query("edit", edit.prompt, answers(edit))]


def answers(edit: Edit) -> tuple[str, ...]:
    """What counts as right for an edit's own prompt."""
    return tuple(a for a in (edit.target, *edit.target_aliases) if a)


def numbered(record: Record) -> dict[str, Any]:
    """The data set's id of a record, as a further key of its edit.

    It is no `ref`: those numbers begin at nought in every file, and a ref supersedes.
    """
    return {"case_id": record["case_id"]} if record.get("case_id") is not None else {}


def grouped(kind: QueryKind, groups: Any) -> list[Query]:
    """KnowEdit's {label: [{"prompt", "ground_truth"}, ...]} as queries.

    Raises:
        TypeError, KeyError: it is of another shape.
    """
    if not groups:
        return []
    if not isinstance(groups, Mapping):
        raise TypeError(f"{kind} is {type(groups).__name__}, not an object")
    return [
        Query(kind, prompt, flat(item.get("ground_truth")), label)
        for label, items in groups.items()
        for item in ([items] if isinstance(items, Mapping) else items or ())
        for prompt in flat(item["prompt"])
    ]
