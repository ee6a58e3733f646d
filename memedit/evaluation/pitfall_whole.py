"""One copy of a base that holds the edits of all cases, for drift: it takes long, and is gone on with where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit.errors import DataError
from memedit.evaluation import asking
from memedit.evaluation.parts import Parts
from memedit.evaluation.pitfall_cases import Pitfall

if TYPE_CHECKING:
    from memedit.merging import Merged

EVERY = 20  # edits between two states that are kept
Failures = list[dict[str, str]]


def whole(
    fresh: Callable[[], Merged], cases: Sequence[Pitfall], parts: Parts, every: int = EVERY
) -> tuple[Any, Failures]:
    """The LM with the edits of all cases, in their order, and the cases that failed there.

    Args:
        fresh: a new copy. parts: keeps the weights after each `every` edits, where the method's later edits need no more.
    """
    edits = [(case.case, edit) for case in cases for edit in (case.first, case.second)]
    copy, made, failed = _begun(fresh, parts)
    parts.more(made)
    for number, (case, edit) in enumerate(edits[made:], made + 1):
        try:
            copy.add(edit)
        except Exception as error:  # of a model that has collapsed
            failed.append({"case": case, "error": f"among the edits of all cases: {asking.said(error)}"})
        if number % every == 0 and number < len(edits):
            _keep(copy, parts, number, failed)
        parts.more(1)
    return copy.lm, failed


def _state(parts: Parts, folder: Path, made: int) -> Path:
    return folder / f"{parts.key.replace('/', '-')}-{made}.safetensors"


def _keep(copy: Merged, parts: Parts, made: int, failed: Failures) -> None:
    """The weights in a file of their own, then the note that they hold; an older one goes last."""
    if parts.record is None or not copy.resumable:
        return
    folder, key = parts.record.folder, f"{parts.key}/all"
    older = parts.record.get(key)
    copy.save_state(_state(parts, folder, made), f"{parts.key} {made}")
    parts.record.put(key, {"made": made, "failed": failed})
    if older:
        _state(parts, folder, older["made"]).unlink(missing_ok=True)


def _begun(fresh: Callable[[], Merged], parts: Parts) -> tuple[Merged, int, Failures]:
    """A copy as it was kept last; without a state that can be read, a new one."""
    copy, kept = fresh(), parts.record.get(f"{parts.key}/all") if parts.record else None
    if kept:
        with suppress(DataError):
            copy.load_state(_state(parts, parts.record.folder, kept["made"]), f"{parts.key} {kept['made']}")  # type: ignore[union-attr]
            return copy, kept["made"], list(kept["failed"])
    return (fresh() if kept else copy), 0, []
