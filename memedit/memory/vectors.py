"""The edits' vectors: asked of the encoder once for each content, and kept in SQLite."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import cast

import numpy as np
from sqlite_utils import Database

from memedit.devices import best
from memedit.edit import Edit
from memedit.errors import EncoderMismatch
from memedit.memory import reading, writing
from memedit.memory.records import Encoder
from memedit.memory.store import Store

Progress = Callable[[int, int], None]

_BATCH = 256  # edits that are encoded between two steps of a progress bar


class Vectors:
    """Encodes what has no vectors yet, with an encoder that is loaded when it is first needed.

    Args:
        encoder: an encoder, or a function that loads one; None for memedit's scope classifier.
        device: where that classifier encodes; None takes a GPU if there is one.
    """

    def __init__(
        self, store: Store, encoder: Encoder | Callable[[], Encoder] | None, device: str | None = None
    ) -> None:
        self._store, self._device = store, device
        self._encoder = encoder
        self._loading = threading.Lock()

    @property
    def encoder(self) -> Encoder:
        """The memory's encoder.

        Raises:
            EncoderMismatch: the memory's vectors are another's.
        """
        encoder = self._at_hand()
        known = self._store.meta("encoder_fingerprint")
        if known not in (None, encoder.fingerprint):
            raise EncoderMismatch(
                f"the memory at {self._store.folder} was encoded by {self._store.meta('encoder_name')} "
                f"({known}), not by {encoder.name} ({encoder.fingerprint}); open it with that encoder, "
                "or encode it anew with `memedit rebuild --reencode`"
            )
        return encoder

    def of(
        self, edits: Sequence[Edit], progress: Progress | None = None, db: Database | None = None
    ) -> dict[str, bytes]:
        """By content hash, the vectors of those edits that have none yet."""
        by_hash = {edit.content_hash: edit for edit in edits}
        with nullcontext(db) if db is not None else self._store.reading() as source:
            have = reading.hashes_with_vectors(source, list(by_hash))
        missing = [edit for digest, edit in by_hash.items() if digest not in have]
        return encode(self.encoder, missing, progress) if missing else {}

    def keep(self, db: Database, edits: Sequence[Edit], encoded: dict[str, bytes]) -> None:
        """Write the vectors of edits that were just written, as part of the same transaction; of no others.

        They were encoded before it began, so that it is short; what another process has taken away since is
        encoded now.
        """
        hashes = {edit.content_hash for edit in edits}
        encoded = {digest: vectors for digest, vectors in encoded.items() if digest in hashes}
        encoded |= self.of([edit for edit in edits if edit.content_hash not in encoded], db=db)
        if encoded:
            writing.put_encoder(db, self.encoder)
            writing.put_vectors(db, encoded)

    def reencode(self, db: Database, progress: Progress | None = None) -> None:
        """Encode every live edit anew with the encoder at hand, which becomes the memory's."""
        encoder = self._at_hand()
        edits = [record.edit for record in reading.records(db)]
        writing.reencode(db, encoder, encode(encoder, edits, progress))

    def _at_hand(self) -> Encoder:
        with self._loading:
            if self._encoder is None:
                self._encoder = _shipped(best(self._device))
            elif isinstance(self._encoder, type) or not hasattr(self._encoder, "encode"):
                self._encoder = cast(Callable[[], Encoder], self._encoder)()
            return cast(Encoder, self._encoder)


def encode(encoder: Encoder, edits: Sequence[Edit], progress: Progress | None = None) -> dict[str, bytes]:
    """The edits' views, encoded, as the bytes that are kept, by content hash."""
    found: dict[str, bytes] = {}
    for start in range(0, len(edits), _BATCH):
        some = edits[start : start + _BATCH]
        vectors = np.asarray(encoder.encode([text for edit in some for text in encoder.texts(edit)]))
        for edit, views in zip(some, vectors.reshape(len(some), -1), strict=True):
            found[edit.content_hash] = reading.pack(views)
        if progress is not None:
            progress(start + len(some), len(edits))
    return found


def _shipped(device: str) -> Encoder:
    from memedit.scope import ScopeClassifier  # late: it imports more than `memedit list` needs

    return ScopeClassifier.load(device=device)
