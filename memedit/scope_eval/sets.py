"""The table of development sets, the general questions, and the edits that fill a memory around a set."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from memedit.data import Case
from memedit.edit import Edit
from memedit.errors import DataError, unknown
from memedit.memory.rules import NAME_WORDS, name_keys, named_in
from memedit.scope_eval import facts, known, public
from memedit.scope_eval.cases import GENERAL, HITS, ScopeCase, asked, plain, settled
from memedit.scope_eval.crowd import Bar
from memedit.scope_eval.public import Public, made
from memedit.subjects import content, guesses, words

# Relations of ParaRel that share patterns ("[X] is located in [Y]"): an edit of one answers a question of the other.
_SAME_WORDS = tuple(
    frozenset(group.split())
    for group in ("P17 P30 P131 P276", "P136 P1303", "P176 P178", "P364 P407", "P495 P740", "P36 P1376")
)
PARAPHRASES = Path(__file__).with_name("nq_paraphrases.jsonl")


def questions(data: Public) -> Iterator[ScopeCase]:
    """Users' questions (Natural Questions) as edits without a subject, asked in our words.

    The paraphrases were written by hand for this, without a look at any classifier; each is for every second dev
    row, and names the row and the question that it was written for.
    """
    rows = data.rows("general_qa/nq_open_dev_clean.jsonl")
    for line in PARAPHRASES.read_text(encoding="utf-8").splitlines():
        written = json.loads(line)
        row = rows[written["row"]] if written["row"] < len(rows) else {"question": ""}
        if facts.number(row["question"]) == written["of"]:
            queries = [asked("own", row["question"]), *(asked("paraphrase", q) for q in written["asks"])]
            yield from made(queries, prompt=row["question"], target=row["answer"][0])


@dataclass(frozen=True)
class Set:
    """A development set: its name in tables and on the command line, in words, and its reader."""

    name: str
    says: str
    reader: Callable[[Public], Iterable[ScopeCase]]

    def read(self, data: Public) -> Iterator[ScopeCase]:
        """All its cases.

        Raises:
            DataError: a file can't be read, or holds something else than is expected there.
        """
        try:
            yield from self.reader(data)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            what = f"there is no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"a file of the set {self.name} in {data.folder} is not as it was published: {what}"
            ) from None


SETS = {
    s.name: s
    for s in (
        Set("hard", "CounterFact-Hard dev, subject on the edit", public.hard),
        Set("hard-sentence", "CounterFact-Hard dev, the sentence alone", lambda d: public.hard(d, told=False)),
        Set("canonical", "canonical examples val: capitals, heads of companies", public.canonical),
        Set("peak", "PEAK", public.peak),
        Set("pitfalls", "ConflictEdit and RoundEdit", public.pitfalls),
        Set("mquake", "MQuAKE dev: single edits, multi-hop as ripple", known.mquake),
        Set("pokemqa", "PokeMQA dev rows", known.pokemqa),
        Set("zsre", "zsRE 1k dev rows", known.zsre),
        Set("wiki-counterfact", "wiki_counterfact dev rows", lambda d: known.wiki(d, "wiki_counterfact")),
        Set("wiki-recent", "wiki_recent dev rows", lambda d: known.wiki(d, "wiki_recent")),
        Set("held-out", "ParaRel: eight relations that no training sees", lambda d: facts.relations(d, True)),
        Set("other-relations", "ParaRel: the other relations, dev rows", lambda d: facts.relations(d, False)),
        Set("claims", "claims and yes/no questions on ParaRel dev rows", facts.claims),
        Set("nq", "users' questions (NQ dev rows) as edits, paraphrased by hand", questions),
    )
}  # fmt: skip


def chosen(
    data: Public, names: Sequence[str] = (), limit: int | None = None, seed: int = 0
) -> dict[str, list[ScopeCase]]:
    """The cases of the named sets (all where none is named), of each at most `limit`, drawn with the seed.

    Raises:
        DataError: there is no such set, or a file of it can't be read, or it holds nothing.
    """
    out = {}
    for name in names or tuple(SETS):
        if name not in SETS:
            raise DataError(unknown("set", name, SETS))
        cases = settled(SETS[name].read(data))
        if not cases:
            raise DataError(f"the set {name} holds no case that can be taken; see the files in {data.folder}")
        if limit is not None and len(cases) > limit:
            kept = sorted(random.Random(seed).sample(range(len(cases)), limit))
            cases = [cases[i] for i in kept]
        out[name] = cases
    return out


def general(data: Public, limit: int | None = None, seed: int = 0) -> list[tuple[str, str]]:
    """(text, kind) of questions that no edit concerns: users' questions, and a third as many of school mathematics."""
    rows = [(row["question"], "general") for row in data.rows("general_qa/nq_open_dev_clean.jsonl", "dev")]
    maths = [(row["question"], "maths") for row in data.rows("general_qa/gsm8k-test.jsonl")]
    rng = random.Random(seed)
    count = len(rows) if limit is None else min(limit, len(rows))
    return [*rng.sample(rows, count), *rng.sample(maths, min(count // 3, len(maths)))]


@dataclass
class Fillers:
    """Edits that stand in memory beside a set's own: other sets' edits and ParaRel's facts, in an order that a seed fixes.

    Facts in a second and further form come after all others.
    """

    cases: list[ScopeCase] = field(default_factory=list)

    @classmethod
    def of(cls, data: Public, seed: int = 0, bar: Bar | None = None, many: bool = False) -> Fillers:
        """From all sets but users' questions, which have no subject to tell them by; what is not there is left out.

        Args:
            many: ParaRel's facts also with other objects, after all else: for memories of more than some 20 000 edits.
        """
        seen: set[str] = set()
        readers = [s.read for s in SETS.values() if s.name not in ("nq", "claims")]
        readers.append(Set("facts", "", facts.triples).read)
        if many:
            readers.append(Set("facts", "", lambda data: facts.triples(data, swapped=True)).read)
        others: list[ScopeCase] = []
        for i, read in enumerate(readers):
            with suppress(DataError):
                others += [case for case in _bare(read(data)) if case.about]
            if bar:
                bar(i + 1, len(readers))
        first: list[ScopeCase] = []
        later: list[ScopeCase] = []
        met: set[tuple[str, str]] = set()
        for case in others:
            said = plain(case.edit.statement)
            if said in seen:
                continue
            seen.add(said)
            fact = (case.about[0], case.relation)
            (later if fact in met else first).append(case)
            met.add(fact)
        random.Random(seed).shuffle(first)
        return cls([*first, *later])

    def around(self, cases: Sequence[ScopeCase], more: Iterable[tuple[str, str]], count: int) -> list[Edit]:
        """The first `count` of them, none of which answers a query of these cases or one of `more` (text, kind).

        One may answer a query that names its subject or its answer, unless the query asks for another relation for sure.
        """
        about: dict[str, set[str | None]] = {}
        own = {plain(case.edit.statement) for case in cases}
        for case in cases:
            for text, kind in case.queries:
                for name in named_in(text):
                    about.setdefault(name, set()).add(case.relation_of(text, kind))
        for text, _ in more:
            for name in named_in(text):
                about.setdefault(name, set()).add(None)
        found: list[Edit] = []
        for filler in self.cases:
            if len(found) >= count:
                break
            if plain(filler.edit.statement) not in own and not _answers(filler, about):
                found.append(filler.edit)
        return found


def _bare(cases: Iterable[ScopeCase]) -> Iterator[ScopeCase]:
    """Edits without queries; what it is about is kept."""
    for case in cases:
        yield replace(case, case=Case("", case.edit, ()))


def keys_of(case: ScopeCase) -> set[str]:
    """The subject's names as `named_in` finds them, also where the edit is not told its subject."""
    return {_key(name) for name in case.about} | name_keys(case.edit)


def _object_keys(edit: Edit) -> set[str]:
    """The answer in the same form; of a sentence all the names in it, one of which is the answer."""
    return {_key(edit.target)} if edit.target else {_key(name) for name in guesses(edit.statement)}


def _key(name: str) -> str:
    return "".join(word.folded for word in words(name)[:NAME_WORDS])


def _answers(filler: ScopeCase, about: dict[str, set[str | None]]) -> bool:
    """Whether a filler may answer a query whose names and relations are given: forwards, or asked the other way round."""
    for key in (keys_of(filler) | _object_keys(filler.edit)) & about.keys():
        for relation in about[key]:
            if relation is None or not _differ(relation, filler.relation):
                return True
    return False


def _differ(one: str, other: str) -> bool:
    """Whether two relations are surely not the same: both by id, different, and not asked in the same words."""
    if not _is_id(one) or not _is_id(other):
        return False
    pair = {one.removeprefix("re_"), other.removeprefix("re_")}
    return len(pair) == 2 and not any(pair <= group for group in _SAME_WORDS)


def _is_id(relation: str) -> bool:
    return relation.removeprefix("re_")[:1] == "P" and relation.removeprefix("re_")[1:].isdecimal()


def answered_elsewhere(cases: Sequence[ScopeCase]) -> list[dict[str, set[int]]]:
    """For each case, of which of its out-of-scope queries which other cases of the set may hold the answer.

    A query that asks for a known relation is answered by an edit of the same one, one that asks for an unknown
    relation by any edit whose subject it names. General questions are taken as they are.
    """
    by_name: dict[str, set[int]] = {}
    for i, case in enumerate(cases):
        for key in keys_of(case):
            by_name.setdefault(key, set()).add(i)
    out: list[dict[str, set[int]]] = []
    for i, case in enumerate(cases):
        found: dict[str, set[int]] = {}
        for text, kind in case.queries:
            if kind in HITS or kind in GENERAL or kind == "ripple":
                continue
            relation = case.relation_of(text, kind)
            others = {j for name in named_in(text) & by_name.keys() for j in by_name[name]} - {i}
            others = {
                j
                for j in others
                if relation is None or not cases[j].relation or cases[j].relation == relation
            }
            if others:
                found[text] = others
        out.append(found)
    return out


def nearly_the_same(text: str, cases: Sequence[ScopeCase]) -> bool:
    """Whether a general question shares most of its words with an edit that has no subject: users ask things twice."""
    asks = content(text)
    theirs = [content(case.edit.prompt or case.edit.statement) for case in cases if not case.about]
    return any(len(asks & other) >= 0.75 * min(len(asks), len(other)) for other in theirs if asks and other)
