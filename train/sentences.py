"""The running text that ships: short sentences of facts in our own words, from which key covariances are estimated.

    python train/sentences.py > memedit/pretrained/text/sentences.txt

Facts are those of base_facts.jsonl, stated by the forms of relations/ (which are ours) where the relation has some; questions
end in the answer. Each fact is stated once, by a form drawn by seed. The file that ships was
made with an earlier, smaller set of forms.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from pathlib import Path

from counterfactual_bank import read

HERE = Path(__file__).parent


def sentences(n: int = 6000, seed: int = 0) -> list[str]:
    """n sentences, in no order."""
    rng = random.Random(seed)
    ours: dict[str, list[str]] = defaultdict(list)
    for found in read():
        ours[found.number] += found.forms
    facts = [json.loads(line) for line in (HERE / "base_facts.jsonl").open()]
    out = []
    for relation, subject, obj in rng.sample(facts, len(facts)):
        if relation and ours.get(relation):
            said = rng.choice(ours[relation]).replace("[X]", subject)
            out.append(re.sub(r"\s+", " ", f"{said} {obj}.").strip())
    return out[:n]


if __name__ == "__main__":
    print("\n".join(sentences()))
