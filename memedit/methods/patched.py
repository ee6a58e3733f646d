"""`PatchMethod`: what methods share that prepare something for an edit, keep it, and put it on the rows that know the edit.

A method is a class with `Settings`, a dataclass of the paper's defaults, and `solve`. All else is here: the key that says
which edit, method, base and settings a patch belongs to, where it is kept, when it is prepared, and what several do to
one row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from memedit import __version__
from memedit.edit import Edit
from memedit.errors import MemeditError, MethodError
from memedit.layout import Layout
from memedit.methods._effects import RowPatch, added
from memedit.methods._papers import paper_layers
from memedit.methods._patch import Patch
from memedit.methods._settings import check_settings
from memedit.methods._splice import Piece
from memedit.methods._watch import file_digest, tokenizer_digest
from memedit.methods.base import EditMethod
from memedit.texts import shortened

if TYPE_CHECKING:
    from memedit.lm import HFModel

SMALL = 100_000_000  # parameters; a smaller base gets a method's settings for small ones

Progress = Callable[[int, int], None]
_log = logging.getLogger("memedit")


class Kept(Protocol):
    """Where patches are kept: a memory's folder, or this process (`InProcess`)."""

    def get(self, key: str) -> Patch | None:
        """The patch with this key, if there is one."""
        ...

    def put(self, key: str, edit: Edit, patch: Patch) -> None:
        """Keep a patch, whole or not at all."""
        ...

    def passed_over(self, key: str, edit: Edit, method: str, base: str) -> str | None:
        """What this edit's patches by this method are for, where there are any, and none has this key."""
        ...


class InProcess:
    """Patches of one process, gone with it."""

    def __init__(self) -> None:
        self._patches: dict[str, Patch] = {}

    def get(self, key: str) -> Patch | None:
        """The patch with this key, if there is one."""
        return self._patches.get(key)

    def put(self, key: str, edit: Edit, patch: Patch) -> None:
        """Keep a patch."""
        self._patches[key] = patch

    def passed_over(self, key: str, edit: Edit, method: str, base: str) -> str | None:
        """Not told: nothing outlives the process."""
        return None


@dataclasses.dataclass(frozen=True)
class Solved:
    """What `solve` gives: the patch's modules, and what is worth noting of how they were found (for people)."""

    modules: RowPatch
    notes: Mapping[str, float | str] = dataclasses.field(default_factory=dict)


class PatchMethod(EditMethod):
    """A method that prepares a patch for each edit.

    Subclasses give `Settings` (a frozen dataclass, the paper's defaults), `small` (what a base below 100 M parameters
    gets where the user says nothing), and `solve`.

    Attributes:
        kept: where patches are kept. progress: called with (done, total) by what takes long (`once`).
        sequel: what earlier edits left for later ones, where edits are merged one after another; None: each is alone.

    Raises:
        TypeError: a setting that the method does not have. MethodError: one of the wrong type or range.
    """

    Settings: ClassVar[type]
    small: ClassVar[Mapping[str, Any]] = {}
    version: ClassVar[int] = 1  # goes up when the method gives other patches for the same settings
    reads: ClassVar[tuple[str, ...]] = ()  # fields of an edit that `solve` reads beside its content
    low_rank: ClassVar[bool] = (
        True  # whether its patches are low-rank changes of weights, as a LoRA adapter holds them
    )
    once: ClassVar[str] = (
        "key covariance"  # what `progress` is told of: found once for a base, by those that need it
    )

    def __init__(self, **settings: Any) -> None:
        self.Settings(**settings)  # refuses what it does not know
        check_settings(self.name, self.Settings, settings)
        self.given = dict(settings)
        self.kept: Kept = InProcess()
        self.progress: Progress | None = None
        self.sequel: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.given.items())})"

    @abstractmethod
    def solve(self, base: HFModel, edit: Edit, settings: Any) -> Solved:
        """The patch for one edit alone.

        Args:
            settings: an instance of `Settings`, resolved for this base.

        Raises:
            MethodError, ModelError: what the edit or the base lacks; nothing is changed then.
        """

    def context(self, edits: Sequence[Edit]) -> Sequence[Piece]:
        """Nothing: the prompt is read as it is."""
        return ()

    def settings_for(self, base: HFModel) -> Any:
        """The settings that count for a base: the user's, then those for small bases, then the paper's.

        Of a large base that the paper names, these are the layers that it edits there, unless the user says where.
        """
        if sum(p.numel() for p in base.model.parameters()) < SMALL:
            known: Mapping[str, Any] = self.small
        else:
            known = {} if {"layer", "depth"} & self.given.keys() else paper_layers(self.name, base.model)
        return self.Settings(**{**known, **self.given})

    def files(self, settings: Any) -> Mapping[str, Path]:
        """The files that settings name, or what ships in their place, by the settings' names."""
        return {}

    def key(self, base: HFModel, edit: Edit) -> str:
        """What a patch is kept under: one edit content, method, base and settings give one key.

        Of a file that a setting names, what it holds counts, not where it is; of the base also how its tokenizer cuts texts.
        """
        resolved = self.settings_for(base)
        held = {name: file_digest(path) for name, path in self.files(resolved).items()}
        settings = json.dumps({**dataclasses.asdict(resolved), **held}, sort_keys=True)
        parts = [
            edit.content_hash,
            self.name,
            str(self.version),
            base.fingerprint,
            tokenizer_digest(base),
            settings,
        ]
        if any(getattr(edit, name) for name in self.reads):
            parts.append(self._read(edit))
        return f"{self.name}-{hashlib.sha256(chr(31).join(parts).encode()).hexdigest()[:40]}"

    def prepare(self, base: HFModel, edit: Edit) -> Patch:
        """Solve for one edit; nothing is kept.

        Raises:
            MethodError, ModelError: as `solve`, or its result is not finite.
        """
        start, worked = time.perf_counter(), time.process_time()
        solved = self.solved(base, edit)
        about = {
            **self.about(base, edit),
            "seconds": f"{time.perf_counter() - start:.3f}",
            "cpu_seconds": f"{time.process_time() - worked:.3f}",  # of all threads; a busy machine does not count
            **{name: f"{v:.4g}" if isinstance(v, float) else str(v) for name, v in solved.notes.items()},
        }
        return Patch(solved.modules, about)

    def about(self, base: HFModel, edit: Edit) -> dict[str, str]:
        """Whose a patch is: method, base, settings (and those of them that were given), edit; and by which memedit."""
        about = {
            "method": self.name,
            "base": base.fingerprint,
            "settings": json.dumps(dataclasses.asdict(self.settings_for(base)), sort_keys=True),
            "given": json.dumps(self.given, sort_keys=True),
            "content": edit.content_hash,
            "memedit": __version__,
        }
        return {**about, "read": self._read(edit)} if self.reads else about

    def _read(self, edit: Edit) -> str:
        return json.dumps({name: getattr(edit, name) for name in self.reads})

    def solved(self, base: HFModel, edit: Edit) -> Solved:
        """What `solve` finds for one edit, checked.

        Raises:
            MethodError, ModelError: as `solve`, or its result is not finite.
        """
        self.check(edit)
        base.check_mode()
        # Whoever calls may be in inference mode, whose tensors no gradient can go through.
        with torch.inference_mode(False), torch.no_grad():
            solved = self.solve(base, edit, self.settings_for(base))
        for module, effect in solved.modules.items():
            if not effect.finite():
                raise MethodError(
                    f"{self.name} found no finite patch of {module} for {shortened(edit.prompt or '', 60)!r}: "
                    "load the model in float32, or take another layer or a lower rate (see docs/methods.md)"
                )
        return solved

    def patch(self, base: HFModel, edit: Edit) -> Patch:
        """The edit's patch for this base: the kept one, else prepared now, and kept.

        Raises:
            MethodError, ModelError: as `prepare`, with the edit's name: it may be one of many in a batch.
        """
        key = self.key(base, edit)
        found = self.kept.get(key)
        if found is None:
            try:
                found = self.prepare(base, edit)
            except MemeditError as error:
                raise type(error)(
                    f"{self.name} can't prepare the edit {shortened(edit.statement, 60)!r}: {error}"
                ) from error
            other = self.kept.passed_over(key, edit, self.name, base.fingerprint)
            _log.info(
                "%s: prepared %r%s in %s s%s",
                self.name,
                shortened(edit.statement, 60),
                " anew" if other else "",
                found.about["seconds"],
                f": the kept one is for {other}" if other else "",
            )
            self.kept.put(key, edit, found)
        return found

    def row_patch(self, base: HFModel, edits: Sequence[Edit]) -> RowPatch | None:
        """The patches of a row's edits, joined: what they add to one module adds up, oldest first.

        Of edits that answer the same thing (the same prompt, or the same relation of the same subject) the newest counts
        alone: two targets added up would be neither.
        """
        out: RowPatch = {}
        for edit in newest(edits):
            out = added(out, self.patch(base, edit).modules)
        return out or None

    def layer(self, base: HFModel, layer: int | None, depth: float) -> int:
        """The number of the layer to edit: the one that is named, else the one at a share of the depth.

        Raises:
            MethodError: the model has no such layer.
        """
        layout = Layout.of(base.model)
        if layer is None:
            return layout.at(depth)
        if not 0 <= layer < len(layout):
            raise MethodError(f"the model has layers 0 to {len(layout) - 1}; there is no layer {layer}")
        return layer


def newest(edits: Sequence[Edit]) -> list[Edit]:
    """Edits, oldest first, without those that a later one answers too."""
    out: list[Edit] = []
    for i, edit in enumerate(edits):
        later = {key for other in edits[i + 1 :] for key in other.keys}
        if not later & set(edit.keys):
            out.append(edit)
    return out
