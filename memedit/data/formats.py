"""The formats that are read, each by one small function from a record to a `Case`; the table at the end names them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memedit.data.case import Case, Query
from memedit.edit import Edit
from memedit.errors import DataError, EditError

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """A format: the fields by which it is known, and how a record of it becomes a case."""

    name: str
    fields: frozenset[str]
    case: Callable[[Record], Case]


def _memedit(record: Record) -> Case:
    """Our own JSON lines: an edit's fields; `paraphrases` and `locality` are lists of further prompts."""
    if record.get("status") in ("superseded", "forgotten"):
        raise EditError(f"this edit was {record['status']} when it was exported; only live ones are taken")
    paraphrases = record.get("paraphrases") or []
    locality = record.get("locality") or []
    edit = Edit.from_dict({k: v for k, v in record.items() if k != "status"})
    answers = _answers(edit)
    queries = [Query("edit", edit.prompt, answers)] if edit.prompt else []
    queries += [Query("paraphrase", p, answers) for p in paraphrases]
    queries += [Query("locality", p) for p in locality]
    return Case(str(edit.ref or ""), edit, tuple(queries))


def _counterfact_short(record: Record) -> Case:
    """CounterFact as EasyEdit ships it. `rephrase_prompt` is often no paraphrase (it was made from a
    generation prompt): it is kept as a query of its kind, and its score has to be read with that in mind."""
    edit = _counterfact_edit(
        record, record["prompt"], record["subject"], record["target_new"], record.get("ground_truth")
    )
    answers = _answers(edit)
    queries = [Query("edit", record["prompt"], answers)]
    if record.get("rephrase_prompt"):
        queries.append(Query("paraphrase", record["rephrase_prompt"], answers))
    if record.get("locality_prompt"):
        queries.append(
            Query("locality", record["locality_prompt"], (record.get("locality_ground_truth") or "",))
        )
    return Case(str(record.get("case_id", "")), edit, tuple(queries))


def _counterfact_full(record: Record) -> Case:
    """CounterFact with ROME's fields (arXiv 2202.05262)."""
    rewrite = record["requested_rewrite"]
    prompt = rewrite["prompt"].replace("{}", rewrite["subject"])
    old = (rewrite.get("target_true") or {}).get("str")
    edit = _counterfact_edit(record, prompt, rewrite["subject"], rewrite["target_new"]["str"], old)
    answers = _answers(edit)
    queries = [Query("edit", prompt, answers)]
    queries += [Query("paraphrase", p, answers) for p in record.get("paraphrase_prompts", ())]
    queries += [Query("locality", p, (old or "",)) for p in record.get("neighborhood_prompts", ())]
    return Case(str(record.get("case_id", "")), edit, tuple(queries))


def _counterfact_edit(record: Record, prompt: str, subject: str, target: str, old: str | None) -> Edit:
    return Edit(
        prompt=prompt,
        target=target,
        subject=subject,
        old=old,
        ref=f"counterfact-{record['case_id']}" if record.get("case_id") is not None else None,
    )


def _answers(edit: Edit) -> tuple[str, ...]:
    return tuple(a for a in (edit.target, *edit.target_aliases) if a)


FORMATS = (
    Format("counterfact-full", frozenset({"requested_rewrite", "neighborhood_prompts"}), _counterfact_full),
    Format("counterfact", frozenset({"prompt", "target_new", "subject"}), _counterfact_short),
    Format("memedit", frozenset({"prompt"}), _memedit),
    Format("memedit", frozenset({"statement"}), _memedit),
)


def read_cases(path: str | Path, limit: int | None = None) -> list[Case]:
    """All cases of a file; repeats of one (subject, prompt) are left out, since no answer could be right for both.

    Raises:
        DataError: unreadable, of no known format, or a record that can't be taken (named).
    """
    cases: list[Case] = []
    seen = set()
    for where, record in _records(path):
        if limit is not None and len(cases) >= limit:
            break
        if isinstance(record, DataError):
            raise record
        case = _case(record, path, where)
        key = (case.edit.subject, case.edit.prompt or case.edit.statement)
        if key not in seen:
            seen.add(key)
            cases.append(case)
    if not cases:
        raise DataError(f"{path} holds no case")
    return cases


def read_edits(path: str | Path, limit: int | None = None) -> tuple[list[Edit], list[str]]:
    """The edits of a file and, in words, the records that can't be taken (each with its line).

    In a data set, repeats of one (subject, prompt) are left out; in our own format they supersede one another.

    Raises:
        DataError: the file as a whole can't be read.
    """
    edits: list[Edit] = []
    bad: list[str] = []
    seen = set()
    for where, record in _records(path):
        if limit is not None and len(edits) >= limit:
            break
        if isinstance(record, DataError):
            bad.append(str(record))
            continue
        try:
            edit = _case(record, path, where).edit
        except DataError as error:
            bad.append(str(error).removeprefix(f"{path} "))
            continue
        if "target_new" in record or "requested_rewrite" in record:
            if (edit.subject, edit.prompt) in seen:
                continue
            seen.add((edit.subject, edit.prompt))
        edits.append(edit)
    return edits, bad


def read_prompts(path: str | Path, limit: int | None = None) -> list[str]:
    """Prompts of a file of questions: the field `prompt`, `question`, `query` or `qText` of each record.

    Raises:
        DataError: no such field.
    """
    prompts: list[str] = []
    for where, record in _records(path):
        if limit is not None and len(prompts) >= limit:
            break
        if isinstance(record, DataError):
            raise DataError(f"{path} {record}")
        text = next(
            (record[k] for k in ("prompt", "question", "query", "qText") if isinstance(record.get(k), str)),
            None,
        )
        if not text:
            raise DataError(
                f"{path} {where}: no prompt, question or query; it has {', '.join(map(str, record))}"
            )
        prompts.append(text)
    return prompts


def _case(record: Any, path: str | Path, where: str) -> Case:
    if not isinstance(record, Mapping):
        raise DataError(f"{path} {where}: an object is expected, this is {type(record).__name__}")
    for known in FORMATS:
        if known.fields <= record.keys():
            try:
                return known.case(record)
            except EditError as error:
                raise DataError(f"{path} {where}: {error}") from error
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise DataError(
                    f"{path} {where}: not as the format {known.name} has it ({type(error).__name__}: {error})"
                ) from error
    nearest = max(FORMATS, key=lambda f: len(f.fields & record.keys()) / len(f.fields))
    raise DataError(
        f"{path} {where}: no known format; found {', '.join(map(str, record)) or 'no field'}; "
        f"nearest is {nearest.name}, which needs {' and '.join(sorted(nearest.fields))}"
    )


def _records(path: str | Path) -> Iterator[tuple[str, Any]]:
    """(where, record) of a JSON array or of JSON lines; a broken line comes as a DataError in its place."""
    try:
        text = sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from None
    if text.lstrip().startswith("["):
        try:
            records = _loads(text)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
        yield from ((f"record {i}", record) for i, record in enumerate(records, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", _loads(line)
        except ValueError as error:
            yield f"line {number}", DataError(f"line {number}: {error}")


def _loads(text: str) -> Any:
    """JSON, strictly: no key twice in an object, no NaN.

    Raises:
        ValueError: what is wrong, in words.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            twice = next(k for i, (k, _) in enumerate(pairs) if k in dict(pairs[:i]))
            raise ValueError(f"the key {twice!r} stands twice in one object")
        return dict(pairs)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        hint = "; in JSON lines an object stands on one line" if text.strip() in ("{", "}", "[", "]") else ""
        place = f"line {error.lineno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"not JSON ({error.msg} at {place}){hint}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
