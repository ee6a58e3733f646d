"""In-context editing: the fact is stated before the query.

Reference: Cohen et al., "Evaluating the Ripple Effects of Knowledge Editing in Language Models",
arXiv 2307.12976, section 5 (the in-context baseline, which states the edited fact before the query).

Needs: a statement; nothing is prepared or stored, so any causal LM works as it is.
Relations: `ike` puts demonstrations before the statement.

Example:
    >>> from memedit.edit import Edit
    >>> ICE().rewrite("Paris is", [Edit(statement="The capital of France is Lyon.")])
    'Fact: The capital of France is Lyon.\\nParis is'
"""

from __future__ import annotations

from collections.abc import Sequence

from memedit.edit import Edit
from memedit.methods._splice import Piece
from memedit.methods.base import EditMethod

REFUSAL = "I don't have that information."


class ICE(EditMethod):
    """States each edit on a line of its own: ``Fact: {statement}``; for an erasure, ``Withheld: {prompt}``."""

    name = "ice"

    def context(self, edits: Sequence[Edit]) -> list[Piece]:
        """One line per edit, oldest first: what is said last weighs most, and the newest edit wins."""
        return [
            Piece(f"Withheld: {edit.prompt}\n" if edit.kind == "erase" else f"Fact: {edit.statement}\n")
            for edit in edits
        ]
