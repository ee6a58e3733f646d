"""What callers give a model to read: texts, lists that go together, targets that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memedit.errors import ModelError


class Verbatim(str):
    """A target for `score` that goes on right where its prompt ends: no space is put between, and both are one text.

    Its prompt may be empty: then it begins a text, after BOS, or after EOS where the tokenizer has no BOS.
    """


def batch_rows(batch_size: int | None, prompts: int) -> int:
    """Rows of one forward pass; all where nothing is said.

    Raises:
        ModelError: a batch of no row.
    """
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ModelError(f"batch_size is {batch_size!r}; it must be a whole number of at least 1")
    return batch_size or max(1, prompts)


def same_number(prompts: Sequence[Any], others: Sequence[Any], what: str) -> None:
    """Refuse lists that don't go together.

    Raises:
        ModelError: another number of them than of prompts.
    """
    if len(prompts) != len(others):
        raise ModelError(f"{len(prompts)} prompts and {len(others)} {what}: give one for each prompt")


def are_texts(prompts: Any) -> bool:
    """Whether `generate` was given texts (and not ids, or nothing)."""
    return isinstance(prompts, (str, list, tuple)) and (
        isinstance(prompts, str) or all(isinstance(p, str) for p in prompts)
    )


def as_texts(texts: Sequence[str]) -> list[str]:
    """A list of texts, none of them blank; one text is a list of one.

    Raises:
        TypeError: not texts. ModelError: a blank one.
    """
    if isinstance(texts, str):
        texts = [texts]
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"prompt {i} is {type(text).__name__}, not text")
        if not text.strip():
            which = f"prompt {i + 1} of {len(texts)}" if len(texts) > 1 else "the prompt"
            raise ModelError(f"{which} is empty; write a question or the beginning of a sentence")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ModelError(
                f"prompt {i + 1} of {len(texts)} holds half of a surrogate pair, which is no text; mend its encoding"
            )
    return texts


def scored_texts(prompts: Sequence[str], targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Prompts and the targets that go on after them; only that of a `Verbatim` target may be blank.

    Raises:
        TypeError, ModelError: as `as_texts`; or not as many of the ones as of the others.
    """
    prompts, targets = [prompts] if isinstance(prompts, str) else list(prompts), as_texts(targets)
    same_number(prompts, targets, "targets")
    begins = [
        isinstance(target, Verbatim) and prompt == "" for prompt, target in zip(prompts, targets, strict=True)
    ]
    as_texts([str(target) if begin else p for p, target, begin in zip(prompts, targets, begins, strict=True)])
    return prompts, targets


def too_long(prompt: str, own: int, new: int, limit: int) -> str:
    """The sentence for a prompt that the model can't take."""
    asked = f" and {new} more are asked for" if new else ""
    return (
        f"the prompt {shortened(prompt, 40)!r} has {own} tokens{asked}; the model takes {limit} in all: "
        "shorten the prompt, or ask for fewer new tokens"
    )


def shortened(text: str, length: int) -> str:
    """The beginning of a text, on one line."""
    text = " ".join(text[: 2 * length].split())
    return text if len(text) <= length else text[: length - 1] + "…"
