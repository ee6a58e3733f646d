"""Edits of facts that the shipped base was taught, for `memedit bench methods`: one JSON object a line.

Each is an edit of CounterFact's validation part (its prompt, its new target) whose true fact stands in base_facts.jsonl,
with ParaRel's other patterns of the relation as paraphrases, the one that was never trained first, and the same prompt
asked of neighbours, subjects that share the true object first. Whether the base really answers is for the bench to see:
it asks. Where CounterFact's edits do not suffice, triples with ParaRel's patterns and another object fill up.

    python train/known_facts.py --data ../shared/data --n 600 > known.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from base_data import Fact, Knowledge

NEIGHBOURS = 5


def edits(k: Knowledge, n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """At most n edits, CounterFact's first; no subject twice."""
    rng = random.Random(seed)
    known = {(f.subject, f.obj): f for f in k.facts}
    rows = json.loads((k.data / "counterfact/counterfact-val.json").read_text())
    seen: set[str] = set()
    for row in rows:
        fact = known.get((row["subject"], row["ground_truth"]))
        named = row["prompt"].count(row["subject"]) == 1
        if fact and named and row["subject"] not in seen and len(seen) < n:
            seen.add(row["subject"])
            yield _edit(k, fact, row["prompt"].replace(row["subject"], "[X]"), row["target_new"], rng)
    for fact in rng.sample(k.facts, len(k.facts)):
        others = [o for o in k.objects[fact.relation] if o != fact.obj]
        if fact.subject not in seen and others and len(seen) < n:
            seen.add(fact.subject)
            yield _edit(k, fact, rng.choice(k.trained[fact.relation]), rng.choice(others), rng)


def _edit(k: Knowledge, fact: Fact, template: str, target: str, rng: random.Random) -> dict[str, Any]:
    held = [k.held_out[fact.relation]] if fact.relation in k.held_out else []
    same = [f for f in k.facts if f.relation == fact.relation and f.subject != fact.subject]
    near = [f for f in same if f.obj == fact.obj]
    far = [f for f in same if f.obj not in (fact.obj, target)]
    chosen = rng.sample(near, min(NEIGHBOURS, len(near)))
    chosen += rng.sample(far, min(NEIGHBOURS - len(chosen), len(far)))
    return {
        "prompt": template.replace("[X]", fact.subject),
        "target": target,
        "subject": fact.subject,
        "old": fact.obj,
        "relation": fact.relation,
        "paraphrases": [p.replace("[X]", fact.subject) for p in held],
        "locality": [template.replace("[X]", f.subject) for f in chosen],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n", type=int, default=600)
    given = parser.parse_args()
    knowledge = Knowledge(given.data, Path(__file__).with_name("base_facts.jsonl"))
    for edit in edits(knowledge, given.n):
        print(json.dumps(edit, ensure_ascii=False))
