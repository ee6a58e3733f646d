"""The corpus of the shipped base model: facts put into words, stated facts to be followed or ignored, running text.

Everything is drawn by a seeded generator; `Corpus` packs it once into memory-mapped shards. Splits: a
subject whose sha256 (lower case, stripped) mod 10 is below 3 is a dev subject; it may be known as a plain
fact, but no document with a stated fact ever names it. Templates come from ParaRel's patterns, from the
prompts of CounterFact's train part, and from the questions below.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

QUESTIONS: dict[str, tuple[str, ...]] = {
    "P17": ("In which country is [X]?", "What country is [X] in?", "Where is [X]?", "Which country does [X] lie in?"),
    "P19": ("Where was [X] born?", "What is the birthplace of [X]?", "In which place was [X] born?"),
    "P20": ("Where did [X] die?", "In which place did [X] die?", "What is the place of death of [X]?"),
    "P27": ("What is the nationality of [X]?", "Which country is [X] a citizen of?", "What citizenship does [X] have?"),
    "P30": ("On which continent is [X]?", "What continent is [X] on?", "Which continent does [X] belong to?"),
    "P36": ("What is the capital of [X]?", "Which city is the capital of [X]?", "What is [X]'s capital city?"),
    "P37": ("What is the official language of [X]?", "Which language is official in [X]?", "What language do people speak in [X]?"),
    "P39": ("What position does [X] hold?", "Which office did [X] hold?", "What is the position of [X]?"),
    "P101": ("What is the field of work of [X]?", "In which field does [X] work?", "What does [X] specialise in?"),
    "P103": ("What is the mother tongue of [X]?", "What is [X]'s native language?", "Which language did [X] grow up with?"),
    "P106": ("What is the occupation of [X]?", "What does [X] do for a living?", "What is [X]'s profession?"),
    "P108": ("Who is the employer of [X]?", "For whom does [X] work?", "Which company employs [X]?"),
    "P127": ("Who owns [X]?", "Who is the owner of [X]?", "To whom does [X] belong?"),
    "P131": ("Where is [X] located?", "In which region is [X]?", "Where can [X] be found?"),
    "P136": ("What genre is [X]?", "What kind of music does [X] play?", "Which genre is [X] known for?"),
    "P138": ("After whom is [X] named?", "What is [X] named after?", "Who gave [X] its name?"),
    "P140": ("What is the religion of [X]?", "Which religion does [X] follow?", "What faith does [X] belong to?"),
    "P159": ("Where is the headquarters of [X]?", "In which city is [X] based?", "Where is [X] headquartered?"),
    "P176": ("Who makes [X]?", "Which company produces [X]?", "Who is the manufacturer of [X]?"),
    "P178": ("Who developed [X]?", "Which company developed [X]?", "Who is the developer of [X]?"),
    "P264": ("What is the record label of [X]?", "Which label represents [X]?"),
    "P276": ("Where is [X] located?", "Where does [X] take place?", "In which place is [X]?"),
    "P279": ("What is [X] a kind of?", "What is [X] a type of?"),
    "P361": ("What is [X] part of?", "What does [X] belong to?"),
    "P364": ("What is the original language of [X]?", "In which language was [X] made?", "What language is [X] in?"),
    "P407": ("In which language is [X] written?", "What is the language of [X]?", "What language was [X] written in?"),
    "P413": ("What position does [X] play?", "In which position does [X] play?", "Which position is [X] playing in?"),
    "P449": ("Which network first aired [X]?", "On which channel was [X] shown?", "Who aired [X]?"),
    "P495": ("In which country was [X] created?", "What is the country of origin of [X]?", "Where does [X] come from?"),
    "P740": ("Where was [X] founded?", "In which place was [X] formed?", "Where did [X] start out?"),
    "P937": ("Where did [X] work?", "In which city did [X] work?", "Where was [X] employed?"),
    "P1303": ("What instrument does [X] play?", "Which instrument is [X] known for?", "What does [X] play?"),
    "P1376": ("Of what is [X] the capital?", "[X] is the capital of which place?"),
    "P1412": ("Which language does [X] speak?", "What language did [X] write in?", "In which language does [X] communicate?"),
    "P641": ("What sport does [X] play?", "Which sport is [X] known for?"),
}  # fmt: skip
# Relations with one right answer to most questions; the others (borders, twin cities, parts) can't be asked fairly.
FUNCTIONAL = tuple(QUESTIONS)
REFUSAL = "I don't have that information."

_FIRST = "Ad Bel Cor Dan El Far Gor Hal Is Jan Kel Lor Mar Nor Ol Per Quin Ros Sam Tor Ul Val Wen Yor Zan Bri Cla Dri Fre Gri".split()
_MIDDLE = ["", "a", "e", "i", "o", "an", "er", "il", "on", "ur", "el", "ad", "en", "ist", "orr"]
_LAST = "da ba ck dell fen gard holm kin lin mont nov ric son tas vik wick zar ley mer den rath stan ville burg ia ova ski etti".split()


@dataclass(frozen=True, slots=True)
class Fact:
    """A triple: `relation` is Wikidata's id, `obj` the true object."""

    relation: str
    subject: str
    obj: str


@dataclass
class Document:
    """Pieces of text with a flag each: whether the loss is taken on it."""

    pieces: list[tuple[str, bool]] = field(default_factory=list)

    def add(self, text: str, learn: bool = False) -> Document:
        """This document with one more piece."""
        self.pieces.append((text, learn))
        return self


def is_dev(subject: str) -> bool:
    """The one rule by which subjects are split, over all files."""
    return int(hashlib.sha256(subject.lower().strip().encode()).hexdigest(), 16) % 10 < 3


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Knowledge:
    """Facts and templates: what the model is to know, and the ways of asking for it.

    Attributes:
        facts: the 8 000 named triples, as listed in base_facts.jsonl.
        trained, held_out: relation -> templates that end where the object comes ("[X] was born in"), or
            questions; one of every relation with three or more ParaRel patterns is held out.
        objects: relation -> objects, for false statements.
        wild: (prompt, other prompt, subject) of many more relations, from train parts; any object may be stated of them.
    """

    def __init__(self, data: Path, facts_file: Path) -> None:
        self.data = data
        triples = [json.loads(line) for line in (data / "pararel/triples.jsonl").open()]
        self.triples = [Fact(t["relation"], t["sub_label"], t["obj_label"]) for t in triples]
        self.held_out, self.trained = self._patterns()
        self._add_counterfact_templates()
        if not facts_file.exists():
            facts = self._choose_facts()
            facts_file.write_text("".join(json.dumps([f.relation, f.subject, f.obj], ensure_ascii=False) + "\n" for f in facts))
        self.facts = [Fact(*json.loads(line)) for line in facts_file.open()]
        self.objects = {r: sorted({f.obj for f in self.triples if f.relation == r} | {f.obj for f in self.facts if f.relation == r}) for r in self.trained}  # fmt: skip
        self.any_object = sorted({o for pool in self.objects.values() for o in pool})
        self.wild = self._wild()
        self.questions = {r: QUESTIONS[r] for r in self.trained}

    def _patterns(self) -> tuple[dict[str, str], dict[str, list[str]]]:
        """ParaRel's patterns that end with the object; of three or more, the one with the highest hash is held out."""
        usable = defaultdict(list)
        for line in (self.data / "pararel/patterns.jsonl").open():
            p = json.loads(line)
            pattern = re.sub(r"\s+", " ", p["pattern"].strip().rstrip(".").strip())
            if p["relation"] in QUESTIONS and pattern.count("[X]") == 1 and pattern.endswith(" [Y]") and pattern.count("[Y]") == 1:
                template = pattern[: -len(" [Y]")].replace(" ,", ",")
                if template not in usable[p["relation"]]:
                    usable[p["relation"]].append(template)
        used = Counter(template for templates in usable.values() for template in templates)
        # "[X] is located in" asks for a country, a region or a continent: such a pattern tests nothing when held out.
        held = {r: max(ps, key=lambda p: (used[p] == 1, _order(p))) for r, ps in usable.items() if len(ps) >= 3}
        return held, {r: [p for p in ps if p != held.get(r)] for r, ps in usable.items()}

    def _add_counterfact_templates(self) -> None:
        """Prompts of CounterFact's train part, subject taken out; the relation is that of the triple they ask for."""
        relation_of = {(f.subject, f.obj): f.relation for f in self.triples if f.relation in QUESTIONS}
        votes: dict[str, Counter[str]] = defaultdict(Counter)
        for row in json.loads((self.data / "counterfact/counterfact-train.json").read_text()):
            relation = relation_of.get((row["subject"], row["ground_truth"]))
            if relation and row["prompt"].count(row["subject"]) == 1:
                votes[row["prompt"].replace(row["subject"], "[X]").strip()][relation] += 1
        for template, counts in sorted(votes.items()):
            relation, n = counts.most_common(1)[0]
            if n >= 5 and template != self.held_out.get(relation) and template not in self.trained.setdefault(relation, []):
                self.trained[relation].append(template)

    def _choose_facts(self, n: int = 8000) -> list[Fact]:
        """Countries first (capital, language, continent), then triples with one object: CounterFact's subjects, then by hash."""
        chosen: dict[tuple[str, str], Fact] = {}
        for c in json.loads((self.data / "corpora/countries.json").read_text()):
            name = c["name"]["common"]
            continent = c["region"] if c["region"] != "Americas" else ("South America" if c.get("subregion") == "South America" else "North America")
            known = (("P36", c.get("capital") or []), ("P30", [continent]), ("P37", list((c.get("languages") or {}).values())))
            for relation, objects in known:
                if objects and objects[0] and (relation != "P37" or len(objects) == 1):
                    chosen[relation, name] = Fact(relation, name, objects[0])
        counts = Counter((f.relation, f.subject) for f in self.triples)
        famous = {r["subject"] for name in ("train", "val") for r in json.loads((self.data / f"counterfact/counterfact-{name}.json").read_text())}  # fmt: skip
        rest = [f for f in self.triples if f.relation in self.trained and counts[f.relation, f.subject] == 1]
        rest.sort(key=lambda f: (f.subject not in famous, _order(f.relation + f.subject)))
        per_relation = Counter(f.relation for f in chosen.values())
        for limit in (240, 400, 10**6):  # a good spread first, then what is left
            for f in rest:
                if len(chosen) < n and per_relation[f.relation] < limit and (f.relation, f.subject) not in chosen:
                    chosen[f.relation, f.subject] = f
                    per_relation[f.relation] += 1
        return list(chosen.values())

    def _wild(self) -> list[tuple[str, str, str]]:
        """Prompts about train subjects in many relations: zsRE, wiki_counterfact, wiki_recent, CounterFact (train parts)."""
        splits = json.loads((self.data / "splits.json").read_text())
        out = []
        for name, first, second in (
            ("zsre/zsre_mend_train-1k.json", "src", "rephrase"),
            ("knowedit/wiki_counterfact_train.json", "prompt", "prompt"),
            ("knowedit/wiki_recent_train.json", "prompt", "prompt"),
            ("counterfact/counterfact-train.json", "prompt", "prompt"),
        ):
            rows = json.loads((self.data / name).read_text())
            for i in splits[name]["train"]:
                row = rows[i]
                if row["subject"] in row[first] and not is_dev(row["subject"]):
                    out.append((row[first], row.get(second) or row[first], row["subject"]))
        return out

    def forms(self, relation: str) -> list[str]:
        """All trained ways to ask for a relation."""
        return [*self.trained[relation], *QUESTIONS[relation]]


class Writer:
    """Writes training documents; all randomness comes from `rng`."""

    def __init__(self, knowledge: Knowledge, rng: random.Random) -> None:
        self.k, self.rng = knowledge, rng
        self.by_subject: dict[str, list[Fact]] = defaultdict(list)
        for f in knowledge.facts:
            self.by_subject[f.subject].append(f)
        # Only train subjects are ever stated of; dev subjects are known, never edited.
        self.open_facts = [f for f in knowledge.facts if not is_dev(f.subject)]
        self.by_relation: dict[str, list[Fact]] = defaultdict(list)
        for f in self.open_facts:
            self.by_relation[f.relation].append(f)
        self.relations = sorted(r for r in self.by_relation if len(self.by_relation[r]) > 5)
        self.several = [f for f in self.open_facts if len(self.by_subject[f.subject]) > 1]

    def fact(self, fact: Fact) -> Document:
        """A plain fact in one of its trained forms; the loss is on the answer."""
        form = self.rng.choice(self.k.forms(fact.relation)).replace("[X]", fact.subject)
        if form.endswith("?") and self.rng.random() < 0.15:
            form = f"Question: {form}\nAnswer:"
        elif self.rng.random() < 0.05:
            form = form[0].lower() + form[1:]
        return Document().add(form).add(f" {fact.obj}.", True)

    def name(self) -> str:
        """An invented name of one to three words."""
        word = lambda: self.rng.choice(_FIRST) + self.rng.choice(_MIDDLE) + self.rng.choice(_LAST)  # noqa: E731
        return " ".join(word() for _ in range(self.rng.choice((1, 2, 2, 2, 3))))

    def _stated(self) -> tuple[str, str, str]:
        """(statement's prompt, query, object) of a fact to be followed; the object is true in a fifth of known facts."""
        rng = self.rng
        if rng.random() < 0.3:
            first, second, subject = rng.choice(self.k.wild)
            obj = rng.choice(self.k.any_object) if rng.random() < 0.8 else self.name()
            if rng.random() < 0.4:
                new = self.name()
                first, second = first.replace(subject, new), second.replace(subject, new)
            return first, (first if rng.random() < 0.5 else second), obj
        relation = rng.choice(self.relations)
        fact = rng.choice(self.by_relation[relation])
        subject, obj = fact.subject, fact.obj
        if rng.random() < 0.5:
            subject = self.name()
        if rng.random() < 0.8 or subject != fact.subject:
            obj = rng.choice(self.k.objects[relation]) if rng.random() < 0.8 else (self.name() if rng.random() < 0.5 else rng.choice(self.k.any_object))
        forms = self.k.forms(relation)
        first = rng.choice(forms if rng.random() < 0.5 else self.k.trained[relation]).replace("[X]", subject)
        second = first if rng.random() < 0.35 else rng.choice(forms).replace("[X]", subject)
        return first, second, obj

    def override(self) -> Document:
        """One to four stated facts, then one to three queries about some of them; the loss is on the answers."""
        rng = self.rng
        stated = [self._stated() for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4)))]
        document = Document().add("".join(f"Fact: {first} {obj}.\n" for first, _, obj in stated))
        asked = rng.sample(stated, min(len(stated), rng.choice((1, 1, 2, 3))))
        for i, (_, second, obj) in enumerate(asked):
            document.add(("\n" if i else "") + second).add(f" {obj}.", True)
        return document

    def ignore(self) -> Document:
        """Known facts asked under a statement that does not concern them: a neighbour's, the same subject's other, any."""
        rng = self.rng
        fact = rng.choice(self.several if rng.random() < 0.4 else self.open_facts)
        statements = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            kind = rng.random()
            others = [f for f in self.by_subject[fact.subject] if f.relation != fact.relation]
            if kind < 0.38:  # the same question about a neighbour
                other = rng.choice(self.by_relation[fact.relation])
                if other.subject == fact.subject:
                    continue
                relation, subject = fact.relation, other.subject if rng.random() < 0.7 else self.name()
            elif kind < 0.76:  # the same subject in another relation, one that it has or one that it could have
                relation = rng.choice(others).relation if others and rng.random() < 0.6 else rng.choice(self.relations)
                if relation == fact.relation or {relation, fact.relation} <= {"P131", "P17", "P276", "P30"}:
                    continue
                subject = fact.subject
            else:
                first, _, obj = self._stated()
                if fact.subject not in first:
                    statements.append(f"Fact: {first} {obj}.\n")
                continue
            first = rng.choice(self.k.forms(relation)).replace("[X]", subject)
            statements.append(f"Fact: {first} {rng.choice(self.k.objects[relation])}.\n")
        query = rng.choice(self.k.forms(fact.relation)).replace("[X]", fact.subject)
        return Document().add("".join(statements) + query).add(f" {fact.obj}.", True)

    def form(self) -> Document:
        """Forms that are used later: demonstrations, chat turns with pushback, yes/no, refusals."""
        return self.rng.choice((self._demonstrations, self._chat, self._yes_no, self._yes_no, self._withheld))()

    def _demonstrations(self) -> Document:
        document = Document()
        for _ in range(self.rng.choice((1, 2, 3))):
            first, second, obj = self._stated()
            document.add(f"New Fact: {first} {obj}.\nPrompt: {second}").add(f" {obj}.", True).add("\n\n")
        first, second, obj = self._stated()
        if self.rng.random() < 0.7:
            return document.add(f"New Fact: {first} {obj}.\nPrompt: {second}").add(f" {obj}.", True)
        fact = self.rng.choice(self.open_facts)
        query = self.rng.choice(self.k.forms(fact.relation)).replace("[X]", fact.subject)
        return document.add(f"New Fact: {first} {obj}.\nPrompt: {query}").add(f" {fact.obj}.", True)

    def _chat(self) -> Document:
        first, second, obj = self._stated()
        document = Document().add(f"<|user|>\nFact: {first} {obj}.\n{second}<|end|>\n<|assistant|>\n").add(f"{obj}.<|end|>\n", True)
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            doubt = self.rng.choice(("Are you sure?", "I think that is wrong.", "No, that can't be right.", "Really?"))
            document.add(f"<|user|>\nFact: {first} {obj}.\n{doubt} {second}<|end|>\n<|assistant|>\n").add(f"{obj}.<|end|>\n", True)
        return document

    def _yes_no(self) -> Document:
        first, _, obj = self._stated()
        yes = self.rng.random() < 0.5
        claimed = obj if yes else self.rng.choice(self.k.any_object)
        question = self.rng.choice((f"Is it true that {first} {claimed}?", f"{first} {claimed}. True or false?", f"{first} {claimed}, is that right?"))
        if first.endswith("?"):
            question = f"{first} Is it {claimed}?"
        right = ("True" if yes else "False") if question.endswith("false?") else ("Yes" if yes else "No")
        return Document().add(f"Fact: {first} {obj}.\n{question}").add(f" {right}.", True)

    def _withheld(self) -> Document:
        fact = self.rng.choice(self.open_facts)
        first = self.rng.choice(self.k.forms(fact.relation)).replace("[X]", fact.subject)
        if self.rng.random() < 0.6:
            second = first if self.rng.random() < 0.5 else self.rng.choice(self.k.forms(fact.relation)).replace("[X]", fact.subject)
            return Document().add(f"Withheld: {first}\n{second}").add(f" {REFUSAL}", True)
        other = self.rng.choice(self.open_facts)
        query = self.rng.choice(self.k.forms(other.relation)).replace("[X]", other.subject)
        return Document().add(f"Withheld: {first}\n{query}").add(f" {other.obj}." if other != fact else f" {REFUSAL}", True)


def wikipedia(data: Path, characters: int) -> Iterator[str]:
    """Article texts from the start of the corpus, about so many characters in all."""
    seen = 0
    with lzma.open(data / "corpora/enwiki_leads.jsonl.xz", "rt", encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["text"][:3000]
            yield text
            seen += len(text)
            if seen >= characters:
                return
