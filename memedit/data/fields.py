"""What several readers do with the fields of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memedit.data.case import Query, QueryKind
from memedit.edit import Edit

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
