"""Cases of the sets that `memedit import` reads too: zsRE, wiki_counterfact and wiki_recent, MQuAKE; and PokeMQA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from memedit.data import Case, Query
from memedit.data.fields import shared
from memedit.data.knowedit import knowedit
from memedit.data.mquake import mquake as mquake_case
from memedit.data.pokemqa import pokemqa as pokemqa_case
from memedit.data.zsre import zsre as zsre_case
from memedit.errors import DataError, EditError
from memedit.scope_eval.cases import ScopeCase, asked, form, scope_kind
from memedit.scope_eval.public import Public, made
from memedit.subjects import find

Record = Mapping[str, Any]
__all__ = ["alias", "mquake", "pokemqa", "shared", "wiki", "zsre"]


def _cases(read: Callable[[Record], Case], rows: Sequence[Record]) -> Iterator[tuple[Record, Case]]:
    """Each row with its case; rows that hold no edit are left out, as an import would."""
    for row in rows:
        try:
            yield row, read(row)
        except (EditError, DataError):
            continue


def zsre(data: Public) -> Iterator[ScopeCase]:
    """zsRE: question and rephrase; its locality questions are users' questions about anything."""
    for row, case in _cases(zsre_case, data.rows("zsre/zsre_mend_train-1k.json", "dev")):
        queries = tuple(replace(q, label="general") if q.kind == "locality" else q for q in case.queries)
        yield ScopeCase(replace(case, queries=queries), case.edit.names, form(row["src"], case.edit.names))


def wiki(data: Public, name: str, aliases: bool = True) -> Iterator[ScopeCase]:
    """KnowEdit's wiki_counterfact or wiki_recent: the aliases that its queries use are on the edit, unless told otherwise."""
    for row, case in _cases(knowedit, data.rows(f"knowedit/{name}_train.json", "dev")):
        prompt, subject = row["prompt"], row["subject"]
        named = [alias(prompt, subject, q.prompt) for q in case.queries if scope_kind(q) == "alias"]
        found = tuple(a for a in named if a)
        try:
            edit = case.edit.updated(subject_aliases=found) if aliases else case.edit
        except EditError:
            continue
        queries = tuple(_ruled_out(q) for q in case.queries)
        case = replace(case, edit=edit, queries=queries)
        yield ScopeCase(case, (subject, *found), form(prompt, [subject]), forms=True)


def _ruled_out(query: Query) -> Query:
    """A query "..., which is not X, is" asks for another answer than the edit's: out of scope, of the same subject."""
    return replace(query, label="same_subject") if query.label == "Forgetfulness" else query


def alias(prompt: str, subject: str, other: str) -> str | None:
    """What stands in `other` where `subject` stands in `prompt`."""
    before, _, after = prompt.partition(subject)
    if not other.startswith(before) or not other.endswith(after):
        return None
    return other[len(before) : len(other) - len(after)].strip() or None


def mquake(data: Public) -> Iterator[ScopeCase]:
    """MQuAKE's single edits; a question of several hops is a ripple of the first edit whose subject it names."""
    for name in ("mquake_stubborn2_dev", "mquake_hard_dev"):
        for _, case in _cases(mquake_case, data.rows(f"mquake/{name}.json")):
            hops = [q.prompt for q in case.queries if q.kind == "multi-hop"]
            home = next(
                (
                    i
                    for i, e in enumerate(case.edits)
                    if any(find(e.subject or "", q).share == 1 for q in hops)
                ),
                0,
            )
            for place, edit in enumerate(case.edits):
                queries = [q for q in case.queries if q.of == place and q.kind in ("edit", "paraphrase")]
                queries += [asked("ripple", q) for q in hops if place == home]
                yield ScopeCase(Case(case.id, edit, tuple(queries)), edit.names, edit.relation or "")


def pokemqa(data: Public) -> Iterator[ScopeCase]:
    """PokeMQA: a statement, no subject told, and questions that ask for it."""
    for row in data.rows("mquake/pokemqa-cls-filtered.json", "dev"):
        try:
            case = pokemqa_case(row)
        except EditError:
            continue
        subject, questions = case.edit.subject, [q.prompt for q in case.queries]
        relation = form(questions[0], [subject] if subject else [])
        yield from made(
            [asked("paraphrase", q) for q in questions], subject, relation, statement=case.edit.statement
        )
