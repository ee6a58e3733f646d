"""What an edit can't answer though its very words are asked: told by the form of the question. English only.

Two forms, of which wording alone says little: most of the words are those of the fact itself.

- The answer is ruled out: "Ann Dorr's occupation, which is not painter, is" asks for another than the edit's painter.
- The fact is turned round: "Dune is followed by" asks who follows Dune, "Dune follows" whom Dune follows.
"""

from __future__ import annotations

import re

from memedit.edit import Edit
from memedit.subjects import COMMON, find

_NOT = r"(?:is|are|was|were|does|did|has|have|had)(?:\s+not|n['’]t)"
_BUT = r"other\s+than|besides|except(?:ing)?(?:\s+for)?|apart\s+from|aside\s+from|excluding|not\s+counting|not\s+including"
_FORM = re.compile(rf"\b(?:(?:which|who|that)\s+{_NOT}|{_BUT})\s+(?:an?\s+|the\s+)?", re.IGNORECASE)
# "Is it anything other than Lyon?" is answered by the fact that it is Lyon.
_YES_OR_NO = re.compile(
    r"\s*(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might)\b", re.IGNORECASE
)
_PASSIVE = re.compile(r"\b([^\W\d_]{3,})\s+by\b", re.IGNORECASE)
_NEXT = re.compile(r"\s+([^\W\d_]{3,})\b(?!\s+by\b)")
_BEFORE = re.compile(r"\b([^\W\d_]{3,})\s+(?:the\s+)?$")


def _stem(verb: str) -> str:
    """follow, of follows, followed and following."""
    return re.sub(r"(?:ing|ed|es|s|d|e)$", "", verb.casefold())


_NO_VERBS = {_stem(word) for word in COMMON}  # was, for, does: they stand beside a subject whatever is done


def rules_out(query: str, edit: Edit) -> bool:
    """Whether a query asks for another answer than the edit's, in so many words.

    Never of a yes/no question, nor of an edit without a target.
    """
    answers = [answer for answer in (edit.target, *edit.target_aliases) if answer and answer.strip()]
    if not answers or _YES_OR_NO.match(query):
        return False
    after = [query[m.end() :].casefold() for m in _FORM.finditer(query)]
    return any(_begins(rest, answer.strip().casefold()) for rest in after for answer in answers)


def turns_round(query: str, edit: Edit) -> bool:
    """Whether a query has the subject do what the edit says is done to it, or the reverse."""
    asked = edit.prompt or ""
    if " by" not in query and " by" not in asked:
        return False
    own, other = _roles(asked, edit), _roles(query, edit)
    return any(
        len(own[verb] | other[verb]) > 1 and len(own[verb]) == len(other[verb]) == 1
        for verb in own.keys() & other
    )


def _roles(text: str, edit: Edit) -> dict[str, set[str]]:
    """By the stem of a verb whether the subject does it ("does") or it is done to the subject ("is done")."""
    spans = {
        span
        for name in edit.names
        for found in [find(name, text)]
        if found.share == 1
        for span in found.spans
    }
    out: dict[str, set[str]] = {}
    for start, end in spans:
        for verb in _PASSIVE.finditer(text):
            beside = text[verb.end() : start].strip().casefold() in ("", "the")
            if verb.start() >= end:
                out.setdefault(_stem(verb[1]), set()).add("is done")
            elif verb.end() <= start and beside:
                out.setdefault(_stem(verb[1]), set()).add("does")
        for found, role in ((_NEXT.match(text, end), "does"), (_BEFORE.search(text[:start]), "is done")):
            if found:
                out.setdefault(_stem(found[1]), set()).add(role)
    return {verb: roles for verb, roles in out.items() if verb not in _NO_VERBS}


def _begins(text: str, answer: str) -> bool:
    """Whether a text begins with an answer, at a word's end."""
    return text.startswith(answer) and not text[len(answer) : len(answer) + 1].isalnum()
