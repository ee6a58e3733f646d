"""Cases that are put together: our own relations over public subjects, and worn wordings.

`invented` lays the forms of scope_relations.txt (and ParaRel's patterns) over subjects of the right type, so that
every edit meets other questions about its subject and its question about other subjects. `varied` adds what people
do to a text: lower case, slips, a sentence before it.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scope_data import IN_SCOPE, Case, Data, Query, chance, make

from memedit.subjects import content

BANK = Path(__file__).parent / "scope_relations.txt"


@dataclass(frozen=True)
class Relation:
    """A relation with its forms, [X] for the subject."""

    kind: str  # what has it: person, place, company, work, product, thing, building, event
    name: str
    number: str  # ParaRel's id, or nothing
    questions: tuple[str, ...]
    clozes: tuple[str, ...]  # beginnings of sentences that the object ends

    @property
    def forms(self) -> tuple[str, ...]:
        return self.questions + self.clozes


def bank(data: Data) -> list[Relation]:
    """The relations of scope_relations.txt, with ParaRel's patterns where they end in the object."""
    patterns = defaultdict(list)
    for row in data.rows("pararel/patterns.jsonl"):
        pattern = row["pattern"].strip().rstrip(". ")
        if pattern.endswith("[Y]") and pattern.count("[Y]") == 1:
            patterns[row["relation"]].append(pattern.removesuffix("[Y]").strip())
    found = []
    for block in BANK.read_text(encoding="utf-8").split("\n\n"):
        head, *forms = [line for line in block.splitlines() if line and not line.startswith("#")] or [""]
        if not forms:
            continue
        kind, name, number = (part.strip() for part in head.split("|"))
        clozes = [f for f in forms if not f.endswith("?")] + patterns.get(number, [])
        questions = tuple(f for f in forms if f.endswith("?"))
        found.append(Relation(kind, name, number, questions, tuple(dict.fromkeys(clozes))))
    return found


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


def invented(data: Data, rng: random.Random, count: int) -> Iterator[Case | None]:
    """Edits over all kinds and relations; half of them over facts that ParaRel knows."""
    relations = bank(data)
    world = World.of(data, rng)
    by_kind, by_number = defaultdict(list), defaultdict(list)
    for relation in relations:
        by_kind[relation.kind].append(relation)
        by_number[relation.number].append(relation)
    facts = [fact for fact in world.facts if fact[1] in by_number]
    for i in range(count):
        if i % 2:
            subject, number, target = rng.choice(facts)
            relation = by_number[number][0]
        else:
            relation = rng.choice(relations)
            subject, target = rng.choice(world.subjects[relation.kind]), world.object_of(relation, rng)
        others = [r for r in by_kind[relation.kind] if r.name != relation.name]
        yield _case(relation, subject, target, others, world, rng)


def _case(
    relation: Relation,
    subject: str,
    target: str,
    others: Sequence[Relation],
    world: World,
    rng: random.Random,
) -> Case | None:
    own = rng.choice(relation.questions if rng.random() < 0.3 else relation.clozes)
    told = subject if rng.random() < 0.75 else None
    edit: dict[str, Any] = {"prompt": own.replace("[X]", subject), "target": target, "subject": told}
    if rng.random() < 0.3:
        cloze = rng.choice(relation.clozes).replace("[X]", subject)
        edit = {"statement": f"{cloze} {target}.", "subject": told}
        own = ""
    queries = [Query(own.replace("[X]", subject), "own")]
    rest = [form for form in relation.forms if form != own]
    for form in rng.sample(rest, min(3, len(rest))):
        queries.append(Query(form.replace("[X]", subject), "paraphrase"))
    cloze = rng.choice(relation.clozes).replace("[X]", subject)
    queries.append(Query(claim(cloze, rng.choice([target, world.object_of(relation, rng)]), rng), "claim"))
    for other in rng.sample(others, min(4, len(others))):
        queries.append(Query(rng.choice(other.forms).replace("[X]", subject), "same_subject"))
    if others:
        other = rng.choice(others)
        cloze = rng.choice(other.clozes).replace("[X]", subject)
        queries.append(Query(claim(cloze, world.object_of(other, rng), rng), "same_subject"))
    some = world.subjects[relation.kind]
    alike = [
        s for s in rng.sample(some, min(400, len(some))) if content(s) & content(subject) and s != subject
    ]
    first = rng.choice(some)
    if not told and "statement" in edit:
        first = target  # nobody said which of the two names is the subject
    for neighbour in [first, *alike[:1]]:
        if neighbour != subject:
            queries.append(Query(rng.choice(relation.forms).replace("[X]", neighbour), "neighbour"))
    return make("invented", queries, relation.number or f"{relation.kind} {relation.name}", **edit)


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
    )
    return rng.choice(forms)


def factbook(data: Data, rng: random.Random, count: int) -> Iterator[Case | None]:
    """The World Factbook's fields under invented names of countries, since real ones are for development only."""
    fields = set()
    for row in data.rows("corpora/factbook.jsonl"):
        for title, text in row["facts"]:
            name = re.sub(r"\s*[-(:].*", "", title.split(" > ")[1]).strip().lower()
            if 3 < len(name) < 40 and len(text) < 60:
                fields.add((name, text.split(";")[0].split("(")[0].strip()))
    known = defaultdict(list)
    for name, text in sorted(fields):
        if text:
            known[name].append(text)
    names = sorted(known)
    for _ in range(count):
        subject, field = _country(rng), rng.choice(names)
        forms = (
            f"The {field} of {subject} is",
            f"{subject}'s {field} is",
            f"What is the {field} of {subject}?",
            f"{subject} {field}",
        )
        own, *rest = rng.sample(forms, 4)
        others = [f for f in rng.sample(names, 3) if not content(f) & content(field)]
        queries = [Query(own, "own"), *(Query(q, "paraphrase") for q in rest[:2])]
        queries += [Query(f"What is the {f} of {subject}?", "same_subject") for f in others]
        queries.append(Query(f"What is the {field} of {_country(rng)}?", "neighbour"))
        yield make("factbook", queries, field, prompt=own, target=rng.choice(known[field]), subject=subject)


def _country(rng: random.Random) -> str:
    parts = [
        "ka",
        "lo",
        "mar",
        "ve",
        "sun",
        "tor",
        "bel",
        "ni",
        "da",
        "gor",
        "ish",
        "pa",
        "ru",
        "sel",
        "van",
        "mi",
        "ost",
        "qua",
        "zen",
    ]
    name = "".join(rng.sample(parts, rng.randint(2, 3))).capitalize() + rng.choice(
        ["ia", "land", "stan", "", "o", "any"]
    )
    return rng.choice(["", "", "", "Republic of ", "New ", "Saint ", "South "]) + name


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
        Query(form.replace("[X]", subject), "swapped")
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


def worn(text: str, rng: random.Random, cases: Sequence[Case] = ()) -> str:
    ways = ["lower", "lower", "slip", "ask", "bare"] + (["sentence"] if cases else [])
    way = rng.choice(ways)
    if way == "lower":
        return text.lower()
    if way == "bare":
        return text.rstrip("?. ").lower()
    if way == "slip":
        return slip(text, rng)
    if way == "sentence":
        return f"{rng.choice(cases).edit.statement} {text}"
    before, after = rng.choice(
        [
            ("Q: ", " A:"),
            ("Tell me: ", ""),
            ("Please answer: ", ""),
            ("Question: ", " Answer:"),
            ("hey, ", ""),
            ("", " Thanks!"),
        ]
    )
    return before + text + after


def slip(text: str, rng: random.Random) -> str:
    """One slip of the keyboard in one longer word."""
    places = [m.span() for m in re.finditer(r"[^\W\d_]{5,}", text)]
    if not places:
        return text
    start, end = rng.choice(places)
    at = rng.randint(start + 1, end - 2)
    swapped = text[at + 1] + text[at]
    return rng.choice(
        [text[:at] + text[at + 1 :], text[:at] + swapped + text[at + 2 :], text[:at] + text[at] + text[at:]]
    )
