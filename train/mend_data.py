"""What the editor of `mend` learns from: edits of facts, the same asked in other words, and texts that must stay as they are.

Subjects and forms are split as for the counterfactual model: what is scored is never trained, of relations that are held out
nothing is used, and a twentieth of the train part is *apart*: choices are made by it. Of every relation one pattern is
scored (the one that the shipped base was never trained on) and, where there are enough, another is kept apart.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base_data import Fact, Knowledge, wikipedia
from counterfactual_bank import order
from counterfactual_data import Part, part_of
from scope_data import Data

NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt and what follows it; of a text without an answer all of it counts."""

    prompt: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One edit: its prompt and target, prompts in which the target must come, and texts that must stay."""

    prompt: str
    target: str
    asked: tuple[str, ...]
    stay: tuple[Text, ...]


class Sources:
    """Facts by part and relation, forms, and running text.

    Attributes:
        facts: part -> relation -> facts; those that the base was taught. more: open facts of the train parts besides.
        forms: relation -> forms to train by. apart, scored: relation -> the pattern that is kept for choices, for scores.
        stated: (form, subject, old, target, relation) of CounterFact's train part. sentences: any text.
    """

    def __init__(self, folder: Path, facts_file: Path) -> None:
        self.data = data = Data(folder)
        self.knowledge = k = Knowledge(folder, facts_file)
        left_out = set(data.split["held_out_relations"])
        self.scored = {r: p for r, p in k.held_out.items() if r not in left_out}
        self.forms: dict[str, list[str]] = {}
        usable = {r: sorted(patterns, key=order) for r, patterns in k.trained.items() if r not in left_out}
        self.apart = {relation: patterns[0] for relation, patterns in usable.items() if len(patterns) > 4}
        taken = {*self.scored.values(), *self.apart.values()}  # relations share some of their wordings
        for relation in usable:
            kept = [p for p in k.trained[relation] if p not in taken]
            if kept:
                self.forms[relation] = kept
        self.facts: dict[Part, dict[str, list[Fact]]] = {"open": {}, "apart": {}, "scored": {}}
        for fact in k.facts:
            if fact.relation in self.forms:
                of = self.facts[part_of(fact.subject, data)]
                of.setdefault(fact.relation, []).append(fact)
        known = {(f.subject, f.relation) for f in k.facts}
        rows = data.rows("pararel/triples_scope_train.jsonl", "train")
        more = [Fact(row["relation"], row["sub_label"], row["obj_label"]) for row in rows]
        more = [f for f in more if f.relation in self.forms and (f.subject, f.relation) not in known]
        self.more = [f for f in more if part_of(f.subject, data) == "open"]
        objects: dict[str, set[str]] = defaultdict(set)
        for fact in [*self.more, *(f for some in self.facts["open"].values() for f in some)]:
            objects[fact.relation].add(fact.obj)
        self.objects = {relation: sorted(some) for relation, some in objects.items()}
        self.stated = self._stated()
        self.taught = [f for some in self.facts["open"].values() for f in some]
        text = " ".join(wikipedia(folder, 400_000)).replace("\n", " ")
        self.sentences = [s.strip() + "." for s in text.split(". ") if 25 < len(s) < 110 and s[0].isupper()]

    def _stated(self) -> list[tuple[str, str, str, str, str]]:
        of_form = {form: relation for relation, forms in self.forms.items() for form in forms}
        out = []
        for row in self.data.rows("counterfact/counterfact-train.json", "train"):
            form = row["prompt"].replace(row["subject"], "[X]").strip()
            if form in of_form and form.count("[X]") == 1 and part_of(row["subject"], self.data) == "open":
                out.append((form, row["subject"], row["ground_truth"], row["target_new"], of_form[form]))
        return out

    def example(self, rng: random.Random, asked: int, stay: int) -> Example:
        """An edit of an open subject: a fact that the base was taught in three of four, a new object of its relation.

        Args:
            asked: prompts in which the target must come, the edit's own first. stay: texts that must stay.
        """
        draw = rng.random()
        if draw < 0.2 and self.stated:
            form, subject, old, target, relation = rng.choice(self.stated)
        else:
            fact = rng.choice(self.taught if draw < 0.85 or not self.more else self.more)
            relation, subject, old = fact.relation, fact.subject, fact.obj
            form = rng.choice(self.forms[relation])
            target = rng.choice([o for o in self.objects[relation] if o != old] or self.objects[relation])
        others = [f for f in self.forms[relation] if f != form] or [form]
        if rng.random() < 0.15:
            others = list(self.knowledge.questions.get(relation, ())) or others
        texts = [form, *(rng.choice(others) for _ in range(asked - 1))]
        kept = [self._near(rng, relation, form, subject, old)]
        kept += [self._far(rng) for _ in range(stay - 1)]
        return Example(
            form.replace("[X]", subject), target, tuple(t.replace("[X]", subject) for t in texts), tuple(kept)
        )

    def _near(self, rng: random.Random, relation: str, form: str, subject: str, old: str) -> Text:
        """The same asked of another subject, as often as not one with the same answer."""
        some = [f for f in self.facts["open"].get(relation, ()) if f.subject != subject]
        alike = [f for f in some if f.obj == old]
        pool = alike if alike and rng.random() < 0.5 else some or self.taught
        fact = rng.choice(pool)
        form = form if fact.relation == relation else rng.choice(self.forms[fact.relation])
        return Text(form.replace("[X]", fact.subject), fact.obj)

    def _far(self, rng: random.Random) -> Text:
        """Another fact in other words, or a sentence."""
        if rng.random() < 0.3 and self.sentences:
            return Text(rng.choice(self.sentences)[:60].rpartition(" ")[0])  # one long row pads all others
        fact = rng.choice(self.taught)
        forms = [*self.forms[fact.relation], *self.knowledge.questions.get(fact.relation, ())]
        return Text(rng.choice(forms).replace("[X]", fact.subject), fact.obj)

    def probes(self, n: int, seed: int = 0) -> list[Example]:
        """Edits of subjects that are kept apart, asked in the pattern that is kept apart."""
        rng = random.Random(f"probes {seed}")
        facts = [f for r, some in sorted(self.facts["apart"].items()) for f in some if r in self.apart]
        out = []
        for fact in rng.sample(facts, min(n, len(facts))):
            form = rng.choice(self.forms[fact.relation])
            target = rng.choice([o for o in self.objects[fact.relation] if o != fact.obj])
            near = self._near(rng, fact.relation, form, fact.subject, fact.obj)
            prompts = tuple(t.replace("[X]", fact.subject) for t in (form, self.apart[fact.relation]))
            out.append(Example(prompts[0], target, prompts, (near,)))
        return out

    def edits(self, n: int, seed: int = 0) -> list[dict[str, Any]]:
        """The same facts as a file for `memedit bench methods`: to choose settings of any method by."""
        rng = random.Random(f"edits {seed}")
        facts = [f for r, some in sorted(self.facts["apart"].items()) for f in some if r in self.apart]
        out = []
        for fact in rng.sample(facts, min(n, len(facts))):
            form = rng.choice(self.forms[fact.relation])
            near = [self._near(rng, fact.relation, form, fact.subject, fact.obj) for _ in range(NEIGHBOURS)]
            out.append(
                {
                    "prompt": form.replace("[X]", fact.subject),
                    "target": rng.choice([o for o in self.objects[fact.relation] if o != fact.obj]),
                    "subject": fact.subject,
                    "old": fact.obj,
                    "relation": fact.relation,
                    "paraphrases": [self.apart[fact.relation].replace("[X]", fact.subject)],
                    "locality": list(dict.fromkeys(text.prompt for text in near)),
                }
            )
        return out


def write_edits(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """JSON lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
