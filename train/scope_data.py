"""Cases for the scope classifier: an edit, queries that ask for it, queries that only look so.

Every reader takes rows of one public set by splits.json's parts and gives `Case`s. Rows whose subject occurs in a
set that is only for development are dropped from the train part.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from memedit.errors import DataError
from memedit.scope_eval.known import alias, shared
from memedit.subjects import fold, guesses
from memedit.training.cases import Case, Query, chance, make
from memedit.training.examples import unchanged

Part = Literal["train", "dev"]
ANEW = "start anew with another --work"


@dataclass
class Data:
    """The folder of public data, its split, and the subjects that training must not see."""

    folder: Path
    split: dict[str, Any] = field(init=False)
    digests: dict[str, str] = field(init=False, default_factory=dict)  # of every file that was read: sha256
    reserved: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise DataError(f"there is no folder {self.folder}; name that of the public data with --data")
        self.split = self._parsed("splits.json")
        self.reserved = frozenset(fold(s).strip() for s in self._dev_only_subjects())

    def rows(self, name: str, part: Part | None = None) -> list[dict[str, Any]]:
        """The rows of a file, JSON or JSON lines; with a part, those that splits.json gives to it."""
        found = self._parsed(name)
        return [found[i] for i in self.split[name][part]] if part else found

    def text(self, name: str) -> str:
        """A file's text; its digest is kept.

        Raises:
            DataError: it can't be read.
        """
        try:
            raw = (self.folder / name).read_bytes()
            self.digests.setdefault(name, hashlib.sha256(raw).hexdigest())
            return raw.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"can't read {self.folder / name}: {reason}") from None

    def unchanged(self) -> None:
        """See that all files that were read still are what they were.

        Raises:
            DataError: which one changed.
        """
        unchanged({str(self.folder / name): digest for name, digest in self.digests.items()}, ANEW)

    def _parsed(self, name: str) -> Any:
        text = self.text(name)
        try:
            return (
                [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
            )
        except ValueError as error:
            raise DataError(f"{self.folder / name} is no JSON: {error}") from None

    def free(self, subject: str | None) -> bool:
        """Whether no dev-only set has this subject."""
        return not subject or fold(subject).strip() not in self.reserved

    def _dev_only_subjects(self) -> Iterator[str]:
        for name in ("counterfact/counterfact-val.json", "general_qa/rome-known_1000.json"):
            yield from (row["subject"] for row in self.rows(name))
        for name in ("counterfact/counterfact_full_schema_dev.json", "peak/PEAK_counter.json"):
            yield from (row["requested_rewrite"]["subject"] for row in self.rows(name))
        yield from (row["subject_name"] for row in self.rows("eren/counterfact_hard_dev.json"))
        for name in ("mquake_hard_dev", "mquake_stubborn2_dev"):
            for row in self.rows(f"mquake/{name}.json"):
                yield from (hop["subject"] for hop in row["requested_rewrite"])
        for path in sorted((self.folder / "pitfalls").glob("*.json")):
            for row in self.rows(f"pitfalls/{path.name}"):
                if isinstance(row, dict):
                    for fact in (*row.get("triples", ()), *row.get("edits", ()), row.get("edit") or {}):
                        if fact:
                            yield fact["subject"]["label"]
        for path in sorted((self.folder / "canonical").glob("co*-val.jsonl")):
            for row in self.rows(f"canonical/{path.name}"):
                statement = row.get("statement", "")
                yield from re.findall(r"^The (?:CEO|capital) of (.+?) is ", statement)


def zsre(data: Data, part: Part) -> Iterator[Case | None]:
    for row in data.rows("zsre/zsre_mend_train-1k.json", part):
        if part == "dev" or data.free(row["subject"]):
            queries = [Query(row["src"], "own"), Query(row["rephrase"], "paraphrase")]
            queries.append(Query(row["loc"].removeprefix("nq question: "), "general"))
            relation = row["src"].replace(row["subject"], "[X]")
            yield make(
                "zsre",
                queries,
                relation,
                prompt=row["src"],
                target=row["alt"],
                subject=row["subject"],
                old=row["pred"],
            )


def wiki(data: Data, part: Part) -> Iterator[Case | None]:
    for name in ("wiki_counterfact", "wiki_recent"):
        for row in data.rows(f"knowedit/{name}_train.json", part):
            subject, prompt = row["subject"], row["prompt"]
            if part == "train" and not data.free(subject):
                continue
            queries = [Query(prompt, "own")]
            port, local = row.get("portability") or {}, row.get("locality") or {}
            queries += [Query(q["prompt"], "same_subject") for q in local.get("Relation_Specificity", ())]
            queries += [Query(q["prompt"], "ripple") for q in port.get("Reasoning", ())]
            aliased = [q["prompt"] for q in port.get("Subject_Aliasing", ())]
            queries += [Query(q, "alias") for q in aliased]
            aliases = tuple(a for a in (alias(prompt, subject, q) for q in aliased) if a)
            old = row.get("ground_truth")
            edit = {
                "prompt": prompt,
                "target": row["target_new"],
                "subject": subject,
                "subject_aliases": aliases,
            }
            yield make(
                name,
                queries,
                prompt.replace(subject, "[X]"),
                **edit,
                old=old if isinstance(old, str) else None,
            )


def pokemqa(data: Data, part: Part) -> Iterator[Case | None]:
    """Statements with questions. The subject is what statement and questions share; half the edits are told it."""
    for row in data.rows("mquake/pokemqa-cls-filtered.json", part):
        subject = shared(row["edit"], row["questions"])
        if part == "train" and not data.free(subject or guesses(row["edit"])[0]):
            continue
        told = subject if part == "train" and chance(row["edit"]) < 0.5 else None
        queries = [Query(q, "paraphrase") for q in row["questions"]]
        relation = row["questions"][0].replace(subject or "", "[X]")
        case = make("pokemqa", queries, relation, statement=row["edit"], subject=told)
        yield replace(case, about=subject or "") if case else None


def counterfact(data: Data, part: Part) -> Iterator[Case | None]:
    patterns = prompts_of(data)
    for row in data.rows("counterfact/counterfact-train.json", part):
        subject, prompt = row["subject"], row["prompt"]
        if part == "train" and not data.free(subject):
            continue
        cloze = prompt.replace(subject, "[X]")
        relation = patterns.get(cloze, cloze)
        if part == "train" and relation in data.split["held_out_relations"]:
            continue
        queries = [Query(prompt, "own"), Query(row["locality_prompt"], "neighbour")]
        edit = {"prompt": prompt, "target": row["target_new"], "subject": subject, "old": row["ground_truth"]}
        yield make("counterfact", queries, relation, **edit)


def counterfacts(data: Data) -> Iterator[tuple[str, str, str]]:
    """CounterFact's train facts as (subject, ParaRel's id, new object), where the relation is known."""
    patterns = prompts_of(data)
    for row in data.rows("counterfact/counterfact-train.json", "train"):
        relation = patterns.get(row["prompt"].replace(row["subject"], "[X]"), "")
        if relation and relation not in data.split["held_out_relations"] and data.free(row["subject"]):
            yield row["subject"], relation, row["target_new"]


def prompts_of(data: Data) -> dict[str, str]:
    """CounterFact's and ParaRel's cloze forms that end before the object: form -> relation."""
    forms: dict[str, str] = {}
    for row in data.rows("pararel/patterns.jsonl"):
        pattern = row["pattern"].strip().rstrip(". ")
        if pattern.endswith("[Y]"):
            forms.setdefault(pattern.removesuffix("[Y]").strip(), row["relation"])
    return forms


def attack(data: Data, part: Part) -> Iterator[Case | None]:
    """Misinformation edits about everyday things: lower-case subjects, questions and their paraphrases (train only)."""
    for name in ("commonsense_868", "long_tail_100"):
        for row in csv.DictReader(io.StringIO(data.text(f"editing_attack/{name}.csv"))):
            if not data.free(row["subjects"]):
                continue
            queries = [Query(row["questions"], "own"), Query(row["paraphrased_questions"], "paraphrase")]
            half = chance(row["questions"])
            edit: dict[str, Any] = {"statement": row["counterfacts"]}
            if half < 0.6:
                edit |= {"prompt": row["questions"], "target": row["targets"]}
            if half < 0.3:
                edit |= {"subject": row["subjects"]}
            yield make("attack", queries, row["relations"], **edit)


def questions(data: Data, part: Part) -> list[tuple[str, tuple[str, ...]]]:
    """Real users' questions with their answers: Natural Questions, and for training WebQuestions."""
    found = [
        (row["question"], tuple(row["answer"]))
        for row in data.rows("general_qa/nq_open_dev_clean.jsonl", part)
    ]
    if part == "train":
        found += [
            (row["qText"], tuple(row["answers"]))
            for row in data.rows("general_qa/webquestions.json")
            if row["answers"]
        ]
    return found


READERS: dict[str, Callable[[Data, Part], Iterator[Case | None]]] = {
    "zsre": zsre, "wiki": wiki, "pokemqa": pokemqa, "counterfact": counterfact, "attack": attack,
}  # fmt: skip
