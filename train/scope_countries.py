"""Cases over the World Factbook's fields, under invented names of countries."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator

from scope_data import Case, Data, Query, make

from memedit.subjects import content


def factbook(data: Data, rng: random.Random, count: int) -> Iterator[Case | None]:
    """The World Factbook's fields under invented names of countries, since real ones are for development only."""
    fields = set()
    for row in data.rows("corpora/factbook.jsonl"):
        for title, text in row["facts"]:
            name = re.sub(r"\s*[-(:].*", "", title.split(" > ")[1]).strip().lower()
            if 3 < len(name) < 40 and len(text) < 60:
                fields.add((name, text.split(";")[0].split("(")[0].strip()))
    known = defaultdict(list)
    for name, text in sorted(fields):
        if text:
            known[name].append(text)
    names = sorted(known)
    for _ in range(count):
        subject, field = _country(rng), rng.choice(names)
        forms = (
            f"The {field} of {subject} is",
            f"{subject}'s {field} is",
            f"What is the {field} of {subject}?",
            f"{subject} {field}",
        )
        own, *rest = rng.sample(forms, 4)
        others = [f for f in rng.sample(names, 3) if not content(f) & content(field)]
        queries = [Query(own, "own"), *(Query(q, "paraphrase") for q in rest[:2])]
        queries += [Query(f"What is the {f} of {subject}?", "same_subject", f) for f in others]
        queries.append(Query(f"What is the {field} of {_country(rng)}?", "neighbour"))
        yield make("factbook", queries, field, prompt=own, target=rng.choice(known[field]), subject=subject)


def _country(rng: random.Random) -> str:
    parts = [
        "ka",
        "lo",
        "mar",
        "ve",
        "sun",
        "tor",
        "bel",
        "ni",
        "da",
        "gor",
        "ish",
        "pa",
        "ru",
        "sel",
        "van",
        "mi",
        "ost",
        "qua",
        "zen",
    ]
    name = "".join(rng.sample(parts, rng.randint(2, 3))).capitalize() + rng.choice(
        ["ia", "land", "stan", "", "o", "any"]
    )
    return rng.choice(["", "", "", "Republic of ", "New ", "Saint ", "South "]) + name
