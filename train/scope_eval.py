"""The scope table: hits and false fires on development parts, beside BM25 and plain cosine.

For every set all its edits are in memory at once. `hit`: the right edit fired, and before all others. Out of
scope, any edit that fires is a false fire. memedit decides with its own threshold for that memory's size; each
baseline with the threshold that is best on the very queries it is scored on, which flatters it.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scope_data import (
    IN_SCOPE,
    Case,
    Data,
    Query,
    counterfact,
    make,
    pokemqa,
    prompts_of,
    questions,
    wiki,
    zsre,
)
from scope_forms import slip
from scope_users import reworded
from scope_worlds import Shelf

from memedit.scope import ScopeClassifier
from memedit.subjects import content


def hard(data: Data, told: bool) -> Iterator[Case | None]:
    """CounterFact-Hard: natural questions; with or without the subject named on the edit."""
    for row in data.rows("eren/counterfact_hard_dev.json"):
        queries = [Query(q, "paraphrase") for q, _ in row["edit_scope"]]
        queries += [Query(q, "neighbour") for q in row["unrelated"]["neighbor_subj"]]
        queries += [Query(q, "same_subject") for q in row["unrelated"]["same_subj"]]
        yield make(
            "hard", queries, statement=row["edit_statement"], subject=row["subject_name"] if told else None
        )


def validation(data: Data, count: int | None) -> Iterator[Case | None]:
    """CounterFact's validation part as it is imported end to end: repeats of (subject, prompt) taken out."""
    seen = set()
    for row in data.rows("counterfact/counterfact-val.json")[:count]:
        if (row["subject"], row["prompt"]) not in seen:
            seen.add((row["subject"], row["prompt"]))
            queries = [Query(row["prompt"], "own"), Query(row["locality_prompt"], "neighbour")]
            edit = {"prompt": row["prompt"], "target": row["target_new"], "subject": row["subject"]}
            yield make("counterfact-val", queries, **edit)


# Other questions about the subjects of the eight relations that no part of the training has seen.
OTHERWISE = {
    "P1001": ("[X] was established in the year", "The salary of the [X] is"),
    "P127": ("[X] was named after", "[X] was first opened in the year"),
    "P1376": ("The population of [X] is", "[X] is a twin city of"),
    "P17": ("[X] was named after", "[X] was founded in the year"),
    "P178": ("[X] was named after", "[X] was first released in the year"),
    "P264": ("[X] was born in", "[X] plays the instrument"),
    "P276": ("[X] was named after", "[X] was designed by"),
    "P407": ("The author of [X] is", "[X] was first published in the year"),
}


def relations(data: Data) -> Iterator[Case | None]:
    """ParaRel's held-out relations: an edit by one pattern, asked by the others."""
    forms = defaultdict(list)
    for row in data.rows("pararel/patterns.jsonl"):
        pattern = row["pattern"].strip().rstrip(". ")
        if pattern.endswith("[Y]") and pattern.startswith("[X]"):
            forms[row["relation"]].append(pattern.removesuffix("[Y]").strip())
    taken: Counter[str] = Counter()
    for row in data.rows("pararel/triples_scope_train.jsonl", "dev"):
        relation = row["relation"]
        if (
            relation not in OTHERWISE
            or relation not in data.split["held_out_relations"]
            or not forms[relation]
        ):
            continue
        taken[relation] += 1
        if taken[relation] > 80:
            continue
        subject = row["sub_label"]
        own, *others = dict.fromkeys(f.replace("[X]", subject) for f in forms[relation])
        queries = [Query(own, "own"), *(Query(q, "paraphrase") for q in others)]
        queries += [Query(q.replace("[X]", subject), "same_subject") for q in OTHERWISE[relation]]
        yield make("pararel", queries, relation, prompt=own, target=row["obj_label"], subject=subject)


def crowded(data: Data, size: int = 10_000) -> Iterator[Case | None]:
    """CounterFact-Hard among many other edits, none of them about its subjects."""
    cases = [case for case in hard(data, told=True) if case]
    busy = {case.edit.subject for case in cases}
    for case in cases:
        kept = tuple(q for q in case.queries if q.kind != "neighbour")  # a filler may answer those
        yield Case(case.edit, kept, case.source)
    forms = {relation: form for form, relation in prompts_of(data).items()}
    room = size - len(cases)
    others = [*counterfact(data, "dev"), *wiki(data, "dev"), *zsre(data, "dev"), *pokemqa(data, "dev")]
    for case in (*others, *_triples(data, forms)):
        if case and room and case.edit.subject not in busy:
            room -= 1
            yield Case(case.edit, (), case.source)


def _triples(data: Data, forms: dict[str, str]) -> Iterator[Case | None]:
    for row in data.rows("pararel/triples_scope_train.jsonl", "dev"):
        if row["relation"] in forms:
            prompt = forms[row["relation"]].replace("[X]", row["sub_label"])
            query = [Query(prompt, "own")]
            yield make("pararel", query, prompt=prompt, target=row["obj_label"], subject=row["sub_label"])


def users(data: Data) -> Iterator[Case | None]:
    """Every other Natural Questions row as an edit without a subject, asked in its own and in other words."""
    rng = random.Random(0)
    for question, answers in questions(data, "dev")[::2]:
        queries = [Query(question, "own"), *(Query(q, "paraphrase") for q in reworded(question))]
        queries.append(Query(slip(question, rng), "paraphrase"))
        yield make("nq", queries, prompt=question, target=answers[0])


def latest(cases: Iterator[Case | None]) -> list[Case]:
    """Of edits that share a question the last one: the data gives several answers to it."""
    kept: dict[str, Case] = {}
    for case in cases:
        if case:
            for query in case.queries:
                kept[query.text] = case
    whole = {id(c): c for c in kept.values() if all(kept[q.text] is c for q in c.queries)}
    return list(whole.values())


def without_aliases(cases: Iterator[Case | None]) -> Iterator[Case | None]:
    for case in cases:
        if case:
            yield Case(case.edit.updated(subject_aliases=()), case.queries, case.source, case.relation)


SETS: dict[str, Callable[[Data], Iterable[Case | None]]] = {
    "counterfact_hard_dev, statement only": lambda data: hard(data, told=False),
    "counterfact_hard_dev, subject given": lambda data: hard(data, told=True),
    "zsre dev": lambda data: zsre(data, "dev"),
    "wiki_counterfact + wiki_recent dev": lambda data: wiki(data, "dev"),
    "the same, no alias on the edit": lambda data: without_aliases(wiki(data, "dev")),
    "pokemqa dev": lambda data: latest(pokemqa(data, "dev")),
    "eight held-out ParaRel relations": relations,
    "counterfact-val, first 1 000": lambda data: validation(data, 1_000),
    "counterfact-val, all": lambda data: validation(data, None),
    "NQ dev rows as edits, reworded by rule": users,
    "counterfact_hard_dev among 10 000 edits": crowded,
    "counterfact-train dev part": lambda data: counterfact(data, "dev"),
}


@dataclass
class Asked:
    """A query with what a decision rule made of it: its best edit and that edit's score."""

    query: Query
    home: int  # its edit's place in memory, -1 for general questions
    best: int = -1
    score: float = -np.inf

    def right(self, threshold: float) -> bool:
        fired = self.score >= threshold
        return fired and self.best == self.home if self.query.kind in IN_SCOPE else not fired


def measure(asked: Sequence[Asked], threshold: float) -> dict[str, float]:
    """Shares of hits and false fires by kind, and balanced (general questions apart)."""
    kinds = defaultdict(list)
    for one in asked:
        kinds[one.query.kind].append(one.right(threshold))
    out = {kind: float(np.mean(v) if kind in IN_SCOPE else 1 - np.mean(v)) for kind, v in kinds.items()}
    near = [k for k in kinds if k not in IN_SCOPE and k != "general"] or ["general"]
    hits = np.mean([r for k in kinds if k in IN_SCOPE for r in kinds[k]])
    quiet = np.mean([r for k in near for r in kinds[k]])
    return {**out, "balanced": float(hits + quiet) / 2}


def best_threshold(asked: Sequence[Asked]) -> float:
    """Where hits and all false fires, general ones too, balance best on these very queries."""
    scores = np.array([one.score for one in asked])
    inside = np.array([one.query.kind in IN_SCOPE for one in asked])
    right = np.array([one.best == one.home for one in asked])
    cuts = np.unique(np.quantile(scores[np.isfinite(scores)], np.linspace(0, 1, 400)))
    gains = [np.mean((scores >= c)[inside] & right[inside]) + np.mean((scores < c)[~inside]) for c in cuts]
    return float(cuts[int(np.argmax(gains))])


class BM25:
    """Okapi BM25 over an edit's statement, prompt and names (k1 1.5, b .75)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.where: dict[str, dict[int, float]] = defaultdict(dict)
        lengths = np.array([len(content(t)) for t in texts])
        for i, text in enumerate(texts):
            for word in content(text):
                self.where[word][i] = 2.5 / (1 + 1.5 * (0.25 + 0.75 * lengths[i] / lengths.mean()))
        self.count = len(texts)

    def best(self, query: str) -> tuple[int, float]:
        scores: dict[int, float] = defaultdict(float)
        for word in content(query):
            found = self.where.get(word, {})
            rarity = np.log(1 + (self.count - len(found) + 0.5) / (len(found) + 0.5))
            for i, gain in found.items():
                scores[i] += rarity * gain
        return max(scores.items(), key=lambda item: item[1], default=(-1, 0.0))


def judged(
    classifier: ScopeClassifier, shelf: Shelf, queries: Sequence[str], nearest: int
) -> list[tuple[int, float]]:
    """The edit with the highest probability for each query, by the interface that the router uses."""
    out = []
    for start in range(0, len(queries), 512):
        some = queries[start : start + 512]
        vectors = classifier.encode(some)
        found = shelf.candidates(some, vectors, nearest)
        edits = [[shelf.cases[i].edit for i in row] for row in found]
        pairs = classifier.judge(some, vectors, edits, [shelf.vectors[row] for row in found])
        for row, probability in zip(found, pairs, strict=True):
            top = int(np.argmax(probability[:, 0]))
            out.append((row[top], float(probability[top, 0])))
    return out


def table(classifier: ScopeClassifier, data: Data, nearest: int, only: str = "") -> list[dict[str, Any]]:
    """One row of measurements for each set."""
    general = [Query(text, "general") for text, _ in questions(data, "dev")]
    rows = []
    for name, reader in track(
        [s for s in SETS.items() if only in s[0]], "development sets", console=Console(stderr=True)
    ):
        cases = [case for case in reader(data) if case]
        pairs = {(q, i) for i, case in enumerate(cases) for q in case.queries if q.kind != "general"}
        order = sorted(pairs, key=lambda pair: (pair[1], pair[0].kind, pair[0].text))
        taken = {query.text for query, _ in order}
        order += [(query, -1) for query in general if query.text not in taken]
        texts = [query.text for query, _ in order]
        shelf = Shelf(cases, classifier)
        index = BM25([f"{c.edit.statement} {' '.join(c.edit.names)}" for c in cases])
        cosines = classifier.encode(texts) @ shelf.keys.T
        answers = {
            "memedit": judged(classifier, shelf, texts, nearest),
            "BM25": [index.best(text) for text in texts],
            "cosine": list(zip(cosines.argmax(axis=1).tolist(), cosines.max(axis=1).tolist(), strict=True)),
        }
        row: dict[str, Any] = {
            "set": name,
            "edits": len(cases),
            "queries": dict(Counter(q.kind for q, _ in order)),
        }
        for rule, found in answers.items():
            asked = [Asked(query, home, *top) for (query, home), top in zip(order, found, strict=True)]
            threshold = classifier.threshold(len(cases)) if rule == "memedit" else best_threshold(asked)
            row[rule] = {"threshold": threshold, **measure(asked, threshold)}
            if rule == "memedit":
                row["calibration_error"] = calibration_error(asked)
                row["asked"] = asked
        rows.append(row)
    return rows


def calibration_error(asked: Sequence[Asked], bins: int = 15) -> float:
    """Expected calibration error of the top candidate, among those with p > .01, equal-mass bins."""
    seen = sorted((a.score, a.query.kind in IN_SCOPE and a.best == a.home) for a in asked if a.score > 0.01)
    parts = np.array_split(np.array(seen, dtype=float), bins)
    return float(
        sum(len(p) * abs(p[:, 0].mean() - p[:, 1].mean()) for p in parts if len(p)) / max(len(seen), 1)
    )


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A reliability diagram over all sets, and hits against false fires for each, the own threshold marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    asked = [one for row in rows for one in row["asked"] if one.score > 0.01]
    order = sorted(asked, key=lambda one: one.score)
    for part in np.array_split(np.arange(len(order)), 20):
        some = [order[i] for i in part]
        true = np.mean([one.query.kind in IN_SCOPE and one.best == one.home for one in some])
        left.plot(np.mean([one.score for one in some]), true, "o", color="C0")
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    left.set(
        xlabel="probability of the top candidate", ylabel="share in scope", title="Reliability, all sets"
    )
    for row in rows:
        inside = [one for one in row["asked"] if one.query.kind in IN_SCOPE]
        outside = [one for one in row["asked"] if one.query.kind not in (*IN_SCOPE, "general")]
        if not outside:
            continue
        cuts = np.linspace(0.02, 0.999, 120)
        hits, fires = (
            [np.mean([f(one, cut) for one in some]) for cut in cuts]
            for some, f in ((inside, _hit), (outside, _fire))
        )
        (line,) = right.plot(100 * np.array(fires), 100 * np.array(hits), label=row["set"], linewidth=1.2)
        own = row["memedit"]["threshold"]
        dot = [100 * np.mean([f(one, own) for one in some]) for some, f in ((outside, _fire), (inside, _hit))]
        right.plot(*dot, "o", color=line.get_color())
    right.set(xlim=(0, 20), ylim=(70, 100.5), xlabel="false fires, near queries (%)", ylabel="hits (%)")
    right.set_title("Hits against false fires (dot: own threshold)")
    right.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=90)


def _hit(one: Asked, cut: float) -> bool:
    return one.score >= cut and one.best == one.home


def _fire(one: Asked, cut: float) -> bool:
    return one.score >= cut


COLUMNS = ("own", "paraphrase", "alias", "neighbour", "same_subject", "ripple", "general", "balanced")


def show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps([{k: v for k, v in row.items() if k != "asked"} for row in rows], indent=1))
        return
    console = Console(width=150)
    printed = Table("set (edits in memory)", "rule", *COLUMNS, "threshold")
    for row in rows:
        for rule in ("memedit", "BM25", "cosine"):
            cells = [f"{100 * row[rule][c]:.1f}" if c in row[rule] else "" for c in COLUMNS]
            name = f"{row['set']} ({row['edits']:,})" if rule == "memedit" else ""
            printed.add_row(name, rule, *cells, f"{row[rule]['threshold']:.3f}")
        printed.add_section()
    console.print(printed)
    console.print(
        "In percent. own, paraphrase, alias: hits; neighbour, same_subject, ripple, general: false fires."
    )
