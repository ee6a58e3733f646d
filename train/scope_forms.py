"""Cases that are put together: our own relations over public subjects, and worn wordings.

`invented` lays the forms of relations/ (and ParaRel's patterns) over subjects of the right type, so that every edit
meets other questions about its subject and its question about other subjects. `asked_anew` puts our wordings beside
those that a data set brings. `varied` adds what people do to a text: lower case, slips, a sentence before it.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import written
from relation_bank import Relation, bank, kindred
from scope_data import Case, Data, Query, chance, counterfacts, make
from worn import worn

from memedit.subjects import content
from memedit.training.cases import IN_SCOPE

KINDS = {
    "person": "P19 P20 P27 P106 P103 P1303 P101 P108 P39 P413 P937 P1412 P136",
    "place": "P36 P30 P47 P190 P530 P37",
    "company": "P159 P740",
    "work": "P495 P449 P364",
    "product": "P176",
    "thing": "P279 P361",
}
KIND_OF = {number: kind for kind, numbers in KINDS.items() for number in numbers.split()}
BUILT = re.compile(
    r"\b(?:Castle|Airport|Bridge|Church|Cathedral|Stadium|Museum|Abbey|Station|Tower|Palace|Hall)\b"
)
EVENTS = (
    "Battle of {}",
    "Siege of {}",
    "Treaty of {}",
    "{} Open 1998",
    "{} earthquake",
    "Congress of {}",
    "1924 {} election",
    "{} Film Festival",
)


@dataclass
class World:
    """Who and what there is to talk about: subjects of each kind, facts, and objects of each relation."""

    subjects: dict[str, list[str]]
    facts: list[tuple[str, str, str]]  # subject, ParaRel's id, object
    objects: dict[str, list[str]]

    @classmethod
    def of(cls, data: Data, rng: random.Random) -> World:
        subjects: dict[str, set[str]] = defaultdict(set)
        objects, facts = defaultdict(list), []
        for row in data.rows("pararel/triples_scope_train.jsonl", "train"):
            subject, relation, target = row["sub_label"], row["relation"], row["obj_label"]
            if data.free(subject):
                objects[relation].append(target)
                facts.append((subject, relation, target))
                kind = "building" if BUILT.search(subject) else KIND_OF.get(relation)
                if kind:
                    subjects[kind].add(subject)
        for fact in counterfacts(data):
            facts.append(fact)
            if KIND_OF.get(fact[1]):
                subjects[KIND_OF[fact[1]]].add(fact[0])
        lines = (data.folder / "corpora/world-cities.csv").read_text(encoding="utf-8").splitlines()[1:]
        towns = [
            name
            for name in (line.split(",")[0] for line in rng.sample(lines, 4000))
            if len(name) > 3 and data.free(name)
        ]
        subjects["place"] |= set(towns[:1500])
        subjects["event"] |= {rng.choice(EVENTS).format(town) for town in towns[1500:3000]}
        return cls({kind: sorted(some) for kind, some in sorted(subjects.items())}, facts, dict(objects))

    def object_of(self, relation: Relation, rng: random.Random) -> str:
        if relation.number in self.objects:
            return rng.choice(self.objects[relation.number])
        asked = " ".join(relation.questions).lower()
        if "when " in asked or " year" in asked or " date" in asked:
            return rng.choice(
                [
                    f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1700, 2023)}",
                    str(rng.randint(1400, 2023)),
                ]
            )
        if "how " in asked:
            return f"{rng.randint(2, 999)}{rng.choice(['', ' million', ',000', ' metres', ' years'])}"
        kind = "person" if "who " in asked else rng.choice(sorted(self.subjects))
        return rng.choice(self.subjects[kind])


MONTHS = "January February March April May June July August September October November December".split()


def invented(data: Data, rng: random.Random, count: int, kin: float = 0.5) -> Iterator[Case | None]:
    """Edits over all kinds and relations; half of them over facts that ParaRel and CounterFact know.

    Args:
        kin: share of the other relations' questions that are of one easily taken for the edit's.
    """
    relations = bank(data)
    alike = kindred(relations)
    world = World.of(data, rng)
    by_kind, by_number = defaultdict(list), defaultdict(list)
    for relation in relations:
        if world.subjects.get(relation.kind):
            by_kind[relation.kind].append(relation)
            by_number[relation.number].append(relation)
    relations = [relation for some in by_kind.values() for relation in some]
    facts = [fact for fact in world.facts if fact[1] in by_number]
    for i in range(count):
        if i % 2:
            subject, number, target = rng.choice(facts)
            relation = rng.choice(by_number[number])
        else:
            relation = rng.choice(relations)
            subject, target = rng.choice(world.subjects[relation.kind]), world.object_of(relation, rng)
        others = _others(relation, by_kind[relation.kind], alike[relation.key], kin, rng)
        yield _case(relation, subject, target, others, world, rng)


def _others(
    relation: Relation, kind: Sequence[Relation], alike: Sequence[Relation], kin: float, rng: random.Random
) -> list[Relation]:
    """Four other relations of subjects of one kind, `kin` of them easily taken for this one."""
    near = [rng.choice(alike) for _ in range(4) if alike and rng.random() < kin]
    rest = [other for other in kind if other.name != relation.name]
    found = near + rng.sample(rest, min(len(rest), 4 - len(near)))
    rng.shuffle(found)
    return found


def _case(
    relation: Relation,
    subject: str,
    target: str,
    others: Sequence[Relation],
    world: World,
    rng: random.Random,
) -> Case | None:
    clozes = (*relation.clozes, *relation.patterns)
    own = rng.choice(relation.questions if rng.random() < 0.35 else clozes)
    told = subject if rng.random() < 0.75 else None
    edit: dict[str, Any] = {"prompt": own.replace("[X]", subject), "target": target, "subject": told}
    if rng.random() < 0.3:
        edit = {"statement": _said(rng.choice(clozes), subject, target), "subject": told}
        own = ""
    queries = [Query(own.replace("[X]", subject), "own")]
    queries += _inside(relation, subject, target, own, world, rng)
    queries += _about(relation, others, subject, world, rng)
    queries += _onward(relation, subject, target, world, rng)
    queries += _beside(relation, subject, None if told else target, world, rng)
    return make("invented", queries, relation.key, **edit)


def _said(cloze: str, subject: str, target: str) -> str:
    return f"{cloze.replace('[X]', subject)} {target}."


def _inside(
    relation: Relation, subject: str, target: str, own: str, world: World, rng: random.Random
) -> Iterator[Query]:
    """Other ways to ask for the fact, and claims about it, true of the edit or not."""
    rest = [form for form in relation.asks if form != own]
    for form in rng.sample(rest, min(4, len(rest))):
        yield Query(form.replace("[X]", subject), "paraphrase")
    for form in rng.sample(relation.claims, min(2, len(relation.claims))):
        said = rng.choice([target, world.object_of(relation, rng)])
        yield Query(form.replace("[X]", subject).replace("[Y]", said), "claim")
    cloze = rng.choice(relation.clozes).replace("[X]", subject)
    yield Query(claim(cloze, rng.choice([target, world.object_of(relation, rng)]), rng), "claim")


def _about(
    relation: Relation, others: Sequence[Relation], subject: str, world: World, rng: random.Random
) -> Iterator[Query]:
    """Other questions about the subject: near misses, other relations', claims."""
    for form in rng.sample(relation.misses, min(3, len(relation.misses))):
        yield Query(form.replace("[X]", subject), "same_subject")
    for other in others[:3]:
        yield Query(rng.choice(other.asks).replace("[X]", subject), "same_subject", other.key)
    if others:
        other = rng.choice(others)
        said = world.object_of(other, rng)
        if other.claims and rng.random() < 0.6:
            form = rng.choice(other.claims).replace("[X]", subject)
            yield Query(form.replace("[Y]", said), "same_subject", other.key)
        else:
            text = claim(rng.choice(other.clozes).replace("[X]", subject), said, rng)
            yield Query(text, "same_subject", other.key)


def _onward(
    relation: Relation, subject: str, target: str, world: World, rng: random.Random
) -> Iterator[Query]:
    """What needs the fact on the way; the same asked back from another object doesn't."""
    for form in rng.sample(relation.ripples, min(2, len(relation.ripples))):
        yield Query(form.replace("[X]", subject), "ripple")
    if relation.reversed:
        form = rng.choice(relation.reversed)
        yield Query(form.replace("[Y]", target), "ripple")
        other = world.object_of(relation, rng)
        if not content(other) & content(target):
            yield Query(form.replace("[Y]", other), "neighbour")


def _beside(
    relation: Relation,
    subject: str,
    doubtful: str | None,
    world: World,
    rng: random.Random,
) -> Iterator[Query]:
    """The same asked and claimed of others, above all of those with a word of the name in theirs.

    Args:
        doubtful: a second name of the edit's sentence, where nobody said which is the subject.
    """
    some = world.subjects[relation.kind]
    alike = [
        s for s in rng.sample(some, min(400, len(some))) if content(s) & content(subject) and s != subject
    ]
    for neighbour in [doubtful or rng.choice(some), *alike[:1]]:
        if neighbour != subject:
            yield Query(rng.choice(relation.asks).replace("[X]", neighbour), "neighbour")
            if relation.claims and rng.random() < 0.4:
                form = rng.choice(relation.claims).replace("[X]", neighbour)
                yield Query(form.replace("[Y]", world.object_of(relation, rng)), "neighbour")


def asked_anew(data: Data, cases: Sequence[Case], rng: random.Random) -> Iterator[Case]:
    """The cases with our own wordings of what they ask: those of their relation in relations/, or of their form."""
    by_number = defaultdict(list)
    relations = bank(data)
    alike = kindred(relations)
    for relation in relations:
        by_number[relation.number].append(relation)
    world = World.of(data, rng)
    forms = written.forms()
    for case in cases:
        subject = case.edit.subject or case.about
        known = [r for r in by_number.get(case.relation, ()) if case.relation and r.asks]
        row = forms.get(written.number_of(case.relation))
        more: list[Query] = []
        if subject and known and case.source != "invented":
            relation = rng.choice(known)
            target = case.edit.target or world.object_of(relation, rng)
            more += _inside(relation, subject, target, "", world, rng)
            kind = [r for some in by_number.values() for r in some if r.kind == relation.kind]
            others = _others(relation, kind, alike[relation.key], 0.5, rng)
            more += _about(relation, others, subject, world, rng)
            more += _onward(relation, subject, target, world, rng)
        elif subject and row:
            more += _written(row, subject, case.edit.target or "", rng)
        yield replace(case, queries=tuple(dict.fromkeys((*case.queries, *more)))) if more else case


def _written(row: dict[str, list[str]], subject: str, target: str, rng: random.Random) -> Iterator[Query]:
    for form in rng.sample(row["asks"], min(4, len(row["asks"]))):
        yield Query(form.replace("[X]", subject), "paraphrase")
    if target:
        for form in row["claims"]:
            yield Query(form.replace("[X]", subject).replace("[Y]", target), "claim")
    for form in rng.sample(row["not"], min(3, len(row["not"]))):
        yield Query(form.replace("[X]", subject), "same_subject")


def claim(cloze: str, target: str, rng: random.Random) -> str:
    """A cloze and its object as people assert or question them."""
    said = f"{cloze} {target}"
    low = (
        said
        if said.split()[0].istitle() and said.split()[0] not in ("The", "In", "By", "On")
        else said[0].lower() + said[1:]
    )
    forms = (
        f"{said}.",
        f"Is it true that {low}?",
        f"{said}, right?",
        f"True or false: {said}.",
        f"I heard that {low}. Is that correct?",
        f"Fact check: {said}",
        f"Would you say that {low}?",
    )
    return rng.choice(forms)


# ---------------------------------------------------------------- what people do to a text


def varied(cases: Sequence[Case], rng: random.Random, share: float = 0.3) -> list[Case]:
    """The same cases with what their sets lack.

    Questions of other rows' relations are put to the subjects of sets that bring no such questions; `share` of all
    queries is worn; some edits get an alias, which most of their queries use, and some statements lose the subject
    that they were told.
    """
    forms = defaultdict(list)
    for case in cases:
        for query in case.queries:
            if case.edit.subject and query.kind in IN_SCOPE and case.edit.subject in query.text:
                forms[case.source].append((case.relation, query.text.replace(case.edit.subject, "[X]")))
    out = []
    for case in cases:
        queries = list(case.queries)
        if case.edit.subject and case.source in ("zsre", "pokemqa", "counterfact"):
            queries += _swapped(case, case.edit.subject, forms[case.source], rng)
        queries = [replace(q, text=worn(q.text, rng, cases)) if rng.random() < share else q for q in queries]
        if case.about and not case.edit.subject:
            queries += _swapped(case, case.about, forms[case.source], random.Random(case.edit.statement))
        case = replace(case, queries=tuple(dict.fromkeys(queries)))
        out.append(_renamed(case, cases) if case.source == "invented" else case)
    return out


def _swapped(
    case: Case, subject: str, forms: Sequence[tuple[str, str]], rng: random.Random, count: int = 3
) -> list[Query]:
    """Other rows' questions, put to this subject."""
    return [
        Query(form.replace("[X]", subject), "swapped", relation)
        for relation, form in rng.sample(forms, min(count, len(forms)))
        if relation != case.relation and not _alike(form, case.relation)
    ]


def _renamed(case: Case, cases: Sequence[Case]) -> Case:
    """A fifth of the edits with an alias; half of the other statements as ``add-fact "a sentence"`` brings them."""
    edit, subject = case.edit, case.edit.subject
    if subject and chance(f"alias {edit.statement}") < 0.2:
        other = random.Random(edit.statement).choice(cases).edit.subject or "The Old One"
        queries = [
            replace(q, text=q.text.replace(subject, other)) if i % 3 else q
            for i, q in enumerate(case.queries)
        ]
        return replace(
            case, edit=edit.updated(subject_aliases=(other,)), queries=tuple(dict.fromkeys(queries))
        )
    if not edit.prompt and chance(edit.statement) < 0.5:
        return replace(case, edit=edit.updated(subject=None))
    return case


def _alike(a: str, b: str) -> bool:
    one, two = content(a), content(b)
    return len(one & two) > 0.34 * min(len(one), len(two))
