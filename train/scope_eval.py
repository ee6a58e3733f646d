"""The table of the card: hits and false fires on development parts, beside BM25 and plain cosine.

For every set all its edits are in memory at once, and nothing else (`memedit eval scope` fills memories up). `hit`:
the right edit fired, and before all others. Out of scope, any edit that fires is a false fire. memedit decides with
its own threshold for that memory's size; each baseline with the threshold that is best on the very queries it is
scored on, which flatters it. Readers of the train part's formats and what only the card has are here; judges, scores
and the other readers are memedit.scope_eval's.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scope_data import Case, Data, Query, counterfact, make, pokemqa, prompts_of, questions, wiki, zsre
from scope_forms import slip
from scope_users import reworded

import memedit.data
from memedit.scope import ScopeClassifier
from memedit.scope_eval import facts, public
from memedit.scope_eval.cases import NEAR, ScopeCase, asked
from memedit.scope_eval.crowd import Crowd, Remembered
from memedit.scope_eval.judges import BM25, Classifier, Cosine, Judge
from memedit.scope_eval.run import World, ask
from memedit.scope_eval.scores import Asked, balanced, best_threshold, calibration_error, rates

NEAR_OR_RIPPLE = (*NEAR, "ripple")  # this classifier knows no ripple: what fires on one counts against it


def hard(data: Data, told: bool) -> Iterator[ScopeCase]:
    return public.hard(public.Public(data.folder), told)


def relations(data: Data) -> Iterator[ScopeCase]:
    return facts.relations(public.Public(data.folder), held_out=True)


def known(cases: Iterable[Case | None]) -> Iterator[ScopeCase]:
    """Cases of the training's readers as the scores want them."""
    for case in cases:
        if case:
            queries = tuple(asked(query.kind, query.text) for query in case.queries)
            yield ScopeCase(memedit.data.Case("", case.edit, queries), case.edit.names, case.relation)


def validation(data: Data, count: int | None) -> Iterator[Case | None]:
    """CounterFact's validation part as it is imported end to end: repeats of (subject, prompt) taken out."""
    seen = set()
    for row in data.rows("counterfact/counterfact-val.json")[:count]:
        if (row["subject"], row["prompt"]) not in seen:
            seen.add((row["subject"], row["prompt"]))
            queries = [Query(row["prompt"], "own"), Query(row["locality_prompt"], "neighbour")]
            edit = {"prompt": row["prompt"], "target": row["target_new"], "subject": row["subject"]}
            yield make("counterfact-val", queries, **edit)


def crowded(data: Data, size: int = 10_000) -> Iterator[ScopeCase]:
    """CounterFact-Hard among many other edits, none of them about its subjects."""
    cases = list(hard(data, told=True))
    busy = {case.edit.subject for case in cases}
    for case in cases:
        kept = [q for q in case.case.queries if q.label != "neighbour"]  # a filler may answer those
        yield ScopeCase(memedit.data.Case("", case.edit, tuple(kept)), case.about)
    forms = {relation: form for form, relation in prompts_of(data).items()}
    room = size - len(cases)
    others = [*counterfact(data, "dev"), *wiki(data, "dev"), *zsre(data, "dev"), *pokemqa(data, "dev")]
    for case in (*others, *_triples(data, forms)):
        if case and room and case.edit.subject not in busy:
            room -= 1
            yield ScopeCase(memedit.data.Case("", case.edit, ()), case.edit.names)


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


SETS: dict[str, Callable[[Data], Iterable[ScopeCase]]] = {
    "counterfact_hard_dev, statement only": lambda data: hard(data, told=False),
    "counterfact_hard_dev, subject given": lambda data: hard(data, told=True),
    "zsre dev": lambda data: known(zsre(data, "dev")),
    "wiki_counterfact + wiki_recent dev": lambda data: known(wiki(data, "dev")),
    "the same, no alias on the edit": lambda data: known(without_aliases(wiki(data, "dev"))),
    "pokemqa dev": lambda data: known(latest(pokemqa(data, "dev"))),
    "eight held-out ParaRel relations": relations,
    "counterfact-val, first 1 000": lambda data: known(validation(data, 1_000)),
    "counterfact-val, all": lambda data: known(validation(data, None)),
    "NQ dev rows as edits, reworded by rule": lambda data: known(users(data)),
    "counterfact_hard_dev among 10 000 edits": crowded,
    "counterfact-train dev part": lambda data: known(counterfact(data, "dev")),
}


def world(cases: Sequence[ScopeCase], general: Sequence[str], classifier: ScopeClassifier) -> World:
    """All edits of a set in one memory, with all queries put to it."""
    texts = [text for case in cases for text in classifier.texts(case.edit)]
    vectors = classifier.encode(texts).astype(np.float16).reshape(len(cases), -1, classifier.dim)
    own = [
        (t, kind, i if kind != "general" else -1) for i, case in enumerate(cases) for t, kind in case.queries
    ]
    taken = {text for text, kind, _ in own if kind != "general"}
    queries = [query for query in own if query[1] != "general"]
    queries += [(text, "general", -1) for text in general if text not in taken]
    return World(Crowd([case.edit for case in cases], vectors), tuple(queries))


def table(classifier: ScopeClassifier, data: Data, only: str = "") -> list[dict[str, Any]]:
    """One row of measurements for each set."""
    general = [text for text, _ in questions(data, "dev")]
    classifier.encoder = Remembered(classifier.encoder, None)  # sets share many texts
    judges: list[Judge] = [
        Classifier(classifier),
        BM25("BM25", classifier.encode),
        Cosine("cosine", classifier.encode),
    ]
    rows = []
    for name, reader in track(
        [s for s in SETS.items() if only in s[0]], "development sets", console=Console(stderr=True)
    ):
        memory = world(list(reader(data)), general, classifier)
        kinds = Counter(kind for _, kind, _ in memory.queries)
        row: dict[str, Any] = {"set": name, "edits": len(memory.crowd), "queries": dict(kinds)}
        for judge in judges:
            said = ask(judge, [memory])
            own = judge.threshold(len(memory.crowd))
            threshold = best_threshold(said) if own is None else own
            shares = {"balanced": balanced(said, threshold, NEAR_OR_RIPPLE), **rates(said, threshold)}
            row[judge.name] = {"threshold": threshold, **shares}
            if own is not None:
                row |= {"calibration_error": calibration_error(said), "asked": said}
        rows.append(row)
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A reliability diagram over all sets, and hits against false fires for each, the own threshold marked."""
    from matplotlib.figure import Figure

    from memedit.scope_eval.scores import reliability

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = np.array(reliability(Asked.joined([row["asked"] for row in rows]), bins=20))
    left.plot(found[:, 0], found[:, 1], "o", color="C0")
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    left.set(
        xlabel="probability of the top candidate", ylabel="share in scope", title="Reliability, all sets"
    )
    for row in rows:
        said: Asked = row["asked"]
        near = np.isin(said.kind, NEAR_OR_RIPPLE)
        if not near.any():
            continue
        cuts = np.append(np.linspace(0.02, 0.999, 120), row["memedit"]["threshold"])
        hits = [100 * (said.own() >= cut)[said.inside].mean() for cut in cuts]
        fires = [100 * (said.score >= cut)[near].mean() for cut in cuts]
        (line,) = right.plot(fires[:-1], hits[:-1], label=row["set"], linewidth=1.2)
        right.plot(fires[-1], hits[-1], "o", color=line.get_color())
    right.set(xlim=(0, 20), ylim=(70, 100.5), xlabel="false fires, near queries (%)", ylabel="hits (%)")
    right.set_title("Hits against false fires (dot: own threshold)")
    right.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=90)


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
