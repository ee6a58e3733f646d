"""The run file: a journal beside it while it is made, so that a stopped run goes on; one JSON at the end.

`NAME.work/` holds the journal, a line for each batch that was answered, and the memories. All of it goes once NAME is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memedit.errors import DataError
from memedit.loading import PRETRAINED

FORMAT = 1
# Shipped models beside the base, which has a digest of its own.
DECIDING = ("scope", "counterfactual", "mend")
Entry = dict[str, Any]


def shipped() -> str:
    """A digest of the shipped models that routes and methods ask: with others the same command gives other answers.

    Of weights and of settings (thresholds are some), but not of cards and what was measured.
    """
    digest = hashlib.sha256()
    for folder in (PRETRAINED / name for name in DECIDING):
        for file in sorted(folder.iterdir()):
            if file.suffix in (".safetensors", ".json") and file.name != "measured.json":
                digest.update(file.read_bytes())
    return digest.hexdigest()


class Record:
    """What a run has found so far.

    Args:
        output: the run file; None keeps nothing beyond this process. setting: everything that the answers depend on, but
            the shipped models, which are added.
        fresh: begin anew, whatever was there.

    Attributes:
        resumed: how much an earlier, stopped run has left. finished: what is in the file, where that is this very run.

    Raises:
        DataError: the file, or the unfinished run beside it, is of other settings, or the file is no run file.
    """

    def __init__(self, output: str | None, setting: Mapping[str, Any], fresh: bool = False) -> None:
        self.output = Path(output).resolve() if output and output != "-" else None
        self.setting = json.loads(json.dumps({**setting, "shipped": shipped()}))
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if self.output is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="memedit-eval-")
            self.folder = Path(self._temporary.name)
        else:
            self.folder = self.output.with_name(f".{self.output.name}.work")
        self._known: dict[str, Entry] = {}
        if fresh:
            self._drop()
        self.finished: dict[str, Any] | None = None
        self._check_output(fresh)
        self._journal = self.folder / "journal.jsonl"
        if not self.finished:
            self._open()
        self.resumed = len(self._known)

    def get(self, key: str) -> Entry | None:
        """What was kept under a key."""
        return self._known.get(key)

    def put(self, key: str, entry: Entry) -> Entry:
        """Keep an entry, durably, before the next is made."""
        self._known[key] = entry
        self._write({"key": key, **entry})
        return entry

    def finish(self, document: Mapping[str, Any]) -> None:
        """Write the run file, whole or not at all, and let go of what it was made from."""
        if self.output is not None:
            beside = self.output.with_name(f".{self.output.name}.{os.getpid()}.part")
            try:
                with beside.open("w", encoding="utf-8") as file:
                    json.dump(document, file, ensure_ascii=False, indent=1)
                    file.write("\n")
                beside.replace(self.output)
            finally:
                beside.unlink(missing_ok=True)
        self._file.close()
        self._drop()

    def close(self) -> None:
        """Let go of the files; what was kept stays, for the next time."""
        if not self.finished:
            self._file.close()
        if self._temporary:
            self._temporary.cleanup()

    # -- its files

    def _drop(self) -> None:
        if self._temporary:
            self._temporary.cleanup()
        elif self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _check_output(self, fresh: bool) -> None:
        if self.output is None or fresh or not self.output.is_file() or not self.output.stat().st_size:
            return
        try:
            found = json.loads(self.output.read_text(encoding="utf-8"))
            known = found.get("setting")
        except (OSError, ValueError, AttributeError):
            known = None
        if known is None:
            raise DataError(
                f"{self.output.name} is there and is no run file; name another file, or write over it with --fresh"
            )
        if known != self.setting:
            raise DataError(
                f"{self.output.name} is a run with {_difference(known, self.setting)}; "
                "name another file, or begin anew with --fresh"
            )
        self.finished = found

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._journal.exists():
            self._read()
        self._file = self._journal.open("a", encoding="utf-8")
        if not self._journal.stat().st_size:
            self._write({"setting": self.setting})

    def _read(self) -> None:
        """The entries of an earlier run; what was cut off in the middle of a line is asked again."""
        data = self._journal.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self._journal.open("r+b") as file:
                file.truncate(len(whole))
        lines = whole.decode("utf-8").splitlines() if whole else []
        if not lines:
            return
        try:
            known = json.loads(lines[0])["setting"]
            entries = [json.loads(line) for line in lines[1:]]
            self._known = {entry.pop("key"): entry for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the unfinished run in {self.folder} can't be read ({error}); begin anew with --fresh"
            ) from None
        if known != self.setting:
            name = self.output.name if self.output else ""
            raise DataError(
                f"an unfinished run for {name} has {_difference(known, self.setting)}; "
                "give the same command, name another file, or begin anew with --fresh"
            )

    def _write(self, entry: Entry) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _difference(known: Any, given: Mapping[str, Any]) -> str:
    """Which settings are others, in words."""
    if not isinstance(known, Mapping):
        return "other settings"
    names = sorted(k for k in {*known, *given} if known.get(k) != given.get(k))
    shown = [f"{name} {_short(known.get(name))}, not {_short(given.get(name))}" for name in names[:2]]
    return "other settings: " + "; ".join(shown) + (f"; and {len(names) - 2} more" if len(names) > 2 else "")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def digest(prompts: Sequence[str]) -> str:
    """Of the questions of a batch."""
    return hashlib.sha256("\x1f".join(prompts).encode()).hexdigest()[:16]
