"""The documents that the base model is trained on: facts, stated facts to be followed or ignored, and later forms.

All randomness comes from one seeded generator, so a corpus is written the same way every time.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field

from base_data import CLAIMS, QUESTIONS, Fact, Knowledge

REFUSAL = "I don't have that information."
_FIRST = (
    "Ad Bel Cor Dan El Far Gor Hal Is Jan Kel Lor Mar Nor Ol Per Quin Ros Sam Tor Ul Val Wen Yor Zan Bri Cla Dri Fre Gri"
).split()
_MIDDLE = ["", "a", "e", "i", "o", "an", "er", "il", "on", "ur", "el", "ad", "en", "ist", "orr"]
_LAST = (
    "da ba ck dell fen gard holm kin lin mont nov ric son tas vik wick zar ley mer den rath stan ville burg ia ova ski etti"
).split()
_DOUBTS = (
    "Are you sure?",
    "I think that is wrong.",
    "No, that can't be right.",
    "Really?",
    "You are mistaken.",
)


@dataclass
class Document:
    """Pieces of text with a flag each: whether the loss is taken on it."""

    pieces: list[tuple[str, bool]] = field(default_factory=list)

    def add(self, text: str, learn: bool = False) -> Document:
        """This document with one more piece."""
        self.pieces.append((text, learn))
        return self

    @property
    def text(self) -> str:
        """The whole of it."""
        return "".join(text for text, _ in self.pieces)


@dataclass(frozen=True, slots=True)
class Stated:
    """A fact that a document states: how it says so, another way to ask for it, and the object; `relation` if known."""

    prompt: str
    query: str
    obj: str
    subject: str
    relation: str = ""
    sentence: str = ""  # where the statement isn't prompt + object

    @property
    def statement(self) -> str:
        """The fact in one sentence."""
        return self.sentence or f"{self.prompt} {self.obj}."


class Writer:
    """Writes training documents; only train subjects are ever stated of, dev subjects are known and never edited."""

    def __init__(self, knowledge: Knowledge, rng: random.Random) -> None:
        self.k, self.rng = knowledge, rng
        self.by_subject: dict[str, list[Fact]] = defaultdict(list)
        for f in knowledge.facts:
            self.by_subject[f.subject].append(f)
        self.open_facts = [f for f in knowledge.facts if knowledge.is_open(f.subject)]
        self.well_known = [f for f in self.open_facts if knowledge.well_known(f)] or self.open_facts
        self.by_relation: dict[str, list[Fact]] = defaultdict(list)
        for f in self.open_facts:
            self.by_relation[f.relation].append(f)
        self.relations = sorted(r for r in self.by_relation if len(self.by_relation[r]) > 5) or sorted(
            self.by_relation
        )
        self.several = [f for f in self.open_facts if len(self.by_subject[f.subject]) > 1] or self.open_facts

    def name(self) -> str:
        """An invented name of one to three words."""
        word = lambda: self.rng.choice(_FIRST) + self.rng.choice(_MIDDLE) + self.rng.choice(_LAST)  # noqa: E731
        return " ".join(word() for _ in range(self.rng.choice((1, 2, 2, 2, 3))))

    def ask(self, fact: Fact) -> str:
        """One of the trained ways to ask for a fact."""
        return self.rng.choice(self.k.forms(fact.relation)).replace("[X]", fact.subject)

    def _about(self, relation: str, subject: str, obj: str) -> Stated:
        """A statement of a named relation; one in six is a sentence that doesn't end with its object."""
        rng = self.rng
        forms = self.k.forms(relation)
        first = rng.choice(forms if rng.random() < 0.5 else self.k.trained[relation]).replace("[X]", subject)
        query = first if rng.random() < 0.35 else rng.choice(forms).replace("[X]", subject)
        whole = self.k.sentences.get(relation)
        sentence = ""
        if whole and rng.random() < 0.17:
            sentence = rng.choice(whole).replace("[X]", subject).replace("[Y]", obj) + "."
            sentence = sentence[0].upper() + sentence[1:]
        return Stated(first, query, obj, subject, relation, sentence)

    def _false(self, relation: str) -> str:
        """An object for a relation: mostly one of its own, at times any, at times an invented one."""
        x = self.rng.random()
        return (
            self.rng.choice(self.k.objects[relation] if x < 0.8 else self.k.any_object)
            if x < 0.9
            else self.name()
        )

    def stated(self, wild: float = 0.3) -> Stated:
        """A fact to be followed: half of invented subjects; true in a fifth of the known ones."""
        rng = self.rng
        if rng.random() < wild / 2:
            prompt, questions = rng.choice(self.k.natural)
            return Stated(prompt, rng.choice(questions), rng.choice(self.k.any_object), "")
        if rng.random() < wild:
            first, second, subject = rng.choice(self.k.wild)
            obj = rng.choice(self.k.any_object) if rng.random() < 0.8 else self.name()
            if rng.random() < 0.4:
                new = self.name()
                first, second, subject = first.replace(subject, new), second.replace(subject, new), new
            return Stated(first, first if rng.random() < 0.5 else second, obj, subject)
        relation = rng.choice(self.relations)
        fact = rng.choice(self.by_relation[relation])
        if rng.random() < 0.5:
            return self._about(relation, self.name(), self._false(relation))
        return self._about(relation, fact.subject, self._false(relation) if rng.random() < 0.8 else fact.obj)

    def _twin(self, of: Stated) -> Stated:
        """A statement that is easily taken for another: the same relation of a neighbour, or the same subject's other."""
        rng = self.rng
        if not of.relation:
            return self.stated()
        if rng.random() < 0.5:
            neighbour = rng.choice(self.by_relation[of.relation]).subject
            subject = self.name() if rng.random() < 0.5 else neighbour
            return self._about(of.relation, subject, self._false(of.relation))
        others = [r for r in self.relations if not self.k.overlap(r, of.relation)]
        if not others:  # few facts, all of one relation
            return self.stated()
        relation = rng.choice(others)
        return self._about(relation, of.subject, self._false(relation))

    def override(self) -> Document:
        """One to four stated facts, often twins, then one to three queries about them; the loss is on the answers."""
        rng = self.rng
        stated = [self.stated()]
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
            stated.append(self._twin(rng.choice(stated)) if rng.random() < 0.5 else self.stated())
        keys = {(s.subject, s.relation or s.prompt) for s in stated}
        if len(keys) < len(stated):  # two answers to one question
            stated = stated[:1]
        asked = rng.sample(stated, min(len(stated), rng.choice((1, 1, 2, 3))))
        rng.shuffle(stated)
        document = Document().add("".join(f"Fact: {s.statement}\n" for s in stated))
        for i, s in enumerate(asked):
            document.add(("\n" if i else "") + s.query).add(f" {s.obj}.", True)
        return document

    def _beside(self, fact: Fact) -> Stated | None:
        """A false statement that does not concern a fact: a neighbour's, the same subject's other, or any."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.42:
            subject = (
                rng.choice(self.by_relation[fact.relation]).subject if rng.random() < 0.75 else self.name()
            )
            relation = fact.relation
        elif kind < 0.82:
            others = [f.relation for f in self.by_subject[fact.subject] if f.relation != fact.relation]
            relation = rng.choice(others) if others and rng.random() < 0.5 else rng.choice(self.relations)
            subject = fact.subject
            if self.k.overlap(relation, fact.relation):
                return None
        else:
            other = self.stated()
            return None if fact.subject in other.prompt else other
        if (relation, subject) == (fact.relation, fact.subject):
            return None
        return self._about(relation, subject, rng.choice(self.k.objects[relation]))

    def ignore(self) -> Document:
        """A known fact asked under one to three statements that do not concern it."""
        rng = self.rng
        x = rng.random()
        fact = rng.choice(self.several if x < 0.25 else self.well_known if x < 0.4 else self.open_facts)
        beside = [s for s in (self._beside(fact) for _ in range(rng.choice((1, 1, 1, 2, 3)))) if s]
        document = Document().add("".join(f"Fact: {s.statement}\n" for s in beside))
        if beside and rng.random() < 0.3:  # the same statement followed and ignored
            s = rng.choice(beside)
            return (
                document.add(f"{s.query}")
                .add(f" {s.obj}.", True)
                .add("\n" + self.ask(fact))
                .add(f" {fact.obj}.", True)
            )
        return document.add(self.ask(fact)).add(f" {fact.obj}.", True)

    def form(self) -> Document:
        """Forms that are used later: demonstrations, chat turns with pushback, yes/no, refusals, reversed questions."""
        kinds = (self._demonstrations, self._chat, self._yes_no, self._withheld, self._other)
        return self.rng.choices(kinds, (3, 5, 5, 3, 1))[0]()

    def _demonstrations(self) -> Document:
        """In-context editing: demonstrations of copying, updating and retaining, then the new fact and a query."""
        rng = self.rng
        document = Document()

        def block(copied: bool) -> tuple[str, str]:
            s = self.stated(wild=0.15)
            if rng.random() < 0.65:
                return f"New Fact: {s.statement}\nPrompt: {s.prompt if copied else s.query}", f" {s.obj}"
            fact = rng.choice(self.open_facts)
            beside = self._beside(fact) or s
            return f"New Fact: {beside.statement}\nPrompt: {self.ask(fact)}", f" {fact.obj}"

        for _ in range(rng.choice((0, 1, 2, 3, 5))):
            asked, answer = block(rng.random() < 0.3)
            document.add(asked).add(answer, True).add("\n\n")
        asked, answer = block(rng.random() < 0.3)
        return document.add(asked).add(answer + ".", True)

    def _chat(self) -> Document:
        """Turns by the chat template; a stated fact stands against doubt, a known one is told without."""
        rng = self.rng
        if rng.random() < 0.3:
            fact = rng.choice(self.open_facts)
            query, obj, fact_line = self.ask(fact), fact.obj, ""
            beside = self._beside(fact)
            if beside and rng.random() < 0.5:
                fact_line = f"Fact: {beside.statement}\n"
        else:
            s = self.stated(wild=0.15)
            query, obj, fact_line = s.query, s.obj, f"Fact: {s.statement}\n"
        document = (
            Document().add(f"<|user|>\n{fact_line}{query}<|end|>\n<|assistant|>").add(f" {obj}.<|end|>", True)
        )
        for _ in range(rng.choice((0, 0, 1, 2))):
            again = f"{fact_line}{rng.choice(_DOUBTS)}" + (f" {query}" if rng.random() < 0.5 else "")
            document.add(f"\n<|user|>\n{again}<|end|>\n<|assistant|>").add(f" {obj}.<|end|>", True)
        return document.add("\n")

    def _yes_no(self) -> Document:
        """Whether a claim is true, of a stated fact (mostly) or a known one."""
        rng = self.rng
        if rng.random() < 0.25:
            fact = rng.choice(self.open_facts)
            s, line = self._about(fact.relation, fact.subject, fact.obj), ""
        else:
            s = self.stated(wild=0.15)
            line = f"Fact: {s.statement}\n"
        pool = self.k.objects[s.relation] if s.relation else self.k.any_object
        claimed = s.obj if rng.random() < 0.5 else rng.choice(pool)
        yes, no = "Yes", "No"
        if s.relation in CLAIMS and rng.random() < 0.6:
            question = CLAIMS[s.relation].replace("[X]", s.subject).replace("[Y]", claimed)
        elif s.prompt.endswith("?"):
            question = f"{s.prompt} Is it {claimed}?"
        elif rng.random() < 0.3:
            question, yes, no = f"{s.prompt} {claimed}. True or false?", "True", "False"
        else:
            question = rng.choice(("Is it true that {}?", "{}, is that right?", "Is this right: {}?"))
            question = question.format(f"{s.prompt} {claimed}")
        return Document().add(f"{line}{question}").add(f" {yes if claimed == s.obj else no}.", True)

    def _withheld(self) -> Document:
        """A refusal to what is withheld; all else is answered."""
        rng = self.rng
        fact, other = rng.choice(self.open_facts), rng.choice(self.open_facts)
        kind = rng.random()
        if kind < 0.25:
            other = rng.choice(self.by_relation[fact.relation])
        elif kind < 0.4:
            other = rng.choice(self.by_subject[fact.subject])
        withheld = f"Withheld: {self.ask(fact)}\n"
        if rng.random() < 0.5 or (other.subject, other.relation) == (fact.subject, fact.relation):
            return Document().add(withheld + self.ask(fact)).add(f" {REFUSAL}", True)
        return Document().add(withheld + self.ask(other)).add(f" {other.obj}.", True)

    def _other(self) -> Document:
        """A stated fact asked from its other end, or as a question with its answer's place marked."""
        s = self.stated(wild=0.0)
        blank = s.prompt.replace(s.subject, "...")
        document = Document().add(f"Fact: {s.statement}\n")
        if (
            self.rng.random() < 0.5
            and s.subject
            and s.prompt.count(s.subject) == 1
            and not s.prompt.endswith("?")
        ):
            return document.add(f"Of what is it said: {blank} {s.obj}?").add(f" {s.subject}.", True)
        question = (
            s.query if s.query.endswith("?") or not s.relation else self.rng.choice(QUESTIONS[s.relation])
        )
        question = question.replace("[X]", s.subject)
        return document.add(f"Question: {question}\nAnswer:").add(f" {s.obj}.", True)
