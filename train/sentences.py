"""The running text that ships: short sentences of facts in our own words, from which key covariances are estimated.

    python train/sentences.py > memedit/pretrained/text/sentences.txt

Facts are those of base_facts.jsonl, stated by the forms of scope_relations.txt (which are ours) where the relation has
some; questions end in the answer. Each fact is stated once, by a form drawn by seed.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent


def forms(text: str) -> dict[str, list[str]]:
    """ParaRel's relation id -> our forms."""
    found: dict[str, list[str]] = defaultdict(list)
    relation = ""
    for line in text.splitlines():
        if "|" in line:
            parts = [part.strip() for part in line.split("|")]
            relation = parts[2] if len(parts) > 2 else ""
        elif line.strip() and not line.startswith("#") and relation:
            found[relation].append(line.strip())
    return found


def sentences(n: int = 6000, seed: int = 0) -> list[str]:
    """n sentences, in no order."""
    rng = random.Random(seed)
    ours = forms((HERE / "scope_relations.txt").read_text())
    facts = [json.loads(line) for line in (HERE / "base_facts.jsonl").open()]
    out = []
    for relation, subject, obj in rng.sample(facts, len(facts)):
        if ours.get(relation):
            said = rng.choice(ours[relation]).replace("[X]", subject)
            out.append(re.sub(r"\s+", " ", f"{said} {obj}.").strip())
    return out[:n]


if __name__ == "__main__":
    print("\n".join(sentences()))
