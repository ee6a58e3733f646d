"""Several models that each answer some rows of a call, as one: what `EditedModel.knowing` gives where methods differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from memedit import batches
from memedit.lm import HFModel, Score
from memedit.methods._rows import Read, check_rows


class RowsModel(Protocol):
    """An LM with a fixed row for each prompt; alive inside the `with` block that made it."""

    base: HFModel

    @property
    def read(self) -> Sequence[Read]:
        """What each row has read, once it was asked."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        *,
        batch_size: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """As `HFModel.generate`; prompt i is row i."""
        ...

    def generate_ids(self, *, seed: int | None = None, **inputs: Any) -> Any:
        """As `HFModel.generate` with ids; row i of the ids is row i."""
        ...

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 32) -> list[Score]:
        """As `HFModel.score`; prompt i is row i."""
        ...


Parts = Sequence[tuple[Sequence[int], RowsModel]]


def together(base: HFModel, parts: Parts) -> RowsModel:
    """One model of several, each with the numbers of its rows; a single one as it is."""
    return parts[0][1] if len(parts) == 1 else Together(base, parts)


class Together:
    """Rows of several models, asked in one call and given back in the caller's order."""

    def __init__(self, base: HFModel, parts: Parts) -> None:
        self.base = base
        self.parts = [(list(rows), lm) for rows, lm in parts]
        self._rows = sum(len(rows) for rows, _ in self.parts)

    @property
    def read(self) -> list[Read]:
        """What each row has read, once it was asked."""
        found = {i: read for rows, lm in self.parts for i, read in zip(rows, lm.read, strict=True)}
        return [found.get(i, Read()) for i in range(self._rows)]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        batch_size: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """As `HFModel.generate`; several sequences of one prompt stay together."""
        check_rows(len(prompts), self._rows)
        out: dict[int, list[str]] = {}
        for rows, lm in self.parts:
            own = batches.numbered(options, rows)
            texts = lm.generate([prompts[i] for i in rows], batch_size=batch_size, seed=seed, **own)
            each = len(texts) // max(1, len(rows))
            out |= {i: texts[n * each : (n + 1) * each] for n, i in enumerate(rows)}
        return [text for i in range(self._rows) for text in out[i]]

    def generate_ids(self, *, seed: int | None = None, **inputs: Any) -> Any:
        """As `HFModel.generate` with ids."""
        ids, options = inputs["input_ids"], {k: v for k, v in inputs.items() if k != "input_ids"}
        check_rows(len(ids), self._rows)
        config = self.base.model.generation_config
        pad = batches.padding(options, config, self.base.tokenizer)
        parts = [
            (rows, lm.generate_ids(seed=seed, **batches.rows_of(ids, options, rows)))
            for rows, lm in self.parts
        ]
        return batches.joined(parts, len(ids), pad, batches.setting("num_beams", options, config) or 1)

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 32) -> list[Score]:
        """As `HFModel.score`."""
        check_rows(len(prompts), self._rows)
        out: dict[int, Score] = {}
        for rows, lm in self.parts:
            scores = lm.score([prompts[i] for i in rows], [targets[i] for i in rows], batch_size=batch_size)
            out |= dict(zip(rows, scores, strict=True))
        return [out[i] for i in range(self._rows)]
