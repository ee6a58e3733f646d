"""`Router`: for each query, which edits concern it, if any, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from memedit.chat.dialogue import Step, steps
from memedit.edit import Edit
from memedit.exclusion import rules_out, turns_round
from memedit.methods import method_info
from memedit.subjects import find
from memedit.texts import as_texts

if TYPE_CHECKING:
    from memedit.chat import Conversation
    from memedit.memory import EditMemory, Near
    from memedit.scope import ScopeClassifier

MAX_EDITS = (
    4  # fired edits of one query: a demonstrated context stays short, and more is a sign of a loose threshold
)

# Where the classifier has a quick twin in 8-bit integers, a query is judged again in full precision if other edits would fire
# at a threshold so much higher or lower, in log-odds. `memedit bench route` counts the verdicts that differ all the same.
CLOSE = 1.0


Judged = tuple["Near", str, float]  # a near edit, "direct" or "ripple", and how probable


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edit that was near enough to be judged for a query.

    Attributes:
        id: in the memory. kind: ``"direct"`` (asks for the fact) or ``"ripple"`` (needs it on the way).
        probability: that the edit concerns the query, calibrated. cosine: of query and statement.
        named: whether the query names the edit's subject or an alias of it.
        reason: why it fired, or why not, in words.
    """

    id: int
    edit: Edit
    kind: str
    probability: float
    cosine: float
    named: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """The router's verdict on one query.

    Attributes:
        edits: those that fire, oldest first; empty: the frozen base answers.
        nearest: all that were judged, most probable first, with the reason for each.
        threshold: the probability from which an edit fires, at the memory's size.
        method: of the newest edit that fires; None where none does.
        at: the time whose facts it is about; None for now.
    """

    query: str
    edits: tuple[Candidate, ...]
    nearest: tuple[Candidate, ...]
    threshold: float
    method: str | None
    at: str | datetime | None = None

    @property
    def fired(self) -> bool:
        """Whether any edit will be used."""
        return bool(self.edits)

    @property
    def score(self) -> float:
        """The highest probability among the candidates; 0 where there was none."""
        return self.nearest[0].probability if self.nearest else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The route as the command contract has it; `edit` is the most probable of those that fire."""

        def name(candidate: Candidate) -> str | int:
            return candidate.edit.ref if candidate.edit.ref is not None else candidate.id

        by_probability = sorted(self.edits, key=lambda c: -c.probability)
        return {
            "query": self.query,
            "fired": self.fired,
            "edit": name(by_probability[0]) if self.edits else None,
            "edits": [
                {"id": c.id, "ref": c.edit.ref, "kind": c.kind, "probability": round(c.probability, 6)}
                for c in by_probability
            ],
            "score": round(self.score, 6),
            "threshold": round(self.threshold, 6),
            "method": self.method,
        }


class Router:
    """Asks the memory for near edits, then the classifier which of them concern the query.

    It reads the query and nothing else. A batch costs one encode, one search, and one encode of
    masked queries for all near candidates together; where the classifier is `quick`, all that in 8-bit integers, and
    once more in full for the few queries that come close to the threshold.

    Args:
        memory: the edits. classifier: the one whose vectors the memory holds; None takes the memory's.
        false_fire_rate: share of general queries that may fire; None takes the classifier's default.
        method: overrides the edits' own and the memory's default method.
        k: nearest edits that are judged; those whose subject the query names are judged too.
        exact: never judge in 8-bit integers: slower on a CPU, with probabilities that are the same in any batch.
    """

    def __init__(
        self,
        memory: EditMemory,
        classifier: ScopeClassifier | None = None,
        *,
        false_fire_rate: float | None = None,
        method: str | None = None,
        k: int = 8,
        exact: bool = False,
    ) -> None:
        if method is not None:
            method_info(method)
        self.memory = memory
        self._classifier = classifier
        self.false_fire_rate = false_fire_rate
        self.method = method
        self.k = k
        self.exact = exact

    @property
    def classifier(self) -> ScopeClassifier:
        """The scope classifier; the memory's own encoder where none was given."""
        return self._classifier if self._classifier is not None else self.memory.encoder  # type: ignore[return-value]

    @property
    def default_method(self) -> str:
        """The method of edits that name none: the router's, else the memory's default."""
        return self.method or self.memory.default_method

    def method_of(self, edit: Edit) -> str:
        """The method that serves this edit: the router's, else the edit's own, else the memory's default."""
        return self.method or edit.method or self.memory.default_method

    def route(self, queries: Sequence[str], at: str | datetime | None = None) -> list[Route]:
        """One verdict per query, in order.

        Args:
            queries: texts. at: the time whose facts hold; None for now.
        """
        queries = as_texts(queries)
        if at is not None:
            from memedit.memory.content import instant

            at = instant(at)  # a time that is none is said also where there is nothing to route to
        size = len(self.memory)
        if not queries or not size:
            return [Route(query, (), (), 1.0, None) for query in queries]
        quick = None if self.exact else getattr(self.classifier, "quick", None)
        if quick is None:
            return [self._verdict(*found, at) for found in self._judged(self.classifier, queries, size, at)]
        judged = self._judged(quick, queries, size, at)
        close = [i for i, found in enumerate(judged) if self._is_close(*found)]
        if close:
            again = self._judged(self.classifier, [queries[i] for i in close], size, at)
            for i, found in zip(close, again, strict=True):
                judged[i] = found
        return [self._verdict(*found, at) for found in judged]

    def _judged(
        self, classifier: ScopeClassifier, queries: Sequence[str], size: int, at: str | datetime | None
    ) -> list[tuple[str, list[Judged], float]]:
        """Each query with its candidates, the most probable first, and the threshold."""
        vectors = classifier.embed(queries)  # on a GPU, they and the edits' stay there until the verdict
        near, stored = self.memory.near_with_vectors(queries, vectors, k=self.k, at=at)
        verdicts = classifier.judge(queries, vectors, [[n.record.edit for n in row] for row in near], stored)
        threshold = classifier.threshold(size, self.false_fire_rate)
        out = []
        for query, row, verdict in zip(queries, near, verdicts, strict=True):
            judged: list[Judged] = []
            for n, (direct, ripple) in zip(row, verdict, strict=True):
                kind, probability = (
                    ("direct", float(direct)) if direct >= ripple else ("ripple", float(ripple))
                )
                judged.append((n, kind, probability))
            judged.sort(key=lambda j: (j[2], j[0].record.recency), reverse=True)
            out.append((query, judged, threshold))
        return out

    def route_chat(
        self, conversations: Sequence[Conversation], at: str | datetime | None = None
    ) -> list[Route]:
        """One verdict per conversation: on its last user turn, in the light of the turns before it.

        A turn that refers back is also judged with what was named before in the pronoun's place, and the best
        verdict counts; one that doubts the last answer keeps the edits which that answer was given by. What was
        stated for an earlier turn is not stated for a new question. Everything is asked of the memory in one batch.

        Args:
            conversations: as `ChatTemplate.parse` gives them, or `Conversation.of`. at: as for `route`.
        """
        ways = [steps(conversation, self.memory.subjects_in) for conversation in conversations]
        queries = dict.fromkeys(
            query
            for way in ways
            for step in way
            for query in ((step.text, *step.variants) if step.asks else ())
            if query.strip()
        )
        judged = dict(zip(queries, self.route(list(queries), at), strict=True))
        return [_in_the_light(way, judged) for way in ways]

    def _firing(
        self, query: str, judged: list[Judged], threshold: float
    ) -> tuple[list[Near], list[Near], list[Near]]:
        """What reaches the threshold; without those whose subject is named less well; and what of these is used."""
        firing = [n for n, kind, probability in judged if probability >= threshold and self._can_use(n, kind)]
        exact = _named_best(query, firing)
        return firing, exact, _newest_of_conflicting(exact)[:MAX_EDITS]

    def _is_close(self, query: str, judged: list[Judged], threshold: float) -> bool:
        """Whether other edits might fire, were the probabilities a little higher or lower than they are."""
        odds = math.log(threshold / (1 - threshold))
        low, high = (
            {n.record.id for n in self._firing(query, judged, 1 / (1 + math.exp(-odds - by)))[2]}
            for by in (-CLOSE, CLOSE)
        )
        return low != high

    def _verdict(
        self, query: str, judged: list[Judged], threshold: float, at: str | datetime | None
    ) -> Route:
        firing, exact, kept = self._firing(query, judged, threshold)
        candidates = tuple(
            Candidate(
                id=n.record.id,
                edit=n.record.edit,
                kind=kind,
                probability=probability,
                cosine=n.cosine,
                named=n.named,
                reason=self._reason(query, n, kind, probability, threshold, firing, exact, kept),
            )
            for n, kind, probability in judged
        )
        age = {n.record.id: n.record.recency for n in kept}
        edits = tuple(sorted((c for c in candidates if c.id in age), key=lambda c: age[c.id]))
        method = self.method_of(edits[-1].edit) if edits else None
        return Route(query, edits, candidates, threshold, method, at)

    def _can_use(self, near: Near, kind: str) -> bool:
        return kind == "direct" or method_info(self.method_of(near.record.edit)).reasons

    def _reason(
        self, query: str, n: Near, kind: str, probability: float, threshold: float,
        firing: list[Near], exact: list[Near], kept: list[Near],
    ) -> str:  # fmt: skip
        named = "names the subject" if n.named else "does not name the subject"
        if n in kept:
            return f"{kind}: {named}, {probability:.3f} >= {threshold:.3f}"
        if n in firing and n not in exact:
            return "another edit's subject, which fires, is named better in its place"
        if n in firing:
            return "a newer edit of the same fact fires in its place"
        if probability >= threshold:
            return f"ripple: {self.method_of(n.record.edit)} can't reason with it"
        if rules_out(query, n.record.edit):
            return f"asks for another answer than {n.record.edit.target!r}"
        if turns_round(query, n.record.edit):
            return "asks for the fact the other way round"
        return f"{named}, {probability:.3f} < {threshold:.3f}"


def _in_the_light(way: Sequence[Step], judged: Mapping[str, Route]) -> Route:
    """The verdict on the last of some turns that need each other."""
    before: Route | None = None
    for step in way:
        routes = [judged[query] for query in (step.text, *step.variants) if query in judged]
        own = routes[0] if routes else Route(step.text, (), (), 1.0, None)
        best = max((r for r in routes if r.fired), key=lambda r: r.score, default=own)
        if best is not own:
            best = _because(best, f"in the light of an earlier turn, as {best.query!r}")
        if before is not None and before.fired:
            claims = [
                claim for c in before.edits for claim in (c.edit.target, c.edit.old, c.edit.subject) if claim
            ]
            if step.doubt_of(claims):
                best = _both(_because(before, _KEPT), best)
            elif step.passes and not best.fired and step is not way[-1]:
                continue  # said in passing; the next turn may take up what came before it
        before = best
    assert before is not None
    return before


_KEPT = "in the light of an earlier turn, which this one takes up"


def _because(route: Route, why: str) -> Route:
    """The route with `why` before the reasons of the edits that fire."""

    def said(candidate: Candidate) -> Candidate:
        reason = candidate.reason.rpartition(f"{_KEPT}: ")[2]  # once is enough
        return replace(candidate, reason=f"{why}: {reason}")

    fired = {c.id for c in route.edits}
    nearest = tuple(said(c) if c.id in fired else c for c in route.nearest)
    return replace(route, edits=tuple(map(said, route.edits)), nearest=nearest)


def _both(kept: Route, own: Route) -> Route:
    """What a doubt is about, and what it names itself."""
    if not own.fired or {c.id for c in own.edits} <= {c.id for c in kept.edits}:
        return kept
    edits = {c.id: c for c in (*own.edits, *kept.edits)}
    first = list(edits.values())[:MAX_EDITS]
    nearest = {c.id: c for c in (*own.nearest, *kept.edits)}
    return replace(
        own,
        edits=tuple(sorted(first, key=lambda c: c.id)),
        nearest=tuple(sorted(nearest.values(), key=lambda c: -c.probability)),
    )


def _named_best(query: str, firing: list[Near]) -> list[Near]:
    """Without edits whose subject is named less well than another's in the same place of the query.

    "The mayor of New York City" is no question about New York, where the memory knows both; nor is one about Ada
    Park, who is named in full, one about Ada Lee Park.
    """
    if len(firing) < 2:
        return firing
    found = {n.record.id: _places(n.record.edit, query) for n in firing}

    def outdone(n: Near) -> bool:
        whole, own = found[n.record.id]
        others = [
            span
            for id, (other_whole, some) in found.items()
            if id != n.record.id and other_whole
            for span in some
        ]

        def better(span: tuple[int, int]) -> bool:
            start, end = span
            if whole:
                return any(a <= start and end <= b and (a, b) != span for a, b in others)
            return any(a < end and start < b for a, b in others)

        return bool(own) and all(map(better, own))

    return [n for n in firing if not outdone(n)]


def _places(edit: Edit, query: str) -> tuple[bool, set[tuple[int, int]]]:
    """Whether a query has a whole name of the edit's subject, and where; else where it has part of one."""
    looked = [found for name in edit.names for found in [find(name, query)] if found.share]
    best = max((found.share for found in looked), default=0.0)
    spans = {span for found in looked if found.share == best for span in found.spans}
    return best == 1, {a for a in spans if not any(b[0] <= a[0] and a[1] <= b[1] and a != b for b in spans)}


def _newest_of_conflicting(firing: list[Near]) -> list[Near]:
    """Of edits that state the same thing differently the newest only, but all that were decided to stay."""
    from memedit.memory import conflicting

    kept: list[Near] = []
    for n in sorted(firing, key=lambda n: n.record.recency, reverse=True):
        if not any(conflicting(n, newer) for newer in kept):
            kept.append(n)
    order = {id(n): i for i, n in enumerate(firing)}
    return sorted(kept, key=lambda n: order[id(n)])
