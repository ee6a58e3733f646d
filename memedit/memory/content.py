"""An edit as text in a row and back, and moments as text that sorts."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import MISSING, fields
from datetime import datetime, timezone
from typing import Any

from memedit.edit import Edit
from memedit.errors import EditError, MemoryDamaged, MemoryError_

_DEFAULTS: dict[str, Any] = {
    f.name: f.default if f.default is not MISSING else None for f in fields(Edit) if f.name != "extra"
}


def dumps(edit: Edit) -> str:
    """The edit's fields that are set, as JSON.

    Raises:
        EditError: its extra keys hold what JSON can't.
    """
    data: dict[str, Any] = {
        name: getattr(edit, name) for name, default in _DEFAULTS.items() if getattr(edit, name) != default
    }
    if edit.extra:
        data["extra"] = edit.extra
    try:
        text = json.dumps(data, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EditError(f"the edit's extra keys can't be written as JSON: {error}") from None
    return text


def loads(text: str) -> Edit:
    """The edit of a row.

    It was checked when it came in, and is not again: rules that have become stricter since must not hide it.

    Raises:
        MemoryDamaged: the row is no longer what was written.
    """
    try:
        data = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise MemoryDamaged(
            f"a row of the memory is damaged ({str(text)[:40]!r}); run `memedit doctor --repair`"
        )
    edit: Edit = object.__new__(Edit)
    for name, default in _DEFAULTS.items():
        value = data.get(name, default)
        object.__setattr__(edit, name, tuple(value) if isinstance(value, list) else value)
    object.__setattr__(edit, "extra", data.get("extra", {}))
    return edit


def instant(when: str | datetime | None) -> str:
    """A moment as ISO 8601 in UTC with microseconds, so that text order is time order; None is now.

    Raises:
        EditError: it can't be read as a date.
    """
    if when is None:
        when = datetime.now(timezone.utc)
    elif isinstance(when, str):
        try:
            when = datetime.fromisoformat(when.strip().replace("Z", "+00:00"))
        except ValueError:
            raise EditError(
                f"{when!r} is no date; write one such as 2026-11-21 or 2026-11-21T12:00:00Z"
            ) from None
    elif not isinstance(when, datetime):
        raise EditError(f"a moment is a date or its text, not {type(when).__name__}")
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    try:
        return when.astimezone(timezone.utc).isoformat(timespec="microseconds")
    except OverflowError:
        raise EditError(f"{when} is no moment; times reach from the year 1 to 9999") from None


def checked(what: str, value: Any) -> str:
    """A text that can be kept, or looked for.

    Raises:
        MemoryError_: it is none.
    """
    if not isinstance(value, str):
        raise MemoryError_(f"{what} must be text, not {type(value).__name__}")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise MemoryError_(f"{what} holds half of a surrogate pair; mend its encoding")
    return value


def sought(what: str, value: Any) -> str:
    """A text to look for among an edit's refs, tags and sources, in the form in which an edit keeps them.

    Raises:
        MemoryError_: it is none.
    """
    return " ".join(unicodedata.normalize("NFC", checked(what, value)).split())
