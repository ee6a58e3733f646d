"""What was written for the public data's train parts: forms of questions, and users' questions, in other words."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scope_data import Data

FORMS = Path(__file__).parent / "form_paraphrases.jsonl"
QUESTIONS = Path(__file__).parent / "question_paraphrases.jsonl"
# The same of other questions, which nothing learns from: probabilities are calibrated by them.
KEPT_QUESTIONS = Path(__file__).parent / "question_calibration.jsonl"


def number_of(form: str) -> int:
    """The number that FORMS has for a form, with [X] for its subject."""
    return int(hashlib.sha256(form.encode()).hexdigest()[:8], 16)


def forms() -> dict[int, dict[str, list[str]]]:
    """What FORMS holds of each form, by its number: "asks", "claims", "not"."""
    out: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in map(json.loads, FORMS.read_text(encoding="utf-8").splitlines()):
        for kind in ("asks", "claims", "not"):
            out[row["of"]][kind] += row.get(kind, ())
    return out


@dataclass(frozen=True)
class Question:
    """A user's question with its answers; in other words; as a statement; and what is near and another question."""

    text: str
    answers: tuple[str, ...]
    asks: tuple[str, ...]
    says: str
    near: tuple[str, ...]


def questions(data: Data, file: Path = QUESTIONS) -> Iterator[Question]:
    """All of a file such as QUESTIONS that have an answer."""
    nq = data.rows("general_qa/nq_open_dev_clean.jsonl")
    webq = data.rows("general_qa/webquestions.json")
    for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        found = nq[row["row"]] if row["file"] == "nq" else webq[row["row"]]
        text, answers = (
            (found["question"], found["answer"])
            if row["file"] == "nq"
            else (found["qText"], found["answers"])
        )
        if answers:
            yield Question(text, tuple(answers), tuple(row["asks"]), row["says"], tuple(row["not"]))
