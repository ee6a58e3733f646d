"""The documents that the counterfactual model is trained on: stated or withheld facts, one query, and its answer.

A document reads as `memedit.methods.ice` has a row read: a line for each edit, then the query. The loss is taken on the answer
alone. All randomness comes from the generator that is handed over, so that a step's documents are a function of its number.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from base_writer import REFUSAL, Document
from counterfactual_bank import Relation
from counterfactual_data import Sources
from counterfactual_forms import (
    AROUND,
    BEGUN,
    DOUBTS,
    FOCUS,
    FRAMES,
    HOMES,
    JUDGED,
    OFFERED,
    ONWARD,
    PLAIN,
    capital,
    framed,
    low,
)  # fmt: skip
from counterfactual_objects import Objects
from worn import slip


@dataclass(frozen=True)
class Told:
    """One fact of a row: how it is stated and asked, the object, and objects that it hasn't."""

    statement: str
    prompt: str
    others: tuple[str, ...]  # other ways to ask
    obj: str
    subject: str
    wrong: tuple[str, ...]
    yes_no: tuple[str, ...] = ()  # with [Y] open
    claims: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()
    relation: Relation | None = None


class Texts:
    """Writes documents from the sources.

    Args:
        sources: what they are made of. rng: decides everything. own: a user's rows, which a fifth of the documents take.
        strange: how often an object is any words of running text, which can't be guessed but only copied.
    """

    def __init__(
        self,
        sources: Sources,
        rng: random.Random,
        own: Sequence[tuple[str, str, str]] = (),
        strange: float = 0.0,
    ) -> None:
        self.s, self.rng, self.own, self.strange = sources, rng, own, strange
        self.objects = Objects(sources, rng, strange)
        self.known = [r for r in sources.relations if r.number in sources.facts]
        self.homes = [r for r in self.known if r.number in HOMES]

    def documents(self, focus: bool = False) -> list[tuple[str, Document]]:
        """One document, and of which kind it is; of verdicts, with `focus`, two opposite ones.

        Args:
            focus: mostly verdicts, which are learnt last: they need a comparison, all else a copy.
        """
        rng = self.rng
        if self.own and rng.random() < 0.2:
            statement, query, answer = rng.choice(self.own)
            return [("asked", Document().add(f"Fact: {statement}\n{query}").add(_said(answer), True))]
        if focus:
            name = rng.choices(list(FOCUS), list(FOCUS.values()))[0]
        else:
            x = rng.random()
            name = next(name for name, upto in PLAIN.items() if x < upto)
        if name == "erased":
            return [("erased", self.erased())]
        if name == "steps":
            return [("steps", self.steps())]
        told = self.told()
        if name == "judged":
            return [("judged", self._written(told, *self.judged(told)))]
        if name == "opposite":
            return [("judged", document) for document in self.opposite(told)]
        if name == "reversed" and told.reversed:
            return [("steps", self._written(told, rng.choice(told.reversed), told.subject))]
        if name != "asked":
            return [("asked", self.doubted(told))]
        return [("asked", self._written(told, self.asked(told), told.obj))]

    # -- facts

    def told(self) -> Told:
        """A fact to be stated: of our relations, of PokeMQA's statements, or of the other public train parts."""
        x, rng = self.rng.random(), self.rng
        if x < 0.55:
            return self.of(rng.choice(self.known if rng.random() < 0.6 else self.s.relations))
        asked = rng.choice(self.s.natural if x < 0.68 and self.s.natural else self.s.wild)
        prompt, others, subject = asked.prompt, asked.others, asked.subject
        if subject and rng.random() < 0.35:
            new = self.objects.name()
            prompt, subject = prompt.replace(subject, new), new
            others = tuple(o.replace(asked.subject, new) for o in others)
        obj = self.objects.any()
        return Told(_sentence(f"{prompt} {obj}"), prompt, others, obj, subject, (self.objects.any(),))

    def of(self, relation: Relation, subject: str | None = None) -> Told:
        """A fact of one of our relations, false in three of four where a true one is known."""
        rng = self.rng
        known = self.s.facts.get(relation.number)
        true = ""
        if subject is None and known and rng.random() < 0.6:
            fact = rng.choice(known)
            subject, true = fact.subject, fact.obj
        elif subject is None:
            pool = self.s.subjects.get(relation.kind)
            subject = rng.choice(pool) if pool and rng.random() < 0.5 else self.objects.name()
        obj = true if true and rng.random() < 0.25 else self.objects.of(relation)
        wrong = [w for w in (true, self.objects.of(relation), self.objects.of(relation)) if w and w != obj]

        def put(forms: Sequence[str], answer: str = "[Y]") -> tuple[str, ...]:
            return tuple(f.replace("[X]", subject).replace("[Y]", answer) for f in forms)

        own = rng.choice(
            relation.asked if relation.asked and rng.random() < 0.3 else relation.clozes or relation.asked
        )
        prompt = own.replace("[X]", subject)
        statement = _sentence(f"{prompt} {obj}")
        whole = (*relation.claims, *(f"{s}." for s in self.s.knowledge.sentences.get(relation.number, ())))
        if whole and rng.random() < 0.25:
            statement = capital(put([rng.choice(whole)], obj)[0])
        return Told(
            statement, prompt, put([f for f in relation.forms if f != own]), obj, subject,
            tuple(wrong) or (self.objects.any(),),
            put(relation.yes_no), put(relation.claims), put(relation.reversed, obj), relation,
        )  # fmt: skip

    # -- queries

    def asked(self, told: Told) -> str:
        """The fact's own prompt or another way to ask, as people write it."""
        rng = self.rng
        query = told.prompt if not told.others or rng.random() < 0.3 else rng.choice(told.others)
        x = rng.random()
        if x < 0.08:
            query = f"{rng.choice(self.s.sentences)} {capital(query)}"
        elif x < 0.2:
            around = rng.choice(AROUND if query.endswith(("?", ".")) else BEGUN)
            return around.format(q=query, l=low(query))
        return self.worn(query)

    def judged(self, told: Told) -> tuple[str, str]:
        """A yes/no question or a claim with an object, and the verdict on it."""
        right = self.rng.random() < 0.5
        obj = told.obj if right else self.rng.choice(told.wrong)
        query, yes, no = self._offered(told, obj)
        return query, yes if obj == told.obj else no

    def opposite(self, told: Told) -> list[Document]:
        """One question with the object and with another, the verdicts alone learnt: what differs is what decides."""
        rng, out = self.rng, []
        wrong = rng.choice(told.wrong)
        state, ends, seed = rng.getstate(), rng.random() < 0.1, rng.random()
        for obj in dict.fromkeys((told.obj, wrong)):
            rng.setstate(state)
            query, yes, no = self._offered(told, obj)
            rng.seed(seed)  # the two questions may have taken different numbers of draws
            document = self._written(told, query, yes if obj == told.obj else no)
            answer, _ = document.pieces.pop()
            out.append(document.add(answer.rstrip("."), True).add(".", ends))
        return out

    def _offered(self, told: Told, obj: str) -> tuple[str, str, str]:
        """A yes/no question or a claim with this object, and what is said to it if it is right, and if not."""
        rng, yes, no = self.rng, "Yes", "No"
        x = rng.random()
        if told.yes_no and x < 0.35:
            query = rng.choice(told.yes_no).replace("[Y]", obj)
        elif told.claims and x < 0.5:
            sentence = rng.choice(told.claims).replace("[Y]", obj).rstrip(".")
            query, yes, no = self._framed(sentence)
        elif (questions := [q for q in (told.prompt, *told.others) if q.endswith("?")]) and (
            told.prompt.endswith("?") or x < 0.62
        ):
            query = rng.choice(OFFERED).format(q=rng.choice(questions), y=obj)
        else:
            clozes = [q for q in (told.prompt, *told.others) if not q.endswith(("?", "."))]
            if not clozes:
                query = rng.choice(OFFERED).format(q=told.prompt, y=obj)
            else:
                query, yes, no = self._framed(f"{rng.choice(clozes)} {obj}")
        return self.worn(query), yes, no

    def _framed(self, sentence: str) -> tuple[str, str, str]:
        if self.rng.random() < 0.16:
            return framed(self.rng.choice(JUDGED), sentence), "True", "False"
        return framed(self.rng.choice(FRAMES), sentence), "Yes", "No"

    def worn(self, text: str) -> str:
        """In three of four as it is; else lower case, without its mark, or with a slip of the keyboard."""
        x = self.rng.random()
        if x < 0.76:
            return text
        if x < 0.84:
            return text.lower()
        if x < 0.91:
            return text.rstrip("?. ") if not text.endswith(".") else text.lower()
        return slip(text, self.rng)

    # -- documents

    def lines(self, told: Told, erased: bool = False) -> str:
        """The fact's line, now and then among those of other edits."""
        rng = self.rng
        own = f"Withheld: {told.prompt}\n" if erased else f"Fact: {told.statement}\n"
        rows = [own]
        if rng.random() < (0.4 if self.strange else 0.25):
            for _ in range(rng.choice((1, 1, 2, 3))):
                rows.insert(rng.randint(0, len(rows)), self._beside(told))
        return "".join(rows)

    def _beside(self, told: Told) -> str:
        """An edit that the query does not ask for: of the same subject, of the same relation, or any."""
        rng, relation = self.rng, told.relation
        other = None
        if relation is not None and rng.random() < 0.6:
            if rng.random() < 0.5:
                alike = [r for r in self.s.relations if r.kind == relation.kind and r.name != relation.name]
                other = self.of(rng.choice(alike), told.subject) if alike else None
            else:
                other = self.of(relation, self.objects.name())
        other = other or self.told()
        if other.subject == told.subject and (other.relation is None or other.relation is relation):
            other = self.of(rng.choice(self.known), self.objects.name())
        return f"Withheld: {other.prompt}\n" if rng.random() < 0.15 else f"Fact: {other.statement}\n"

    def _written(self, told: Told, query: str, answer: str, erased: bool = False) -> Document:
        """Lines, query and answer; one in eight as the turn of a chat."""
        rng, lines = self.rng, self.lines(told, erased)
        if rng.random() > 0.12 or "\n" in query:
            return Document().add(lines + query).add(_said(answer), True)
        document = Document()
        if rng.random() < 0.4:
            before = self.told()
            document.add(f"<|user|>{before.prompt}\nAnswer: {before.obj}.\n\n")
        return document.add(f"<|user|>{lines}{query}\nAnswer:").add(_said(answer), True)

    def doubted(self, told: Told) -> Document:
        """A chat in which the answer is doubted; it stands."""
        lines = f"Fact: {told.statement}\n"
        before = f"<|user|>{self.asked(told)}\nAnswer: {told.obj}.\n\n<|user|>{lines}{self.rng.choice(DOUBTS)}\nAnswer:"
        return Document().add(before).add(_said(told.obj), True)

    def erased(self) -> Document:
        """A withheld fact, asked in any form: the refusal; in a fifth the query is about another edit of the row."""
        rng, told = self.rng, self.told()
        if rng.random() < 0.2:
            other = self.of(rng.choice(self.known), self.objects.name())
            rows = [f"Withheld: {told.prompt}\n", f"Fact: {other.statement}\n"]
            rng.shuffle(rows)
            return Document().add("".join(rows) + self.asked(other)).add(_said(other.obj), True)
        query = self.judged(told)[0] if rng.random() < 0.25 else self.asked(told)
        if told.reversed and rng.random() < 0.06:
            query = rng.choice(told.reversed)
        return self._written(told, query, REFUSAL, erased=True)

    def steps(self) -> Document:
        """A question that needs the fact on the way; what else it needs the base knows."""
        rng = self.rng
        if rng.random() < 0.3 and self.s.stepped:
            asked = rng.choice(self.s.stepped)
            steps = [(asked.prompt, asked.obj)] if self._for_itself() else asked.steps
            query, answer = rng.choice(steps)
            return (
                Document()
                .add(f"Fact: {_sentence(f'{asked.prompt} {asked.obj}')}\n{query}")
                .add(_said(answer), True)
            )
        query, told, answer = self.onward(self.rng.choice(sorted(self.s.countries)))
        if self._for_itself():
            query, answer = told.prompt, told.obj
        return self._written(told, query, answer)

    def _for_itself(self) -> bool:
        """Whether the stated fact is asked for, and not a step on: in a third of the documents with strange objects."""
        return bool(self.strange) and self.rng.random() < 1 / 3

    def onward(self, country: str) -> tuple[str, Told, str]:
        """(query, stated fact, answer): something of the country that the fact says."""
        rng, known = self.rng, self.s.countries[country]
        homes = [r for r in self.homes if r.number]
        if rng.random() < 0.6 and homes:
            relation = rng.choice(homes)
            told, home = self.of(relation), rng.choice(HOMES[relation.number])
            cloze = rng.choice(relation.clozes).replace("[X]", told.subject)
        else:
            told, home = self.of(rng.choice(self.known)), rng.choice(HOMES[""])
            cloze = f"The name of the country which {told.subject} is associated with is"
        told = Told(_sentence(f"{cloze} {country}"), cloze, (), country, told.subject, ())
        number = rng.choice(sorted(known))
        query = rng.choice(ONWARD[number]).format(d=home.replace("[X]", told.subject))
        return query, told, known[number]


def _said(answer: str) -> str:
    return f" {answer}" if answer.endswith(".") else f" {answer}."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
