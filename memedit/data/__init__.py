"""Readers of the field's public formats.

A reader turns one record into a `Case`: an edit with its labelled queries. `read_cases` finds the
format by the fields of the first record; `read_edits` is what `memedit import` uses.
"""

from memedit.data.case import Case, Query
from memedit.data.demonstration import Demonstration, Demonstrations, read_demonstrations
from memedit.data.formats import (
    FORMATS,
    NAMES,
    Reading,
    read,
    read_cases,
    read_edits,
    read_placed,
    read_prompts,
)

__all__ = [
    "FORMATS",
    "NAMES",
    "Case",
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
]
