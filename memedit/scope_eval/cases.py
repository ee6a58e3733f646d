"""What the scope scores are measured on: a case, what each of its queries is to the edit, and what it asks about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from memedit.data import Case, Query
from memedit.edit import Edit
from memedit.subjects import fold, words

HITS = ("own", "paraphrase", "alias", "claim")  # in scope: the right edit has to fire
NEAR = ("neighbour", "same_subject", "other_claim")  # out of scope, and close to an edit
GENERAL = ("general", "maths")  # out of scope, about nothing in memory
KINDS = (*HITS, *NEAR, "ripple", *GENERAL)

# What the data sets call their queries; None: neither in nor out of scope.
_LABELS: dict[str, str | None] = {
    "Relation_Specificity": "same_subject",
    "Subject_Aliasing": "alias",
    "Reasoning": "ripple",
    "Logical_Generalization": "ripple",
    "neighbor_subj": "neighbour",
    "same_subj": "same_subject",
    "other topic": "general",
    "Forgetfulness": None,  # even people differ; but KnowEdit's, of one form, count: see `known.wiki`
}
_OF_KIND = {
    "edit": "own",
    "paraphrase": "paraphrase",
    "locality": "neighbour",
    "multi-hop": "ripple",
    "portability": "ripple",
    "ripple": "ripple",
    "reversal": "ripple",
    "old": "own",
    "opinion": "paraphrase",
}


def scope_kind(query: Query) -> str | None:
    """One of KINDS: by the query's label, where that tells, else by its kind; None for what is left out."""
    if query.label in KINDS:
        return query.label
    return _LABELS[query.label] if query.label in _LABELS else _OF_KIND.get(query.kind)


def asked(kind: str, text: str) -> Query:
    """A query of one of KINDS."""
    if kind in HITS:
        return Query("edit" if kind == "own" else "paraphrase", text, label=kind)
    return Query("portability" if kind == "ripple" else "locality", text, label=kind)


@dataclass(frozen=True)
class ScopeCase:
    """A case with one edit, and what is known of it though the edit may not say so.

    Attributes:
        about: the subject's names. relation: a relation's id ("P19"), or a form with "[X]" for the subject.
        forms: whether it is known what its near queries ask: a neighbour the case's own relation, a same-subject
            query what its form says.
    """

    case: Case
    about: tuple[str, ...] = ()
    relation: str = ""
    forms: bool = False

    @property
    def edit(self) -> Edit:
        return self.case.edit

    @cached_property
    def queries(self) -> tuple[tuple[str, str], ...]:
        """(text, kind) of all queries that count, each once."""
        kinds = ((q.prompt, scope_kind(q)) for q in self.case.queries if q.prompt.strip())
        return tuple(dict.fromkeys((text, kind) for text, kind in kinds if kind))

    def relation_of(self, text: str, kind: str) -> str | None:
        """The relation that a query of this case asks for; None where nobody knows."""
        if kind in HITS or (kind == "neighbour" and self.forms):
            return self.relation or None
        return form(text, self.about) if kind == "same_subject" and self.forms else None


def form(text: str, names: Iterable[str]) -> str:
    """The text with the first of the names that it holds replaced by [X]."""
    for name in names:
        if name and name in text:
            return text.replace(name, "[X]")
    return text


def plain(text: str) -> str:
    """Folded words, for telling whether two texts are the same."""
    return " ".join(word.folded for word in words(text))


def settled(cases: Iterable[ScopeCase]) -> list[ScopeCase]:
    """Without repeats: of edits about one subject and relation the first, and no question that two edits answer."""
    first: dict[tuple[str, str] | str, ScopeCase] = {}
    for case in cases:
        if case.queries:
            about = fold(case.about[0]).strip() if case.about else ""
            key = (
                (about, case.relation)
                if about and case.relation
                else plain(case.edit.prompt or case.edit.statement)
            )
            first.setdefault(key, case)
    owner: dict[str, ScopeCase] = {}
    for case in first.values():
        for text, kind in case.queries:
            if kind in HITS:
                owner[plain(text)] = case
    return [c for c in first.values() if all(owner[plain(t)] is c for t, kind in c.queries if kind in HITS)]
