"""Relations in our own words: train/relations/*.txt.

A block for each relation, blocks apart by an empty line. The first line is ``type | relation | ParaRel's id``; every
other line is a form, [X] standing for the subject and [Y] for the object:

    What is [X]'s birthplace?                  a question
    Name the place where [X] was born.         a request: ends in a full stop
    [X] was born in                            a cloze: the object ends it
    + [X] birthplace                           keywords
    = Was [X] born in [Y]?                     a claim, put as a question or not
    ~ Which river flows through the town where [X] was born?     needs the object on the way
    < Who was born in [Y]?                     reversed
    ! Where did [X] grow up?                   a near miss: the same subject, another fact

ParaRel's eight held-out relations are left out on purpose. relations/kin.tsv names pairs that are easily taken for each
other, though the answer to one is none to the other: ``type, relation, relation``, apart by tabs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scope_data import Data

FOLDER = Path(__file__).parent / "relations"
FILES = tuple(sorted(FOLDER.glob("*.txt")))
KIN = FOLDER / "kin.tsv"
MARKS = {"+": "keywords", "=": "claims", "~": "ripples", "<": "reversed", "!": "misses"}


@dataclass(frozen=True)
class Relation:
    """A relation with its forms."""

    kind: str  # what has it: person, place, company, work, product, thing, building, event
    name: str
    number: str = ""  # ParaRel's id
    questions: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    clozes: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    ripples: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()
    misses: tuple[str, ...] = ()
    patterns: tuple[str, ...] = field(default=(), compare=False)  # ParaRel's, clozes too

    @property
    def asks(self) -> tuple[str, ...]:
        """Every form that asks for the object."""
        return (*self.questions, *self.requests, *self.clozes, *self.keywords, *self.patterns)

    def with_forms_of(self, other: Relation) -> Relation:
        """The relation with another block's forms: two files may each have some."""
        forms = (*MARKS.values(), "questions", "requests", "clozes")
        return replace(
            self, **{k: tuple(dict.fromkeys((*getattr(self, k), *getattr(other, k)))) for k in forms}
        )

    @property
    def key(self) -> str:
        return self.number or f"{self.kind} {self.name}"


def bank(data: Data) -> list[Relation]:
    """All relations, with ParaRel's patterns where they end in the object.

    Raises:
        ValueError: a line that is no form: the file, the block and the line are named.
    """
    patterns: dict[str, list[str]] = defaultdict(list)
    for row in data.rows("pararel/patterns.jsonl"):
        pattern = row["pattern"].strip().rstrip(". ")
        if pattern.endswith("[Y]") and pattern.count("[Y]") == 1:
            patterns[row["relation"]].append(pattern.removesuffix("[Y]").strip())
    return read(patterns)


def read(patterns: Mapping[str, Sequence[str]] | None = None) -> list[Relation]:
    """The relations of FILES.

    Args:
        patterns: of ParaRel, by its ids.

    Raises:
        ValueError: see `bank`.
    """
    found: dict[tuple[str, str], Relation] = {}
    for path in FILES:
        for block in path.read_text(encoding="utf-8").split("\n\n"):
            lines = [line.strip() for line in block.splitlines() if line.strip() and line[0] != "#"]
            if lines:
                relation = _relation(lines, patterns or {}, path)
                key = (relation.kind, relation.name)
                found[key] = found[key].with_forms_of(relation) if key in found else relation
    return list(found.values())


def kindred(relations: Sequence[Relation]) -> dict[str, list[Relation]]:
    """By key, the relations that are easily taken for it.

    Raises:
        ValueError: kin.tsv names a relation that there is none of.
    """
    by_name = {(r.kind, r.name): r for r in relations}
    out: dict[str, list[Relation]] = defaultdict(list)
    for line in KIN.read_text(encoding="utf-8").splitlines():
        kind, *names = line.split("\t")
        missing = [name for name in names if (kind, name) not in by_name]
        if len(names) != 2 or missing:
            raise ValueError(f"{KIN}: {line!r} names no two relations of relations/*.txt")
        one, two = (by_name[kind, name] for name in names)
        out[one.key].append(two)
        out[two.key].append(one)
    return out


def _relation(lines: list[str], patterns: Mapping[str, Sequence[str]], path: Path) -> Relation:
    head, *forms = lines
    parts = [part.strip() for part in head.split("|")]
    if len(parts) != 3:
        raise ValueError(f"{path}: {head!r} is no head of a block: type | relation | ParaRel's id or nothing")
    sorted_: dict[str, list[str]] = defaultdict(list)
    for kind, form in _kinds(forms):
        wrong = ("[X]" not in form and kind != "reversed") or (
            "[Y]" not in form and kind in ("claims", "reversed")
        )
        if wrong:
            raise ValueError(f"{path}, {head}: the form {form!r} lacks [X] or [Y]")
        sorted_[kind].append(form)
    own = {kind: tuple(dict.fromkeys(some)) for kind, some in sorted_.items()}
    number = parts[2]
    return Relation(
        parts[0], parts[1], number, **own, patterns=tuple(dict.fromkeys(patterns.get(number, ())))
    )


def _kinds(forms: list[str]) -> Iterator[tuple[str, str]]:
    for form in forms:
        if form[0] in MARKS:
            yield MARKS[form[0]], form[1:].strip()
        elif form.endswith("?"):
            yield "questions", form
        elif form.endswith("."):
            yield "requests", form
        else:
            yield "clozes", form
