"""The table of the formats that are read, and how a file's format is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from memedit.data import canonical, knowedit, pitfalls
from memedit.data.case import Case
from memedit.data.counterfact import full, short
from memedit.data.dune import dune
from memedit.data.eren import claims, eren
from memedit.data.fields import Record
from memedit.data.files import TABLES
from memedit.data.mquake import mquake
from memedit.data.own import own
from memedit.data.peak import peak
from memedit.data.pokemqa import pokemqa
from memedit.data.questions import attack, hallu, wikibig
from memedit.data.ripple import ripple
from memedit.data.table import row
from memedit.data.taxi import taxi
from memedit.data.unstructured import unke
from memedit.data.zsre import zsre
from memedit.errors import DataError, EditError

Placed = Iterable[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of JSON records, or of a table's rows.

    Attributes:
        signs: sets of fields, any one of which tells the format. case: makes a case of a record.
        gathered: adds to the records of a file what stands elsewhere in it or beside it; given them and the file's name.
        conflicts: whether the edits of a case contradict one another on purpose. rows: whether it is published as a table.
    """

    name: str
    says: str
    signs: tuple[frozenset[str], ...]
    case: Callable[[Record], Case]
    gathered: Callable[[Placed, str], Iterator[tuple[str, Any]]] | None = None
    conflicts: bool = False
    rows: bool = False


def _signs(*texts: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(text.split()) for text in texts)


TABLE = Format(
    "table",
    "a table: CSV, TSV, or JSON with such names as question and answer",
    _signs("question answer", "query answer", "prompt answer", "question target"),
    row,
)
_OWN = Format("memedit", "memedit's own lines", _signs("prompt target", "statement", "prompt kind"), own)
# In the order in which they are tried: what tells more goes first.
FORMATS = (
    Format("canonical", "canonical examples",
           _signs("prefix suffix country", "prefix suffix company", "prefix suffix entity_url",
                  "prefix suffix target", "prefix suffix1 suffix2"), canonical.canonical, canonical.gathered),
    _OWN,
    Format("pitfalls", "ConflictEdit and RoundEdit", _signs("edits type triples", "edit type true_objects"),
           pitfalls.pitfall, pitfalls.gathered, conflicts=True),
    Format("mquake", "MQuAKE, and AKEW's part of it",
           _signs("requested_rewrite questions", "requested_rewrite new_answer"), mquake),
    Format("peak", "PEAK", _signs("requested_rewrite para_add_prompts"), peak),
    Format("counterfact-full", "CounterFact with ROME's fields, and AKEW's CounterFact and WikiUpdate",
           _signs("requested_rewrite neighborhood_prompts", "requested_rewrite"), full),
    Format("wikibigedit", "WikiBigEdit", _signs("update ans rephrase", "update ans subject"), wikibig),
    Format("zsre", "zsRE with MEND's fields", _signs("src alt"), zsre),
    Format("knowedit", "KnowEdit's six parts",
           _signs("prompt target_new subject portability", "prompt target_new subject locality",
                  "text labels concept", "K_F K_R", "ent pos", "ent neg"), knowedit.knowedit, knowedit.gathered),
    Format("counterfact", "CounterFact, zsRE or QAEdit with EasyEdit's fields",
           _signs("prompt target_new subject"), short),
    Format("eren", "EREN's CounterFact-Hard, FEVER and Hotpot", _signs("edit_statement edit_scope"), eren),
    Format("fever", "FEVER with MEND's and KILT's fields", _signs("input output alternatives"), claims),
    Format("ripple-edits", "RippleEdits",
           _signs("edit Logical_Generalization", "edit Subject_Aliasing", "edit example_type"), ripple),
    Format("pokemqa", "PokeMQA's statements and questions", _signs("edit questions"), pokemqa),
    Format("unke", "UnKE", _signs("question answer para_question", "question answer sub_question"), unke),
    Format("hallueditbench", "HalluEditBench",
           _signs("question object subject paraphrased_question", "question object subject locality_question"), hallu,
           rows=True),
    Format("editing-attack", "editing attacks", _signs("counterfacts targets questions"), attack,
           rows=True),
    Format("dune", "DUNE", _signs("dune_edit test_inputs"), dune),
    Format("taxi", "TAXI's evaluation or edits", _signs("taxi_edit rows"), taxi),
    TABLE,
    Format("memedit", "memedit's own lines", _signs("prompt", "edits"), own),
)  # fmt: skip
NAMES = (*dict.fromkeys(f.name for f in FORMATS), *TABLES)
_SHAPES = {
    "dune": "the lists edits and test_inputs",
    "taxi": "the columns edit, subj and entity",
}  # of whole files


def detected(
    found: Iterator[tuple[str, Any]], path: str | Path, table: bool = False
) -> tuple[Format, Iterator[tuple[str, Any]]]:
    """The format of the first record that has one, and the records from the beginning.

    Args:
        table: the records are a table's rows; without a format of their own they are the common one.

    Raises:
        DataError: no record has one, and at least one is an object.
    """
    seen: list[tuple[str, Any]] = []
    objects = []
    for where, record in found:
        seen.append((where, record))
        if isinstance(record, Mapping):
            objects.append((where, record))
            for known in FORMATS:
                if any(sign <= record.keys() for sign in known.signs) and (known.rows or not table):
                    return known, chain(seen, found)
            if table:
                return TABLE, chain(seen, found)
    if table:
        return TABLE, iter(seen)
    if objects:
        where, record = objects[0]
        raise DataError(f"{path} {where}: no known format; {_nearest(record, FORMATS)}")
    return _OWN, iter(seen)  # each of them has its own sentence


def _nearest(record: Record, formats: tuple[Format, ...]) -> str:
    """Which fields were found, and which of the formats they come nearest to."""
    near, sign = max(
        ((f, sign) for f in formats for sign in f.signs),
        key=lambda pair: (len(pair[1] & record.keys()) / len(pair[1]), pair[0].name == "memedit"),
    )
    names = [str(key) for key in record]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    needs = _SHAPES.get(near.name) or " and ".join(sorted(sign))
    return f"found {shown or 'no field'}; nearest is {near.name}, which needs {needs}"


def case_of(known: Format, record: Any, where: str, table: bool) -> Case | DataError:
    """The case of a record, or what is wrong with it.

    Raises:
        DataError: files of this sort hold no edits at all.
    """
    if not isinstance(record, Mapping):
        return DataError(f"{where}: {no_object(record)}")
    signs = [sign for f in FORMATS if f.name == known.name for sign in f.signs]
    if not table and not any(sign <= record.keys() for sign in signs):
        forms = tuple(f for f in FORMATS if f.name == known.name)
        return DataError(f"{where}: no record of the format {known.name}; {_nearest(record, forms)}")
    try:
        case = known.case(record)
    except EditError as error:
        return DataError(f"{where}: {error}")
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        what = f"there is no field {error}" if isinstance(error, KeyError) else str(error)
        return DataError(f"{where}: not as the format {known.name} has it ({what})")
    case = replace(case, queries=tuple(dict.fromkeys(case.queries)))  # some files ask a thing twice
    against = None if known.conflicts or record.get("in_order") is True else _contradicted(case)
    return DataError(f"{where}: {against}") if against else case


def _contradicted(case: Case) -> str | None:
    """What two edits of one case contradict each other about, in a sentence; None where none do."""
    known: dict[str, tuple[int, str | None]] = {}
    for number, edit in enumerate(case.edits, 1):
        for key in about(edit):
            first, target = known.setdefault(key, (number, edit.target))
            if target != edit.target:
                return (
                    f"its edits {first} and {number} contradict each other ({edit.prompt or edit.statement!r}: "
                    f'{target!r}, then {edit.target!r}); take one out, or write "in_order": true if the later is to win'
                )
    return None


def about(edit: Any) -> list[str]:
    """What tells that two edits are of one thing: the prompt (else the statement) first, then the relation."""
    keys = [key for key in edit.keys if not key.startswith("ref\x1f")]
    return keys if edit.prompt else [f"statement\x1f{edit.statement}", *keys]


def no_object(value: Any) -> str:
    """A sentence about a record that is no object."""
    kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )
    return f"an object is expected, this is {kind}"
