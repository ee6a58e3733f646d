"""The demonstrations that `ike` draws on: a file of facts with their vectors in a memory's folder, or those that ship.

They are no edits: nothing here changes what a model knows. One safetensors file holds the vectors, the facts as
JSON lines and, in its header, which encoder made the vectors. It is written beside and moved into place, so that
there is the old store or the new one, whole. Search is exact, a product with all vectors: 100 000 take 20 ms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memedit.data import Demonstration
from memedit.errors import DataError, EncoderMismatch, MemoryError_
from memedit.memory.content import instant
from memedit.memory.snapshot import write_durably

if TYPE_CHECKING:
    from memedit.memory import EditMemory, Encoder

FILE = "demonstrations.safetensors"
SHIPPED = Path(__file__).parent / "pretrained" / "demonstrations" / "facts.jsonl"
FORMAT = "1"
_BATCH = 256  # facts that are encoded between two steps of a progress bar
_ASKED = 4_096  # edits whose vectors are kept, since the same edit is asked for again and again

Progress = Callable[[int, int], None]


class DemonstrationStore:
    """Facts to demonstrate with, and their vectors; made by `read`, `shipped` or `of`.

    Attributes:
        facts: one JSON object each. vectors: float32, (facts, dim), of their statements.
        about: what the file says of itself: format, encoder, encoder_name, source, built, facts.
    """

    def __init__(self, facts: Sequence[str], vectors: np.ndarray, about: dict[str, str]) -> None:
        self.facts, self.vectors, self.about = facts, vectors, about

    def __len__(self) -> int:
        return len(self.facts)

    def __iter__(self) -> Iterator[Demonstration]:
        return (Demonstration.from_dict(json.loads(line)) for line in self.facts)

    def nearest(
        self, vector: np.ndarray, k: int, usable: Callable[[Demonstration], bool] = lambda fact: True
    ) -> list[tuple[float, Demonstration]]:
        """At most k of those that are usable, with their cosines, nearest first; of equals, the earlier in the file.

        Args:
            vector: (dim,), of unit length.
        """
        cosines = self.vectors @ vector
        found: list[tuple[float, Demonstration]] = []
        for i in np.argsort(-cosines, kind="stable"):
            if len(found) >= k:
                break
            fact = Demonstration.from_dict(json.loads(self.facts[i]))
            if usable(fact):
                found.append((float(cosines[i]), fact))
        return found

    @classmethod
    def read(cls, folder: str | Path) -> DemonstrationStore | None:
        """The store of a memory's folder; None where none was built.

        Raises:
            MemoryError_: there is one, and it is damaged or of another version.
        """
        from safetensors import safe_open

        path = Path(folder) / FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, "np") as file:
                about = file.metadata() or {}
                vectors, text = file.get_tensor("vectors"), file.get_tensor("facts").tobytes()
            facts = text.decode().split("\n")[:-1]
            whole = about["format"] == FORMAT and about["sha256"] == _digest(vectors, text)
        except Exception as error:  # safetensors raises its own, which is no ValueError
            raise MemoryError_(_damaged(path)) from error
        if not whole or len(facts) != len(vectors):
            raise MemoryError_(_damaged(path))
        return cls(facts, vectors, about)

    @classmethod
    def shipped(cls, encoder: Encoder) -> DemonstrationStore:
        """The small set that comes with memedit, encoded now (about a second).

        Raises:
            DataError: the file is missing from this installation.
        """
        try:
            facts = SHIPPED.read_text(encoding="utf-8").split("\n")[:-1]
        except OSError as error:
            raise DataError(
                "the demonstrations that ship are missing from this installation: reinstall memedit, "
                "or build your own with `memedit demos build FILE`"
            ) from error
        statements = [json.loads(line)["statement"] for line in facts]
        about = {
            "format": FORMAT, "encoder": encoder.fingerprint, "encoder_name": encoder.name,
            "source": "shipped", "facts": str(len(facts)),
        }  # fmt: skip
        return cls(facts, _encoded(encoder, statements, None), about)

    @classmethod
    def of(cls, memory: EditMemory) -> DemonstrationStore:
        """What `ike` uses with this memory: the store in its folder, else the shipped demonstrations.

        Raises:
            EncoderMismatch: the store was built with another encoder than the memory's.
            MemoryError_: it is damaged.
        """
        store, encoder = cls.read(memory.path), memory.encoder
        if store is None:
            return cls.shipped(encoder)
        if store.about["encoder"] != encoder.fingerprint:
            raise EncoderMismatch(
                f"the demonstrations in {memory.path} were encoded by {store.about['encoder_name']} "
                f"({store.about['encoder']}), not by the memory's {encoder.name} ({encoder.fingerprint}); "
                "build them again with `memedit demos build FILE`"
            )
        return store


def build(
    folder: str | Path,
    facts: Sequence[Demonstration],
    encoder: Encoder,
    source: str = "",
    progress: Progress | None = None,
) -> dict[str, str]:
    """Encode facts and put them in the place of what the folder had; what the new file says of itself comes back.

    Raises:
        DataError: no fact. MemoryError_: the folder can't be written; then all is as it was.
    """
    if not facts:
        raise DataError("there is no fact to demonstrate with")
    text = "".join(json.dumps(fact.to_dict(), ensure_ascii=False) + "\n" for fact in facts).encode()
    vectors = _encoded(encoder, [fact.statement for fact in facts], progress)
    about = {
        "format": FORMAT, "encoder": encoder.fingerprint, "encoder_name": encoder.name, "source": source,
        "built": instant(None), "facts": str(len(facts)), "sha256": _digest(vectors, text),
    }  # fmt: skip
    from safetensors.numpy import save

    data = save({"vectors": vectors, "facts": np.frombuffer(text, np.uint8)}, metadata=about)
    try:
        write_durably(Path(folder) / FILE, data)
    except OSError as error:
        raise MemoryError_(f"the demonstrations can't be written in {folder}: {error.strerror}") from error
    return about


def remove(folder: str | Path) -> bool:
    """Take a folder's store away, whatever state it is in; whether there was one."""
    path = Path(folder) / FILE
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def retriever(
    memory: EditMemory,
) -> Callable[[str, int, Callable[[Demonstration], bool]], list[tuple[float, Demonstration]]]:
    """The function that `ike` is handed; the store is read at its first call, and kept."""
    stores: list[DemonstrationStore] = []

    @lru_cache(_ASKED)
    def vector(text: str) -> np.ndarray:
        return np.asarray(memory.encoder.encode([text]), np.float32)[0]

    def retrieve(
        text: str, k: int, usable: Callable[[Demonstration], bool]
    ) -> list[tuple[float, Demonstration]]:
        if not stores:
            stores.append(DemonstrationStore.of(memory))
        return stores[0].nearest(vector(text), k, usable)

    return retrieve


def handed(what: str | None, memory: EditMemory) -> dict[str, Any]:
    """What a method is given when it is built, by the name in its line of the table."""
    return {"retrieve": retriever(memory)} if what == "demonstrations" else {}


def _encoded(encoder: Encoder, texts: Sequence[str], progress: Progress | None) -> np.ndarray:
    parts = []
    for start in range(0, len(texts), _BATCH):
        parts.append(np.asarray(encoder.encode(texts[start : start + _BATCH]), np.float32))
        if progress is not None:
            progress(min(start + _BATCH, len(texts)), len(texts))
    return np.concatenate(parts)


def _digest(vectors: Any, text: bytes) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(vectors).tobytes())
    digest.update(text)
    return digest.hexdigest()


def _damaged(path: Path) -> str:
    return (
        f"{path} is damaged, or of another version of memedit: build it again with `memedit demos build FILE`, "
        "or take it away with `memedit demos remove`"
    )
