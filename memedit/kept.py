"""Patches between methods and memory: `MemoryPatches` hands stored ones to a method, and takes new ones in; `prepare`.

Methods know no memory, and the memory knows no method: a patch is bytes there. Its key says for which edit content,
method, base and settings it was made, so that a patch of another base is never found here, let alone applied.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from memedit.errors import MemeditError, MemoryError_, MethodError

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.lm import HFModel
    from memedit.memory import EditMemory, Record
    from memedit.methods._effects import Effect
    from memedit.methods._patch import Patch
    from memedit.methods.base import EditMethod
    from memedit.methods.patched import PatchMethod

BUDGET = 256 << 20  # bytes of patches that are held ready
_log = logging.getLogger("memedit")

Progress = Callable[[int, int], None]


class MemoryPatches:
    """The patches of a memory, as methods ask for them; those used last are held ready.

    Args:
        memory: whose patches. writes: whether a memory that was opened for reading may be opened once more, to keep what
            was prepared. Without, that is known in this process alone.
    """

    def __init__(self, memory: EditMemory, writes: bool = False) -> None:
        self.memory, self.writes = memory, writes
        self._ready: OrderedDict[str, Patch] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: str) -> Patch | None:
        """The patch with this key; None where there is none, or it is lost or damaged."""
        from memedit.methods._patch import Patch

        with self._lock:
            if key in self._ready:
                self._ready.move_to_end(key)
                return self._ready[key]
        data = self.memory.get_patch(key)
        if data is None:
            return None
        patch = Patch.from_bytes(data)
        self.hold(key, patch)
        return patch

    def passed_over(self, key: str, edit: Edit, method: str, base: str) -> str | None:
        """What the kept patches of an edit by this method are for, where none has this key.

        Args:
            base: fingerprint of the base at hand.
        """
        rows = self.memory.patches(content=edit.content_hash)
        keys = dict.fromkeys(row["key"] for row in rows if row["method"] == method and row["key"] != key)
        abouts = [about for about in map(self.memory.about_patch, keys) if about]
        if not abouts:
            return None
        mine = [about for about in abouts if about.get("base") == base]
        if not mine:
            return f"another base, {abouts[-1].get('base', '')[:8]}"
        now = [about for about in mine if not earlier(about, edit)]
        return "other settings" if now else "an earlier version of the edit"

    def put(self, key: str, edit: Edit, patch: Patch) -> None:
        """Keep a patch with the memory's live edits that say so, whole or not at all; else in this process alone."""
        self.hold(key, patch)
        try:
            self.store(key, edit, patch)
        except MemoryError_ as error:
            _log.info("the patch is known in this process alone: %s", error)

    def store(self, key: str, edit: Edit, patch: Patch) -> None:
        """Keep a patch with the memory's live edits that say so, whole or not at all.

        Raises:
            MemoryError_: it can't be written, or no live edit says so.
        """
        from memedit.memory import EditMemory

        method, data = patch.about["method"], patch.to_bytes()
        try:
            edits = self.memory.keep_patch(edit, key, method, data)
        except MemoryError_:
            if not self.writes:
                raise
            with EditMemory.open(self.memory.path, create=False) as writer:
                edits = writer.keep_patch(edit, key, method, data)
        if not edits:
            raise MemoryError_("no live edit says so, and nothing was stored; add it again")

    def hold(self, key: str, patch: Patch) -> None:
        """Have a patch ready, in the place of those that were used longest ago."""
        with self._lock:
            old = self._ready.pop(key, None)
            self._bytes += patch.size - (old.size if old else 0)
            self._ready[key] = patch
            while self._bytes > BUDGET and len(self._ready) > 1:
                _, gone = self._ready.popitem(last=False)
                self._bytes -= gone.size


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of one edit.

    Attributes:
        key: of its patch; None where the method prepares nothing or the edit was refused. new: whether it was made now.
        seconds, size: what it cost. error: why it was refused, in one sentence. others: patches of this method for
            other bases or settings, which stay and are not used.
    """

    id: int
    method: str
    key: str | None = None
    new: bool = False
    seconds: float = 0.0
    size: int = 0
    error: str | None = None
    others: int = 0


def bound(method: EditMethod, patches: MemoryPatches) -> EditMethod:
    """The method, which asks `patches` for what was prepared, if it prepares anything."""
    from memedit.methods.patched import PatchMethod

    if isinstance(method, PatchMethod):
        method.kept = patches
    return method


def prepare(
    patches: MemoryPatches,
    base: HFModel,
    records: Iterable[Record],
    method_of: Callable[[Edit], EditMethod],
    *,
    anew: bool = False,
) -> Iterator[Prepared]:
    """Prepare what is missing, an edit at a time; what was yielded is stored, also when the next one is cut off.

    What can't be stored is yielded with the error that says why.

    Args:
        anew: prepare also what is stored already.
    """
    from memedit.methods.patched import PatchMethod

    for record in records:
        edit, method = record.edit, method_of(record.edit)
        if not isinstance(method, PatchMethod):
            yield Prepared(record.id, method.name)
            continue
        try:
            key = method.key(base, edit)
            patch = None if anew else patches.get(key)
            new = patch is None
            if patch is None:
                patch = method.prepare(base, edit)
            # One that a call made before may be known in this process alone.
            if new or not any(p["key"] == key for p in patches.memory.patches(record.id)):
                patches.store(key, edit, patch)
                patches.hold(key, patch)
            yield Prepared(
                record.id, method.name, key, new, float(patch.about["seconds"]), patch.size,
                others=sum(p["method"] == method.name and p["key"] != key for p in patches.memory.patches(record.id)),
            )  # fmt: skip
        except MemeditError as error:
            yield Prepared(record.id, method.name, error=str(error))


def adopt(
    memory: EditMemory,
    base: HFModel,
    method: PatchMethod,
    record: Record,
    modules: Mapping[str, Effect],
    source: str,
) -> Prepared:
    """Keep effects that were made elsewhere as what a method would have prepared for an edit of this base.

    Args:
        source: where they come from, for people (`memedit show`).

    Raises:
        MethodError: the method does not serve the edit, or an effect is not finite.
    """
    from memedit.methods._patch import Patch

    method.check(record.edit)
    wrong = next((name for name, effect in modules.items() if not effect.finite()), None)
    if wrong is not None:
        raise MethodError(f"what {source} does to {wrong} is not finite, and nothing was kept: make it anew")
    key = method.key(base, record.edit)
    spent = {"seconds": "0", "cpu_seconds": "0"}  # here
    about = {**method.about(base, record.edit), **spent, "modules": str(len(modules)), "from": source}
    patch = Patch(modules, about)
    if memory.keep_patch(record.edit, key, method.name, patch.to_bytes()) == 0:
        raise MethodError(f"edit {record.id} is not live, and gets no patch; name a live one")
    return Prepared(record.id, method.name, key, True, 0.0, patch.size)


def earlier(about: Mapping[str, str], edit: Edit) -> bool:
    """Whether a patch, by what it says of itself, was made for what an edit said before it was changed."""
    read = _object(about.get("read"))
    return about.get("content", edit.content_hash) != edit.content_hash or any(
        getattr(edit, name, None) != value for name, value in read.items()
    )


def described(memory: EditMemory, edit_id: int) -> list[dict[str, Any]]:
    """An edit's patches for people and programs, a dict for each.

    Its keys: key, method, size (bytes), seconds, base, at; settings, all of them; given, those that were not left to the
    method (of a patch that does not tell, all); earlier, whether it is for what the edit said before; and notes.
    """
    edit, out = memory.get(edit_id).edit, []
    for row in memory.patches(edit_id):
        about = memory.about_patch(row["key"])
        hidden = ("method", "base", "settings", "given", "read", "content", "seconds", "format", "memedit")
        notes = {name: value for name, value in about.items() if name not in hidden}
        seconds = float(about["seconds"]) if "seconds" in about else None
        settings = _object(about.get("settings"))
        given = _object(about["given"]) if "given" in about else settings
        said = {"base": about.get("base", "")[:12], "seconds": seconds, "settings": settings, "given": given}
        said |= {"earlier": earlier(about, edit), "notes": notes}
        out.append({"key": row["key"], "method": row["method"], "size": row["size"], **said, "at": row["at"]})
    return out


def _object(text: str | None) -> dict[str, Any]:
    """What a JSON object holds; nothing where it is none."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
