"""Readers of the field's public formats.

A reader turns one record into a `Case`: edits with their labelled queries. `read_set` and `read_cases` find the
format by the fields of the first record; `read_edits` is what `memedit import` uses. docs/data.md lists the formats.
"""

from memedit.data.case import KINDS, Case, Query
from memedit.data.demonstration import Demonstration, Demonstrations, read_demonstrations
from memedit.data.formats import FORMATS, NAMES
from memedit.data.reading import (
    CaseSet,
    Reading,
    read,
    read_cases,
    read_edits,
    read_placed,
    read_prompts,
    read_set,
)

__all__ = [
    "FORMATS",
    "KINDS",
    "NAMES",
    "Case",
    "CaseSet",
    "Demonstration",
    "Demonstrations",
    "Query",
    "Reading",
    "read",
    "read_cases",
    "read_demonstrations",
    "read_edits",
    "read_placed",
    "read_prompts",
    "read_set",
]
