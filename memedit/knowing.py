"""Which method answers which row of a call, and how rows of several methods become one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from memedit.asked import Talks
from memedit.demonstrations import handed
from memedit.kept import MemoryPatches, bound
from memedit.methods import load_method, method_info, settings_by_name
from memedit.router import Router

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.lm import HFModel
    from memedit.methods._together import RowsModel
    from memedit.methods.base import EditMethod

Settings = Mapping[str, Mapping[str, Any]]  # of methods, by name


class Knowing:
    """The methods of a model's edits, each loaded when it is first needed.

    Args:
        base: the frozen model. router: says by which method an edit is served. patches: where prepared ones are kept.
        settings: of methods, by name; what can't be set is said at once, and not at the first edit that fires.
    """

    def __init__(self, base: HFModel, router: Router, patches: MemoryPatches, settings: Settings) -> None:
        self._base, self._router, self._patches = base, router, patches
        self._settings = settings_by_name(settings)
        self._methods: dict[str, EditMethod] = {}
        for name in self._settings:
            self._method(name)

    @contextmanager
    def __call__(
        self, edits_per_row: Sequence[Sequence[Edit]], talks: Talks | None = None
    ) -> Iterator[RowsModel]:
        """See `EditedModel.knowing`."""
        from memedit.methods._rows import Row, rows_applied
        from memedit.methods._together import together

        talks = [None] * len(edits_per_row) if talks is None else talks
        shared: list[tuple[int, Row]] = []
        alone: dict[str, list[int]] = {}
        for i, (edits, talk) in enumerate(zip(edits_per_row, talks, strict=True)):
            by_method = self._by_method(edits)
            own = [name for name in by_method if self._method(name).answers_itself]
            if own:
                newest = next(name for e in reversed(edits) if (name := self._router.method_of(e)) in own)
                alone.setdefault(newest, []).append(i)
                continue
            row = Row(tail=None if talk is None else talk.tail)
            for name, some in by_method.items():
                row = row + self._method(name).row(self._base, some)
            shared.append((i, row))
        with ExitStack() as stack:
            parts: list[tuple[list[int], RowsModel]] = []
            if shared or not alone:
                lm = stack.enter_context(rows_applied(self._base, [row for _, row in shared]))
                parts.append(([i for i, _ in shared], lm))
            for name, rows in alone.items():
                theirs = [edits_per_row[i] for i in rows]
                applied = self._method(name).applied(self._base, theirs, [talks[i] for i in rows])
                parts.append((rows, stack.enter_context(applied)))
            yield together(self._base, parts)

    def _by_method(self, edits: Sequence[Edit]) -> dict[str, list[Edit]]:
        parts: dict[str, list[Edit]] = {}
        for edit in edits:
            parts.setdefault(self._router.method_of(edit), []).append(edit)
        return parts

    def _method(self, name: str) -> EditMethod:
        if name not in self._methods:
            given = {**handed(method_info(name).handed, self._router.memory), **self._settings.get(name, {})}
            self._methods[name] = bound(load_method(name, **given), self._patches)
        return self._methods[name]
