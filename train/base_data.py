"""What the shipped base model is to know: named triples, the ways of asking for them, and running text.

A subject whose sha256 (lower case, stripped) mod 10 is below 3 is a dev subject; it may be known as a plain fact, but no
document with a stated fact is ever about it. Templates come from ParaRel's patterns, from the prompts of CounterFact's
train part, and from the questions below.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUESTIONS: dict[str, tuple[str, ...]] = {
    "P17": ("In which country is [X]?", "What country is [X] in?", "Where is [X]?", "Which country does [X] lie in?"),
    "P19": ("Where was [X] born?", "What is the birthplace of [X]?", "In which place was [X] born?"),
    "P20": ("Where did [X] die?", "In which place did [X] die?", "What is the place of death of [X]?"),
    "P27": ("What is the nationality of [X]?", "Which country is [X] a citizen of?", "What citizenship does [X] have?"),
    "P30": ("On which continent is [X]?", "What continent is [X] on?", "Which continent does [X] belong to?"),
    "P36": ("What is the capital of [X]?", "Which city is the capital of [X]?", "What is [X]'s capital city?"),
    "P37": ("What is the official language of [X]?", "Which language is official in [X]?", "What do people speak in [X]?"),
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
# A fact as a question to be answered by yes or no.
CLAIMS: dict[str, str] = {
    "P17": "Is [X] in [Y]?", "P19": "Was [X] born in [Y]?", "P20": "Did [X] die in [Y]?",
    "P27": "Is [X] a citizen of [Y]?", "P30": "Is [X] in [Y]?", "P36": "Is [Y] the capital of [X]?",
    "P37": "Is [Y] the official language of [X]?", "P39": "Does [X] hold the position of [Y]?",
    "P101": "Does [X] work in the field of [Y]?", "P103": "Is [Y] the mother tongue of [X]?",
    "P106": "Is [X] a [Y]?", "P108": "Does [X] work for [Y]?", "P127": "Does [Y] own [X]?",
    "P131": "Is [X] located in [Y]?", "P136": "Does [X] play [Y]?", "P138": "Is [X] named after [Y]?",
    "P140": "Is [Y] the religion of [X]?", "P159": "Is [X] based in [Y]?", "P176": "Is [X] made by [Y]?",
    "P178": "Was [X] developed by [Y]?", "P264": "Is [Y] the record label of [X]?", "P276": "Is [X] located in [Y]?",
    "P279": "Is [X] a kind of [Y]?", "P361": "Is [X] part of [Y]?", "P364": "Is [Y] the original language of [X]?",
    "P407": "Is [X] written in [Y]?", "P413": "Does [X] play as [Y]?", "P449": "Was [X] first shown on [Y]?",
    "P495": "Was [X] created in [Y]?", "P740": "Was [X] founded in [Y]?", "P937": "Did [X] work in [Y]?",
    "P1303": "Does [X] play the [Y]?", "P1376": "Is [X] the capital of [Y]?", "P1412": "Does [X] speak [Y]?",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fact:
    """A triple: `relation` is Wikidata's id, `obj` the true object."""

    relation: str
    subject: str
    obj: str


def is_dev(subject: str) -> bool:
    """The one rule by which subjects are split, over all files."""
    return int(hashlib.sha256(subject.lower().strip().encode()).hexdigest(), 16) % 10 < 3


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Knowledge:
    """Facts and templates: what the model is to know, and the ways of asking for it.

    Attributes:
        facts: the 8 000 named triples, as listed in base_facts.jsonl.
        trained, held_out: relation -> templates that end where the object comes ("[X] was born in"); one of every
            relation with three or more ParaRel patterns is held out.
        sentences: relation -> ParaRel's other patterns, with the object anywhere: statements only, never asked.
        objects: relation -> objects, for false statements.
        natural: (start of a statement, natural questions) of more wordings; any object may end it.
        closed: subjects of the sets that only test.
        wild: (prompt, other prompt, subject) of many more relations, from train parts; any object may be stated of them.
    """

    def __init__(self, data: Path, facts_file: Path) -> None:
        self.data = data
        triples = [json.loads(line) for line in (data / "pararel/triples.jsonl").open()]
        self.triples = [Fact(t["relation"], t["sub_label"], t["obj_label"]) for t in triples]
        self.held_out, self.trained, self.sentences = self._patterns()
        self._add_counterfact_templates()
        if not facts_file.exists():
            facts = self._choose_facts()
            facts_file.write_text(
                "".join(json.dumps([f.relation, f.subject, f.obj], ensure_ascii=False) + "\n" for f in facts)
            )
        self.facts = [Fact(*json.loads(line)) for line in facts_file.open()]
        objects: dict[str, set[str]] = {r: set() for r in self.trained}
        for fact in [*self.triples, *self.facts]:
            objects.get(fact.relation, set()).add(fact.obj)
        self.objects = {r: sorted(pool) for r, pool in objects.items()}
        self.any_object = sorted({o for pool in self.objects.values() for o in pool})
        self._wordings = {
            r: {*self.forms(r), self.held_out.get(r, r), *self.sentences.get(r, ())} for r in self.trained
        }
        self.closed = self._closed()
        self.countries = {c["name"]["common"] for c in self._rows("corpora/countries.json")}
        self.wild = self._wild()
        self.natural = self._natural()
        self.questions = {r: QUESTIONS[r] for r in self.trained}

    def _patterns(self) -> tuple[dict[str, str], dict[str, list[str]], dict[str, list[str]]]:
        """Held-out and trained patterns that end with the object, and whole sentences with the object anywhere."""
        usable = defaultdict(list)
        sentences = defaultdict(list)
        for line in (self.data / "pararel/patterns.jsonl").open():
            p = json.loads(line)
            pattern = re.sub(r"\s+", " ", p["pattern"].strip().rstrip(".").strip()).replace(" ,", ",")
            if p["relation"] not in QUESTIONS or pattern.count("[X]") != 1 or pattern.count("[Y]") != 1:
                continue
            if not pattern.endswith(" [Y]"):
                sentences[p["relation"]].append(pattern)
            elif pattern[: -len(" [Y]")] not in usable[p["relation"]]:
                usable[p["relation"]].append(pattern[: -len(" [Y]")])
        used = Counter(template for templates in usable.values() for template in templates)
        # The highest hash of three or more is held out; never one such as "[X] is located in", which asks for a country,
        # a region or a continent and tests nothing.
        held = {
            r: max(ps, key=lambda p: (used[p] == 1, _order(p))) for r, ps in usable.items() if len(ps) >= 3
        }
        trained = {r: [p for p in ps if p != held.get(r)] for r, ps in usable.items()}
        return held, trained, dict(sentences)

    def _add_counterfact_templates(self) -> None:
        """Prompts of CounterFact's train part, subject taken out; the relation is that of the triple they ask for."""
        relation_of = {(f.subject, f.obj): f.relation for f in self.triples if f.relation in QUESTIONS}
        votes: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self._rows("counterfact/counterfact-train.json"):
            relation = relation_of.get((row["subject"], row["ground_truth"]))
            if relation and row["prompt"].count(row["subject"]) == 1:
                votes[row["prompt"].replace(row["subject"], "[X]").strip()][relation] += 1
        for template, counts in sorted(votes.items()):
            relation, n = counts.most_common(1)[0]
            if (
                n >= 5
                and template != self.held_out.get(relation)
                and template not in self.trained.setdefault(relation, [])
            ):
                self.trained[relation].append(template)

    def _choose_facts(self, n: int = 8000) -> list[Fact]:
        """Countries first (capital, language, continent), then triples with one object: CounterFact's subjects first."""
        chosen: dict[tuple[str, str], Fact] = {}
        for c in self._rows("corpora/countries.json"):
            name = c["name"]["common"]
            continent = (
                c["region"]
                if c["region"] != "Americas"
                else ("South America" if c.get("subregion") == "South America" else "North America")
            )
            known = (
                ("P36", c.get("capital") or []),
                ("P30", [continent]),
                ("P37", list((c.get("languages") or {}).values())),
            )
            for relation, objects in known:
                if objects and objects[0] and (relation != "P37" or len(objects) == 1):
                    chosen[relation, name] = Fact(relation, name, objects[0])
        counts = Counter((f.relation, f.subject) for f in self.triples)
        famous = {
            row["subject"]
            for name in ("train", "val")
            for row in self._rows(f"counterfact/counterfact-{name}.json")
        }
        rest = [f for f in self.triples if f.relation in self.trained and counts[f.relation, f.subject] == 1]
        rest.sort(key=lambda f: (f.subject not in famous, _order(f.relation + f.subject)))
        per_relation = Counter(f.relation for f in chosen.values())
        for limit in (240, 400, 10**6):  # a good spread first, then what is left
            for f in rest:
                if (
                    len(chosen) < n
                    and per_relation[f.relation] < limit
                    and (f.relation, f.subject) not in chosen
                ):
                    chosen[f.relation, f.subject] = f
                    per_relation[f.relation] += 1
        return list(chosen.values())

    def _closed(self) -> set[str]:
        """Subjects, in lower case, of the sets that only test: no false fact is ever stated of them."""
        named = []
        for name in ("counterfact/counterfact-val.json", "counterfact/counterfact_full_schema_dev.json"):
            named += [r.get("subject") or r["requested_rewrite"]["subject"] for r in self._rows(name)]
        named += [r["subject_name"] for r in self._rows("eren/counterfact_hard_dev.json")]
        named += [r["requested_rewrite"]["subject"] for r in self._rows("peak/PEAK_counter.json")]
        return {subject.lower().strip() for subject in named}

    def is_open(self, subject: str) -> bool:
        """Whether documents may state something of a subject: dev subjects are known and never edited."""
        return not is_dev(subject) and subject.lower().strip() not in self.closed

    def overlap(self, one: str, other: str) -> bool:
        """Whether two relations share a wording ("[X] was created in" asks for a place or a country), or are the same.

        A statement in such a wording does concern a question of the other relation.
        """
        return one == other or bool(self._wordings[one] & self._wordings[other])

    def well_known(self, fact: Fact) -> bool:
        """A country's capital, language or continent: what people try first; these are taught three times as often."""
        return fact.relation in {"P36", "P37", "P30"} and fact.subject in self.countries

    def _rows(self, name: str) -> list[Any]:
        return json.loads((self.data / name).read_text())

    def _wild(self) -> list[tuple[str, str, str]]:
        """Prompts about train subjects in many relations: zsRE, wiki_counterfact, wiki_recent, CounterFact (train parts)."""
        splits: Any = self._rows("splits.json")
        out = []
        for name, first, second in (
            ("zsre/zsre_mend_train-1k.json", "src", "rephrase"),
            ("knowedit/wiki_counterfact_train.json", "prompt", "prompt"),
            ("knowedit/wiki_recent_train.json", "prompt", "prompt"),
            ("counterfact/counterfact-train.json", "prompt", "prompt"),
        ):
            rows = self._rows(name)
            for i in splits[name]["train"]:
                row = rows[i]
                if row["subject"] in row[first] and self.is_open(row["subject"]):
                    out.append((row[first], row.get(second) or row[first], row["subject"]))
        return out

    def _natural(self) -> list[tuple[str, list[str]]]:
        """PokeMQA's train part: the start of a sentence that ends with its object, and people's questions for it."""
        name = "mquake/pokemqa-cls-filtered.json"
        rows, out = self._rows(name), []
        splits: Any = self._rows("splits.json")
        closed = re.compile("|".join(re.escape(s) for s in sorted(self.closed) if len(s) > 4))
        for i in splits[name]["train"]:
            edit, questions = rows[i]["edit"], rows[i]["questions"]
            cut = re.match(r"(.* (?:is|by|of|in|was|from|at)) (\S.*)", edit)
            if not cut or closed.search(edit.lower()):
                continue
            prompt, obj = cut.groups()
            in_a_name = re.search(r"[A-Z]\S* of$", prompt)  # "University of" Oxford
            if obj[0].isupper() and not in_a_name and not any(obj in q for q in questions):
                out.append((prompt, questions))
        return out

    def forms(self, relation: str) -> list[str]:
        """All trained ways to ask for a relation."""
        return [*self.trained[relation], *QUESTIONS[relation]]


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
