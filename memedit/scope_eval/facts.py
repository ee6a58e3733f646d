"""ParaRel's triples put into words: cases of every relation, claims about them, and the facts that fill a memory."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator

from memedit.scope_eval.cases import ScopeCase, asked
from memedit.scope_eval.public import Public, made

PER_RELATION = 80
_PERSON = ("The wife of [X] is", "The height of [X] is")
_PLACE = ("The population of [X] is", "The highest point of [X] is")
_WORK = ("The first review of [X] appeared in the year", "The best known fan of [X] is")
_BODY = ("The yearly budget of [X] is", "The chair of [X] is")
_THING = ("The word [X] was first used by", "The museum of [X] is in")
# Other questions about a relation's subjects, none of which any relation of ParaRel answers. The eight that no
# training sees have questions of their own, the others one pair for each sort of subject.
OTHERWISE = {
    "P1001": ("[X] was established in the year", "The salary of the [X] is"),
    "P127": ("[X] was named after", "[X] was first opened in the year"),
    "P1376": ("The population of [X] is", "[X] is a twin city of"),
    "P17": ("[X] was named after", "[X] was founded in the year"),
    "P178": ("[X] was named after", "[X] was first released in the year"),
    "P264": ("[X] was born in", "[X] plays the instrument"),
    "P276": ("[X] was named after", "[X] was designed by"),
    "P407": ("The author of [X] is", "[X] was first published in the year"),
    **dict.fromkeys("P19 P20 P27 P101 P103 P106 P108 P136 P140 P1303 P1412 P39 P413 P937".split(), _PERSON),
    **dict.fromkeys("P30 P36 P37 P47 P131 P190 P530".split(), _PLACE),
    **dict.fromkeys("P364 P449 P495".split(), _WORK),
    **dict.fromkeys("P159 P176 P463 P740".split(), _BODY),
    **dict.fromkeys("P138 P279 P361".split(), _THING),
}
_ASKED = ("Is it true that {}?", "True or false: {}.", "Somebody told me that {}. Is that right?", "{}.")
_ELSEWHERE = ("1931", "Ann Lee", "Bruno Weiss", "1874")  # what the claims about other things say


def forms_of(data: Public) -> dict[str, list[str]]:
    """Each relation's patterns that end with the object, without it: "[X] was born in"."""
    forms: dict[str, list[str]] = defaultdict(list)
    for row in data.rows("pararel/patterns.jsonl"):
        pattern = row["pattern"].strip().rstrip(". ")
        if pattern.endswith("[Y]") and pattern.startswith("[X]"):
            forms[row["relation"]].append(pattern.removesuffix("[Y]").strip())
    return forms


def relations(data: Public, held_out: bool) -> Iterator[ScopeCase]:
    """An edit by one pattern, asked by the others; of the eight relations that no training sees, or of the others."""
    apart = data.held_out
    forms = forms_of(data)
    taken: Counter[str] = Counter()
    for row in data.rows("pararel/triples_scope_train.jsonl", "dev"):
        relation, subject = row["relation"], row["sub_label"]
        if relation not in OTHERWISE or (relation in apart) is not held_out or not forms[relation]:
            continue
        taken[relation] += 1
        if taken[relation] > PER_RELATION:
            continue
        own, *others = dict.fromkeys(f.replace("[X]", subject) for f in forms[relation])
        queries = [asked("own", own), *(asked("paraphrase", q) for q in others)]
        queries += [asked("same_subject", q.replace("[X]", subject)) for q in OTHERWISE[relation]]
        yield from made(
            queries, subject, relation, forms=True, prompt=own, target=row["obj_label"], subject=subject
        )


def claims(data: Public) -> Iterator[ScopeCase]:
    """Claims and yes/no questions about an edit, right and wrong; and claims about its subject, or its relation elsewhere."""
    forms = forms_of(data)
    rows = [
        r
        for r in data.rows("pararel/triples_scope_train.jsonl", "dev")
        if r["relation"] in OTHERWISE and forms[r["relation"]]
    ]
    of = defaultdict(list)
    for row in rows:
        of[row["relation"]].append(row)
    taken: Counter[str] = Counter()
    for row in rows:
        relation, subject = row["relation"], row["sub_label"]
        taken[relation] += 1
        if taken[relation] > PER_RELATION // 4:
            continue
        own, *others = dict.fromkeys(forms[relation])
        turn = number(subject)
        said = (others or [own])[turn % len(others or [own])]
        other = of[relation][turn % len(of[relation])]
        frame, next_frame = _ASKED[turn % 4], _ASKED[(turn + 1) % 4]
        about = said.replace("[X]", subject)
        queries = [asked("claim", _spoken(frame, f"{about} {row['obj_label']}"))]
        queries.append(asked("claim", _spoken(next_frame, f"{about} {other['obj_label']}")))
        for i, elsewhere in enumerate(OTHERWISE[relation]):
            claim = f"{elsewhere.replace('[X]', subject)} {_ELSEWHERE[(turn + i) % 4]}"
            queries.append(asked("other_claim", _spoken(_ASKED[(turn + i) % 4], claim)))
        if other["sub_label"] != subject:
            claim = f"{said.replace('[X]', other['sub_label'])} {row['obj_label']}"
            queries.append(asked("neighbour", _spoken(frame, claim)))
        prompt = own.replace("[X]", subject)
        yield from made(
            queries, subject, relation, forms=True, prompt=prompt, target=row["obj_label"], subject=subject
        )


def _spoken(frame: str, claim: str) -> str:
    """The claim in its frame; within a sentence without the capital of its first article."""
    inner = not frame.startswith("{}") and claim.startswith("The ")
    return frame.format("the " + claim[4:] if inner else claim)


def triples(data: Public, swapped: bool = False) -> Iterator[ScopeCase]:
    """ParaRel's facts as edits, rows of the dev part first: every fact in one form, then every fact in a second, and so on.

    Patterns that end with the object give an edit with prompt, target and subject; the others a sentence.

    Args:
        swapped: with the object of another fact of the same relation, as most edits are made.
    """
    patterns: dict[str, list[str]] = defaultdict(list)
    for row in data.rows("pararel/patterns.jsonl"):
        patterns[row["relation"]].append(row["pattern"].strip().rstrip(". "))
    name = "pararel/triples_scope_train.jsonl"
    rows = [row for part in ("dev", "train") for row in data.rows(name, part) if patterns[row["relation"]]]
    objects: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        objects[row["relation"]].append(row["obj_label"])
    for turn in range(max((len(p) for p in patterns.values()), default=0)):
        for row in rows:
            relation, subject, target = row["relation"], row["sub_label"], row["obj_label"]
            some, others = patterns[relation], objects[row["relation"]]
            if turn >= len(some):
                continue
            if swapped:
                target = others[(number(subject) + turn) % len(others)]
            pattern = some[(number(subject) + turn) % len(some)]
            text = pattern.replace("[X]", subject)
            if pattern.endswith("[Y]"):
                edit = {"prompt": text.removesuffix("[Y]").strip(), "target": target, "subject": subject}
            else:
                edit = {"statement": text.replace("[Y]", target)}
            yield from made((), subject, relation, **edit)


def number(text: str) -> int:
    """A number that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
