"""The folder of public data sets, and readers of those that `memedit import` does not know, or not with these labels."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from memedit.data import Case, Query, splits
from memedit.data.canonical import fact as canonical_fact
from memedit.data.eren import eren
from memedit.data.peak import peak as peak_case
from memedit.data.pitfalls import fact
from memedit.edit import Edit
from memedit.errors import DataError, EditError
from memedit.scope_eval.cases import ScopeCase, asked, scope_kind
from memedit.subjects import find


@dataclass(frozen=True)
class Public:
    """The folder with the data sets and splits.json.

    Raises:
        DataError: a file is missing or is no JSON.
    """

    folder: Path

    @cached_property
    def split(self) -> dict[str, Any]:
        return splits.read(self.folder)

    @property
    def held_out(self) -> frozenset[str]:
        """ParaRel's relations that no training sees."""
        try:
            return frozenset(self.split["held_out_relations"])
        except (KeyError, TypeError):
            raise DataError(f"{self.folder / 'splits.json'} names no held_out_relations") from None

    def rows(self, name: str, part: str | None = None) -> list[Any]:
        """The rows of a file, JSON or JSON lines; with a part, those that splits.json gives to it."""
        found = splits.loaded(self.folder / name)
        if part is None:
            return list(found)
        where = str(self.folder / splits.FILE)
        rows = splits.part_of(self.split, name, part, where)
        try:
            return list(found) if rows is None else [found[i] for i in rows]
        except IndexError:
            raise DataError(f"{where} names rows of {name} that it does not have") from None

    def table(self, name: str) -> dict[str, Any]:
        """A file that holds one object."""
        return dict(splits.loaded(self.folder / name))


def made(
    queries: Iterable[Query], about: str | None = None, relation: str = "", forms: bool = False, **edit: Any
) -> Iterator[ScopeCase]:
    """One case, or none where the edit can't be taken."""
    try:
        case = Case("", Edit(**edit), tuple(queries))
    except EditError:
        return
    named = tuple(dict.fromkeys(name for name in (about, *case.edit.names) if name))
    yield ScopeCase(case, named, relation, forms)


def hard(data: Public, told: bool = True) -> Iterator[ScopeCase]:
    """CounterFact-Hard (EREN): natural questions; with or without the subject named on the edit."""
    for row in data.rows("eren/counterfact_hard_dev.json"):
        case = eren(row)
        subject = case.edit.subject
        edit: dict[str, Any] = {"statement": case.edit.statement, "subject": subject if told else None}
        yield from made(_asked(case), subject, **edit)


def _asked(case: Case) -> list[Query]:
    """A case's queries by what they are to its edit."""
    return [asked(kind, q.prompt) for q in case.queries if (kind := scope_kind(q))]


def peak(data: Public) -> Iterator[ScopeCase]:
    """PEAK: a further object for a relation that has several; facts about other subjects as neighbours."""
    for row in data.rows("peak/PEAK_counter.json"):
        case = peak_case(row)
        queries = [q for q in _asked(case) if q.kind != "locality"]
        queries += [q for q in _asked(case) if q.kind == "locality"][:3]
        yield from made(queries, case.edit.subject, case.edit.relation or "", **_plain(case.edit))


def pitfalls(data: Public) -> Iterator[ScopeCase]:
    """ConflictEdit and RoundEdit: of each row the first edit; what follows from it by a rule is ripple."""
    forms = {**data.table("pitfalls/conflict_prompts.json"), **data.table("pitfalls/round_prompts.json")}
    rng = random.Random(0)
    for name in ("coverage_edit", "reverse_edit", "composite_edit", "easy", "hard"):
        for row in data.rows(f"pitfalls/{name}.json"):
            first, *more = row["edits"] if "edits" in row else [row["edit"]]
            subject, relation = first["subject"]["label"], first["relation"]
            others = [
                relation["query"],
                *rng.sample(forms.get(relation["id"], []), min(2, len(forms.get(relation["id"], [])))),
            ]
            prompt = relation["prompt"].replace("{}", subject)
            queries = [asked("own", prompt), *(asked("paraphrase", q.replace("{}", subject)) for q in others)]
            if row.get("rule") and more:
                further = more[0]
                queries.append(
                    asked("ripple", further["relation"]["query"].replace("{}", further["subject"]["label"]))
                )
            with suppress(EditError):
                edit = fact(first)
                yield from made(queries, subject, relation["id"], **_plain(edit), old=edit.old)


def _plain(edit: Edit) -> dict[str, Any]:
    """What scopes are about: not the relation's id, by which a memory would know two forms of a fact as one."""
    return {"prompt": edit.prompt, "target": edit.target, "subject": edit.subject}


def canonical(data: Public) -> Iterator[ScopeCase]:
    """Canonical examples: capitals and heads of companies, asked at the end of a paragraph; near paragraphs about others.

    The sets without facts (gender, conjugation) give prompts that no edit concerns.
    """
    idle = [row["prefix"].strip(" .") for name in ("pronoun_gender_bias_eval", "verb_conjugation_eval")
            for row in data.rows(f"canonical/{name}-val.jsonl")[::8]]  # fmt: skip
    for train, test, near, key, relation in (
        (
            "country_capital_fixed",
            "country_capital_clear_eval",
            "country_capital_hard_neg",
            "country",
            "P36",
        ),
        (
            "company_ceo_train",
            "company_ceo_eval_clear",
            "company_ceo_hard_neg_eval_clear",
            "company",
            "P169",
        ),
    ):
        rows = data.rows(f"canonical/{train}-val.jsonl")
        there = {row[key] for row in rows}
        longer = [r for r in data.rows(f"canonical/{test}-val.jsonl") if find(r[key], r["prefix"]).share == 1]
        others = data.rows(f"canonical/{near}-val.jsonl")
        strangers = [r["prefix"] for r in others if r[key] not in there]
        for i, row in enumerate(rows):
            subject = row[key]
            queries = [asked("own", row["prefix"].strip())]
            queries += [asked("paraphrase", r["prefix"]) for r in longer if r[key] == subject][:3]
            if key == "country":  # of companies, the near paragraphs ask for the head, too
                named = [r["prefix"] for r in others if r[key] == subject]
                queries += [
                    asked("same_subject", q)
                    for q in named
                    if find(subject, q).share == 1 and not find("capital", q).share
                ]
            queries += [asked("neighbour", q) for q in strangers[i :: len(rows)]]
            queries += [asked("general", q) for q in idle[i :: len(rows)]]
            yield from made(queries, subject, relation, **{**_plain(canonical_fact(row)), "subject": subject})
