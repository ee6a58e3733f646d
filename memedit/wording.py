"""What the words alone say of a query and an edit: whose names are there, which words are shared."""

from __future__ import annotations

from memedit.edit import Edit
from memedit.pairs import GUESS, PART, WHOLE, Marker, Side
from memedit.subjects import COMMON, MASK, NOWHERE, QUESTION, Found, content, find, guesses, mask, words


def asked_by(edit: Edit) -> str:
    """What the edit is the answer to; where nobody said, the whole statement."""
    return edit.prompt or edit.statement


def names(edit: Edit) -> tuple[str, ...]:
    """The subject and its aliases; where none is given, what the edit's text may be about."""
    return edit.names or guesses(asked_by(edit))


def same_words(a: str, b: str) -> bool:
    return [w.folded for w in words(a)] == [w.folded for w in words(b)]


class Pair:
    """What the words alone say of a query and an edit."""

    def __init__(self, query: str, edit: Edit) -> None:
        self.query, self.edit, self.asked = query, edit, asked_by(edit)
        self.names = names(edit)
        found = [find(name, query) for name in self.names]
        self.best = best = max(
            range(len(found)), key=lambda i: (found[i].share, found[i].length, -i), default=-1
        )
        self.found: Found = found[best] if best >= 0 else NOWHERE
        self.masked_query = mask(query, self.found.spans) if self.found.share else ""
        self.masked_edit = ""  # encoded anew only where another name was found than the stored view masks
        if self.found.share and not edit.names and best > 0:
            self.masked_edit = mask(self.asked, find(self.names[best], self.asked).spans)

    def sides(self, marker: Marker) -> tuple[Side, Side]:
        """As the pair model reads it: the names that were found are marked, else the edit's own."""
        share, told = self.found.share, bool(self.edit.names)
        mark = PART if share < 1 else WHOLE if told else GUESS
        spans = self.found.spans if share == 1 or told else ()
        own = self.names[self.best] if spans else self.names[0] if self.names else None
        if own and told and not find(own, self.edit.statement).share:
            own = next((name for name in self.names if find(name, self.edit.statement).share == 1), own)
        return marker.query(self.query, spans, mark), marker.edit(self.edit, own, not told)

    def _at_end(self) -> bool:
        """Whether the name that was found ends the statement, where the object mostly stands."""
        spans = find(self.names[self.best], self.asked).spans if self.names and self.found.share else ()
        return bool(spans) and not words(self.asked[spans[-1][1] :])

    def row(self) -> dict[str, float]:
        edit, query = self.edit, self.query
        subject = frozenset().union(*(content(name) for name in self.names))
        said, asks = content(self.masked_query or query), content(self.asked) - subject
        said = said - {MASK.casefold()}
        whole_edit = content(edit.statement) | content(self.asked)
        known = whole_edit | subject | content(edit.target or "") | content(edit.old or "")
        there = words(query)
        strangers = sum(w.capital and w.folded not in known for w in there[1:] if w.folded not in COMMON)
        first = there[0].folded if there else ""
        return {
            "share": self.found.share,
            "whole": float(self.found.share == 1),
            "extended": float(self.found.extended),
            "object_like": float(not edit.names and not edit.prompt and self._at_end()),
            "query_words": len(there),
            "edit_words": len(words(self.asked)),
            "name_words": len(content(self.names[0])) if self.names else 0,
            "overlap_query": len(said & whole_edit) / max(len(said), 1),
            "overlap_edit": len(asks & said) / max(len(asks), 1),
            "target_share": find(edit.target, query).share if edit.target else -1.0,
            "strangers": strangers,
            "contains_prompt": float(_within(self.asked, query)),
            "known_subject": float(bool(edit.names)),
            "has_prompt": float(bool(edit.prompt)),
            "is_question": float(query.rstrip().endswith("?") or first in QUESTION),
        }


def _within(part: str, text: str) -> bool:
    inner = " ".join(w.folded for w in words(part))
    return f" {inner} " in f" {' '.join(w.folded for w in words(text))} "
