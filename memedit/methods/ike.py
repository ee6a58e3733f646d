"""In-context knowledge editing: demonstrations of how a new fact is used, then the fact, then the query.

Reference: Zheng et al., "Can We Edit Factual Knowledge by In-Context Learning?", arXiv 2305.12740. A
demonstration states another new fact and answers one question under it, and is of one of three kinds: *copy*
(the fact's own prompt, answered by its new object), *update* (a paraphrase, answered by its new object) and
*retain* (a question that the fact leaves alone, answered as before). The facts that are nearest to the edit, by
the encoder's cosine, give one demonstration each, in the ratio 1 : 3 : 4, the nearest last.

Needs: a statement; and, handed to it when it is built, a function that finds demonstrations (`EditedModel` hands
it those of the memory, see `memedit demos`). Nothing is prepared or stored, so any causal LM works as it is.

Relations: `ice` states the fact alone, which is what is left of `ike` at k = 0. On models that copy from what they
read last rather than learn from examples (the shipped base is one), `ice` is better; docs/methods.md has the numbers.

Two things differ from the paper's text. The query stands on a line of its own after ``Prompt:``, here and in
every demonstration: its tokens are the caller's own ids, which would not join a space before them as one text does.
And no demonstration names the subject of an edit that it is to serve, or it could tell the answer, old or new.

Example:
    >>> from memedit.edit import Edit
    >>> IKE(k=0).rewrite("Paris is", [Edit(statement="The capital of France is Lyon.")])
    'New Fact: The capital of France is Lyon.\\nPrompt:\\nParis is'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memedit.data.demonstration import Demonstration
from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.methods._splice import Piece
from memedit.methods.base import EditMethod
from memedit.methods.ice import REFUSAL
from memedit.subjects import guesses

MAX_K = 256
KINDS = ("copy", "update", "retain")
_KEPT = 512  # contexts of edits that are asked about again

# (text, k, whether one may be used) -> at most k with their cosines, nearest first
Retrieve = Callable[[str, int, Callable[[Demonstration], bool]], Sequence[tuple[float, Demonstration]]]


@dataclass(frozen=True)
class Settings:
    """The paper's, but for the line break after ``Prompt:``.

    Attributes:
        k: demonstrations in all; several edits share them.
        ratio: of copy, update and retain.
        fact, erasure: how an edit is stated. ask: what stands before a query.
    """

    k: int = 32
    ratio: tuple[float, float, float] = (1, 3, 4)
    fact: str = "New Fact: {statement}\n"
    erasure: str = "Withheld: {prompt}\n"
    ask: str = "Prompt:\n"

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or not 0 <= self.k <= MAX_K:
            raise MethodError(f"ike's k is {self.k!r}; it must be a whole number from 0 to {MAX_K:,}")
        numbers = isinstance(self.ratio, (tuple, list)) and all(
            isinstance(part, (int, float)) and 0 <= part < float("inf") for part in self.ratio
        )
        if not numbers or len(self.ratio) != len(KINDS) or not any(self.ratio):
            raise MethodError(
                f"ike's ratio is {self.ratio!r}; give three numbers, of copy, update and retain, not all of them 0"
            )
        for name, place in (("fact", "statement"), ("erasure", "prompt"), ("ask", "")):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise MethodError(f"ike's {name} is {text!r}; it must be text")
            if f"{{{place}}}" not in text and place:
                raise MethodError(f"ike's {name} template lacks {{{place}}}")
            try:
                text = text.format(**{place: ""}) if place else text
            except (KeyError, IndexError, ValueError) as error:
                raise MethodError(
                    f"ike's {name} template is {text!r}; it takes {{{place}}} alone, and other braces doubled"
                ) from error


class IKE(EditMethod):
    """States demonstrations, far to near, then each edit, then ``Prompt:``.

    Args:
        retrieve: finds demonstrations; without it only k = 0 works.
        settings: fields of `Settings`.
    """

    name = "ike"

    def __init__(self, retrieve: Retrieve | None = None, **settings: object) -> None:
        self.retrieve = retrieve
        self.settings = Settings(**settings)  # type: ignore[arg-type]
        self._known: dict[tuple[str, ...], list[Piece]] = {}

    def context(self, edits: Sequence[Edit]) -> list[Piece]:
        """Demonstrations, farthest first and so the first to go where there is little room; then the edits, oldest first.

        Raises:
            MethodError: demonstrations are wanted, and nothing was handed over to find them with.
        """
        if not edits:
            return []
        key = tuple(edit.content_hash for edit in edits)
        if key not in self._known:
            while len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)), None)
            self._known[key] = self._pieces(edits)
        return self._known[key]

    def _pieces(self, edits: Sequence[Edit]) -> list[Piece]:
        found: dict[str, float] = {}
        for edit, k in zip(edits, _shares(self.settings.k, len(edits)), strict=True):
            for cosine, text in self._demonstrations(edit, k, edits) if k else ():
                found[text] = max(cosine, found.get(text, -2.0))
        pieces = [Piece(text, demonstration=True) for text in sorted(found, key=lambda text: found[text])]
        facts = [self._stated(edit) for edit in edits]
        facts[-1] += self.settings.ask  # with the last fact: it is no use without one
        return [*pieces, *map(Piece, facts)]

    def _stated(self, edit: Edit) -> str:
        if edit.kind == "erase":
            return self.settings.erasure.format(prompt=edit.prompt)
        return self.settings.fact.format(statement=edit.statement)

    def _demonstrations(self, edit: Edit, k: int, edits: Sequence[Edit]) -> list[tuple[float, str]]:
        """(cosine, text) of the k nearest facts, nearest first, each shown in the kind that is due most."""
        if self.retrieve is None:
            raise MethodError(
                "ike has nothing to find demonstrations with: use it through EditedModel, hand it retrieve=..., or set k to 0"
            )
        given = [0.0] * len(KINDS)
        out = []

        def usable(fact: Demonstration) -> bool:
            return self._due(fact, given) is not None and not _tells(fact, edits)

        for cosine, fact in self.retrieve(edit.statement, k, usable):
            kind = self._due(fact, given)
            if kind is not None:
                given[KINDS.index(kind)] += 1
                out.append((cosine, self._shown(fact, kind, erased=edit.kind == "erase")))
        return out

    def _due(self, fact: Demonstration, given: Sequence[float]) -> str | None:
        """Of the kinds that this fact can show, the one that lags most behind the ratio; the later of two that tie."""
        ratio = self.settings.ratio
        can = {"copy": True, "update": bool(fact.paraphrases), "retain": bool(fact.neighbours)}
        lag = {
            kind: (share / sum(ratio) * (sum(given) + 1) - had, place)
            for place, (kind, share, had) in enumerate(zip(KINDS, ratio, given, strict=True))
            if can[kind] and share
        }
        return max(lag, key=lag.__getitem__, default=None)

    def _shown(self, fact: Demonstration, kind: str, erased: bool) -> str:
        """One demonstration; beside an erasure, of an erasure: the refusal stands for the new object."""
        template, new = (self.settings.erasure, REFUSAL) if erased else (self.settings.fact, fact.target)
        query, answer = {
            "copy": (fact.prompt, new),
            "update": (fact.paraphrases[0] if fact.paraphrases else "", new),
            "retain": fact.neighbours[0] if fact.neighbours else ("", ""),
        }[kind]
        stated = template.format(statement=fact.statement, prompt=fact.prompt)
        return f"{stated}{self.settings.ask}{query} {answer}\n\n"


def _shares(k: int, edits: int) -> list[int]:
    """k split evenly; what is left over goes to the newest, which stand last."""
    return [k // edits + (place >= edits - k % edits) for place in range(edits)]


def _tells(fact: Demonstration, edits: Sequence[Edit]) -> bool:
    """Whether a demonstration names what one of the edits is about; where nobody said what, what it may be about."""
    return any(
        fact.names(name) for edit in edits for name in (edit.names or guesses(edit.prompt or edit.statement))
    ) or any(edit.prompt and fact.prompt.casefold() == edit.prompt.casefold() for edit in edits)
