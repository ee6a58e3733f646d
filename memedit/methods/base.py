"""`EditMethod`: turns (base model, edits for each row) into a model that knows them, for the length of a `with` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.methods import METHODS, MethodInfo
from memedit.methods._effects import RowPatch
from memedit.methods._rows import Row, rows_applied
from memedit.methods._splice import Piece, joined

if TYPE_CHECKING:
    from memedit.chat import Conversation
    from memedit.lm import HFModel
    from memedit.methods._patch import Patch
    from memedit.methods._together import RowsModel


class EditMethod(ABC):
    """One way to make a model know an edit.

    A prompt method overrides `context`; a weight or activation method is a `PatchMethod` (patched.py),
    which overrides `prepare` and `row_patch`. `applied` is made of these once, here, so that rows of
    different edits and methods share one batch. A method that answers by itself (with another model,
    in several steps) overrides `applied`.

    Example:
        >>> method = load_method("ice")                                        # doctest: +SKIP
        >>> with method.applied(base, [[edit], []]) as model:                  # doctest: +SKIP
        ...     model.generate(["The capital of France is", "Two and two is"])
    """

    name: ClassVar[str]

    @property
    def info(self) -> MethodInfo:
        """The method's line in the table of names."""
        return METHODS[self.name]

    def check(self, edit: Edit) -> None:
        """Refuse an edit that lacks what the method needs.

        Raises:
            MethodError: names the missing field and the flag that gives it.
        """
        missing = [field for field in self.info.needs if not getattr(edit, field)]
        if edit.kind == "erase" and "target" in missing:
            raise MethodError(
                f"method {self.name!r} can't erase: it needs a target; use ice, which withholds the answer"
            )
        if missing:
            flags = " and ".join(f"--{field}" for field in missing)
            raise MethodError(
                f"method {self.name!r} needs the edit's {' and '.join(missing)}: give {flags}, or use --method ice"
            )

    def prepare(self, base: HFModel, edit: Edit) -> Patch | None:
        """The slow part, once per edit and base: what is to be kept, or None where nothing is to be prepared."""
        return None

    @abstractmethod
    def context(self, edits: Sequence[Edit]) -> Sequence[Piece]:
        """What a row reads before its prompt, least important first; nothing for methods that patch modules."""

    def rewrite(self, prompt: str, edits: Sequence[Edit]) -> str:
        """What a row reads in all: the context, then the prompt, untouched."""
        return joined(self.context(edits)) + prompt

    def row_patch(self, base: HFModel, edits: Sequence[Edit]) -> RowPatch | None:
        """What is done to the outputs of named modules, for the row that knows these edits (oldest first)."""
        return None

    def row(self, base: HFModel, edits: Sequence[Edit]) -> Row:
        """All that a row with these edits is given; nothing for a row without. What is missing is prepared now."""
        if not edits:
            return Row()
        for edit in edits:
            self.check(edit)
        return Row(context=tuple(self.context(edits)), patch=self.row_patch(base, edits))

    def at(self, moment: str | datetime | None) -> EditMethod:
        """The method for calls that ask at another time; of concern to those that look the memory up."""
        return self

    def found(self, base: HFModel, questions: Sequence[str]) -> Sequence[Sequence[Any]]:
        """For each question that the router says no edit concerns, what the method needs for it after all, as the router's
        candidates; asked of methods whose line in the table says `asks`.
        """
        return [()] * len(questions)

    @property
    def answers_itself(self) -> bool:
        """Whether its rows are answered otherwise than by the base with a context or patch, and so by it alone."""
        return type(self).applied is not EditMethod.applied

    def rows(
        self,
        base: HFModel,
        edits_per_row: Sequence[Sequence[Edit]],
        talks: Sequence[Conversation | None] | None = None,
    ) -> list[Row]:
        """All that each row is given, before its last user turn where it is a conversation."""
        rows = [self.row(base, edits) for edits in edits_per_row]
        if talks is None:
            return rows
        return [
            row if talk is None else replace(row, tail=talk.tail, after=talk.after)
            for row, talk in zip(rows, talks, strict=True)
        ]

    def applied(
        self,
        base: HFModel,
        edits_per_row: Sequence[Sequence[Edit]],
        talks: Sequence[Conversation | None] | None = None,
    ) -> AbstractContextManager[RowsModel]:
        """A model whose row i knows `edits_per_row[i]`; on leaving, the base is bit-equal and without hooks.

        Args:
            talks: the rows that are conversations, None for the others: the edits are about the last user turn.

        Raises:
            MethodError: an edit that the method can't serve.
        """
        return rows_applied(base, self.rows(base, edits_per_row, talks))

    def __repr__(self) -> str:
        settings: dict[str, Any] = vars(self)
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"
