"""The cases of ConflictEdit and RoundEdit with all that their published scores compare: arXiv 2310.02129.

The readers of `memedit.data` take the same files as edits and queries; the scores of `pitfalls.py` also need the facts before
the second edit, the relations' other forms, and the other answers that were true.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memedit.edit import Edit
from memedit.errors import DataError, EditError

FILES = {
    "coverage": "coverage_edit.json", "reverse": "reverse_edit.json", "composite": "composite_edit.json",
    "easy": "easy.json", "hard": "hard.json",
}  # fmt: skip
ROUNDS = ("easy", "hard")


@dataclass(frozen=True, slots=True)
class Probe:
    """One fact as it is asked for: its prompt, then the relation's other forms; and an answer to it."""

    prompts: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Pitfall:
    """One case.

    Attributes:
        kind: a key of `FILES`. first, second: its edits, in their order. probes: by name, whose probabilities are compared:
            "old" and "new"; of a composite "tied"; of a round also "other 0", "other 1", ... the other true answers.
        asked: the probe that the second edit answers.
    """

    kind: str
    case: str
    first: Edit
    second: Edit
    probes: Mapping[str, Probe]
    asked: Probe


@dataclass
class Read:
    """The cases of one file, and how many were left out since they contradict an earlier one or can't be an edit."""

    cases: list[Pitfall] = field(default_factory=list)
    left_out: int = 0


def read(folder: Path, kind: str, limit: int | None = None, forms: int = 3) -> Read:
    """The cases of a kind, from the published files.

    Args:
        forms: of each relation, so many other forms beside its prompt.

    Raises:
        DataError: no such file, or another one than the published.
    """
    path = folder / FILES[kind]
    prompts = _json(folder / ("round_prompts.json" if kind in ROUNDS else "conflict_prompts.json"))
    out, seen = Read(), set[str]()
    for number, record in enumerate(_json(path)):
        try:
            case = (_round if kind in ROUNDS else _conflict)(kind, f"{kind}-{number}", record, prompts, forms)
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{path} record {number + 1} is no record of {kind}: {error!r} is missing"
            ) from None
        except EditError:  # such as a target that is the old answer
            out.left_out += 1
            continue
        keys = {key for edit in (case.first, case.second) for key in edit.keys}
        if keys & seen:
            out.left_out += 1
            continue
        seen |= keys
        out.cases.append(case)
        if len(out.cases) == limit:
            break
    return out


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} can't be read: {why}; name the folder of the published files") from None


def _edit(record: Mapping[str, Any], target: str, old: str) -> Edit:
    subject = record["subject"]["label"]
    return Edit(
        prompt=record["relation"]["prompt"].replace("{}", subject),
        target=record[target]["label"],
        subject=subject,
        old=record[old]["label"],
        relation=record["relation"]["id"],
    )


def _conflict(kind: str, name: str, record: Any, prompts: Any, forms: int) -> Pitfall:
    one, two = record["edits"]
    first = _edit(one, "new_object", "object")
    second = _edit(two, "new_object", "true_object" if "true_object" in two else "object")
    asked = _probe(two, two["new_object"]["label"], prompts, forms)
    probes = {"old": _probe(one, one["new_object"]["label"], prompts, forms)}
    if kind == "coverage":
        probes["new"] = asked
    elif kind == "reverse":  # whom the second edit names, asked for by the first one's relation
        turned = {**one, "subject": two["new_object"]}
        probes["new"] = _probe(turned, one["new_object"]["label"], prompts, forms)
    else:
        probes["new"] = _probe(one, two["new_object"]["label"], prompts, forms)
        tied = record["triples"][record["prerequisites"][0]]
        probes["tied"] = _probe(tied, tied["object"]["label"], prompts, forms)
    return Pitfall(kind, name, first, second, probes, asked)


def _round(kind: str, name: str, record: Any, prompts: Any, forms: int) -> Pitfall:
    edit = record["edit"]
    first, second = _edit(edit, "new_object", "object"), _edit(edit, "object", "new_object")
    asked = _probe(edit, edit["object"]["label"], prompts, forms)
    probes = {"new": _probe(edit, edit["new_object"]["label"], prompts, forms), "old": asked}
    others = [o["label"] for o in record["true_objects"] if o["label"] != edit["object"]["label"]]
    for i, other in enumerate(others):
        probes[f"other {i}"] = _probe(edit, other, prompts, forms)
    return Pitfall(kind, name, first, second, probes, asked)


def _probe(record: Mapping[str, Any], target: str, prompts: Any, forms: int) -> Probe:
    relation, subject = record["relation"], record["subject"]["label"]
    own = [relation["prompt"], *prompts.get(relation["id"], ())[:forms]]
    return Probe(tuple(dict.fromkeys(form.replace("{}", subject).strip() for form in own)), target)
