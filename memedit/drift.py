"""What else changed: perplexity of running text, and answers to questions that no edit is about, of any LM.

Both are read through the interface that base, merged and edited models share, so that the numbers stand beside each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from memedit.errors import DataError
from memedit.loading import PRETRAINED
from memedit.metrics import starts_with

TEXT = PRETRAINED / "text" / "sentences.txt"
QUESTIONS = PRETRAINED / "demonstrations" / "facts.jsonl"
READ, WORDS = 8, 64  # of a passage: words that stand before those that count; words at most
FEWEST = 12  # words of a passage
WORST = 1e9  # a perplexity beyond all measure
OPTIONS: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}


class Answering(Protocol):
    """What is asked of a model: `HFModel` and `EditedModel` both have it."""

    def generate(self, prompts: Any = None, **options: Any) -> Any: ...
    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 32) -> Any: ...


@dataclass(frozen=True, slots=True)
class Drift:
    """How a model does on what no edit is about.

    Attributes:
        perplexity: of passages of running text, after their first eight words. accuracy: share of questions whose greedy
            answer begins with the right one. said: those answers, in order.
    """

    perplexity: float
    accuracy: float
    said: tuple[str, ...] = field(default=(), repr=False)

    def beside(self, base: Drift) -> dict[str, float]:
        """Both models' numbers as a run file has them; "changed" is the share of answers that are not the base's."""
        changed = sum(a != b for a, b in zip(self.said, base.said, strict=True)) / max(1, len(base.said))
        return {
            "perplexity": self.perplexity, "accuracy": self.accuracy, "perplexity_base": base.perplexity,
            "accuracy_base": base.accuracy, "changed": changed,
        }  # fmt: skip


@dataclass(frozen=True)
class Standard:
    """The same passages and questions for every model that is compared.

    Attributes:
        passages: pairs (what is read, what is scored). questions: pairs (prompt, answer). text: where the passages are from.
    """

    passages: tuple[tuple[str, str], ...]
    questions: tuple[tuple[str, str], ...]
    text: str = TEXT.name

    @classmethod
    def of(cls, text: str | None = None, passages: int = 100, questions: int = 100) -> Standard:
        """Evenly from a text (None: the shipped sentences) and from the shipped questions.

        Raises:
            DataError: the text can't be read, or has no line of a dozen words.
        """
        path = Path(text).expanduser() if text else TEXT
        return cls(_passages(path, passages), tuple(_spread(shipped_questions(), questions)), path.name)

    def measure(self, lm: Answering) -> Drift:
        """Both numbers of a model, and what it said."""
        scores = lm.score(
            [read for read, _ in self.passages], [rest for _, rest in self.passages], batch_size=16
        )
        tokens = sum(len(score.agreed) for score in scores)
        loss = -sum(score.logprob for score in scores) / max(1, tokens)
        perplexity = math.exp(loss) if loss < math.log(WORST) else WORST  # also where it is no number
        said = lm.generate([prompt for prompt, _ in self.questions], **OPTIONS) if self.questions else []
        right = [starts_with(text, [answer]) for text, (_, answer) in zip(said, self.questions, strict=True)]
        return Drift(perplexity, sum(right) / max(1, len(right)), tuple(said))

    def __str__(self) -> str:
        return f"{len(self.passages)} passages of {self.text}, {len(self.questions)} shipped questions"


@cache
def shipped_questions() -> tuple[tuple[str, str], ...]:
    """Beginnings of true sentences about the world, and how they end: those that the shipped demonstrations leave alone."""
    found: dict[str, str] = {}
    with QUESTIONS.open(encoding="utf-8") as file:
        for line in file:
            for one in json.loads(line).get("neighbours", ()):
                found.setdefault(one["prompt"], one["answer"])
    return tuple(found.items())


def _passages(path: Path, count: int) -> tuple[tuple[str, str], ...]:
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise DataError(f"the text {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the text {path} is not UTF-8: {error.reason}") from None
    long = [words[:WORDS] for words in lines if len(words) >= FEWEST]
    if not long:
        raise DataError(
            f"the text {path} has no line of {FEWEST} words; give running text, a line for each passage"
        )
    return tuple((" ".join(words[:READ]), " ".join(words[READ:])) for words in _spread(long, count))


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most so many, evenly from first to last."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
