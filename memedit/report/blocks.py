"""What a report is made of, before it is Markdown or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text, smaller lines below, and a tone: "good", "bad", "quiet" or none."""

    text: str
    notes: tuple[str, ...] = ()
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    """A section's title; level 1 is the page's own."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; tone "lead" for the headline, "quiet" for notes."""

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: Sequence[str]
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        head: the columns' names. groups: (title, how many columns) over the head, for data sets side by side; they sum
            to the head's length. left: how many columns from the left are words, set flush left. folded: a page shows
            `title` and opens the table on a click.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    groups: Sequence[tuple[str, int]] = ()
    left: int = 1
    folded: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure by the name of its file (without .png or .svg), with what it shows in words."""

    name: str
    caption: str


Block = Heading | Text | Items | Table | Picture
