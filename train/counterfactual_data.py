"""What the counterfactual model learns from: subjects, facts, forms and objects, none of them of a set that is scored.

Three kinds of subjects, by one rule for all files: *scored* (the dev parts of splits.json and every set that is only for
development), *apart* (a twentieth of the train part, by hash: what choices are made by), and *open*, which training may use. Of
every relation that has enough of them one pattern and one claim are scored, and others kept apart, likewise.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import written
from base_data import CLAIMS, Fact, Knowledge, is_dev, wikipedia
from counterfactual_bank import Relation, bare, order, read
from scope_data import Data

from memedit.scope_eval.known import shared
from memedit.subjects import guesses

Part = Literal["open", "apart", "scored"]
MONTHS = "January February March April May June July August September October November December".split()
# Questions whose object is an amount: said as they are, or another kind of answer would be learnt for them.
UNITS = ("", "", " million", ",000", " metres", " kilometres", " years", " percent", " kg", ",500")


def part_of(subject: str, data: Data) -> Part:
    """Whether training may use a subject, choices may be made by it, or scores are taken over it."""
    if is_dev(subject) or not data.free(subject):
        return "scored"
    bucket = int(hashlib.sha256(f"apart {subject.lower().strip()}".encode()).hexdigest(), 16) % 20
    return "apart" if bucket == 0 else "open"


@dataclass(frozen=True)
class Asked:
    """A fact as a public set has it: prompt, another way to ask, and whom it is about; any object may be stated of it."""

    prompt: str
    others: tuple[str, ...]
    subject: str
    obj: str = ""  # where it is not to be replaced
    steps: tuple[tuple[str, str], ...] = ()  # questions that need it on the way, with their answers


@dataclass
class Sources:
    """All that documents are made of.

    Attributes:
        relations: with forms to train by. held: relation id -> {"pattern", "yes_no", "claim"} of the scored and the apart part.
        facts: true triples of open subjects by ParaRel's id; objects: of each id. subjects: by kind.
        wild, natural: prompts of public train parts; stepped: those with questions that need them on the way.
        apart: facts of subjects kept apart. countries: name -> {"P36", "P30", "P37"}. sentences: any running text.
    """

    folder: Path
    facts_file: Path
    data: Data = field(init=False)
    knowledge: Knowledge = field(init=False)
    relations: list[Relation] = field(init=False)
    held: dict[Part, dict[str, dict[str, str]]] = field(init=False)
    facts: dict[str, list[Fact]] = field(init=False)
    apart: dict[str, list[Fact]] = field(init=False)
    objects: dict[str, list[str]] = field(init=False)
    subjects: dict[str, list[str]] = field(init=False)
    wild: list[Asked] = field(init=False)
    natural: list[Asked] = field(init=False)
    stepped: list[Asked] = field(init=False)
    countries: dict[str, dict[str, str]] = field(init=False)
    sentences: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.data = Data(self.folder)
        self.knowledge = Knowledge(self.folder, self.facts_file)
        self.left_out = set(self.data.split["held_out_relations"])
        self._facts()
        self._relations()
        self._subjects()
        self._public()
        places = defaultdict(dict)  # type: ignore[var-annotated]
        for fact in self.knowledge.facts:
            if fact.subject in self.knowledge.countries and fact.relation in ("P36", "P30", "P37"):
                places[fact.subject][fact.relation] = fact.obj
        self.countries = {name: known for name, known in sorted(places.items()) if "P36" in known}
        text = " ".join(wikipedia(self.folder, 400_000)).replace("\n", " ")
        self.sentences = [s.strip() + "." for s in text.split(". ") if 25 < len(s) < 110 and s[0].isupper()]

    def _facts(self) -> None:
        self.facts, self.apart, objects = defaultdict(list), defaultdict(list), defaultdict(set)
        for row in self.data.rows("pararel/triples_scope_train.jsonl", "train"):
            fact = Fact(row["relation"], row["sub_label"], row["obj_label"])
            if fact.relation in self.left_out:
                continue
            part = part_of(fact.subject, self.data)
            if part != "scored":
                (self.facts if part == "open" else self.apart)[fact.relation].append(fact)
                objects[fact.relation].add(fact.obj)
        self.objects = {number: sorted(some) for number, some in objects.items()}

    def _relations(self) -> None:
        """The bank with ParaRel's patterns; without what is held out, and without relations that are."""
        scored: dict[str, dict[str, str]] = defaultdict(dict)
        apart: dict[str, dict[str, str]] = defaultdict(dict)
        patterns = self.knowledge.trained
        for number, form in self.knowledge.held_out.items():
            scored[number]["pattern"] = form
            others = sorted((p for p in patterns[number] if p != form), key=order)
            if len(others) > 4:
                apart[number]["pattern"] = others[0]
        found = [r for r in read() if r.number not in self.left_out]
        for r in found:
            for name, some in (("yes_no", r.yes_no), ("claim", r.claims)):
                ordered = sorted(some, key=order)
                if r.number and len(ordered) > 1:
                    scored[r.number][name] = ordered[0]
                if r.number and len(ordered) > 2:
                    apart[r.number][name] = ordered[1]
        for number in self.left_out & CLAIMS.keys():
            scored[number]["yes_no"] = CLAIMS[number]
        self.held = {"scored": scored, "apart": apart, "open": {}}
        taken = {bare(form) for held in (scored, apart) for forms in held.values() for form in forms.values()}
        self.relations = []
        for r in found:
            mine = dict.fromkeys((*r.clozes, *patterns.get(r.number, ())))
            claims = (*r.yes_no, CLAIMS[r.number]) if r.number in CLAIMS else r.yes_no
            whole = Relation(
                r.kind, r.name, r.number, r.asked, tuple(mine), tuple(dict.fromkeys(claims)), r.claims, r.reversed, r.near
            )  # fmt: skip
            self.relations.append(whole.without(taken))

    def _subjects(self) -> None:
        kinds = {r.number: r.kind for r in self.relations if r.number}
        subjects: dict[str, set[str]] = defaultdict(set)
        for number, facts in self.facts.items():
            if number in kinds:
                subjects[kinds[number]] |= {f.subject for f in facts}
        lines = (self.folder / "corpora/world-cities.csv").read_text(encoding="utf-8").splitlines()[1:]
        towns = [line.split(",")[0].strip('"') for line in random.Random(0).sample(lines, 6000)]
        towns = [t for t in towns if len(t) > 3 and part_of(t, self.data) == "open"]
        subjects["place"] |= set(towns[:3000])
        self.towns = sorted(towns[3000:])
        self.subjects = {kind: sorted(some) for kind, some in sorted(subjects.items())}
        self.people = self.subjects.get("person") or ["Ann Lee"]

    def _public(self) -> None:
        data, self.wild, self.stepped = self.data, [], []
        forms = written.forms()
        ends: set[str] = set(self.knowledge.any_object)
        for row in data.rows("zsre/zsre_mend_train-1k.json", "train"):
            if self._open(row["subject"]) and row["subject"] in row["src"]:
                more = forms[written.number_of(row["src"].replace(row["subject"], "[X]"))]["asks"]
                others = (row["rephrase"], *(form.replace("[X]", row["subject"]) for form in more))
                self.wild.append(Asked(row["src"], others, row["subject"]))
                ends |= {row["alt"], *row["answers"]}
        for name in ("wiki_counterfact", "wiki_recent"):
            for row in data.rows(f"knowedit/{name}_train.json", "train"):
                if not self._open(row["subject"]) or row["subject"] not in row["prompt"]:
                    continue
                steps = tuple(_reasoning(row))
                ends.add(row["target_new"])
                self.wild.append(Asked(row["prompt"], (), row["subject"]))
                if steps:
                    self.stepped.append(Asked(row["prompt"], (), row["subject"], row["target_new"], steps))
        patterns = {bare(p) for held in self.held.values() for forms in held.values() for p in forms.values()}
        for row in data.rows("counterfact/counterfact-train.json", "train"):
            form = row["prompt"].replace(row["subject"], "[X]")
            known = form.count("[X]") == 1 and bare(form) not in patterns
            if self._open(row["subject"]) and known and not self._asks_left_out(form):
                self.wild.append(Asked(row["prompt"], (), row["subject"]))
        self.natural = []
        for prompt, questions in self.knowledge.natural:
            if self._open(shared(prompt, questions) or guesses(prompt)[0]):
                self.natural.append(Asked(prompt, tuple(questions), ""))
        for question in written.questions(data):
            if not all(map(self._open, guesses(question.text))):
                continue
            ends.add(question.answers[0])
            self.natural.append(Asked(question.text, question.asks, ""))
        self.any_object = sorted(e for e in ends if e and len(e) < 60)

    def _open(self, subject: str) -> bool:
        return part_of(subject, self.data) == "open"

    def _asks_left_out(self, form: str) -> bool:
        return any(form in self.knowledge.trained.get(number, ()) for number in self.left_out)


def _reasoning(row: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Questions that need the row's edit on the way, with one answer each; a question with two answers is left out."""
    asked = defaultdict(list)
    for q in (row.get("portability") or {}).get("Reasoning", ()):
        truth = q["ground_truth"]
        while isinstance(truth, list) and truth:
            truth = truth[0]
        if isinstance(truth, str) and truth:
            asked[q["prompt"]].append(truth)
    return [(prompt, answers[0]) for prompt, answers in asked.items() if len(answers) == 1]


def own_rows(file: Path) -> list[tuple[str, str, str]]:
    """(statement, query, answer) of a user's JSON lines {"statement", "query", "answer"}; equal rows count once.

    Raises:
        SystemExit: another format, an empty field, or two answers to one query under one statement; names the line.
    """
    seen: dict[tuple[str, str], tuple[str, int]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"error: {file} can't be read as text: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            fields = [row[name].strip() for name in ("statement", "query", "answer")]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SystemExit(
                f'error: line {number} of {file} is no row; write {{"statement": ..., "query": ..., "answer": ...}}, all texts'
            ) from None
        if not all(fields):
            raise SystemExit(
                f"error: line {number} of {file} has an empty field; fill it in, or take the line out"
            )
        statement, query, answer = fields
        before = seen.setdefault((statement, query), (answer, number))
        if before[0] != answer:
            raise SystemExit(
                f"error: lines {before[1]} and {number} of {file} contradict each other, one query with two answers: keep one"
            )
        if before[1] != number:
            print(
                f"note: line {number} of {file} says the same as line {before[1]}, and counts once",
                flush=True,
            )
    if not seen:
        raise SystemExit(f"error: {file} holds no row; give JSON lines with statement, query and answer")
    return [(statement, query, answer) for (statement, query), (answer, _) in seen.items()]
