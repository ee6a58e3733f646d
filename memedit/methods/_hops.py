"""The steps in which `mello` takes a question apart, and the model whose rows are asked in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from memedit import batches
from memedit.edit import Edit
from memedit.lm import Score, batch_rows
from memedit.methods._rows import AppliedModel, Read, Row, check_rows, rows_applied

if TYPE_CHECKING:
    from torch import Tensor

    from memedit.chat import Conversation
    from memedit.lm import HFModel
    from memedit.methods.mello import MeLLo

_FAR = 1e4  # below what is said; in half precision too


class Hit(Protocol):
    """An edit that a sub-question asks for, and why."""

    @property
    def edit(self) -> Edit:
        """The edit."""
        ...

    @property
    def reason(self) -> str:
        """Why it concerns the sub-question, in words."""
        ...


@dataclass(frozen=True)
class Hop:
    """One step: what was asked, what the model said (None: it was not asked), what the memory has, and what counts."""

    question: str
    said: str | None
    hits: tuple[Hit, ...]
    taken: str

    def __str__(self) -> str:
        facts = " ".join(hit.edit.statement for hit in self.hits) or "nothing"
        said = "" if self.said is None else f"; the model: {self.said}"
        return f"{self.question} -> {self.taken} (memory: {facts}{said})"


@dataclass
class Trace:
    """How one question was taken apart.

    Attributes:
        answer: the final one; None where there is none. why: what ended the plan, where that is so.
        text: what is left of the question, for plans by words; what the model has written so far, for its own.
    """

    question: str
    text: str
    hops: list[Hop] = field(default_factory=list)
    answer: str | None = None
    why: str = ""

    def add(self, hop: Hop, text: str) -> None:
        """One more step, and what is to be gone on from."""
        self.hops.append(hop)
        self.text = text
        if self.erased:
            self.why = "what a hop asks for is withheld"

    @property
    def going(self) -> bool:
        """Whether there is more to be asked."""
        return self.answer is None and not self.why

    @property
    def hits(self) -> list[Hit]:
        """The edits that its hops met, each once."""
        return list({hit.edit.content_hash: hit for hop in self.hops for hit in hop.hits}.values())

    @property
    def settled(self) -> bool:
        """Whether its answer rests on the memory; without, the answer would be the base's own, said in another way."""
        return self.answer is not None and bool(self.hits) and not self.erased

    @property
    def erased(self) -> bool:
        """Whether a hop asks for what is to be withheld."""
        return any(hit.edit.kind == "erase" for hit in self.hits)


@dataclass(frozen=True)
class Answered:
    """What one row reads, the ids that it says (None: what it will), and how it came to them, in words."""

    row: Row
    said: list[int] | None = None
    steps: tuple[str, ...] = ()


class HoppingModel:
    """An LM whose rows with edits are asked hop by hop; what came of it is stated before their prompts, and said.

    Attributes:
        read: what each row has read, and its steps, once it was asked.
    """

    def __init__(
        self,
        base: HFModel,
        method: MeLLo,
        edits_per_row: Sequence[Sequence[Edit]],
        talks: Sequence[Conversation | None] | None,
    ) -> None:
        self.base, self._method = base, method
        self._edits = [list(edits) for edits in edits_per_row]
        self._talks = [None] * len(self._edits) if talks is None else list(talks)
        self.read: list[Read] = [Read() for _ in self._edits]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        batch_size: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """As `HFModel.generate`; prompt i is row i."""
        ready, out = self._hopped(prompts), []
        size = batch_rows(batch_size, len(prompts))
        for start in range(0, len(prompts), size):
            some = slice(start, start + size)
            with self._reading(ready, some) as lm:
                said = self._saying([each.said for each in ready[some]], options)
                out += lm.generate(prompts[some], seed=seed, **said)
        return out

    def generate_ids(self, *, seed: int | None = None, **inputs: Any) -> Any:
        """As `HFModel.generate` with ids; row i of the ids is row i."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        rows = [row if mask is None else row[mask[i].bool()] for i, row in enumerate(ids)]
        ready = self._hopped(self.base.tokenizer.batch_decode(rows, skip_special_tokens=True))
        with self._reading(ready, slice(None)) as lm:
            return lm.generate_ids(seed=seed, **self._saying([each.said for each in ready], inputs))

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 32) -> list[Score]:
        """As `HFModel.score`, by the base, which reads the final answer as a fact; prompt i is row i."""
        with self._reading(self._hopped(prompts), slice(None)) as lm:
            return lm.score(prompts, targets, batch_size=batch_size)

    def _hopped(self, prompts: Sequence[str]) -> list[Answered]:
        """What each row's hops come to; of a conversation the last user turn is taken apart."""
        check_rows(len(prompts), len(self._edits))
        texts = [p if t is None else t.turns[t.last].text for p, t in zip(prompts, self._talks, strict=True)]
        mine = [i for i, edits in enumerate(self._edits) if edits]
        traces = self._method.traced(self.base, [texts[i] for i in mine], [self._edits[i] for i in mine])
        out = [Answered(Row(tail=None if talk is None else talk.tail)) for talk in self._talks]
        for i, trace in zip(mine, traces, strict=True):
            context, answer, steps = self._method.came_to(trace, self._edits[i])
            said = None if answer is None else self.base.target_ids(prompts[i], answer)
            out[i] = Answered(replace(out[i].row, context=tuple(context)), said, steps)
        return out

    @contextmanager
    def _reading(self, ready: Sequence[Answered], some: slice) -> Iterator[AppliedModel]:
        with rows_applied(self.base, [each.row for each in ready[some]]) as lm:
            yield lm
            pairs = zip(lm.read, ready[some], strict=True)
            self.read[some] = [replace(read, steps=each.steps) for read, each in pairs]

    def _saying(self, said: Sequence[list[int] | None], options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a call in which some rows say given ids, and end."""
        if not any(said):
            return dict(options)
        from transformers import LogitsProcessorList

        own = options.get("logits_processor") or ()
        end = batches.setting("eos_token_id", dict(options), self.base.model.generation_config)
        end = self.base.tokenizer.eos_token_id if end is None else end
        end = end[0] if isinstance(end, (list, tuple)) else end
        rows = [None if ids is None else [*ids, *([] if end is None else [int(end)])] for ids in said]
        return {**options, "logits_processor": LogitsProcessorList([*own, _Saying(rows)])}


class _Saying:
    """A logits processor by which some rows of a batch say ids that are given; the others are left alone."""

    def __init__(self, rows: Sequence[list[int] | None]) -> None:
        self._rows, self._width = list(rows), 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._width = self._width or input_ids.shape[1]
        step, repeat = input_ids.shape[1] - self._width, len(input_ids) // len(self._rows)
        scores = scores.clone()
        for row, ids in enumerate(self._rows):
            if ids is not None and step < len(ids):
                beams = slice(row * repeat, (row + 1) * repeat)  # and returned sequences
                scores[beams] = scores[beams].clamp(min=-_FAR) - _FAR
                scores[beams, ids[step]] = 0.0
        return scores
