"""The memory: all edits, durable and versioned.

memory.py      EditMemory, what others use
records.py     the values it hands out, and the Encoder that it needs
readable.py    its reading half      decided.py  which edits contradict each other, and what is decided of them
rules.py       when one edit supersedes another, or may contradict it; names
store.py       the SQLite file: opened, locked, its errors in words      migrations.py  its tables
reading.py     rows as records      writing.py  one operation in one transaction      undo.py  taken back
conflicts.py   pairs that may contradict each other, or were decided to both stay
purge.py       no byte left
content.py     an edit as text      vectors.py  edits encoded, once for each content
index.py       nearest vectors: the interface, and FAISS      torch_index.py  the same on a GPU
live.py        the index kept level with SQLite, and searched      snapshot.py  its file
suspects.py    which edits are looked at for a conflict
patches.py     what methods prepared      health.py  numbers and problems
care.py        EditMemory looking after itself      backup.py  backup and restore
compaction.py  giving back space
repair.py      a new database from a damaged one      salvage.py, pages.py, wal.py  what can be read of it
reconcile.py   what the rows that were read mean together
"""

from memedit.memory.backup import Copied
from memedit.memory.care import repair_memory, restore
from memedit.memory.compaction import Compacted
from memedit.memory.memory import DEFAULT_METHOD, EditMemory
from memedit.memory.records import Added, Conflict, Encoder, Near, Operation, Purged, Record, Version
from memedit.memory.rules import conflicting, replayable, supersedes

__all__ = [
    "DEFAULT_METHOD",
    "Added",
    "Compacted",
    "Conflict",
    "Copied",
    "EditMemory",
    "Encoder",
    "Near",
    "Operation",
    "Purged",
    "Record",
    "Version",
    "conflicting",
    "repair_memory",
    "replayable",
    "restore",
    "supersedes",
]
