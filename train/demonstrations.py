"""Makes the demonstrations that ship for the method `ike`: pretrained/demonstrations/facts.jsonl.

    python train/demonstrations.py --data ../shared/data

Eight new facts of each relation below, all of invented subjects, so that nothing false is said of anybody, with an
object of the relation, asked by our own wordings. Each stands beside two true facts of the relation that the shipped
base knows; their subjects are no dev subjects and of no set that only tests. Everything is chosen by hash, so that a
new run writes the same file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from base_data import QUESTIONS, Fact, Knowledge, _order

from memedit.demonstrations import SHIPPED

PER_RELATION = 8
NEIGHBOURS = 2
# Our own wordings, the object at the end.
PROMPTS = {
    "P17": "[X] is a place in the country of", "P19": "The birthplace of [X] is",
    "P27": "[X] is a citizen of", "P30": "The continent of [X] is", "P36": "The capital city of [X] is",
    "P37": "People in [X] officially speak", "P101": "The field that [X] works in is",
    "P103": "The mother tongue of [X] is", "P106": "By profession, [X] is a", "P108": "The employer of [X] is",
    "P127": "The owner of [X] is", "P131": "[X] can be found in", "P136": "The genre of [X] is",
    "P138": "[X] got its name from", "P159": "The head office of [X] is in",
    "P176": "The maker of [X] is", "P178": "The developer of [X] is", "P364": "The original language of [X] is",
    "P407": "The language of [X] is", "P413": "The position that [X] plays is", "P449": "The channel that first aired [X] is",
    "P495": "The country that [X] comes from is", "P740": "The place where [X] began is",
    "P937": "The city where [X] worked is",
    "P1303": "The instrument that [X] plays is", "P1412": "The language that [X] speaks is",
}  # fmt: skip
_BEGIN = (
    "Ar Bel Cor Dal Er Fen Gal Hol Il Jor Kel Lan Mor Nev Os Per Quel Ros Sel Tor Ul Ver Wen Yor Zel".split()
)
_END = "a bury den dor eth field ford gate ham ia ine mar mond or ova ric stad ton vale wick".split()


def invented(key: str) -> str:
    """A name of two words, of nobody and nothing, the same for the same key."""
    number = int(_order(key), 16)
    names = []
    for _ in range(2):
        number, begin = divmod(number, len(_BEGIN))
        number, end = divmod(number, len(_END))
        names.append(_BEGIN[begin] + _END[end])
    return " ".join(names)


def demonstrations(knowledge: Knowledge) -> list[dict[str, object]]:
    """One line for each fact, as `memedit demos build` takes them."""
    out = []
    for relation, prompt in PROMPTS.items():
        facts = sorted(
            (f for f in knowledge.facts if f.relation == relation and knowledge.is_open(f.subject)),
            key=lambda f: _order(f"{f.relation} {f.subject}"),
        )
        objects = sorted({f.obj for f in facts}, key=_order)
        for place in range(PER_RELATION):
            subject = invented(f"{relation} {place}")
            new = objects[place % len(objects)]
            beside = [f for f in facts[NEIGHBOURS * place :] if f.obj != new and f.obj not in f.subject]
            out.append(_line(prompt, Fact(relation, subject, new), beside[:NEIGHBOURS]))
    return out


def _line(prompt: str, fact: Fact, beside: list[Fact]) -> dict[str, object]:
    asked = prompt.replace("[X]", fact.subject)
    forms = [prompt, QUESTIONS[fact.relation][0]]
    return {
        "prompt": asked,
        "target": fact.obj,
        "statement": f"{asked} {fact.obj}.",
        "subject": fact.subject,
        "paraphrases": [question.replace("[X]", fact.subject) for question in QUESTIONS[fact.relation]],
        "neighbours": [
            {"prompt": form.replace("[X]", f.subject), "answer": f.obj}
            for form, f in zip(forms, beside, strict=True)
        ],
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the public data sets")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    args = parser.parse_args()
    lines = demonstrations(Knowledge(args.data, Path(__file__).parent / "base_facts.jsonl"))
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    print(f"{len(lines)} facts in {args.out}")


if __name__ == "__main__":
    main()
