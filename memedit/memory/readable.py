"""`ReadableMemory`: what can be asked of a memory. `EditMemory` adds what changes it."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from memedit.errors import MemoryError_, unknown
from memedit.memory import reading
from memedit.memory.content import checked, instant, sought
from memedit.memory.live import LiveIndex
from memedit.memory.records import Array, Encoder, Near, Operation, Record, Version
from memedit.memory.rules import places_in
from memedit.memory.store import Store
from memedit.memory.vectors import Vectors

_STATUSES = ("live", "superseded", "forgotten", "purged", "all")


class ReadableMemory:
    """The reading half of `memedit.memory.EditMemory`."""

    def __init__(
        self, store: Store, encoder: Encoder | Callable[[], Encoder] | None, device: str | None
    ) -> None:
        self._store = store
        self._vectors = Vectors(store, encoder, device)
        self._live = LiveIndex(store.folder, device)
        self._counted = ((-1, ""), 0)  # last operation, live edits

    def get(self, id: int) -> Record:
        """The edit with this id, whatever its status.

        Raises:
            MemoryError_: there is none.
        """
        with self._store.reading() as db:
            return reading.record(db, id)

    def get_ref(self, ref: str) -> Record:
        """The edit with this ref; of several the live one, else the newest.

        Raises:
            MemoryError_: there is none.
        """
        with self._store.reading() as db:
            return reading.record_with_ref(db, sought("a ref", ref))

    def history(self, id: int) -> builtins.list[Version]:
        """All that happened to one edit, oldest first.

        Raises:
            MemoryError_: there is no such edit.
        """
        with self._store.reading() as db:
            reading.record(db, id)
            return reading.versions(db, id)

    def list(
        self,
        *,
        tag: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        method: str | None = None,
        status: str = "live",
        limit: int | None = None,
        offset: int = 0,
    ) -> builtins.list[Record]:
        """Edits by id; every filter that is given must hold.

        Raises:
            MemoryError_: `status` is none of live, superseded, forgotten, purged and all; all are all but the purged.
        """
        if status not in _STATUSES:
            raise MemoryError_(unknown("status", str(status), _STATUSES))
        wanted = _wanted(tag=tag, source=source, subject=subject, method=method)
        with self._store.reading() as db:
            found = reading.records(db, **wanted, status=status, limit=limit, offset=offset)
            return builtins.list(found)

    def as_of(
        self,
        time: str | datetime,
        *,
        tag: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        method: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> builtins.list[Record]:
        """The edits that were live at a moment, as they were then: what the memory knew, less what was purged.

        The filters are as for `list`. A date alone is its first moment, in UTC.

        Raises:
            EditError: the time can't be read as one.
        """
        wanted = _wanted(tag=tag, source=source, subject=subject, method=method)
        with self._store.reading() as db:
            found = reading.records_at(db, instant(time))
        kept = [
            r
            for r in found
            if wanted["tag"] in (None, *r.edit.tags)
            and wanted["source"] in (None, r.edit.source)
            and (wanted["subject"] or "").casefold() in ("", (r.edit.subject or "").casefold())
            and wanted["method"] in (None, r.edit.method)
        ]
        return kept[offset:][:limit]

    def operations(self, limit: int | None = None) -> builtins.list[Operation]:
        """What was done to the memory, newest first."""
        with self._store.reading() as db:
            return reading.operations(db, limit)

    def __iter__(self) -> Iterator[Record]:
        """The live edits, by id."""
        return iter(self.list())

    def __len__(self) -> int:
        with self._store.reading() as db:
            last = reading.last_operation(db)
            if self._counted[0] != last:
                self._counted = (last, reading.count(db))
            return self._counted[1]

    @property
    def path(self) -> Path:
        """The memory's folder."""
        return self._store.folder

    @property
    def generation(self) -> int:
        """Grows whenever the edits, or their vectors, change."""
        with self._store.reading() as db:
            return reading.last_operation(db)[0]

    # -- searching

    def search(self, text: str, k: int = 10) -> builtins.list[Near]:
        """The k live edits nearest to a text, those that it names among them."""
        checked("what is searched for", text)
        return self.near([text], self.encoder.encode([text]), k)[0][:k] if len(self) else []

    def near(
        self, queries: Sequence[str], vectors: Array, k: int = 8, at: str | datetime | None = None
    ) -> builtins.list[builtins.list[Near]]:
        """For each query the k nearest live edits and up to k that it names.

        Best cosine first. A query names an edit where the edit's subject, or an alias, stands in it
        (`memedit.memory.rules.named_in`).

        Args:
            queries: texts. vectors: theirs, (n, dim), by the memory's encoder. at: the moment at which the
                edits' facts hold; None for now.

        Raises:
            EncoderMismatch: the vectors are of another length than the memory's.
        """
        return self.near_with_vectors(queries, vectors, k, at)[0]

    def near_with_vectors(
        self, queries: Sequence[str], vectors: Array, k: int = 8, at: str | datetime | None = None
    ) -> tuple[builtins.list[builtins.list[Near]], Array]:
        """As `near`, and the vectors of all that are near, (pairs, views, dim), query after query.

        Where the memory is searched on a GPU they are a tensor there, and so are each `Near.vectors`; the
        queries' may be one, too, and then never leave it.
        """
        with self._store.reading() as db:
            return self._live.near(db, queries, vectors, k, instant(at))

    def subjects_in(self, text: str) -> builtins.list[str]:
        """Subjects (and aliases) of live edits that a text names, as it writes them; what stands last comes first."""
        places = places_in(text)
        with self._store.reading() as db:
            spans = [places[name] for name in reading.by_name(db, sorted(places))]
        whole = [s for s in spans if not any(o != s and o[0] <= s[0] and s[1] <= o[1] for o in spans)]
        return [text[start:end] for start, end in sorted(set(whole), reverse=True)]

    # -- settings

    @property
    def encoder(self) -> Encoder:
        """What encodes for this memory; loaded on first need.

        Raises:
            EncoderMismatch: the memory's vectors are another encoder's.
        """
        return self._vectors.encoder

    def get_meta(self, key: str) -> str | None:
        """A setting of the memory, or a fact about it; None where it was never set."""
        return self._store.meta(key)


def _wanted(**filters: str | None) -> dict[str, str | None]:
    """Filters in the form in which edits keep what they are compared with."""
    return {name: None if value is None else sought(name, value) for name, value in filters.items()}
