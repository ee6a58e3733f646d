"""One file with an index in it, and at its end what it is an index of.

The file is the index's own bytes (``faiss.read_index`` reads it), then a JSON trailer, the trailer's length
and a magic word. A file that is cut short or changed by a bit is as good as none: `load` says None, and the
index is made again from SQLite, which is the truth. So is one of another memory, encoder or history, which
its `Mark` tells.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_MAGIC = b"memedit1"
_TAIL = struct.Struct("<I8s")
ABANDONED = 3600.0  # seconds; a temporary file this old belongs to a process that was killed


@dataclass(frozen=True, slots=True)
class Mark:
    """What a snapshot is of: a memory, an encoder, and the last operation that it knows.

    The operation's time is there beside its id because a memory restored from a backup counts on from an
    earlier id: the ids then meet again, the times don't.
    """

    memory: str
    encoder: str
    operation: int
    at: str


def save(path: Path, payload: bytes, mark: Mark) -> None:
    """Put a snapshot in the place of the one before, or leave that as it is.

    Raises:
        OSError: the folder can't be written, or the disk is full.
    """
    trailer = json.dumps({"mark": asdict(mark), "sha256": _digest(payload, mark)}).encode()
    write_durably(path, payload, trailer, _TAIL.pack(len(trailer), _MAGIC))


def load(path: Path) -> tuple[bytes, Mark] | None:
    """The index's bytes and what they are of; None where the file is missing or damaged."""
    try:
        data = path.read_bytes()
        length, magic = _TAIL.unpack(data[-_TAIL.size :])
        end = len(data) - _TAIL.size - length
        if magic != _MAGIC or end < 0:
            return None
        trailer = json.loads(data[end : -_TAIL.size])
        payload, mark = data[:end], Mark(**trailer["mark"])
        return (payload, mark) if trailer["sha256"] == _digest(payload, mark) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        return None


def peek(path: Path) -> Mark | None:
    """What a snapshot says that it is of, read from its end alone; None where it is missing or says nothing."""
    try:
        with open(path, "rb") as file:
            file.seek(-_TAIL.size, os.SEEK_END)
            length, magic = _TAIL.unpack(file.read())
            if magic != _MAGIC:
                return None
            file.seek(-_TAIL.size - length, os.SEEK_END)
            return Mark(**json.loads(file.read(length))["mark"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        return None


def _digest(payload: bytes, mark: Mark) -> str:
    digest = hashlib.sha256(payload)
    digest.update(json.dumps(asdict(mark)).encode())
    return digest.hexdigest()


def write_durably(path: Path, *parts: bytes) -> None:
    """Write a file so that after a crash there is the old one or the new one, whole.

    Raises:
        OSError: the folder can't be written, or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)
    for stray in path.parent.glob(f"{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - stray.stat().st_mtime > ABANDONED:
                stray.unlink()


def sync_folder(folder: Path) -> None:
    """A rename is on the disk once its folder is; systems that can't open folders see to it themselves."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
