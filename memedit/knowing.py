"""Which method answers which row of a call, and how rows of several methods become one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from memedit.asked import Talks
from memedit.demonstrations import handed
from memedit.kept import MemoryPatches, bound
from memedit.methods import METHODS, load_method, method_info, settings_by_name
from memedit.router import Candidate, Route, Router

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
        self,
        edits_per_row: Sequence[Sequence[Edit]],
        talks: Talks | None = None,
        times: Sequence[str | datetime | None] | None = None,
    ) -> Iterator[RowsModel]:
        """See `EditedModel.knowing`."""
        from memedit.methods._rows import Row, rows_applied
        from memedit.methods._together import together

        talks = [None] * len(edits_per_row) if talks is None else talks
        times = [None] * len(edits_per_row) if times is None else times
        shared: list[tuple[int, Row]] = []
        alone: dict[tuple[str, str | datetime | None], list[int]] = {}
        counted = [self._counting(edits) for edits in edits_per_row]
        for i, (edits, talk) in enumerate(zip(counted, talks, strict=True)):
            by_method = self._by_method(edits)
            own = [name for name in by_method if self._method(name).answers_itself]
            if own:
                newest = next(name for e in reversed(edits) if (name := self._router.method_of(e)) in own)
                alone.setdefault((newest, times[i]), []).append(i)
                continue
            row = Row() if talk is None else Row(tail=talk.tail, after=talk.after)
            for name, some in by_method.items():
                row = row + self._method(name).row(self._base, some)
            shared.append((i, row))
        with ExitStack() as stack:
            parts: list[tuple[list[int], RowsModel]] = []
            if shared or not alone:
                lm = stack.enter_context(rows_applied(self._base, [row for _, row in shared]))
                parts.append(([i for i, _ in shared], lm))
            for (name, at), rows in alone.items():
                method = self._method(name).at(at)
                applied = method.applied(self._base, [counted[i] for i in rows], [talks[i] for i in rows])
                parts.append((rows, stack.enter_context(applied)))
            yield together(self._base, parts)

    def asked_first(self, routes: Sequence[Route], questions: Sequence[str]) -> list[Route]:
        """The verdicts, with those by which no edit fires laid before the default method where it wants to be asked.

        Edits that it needs on the way to an answer fire after all (`mello`), if they are its own to serve.
        """
        name, out = self._router.default_method, list(routes)
        idle = [i for i, route in enumerate(routes) if not route.fired and questions[i].strip()]
        info = METHODS.get(name)
        if info is None or not info.asks or not idle or not len(self._router.memory):
            return out
        for at in dict.fromkeys(routes[i].at for i in idle):
            rows = [i for i in idle if routes[i].at == at]
            found = self._method(name).at(at).found(self._base, [questions[i] for i in rows])
            for i, hits in zip(rows, found, strict=True):
                own = [hit for hit in hits if self._router.method_of(hit.edit) == name]
                if own:
                    out[i] = _on_the_way(out[i], own, name)
        return out

    def _counting(self, edits: Sequence[Edit]) -> list[Edit]:
        """A row's edits, oldest first, without those that a newer one answers too, if either of the two is a patch.

        Among facts that are only stated, the last one wins as it is read; a patch would go on against what was said later.
        """
        from memedit.methods.patched import PatchMethod

        patched = [isinstance(self._method(self._router.method_of(edit)), PatchMethod) for edit in edits]
        keys = [set(edit.keys) for edit in edits]
        return [
            edit
            for i, edit in enumerate(edits)
            if not any((patched[i] or patched[j]) and keys[i] & keys[j] for j in range(i + 1, len(edits)))
        ]

    def _by_method(self, edits: Sequence[Edit]) -> dict[str, list[Edit]]:
        parts: dict[str, list[Edit]] = {}
        for edit in edits:
            parts.setdefault(self._router.method_of(edit), []).append(edit)
        return parts

    def _method(self, name: str) -> EditMethod:
        if name not in self._methods:
            what = method_info(name).handed
            given = {**handed(what, self._router.memory), **self._settings.get(name, {})}
            if what == "lookup":
                given["lookup"] = self._hits
            self._methods[name] = bound(load_method(name, **given), self._patches)
        return self._methods[name]

    def _hits(self, questions: Sequence[str], at: str | datetime | None) -> list[list[Candidate]]:
        """For each question the edits that it asks for, as the router sees it, oldest first."""
        return [[c for c in r.edits if c.kind == "direct"] for r in self._router.route(questions, at)]


def _on_the_way(route: Route, hits: Sequence[Candidate], method: str) -> Route:
    """A verdict in which edits that only a step of the answer asks for fire."""
    fired = {
        hit.id: replace(hit, kind="ripple", reason=f"a step on the way asks for it: {hit.reason}")
        for hit in hits
    }
    nearest = sorted(
        (*fired.values(), *(c for c in route.nearest if c.id not in fired)), key=lambda c: -c.probability
    )
    edits = tuple(fired[id] for id in sorted(fired))
    return replace(route, edits=edits, nearest=tuple(nearest), method=method)
