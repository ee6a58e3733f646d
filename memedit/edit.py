"""`Edit`: one change of knowledge. Knows nothing of memories, models or methods."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from typing import Any, Literal

from memedit.errors import EditError

Kind = Literal["insert", "modify", "erase"]

STATUSES = ("live", "superseded", "forgotten")  # of an edit in a memory; an export may name them

MAX_CHARS = 4_000  # of one text field; a fact is a sentence, not a document
MAX_ALIASES = 64
MAX_EXTRA = 64_000  # of all further keys, as JSON
_ENDS = (".", "!", "?", "。", "！", "？", "…", "।", "؟", ")", '"', "”", "’", "»")
_BIDI = frozenset(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # they show a text in another order than it is read

# What chat templates are made of: <|im_start|>, <|eot_id|>, <s>, </s>, [INST], <<SYS>>, <start_of_turn>, <bos> ...
_TEMPLATE_TOKEN = re.compile(
    r"<[|｜][^|｜<>]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk|mask)>|<\|?endoftext\|?>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>",
    re.IGNORECASE,
)
# The labels that prompt methods put before what they state. Inside a fact they could start another one.
_TEMPLATE_LABEL = re.compile(r"(?:^|[^\w])((?:New )?Fact|Withheld|Prompt)\s*:", re.IGNORECASE)
# Names of speakers are words like others within a line; at the beginning of a new line they start a turn.
_TURN_LABEL = re.compile(r"[\r\n]\s*(System|Assistant|User|Human)\s*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of knowledge: from now on, `prompt` is answered by `target`.

    An edit has a `prompt` and a `target` (or no target, when `kind` is ``"erase"``), or only a
    `statement`, the fact as one sentence. Prompt methods serve both; methods that solve for a
    weight need prompt, target and subject. Texts are cleaned when the edit is made: Unicode NFC,
    white space folded to single spaces.

    Args:
        prompt: what is asked, a cloze ("The capital of France is") or a question.
        target: the new answer.
        subject: the entity that the fact is about; if there is a prompt, the prompt names it.
        old: the answer before the edit, where known.
        statement: the fact as one sentence; made from prompt and target where not given.
        relation: the relation's name or id ("capital", "P36"), where known.
        subject_aliases: other names of the subject; they count as the subject when routing.
        target_aliases: other spellings of the target that count as right when scoring.
        method: the editing method for this edit, or None for the memory's default.
        kind: ``"insert"`` (nothing known before), ``"modify"``, or ``"erase"`` (withhold the answer).
        source: where the fact comes from. author: who added it. tags: free labels.
        valid_from, valid_to: ISO 8601, when the fact holds (half-open); None for always.
        ref: the user's own id; a new edit with a live edit's ref supersedes it.
        extra: unknown keys of an import, kept and exported again.

    Raises:
        EditError: the edit can't be taken; the message says why and what to do.

    Example:
        >>> Edit(prompt="The capital of France is", target="Lyon", subject="France").statement
        'The capital of France is Lyon.'
    """

    prompt: str | None = None
    target: str | None = None
    subject: str | None = None
    old: str | None = None
    statement: str = ""
    relation: str | None = None
    subject_aliases: tuple[str, ...] = ()
    target_aliases: tuple[str, ...] = ()
    method: str | None = None
    kind: Kind = "modify"
    source: str | None = None
    author: str | None = None
    tags: tuple[str, ...] = ()
    valid_from: str | None = None
    valid_to: str | None = None
    ref: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in ("prompt", "target", "subject", "old", "statement", "relation"):
            value = _clean(name, getattr(self, name))
            put(name, (value or "") if name == "statement" else value)
        for name in ("method", "source", "author", "ref"):
            put(name, _clean(name, getattr(self, name), template=False))
        for name in ("subject_aliases", "target_aliases", "tags"):
            put(name, _clean_all(name, getattr(self, name)))
        for name in ("valid_from", "valid_to"):
            put(name, _clean_time(name, getattr(self, name)))
        if not isinstance(self.extra, Mapping):
            raise EditError("extra must be a mapping of further keys")
        put("extra", dict(self.extra))
        self._check_extra()
        self._check()
        if not self.statement:
            put("statement", self._state())
        elif not self.statement.endswith(_ENDS) and self.statement != self._state():
            put("statement", self.statement + ".")

    def _check(self) -> None:
        if self.kind not in ("insert", "modify", "erase"):
            raise EditError(f"kind is {self.kind!r}; it must be insert, modify or erase")
        if self.kind == "erase":
            if not self.prompt:
                raise EditError("erasing needs the prompt whose answer is to be withheld")
            if self.target:
                raise EditError("an erasure has no target; leave the target out, or make it a modify")
        elif self.prompt and not self.target:
            raise EditError("an edit with a prompt needs a target: what should the answer be?")
        elif self.target and not self.prompt:
            raise EditError("an edit with a target needs a prompt: what is it the answer to?")
        elif not self.prompt and not self.statement:
            raise EditError('the fact is empty; give a sentence, such as "The capital of France is Lyon."')
        if not any(c.isalnum() for c in self.prompt or self.statement) or (
            self.target and not _visible(self.target)
        ):
            raise EditError(
                'the fact has no word in it; give a sentence, such as "The capital of France is Lyon."'
            )
        if self.target and self.old and _bare(self.target) == _bare(self.old):
            raise EditError(f"the target {self.target!r} is the old answer: nothing would change")
        if self.subject and self.prompt and _folded(self.subject) not in _folded(self.prompt):
            named = [a for a in self.subject_aliases if _folded(a) in _folded(self.prompt)]
            if not named:
                raise EditError(
                    f"the prompt does not name its subject {self.subject!r}; "
                    "write the subject as it stands in the prompt, or leave it out"
                )
        if self.valid_from and self.valid_to and self.valid_from >= self.valid_to:
            raise EditError("valid_from is not before valid_to: the fact would never hold")

    def _check_extra(self) -> None:
        try:
            size = len(json.dumps(self.extra, allow_nan=False))
            json.dumps(self.extra, ensure_ascii=False).encode()  # half a surrogate pair can't be
        except (TypeError, ValueError, RecursionError) as error:
            raise EditError(
                f"the further keys {', '.join(map(str, self.extra))} can't be kept as JSON: {error}"
            ) from None
        if size > MAX_EXTRA:
            raise EditError(f"the further keys take {size:,} characters; at most {MAX_EXTRA:,} fit")

    def _state(self) -> str:
        if self.kind == "erase":
            return self.prompt or ""
        sentence = f"{self.prompt} {self.target}"
        return sentence if sentence.endswith(_ENDS) else sentence + "."

    @property
    def content_hash(self) -> str:
        """Hex digest of all that decides what the edit does (not of who made it or when).

        Two edits with one content hash are duplicates while both would be live.
        """
        decisive = {
            name: getattr(self, name)
            for name in (
                "prompt", "target", "subject", "statement", "relation", "subject_aliases",
                "target_aliases", "method", "kind", "valid_from", "valid_to",
            )
        }  # fmt: skip
        text = json.dumps(decisive, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def keys(self) -> tuple[str, ...]:
        """What makes another edit about the same thing: ref; subject with prompt; subject with relation.

        A new edit that shares any of these with a live one supersedes it.
        """
        subject = _folded(self.subject or "")
        found = []
        if self.ref:
            found.append(f"ref\x1f{self.ref}")
        if self.prompt:
            found.append(f"prompt\x1f{_folded(self.prompt)}")
        if subject and self.relation:
            found.append(f"relation\x1f{subject}\x1f{_folded(self.relation)}")
        return tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        """The subject and its aliases."""
        return tuple(n for n in (self.subject, *self.subject_aliases) if n)

    def to_dict(self) -> dict[str, Any]:
        """All that is set, as plain JSON types, for `from_dict`.

        The extra keys are merged in at the top level; those that would be taken for something else there
        stand in an object `extra`.
        """
        hidden = [key for key, value in self.extra.items() if self._taken(key, value)]
        if hidden and "extra" in self.extra:
            hidden.append("extra")
        out: dict[str, Any] = {key: value for key, value in self.extra.items() if key not in hidden}
        if hidden:
            out["extra"] = {key: value for key, value in self.extra.items() if key in hidden}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "extra" or value in (None, "", ()):
                continue
            if f.name == "kind" and value == "modify":
                continue
            out[f.name] = list(value) if isinstance(value, tuple) else value
        return out

    def _taken(self, key: str, value: Any) -> bool:
        """Whether a key of `extra` means something else at the top level."""
        return (
            key in {f.name for f in fields(self)} - {"extra"}
            or (key == "extra" and isinstance(value, Mapping))
            or (key == "aliases" and not self.subject_aliases)
            or (key == "status" and value in STATUSES)
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Edit:
        """An edit from one JSON object. `aliases` is read as subject_aliases; unknown keys go to `extra`,
        as do those of an object that is named `extra`.

        Raises:
            EditError: not an object, or a field of the wrong type, or an edit that can't be taken.
        """
        if not isinstance(data, Mapping):
            raise EditError(
                f"an edit is a JSON object with prompt and target, or statement; this is {type(data).__name__}"
            )
        known = {f.name for f in fields(cls)} - {"extra"}
        given: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        nested: Mapping[str, Any] = {}
        for key, value in data.items():
            if key == "aliases" and "subject_aliases" not in data:
                if value is not None:
                    given["subject_aliases"] = value
            elif key in known:
                if value is not None:
                    given[key] = value
            elif key == "extra" and isinstance(value, Mapping):
                nested = value
            else:
                extra[str(key)] = value
        twice = next((key for key in nested if key in extra), None)
        if twice is not None:
            raise EditError(f"the key {twice!r} stands both in `extra` and beside it; keep one")
        return cls(**given, extra={**extra, **nested})

    def updated(self, **changes: Any) -> Edit:
        """A copy with some fields changed; a statement that was made from the prompt is made anew."""
        made = self.prompt is not None and self.statement == self._state()
        if made and "statement" not in changes and {"prompt", "target", "kind"} & changes.keys():
            changes["statement"] = ""
        return replace(self, **changes)


def _bare(text: str) -> str:
    """For comparing answers: compatibility forms, case and outer punctuation don't count."""
    return _folded(unicodedata.normalize("NFKC", text)).strip(" .,;:!?'\"")


def _visible(text: str) -> bool:
    return any(unicodedata.category(c)[0] not in "CZ" for c in text)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _clean(name: str, value: Any, template: bool = True) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise EditError(f"{name} must be text, not {type(value).__name__}")
    if len(value) > MAX_CHARS:
        raise EditError(
            f"{name} has {len(value):,} characters; at most {MAX_CHARS:,} fit: an edit is one fact, not a document"
        )
    folded = " ".join(unicodedata.normalize("NFC", value).split())
    for char in folded:
        if unicodedata.category(char) in ("Cc", "Cs") or char in _BIDI:
            raise EditError(f"{name} contains the control character U+{ord(char):04X}; take it out")
    if template:
        found = _TEMPLATE_TOKEN.search(folded)
        if found:
            raise EditError(
                f"{name} contains {found.group()!r}, which models read as a template's token; take it out"
            )
        label = _TEMPLATE_LABEL.search(folded) or _TURN_LABEL.search(value)
        if label:
            raise EditError(
                f"{name} contains the label {label.group(1)!r} with a colon, "
                "which could pass for another instruction; reword it"
            )
    return folded or None


def _clean_all(name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        values = (values,)
    if not isinstance(values, (list, tuple)):
        raise EditError(f"{name} must be a list of texts, not {type(values).__name__}")
    if len(values) > MAX_ALIASES:
        raise EditError(f"{name} has {len(values)} entries; at most {MAX_ALIASES} fit")
    cleaned = (_clean(name, v) for v in values)
    return tuple(dict.fromkeys(v for v in cleaned if v))


def _clean_time(name: str, value: Any) -> str | None:
    """ISO 8601 in UTC with microseconds, so that text order is time order."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        when = (
            value
            if isinstance(value, datetime)
            else datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        )
    except (ValueError, OverflowError):
        raise EditError(
            f"{name} is {value!r}; write a date such as 2026-11-21 or 2026-11-21T12:00:00Z"
        ) from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    try:
        return when.astimezone(timezone.utc).isoformat(timespec="microseconds")
    except OverflowError:
        raise EditError(f"{name} is {value!r}; times reach from the year 1 to 9999") from None
