"""The errors that memedit raises on purpose. Every message says what was wrong and what to do.

MemeditError
├── EditError          an edit that can't be taken as it is (empty, too long, control characters, ...)
├── MemoryError_       a memory that can't be opened, read or written
│   ├── MemoryBusy     another process is writing
│   ├── NewerMemory    a newer memedit made it
│   ├── MemoryDamaged  its files hold something else than was written
│   ├── EncoderMismatch  the memory was made with another encoder
│   └── OldSchema      it was made by an older memedit, and may not be written now
├── ModelError         a model that can't be loaded, or can't do what was asked
├── MethodError        an unknown editing method, or an edit that the method can't serve
└── DataError          a data file that can't be read
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 1000  # characters of a message; what people put in can be of any length


class MemeditError(Exception):
    """Base of all errors that are meant for people: one sentence, what was wrong and what to do.

    A message quotes what it was given, which may hold anything; as text it is one line all the same, without
    control characters or halves of surrogate pairs, and of a length that can be read.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class EditError(MemeditError):
    """An edit that can't be taken as it is."""


class MemoryError_(MemeditError):
    """A memory that can't be opened, read or written (the underscore keeps Python's own MemoryError apart)."""


class MemoryBusy(MemoryError_):
    """Another process holds the memory's write lock for longer than the caller would wait."""


class NewerMemory(MemoryError_):
    """The memory's schema is newer than this memedit knows."""


class MemoryDamaged(MemoryError_):
    """The memory's files no longer hold what was written; `memedit doctor --repair` saves what can be read."""


class EncoderMismatch(MemoryError_):
    """The vectors of this memory were made by another encoder than the one at hand."""


class OldSchema(MemoryError_):
    """The memory must be migrated before it can be read, and was opened for reading only."""


class ModelError(MemeditError):
    """A model that can't be loaded, or can't do what was asked of it."""


class MethodError(MemeditError):
    """An editing method that does not exist, or that can't serve this edit or this model."""


class DataError(MemeditError):
    """A data file that can't be read; names the file and, where there is one, the line."""


class BadRecord(DataError):
    """One record of a file can't be taken; the others may be."""


class ContextWarning(UserWarning):
    """Part of what a row was to read before its prompt was left out, since the model takes no more tokens."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is in no table: suggests near ones, else lists all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return f"unknown {what} {name!r}; {hint}"
